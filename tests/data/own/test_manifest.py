"""A user's own data: what a manifest and its table may hold, and how every fault is told with its line."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers.places import ROOT

import mmzoo as package
from mmzoo.data.loading.prepared import open_module
from mmzoo.data.own.manifest import own_entry, read_manifest
from mmzoo.data.preparing.check import check
from mmzoo.data.preparing.prepare import prepare
from mmzoo.data.sources.source import File, Text, Values
from mmzoo.data.store.choice import chosen_store
from mmzoo.errors import BadValue, MmzooError, UnknownName
from mmzoo.registry.plugins import catalogue

MANIFEST = """name: mine
table: items.csv
modalities:
  words: {kind: text, column: title, pair: more, length: 8}
  sensors: {kind: vector, columns: [x, y]}
  features: vector
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("MMZOO_HOME", str(tmp_path / "home"))
    made = tmp_path / "data"
    made.mkdir()
    (made / "mine.yaml").write_text(MANIFEST)
    for i in range(60):
        np.save(made / f"{i}.npy", np.full(3, i))
    lines = ["id,label,title,more,x,y,features"]
    lines += [f'n{i},{"ab"[i % 2]},"text, ""{i}"" 鳥",,{i},{i}.5,{i}.npy' for i in range(60)]
    (made / "items.csv").write_bytes(("\ufeff" + "\r\n".join(lines) + "\r\n").encode())
    return made


def listed(folder: Path) -> Any:
    source = read_manifest(folder / "mine.yaml")
    return source.list(source.root, split=next(iter(source.splits)))


def edited(folder: Path, line: int, **cells: str) -> None:
    """Change cells of one line (the header is line 1)."""
    path = folder / "items.csv"
    rows = [
        r.split(";")
        for r in path.read_text(encoding="utf-8-sig").replace('"text, ""', '"text').replace(",", ";").splitlines()
    ]
    for column, value in cells.items():
        rows[line - 1][rows[0].index(column)] = value
    path.write_text("\n".join(";".join(r) for r in rows) + "\n", encoding="utf-8")


def test_what_a_table_says_is_what_is_stored(folder: Path) -> None:
    found = listed(folder)
    assert found.classes == ["a", "b"] and not found.faults and len(found.items) == 60
    third = found.items[2]
    assert third.id == "n2" and third.where == "items.csv, line 4"
    assert third.media == {
        "words": Text('text, "2" 鳥', ""),
        "sensors": Values((2.0, 2.5)),
        "features": File(folder / "2.npy"),
    }
    source = read_manifest(folder / "mine.yaml")
    store = prepare(source, source.root, jobs=0).store
    assert store.kinds == {"words": "text", "sensors": "vector", "features": "vector"}
    data = open_module(store.folder)
    assert data.n_classes == 2 and data.shape("features") == (3,) and data.vocabulary["words"] > 5
    fitted = [*data.splits["train"], *data.splits["slice"]]
    assert abs(float(data.inputs["sensors"].take(torch.tensor(fitted)).mean())) < 1e-5


def test_missing_cells_are_missing_modalities(folder: Path) -> None:
    edited(folder, 5, x="", y="")
    edited(folder, 6, features="")
    source = read_manifest(folder / "mine.yaml")
    data = open_module(prepare(source, source.root, jobs=0).store.folder)
    assert data.present is not None and data.present[3].tolist() == [True, False, True]
    assert data.present[4].tolist() == [True, True, False] and int((~data.present).sum()) == 2


@pytest.mark.parametrize(
    ("line", "cells", "kind", "part"),
    [
        (4, {"label": ""}, "annotation", "no label in the column label"),
        (4, {"x": "abc"}, "value", "column x: 'abc' is not a finite number"),
        (4, {"x": "nan"}, "value", "column x: 'nan'"),
        (4, {"y": ""}, "value", "column y: a number is missing"),
        (4, {"features": "../secret.npy"}, "outside", "leads out of"),
        (4, {"features": "/etc/passwd.npy"}, "outside", "is absolute"),
        (4, {"features": "nothing.npy"}, "missing", "there is no file"),
        (4, {"id": "n7"}, "collision", "another sample has this id"),
        (4, {"id": ""}, "annotation", "no id"),
        (4, {"title": "", "more": "", "x": "", "y": "", "features": ""}, "annotation", "no modality of this row"),
    ],
)
def test_every_fault_is_told_with_its_line(
    folder: Path, line: int, cells: dict[str, str], kind: str, part: str
) -> None:
    edited(folder, line, **cells)
    source = read_manifest(folder / "mine.yaml")
    (fault,) = [f for f in check(source, source.root, quick=True)[1]]
    assert fault.kind == kind and part in fault.message
    assert fault.where == f"items.csv, line {line if kind != 'collision' else 9}"


