"""The curves of methods under stress, from the files beside their rows. No torch or numpy at import."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mmzoo.benchmark.reporting.groups import Group, main_metric
from mmzoo.benchmark.reporting.statistics import Spread, spread
from mmzoo.benchmark.results.store import Store
from mmzoo.benchmark.results.stress import read_stress
from mmzoo.errors import CorruptFile

#: what makes a curve: stress, modality, corruption
Key = tuple[str, str, str]


@dataclass(frozen=True)
class Curve:
    """The main score of one run against the level of one corruption of one modality.

    Args:
        levels: Share of the samples, or strength of the corruption, from 0.
        scores: At each level; NaN where the answers are not finite.
    """

    levels: tuple[float, ...]
    scores: tuple[float, ...]

    @property
    def area(self) -> float:
        """The mean score under the curve, with the points joined by lines and equally far apart; NaN where one is missing."""
        pairs = list(zip(self.scores, self.scores[1:]))
        return sum(a + b for a, b in pairs) / (2 * len(pairs)) if pairs else math.nan


@dataclass(frozen=True)
class Stressed:
    """A method whose runs were scored under stress. curves: seed -> key -> its curve."""

    group: Group
    curves: Mapping[int, Mapping[Key, Curve]]

    def keys(self, stress: str) -> list[Key]:
        """The curves of a kind, in the order in which they were scored."""
        return list(dict.fromkeys(k for found in self.curves.values() for k in found if k[0] == stress))

    def at(self, key: Key, i: int) -> Spread:
        """The score at the i-th level of a curve over seeds."""
        return spread([c[key].scores[i] for c in self.curves.values() if key in c and i < len(c[key].scores)])

    def area(self, key: Key) -> Spread:
        """The area under a curve over seeds."""
        return spread([c[key].area for c in self.curves.values() if key in c])

    def mean_area(self, stress: str) -> Spread:
        """The mean over modalities, and of each over its corruptions, of the areas, over seeds."""
        return spread([_mean_of(found, stress) for found in self.curves.values() if any(k[0] == stress for k in found)])


def _mean_of(found: Mapping[Key, Curve], stress: str) -> float:
    by_modality: dict[str, list[float]] = {}
    for (kind, modality, _), curve in found.items():
        if kind == stress:
            by_modality.setdefault(modality, []).append(curve.area)
    each = [sum(areas) / len(areas) for areas in by_modality.values()]
    return sum(each) / len(each)


def stressed(groups: Sequence[Group], store: Store, faults: list[CorruptFile] | None = None) -> list[Stressed]:
    """The methods of a data set that have curves.

    Args:
        groups: The methods of one data set.
        store: Where the files are.
        faults: Takes an error for each file that cannot be used.
    """
    metric, found = main_metric(groups), []
    for group in groups:
        curves: dict[int, dict[Key, Curve]] = {}
        for row in group.rows:
            if row["status"] != "ok":
                continue
            try:
                records = read_stress(row, store)
            except CorruptFile as error:
                if faults is not None:
                    faults.append(error)
                continue
            if records:
                curves[row["seed"]] = _curves(records, metric)
        if curves:
            found.append(Stressed(group, curves))
    return found


def _curves(records: Sequence[Mapping[str, Any]], metric: str) -> dict[Key, Curve]:
    points: dict[Key, list[Mapping[str, Any]]] = {}
    for record in records:
        points.setdefault((record["stress"], record["modality"], record["corruption"]), []).append(record)
    found = {}
    for key, mine in points.items():
        mine.sort(key=lambda r: r["strength"])
        scores = tuple(math.nan if r[metric] is None else r[metric] for r in mine)
        found[key] = Curve(tuple(r["level"] for r in mine), scores)
    return found
