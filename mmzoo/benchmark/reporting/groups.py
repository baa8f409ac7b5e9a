"""Rows by configuration: all seeds of one method on one data set, and which of them may be compared. No torch at import."""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

from mmzoo.benchmark.reporting.statistics import Spread, interval, spread
from mmzoo.benchmark.results.comparable import budget_of, is_floor

Row = Mapping[str, Any]
METRICS = {"acc": "ACC", "macro_f1": "macro-F1", "map": "MAP"}


@dataclass(frozen=True)
class Group:
    """All seeds of one configuration on one data set."""

    label: str
    role: str
    rows: tuple[Row, ...]
    _spreads: dict[Callable[[Row], float], Spread] = field(default_factory=dict, repr=False, compare=False)

    @property
    def alone(self) -> bool:
        return self.rows[0]["modality"] is not None

    def by_seed(self, get: Callable[[Row], float]) -> dict[int, float]:
        return {r["seed"]: get(r) for r in self.rows if r["status"] == "ok"}

    def spread(self, get: Callable[[Row], float]) -> Spread:
        """Mean and deviation over the seeds, of `at` and other functions that stay; tables ask for the same again and again."""
        if get not in self._spreads:
            self._spreads[get] = spread(list(self.by_seed(get).values()))
        return self._spreads[get]


def grouped(rows: Sequence[Row], roles: Mapping[str, str]) -> list[Group]:
    """The configurations of one data set in the order of `roles`, each with its seeds; linear floors aside."""
    rows = [r for r in rows if not is_floor(r)]
    by_config: dict[str, list[Row]] = {}
    for row in rows:
        by_config.setdefault(row["config_id"], []).append(row)
    order = {label: i for i, label in enumerate(roles)}
    # The same method under two protocols is two configurations; tell them apart by what differs.
    labels = [g[0]["label"] for g in by_config.values()]
    groups = []
    for config, members in by_config.items():
        label = members[0]["label"]
        shown = label if labels.count(label) == 1 else f"{label} ({_protocol(members[0], config)})"
        groups.append(Group(shown, roles.get(label, "other"), tuple(sorted(members, key=lambda r: r["seed"]))))
    return sorted(groups, key=lambda g: (order.get(g.rows[0]["label"], len(order)), g.label))


def _protocol(row: Row, config: str) -> str:
    t = row["spec"]["training"]
    shared = f"{t['processes']} processes, " if t.get("processes", 1) != 1 else ""
    return f"{t['optimizer']} lr {t['lr']:g}, {t['epochs']} epochs, {shared}{config[:6]}"


@lru_cache(maxsize=1024)
def at(*path: str) -> Callable[[Row], float]:
    """A number of a row by its path; NaN where there is none, and for the mAP of test samples of a single class."""

    def get(row: Row) -> float:
        if path[-1] == "map" and row["metrics"].get("n_test_classes", 2) < 2:
            return math.nan
        value: Any = row
        for key in path:
            value = value.get(key, {}) if isinstance(value, Mapping) else {}
        return math.nan if isinstance(value, Mapping) else value

    return get


def main_score(row: Row) -> float:
    """The score that a run is known by."""
    return float(row["metrics"][row["metrics"]["main_metric"]])


def main_metric(groups: Sequence[Group]) -> str:
    """The metric that the runs of a data set are known by."""
    return next((r["metrics"]["main_metric"] for g in groups for r in g.rows if r["status"] == "ok"), "acc")


def compared(groups: Sequence[Group]) -> list[tuple[Group, Group]]:
    """Each method that the bench is about with every other joint one of the same budget and a common seed."""
    joint = [g for g in groups if not g.alone and g.by_seed(main_score)]
    return [
        (a, b)
        for a in joint
        for b in joint
        if a.role == "method"
        and a is not b
        and _budget(a) == _budget(b)
        and set(a.by_seed(main_score)) & set(b.by_seed(main_score))
    ]


def plain_of(group: Group, groups: Sequence[Group]) -> Group | None:
    """Plain training with the same head, encoders, budget and training items."""
    return reference_of(group, groups, "plain")


def reference_of(group: Group, groups: Sequence[Group], strategy: str) -> Group | None:
    """The group of one strategy by itself with the same head, encoders, budget and training items."""
    for other in groups:
        parts = _parts(other)
        if len(parts) == 1 and parts[0]["strategy"] == strategy and _surroundings(other) == _surroundings(group):
            return other
    return None


