"""Series in a user's own table: in columns, in lists, and in files; from the draft of a manifest to a batch."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from mmzoo.data.fields.series import Series
from mmzoo.data.loading.prepared import open_module
from mmzoo.data.own.guessing import guessed
from mmzoo.data.own.manifest import read_manifest
from mmzoo.data.preparing.prepare import prepare
from mmzoo.data.sources.source import Faulty, Values
from mmzoo.errors import BadValue
from mmzoo.registry.plugins import catalogue


@pytest.fixture(autouse=True)
def _home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MMZOO_HOME", str(tmp_path / "home"))


def manifest(folder: Path, rows: list[str], header: str, modalities: str) -> Path:
    (folder / "t.csv").write_text("\n".join([header, *rows]) + "\n")
    (folder / "own.yaml").write_text(f"name: own\ntable: t.csv\nmodalities:\n{modalities}")
    return folder / "own.yaml"


def fields(path: Path) -> dict[str, Series]:
    return dict(read_manifest(path).recipes()["own"].fields)  # type: ignore[arg-type]


def media(path: Path, line: int, modality: str = "s") -> object:
    source = read_manifest(path)
    return source.list(source.root, split="hash").items[line].media.get(modality)


def arrays(folder: Path, n: int = 60, channels: int = 2, swap: bool = False) -> list[str]:
    rows = []
    for i in range(n):
        x = np.full((channels, 5 + i % 4), float(i))
        np.save(folder / f"{i}.npy", x.T if swap else x)
        rows.append(f"{'ab'[i % 2]},{i}.npy,{i}")
    return rows


def test_columns_are_steps_and_empty_ones_at_the_end_are_no_steps(tmp_path: Path) -> None:
    rows = ["a,1,2,3,4", "b,1,2,,", "a,,,,", "b,1,,3,4", "a,NA,2,3,4"]
    path = manifest(tmp_path, rows, "label,t0,t1,t2,t3", "  s: {kind: series, columns: t0..t3}\n")
    assert (fields(path)["s"].channels, fields(path)["s"].length) == (1, 4)
    assert media(path, 0) == Values((1.0, 2.0, 3.0, 4.0)) and media(path, 1) == Values((1.0, 2.0))
    fault = media(path, 2)  # the row without content is left out
    assert isinstance(fault, Faulty) and "t1" in fault.message and "interpolate" in fault.message
    filled = manifest(tmp_path, rows, "label,t0,t1,t2,t3", "  s: {kind: series, columns: t0..t3, fill: interpolate}\n")
    found = media(filled, 2)
    assert isinstance(found, Values) and np.isnan(found.values[1]) and found.values[3] == 4.0


def test_a_list_in_a_cell_is_one_channel(tmp_path: Path) -> None:
    path = manifest(tmp_path, ['a,"[1, 2, 3]"', "b,4 5", "a,6"], "label,s", "  s: series\n")
    assert (fields(path)["s"].channels, fields(path)["s"].length) == (1, 3)
    assert [media(path, i) for i in range(3)] == [Values((1.0, 2.0, 3.0)), Values((4.0, 5.0)), Values((6.0,))]


def test_files_say_how_many_channels_and_steps_there_are(tmp_path: Path) -> None:
    rows = arrays(tmp_path)
    path = manifest(tmp_path, rows, "label,s,x", "  s: series\n")
    assert (fields(path)["s"].channels, fields(path)["s"].length) == (2, 8)
    path = manifest(tmp_path, rows, "label,s,x", "  s: {kind: series, length: 6, rate: 5, from_rate: 10}\n")
    assert (fields(path)["s"].channels, fields(path)["s"].length) == (2, 6)
    path = manifest(tmp_path, rows, "label,s,x", "  s: {kind: series, rate: 5, from_rate: 10}\n")
    assert fields(path)["s"].length == 4


def test_arrays_whose_axes_cannot_be_told_apart_are_refused_until_time_is_named(tmp_path: Path) -> None:
    rows = arrays(tmp_path, swap=True)
    with pytest.raises(BadValue, match="which axis is time"):
        fields(manifest(tmp_path, rows, "label,s,x", "  s: series\n"))
    path = manifest(tmp_path, rows, "label,s,x", "  s: {kind: series, time: first}\n")
    assert (fields(path)["s"].channels, fields(path)["s"].length) == (2, 8)


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ("{kind: series, columns: [x, y], channels: 2}", "leave out channels"),
        ("{kind: series, column: x, time: middle}", "time must be"),
        ("{kind: series, column: x, hop: 3}", "unknown key of kind series"),
        ("{kind: series, column: x, rate: 3}", "go together"),
        ("{kind: series, column: label}", "can be read as a series"),
    ],
)
def test_faults_of_a_manifest_are_told(tmp_path: Path, body: str, words: str) -> None:
    path = manifest(tmp_path, ["a,1,2", "b,3,4"], "label,x,y", f"  s: {body}\n")
    with pytest.raises(BadValue, match=words):
        fields(path)


def test_a_batch_has_values_and_a_mask_cut_to_its_longest(tmp_path: Path) -> None:
    path = manifest(
        tmp_path, arrays(tmp_path), "label,s,x", "  s: {kind: series, length: 20}\n  x: {kind: vector, columns: [x]}\n"
    )
    source = read_manifest(path)
    data = open_module(prepare(source, source.root, jobs=0).store.folder)
    assert (data.spec("s").kind, data.spec("s").shape) == ("series", (2, 20))
    batch = next(iter(data.loader("train", batch_size=64).batches()))
    x = batch.inputs["s"]
    assert x["mask"].dtype == torch.bool and 5 <= x["mask"].shape[1] <= 8
    assert x["values"].shape == (len(batch), 2, x["mask"].shape[1])
    assert not x["values"][~x["mask"][:, None].expand_as(x["values"])].any()
    for name in ("series_cnn", "series_transformer"):
        encoder = catalogue().get("encoders", name).load()(data.spec("s"))
        assert encoder(x).shape == (len(batch), encoder.out_dim)


def test_a_draft_tells_series_from_vectors(tmp_path: Path) -> None:
    arrays(tmp_path, 9)
    for i in range(9):
        np.save(tmp_path / f"v{i}.npy", np.zeros(4))
        (tmp_path / f"{i}.csv").write_text("1,2\n3,4\n")
    steps = ",".join(f"t{i}" for i in range(20))
    rows = [f"{'ab'[i % 2]},{i}.npy,v{i}.npy,{i}.csv,{','.join(['1'] * 20)}" for i in range(9)]
    (tmp_path / "t.csv").write_text("\n".join([f"label,one,two,three,{steps}", *rows]) + "\n")
    text = guessed(tmp_path / "t.csv")
    for line in (
        "one: {kind: series",
        "two: {kind: vector",
        "three: {kind: series",
        "steps in time? then kind: series",
    ):
        assert line in text
