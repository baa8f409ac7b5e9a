"""The splits of a store."""

from __future__ import annotations

from pathlib import Path

import pytest
from helpers.small_dataset import make_toy
from helpers.stores import made
from hypothesis import given, settings
from hypothesis import strategies as st

from mmzoo.data.loading.prepared import open_module
from mmzoo.data.preparing import prepare as prepare_module
from mmzoo.data.store.splits import completed_split

FIXED = settings(derandomize=True, database=None, deadline=None, max_examples=60)


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("MMZOO_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(prepare_module, "CHUNK_ITEMS", 7)
    return tmp_path / "home"


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