@dataclass(frozen=True)
class Reference:
    """What a method is compared with. alike: whether that acts after training as the method does, see `fair_reference`."""

    group: Group
    alike: bool = True


def fair_reference(group: Group, groups: Sequence[Group], strategy: str) -> Reference | None:
    """The group of one strategy that differs from a method in its training only.

    A part that acts after training can follow any training. A method with one is compared with the strategy followed by the
    same part, its parameters included; without such runs with the strategy by itself, which is not alike. What is nothing but
    the strategy and that part is compared with the strategy by itself: the difference is what the part adds.
    """
    bare = reference_of(group, groups, strategy)
    parts = _parts(group)
    trained = [p["strategy"] for p in parts[:-1]] or [
        "plain"
    ]  # a lone part that acts after training follows plain training
    if not finishes(group) or trained == [strategy]:
        return None if bare is None else Reference(bare)
    for other in groups:
        own = _parts(other)
        # No method has two parts that act after training, so that the second part is the one.
        alike = len(own) == 2 and own[0]["strategy"] == strategy and own[1] in parts and finishes(other)
        if alike and _surroundings(other) == _surroundings(group):
            return Reference(other)
    return None if bare is None else Reference(bare, alike=False)


def finishes(group: Group) -> bool:
    """Whether a part acts after training: the rows then hold what the validation set chose among."""
    return any("finish" in r["metrics"] for r in group.rows if r["status"] == "ok")


def _parts(group: Group) -> Sequence[Mapping[str, Any]]:
    found: Sequence[Mapping[str, Any]] = group.rows[0]["spec"]["parts"]
    return found


def _surroundings(group: Group) -> tuple[Any, ...]:
    """What a method and its reference share: head, encoders, budget and training items."""
    spec = group.rows[0]["spec"]
    # Where every method was tuned, the head's numbers were too.
    same = ("head", "encoders", "data_params", "modalities", *(() if spec.get("tuning") else ("head_params",)))
    return (
        group.spread(at("cost", "train_items")).mean,
        _budget(group),
        *(json.dumps(spec[k], sort_keys=True) for k in same),
    )


@dataclass(frozen=True)
class Difference:
    """A mean difference over data sets, in the main metric of each.

    Each seed gives one value, its mean over the data sets on which both sides have it; `interval` is Student's t over the
    seeds at 95 %, unbounded where there is none. It says what other seeds would give on these data sets, not what other data
    sets would. alike: whether each reference acts after training as the method does, see `fair_reference`.
    """

    spread: Spread
    interval: tuple[float, float]
    n_datasets: int
    alike: bool = True

    @property
    def basis(self) -> Basis:
        """What it rests on."""
        return Basis(self.spread.n, self.n_datasets)


def difference_of(mine: Mapping[str, Group], found: Mapping[str, Sequence[Group]], strategy: str) -> Difference | None:
    """The difference of a method, by data set, to its reference of one strategy; None where there is nothing to compare with."""
    per_seed: dict[int, list[float]] = {}
    n, alike = 0, True
    for name, group in mine.items():
        other = None if group.alone else fair_reference(group, found[name], strategy)
        if other is None or other.group is group:
            continue
        a, b = group.by_seed(main_score), other.group.by_seed(main_score)
        common = sorted(set(a) & set(b))
        n += bool(common)
        alike &= other.alike or not common
        for seed in common:
            per_seed.setdefault(seed, []).append(a[seed] - b[seed])
    complete = [statistics.fmean(values) for _, values in sorted(per_seed.items()) if len(values) == n]
    if not complete:
        return None
    s = spread(complete)
    return Difference(s, interval(s), n, alike)


def mean_text(difference: Difference) -> str:
    """The mean of a difference, in points."""
    return f"{round(100 * difference.spread.mean, 1) + 0.0:+.1f}"


#: marks a difference to a reference that is not alike
UNLIKE = "*"
UNLIKE_NOTE = (
    f"{UNLIKE} to the reference without what the method does after training, because the one with it is not here: part of "
    "the difference may come from that."
)


