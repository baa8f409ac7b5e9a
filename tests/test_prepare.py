"""Stores: made once, resumable, valid or absent; and what becomes of faulty items."""

from __future__ import annotations

import hashlib
import importlib
import json
import multiprocessing
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from data_helpers import Toy, faults_of, make_toy
from hypothesis import given, settings
from hypothesis import strategies as st

from mmzoo.data.loading.prepared import open_module
from mmzoo.data.preparing import prepare as prepare_module
from mmzoo.data.preparing.check import check
from mmzoo.data.preparing.prepare import Prepared, Progress, prepare
from mmzoo.data.sources.faults import FAULTS, policy_of
from mmzoo.data.store.splits import completed_split
from mmzoo.data.store.store import DataStore
from mmzoo.errors import BadValue, CorruptFile, MmzooError, UnknownName

FIXED = settings(derandomize=True, database=None, deadline=None, max_examples=60)


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("MMZOO_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(prepare_module, "CHUNK_ITEMS", 7)
    return tmp_path / "home"


def made(root: Path, on_bad: Sequence[str] | None = None, jobs: int = 0, **more: object) -> Prepared:
    return prepare(Toy(), root, jobs=jobs, on_bad=on_bad, sync_every=0.0, **more)  # type: ignore[arg-type]


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


def _prepare_in_a_process(root: str, home: str) -> None:
    import os

    os.environ["MMZOO_HOME"] = home
    prepare(Toy(), Path(root), jobs=0, sync_every=0.0)


def test_two_prepares_at_once_make_one_store(tmp_path: Path, home: Path) -> None:
    root = make_toy(tmp_path / "toy")
    context = multiprocessing.get_context("spawn")
    plain = importlib.import_module(Path(__file__).stem)  # under "tests" a process may find another package's
    both = [context.Process(target=plain._prepare_in_a_process, args=(str(root), str(home))) for _ in range(2)]
    for process in both:
        process.start()
    for process in both:
        process.join()
    assert [p.exitcode for p in both] == [0, 0]
    done = made(root)
    assert not done.made
    done.store.verify()


# ---------------------------------------------------------------------- faulty items
BAD = {
    "_1": "",
    "_2": "empty",
    "_3": "defect",
    "_4": "1 2",
    "_6": "silent",
    "_7": "nan",
    "_8": "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n",
    "_11": "10.0 10.1 10.2 10.3",
}
KINDS = {1: "missing", 2: "empty", 3: "broken", 4: "broken", 6: "silent", 7: "value", 8: "lfs_pointer"}


def test_a_partial_set_is_refused_with_counts_names_and_a_next_step(tmp_path: Path) -> None:
    root = make_toy(tmp_path / "toy", **BAD)
    with pytest.raises(
        BadValue, match=r"(?s)3 of 60 items \(5.0 %\) cannot be used.*missing.*item1.*--allow-missing.*--on-bad drop"
    ) as seen:
        made(root)
    report = Path(str(seen.value).partition("All of them: ")[2].splitlines()[0])
    assert "item8,a,lfs_pointer,error" in report.read_text()
    with pytest.raises(
        BadValue, match=r"(?s)4 of 60 items.*item3.*silent.*value"
    ):  # what only decoding finds, all at once
        made(root, ["missing=drop,empty=drop,lfs_pointer=drop"])


@pytest.mark.parametrize("jobs", [0, 2])
def test_faulty_items_are_dropped_and_named(tmp_path: Path, jobs: int) -> None:
    done = made(make_toy(tmp_path / "toy", **BAD), ["drop"], jobs=jobs)
    assert faults_of(done) == {(kind, f"item{i}", "drop") for i, kind in KINDS.items()} | {
        ("duplicate", "item11", "keep")
    }
    assert {r.id for r in done.store.index} == {f"item{i}" for i in range(60)} - {f"item{i}" for i in KINDS}
    rows = {r.id: r.row for r in done.store.index}
    np.testing.assert_array_equal(done.store.array("a")[rows["item9"]], np.float32([9, 9.1, 9.2, 9.3]))


def test_faulty_items_may_be_blank_or_kept(tmp_path: Path) -> None:
    root = make_toy(tmp_path / "toy", **BAD)
    done = made(root, ["blank"])
    rows = {r.id: r.row for r in done.store.index}
    assert len(rows) == 60 and not any(done.store.array("a")[rows[f"item{i}"]].any() for i in KINDS)
    kept = made(root, ["blank,silent=keep"]).store  # the row that was blank has its content again
    assert kept.array("a")[6].tolist() == [7, 7, 7, 7] and not kept.array("a")[3].any()


def test_what_a_prepare_decoded_before_it_refused_is_used(tmp_path: Path) -> None:
    root = make_toy(tmp_path / "toy", _3="defect")
    with pytest.raises(BadValue, match="broken"):
        made(root)
    counted = []
    made(root, ["drop"], progress=Progress(step=lambda stage, done, total: counted.append((stage, done))))
    assert [done for stage, done in counted if stage == "decode"] == [60]


def test_a_decoder_that_crashes_or_hangs_costs_one_item(tmp_path: Path) -> None:
    done = made(make_toy(tmp_path / "toy", _3="crash", _20="hang"), ["drop"], jobs=2, patience=1.0)
    assert faults_of(done) == {("broken", "item3", "drop"), ("broken", "item20", "drop")}
    assert {f.message for f, _ in done.faults} == {
        "the decoder crashes on it",
        "the decoder did not come to an end in 1 s",
    }


def test_check_finds_what_prepare_finds_and_writes_nothing(tmp_path: Path, home: Path) -> None:
    root = make_toy(tmp_path / "toy", **BAD)
    _, found = check(Toy(), root, jobs=0)
    assert {(f.kind, f.item) for f in found} == {(k, f"item{i}") for i, k in KINDS.items()} | {("duplicate", "item11")}
    _, quick = check(Toy(), root, quick=True)
    assert {f.kind for f in quick} == {"missing", "empty", "lfs_pointer"} and not home.exists()


def test_policies() -> None:
    assert set(policy_of([])) == set(FAULTS) and policy_of([])["duplicate"] == "keep"
    assert policy_of(["silent=keep,drop"])["silent"] == "keep" and policy_of(["drop"])["missing"] == "drop"
    assert policy_of(["duplicate=drop"])["duplicate"] == "drop"
    for texts, part in (
        (["dorp"], "Did you mean 'drop'"),
        (["mising=drop"], "Did you mean 'missing'"),
        (["keep"], "nothing of a"),
    ):
        with pytest.raises((BadValue, UnknownName), match=part):
            policy_of(texts)


# ---------------------------------------------------------------------- changed or half
def changed(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-3] ^= 1
    path.write_bytes(bytes(data))


@pytest.mark.parametrize("name", ["a.npy", "b.npy", "index.csv", "present.npy"])
@pytest.mark.parametrize(
    "how", [changed, lambda p: p.write_bytes(p.read_bytes()[:-1]), Path.unlink], ids=["changed", "cut", "gone"]
)
def test_a_changed_file_is_refused(tmp_path: Path, name: str, how: Callable[[Path], object]) -> None:
    folder = made(make_toy(tmp_path / "toy")).store.folder
    how(folder / name)
    with pytest.raises(CorruptFile, match=rf"{name} cannot be used.*prepare the data again"):
        open_module(folder)
    with pytest.raises(CorruptFile):
        DataStore(folder).verify()
    assert made(tmp_path / "toy").made  # and the next prepare makes it anew
    open_module(folder)


@pytest.mark.parametrize(
    "edit",
    [
        lambda m: m.update(format=2),
        lambda m: m.update(classes=["x"]),
        lambda m: m["recipe"].update(hash="0"),
        lambda m: m.clear(),
        lambda m: m["files"].update({"../x": {"bytes": 1, "sha256": ""}}),
        lambda m: m.update(splits=[]),
        lambda m: m.pop("rows"),
        lambda m: m["modalities"]["a"]["arrays"][""].update(shape=[-1]),
        lambda m: m["recipe"].update(fields=[["a"]]),
    ],
)
def test_a_meta_json_that_does_not_fit_is_refused(tmp_path: Path, edit: Callable[[dict[str, object]], object]) -> None:
    folder = made(make_toy(tmp_path / "toy")).store.folder
    meta = json.loads((folder / "meta.json").read_text())
    edit(meta)
    (folder / "meta.json").write_text(json.dumps(meta))
    with pytest.raises(CorruptFile, match=r"meta\.json cannot be used"):
        DataStore(folder)


def test_errors_name_what_was_given(tmp_path: Path) -> None:
    root = make_toy(tmp_path / "toy")
    with pytest.raises(UnknownName, match=r"no recipe of toy 'papr'. Did you mean 'paper'"):
        prepare(Toy(), root, "papr")
    with pytest.raises(BadValue, match="nowhere is no folder"):
        prepare(Toy(), tmp_path / "nowhere")
    store = made(root).store
    with pytest.raises(
        UnknownName, match=r"no split of the prepared toy 'absent'.*the list is not there; see its publisher"
    ):
        open_module(store.folder, split="absent")
    with pytest.raises(MmzooError, match="prepared anew in the meantime"):
        open_module(store.folder, content="0")


# ---------------------------------------------------------------------- splits
def test_the_splits_of_a_store(tmp_path: Path) -> None:
    folder = made(make_toy(tmp_path / "toy")).store.folder
    published, hashed, grouped = (open_module(folder, split=s) for s in ("published", "hash", "groups"))
    assert list(published.splits["test"]) == [i for i in range(60) if i % 4 == 0]
    for data in (published, hashed, grouped):
        assert sorted(r for rows in data.splits.values() for r in rows) == list(range(60)) and all(data.splits.values())
    assert len({d.split_hash for d in (published, hashed, grouped)}) == 3
    sides = {
        r // 6: {name for name, rows in grouped.splits.items() for q in rows if q // 6 == r // 6} for r in range(60)
    }
    assert all(len(s) == 1 for s in sides.values())
    shown = grouped.loader("train", "slice", batch_size=8)
    assert set(shown.index.tolist()) == {*grouped.splits["train"], *grouped.splits["slice"]}


@FIXED
@given(
    n=st.integers(40, 200),
    classes=st.integers(1, 5),
    size=st.integers(1, 4),
    sides=st.sampled_from(["", "train", "mixed"]),
)
def test_a_completed_split_is_a_partition_that_keeps_groups_and_what_is_published(
    n: int, classes: int, size: int, sides: str
) -> None:
    items, labels = [f"i{i}" for i in range(n)], [(i * 7) % classes for i in range(n)]
    groups = [f"g{i // size}" if size > 1 else "" for i in range(n)]
    side = [
        "test" if sides == "mixed" and i // size % 3 == 0 else sides if sides != "mixed" else "train" for i in range(n)
    ]
    split = completed_split(items, labels, side, groups, salt="s")
    assert sorted(r for rows in split.values() for r in rows) == list(range(n))
    if sides == "mixed":
        assert split["test"] == [i for i in range(n) if side[i] == "test"]
    where = {r: name for name, rows in split.items() for r in rows}
    if size > 1:
        assert all(len({where[r] for r in range(n) if groups[r] == g}) == 1 for g in set(groups))
    total = len(split["train"]) + len(split["slice"]) + len(split["holdout"])
    assert abs(len(split["holdout"]) - total / 10) <= max(size * classes, classes)
    back = completed_split(items[::-1], labels[::-1], side[::-1], groups[::-1], salt="s")
    assert {n - 1 - r: name for name, rows in back.items() for r in rows} == where
