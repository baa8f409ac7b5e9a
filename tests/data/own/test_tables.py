"""Tables as spreadsheets, pandas and databases write them, and what their cells may hold."""

from __future__ import annotations

import gzip
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mmzoo.data.own.manifest import read_manifest
from mmzoo.data.preparing.check import check
from mmzoo.data.preparing.prepare import prepare
from mmzoo.data.sources.source import File, Text, Values
from mmzoo.errors import BadValue

Written = Callable[..., Path]


@pytest.fixture
def table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Written:
    """Writes a table and a manifest for it; gives the path of the manifest."""
    monkeypatch.setenv("MMZOO_HOME", str(tmp_path / "home"))

    def write(content: str | bytes, modalities: str, more: str = "", name: str = "t.csv") -> Path:
        (tmp_path / name).write_bytes(content.encode() if isinstance(content, str) else content)
        path = tmp_path / "own.yaml"
        path.write_text(f"name: own\ntable: {name}\n{more}modalities:\n{modalities}")
        return path

    return write


def listed(path: Path) -> Any:
    source = read_manifest(path)
    return source.list(source.root, split=next(iter(source.splits)))


def first(path: Path, modality: str) -> Any:
    return listed(path).items[0].media[modality]


def lines(header: str, rows: Sequence[str]) -> str:
    return "\n".join([header, *rows]) + "\n"


NUMBERS = "  x: {kind: vector, columns: [a, b]}\n"


# ---------------------------------------------------------------------- quotation marks
def quoted(mark: str, opens: str, closes: str) -> str:
    """Forty rows, in which a quotation begins in the text of one row and ends three rows on."""
    texts = [f"word{i} and another" for i in range(40)]
    texts[10], texts[13] = f'"{opens}' + texts[10], texts[13] + closes
    rows = [mark.join([f"u{i}", "ab"[i % 2], str(i), text]) for i, text in enumerate(texts)]
    return lines(mark.join(["id", "label", "a", "text"]), rows)


@pytest.mark.parametrize("mark", ["\t", ",", ";", "|"])
def test_a_quotation_mark_that_makes_one_row_of_four_is_told(table: Written, mark: str) -> None:
    path = table(quoted(mark, "", '"'), "  text: text\n")
    (fault,) = listed(path).faults
    assert "lines 12 to 15 are one row" in fault.message and "quotes: false" in fault.message
    plain = table(quoted(mark, "", '"'), "  text: text\n", "quotes: false\n")
    assert len(listed(plain).items) == 40 and not listed(plain).faults
    assert first(table(quoted(mark, "", '"'), "  text: text\n", "quotes: false\n"), "text") == Text("word0 and another")


@pytest.mark.parametrize("mark", ["\t", ","])
def test_a_quotation_in_the_middle_of_a_row_too(table: Written, mark: str) -> None:
    rows = [mark.join([f"u{i}", f"some words {i}", "ab"[i % 2], str(i)]) for i in range(20)]
    rows[4] = rows[4].replace("some", '"some')
    rows[5] = rows[5].replace("words 5", 'words 5"')
    path = table(lines(mark.join(["id", "text", "label", "a"]), rows), "  text: text\n")
    assert [f.where for f in listed(path).faults] == ["t.csv, line 6"]


def test_an_unclosed_quotation_says_where_it_opens_and_what_to_do(table: Written) -> None:
    with pytest.raises(BadValue, match=r"line 12: .*opens a quotation that never closes.*`quotes: false`"):
        listed(table(quoted("\t", "", ""), "  text: text\n"))
    rows = [f'u{i}\t{i % 2}\t"so" he said' for i in range(9)]
    with pytest.raises(BadValue, match=r"line 2: .*after its closing quotation mark \(tab.*`quotes: false`"):
        listed(table(lines("id\tlabel\ttext", rows), "  text: text\n"))


