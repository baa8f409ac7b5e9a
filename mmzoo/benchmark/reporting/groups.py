"""Rows by configuration: all seeds of one method on one data set, and which of them may be compared. No torch at import."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

from mmzoo.benchmark.reporting.statistics import Spread, spread
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

    def key(of: Group) -> tuple[Any, ...]:
        spec = of.rows[0]["spec"]
        # Where every method was tuned, the head's numbers were too.
        same = ("head", "encoders", "data_params", "modalities", *(() if spec.get("tuning") else ("head_params",)))
        return (
            of.spread(at("cost", "train_items")).mean,
            _budget(of),
            *(json.dumps(spec[k], sort_keys=True) for k in same),
        )

    for other in groups:
        parts = other.rows[0]["spec"]["parts"]
        if len(parts) == 1 and parts[0]["strategy"] == strategy and key(other) == key(group):
            return other
    return None


def alone_of(modality: str, group: Group, groups: Sequence[Group]) -> Group | None:
    """The runs of one modality by itself with the encoder and the budget of a joint run."""

    def key(of: Group) -> str:
        spec = of.rows[0]["spec"]
        return json.dumps([_budget(of), spec["data_params"], spec["encoders"].get(modality)], sort_keys=True)

    found = (g for g in groups if g.alone and g.rows[0]["modality"] == modality and key(g) == key(group))
    return next((g for g in found if not g.rows[0]["spec"].get("spare_slice")), None)


def _budget(group: Group) -> str:
    return json.dumps(budget_of(group.rows[0]), sort_keys=True)


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
    if any("peers" in r["metrics"] for r in rows):
        found.append(
            "--selection test: the test set was also scored after every epoch; --details shows how optimistic selecting on it "
            "is."
        )
    return " ".join(found)
