"""Stores: made once, resumable, the same whoever makes them."""

from __future__ import annotations

import hashlib
import multiprocessing
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.small_dataset import make_toy
from helpers.stores import made, prepare_in_a_process
from helpers.watchdog import watchdog

from mmzoo.data.loading.prepared import open_module
from mmzoo.data.preparing import prepare as prepare_module
from mmzoo.data.preparing.prepare import Progress
from mmzoo.data.store.home import MARKER


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("MMZOO_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(prepare_module, "CHUNK_ITEMS", 7)
    return tmp_path / "home"


def contents(folder: Path) -> dict[str, str]:
    return {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in folder.iterdir() if p.name != "prepared.json"}


# ---------------------------------------------------------------------- what is stored
def test_a_store_holds_what_was_read(tmp_path: Path) -> None:
    store = made(make_toy(tmp_path / "toy")).store
    assert len(store) == 60 and store.modalities == ("a", "b") and store.meta["classes"] == ["x", "y", "z"]
    wanted = np.array([[i + k / 10 for k in range(4)] for i in range(60)], np.float32)
    np.testing.assert_array_equal(store.array("a"), wanted)
    present = store.present()
    assert present is not None
    assert present[:, 0].all() and [bool(p) for p in present[:, 1]] == [bool(i % 5) for i in range(60)]
    np.testing.assert_array_equal(store.array("b")[1], [1, -1])
    np.testing.assert_array_equal(store.array("b")[5], [0, 0])
    assert list(store.meta["splits"]) == ["published", "hash", "groups"]
    assert store.meta["unavailable"] == {"absent": "the list is not there; see its publisher"}
    assert store.index[7].where == "list:7" and store.index[7].groups == {"published": "", "hash": "", "groups": "g1"}
    assert np.load(store.folder / "a.npy").shape == (60, 4)  # any reader of .npy can open it


def test_batches_that_are_kept_stay_as_they_were(tmp_path: Path) -> None:
    """Rows pass through memory that is used again; what a transform hands on must not."""
    data = open_module(made(make_toy(tmp_path / "toy")).store.folder)
    loader = data.loader("train", "test", batch_size=8)
    kept = list(loader.batches())
    for m, x in data.inputs.items():
        at_once = loader._transforms[m](x.take(torch.cat([b.index for b in kept])), None)
        torch.testing.assert_close(torch.cat([b.inputs[m] for b in kept]), at_once, rtol=0, atol=0)
    two = zip(loader.batches(), loader.batches(torch.Generator().manual_seed(0)))
    for a, (b, _) in zip(kept, two):
        assert all(torch.equal(a.inputs[m], b.inputs[m]) for m in a.inputs)


def test_nothing_is_read_by_len_and_repr_and_rows_are_mapped(tmp_path: Path) -> None:
    data = open_module(made(make_toy(tmp_path / "toy")).store.folder)
    column = data.inputs["a"]
    assert isinstance(column._arrays[""], np.memmap) and column._arrays[""].flags.writeable is False
    assert len(column) == 60 and "60 rows" in repr(column) and isinstance(column.select.__self__._arrays[""], np.memmap)
    loader = data.loader("test", batch_size=4)
    assert isinstance(loader._columns["a"]._arrays[""], np.memmap)  # type: ignore[attr-defined]
    shared = np.shares_memory(loader._columns["a"]._arrays[""], column._arrays[""])  # type: ignore[attr-defined]
    assert shared and loader._columns["a"].take(loader.index.new_tensor([0]))[0, 0] == data.splits["test"][0]


def test_another_process_reads_the_same(tmp_path: Path) -> None:
    store = made(make_toy(tmp_path / "toy")).store
    code = f"from mmzoo.data.store.store import DataStore; from pathlib import Path; print(float(DataStore(Path({str(store.folder)!r})).array('a').sum()))"
    told = [subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) for _ in range(2)]
    assert [float(p.communicate()[0]) for p in told] == [float(store.array("a").sum())] * 2


