"""Which method wins in each cell of a grid of settings of one data set, by how much, and whether that is decided. No torch."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mmzoo.benchmark.reporting.groups import (
    UNLIKE,
    UNLIKE_NOTE,
    Group,
    Reference,
    Row,
    fair_reference,
    finishes,
    main_score,
)
from mmzoo.benchmark.reporting.overview import by_dataset
from mmzoo.benchmark.reporting.statistics import NO_INTERVAL, interval, paired
from mmzoo.benchmark.reporting.tables import Cell, Table

#: axes of a chart: x, y, and the columns of panels
AXES = 3
#: fewer cells than this are data sets beside one another, not a map
LEAST_CELLS = 4


@dataclass(frozen=True)
class Place:
    """One cell: the values of its knobs, and who wins there.

    Args:
        dataset: how tables call it.
        knobs: value by knob.
        winner, second: the methods with the highest and the second highest mean.
        score: the mean of the winner.
        margin: the mean paired difference of the two over seeds.
        interval: its 95 % interval (Student's t over seeds).
        to_plain: the mean paired difference of the winner to plain training, or None where that is not there.
        alike: whether that acts after training as the winner does, see `fair_reference`.
    """

    dataset: str
    knobs: Mapping[str, float]
    winner: str
    second: str
    score: float
    margin: float
    interval: tuple[float, float]
    to_plain: float | None
    alike: bool = True

    @property
    def decided(self) -> bool:
        """Whether the interval of the margin leaves out zero."""
        return self.interval[0] > 0


@dataclass(frozen=True)
class Map:
    """One data set over a grid. knobs: the numbers that differ between its cells, in the order of its parameters."""

    name: str
    knobs: tuple[str, ...]
    places: tuple[Place, ...]


def find_maps(rows: Sequence[Row], bench: Mapping[str, Any]) -> list[Map]:
    """The data sets that were benched under at least LEAST_CELLS settings of one to AXES numbers."""
    found: dict[str, list[tuple[Mapping[str, Any], str, Sequence[Group]]]] = {}
    for label, groups in by_dataset(rows, bench).items():
        spec = groups[0].rows[0]["spec"] if groups else {}
        if "data_params" in spec:
            found.setdefault(str(spec["dataset"]), []).append((spec["data_params"], label, groups))
    maps = []
    for name, cells in found.items():
        knobs = _knobs([params for params, _, _ in cells])
        if len(cells) < LEAST_CELLS or not 0 < len(knobs) <= AXES:
            continue
        places = [place for params, label, groups in cells if (place := _place(label, params, knobs, groups))]
        if places:
            maps.append(Map(name, knobs, tuple(places)))
    return maps


def _knobs(params: Sequence[Mapping[str, Any]]) -> tuple[str, ...]:
    """The names of the numbers that differ; nothing where something else differs too."""
    names = [
        k for k in dict.fromkeys(k for p in params for k in p) if any(p.get(k) != params[0].get(k) for p in params)
    ]
    numbers = all(isinstance(p.get(k), int | float) and not isinstance(p.get(k), bool) for p in params for k in names)
    return tuple(names) if numbers else ()


def _place(label: str, params: Mapping[str, Any], knobs: Sequence[str], groups: Sequence[Group]) -> Place | None:
    joint = [(g, g.spread(main_score).mean) for g in groups if not g.alone and g.by_seed(main_score)]
    if len(joint) < 2:
        return None
    (first, score), (second, _) = sorted(joint, key=lambda pair: -pair[1])[:2]
    margin = paired(first.by_seed(main_score), second.by_seed(main_score))
    plain = _plain(first, groups)
    to_plain = None if plain is None else paired(first.by_seed(main_score), plain.group.by_seed(main_score)).mean
    values = {k: float(params[k]) for k in knobs}
    alike = plain is None or plain.alike
    return Place(label, values, first.label, second.label, score, margin.mean, interval(margin), to_plain, alike)


def _plain(group: Group, groups: Sequence[Group]) -> Reference | None:
    """Plain training with the head and the training samples of a group, and with what it does after training; else any."""
    fair = fair_reference(group, groups, "plain")
    if fair is not None and fair.group.by_seed(main_score):
        return fair
    other = next((g for g in groups if not g.alone and g.by_seed(main_score) and _is_plain(g)), None)
    return None if other is None else Reference(other, alike=not finishes(group))


def _is_plain(group: Group) -> bool:
    spec = group.rows[0]["spec"]
    parts = spec["parts"]
    return len(parts) == 1 and parts[0]["strategy"] == "plain" and not spec.get("spare_slice")


def map_tables(rows: Sequence[Row], bench: Mapping[str, Any]) -> list[Table]:
    """One line a cell: who wins, its score, its lead and the interval of it, and how far it lies above plain training."""
    return [
        Table(
            f"{found.name}: who wins in which cell",
            [*found.knobs, "winner", "score", "second", "lead", "95 %", "decided", "Δ plain"],
            [
                [
                    *(Cell(f"{p.knobs[k]:g}") for k in found.knobs),
                    Cell(p.winner),
                    Cell(f"{100 * p.score:.1f}"),
                    Cell(p.second),
                    Cell(f"{100 * p.margin:+.1f}"),
                    Cell(_interval(p.interval)),
                    Cell("yes" if p.decided else "no"),
                    Cell("–" if p.to_plain is None else f"{100 * p.to_plain:+.1f}{'' if p.alike else UNLIKE}"),  # noqa: RUF001
                ]
                for p in found.places
            ],
            [
                "winner: the highest mean over seeds. lead: its mean paired difference to the second, in points; decided: the "
                "95 % interval of the lead (Student's t over seeds) leaves out zero. The winner was picked after looking, "
                f"so that an undecided lead says nothing, and a decided one is a little too large. {NO_INTERVAL}",
                *([] if all(p.alike for p in found.places) else [UNLIKE_NOTE]),
            ],
        )
        for found in find_maps(rows, bench)
    ]


def _interval(interval: tuple[float, float]) -> str:
    low, high = (100 * bound for bound in interval)
    return f"[{low:+.1f}, {high:+.1f}]" if math.isfinite(low) else "–"  # noqa: RUF001