def test_a_text_of_several_lines_with_delimiters_is_no_fault(table: Written) -> None:
    rows = [f'u{i},{"ab"[i % 2]},"Hello {i}\nI came, I saw, I won\n\nnever, at all"' for i in range(9)]
    path = table(lines("id,label,text", rows), "  text: text\n")
    assert len(listed(path).items) == 9 and not listed(path).faults and "\n" in first(path, "text").text


def test_a_long_text(table: Written) -> None:
    path = table(lines("label,text", ["a," + "word " * 60_000, "b,short"]), "  text: text\n")
    assert len(first(path, "text").text) > 200_000


# ---------------------------------------------------------------------- columns
@pytest.mark.parametrize(
    ("content", "modalities", "more"),
    [
        (",0,1,label\n0,1.5,2.5,a\n1,3,4,b\n", "  x: {kind: vector, columns: [0, 1]}\n", ""),
        ("1.0;2.50;on\n1.5;2.5;a\n3;4;b\n", "  x: {kind: vector, columns: [1.0, 2.50]}\n", "label: on\n"),
        ('"a, b";"c, d, e";label\n1.5;2.5;x\n3;4;y\n', '  x: {kind: vector, columns: ["a, b", "c, d, e"]}\n', ""),
        (
            "a, in N;b, in N, left;label\n1.5;2.5;x\n3;4;y\n",
            '  x: {kind: vector, columns: ["a, in N", "b, in N, left"]}\n',
            "",
        ),
        ("a,d,d,b,label\n1.5,0,0,2.5,x\n3,0,0,4,y\n", NUMBERS, ""),
        ("sep=;\na;b;label\n1.5;2.5;x\n3;4;y\n", NUMBERS, ""),
        ("x0,x1,label\n1.5,2.5,p\n3,4,q\n", '  x: {kind: vector, columns: "x*"}\n', ""),
        ("x0,label,x1,y\n1.5,p,2.5,0\n3,q,4,0\n", "  x: {kind: vector, columns: x0..x1}\n", ""),
        ('label,e\na,"[1.5, 2.5]"\nb,"[3, 4]"\n', "  x: {kind: vector, column: e}\n", ""),
        ("label,e\na,[1.5 2.5]\nb,[3. 4.]\n", "  x: {kind: vector, column: e}\n", ""),
        ("label,e\na,1.5 2.5\nb,3 4\n", "  x: {kind: vector, column: e}\n", ""),
        ('label,e\na,"[[1.5], [2.5]]"\nb,"[[3], [4]]"\n', "  x: {kind: vector, column: e}\n", ""),
    ],
)
def test_headers_and_cells_as_they_are_found(table: Written, content: str, modalities: str, more: str) -> None:
    path = table(content, modalities, more)
    assert first(path, "x") == Values((1.5, 2.5)) and not listed(path).faults
    assert read_manifest(path).recipes()["own"].fields["x"].width == 2  # type: ignore[attr-defined]


def test_utf_16_and_gzip_are_read(table: Written) -> None:
    text = "a\tb\tlabel\n1.5\t2.5\té\n3\t4\tb\n"
    for content in (
        text.encode("utf-16"),
        gzip.compress(text.encode()),
        gzip.compress(text.encode()[:9]) + gzip.compress(text.encode()[9:]),
    ):
        path = table(content, NUMBERS)
        assert listed(path).classes == ["b", "é"] and first(path, "x") == Values((1.5, 2.5))


