"""What becomes of faulty samples."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from helpers.small_dataset import Toy, faults_of, make_toy
from helpers.stores import made

from mmzoo.data.preparing import prepare as prepare_module
from mmzoo.data.preparing.check import check
from mmzoo.data.preparing.prepare import Progress
from mmzoo.data.sources.faults import FAULTS, policy_of
from mmzoo.errors import BadValue, UnknownName


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("MMZOO_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(prepare_module, "CHUNK_ITEMS", 7)
    return tmp_path / "home"


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
        BadValue, match=r"(?s)3 of 60 samples \(5.0 %\) cannot be used.*missing.*item1.*--allow-missing.*--on-bad drop"
    ) as seen:
        made(root)
    report = Path(str(seen.value).partition("All of them: ")[2].splitlines()[0])
    assert "item8,a,lfs_pointer,error" in report.read_text()
    assert "Files were only looked for: nothing is decoded yet" in str(seen.value)
    with pytest.raises(
        BadValue, match=r"(?s)4 of 60 samples.*item3.*silent.*value"
    ) as seen:  # what only decoding finds, all at once
        made(root, ["missing=drop,empty=drop,lfs_pointer=drop"])
    assert "nothing is decoded yet" not in str(seen.value)


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
