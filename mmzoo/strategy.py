"""What a training strategy is: one plain object whose hooks take values and return values."""

from __future__ import annotations

import copy
import difflib
import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from torch import Tensor, nn

from mmzoo.errors import BadValue, Incompatible
from mmzoo.training import open_epochs

if TYPE_CHECKING:
    from mmzoo.gradients import Grads
    from mmzoo.run import Run
    from mmzoo.types import Outputs, Pass, Step

Terms = Mapping[str, Tensor]

#: The hooks and the arguments they are called with, in the order of a training pass.
HOOKS: Mapping[str, tuple[str, ...]] = {
    "setup": ("run",),
    "param_groups": ("groups",),
    "epoch_start": ("run",),
    "epoch_end": ("run", "metrics"),
    "window_end": ("run",),
    "plan": ("step", "passes"),
    "features": ("step", "feats"),
    "outputs": ("step", "out"),
    "losses": ("step", "out", "terms"),
    "backward": ("step", "terms"),
    "gradients": ("step", "out", "grads"),
    "updated": ("step", "out", "terms"),
    "predict": ("out",),
}
OWNABLE = frozenset({"task", "backward", "predict", "data"})
REQUIREMENTS = frozenset({
    "unimodal", "additive", "evidence", "slice", "staged", "mean_gates", "double_backward", "plain_steps", "index",
    "equal_dims", "teachers",
})  # fmt: skip


@dataclass(frozen=True)
class Group:
    """One named parameter group before the optimizer exists: `lr_scale` multiplies the scheduled rate."""

    params: Sequence[nn.Parameter]
    lr_scale: float = 1.0
    weight_decay: float = 0.0