@dataclass(frozen=True)
class Basis:
    """How many common seeds and data sets a difference rests on."""

    seeds: int
    datasets: int = 1

    @classmethod
    def most(cls, differences: Iterable[Basis]) -> Basis:
        """The most seeds and the most data sets of any difference of a table."""
        found = [(b.seeds, b.datasets) for b in differences]
        return cls(*map(max, zip(*found))) if found else cls(0, 0)

    def less_than(self, most: Basis) -> str:
        """In which of the two a difference has less than others of its table, in words; empty if in none."""
        there = ((self.datasets, most.datasets, "data set"), (self.seeds, most.seeds, "seed"))
        return ", ".join(f"{n} {what}{'s' if n != 1 else ''}" for n, best, what in there if n < best)


def difference_text(text: str, basis: Basis, most: Basis, *, alike: bool = True) -> str:
    """A difference as tables show it: marked where its reference is not alike, and where it rests on less than others do."""
    marked, less = text if alike else text + UNLIKE, basis.less_than(most)
    return f"{marked} ({less})" if less else marked


def reference_notes(groups: Iterable[Group], *, unlike: bool, fewer: bool) -> list[str]:
    """What is said below a table of differences to references."""
    notes = []
    if any(finishes(g) for g in groups if not g.alone):
        notes.append(
            "A method that acts after training, such as with +refit, is compared with the reference that does the same, with "
            "the same parameters. Such a reference is compared with itself without that part: what the part adds."
        )
    notes += [UNLIKE_NOTE] if unlike else []
    return [*notes, FEWER_NOTE] if fewer else notes


FEWER_NOTE = (
    "A difference followed by a number of seeds or data sets rests on fewer of them, in common with its reference, than others of "
    "its table."
)


def alone_of(modality: str, group: Group, groups: Sequence[Group]) -> Group | None:
    """The runs of one modality by itself with the encoder and the budget of a joint run."""

    def key(of: Group) -> str:
        spec = of.rows[0]["spec"]
        return json.dumps([_budget(of), spec["data_params"], spec["encoders"].get(modality)], sort_keys=True)

    found = (g for g in groups if g.alone and g.rows[0]["modality"] == modality and key(g) == key(group))
    return next((g for g in found if not g.rows[0]["spec"].get("spare_slice")), None)


def _budget(group: Group) -> str:
    return json.dumps(budget_of(group.rows[0]), sort_keys=True)


def sampling_error(accuracy: float, n: int) -> float:
    """The standard error of an accuracy from the choice of n test samples."""
    return math.sqrt(max(accuracy * (1 - accuracy), 1e-4) / n)


def sample_note(tables: Mapping[str, Sequence[Group]]) -> list[str]:
    """The number of test samples of each data set, and the standard error of its best accuracy; one line."""
    found = []
    for name, groups in tables.items():
        scored = [r["metrics"]["n_scored"] for g in groups for r in g.rows if r["status"] == "ok"]
        means = [g.spread(at("metrics", "acc")).mean for g in [g for g in groups if not g.alone] or groups]
        best = max((m for m in means if math.isfinite(m)), default=None)
        if scored and best is not None:
            found.append(f"{name} {max(scored)} ({100 * sampling_error(best, max(scored)):.1f} points)")
    if not found:
        return []
    return [
        f"Test samples (standard error of the best accuracy): {', '.join(found)}. This error comes in addition to the std over "
        "seeds."
    ]


def selection_note(rows: Sequence[Row]) -> str:
    """How the epoch of the rows of a table was chosen, in words."""
    last = [r["spec"].get("selection") == "last" for r in rows if not is_floor(r)]
    chosen = (
        "The epoch is selected on the validation set (ties: lower validation loss). Test scores cover every sample."
    )
    final = (
        "(last epoch): trained on every published training sample, without a validation set, and scored on test once, after the last "
        "epoch. Not compared with runs under another selection."
    )
    found = [*([] if last and all(last) else [chosen]), *([final] if any(last) else [])]
    if shares := sorted({f for r in rows if (f := r["spec"]["training"].get("choose_from")) and not is_floor(r)}):
        found.append(
            f"Epochs of the first {' or '.join(f'{100 * f:g}' for f in shares)} % of training are not selected."
        )
    if any("peers" in r["metrics"] for r in rows):
        found.append(
            "--selection test: the test set was also scored after every epoch; --details shows how optimistic selecting on it "
            "is."
        )
    return " ".join(found)
