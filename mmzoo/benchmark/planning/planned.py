"""What a plan holds: runs, and methods that cannot run; and the same read back from a results folder. No torch at import."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from mmzoo.benchmark.results.index import reading
from mmzoo.benchmark.results.store import Reader, Store, unusable_plan
from mmzoo.config.spec import BenchSpec, Role, RunSpec
from mmzoo.registry import Entry

_ORDER: dict[Role, int] = {"method": 0, "baseline": 1, "reference": 2, "teacher": 3, "floor": 4}


@dataclass(frozen=True)
class Planned:
    """One run: what decides its numbers, and how tables call it. Only `spec` and `teachers` change a number of its row.

    Args:
        spec: All that decides its numbers.
        dataset: How tables call the data set.
        method: The method without the settings that were changed: `ogm`.
        role: What it is in the bench.
        modality: The one modality that it is trained on, if it is one.
        title: The method with the settings that were changed, `ogm[alpha=0.3]`; empty where there are none.
        teachers: The runs of one modality each that it learns from; they come before it in a plan.
        keep: Whether its weights stay in the store, since another run learns from it or the user asked.
        peers: Whether test is also scored after every epoch, for the column of the test-set selection.
        track: Trackers that follow its epochs, each NAME or NAME:TARGET.
        fixed: What tuning leaves alone, as `Method.fixed` has it, and `train.KEY`.
    """

    spec: RunSpec
    dataset: str
    method: str
    role: Role
    modality: str | None = None
    title: str = ""
    teachers: tuple[Planned, ...] = ()
    keep: bool = False
    peers: bool = False
    track: tuple[str, ...] = ()
    fixed: frozenset[str] = frozenset()

    @property
    def label(self) -> str:
        """How tables call it."""
        title = self.title or self.method
        return f"{title}: {self.modality}" if self.modality else title

    def as_dict(self) -> dict[str, Any]:
        """All of it as plain data; of its teachers the run ids."""
        return {
            "spec": self.spec.as_dict(),
            "dataset": self.dataset,
            "method": self.method,
            "role": self.role,
            "modality": self.modality,
            **({"title": self.title} if self.title else {}),
            "teachers": [t.spec.run_id for t in self.teachers],
            "keep": self.keep,
            "peers": self.peers,
            "track": list(self.track),
        }


def planned_runs(store: Store, run_ids: Iterable[str]) -> tuple[Planned, ...]:
    """Runs as their folders have them. Raises CorruptFile for a folder that lacks one of its own."""
    known: dict[str, Planned] = {}
    return tuple(_read(store, run_id, known, ()) for run_id in run_ids)


def _read(store: Store, run_id: str, known: dict[str, Planned], above: tuple[str, ...]) -> Planned:
    """A run, and before it the runs that it learns from. above: those that learn from it."""
    if run_id in known:
        return known[run_id]
    if run_id in above:
        raise unusable_plan(store, run_id, "it learns from itself")
    noted = store.planned(run_id)
    known[run_id] = Planned(
        RunSpec.from_dict(noted["spec"]),
        noted["dataset"],
        noted["method"],
        noted["role"],
        noted["modality"],
        title=noted.get("title", ""),
        teachers=tuple(_read(store, teacher, known, (*above, run_id)) for teacher in noted["teachers"]),
        keep=noted["keep"],
        peers=noted["peers"],
        track=tuple(noted["track"]),
    )
    return known[run_id]


@dataclass(frozen=True)
class Refused:
    """A method that cannot work on a data set, and why."""

    dataset: str
    method: str
    role: Role
    reason: str


@dataclass(frozen=True)
class Plan:
    """The runs of a bench, each once, and what it cannot run."""

    runs: tuple[Planned, ...]
    refused: tuple[Refused, ...]
    bench: BenchSpec
    #: data set -> its entry, whose extras say how the defaults of a user's own data were chosen
    entries: Mapping[str, Entry] = field(default_factory=dict)

    def methods(self) -> dict[str, Role]:
        """label -> role, in the order of the tables."""
        found: dict[str, Role] = {}
        for run in self.runs:
            found.setdefault(run.label, run.role)
        for refused in self.refused:
            found.setdefault(refused.method, refused.role)
        return dict(sorted(found.items(), key=lambda kv: _ORDER[kv[1]]))

    def datasets(self) -> list[str]:
        """The data sets in the order in which they were named."""
        return list(dict.fromkeys([*(p.dataset for p in self.runs), *(r.dataset for r in self.refused)]))

    def asked(self) -> dict[str, Any]:
        """Order of methods and data sets, roles, and what was refused, as the tables want them."""
        return {
            "methods": self.methods(),
            "datasets": self.datasets(),
            "refused": [vars(r) for r in self.refused],
        }

    def rows(self, store: Store, read: Reader | None = None) -> list[dict[str, Any]]:
        """The rows that are there, under the names that this plan has for them. read: what gives a row, `store.row` by default."""
        named = [((read or store.row)(p.spec.run_id), p) for p in self.runs]
        return [{**row, "label": p.label, "dataset": p.dataset} for row, p in named if row is not None]


def to_do(plan: Plan, store: Store) -> list[Planned]:
    """The runs that the store does not have yet, teachers whose weights are wanted and gone among them."""
    ids = {p.spec.run_id: p for p in plan.runs}
    keeps = plan.bench.keeps
    with reading(store, "scores") as read:
        missing = {
            run_id
            for run_id, p in ids.items()
            if store.finished(run_id, weights=keeps, peers=p.peers, read=read) is None
        }
    teachers = {t.spec.run_id for run_id in missing for t in ids[run_id].teachers}
    missing |= {run_id for run_id in teachers if store.finished(run_id, weights=True) is None}
    return [p for run_id, p in ids.items() if run_id in missing]