def test_where_too_little_is_left_the_faults_are_told_all_the_same(folder: Path) -> None:
    lines = (folder / "items.csv").read_text(encoding="utf-8-sig").splitlines()
    sides = ["split", *("trian" if i < 50 else "test" for i in range(60))]
    (folder / "items.csv").write_text(
        "\n".join(f"{line},{side}" for line, side in zip(lines, sides)) + "\n", encoding="utf-8"
    )
    source = read_manifest(folder / "mine.yaml")
    with pytest.raises(BadValue) as raised:
        check(source, source.root, jobs=0)
    told = str(raised.value)
    assert "no sample is left for training" in told and "'trian' is none of train" in told and "and 47 more" in told


def test_prepared_data_of_ones_own_is_checked_by_its_name(folder: Path, mmzoo: Callable[..., Any]) -> None:
    source = read_manifest(folder / "mine.yaml")
    store = prepare(source, source.root, jobs=0).store
    assert "as it was written, 60 samples" in mmzoo("data", "check", "mine").out
    large = max((p for p in store.folder.iterdir() if p.name != "meta.json"), key=lambda p: p.stat().st_size)
    content = bytearray(large.read_bytes())
    content[len(content) // 2] ^= 1
    large.write_bytes(content)
    changed = mmzoo("data", "check", "mine")
    assert changed.code == 1 and large.name in changed.out
    assert "no data set 'mien'" in mmzoo("data", "check", "mien").err
    options = mmzoo("data", "check", "mine", "--quick")
    assert options.code == 2 and "mmzoo data check FILE.yaml" in options.err


def test_a_link_that_leads_out_is_refused_and_one_that_stays_is_not(folder: Path) -> None:
    (folder.parent / "secret.npy").write_bytes((folder / "1.npy").read_bytes())
    (folder / "out.npy").symlink_to(folder.parent / "secret.npy")
    (folder / "in.npy").symlink_to(folder / "1.npy")
    edited(folder, 4, features="out.npy")
    edited(folder, 5, features="in.npy")
    assert [(f.kind, f.item) for f in listed(folder).faults] == [("outside", "n2")]


def test_split_and_group_columns(folder: Path) -> None:
    path = folder / "items.csv"
    rows = path.read_text(encoding="utf-8-sig").splitlines()
    sides = ["Train", "val", "test", "train"]
    path.write_text(
        "\n".join([rows[0] + ",split,group", *(f"{r},{sides[i % 4]},g{i // 8}" for i, r in enumerate(rows[1:]))])
    )
    source = read_manifest(folder / "mine.yaml")
    data = open_module(prepare(source, source.root, jobs=0).store.folder)
    assert len(data.splits["holdout"]) == len(data.splits["test"]) == 15
    groups = {r // 8 for r in data.splits["slice"]}
    assert not groups & {r // 8 for r in data.splits["train"]}
    path.write_text(path.read_text().replace("Train,", "trian,", 1))
    assert "Did you mean 'train'" in listed(folder).faults[0].message


@pytest.mark.parametrize(
    ("old", "new", "part"),
    [
        ("name: mine", "nmae: mine", "unknown key. Did you mean 'name'"),
        ("name: mine", "name: Mine!", "lower_snake_case"),
        ("table: items.csv", "table: itms.csv", "cannot read the table"),
        ("kind: text", "kind: txt", "Did you mean 'text'"),
        ("column: title", "column: titel", "no column 'titel'. Did you mean 'title'"),
        ("length: 8", "lenght: 8", "Did you mean 'length'"),
        ("length: 8", "length: many", "must be a whole number"),
        ("length: 8", "length: 1", "from 4 to"),
        ("columns: [x, y]", "columns: [x, x]", "list of different columns"),
        ("features: vector", "features: 3", "kind must be one of"),
        ("name: mine", "name: mine\nclasses: [a]", "two or more"),
        ("name: mine", "name: mine\nreading: {sise: 3}", "Did you mean 'size'"),
        ("name: mine", "name: mine\ntraining: {lr: fast}", "lr must be a number"),
        ("name: mine", "name: [", "not valid YAML"),
        ("name: mine", "name: mine\nlabel: lable", "no column 'lable'. Did you mean 'label'"),
        ("modalities:", "others:", "modalities is missing"),
        ("features: vector", "type: {kind: vector, column: features}", "cannot be called 'type': torch's containers"),
    ],
)
def test_faults_of_a_manifest(folder: Path, old: str, new: str, part: str) -> None:
    (folder / "mine.yaml").write_text(MANIFEST.replace(old, new, 1))
    with pytest.raises(MmzooError) as seen:
        listed(folder)
    assert part in str(seen.value)


@pytest.mark.parametrize(
    ("content", "part"),
    [
        (b"", "is empty"),
        (b"\n\n", "is empty"),
        (b"id,label,label\n", "the column 'label' more than once"),
        (b"\xff\xfea", "not UTF-8"),
        (b'id,label,title,more,x,y,features\n1,a,"open', "line 2: cannot be read as a row"),
        (b"id,label,title,more,x,y,features\n", "0 classes"),
    ],
)
def test_faults_of_a_table(folder: Path, content: bytes, part: str) -> None:
    (folder / "items.csv").write_bytes(content)
    with pytest.raises(BadValue) as seen:
        listed(folder)
    assert part in str(seen.value)


def test_from_a_manifest_to_a_table_of_results(
    folder: Path, tmp_path: Path, mmzoo: Callable[..., Any], refused: Callable[..., str]
) -> None:
    manifest = folder / "mine.yaml"
    checked = mmzoo("data", "check", manifest).out
    assert "Nothing is wrong" in checked
    out = ("--epochs", "1", "--seeds", "1", "--device", "cpu", "--out", tmp_path / "results")
    planned = mmzoo("bench", "--method", "ogm", "--datasets", manifest, "--plan", *out)
    assert (
        planned.code == 0
        and "prepared or re-checked first" in planned.out
        and not (tmp_path / "home" / "stores").exists()
    )
    sized = [line.strip() for line in checked.splitlines() if ": encoder " in line]
    assert len(sized) == 3 and all(" parameters (" in line and line in planned.out for line in sized)
    two = ("--baselines", "concat", "--set", "mine.modalities=[words, sensors]")
    done = mmzoo("bench", "--method", "ogm", "--no-references", "--datasets", manifest, *two, *out)
    assert done.code == 0 and "mine[modalities=[words,sensors]]" in done.out and "prepared: " in done.out
    again = mmzoo("bench", "--method", "ogm", "--no-references", "--datasets", manifest, *two, *out)
    assert "to do: 0" in again.out and "prepared: " not in again.out
    edited(folder, 4, x="17")  # another table is other data
    assert "to do: 0" not in mmzoo("bench", "--method", "ogm", "--no-references", "--datasets", manifest, *out).out
    edited(folder, 4, x="abc")
    faulty = mmzoo("bench", "--method", "ogm", "--datasets", manifest, *out)
    assert faulty.code == 2 and "items.csv, line 4" in faulty.err and "1 of 60 samples (1.7 %)" in faulty.err
    assert "Decide with mmzoo data prepare: --on-bad drop" in faulty.err
    assert mmzoo("data", "prepare", manifest, "--on-bad", "drop").code == 0
    dropped = mmzoo("bench", "--method", "ogm", "--no-references", "--datasets", manifest, *out)
    assert dropped.code == 0 and "prepared: " not in dropped.out and "| ogm" in dropped.out
    checked = mmzoo("data", "check", manifest, "--quick")
    assert checked.code == 1 and "value: n2 sensors: column x: 'abc'" in checked.out
    assert "no such" in refused("data", "prepare", tmp_path / "nothing.yaml").lower()


def test_tuning_and_the_bench_from_python_make_what_is_missing_too(
    folder: Path, tmp_path: Path, mmzoo: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("optuna")
    few = {"epochs": 1, "device": "cpu", "out": tmp_path / "results"}
    flags = [x for key, value in few.items() for x in (f"--{key}", value)]
    tuned = mmzoo(
        "tune", "--method", "concat", "--no-references", "--datasets", folder / "mine.yaml", "--trials", 1, *flags
    )
    assert tuned.code == 0 and "prepared: " in tuned.out and "| mine" in tuned.out, tuned.err
    monkeypatch.setenv("MMZOO_HOME", str(tmp_path / "other"))
    given = {"datasets": [str(folder / "mine.yaml")], "seeds": 1, "references": False, **few}
    (row,) = package.bench("concat", tune=1, **given)  # type: ignore[operator]
    assert row["status"] == "ok" and row["tuning"]["trials"] == 1 and (tmp_path / "other" / "stores").exists()
    monkeypatch.setenv("MMZOO_HOME", str(tmp_path / "third"))
    with pytest.raises(UnknownName):
        package.bench("concatt", **{**given, "out": tmp_path / "none"})  # type: ignore[operator]
    assert not (tmp_path / "third").exists() and not (tmp_path / "none").exists()


def test_a_few_hundred_mutated_inputs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if not (ROOT / "benchmarks" / "fuzz_data.py").is_file():
        pytest.skip("needs the source tree")
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    from fuzz_data import Fuzzer

    fuzzer = Fuzzer(tmp_path, 3)
    fuzzer.twins = []
    fuzzer.ways.pop("annotation", None)
    fuzzer.run(200)
    assert not fuzzer.failures, "\n".join(fuzzer.failures)
    assert sys.modules.pop("fuzz_data") and sum(fuzzer.counts.values()) == 200


def test_two_manifests_of_one_name_have_stores_of_their_own(tmp_path: Path) -> None:
    folders = []
    for name, rows in (("one", "ab" * 10), ("two", "ab" * 12)):
        (tmp_path / name).mkdir()
        path = tmp_path / name / "own.yaml"
        path.write_text("name: same\ntable: t.csv\nmodalities:\n  x: {kind: vector, columns: [x]}\n")
        (path.parent / "t.csv").write_text("x,label\n" + "".join(f"{i},{c}\n" for i, c in enumerate(rows)))
        source = read_manifest(path)
        folders.append(prepare(source, source.root, jobs=0).store.folder)
        assert not prepare(read_manifest(path), source.root, jobs=0).made
    assert folders[0] != folders[1] and all(f.is_dir() for f in folders)
    entry = own_entry(tmp_path / "one" / "own.yaml", catalogue())
    assert len(chosen_store(entry, entry.defaults(), mini=False)) == 20


def test_a_number_as_key_of_an_encoders_params(tmp_path: Path) -> None:
    path = tmp_path / "own.yaml"
    own = "name: same\ntable: t.csv\nmodalities:\n  x: {kind: vector, columns: [x]}\n"
    path.write_text(own + "encoders: {vector: {name: mlp, params: {3: 1}}}\n")
    (tmp_path / "t.csv").write_text("x,label\n1,a\n2,b\n")
    with pytest.raises(BadValue, match="3"):
        own_entry(path, catalogue())


@pytest.mark.parametrize("table", ["/etc/passwd", "../items.csv", "link.csv"])
def test_a_table_elsewhere_is_refused(table: str, tmp_path: Path, refused: Callable[..., str]) -> None:
    place = tmp_path / "data"
    place.mkdir()
    (tmp_path / "items.csv").write_text("id,label,x\na,0,1\nb,1,2\n")
    (place / "link.csv").symlink_to(tmp_path / "items.csv")
    (place / "own.yaml").write_text(f"name: own\ntable: {table}\nmodalities: {{v: {{kind: vector, columns: [x]}}}}\n")
    said = refused("data", "check", place / "own.yaml")
    assert "line 2: table: leads out of" in said and "root:x" not in said
