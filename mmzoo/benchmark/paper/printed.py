"""What the paper prints, cell by cell, and the suites that run it. Both lie inside the package, so that an installed mmzoo has
them. No torch at import."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mmzoo.io.yaml_file import read

HERE = Path(__file__).parent
TABLES = ("table1", "table2", "table3", "table4", "table5", "tableA1", "tableA2", "tableA3")
#: in %; two where the paper contradicts itself
Values = tuple[float, ...]


@dataclass(frozen=True)
class Line:
    """A row of a table of the paper, and which runs it is. modality: of those, the one trained alone; params: of the first
    strategy."""

    label: str
    method: str
    modality: tuple[str, ...] = ()
    params: Mapping[str, Any] = field(default_factory=dict)

    def takes(self, row: Mapping[str, Any]) -> bool:
        """Whether a run is one of this row."""
        if row["method"] != self.method or (row["modality"] is not None) != bool(self.modality):
            return False
        if self.modality and row["modality"] not in self.modality:
            return False
        given = row["spec"]["parts"][0]["params"] if self.params else {}
        return all(given.get(key) == value for key, value in self.params.items())


@dataclass(frozen=True)
class Printed:
    """A table as the paper prints it.

    Args:
        place: Where in the paper.
        columns: data set -> its columns: `METRIC`, `METRIC MODALITY` of a branch, or `gap`.
        cells: row -> data set -> column -> values.
        dashes: (row, data set) -> why the paper leaves it blank.
        gap: data set -> the metric whose difference between modalities is the gap.
        prints: How many numbers the paper prints in it, where that is known.
        unplaced: Numbers of it whose cell is not known: `values` and `about`.
    """

    name: str
    place: str
    title: str
    columns: Mapping[str, tuple[str, ...]]
    rows: tuple[Line, ...]
    cells: Mapping[str, Mapping[str, Mapping[str, Values]]]
    dashes: Mapping[tuple[str, str], str]
    gap: Mapping[str, str]
    contradictions: Sequence[Mapping[str, Any]]
    unplaced: Sequence[Mapping[str, Any]]
    notes: Sequence[str]
    prints: int | None = None

    def values(self, row: str, dataset: str, column: str) -> Values:
        """What the paper prints in a cell; nothing where that has no source."""
        return self.cells.get(row, {}).get(dataset, {}).get(column, ())

    @property
    def n_cells(self) -> int:
        """How many cells have a source."""
        return sum(bool(v) for row in self.cells.values() for columns in row.values() for v in columns.values())


def read_printed(name: str) -> Printed:
    """A table of TABLES."""
    data = read(HERE / "printed" / f"{name}.yaml").data
    return Printed(
        name,
        data["place"],
        data["title"],
        {dataset: tuple(columns) for dataset, columns in data["columns"].items()},
        tuple(
            Line(str(r["label"]), r["method"], tuple(r.get("modality", ())), r.get("params", {})) for r in data["rows"]
        ),
        {
            row: {d: {c: _values(v) for c, v in columns.items()} for d, columns in datasets.items()}
            for row, datasets in data["cells"].items()
        },
        {(each["row"], d): each["reason"] for each in data.get("dashes", ()) for d in each["datasets"]},
        data.get("gap", {}),
        data.get("contradictions", ()),
        data.get("unplaced", ()),
        data.get("notes", ()),
        data.get("prints"),
    )


def suite_file(name: str) -> Path:
    """The suite of a table or figure, as `mmzoo bench --suite` reads it. Figure 4 trains the runs of Figure 2 on other data."""
    return HERE / "suites" / f"{name}.yaml"


def _values(given: Any) -> Values:
    return tuple(map(float, given)) if isinstance(given, list) else (float(given),)
