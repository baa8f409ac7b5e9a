"""Training settings apart from the strategy: optimizer, schedule, batch size. No torch at import."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from mmzoo.errors import BadValue, short, unknown

#: sgd, adam, adamw, and others by their names in torch.optim: those that take a gradient and a weight decay, and no more
OPTIMIZERS = ("sgd", "adam", "adamw", "Adadelta", "Adagrad", "Adamax", "NAdam", "RAdam", "RMSprop")
#: divide each gradient by a running mean of its own size, so that a factor on it that changes slowly cancels
SCALE_INVARIANT = OPTIMIZERS[1:]
#: have a fused step
FUSED = ("sgd", "adam", "adamw", "Adagrad")
PRECISIONS = ("fp32", "bf16")
SCHEDULES = ("constant", "step", "plateau", "cosine")
#: no number of a protocol is larger; what is, is a slip
LARGEST = 10**9
#: what tuning searches of training, for every method alike: lr around the given one, weight_decay within bounds
TUNED = ("lr", "weight_decay")
_WORDS = {"str": "a name", "bool": "true or false", "int": "a whole number", "float": "a number"}


@dataclass(frozen=True)
class Training:
    """The training settings that all runs on one data set of a benchmark share.

    Args:
        optimizer: "sgd", "adam", "adamw", or the name of another optimizer of torch.optim, such as "RMSprop", with torch's
            defaults.
        lr: learning rate before the schedule lowers it.
        momentum: momentum of SGD.
        weight_decay: weight decay of all parameters.
        batch_size: samples per step, over all processes.
        epochs: number of epochs.
        choose_from: share of the epochs after which validation begins to choose one; 0: it chooses among all, 1: the last.
        schedule: "constant"; "step": times `gamma` every `step_size` epochs; "plateau": times `gamma` when the
            validation loss has not fallen for `patience` epochs; "cosine": to zero at the end.
        step_size: epochs between steps.
        gamma: factor of "step" and "plateau".
        patience: epochs that "plateau" waits.
        warmup_epochs: epochs of a linear warm-up, by step.
        clip: bound on the norm of all gradients together; None: no clipping.
        micro_batch: how many samples are encoded at once; None: the whole batch. The mathematics is that of the whole
            batch, batch statistics aside.
        precision: "fp32", or "bf16": encoders run under autocast in training and evaluation. Head, losses and weights
            stay fp32, and so does a forward that a method differentiates twice.
        tf32: allow TF32 in matrix products and convolutions of a CUDA GPU.
        compile: compile the encoders with torch.compile, except in such forwards.
        fused: use the optimizer's fused step.
        processes: number of processes that share a batch; set by torchrun.

    Raises:
        BadValue: a value is out of range, or an option has no effect beside the others.
    """

    optimizer: str = "sgd"
    lr: float = 0.01
    momentum: float = 0.9
    weight_decay: float = 1e-4
    batch_size: int = 64
    epochs: int = 30
    schedule: str = "constant"
    step_size: int = 70
    gamma: float = 0.1
    patience: int = 10
    warmup_epochs: int = 0
    clip: float | None = None
    micro_batch: int | None = None
    precision: str = "fp32"
    tf32: bool = False
    compile: bool = False
    fused: bool = False
    processes: int = 1
    choose_from: float = 0.0

    def __post_init__(self) -> None:
        faults = list(_faults(self))
        if faults:
            raise BadValue("training: " + "; ".join(faults))

    def replace(self, **changes: Any) -> Training:
        """A copy with some values changed.

        Raises:
            UnknownName: there is no such setting.
            BadValue: a value is out of range.
        """
        for key in changes:
            if key not in FIELDS:
                raise unknown("training option", key, FIELDS)
        return dataclasses.replace(self, **{k: _coerced(k, v) for k, v in changes.items()})

    def as_dict(self) -> dict[str, Any]:
        """All settings; those of LEFT_OUT only if they differ from the default, which keeps older run ids valid."""
        given = {k: getattr(self, k) for k in FIELDS}
        return {k: v for k, v in given.items() if k not in LEFT_OUT or v != LEFT_OUT[k]}

    @property
    def first_choice(self) -> int:
        """The first epoch, from 0, that validation may choose."""
        return min(math.floor(self.choose_from * self.epochs), self.epochs - 1)


def bent(training: Training) -> list[str]:
    """The options under which a step is more than forward, backward and update of one batch in full precision."""
    t = training
    asked = {
        "clip": t.clip is not None,
        "micro_batch": t.micro_batch is not None,
        "precision": t.precision != "fp32",
        "compile": t.compile,
        "fused": t.fused,
    }
    return [f"train.{name}" for name, given in asked.items() if given]


def open_epochs(first: int | float, last: int | float | None, n_epochs: int) -> range:
    """The epochs of a window that is inclusive at both ends, counted from 0.

    Args:
        first: first epoch, or a fraction of the run as a float.
        last: last epoch, or a fraction; None: the end.
        n_epochs: length of the run.
    """
    start = math.floor(first * n_epochs) if isinstance(first, float) else first
    if last is None:
        return range(start, n_epochs)
    return range(start, (math.ceil(last * n_epochs) - 1 if isinstance(last, float) else last) + 1)


FIELDS: Mapping[str, str] = {f.name: str(f.type) for f in dataclasses.fields(Training)}

#: how the numbers are computed, and what is usual
ENGINE: Mapping[str, Any] = {"precision": "fp32", "tf32": False, "compile": False, "fused": False, "processes": 1}
#: what a run's spec has only where it is another than this
LEFT_OUT: Mapping[str, Any] = {**ENGINE, "choose_from": 0.0}


#: what means something only with some values of another: name -> that other, and those values
WHEN: Mapping[str, tuple[str, tuple[str, ...]]] = {
    "momentum": ("optimizer", ("sgd",)),
    "step_size": ("schedule", ("step",)),
    "gamma": ("schedule", ("step", "plateau")),
    "patience": ("schedule", ("plateau",)),
}


def idle(name: str, values: Mapping[str, Any]) -> str:
    """Why an option has no effect beside the others; empty if it has one.

    Args:
        name: the option.
        values: the settings; missing ones have their defaults.
    """
    if name not in WHEN:
        return ""
    other, wanted = WHEN[name]
    given = values.get(other, getattr(Training, other))
    return "" if given in wanted else f"it means nothing with train.{other}={given}, only with {' or '.join(wanted)}"


def _coerced(name: str, value: Any) -> Any:
    """A float for an int where a float is wanted; every other mismatch is left for the checks to name."""
    wants_float = "float" in FIELDS[name] and isinstance(value, int) and not isinstance(value, bool)
    return float(value) if wants_float and abs(value) <= LARGEST else value


def _faults(t: Training) -> Any:
    kinds = {"str": str, "bool": bool, "int": int, "float": (int, float)}
    for name, kind in FIELDS.items():
        value = getattr(t, name)
        base, _, optional = kind.partition(" | ")
        if value is None and optional:
            continue
        if isinstance(value, bool) != (base == "bool") or not isinstance(value, kinds[base]):  # type: ignore[arg-type]
            wanted = _WORDS[base] + (" or null" if optional else "")
            yield f"{name} must be {wanted}, not {short(value)}"
            return
        if base not in ("str", "bool") and not abs(value) <= LARGEST:
            yield f"{name} must be a finite number of at most {LARGEST}, not {short(value)}"
            return
    if t.optimizer not in OPTIMIZERS:
        yield f"optimizer must be one of {', '.join(OPTIMIZERS)}, not {short(t.optimizer)}"
    if t.fused and t.optimizer not in FUSED:
        yield f"{t.optimizer} has no fused step: leave out fused, or take one of {', '.join(FUSED)}"
    if t.precision not in PRECISIONS:
        yield f"precision must be one of {', '.join(PRECISIONS)}, not {short(t.precision)}"
    if t.schedule not in SCHEDULES:
        yield f"schedule must be one of {', '.join(SCHEDULES)}, not {short(t.schedule)}"
    for name in ("lr", "batch_size", "epochs", "step_size", "gamma", "clip", "micro_batch", "processes"):
        if (value := getattr(t, name)) is not None and not value > 0:
            yield f"{name} must be positive, not {short(value)}"
    for name in ("momentum", "weight_decay", "patience", "warmup_epochs"):
        if not getattr(t, name) >= 0:
            yield f"{name} must not be negative, not {short(getattr(t, name))}"
    if not 0 <= t.choose_from <= 1:
        yield f"choose_from must be a share of the epochs from 0 to 1, not {short(t.choose_from)}"