def test_a_second_prepare_does_nothing_until_a_file_changes(tmp_path: Path) -> None:
    root = make_toy(tmp_path / "toy")
    first = made(root)
    assert first.made and not made(root).made
    (root / "3.txt").write_text("9 9 9 9")
    again = made(root)
    assert again.made and again.store.content != first.store.content
    np.testing.assert_array_equal(again.store.array("a")[3], [9, 9, 9, 9])
    assert not list(again.store.folder.parent.glob("*.part")) and not list(again.store.folder.parent.glob("*.old"))


def test_the_store_does_not_depend_on_where_the_data_lies_nor_on_workers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = contents(made(make_toy(tmp_path / "toy")).store.folder)
    monkeypatch.setenv("MMZOO_HOME", str(tmp_path / "other"))
    assert contents(made(make_toy(tmp_path / "elsewhere" / "toy"), jobs=2).store.folder) == here


# ---------------------------------------------------------------------- interrupted
class Killed(BaseException):
    pass


def kill_after(n: int) -> Progress:
    def step(stage: str, done: int, total: int) -> None:
        nonlocal n
        n -= 1
        if n < 0:
            raise Killed

    return Progress(step=step)


@pytest.mark.parametrize("after", [0, 1, 8, 30, 58, 60, 62])
def test_a_prepare_that_was_stopped_ends_bit_for_bit_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, after: int
) -> None:
    root = make_toy(tmp_path / "toy", _3="defect", _9="")
    wanted = contents(made(root, ["drop"]).store.folder)
    monkeypatch.setenv("MMZOO_HOME", str(tmp_path / "again"))
    with pytest.raises(Killed):
        made(root, ["drop"], progress=kill_after(after))
    assert not list((tmp_path / "again" / "stores" / "toy").glob("*[!t]/meta.json"))
    journals = list((tmp_path / "again").glob("stores/toy/*.part/journal.jsonl"))
    for journal in journals:
        with journal.open("ab") as file:  # as a kill leaves it that came in the middle of a line
            file.write(b'{"chunk": 99, "fau')
    assert contents(made(root, ["drop"]).store.folder) == wanted


def test_what_was_decoded_is_not_decoded_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = make_toy(tmp_path / "toy")
    with pytest.raises(Killed):
        made(root, progress=kill_after(31))
    counted = []
    made(root, progress=Progress(step=lambda stage, done, total: counted.append(done) if stage == "decode" else None))
    assert counted[0] == 28 and counted[-1] == 60 and len(counted) == 33


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
@pytest.mark.parametrize("name", ["plan.json", "journal.jsonl", "a.npy"])
def test_a_pipe_in_an_unfinished_store_holds_nobody_up(tmp_path: Path, home: Path, name: str) -> None:
    root = make_toy(tmp_path / "toy")
    with pytest.raises(Killed):
        made(root, progress=kill_after(31))
    (part,) = home.glob("stores/toy/*.part")
    (part / name).unlink()
    os.mkfifo(part / name)
    with watchdog(30):
        assert len(made(root).store) == 60


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
def test_a_pipe_in_the_place_of_what_is_noted_of_a_store_holds_nobody_up(tmp_path: Path) -> None:
    root = make_toy(tmp_path / "toy")
    noted = made(root).store.folder / "prepared.json"
    noted.unlink()
    os.mkfifo(noted)
    os.mkfifo(root / MARKER)
    with watchdog(30):
        assert len(made(root).store) == 60


def test_two_prepares_at_once_make_one_store(tmp_path: Path, home: Path) -> None:
    root = make_toy(tmp_path / "toy")
    context = multiprocessing.get_context("spawn")
    both = [context.Process(target=prepare_in_a_process, args=(str(root), str(home))) for _ in range(2)]
    for process in both:
        process.start()
    for process in both:
        process.join()
    assert [p.exitcode for p in both] == [0, 0]
    done = made(root)
    assert not done.made
    done.store.verify()