class Strategy:
    """Base of all strategies. Every hook returns its input unless overridden.

    Parameters are keyword-only arguments of `__init__`, kept as attributes of the same name. What is remembered
    from step to step is named in `state`. State changes only in setup, epoch_start, epoch_end, gradients and
    updated; `features`, `outputs` and `losses` may be called again by a probe or a fork.
    """

    #: what the method needs: any of REQUIREMENTS. double_backward: a training step is differentiated twice, so that its
    #: attention is that of mmzoo.autodiff.double_backward and no encoder is compiled; what is differentiated twice
    #: apart from the steps needs no mark. plain_steps: it follows the steps, and `bent` of mmzoo.training is refused.
    requires: ClassVar[frozenset[str]] = frozenset()
    min_modalities: ClassVar[int] = 1
    max_modalities: ClassVar[int | None] = None
    #: what the method replaces rather than adds to: any of OWNABLE. Two owners of one thing cannot be chained.
    owns: ClassVar[frozenset[str]] = frozenset()
    #: whether it is the whole of a method: neither chained with another nor put in a window
    solo: ClassVar[bool] = False
    #: why several processes cannot train under it together, in words that end a sentence; empty where they can
    single_process: ClassVar[str] = ""
    #: parameter values at which it equals plain training ("exact": bit for bit; "close": up to rounding), or None
    neutral: ClassVar[Mapping[str, Any] | None] = None
    neutral_how: ClassVar[str] = "exact"
    #: whole-model forwards and backwards a batch, on top of nothing (plain training: 1 and 1); what is done once an
    #: epoch instead goes under "forward_epoch" and "backward_epoch", and how often an epoch the whole slice is gone
    #: through under "slice", how often in the whole run beside that under "slice_run". Methods that compare sets of
    #: modalities (Run.coalitions) count one set in "forward" and "backward", which is all of them with most heads;
    #: "forward_coalition" and "backward_coalition" are what each of the other 2^M - 3 sets takes where the head acts
    #: between the stages of the encoders.
    cost: ClassVar[Mapping[str, float]] = {"forward": 1, "backward": 1}
    #: the attributes that make up the state: tensors, numbers, strings and containers of them
    state: ClassVar[tuple[str, ...]] = ()
    #: whether it draws random numbers for positions in a batch or among the parameters, so that reordering
    #: modalities or items gives another, equally valid result
    stochastic: ClassVar[bool] = False
    #: contract check -> why it cannot hold, by design of the method. Such a check runs all the same, and one that
    #: passes is a failure (mmzoo.testing).
    expected_failures: ClassVar[Mapping[str, str]] = {}

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        for name, member in vars(cls).items():
            if not name.startswith("_") and inspect.isfunction(member):
                _check_hook(cls, name, member)
        for claim, known in (("requires", REQUIREMENTS), ("owns", OWNABLE)):
            if extra := set(getattr(cls, claim)) - known:
                raise TypeError(f"{cls.__name__}.{claim} has {sorted(extra)}; known are {sorted(known)}.")

    # 1-4: once, and around an epoch
    def setup(self, run: Run) -> None:
        """Once, before the optimizer exists. May add modules and ask for teachers; must not train the given model.

        On resume it is called with the state already loaded, so a method whose parameters grow adds them here.
        """

    def param_groups(self, groups: Mapping[str, Group]) -> Mapping[str, Group]:
        """Once. May change learning-rate scale and weight decay by named group; must not drop a group."""
        return groups

    def epoch_start(self, run: Run) -> None:
        """Before each epoch. May change own state and call run.edit, set_sampling, set_lr_scale, add_module."""

    def epoch_end(self, run: Run, metrics: Mapping[str, Any]) -> None:
        """After each epoch, with the metrics on the strategy's own slice (empty unless `slice` is required), that of all
        processes."""

    def window_end(self, run: Run) -> None:
        """After `epoch_end` of the last epoch of a Window: take back what would outlast it (run.set_lr_scale)."""

    # 5-11: in each pass
    def plan(self, step: Step, passes: Sequence[Pass]) -> Sequence[Pass]:
        """Each batch: split, restrict or flag the passes."""
        return passes

    def features(self, step: Step, feats: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """After the encoders: drop or mix features (never in place), set `step.keep`."""
        return feats

    def outputs(self, step: Step, out: Outputs) -> Outputs:
        """After the head: replace logits and unimodal, both, or later parts of a chain never see it."""
        return out

    def losses(self, step: Step, out: Outputs, terms: Terms) -> Terms:
        """Add terms named `<strategy>/<what>`; scale or replace only what is owned."""
        return terms

    def backward(self, step: Step, terms: Terms) -> None:
        """How gradients are made (owner of `backward` only). Default: of the sum of all terms."""
        step.run.backward(sum(terms.values()))  # type: ignore[arg-type]

    def gradients(self, step: Step, out: Outputs, grads: Grads) -> None:
        """After backward and the reduction over processes, before clipping: change `.grad` through Grads."""

    def updated(self, step: Step, out: Outputs, terms: Terms) -> None:
        """After the optimizer step: change own state."""

    # 12: evaluation only
    def predict(self, out: Outputs) -> Outputs:
        """The decision rule (owner of `predict` only): the outputs with another `ranking`."""
        return out

    def state_dict(self) -> dict[str, Any]:
        return {name: copy.deepcopy(getattr(self, name)) for name in self.state}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Raises BadValue when the keys are not those of `state_dict`."""
        if set(state) != set(self.state):
            raise BadValue(f"state of {type(self).__name__} has {sorted(state)}; expected {sorted(self.state)}.")
        for name, value in state.items():
            setattr(self, name, copy.deepcopy(value))

    def params(self) -> dict[str, Any]:
        """The parameters as given (or defaulted) at construction."""
        init: Any = type(self).__init__
        names = () if init is object.__init__ else inspect.signature(init).parameters
        return {name: getattr(self, name) for name in names if name != "self"}

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(f'{k}={v!r}' for k, v in self.params().items())})"


_OWN_METHODS = {"state_dict", "load_state_dict", "params"}
_PREFIXES = ("on_", "before_", "after_", "compute_", "get_")


def _check_hook(cls: type, name: str, member: Any) -> None:
    """Refuse a misspelt hook, or a hook with other arguments, when the class is made."""
    if name in HOOKS:
        given = tuple(inspect.signature(member).parameters)[1:]
        if given != HOOKS[name]:
            raise TypeError(
                f"{cls.__name__}.{name}({', '.join(given)}): the hook is called as {name}({', '.join(HOOKS[name])})."
            )
        return
    if name in _OWN_METHODS:
        return
    bare = name
    for prefix in _PREFIXES:
        bare = bare.removeprefix(prefix)
    synonyms = {"epoch_begin": "epoch_start", "loss": "losses", "grad": "gradients", "grads": "gradients"}
    close = [synonyms[bare]] if bare in synonyms else difflib.get_close_matches(bare, list(HOOKS), 1, cutoff=0.75)
    if close:
        raise TypeError(
            f"{cls.__name__}.{name} is not a hook and would never be called. Did you mean {close[0]!r}? "
            "Give a helper that only looks like a hook a leading underscore."
        )


class Wrapper(Strategy):
    """A strategy around another one: hands every hook on. Base of Window."""

    def __init__(self, inner: Strategy) -> None:
        self.inner = inner
        for claim in (
            "requires", "owns", "min_modalities", "max_modalities", "solo", "cost", "stochastic",
            "single_process", "expected_failures",
        ):  # fmt: skip
            setattr(self, claim, getattr(inner, claim))

    def setup(self, run: Run) -> None:
        self.inner.setup(run)

    def param_groups(self, groups: Mapping[str, Group]) -> Mapping[str, Group]:
        return self.inner.param_groups(groups)

    def epoch_start(self, run: Run) -> None:
        self.inner.epoch_start(run)

    def epoch_end(self, run: Run, metrics: Mapping[str, Any]) -> None:
        self.inner.epoch_end(run, metrics)

    def window_end(self, run: Run) -> None:
        self.inner.window_end(run)

    def plan(self, step: Step, passes: Sequence[Pass]) -> Sequence[Pass]:
        return self.inner.plan(step, passes)

    def features(self, step: Step, feats: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        return self.inner.features(step, feats)

    def outputs(self, step: Step, out: Outputs) -> Outputs:
        return self.inner.outputs(step, out)

    def losses(self, step: Step, out: Outputs, terms: Terms) -> Terms:
        return self.inner.losses(step, out, terms)

    def backward(self, step: Step, terms: Terms) -> None:
        self.inner.backward(step, terms)

    def gradients(self, step: Step, out: Outputs, grads: Grads) -> None:
        self.inner.gradients(step, out, grads)

    def updated(self, step: Step, out: Outputs, terms: Terms) -> None:
        self.inner.updated(step, out, terms)

    def predict(self, out: Outputs) -> Outputs:
        return self.inner.predict(out)

    def state_dict(self) -> dict[str, Any]:
        return {"inner": self.inner.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.inner.load_state_dict(state["inner"])


class Window(Wrapper):
    """`inner` in epochs `first` to `last` only, both inclusive, counted from 0.

    A float in [0, 1] is a share of the run: Window(s, 0.0, 0.5) is the first half. Outside the window every hook
    returns its input, and `window_end` has taken back what would last; `setup`, `param_groups`, `predict` and the
    state belong to the whole run.
    """

    def __init__(self, inner: Strategy, first: int | float = 0, last: int | float | None = None) -> None:
        super().__init__(inner)
        if inner.solo:
            raise Incompatible(f"{type(inner).__name__} is the whole of a method: it has no window.")
        if last is not None and type(first) is type(last) and last < first:
            raise BadValue(f"a window must not end before it starts: {first}-{last}.")
        self.first, self.last = first, last

    def _open(self, run: Run, later: int = 0) -> bool:
        return run.epoch + later in open_epochs(self.first, self.last, run.n_epochs)

    def epoch_start(self, run: Run) -> None:
        if self._open(run):
            self.inner.epoch_start(run)

    def epoch_end(self, run: Run, metrics: Mapping[str, Any]) -> None:
        if self._open(run):
            before = run.stopped
            self.inner.epoch_end(run, metrics)
            if self.last is not None and not before and run.epoch + 1 < run.n_epochs:
                run.stopped = False  # a part that is done with its window is not the end of the run
            if self.last is not None and not self._open(run, later=1):
                self.inner.window_end(run)

    def window_end(self, run: Run) -> None:
        if self._open(run):
            self.inner.window_end(run)

    def plan(self, step: Step, passes: Sequence[Pass]) -> Sequence[Pass]:
        return self.inner.plan(step, passes) if self._open(step.run) else passes

    def features(self, step: Step, feats: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        return self.inner.features(step, feats) if self._open(step.run) else feats

    def outputs(self, step: Step, out: Outputs) -> Outputs:
        return self.inner.outputs(step, out) if self._open(step.run) else out

    def losses(self, step: Step, out: Outputs, terms: Terms) -> Terms:
        return self.inner.losses(step, out, terms) if self._open(step.run) else terms

    def backward(self, step: Step, terms: Terms) -> None:
        (self.inner if self._open(step.run) else _PLAIN).backward(step, terms)

    def gradients(self, step: Step, out: Outputs, grads: Grads) -> None:
        if self._open(step.run):
            self.inner.gradients(step, out, grads)

    def updated(self, step: Step, out: Outputs, terms: Terms) -> None:
        if self._open(step.run):
            self.inner.updated(step, out, terms)


class Chain(Strategy):
    """Several strategies as one: each hook's result is handed to the next, in the order given.

    Raises Incompatible when two of them own the same thing, and when one of them stands alone (`solo`).
    """

    def __init__(self, *parts: Strategy) -> None:
        self.parts: tuple[Strategy, ...] = tuple(
            p for part in parts for p in (part.parts if isinstance(part, Chain) else (part,))
        )
        check_owners([(type(p.inner if isinstance(p, Wrapper) else p).__name__, p.owns) for p in self.parts])
        for part in self.parts:
            if part.solo and len(self.parts) > 1:
                raise Incompatible(
                    f"{type(part).__name__} is the whole of a method and cannot be combined with another."
                )
        limits = [p.max_modalities for p in self.parts if p.max_modalities is not None]
        attributes = {
            "requires": frozenset().union(*(p.requires for p in self.parts)),
            "owns": frozenset().union(*(p.owns for p in self.parts)),
            "solo": any(p.solo for p in self.parts),
            "min_modalities": max((p.min_modalities for p in self.parts), default=1),
            "max_modalities": min(limits) if limits else None,
            "cost": _chained_cost(self.parts),
            "stochastic": any(p.stochastic for p in self.parts),
            "single_process": next((p.single_process for p in self.parts if p.single_process), ""),
            "expected_failures": {k: v for p in self.parts for k, v in p.expected_failures.items()},
        }
        for name, value in attributes.items():
            setattr(self, name, value)

    def setup(self, run: Run) -> None:
        for part in self.parts:
            part.setup(run)

    def param_groups(self, groups: Mapping[str, Group]) -> Mapping[str, Group]:
        for part in self.parts:
            groups = part.param_groups(groups)
        return groups

    def epoch_start(self, run: Run) -> None:
        for part in self.parts:
            part.epoch_start(run)

    def epoch_end(self, run: Run, metrics: Mapping[str, Any]) -> None:
        for part in self.parts:
            part.epoch_end(run, metrics)

    def window_end(self, run: Run) -> None:
        for part in self.parts:
            part.window_end(run)

    def plan(self, step: Step, passes: Sequence[Pass]) -> Sequence[Pass]:
        for part in self.parts:
            passes = part.plan(step, passes)
        return passes

    def features(self, step: Step, feats: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        for part in self.parts:
            feats = part.features(step, feats)
        return feats

    def outputs(self, step: Step, out: Outputs) -> Outputs:
        for part in self.parts:
            out = part.outputs(step, out)
        return out

    def losses(self, step: Step, out: Outputs, terms: Terms) -> Terms:
        for part in self.parts:
            terms = part.losses(step, out, terms)
        return terms

    def backward(self, step: Step, terms: Terms) -> None:
        next((p for p in self.parts if "backward" in p.owns), _PLAIN).backward(step, terms)

    def gradients(self, step: Step, out: Outputs, grads: Grads) -> None:
        for part in self.parts:
            part.gradients(step, out, grads)

    def updated(self, step: Step, out: Outputs, terms: Terms) -> None:
        for part in self.parts:
            part.updated(step, out, terms)

    def predict(self, out: Outputs) -> Outputs:
        for part in self.parts:
            out = part.predict(out)
        return out

    def state_dict(self) -> dict[str, Any]:
        return {str(i): part.state_dict() for i, part in enumerate(self.parts)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        if set(state) != {str(i) for i in range(len(self.parts))}:
            raise BadValue(f"state of a chain of {len(self.parts)} has parts {sorted(state)}.")
        for i, part in enumerate(self.parts):
            part.load_state_dict(state[str(i)])

    def __repr__(self) -> str:
        return f"Chain({', '.join(map(repr, self.parts))})"


def _chained_cost(parts: Sequence[Strategy]) -> dict[str, float]:
    """What the parts cost together: the one forward and backward of training is shared."""
    cost: dict[str, float] = {k: 1 + sum(p.cost[k] - 1 for p in parts) for k in ("forward", "backward")}
    for k in ("forward_epoch", "backward_epoch", "slice", "slice_run", "forward_coalition", "backward_coalition"):
        if extra := sum(p.cost.get(k, 0) for p in parts):
            cost[k] = extra
    return cost


def check_owners(parts: Sequence[tuple[str, frozenset[str]]]) -> None:
    """Raise Incompatible when two named parts own the same thing."""
    for i, (name, owns) in enumerate(parts):
        for other, others in parts[:i]:
            if both := sorted(owns & others):
                raise Incompatible(
                    f"{other} and {name} cannot be combined: both replace {' and '.join(map(repr, both))}."
                )


_PLAIN = Strategy()
