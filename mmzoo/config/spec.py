"""The values that a bench and its runs are decided by, and their hashes."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal

from mmzoo.config.grammar import MethodText, parse_method
from mmzoo.errors import BadValue, short, unknown
from mmzoo.io.schema import FLAG, Kind, is_text, is_whole, or_null, whole
from mmzoo.training.config import Training

#: what a run is in its bench; teacher: it is there only because a method learns from it; floor: no method, but
#: what a linear model reaches
Role = Literal["method", "baseline", "reference", "teacher", "floor"]
#: Bumped when the same spec may give other numbers for a reason that lies in the engine.
ENGINE_VERSION = 1
#: how the epoch of a run is chosen. last: it is the last one, and what would be cut off as holdout is trained on; test: on
#: holdout, and beside it, in a column of its own, on test
SELECTIONS = ("holdout", "last", "test")
#: older names of some
FORMER_SELECTIONS = {"peers": "test"}
#: ways to put trained models under stress
STRESSES = ("missing", "noise")


@dataclass(frozen=True)
class Part:
    """One strategy of a method, with its parameters, and the window of epochs it acts in (None: always)."""

    strategy: str
    params: Mapping[str, Any]
    first: str | None = None
    last: str | None = None

    @property
    def bounds(self) -> tuple[int | float, int | float | None] | None:
        """First and last epoch of the window, shares of the run as floats; None where there is no window."""
        if self.first is None:
            return None
        first, last = (
            b if b is None else int(b[:-1]) / 100 if b.endswith("%") else int(b) for b in (self.first, self.last)
        )
        return first or 0, last


@dataclass(frozen=True)
class Method:
    """A method as resolved by the catalogue.

    Args:
        label: How tables call it, with the settings that were changed: `ogm[alpha=0.3]`.
        name: The same without the settings: `ogm`.
        needs_teachers: Whether it learns from runs of each modality alone.
        fixed: What the user or the recipe has chosen, so that tuning leaves it alone: `I.KEY` of part I, `head.KEY`.
    """

    label: str
    name: str
    parts: tuple[Part, ...]
    head: str
    head_params: Mapping[str, Any]
    each_modality: bool
    versions: Mapping[str, int]
    uses_slice: bool = False
    needs_teachers: bool = False
    fixed: frozenset[str] = frozenset()

    @property
    def identity(self) -> dict[str, Any]:
        """What makes it the same method, whatever it is called."""
        return {
            "parts": [dataclasses.asdict(p) for p in self.parts],
            "head": self.head,
            "head_params": dict(self.head_params),
            "each_modality": self.each_modality,
        }


@dataclass(frozen=True)
class RunSpec:
    """All that decides the numbers of one run. Its hash is the run's id.

    modalities: those that are trained on (None: all). encoders: modality -> (encoder, parameters). spare_slice: leave
    the slice out of training although the method has no use for it, to be compared with one that has.
    """

    dataset: str
    data_params: Mapping[str, Any]
    modalities: tuple[str, ...] | None
    parts: tuple[Part, ...]
    head: str
    head_params: Mapping[str, Any]
    encoders: Mapping[str, tuple[str, Mapping[str, Any]]]
    training: Training
    seed: int
    spare_slice: bool = False
    versions: Mapping[str, int | str] = field(default_factory=dict)
    #: how its settings were chosen: `trials`, `seed`, `study`; None where they were given
    tuning: Mapping[str, Any] | None = None
    #: what makes it a linear floor (mmzoo.evaluation.floors): the `version` of how it is computed; None: a trained run
    floor: Mapping[str, Any] | None = None
    #: "last": scored after the last epoch, and trained on what would be cut off as holdout; else "holdout"
    selection: str = "holdout"

    def as_dict(self) -> dict[str, Any]:
        given = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}  # `plain` copies all of it
        given |= {"parts": [vars(part) for part in self.parts], "training": self.training.as_dict()}
        for name in ("tuning", "floor"):
            if given[name] is None:
                del given[name]
        if self.selection == "holdout":
            del given["selection"]
        return dict(plain({**given, "engine": ENGINE_VERSION}))

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> RunSpec:
        """The spec that `as_dict` gave, of this version of the engine. Raises BadValue for anything else."""
        try:
            given = {k: v for k, v in values.items() if k != "engine"}
            given["parts"] = tuple(Part(**part) for part in given["parts"])
            given["modalities"] = None if given["modalities"] is None else tuple(given["modalities"])
            given["encoders"] = {str(m): (str(name), dict(params)) for m, (name, params) in given["encoders"].items()}
            spec = cls(**{**given, "training": Training(**given["training"])})
        except (TypeError, ValueError, KeyError, AttributeError) as error:
            raise BadValue(f"not the spec of a run ({type(error).__name__}: {error})") from None
        if values.get("engine") != ENGINE_VERSION or spec.as_dict() != values:
            raise BadValue("not the spec of a run of this version")
        return spec

    @cached_property
    def run_id(self) -> str:
        return hashed(self.as_dict())

    @property
    def data_id(self) -> str:
        """The same for all runs on one data set with the same parameters."""
        return digest({"dataset": self.dataset, "params": self.data_params})

    @property
    def config_id(self) -> str:
        """The same for all seeds of one configuration."""
        return hashed({k: v for k, v in self.as_dict().items() if k != "seed"})


def _is_names(value: Any) -> bool:
    return isinstance(value, (list, tuple)) and all(map(is_text, value))


def _is_seeds(value: Any) -> bool:
    return isinstance(value, (list, tuple)) and bool(value) and all(is_whole(v) and v >= 0 for v in value)


_NAME = Kind("a name", is_text, {"type": "string"})
_NAMES = {"type": "array", "items": {"type": "string"}}
_SEEDS = {"type": "array", "items": {"type": "integer", "minimum": 0}, "minItems": 1}
#: what each field of a bench must be, as far as no catalogue is needed to tell
FIELDS: Mapping[str, Kind] = {
    "method": Kind("a method", is_text, {"type": "string"}),
    "epochs": or_null(whole(1)),
    "preset": _NAME,
    "references": FLAG,
    "floor": or_null(FLAG),
    "selection": _NAME,
    "protocol": or_null(_NAME),
    "keep_weights": FLAG,
    "tune": or_null(whole(1)),
    "processes": whole(1),
    **dict.fromkeys(("baselines", "datasets", "heads", "track", "stress"), Kind("a list of names", _is_names, _NAMES)),
    "seeds": Kind("whole numbers from 0", _is_seeds, _SEEDS),
}


def field_fault(name: str, value: Any) -> str | None:
    """What is wrong with one field of a bench: "must be ..., not ..."; None where nothing is."""
    kind = FIELDS.get(name)
    return None if kind is None or kind.fits(value) else f"must be {kind.words}, not {short(value)}"


@dataclass(frozen=True)
class BenchSpec:
    """A bench as asked for; see `mmzoo bench --help` for each field. protocol: an older name of `selection`.

    Raises:
        BadValue: A field has a wrong type or is out of range. Names are checked when the bench is planned.
    """

    method: str
    baselines: tuple[str, ...] = ()
    datasets: tuple[str, ...] = ("mfeat",)
    seeds: tuple[int, ...] = (0, 1, 2)
    epochs: int | None = None
    preset: str = "default"
    settings: tuple[tuple[str, Any], ...] = ()
    references: bool = True
    floor: bool | None = None
    heads: tuple[str, ...] = ()
    overrides: tuple[tuple[tuple[str, Any], ...], ...] = ()
    selection: str = "holdout"
    protocol: str | None = None
    keep_weights: bool = False
    tune: int | None = None
    track: tuple[str, ...] = ()
    processes: int = 1
    stress: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if fault := field_fault(name, value):
                raise BadValue(f"{name} {fault}.")
        object.__setattr__(self, "selection", check_selection(self.protocol or self.selection))
        object.__setattr__(self, "protocol", None)
        if self.selection == "last" and (self.floor or self.tune is not None):
            what = "tuning chooses settings" if self.tune is not None else "a linear baseline chooses its strength"
            raise BadValue(
                f"{what} on the validation set, and --selection last trains on it. Leave one of the two out."
            )
        if self.selection == "last" and any(f".{key}".endswith(".train.choose_from") for key, _ in self.settings):
            raise BadValue(
                "train.choose_from is where validation begins to choose, and --selection last has none. Leave it out."
            )
        check_stresses(self.stress)
        if not self.datasets:
            raise BadValue("no data set was named: mmzoo list datasets.")
        if self.tune is not None and self.processes > 1:
            raise BadValue(
                "tuning under torchrun: trials are trained in one process each. Tune without torchrun (mmzoo tune), and "
                "give what it has chosen with --set."
            )

    @property
    def keeps(self) -> bool:
        """Whether the weights of every run are kept: they were asked for, or are what is put under stress."""
        return self.keep_weights or bool(self.stress)

    @cached_property
    def asked(self) -> tuple[tuple[MethodText, Role], ...]:
        """The method and its baselines, parsed; one that names no head comes once with each of `heads`. Raises BadValue."""
        texts: list[tuple[str, Role]] = [(self.method, "method"), *((b, "baseline") for b in self.baselines)]
        parsed = [(parse_method(text), role) for text, role in texts]
        return tuple((each, role) for method, role in parsed for each in _with_heads(method, self.heads))


def _with_heads(method: MethodText, heads: tuple[str, ...]) -> list[MethodText]:
    """A method with each head; as it is where it names one itself, or there are none."""
    return [method] if method.head or not heads else [method.with_head(head) for head in dict.fromkeys(heads)]


def check_selection(name: str) -> str:
    """One of SELECTIONS, by its present name. Raises UnknownName."""
    if name not in (*SELECTIONS, *FORMER_SELECTIONS):
        raise unknown("selection", name, (*SELECTIONS, *FORMER_SELECTIONS))
    return FORMER_SELECTIONS.get(name, name)


def check_stresses(names: Sequence[str]) -> tuple[str, ...]:
    """Names of STRESSES, each once. Raises UnknownName."""
    for name in names:
        if name not in STRESSES:
            raise unknown("stress", name, STRESSES)
    return tuple(dict.fromkeys(names))


def digest(value: Any) -> str:
    """A short hash of plain data that does not depend on the order of keys."""
    return hashed(plain(value))


def hashed(value: Any) -> str:
    """The same of what `plain` returned."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:16]


_PLAIN = frozenset((str, int, float, bool, type(None)))


def plain(value: Any) -> Any:
    """Nested mappings and sequences as dicts, with texts for keys, and lists: what JSON keeps."""
    if type(value) in _PLAIN:
        return value
    if isinstance(value, Mapping):
        return {str(k): plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(v) for v in value]
    return value