@pytest.mark.parametrize(
    ("content", "modalities", "part"),
    [
        (b"PK\x03\x04 xl/workbook.xml", NUMBERS, "is an Excel workbook"),
        (b"PAR1....", NUMBERS, "is a Parquet file"),
        (gzip.compress(b"a,b,label\n", mtime=0)[:-9], NUMBERS, "0 classes"),
        (b"\x1f\x8b\x00 none", NUMBERS, "cannot be unpacked"),
        (b"a,a,b,label\n", NUMBERS, "the column 'a' more than once"),
        (b"a,b,label\n", '  x: {kind: vector, columns: "z*"}\n', "no column of t.csv fits the pattern 'z*'"),
        (b"b,a,label\n", "  x: {kind: vector, columns: a..b}\n", "a stands after b"),
        (b"a,b,label\n", "  x: {kind: vector, columns: a..z}\n", "no column 'z'"),
        (b"a;b;c,label\n", NUMBERS, "Columns are parted by semicolon; `delimiter`"),
    ],
)
def test_tables_that_cannot_be_read_are_named(table: Written, content: bytes, modalities: str, part: str) -> None:
    with pytest.raises(BadValue) as seen:
        listed(table(content, modalities))
    assert part in str(seen.value)


@pytest.mark.parametrize(
    ("cell", "part"),
    [
        ('"[1, 2, ..., 9]"', "was shortened"),
        ('"[1, nan]"', "'nan' in a list"),
        ("[]", "'[]' in a list"),
    ],
)
def test_lists_that_cannot_be_read(table: Written, cell: str, part: str) -> None:
    path = table(f"label,e\na,{cell}\nb,[1 2]\n", "  x: {kind: vector, column: e, width: 2}\n")
    assert [f.kind for f in listed(path).faults] == ["value"] and part in listed(path).faults[0].message


def test_paths_of_windows_and_addresses(table: Written, tmp_path: Path) -> None:
    (tmp_path / "img").mkdir()
    cells = [r"img\1.npy", r"C:\img\1.npy", r"..\1.npy", "https://host/1.npy", r"\\host\1.npy"]
    path = table(
        lines("label,e", [f"{'ab'[i % 2]},{c}" for i, c in enumerate(cells)]),
        "  x: {kind: vector, column: e, width: 2}\n",
    )
    assert first(path, "x") == File(tmp_path / "img/1.npy")
    said = [f.message for f in listed(path).faults]
    for part, message in zip(("absolute on Windows", "leads out", "is an address", "is absolute"), said, strict=True):
        assert part in message


def test_fifty_thousand_columns_take_a_moment(table: Written) -> None:
    n = 50_000
    names = ",".join(f"g{i}" for i in range(n))
    row = ",".join(["1.5"] * n)
    path = table(f"label,{names}\na,{row}\nb,{row}\n", '  x: {kind: vector, columns: "g*"}\n')
    source = read_manifest(path)
    columns = source.wanted.media["x"].columns
    assert len(columns) == n and columns[-1] == f"g{n - 1}"
    assert read_manifest(path).rows is source.rows  # not parsed again
    assert len(source.list(source.root, split="hash").items) == 2


# ---------------------------------------------------------------------- absent content
def people(table: Written, modalities: str) -> Path:
    """Twenty persons: a body mass that is missing in every fifth row, and words for sex."""
    rows = [f"{'ab'[i % 2]},{40 + i},{('', 'NA')[i % 2] if i % 5 == 0 else i},{'MF'[i % 2]}" for i in range(20)]
    return table(lines("label,age,bmi,sex", rows), modalities)


def prepared(path: Path, *on_bad: str) -> Any:
    source = read_manifest(path)
    return prepare(source, source.root, jobs=0, on_bad=on_bad or None).store


def test_one_missing_number_of_a_vector(table: Written) -> None:
    path = people(table, "  who: {kind: vector, columns: [age, bmi]}\n  sex: {kind: category, column: sex}\n")
    with pytest.raises(BadValue, match=r"(?s)4 of 20 samples.*column bmi: a number is missing \(`fill: mean`"):
        prepared(path)
    blank = prepared(path, "blank")
    rows = {r.id: r.row for r in blank.index}
    assert len(rows) == 20 and not blank.array("who")[[0, 5, 10, 15]].any() and blank.array("who")[1].any()
    absent = prepared(path, "value=absent")
    assert len(absent) == 20 and int((~absent.present()).sum()) == 4
    assert len(prepared(path, "drop")) == 16


