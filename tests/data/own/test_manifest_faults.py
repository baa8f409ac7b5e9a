"""Faults of a manifest are told all at once, and a hint names no column that another entry means."""

from __future__ import annotations

from pathlib import Path

import pytest

from mmzoo.data.own.manifest import read_manifest
from mmzoo.errors import BadValue


def faults(folder: Path, header: str, modalities: str, *, more: str = "") -> list[str]:
    """The lines of what is said of a manifest for a table with this header."""
    cells = ",".join("1" for _ in header.split(","))
    (folder / "t.csv").write_text(f"{header}\n{cells}\n{cells.replace('1', '2')}\n")
    (folder / "t.yaml").write_text(f"name: t\ntable: t.csv\n{more}modalities:\n{modalities}")
    with pytest.raises(BadValue) as told:
        read_manifest(folder / "t.yaml")
    return [line for line in str(told.value).splitlines() if line.startswith("  line ")]


def test_a_hint_names_no_column_that_another_entry_means(tmp_path: Path) -> None:
    header = "label,ecgX,ecg_1,ecg_2,ecg_3,ecg_5"
    for columns in ("[ecg_0, ecg_1, ecg_2, ecg_3, ecg_5]", "ecg_0..ecg_5", "[ecg_0, 'ecg_*']"):
        (line,) = faults(tmp_path, header, f"  ecg: {{kind: vector, columns: {columns}}}\n")
        assert "no column 'ecg_0'. Did you mean 'ecgX'?" in line
    (line,) = faults(tmp_path, "label,x,words", "  text: {kind: text, column: word}\n  x: vector\n")
    assert "Did you mean 'words'?" in line
    (line,) = faults(
        tmp_path, "label,ecg_1", "  a: {kind: vector, column: ecg_0}\n  b: {kind: vector, column: ecg_1}\n"
    )
    assert "Did you mean" not in line


def test_a_wrong_kind_hides_no_wrong_column(tmp_path: Path) -> None:
    told = faults(
        tmp_path,
        "label,x,z,words",
        "  a: {kind: vektor, columns: [x, q]}\n  b: {kind: vector, columns: [zz, z, yy], fil: 3}\n  c: {kind: text, column: word}\n",
        more="group: nobody\n",
    )
    for said in (
        "kind must be one of",
        "no column 'q'",
        "no column 'zz'",
        "no column 'yy'",
        "no column 'word'",
        "'nobody'",
    ):
        assert sum(said in line for line in told) == 1, said
    told = faults(tmp_path, "label,x,z", "  b: {kind: vector, columns: [zz, z, yy], fil: 3}\n")
    assert len(told) == 3 and "unknown key" in "".join(told)


def test_a_faulty_form_with_a_table_elsewhere_reads_nothing(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "t.csv").write_text("x\n1\n")
    for table, root in (("../t.csv", ""), ("[1]", ""), ("none.csv", ""), ("t.csv", "root: [1]\n")):
        (tmp_path / "in" / "t.yaml").write_text(
            f"name: t\ntable: {table}\n{root}modalities:\n  a: {{kind: vektor, columns: [{{q: 1}}]}}\n  3: x\n"
        )
        with pytest.raises(BadValue, match="kind must be one of"):
            read_manifest(tmp_path / "in" / "t.yaml")
