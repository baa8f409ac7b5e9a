"""The values that a bench and its runs are decided by, and their hashes."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from mmzoo.errors import BadValue, unknown
from mmzoo.training.config import Training

#: Bumped when the same spec may give other numbers for a reason that lies in the engine.
ENGINE_VERSION = 1
#: how the epoch of a run is chosen; peers: on holdout, and beside it, in a column of its own, on test
PROTOCOLS = ("holdout", "peers")


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
    """A method as resolved by the catalogue. label: how tables call it, overrides included. needs_teachers: whether it
    learns from runs of each modality alone."""

    label: str
    parts: tuple[Part, ...]
    head: str
    head_params: Mapping[str, Any]
    each_modality: bool
    versions: Mapping[str, int]
    uses_slice: bool = False
    needs_teachers: bool = False
    #: what the user or the recipe has chosen, so that tuning leaves it alone: `I.KEY` of part I, `head.KEY`
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

    def as_dict(self) -> dict[str, Any]:
        given = {**dataclasses.asdict(self), "training": self.training.as_dict()}
        for name in ("tuning", "floor"):
            if given[name] is None:
                del given[name]
        return plain({**given, "engine": ENGINE_VERSION})

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

    @property
    def run_id(self) -> str:
        return digest(self.as_dict())

    @property
    def data_id(self) -> str:
        """The same for all runs on one data set with the same parameters."""
        return digest({"dataset": self.dataset, "params": self.data_params})

    @property
    def config_id(self) -> str:
        """The same for all seeds of one configuration."""
        return digest({k: v for k, v in self.as_dict().items() if k != "seed"})


@dataclass(frozen=True)
class BenchSpec:
    """A bench as asked for; see `mmzoo bench --help` for each field."""

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
    protocol: str = "holdout"
    keep_weights: bool = False
    tune: int | None = None
    track: tuple[str, ...] = ()
    processes: int = 1


def check_protocol(name: str) -> str:
    """One of PROTOCOLS. Raises UnknownName."""
    if name not in PROTOCOLS:
        raise unknown("protocol", name, PROTOCOLS)
    return name


def digest(value: Any) -> str:
    """A short hash of plain data that does not depend on the order of keys."""
    return hashlib.sha256(json.dumps(plain(value), sort_keys=True).encode()).hexdigest()[:16]


def plain(value: Any) -> Any:
    """Nested mappings and sequences as dicts, with texts for keys, and lists: what JSON keeps."""
    if isinstance(value, Mapping):
        return {str(k): plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(v) for v in value]
    return value