@pytest.mark.parametrize(("fill", "value"), [("mean", 0.0), ("0", None)])
def test_a_missing_number_may_be_filled(table: Written, fill: str, value: float | None) -> None:
    path = people(table, f"  who: {{kind: vector, columns: [age, bmi], fill: {fill}}}\n")
    store = prepared(path)
    found = store.array("who")[[0, 5, 10, 15], 1]
    assert len(store) == 20 and len(set(found.tolist())) == 1
    assert (abs(float(found[0])) < 1e-6) == (value == 0.0)


def test_words_are_a_category(table: Written) -> None:
    path = people(table, "  sex: {kind: category, columns: [sex]}\n")
    store = prepared(path)
    assert store.kinds == {"sex": "vector"} and sorted(set(map(tuple, store.array("sex").tolist()))) == [(0, 1), (1, 0)]
    mixed = people(table, "  who: {kind: vector, columns: [age, sex], categories: [sex], standardise: false}\n")
    assert prepared(mixed).array("who")[0].tolist() == [40.0, 0.0, 1.0]
    with pytest.raises(BadValue, match="words are read by kind category"):
        prepared(people(table, "  who: {kind: vector, columns: [age, sex]}\n"))
    with pytest.raises(BadValue, match=r"holds 0 different words|from 1 to"):
        listed(table("label,e\na,\nb,\n", "  x: {kind: category, column: e}\n"))


def test_a_missing_file_counts_once_and_may_be_absent(table: Written, tmp_path: Path) -> None:
    for i in range(20):
        if i % 4:
            np.save(tmp_path / f"{i}.npy", np.full(2, i))
    path = table(
        lines("label,e,a", [f"{'ab'[i % 2]},{i}.npy,{i}" for i in range(20)]),
        "  e: {kind: vector, width: 2}\n  a: {kind: vector, columns: [a]}\n",
    )
    source = read_manifest(path)
    done = prepare(source, source.root, jobs=0, on_bad=["blank"])
    assert len(done.store) == 20 and [f.kind for f, _ in done.faults] == ["missing"] * 5
    absent = prepared(path, "missing=absent")
    assert len(absent) == 20 and absent.present()[0].tolist() == [False, True]


def test_a_manifest_may_do_without_a_meta_set(table: Written) -> None:
    path = people(table, "  who: {kind: vector, columns: [age]}\n")
    assert prepared(path).meta["splits"]["hash"]["counts"]["slice"] != [0, 0]
    path.write_text(path.read_text() + "meta_set: false\n")
    assert prepared(path).meta["splits"]["hash"]["counts"]["slice"] == [0, 0]


def test_check_lists_classes_and_what_looks_wrong(table: Written, mmzoo: Callable[..., Any]) -> None:
    rows = [f"{('1', '1.0', 'cat', 'Cat', 'NA')[i % 5]},{i}" for i in range(50)]
    path = table(lines("label,a", rows), "  a: {kind: vector, columns: [a]}\n")
    for action in ("check", "prepare"):
        told = mmzoo("data", action, path).out
        for part in (
            "5 classes: ",
            "'1' and '1.0' differ only",
            "'Cat' and 'cat' differ only",
            "looks like a missing label",
        ):
            assert part in told
    assert (
        "check the classes" in mmzoo("data", "check", path).out
        and check(read_manifest(path), path.parent, jobs=0)[1] == []
    )


def test_words_of_yaml_are_taken_as_they_are_written(table: Written) -> None:
    rows = [f"{('no', 'yes')[i % 2]},{i}" for i in range(30)]
    path = table(lines("label,off", rows), "  on: {kind: vector, columns: [off]}\n", "classes: [yes, no]\n")
    assert listed(path).classes == ["yes", "no"] and not listed(path).faults and first(path, "on") == Values((0.0,))
