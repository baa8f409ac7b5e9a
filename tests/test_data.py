"""The bundled data set and its fixed split, and the order in which loaders show items."""

from __future__ import annotations

import os
from collections import Counter
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from mmzoo.data.datasets.mfeat import VIEWS, _read, load
from mmzoo.data.loading.datamodule import DataModule, Loader
from mmzoo.data.store.splits import hashed_split, split_hash
from mmzoo.errors import BadValue, UnknownName

FIXED = settings(derandomize=True, database=None, deadline=None, max_examples=60)
#: a folder with mfeat-fou.csv and the other five, as benchmarks/pack_mfeat.py reads them; skipped without one
RAW = os.environ.get("MMZOO_MFEAT_RAW")
WIDTHS = {"fou": 76, "fac": 216, "kar": 64, "pix": 240, "zer": 47, "mor": 6}


@pytest.fixture(scope="module")
def mfeat() -> DataModule:
    return load(views=VIEWS)


# ---------------------------------------------------------------------- mfeat
def test_mfeat_has_its_published_sizes(mfeat: DataModule) -> None:
    assert {m: mfeat.shape(m) for m in mfeat.modalities} == {v: (w,) for v, w in WIDTHS.items()}
    assert len(mfeat.target) == 2000 and mfeat.n_classes == 10
    assert torch.equal(mfeat.target.bincount(), torch.full((10,), 200))
    assert {m: x.dtype for m, x in mfeat.inputs.items()} == dict.fromkeys(VIEWS, torch.float32)


def test_the_split_is_a_stratified_partition(mfeat: DataModule) -> None:
    sizes = {"train": 800, "slice": 200, "holdout": 500, "test": 500}
    assert {name: len(rows) for name, rows in mfeat.splits.items()} == sizes
    assert sorted(r for rows in mfeat.splits.values() for r in rows) == list(range(2000))
    for rows in mfeat.splits.values():
        assert list(rows) == sorted(rows)
        assert set(Counter(mfeat.target[list(rows)].tolist()).values()) == {len(rows) // 10}


def test_the_split_never_changes(mfeat: DataModule) -> None:
    assert mfeat.split_hash == "462e102e4ad2a44a"
    assert load().split_hash == mfeat.split_hash
    assert load(labels=10).split_hash == "65a8c9baf418b458"
    assert [load().recipe_hash, mfeat.recipe_hash] == ["ccf5cde650270144", "dae2fe4e6dc6975e"]


def test_features_are_standardised_by_the_training_items_only(mfeat: DataModule) -> None:
    fitted = mfeat.splits["train"] + mfeat.splits["slice"]  # type: ignore[operator]
    raw = _read()
    for v in VIEWS:
        mean, deviation = raw[v][fitted].mean(0), raw[v][fitted].std(0)
        wanted = (raw[v] - mean) / np.where(deviation > 0, deviation, 1)
        np.testing.assert_allclose(mfeat.inputs[v].numpy(), wanted, rtol=1e-5, atol=1e-6)
        assert mfeat.inputs[v][fitted].mean(0).abs().max() < 1e-5
        # All items together have another mean: nothing of holdout or test went in.
        assert mfeat.inputs[v].mean(0).abs().max() > 1e-4


def test_few_labels_are_some_of_the_training_items(mfeat: DataModule) -> None:
    few = load(views=VIEWS, labels=10)
    assert {n: len(few.splits[n]) for n in ("train", "slice")} == {"train": 80, "slice": 20}
    for name in ("train", "slice"):
        assert set(few.splits[name]) < set(mfeat.splits[name])
        assert set(Counter(few.target[list(few.splits[name])].tolist()).values()) == {len(few.splits[name]) // 10}
    assert few.splits["holdout"] == mfeat.splits["holdout"] and few.splits["test"] == mfeat.splits["test"]
    used = few.splits["train"] + few.splits["slice"]  # type: ignore[operator]
    assert few.inputs["fou"][used].mean(0).abs().max() < 1e-5
    nested = load(labels=20)
    assert set(few.splits["slice"]) < set(nested.splits["slice"])
    assert load(labels=100).splits == load().splits


def test_views_come_in_the_data_set_s_order() -> None:
    assert load(views=("zer", "fou")).modalities == ("fou", "zer")
    assert torch.equal(load(views=("zer", "fou")).inputs["zer"], load(views=("zer",)).inputs["zer"])


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        ({"views": ("fou", "nope")}, "no view 'nope'; it has fou, fac"),
        ({"views": ()}, "not none"),
        ({"views": ("fou", "fou")}, "not fou, fou"),
        ({"labels": 4}, "between 5 and 100"),
        ({"labels": 101}, "not 101"),
    ],
)
def test_what_mfeat_does_not_have(arguments: dict[str, object], part: str) -> None:
    with pytest.raises(BadValue, match=part):
        load(**arguments)  # type: ignore[arg-type]


@pytest.mark.skipif(RAW is None, reason="MMZOO_MFEAT_RAW names no folder of CSV files")
def test_the_bundled_numbers_are_the_published_ones() -> None:
    packed = _read()
    for v in VIEWS:
        published = np.loadtxt(Path(str(RAW)) / f"mfeat-{v}.csv", delimiter=",", skiprows=1)
        np.testing.assert_array_equal(packed[v], published[:, :-1])
        np.testing.assert_array_equal(packed["label"], published[:, -1])


# ---------------------------------------------------------------------- splits
@FIXED
@given(n=st.integers(1, 60), classes=st.integers(1, 4), extra=st.integers(1, 10))
def test_a_hashed_split_is_a_partition_that_the_order_of_items_does_not_change(
    n: int, classes: int, extra: int
) -> None:
    shares = {"train": Fraction(1, 2), "slice": Fraction(1, 10), "holdout": Fraction(1, 5), "test": Fraction(1, 5)}
    items, labels = [f"item-{i}" for i in range(n)], [i % classes for i in range(n)]
    split = hashed_split(items, labels, shares, salt="s")
    assert sorted(r for rows in split.values() for r in rows) == list(range(n))
    back = hashed_split(items[::-1], labels[::-1], shares, salt="s")
    where = {items[r]: name for name, rows in split.items() for r in rows}
    assert where == {items[::-1][r]: name for name, rows in back.items() for r in rows}
    assert n < 8 or split != hashed_split(items, labels, shares, salt="t") or len(set(where.values())) == 1
    assert split_hash(items, split) == split_hash(items, dict(reversed(split.items())))


# ---------------------------------------------------------------------- loaders
def loader(index: Tensor, batch_size: int, present: Tensor | None = None) -> Loader:
    inputs = {"a": index[:, None].float(), "b": {"ids": index[:, None] * 2, "mask": index[:, None] * 0 + 1}}
    return Loader(inputs, index * 10, index, present, batch_size=batch_size)


def order(of: Loader, seed: int | None = 0) -> list[int]:
    generator = None if seed is None else torch.Generator().manual_seed(seed)
    return torch.cat([b.index for b in of.batches(generator)]).tolist()


@FIXED
@given(n=st.integers(1, 50), size=st.integers(1, 12), seed=st.integers(0, 99))
def test_an_epoch_shows_every_item_once_with_all_that_belongs_to_it(n: int, size: int, seed: int) -> None:
    made = loader(torch.arange(n), size)
    batches = list(made.batches(torch.Generator().manual_seed(seed)))
    assert len(batches) == len(made) and made.n_items == n
    assert sorted(order(made, seed)) == list(range(n)) and order(made, None) == list(range(n))
    for b in batches:
        assert torch.equal(b.target, b.index * 10)
        assert torch.equal(b.inputs["a"][:, 0], b.index.float())
        assert torch.equal(b.inputs["b"]["ids"][:, 0], b.index * 2)
    assert order(made, seed) == order(made, seed)


@FIXED
@given(n=st.integers(1, 60), size=st.integers(2, 12))
def test_no_batch_of_one_unless_there_is_but_one_item(n: int, size: int) -> None:
    sizes = [len(b) for b in loader(torch.arange(n), size).batches()]
    assert sum(sizes) == n and all(s == size for s in sizes[:-1])
    assert sizes[-1] <= size + 1 and (n == 1 or min(sizes) > 1)


@FIXED
@given(n=st.integers(1, 40), keep=st.sets(st.integers(0, 39), min_size=1), seed=st.integers(0, 99))
def test_leaving_rows_out_does_not_reorder_the_rest(n: int, keep: set[int], seed: int) -> None:
    """Keys are drawn by row number, so a smaller set shows its items in the order of the larger one."""
    rows = sorted(r for r in keep if r < n) or [0]
    every, some = loader(torch.arange(n), 7), loader(torch.tensor(rows), 7)
    assert order(some, seed) == [r for r in order(every, seed) if r in rows]


@FIXED
@given(rows=st.lists(st.integers(0, 11), min_size=1, max_size=30), seed=st.integers(0, 99))
def test_other_rows_may_occur_more_than_once(rows: list[int], seed: int) -> None:
    sampled = loader(torch.arange(12) + 100, 5).sampled(torch.tensor(rows))
    assert sampled.n_items == len(rows)
    assert sorted(order(sampled, seed)) == sorted(r + 100 for r in rows)
    assert order(sampled, None) == [r + 100 for r in rows]


def test_each_modality_may_have_rows_of_its_own_and_be_dropped() -> None:
    present = torch.ones(4, 2, dtype=torch.bool)
    present[3, 1] = False
    rows = torch.tensor([[0, 3], [1, 2], [2, 2]])
    drop = torch.tensor([[False, False], [True, False], [False, False]])
    (batch,) = loader(torch.arange(4), 8, present).sampled(rows, drop).batches()
    assert batch.inputs["a"][:, 0].tolist() == [0, 1, 2] and batch.inputs["b"]["ids"][:, 0].tolist() == [6, 4, 4]
    assert batch.target.tolist() == [0, 10, 20]  # that of the first column
    assert batch.present is not None
    assert batch.present.tolist() == [[True, False], [False, True], [True, True]]


def test_a_module_gives_loaders_of_some_splits_and_some_modalities(mfeat: DataModule) -> None:
    both = mfeat.loader("train", "slice", batch_size=64)
    assert both.index.tolist() == sorted([*mfeat.splits["train"], *mfeat.splits["slice"]])
    assert mfeat.only(("zer", "fou")).modalities == ("fou", "zer")
    assert mfeat.only(("fou",)).split_hash == mfeat.split_hash
    with pytest.raises(UnknownName, match=r"no split of mfeat 'tset'. Did you mean 'test'"):
        mfeat.loader("tset", batch_size=1)
    with pytest.raises(UnknownName, match=r"no modality of mfeat 'foo'. Did you mean 'fou'"):
        mfeat.only(("foo",))
    with pytest.raises(BadValue, match="batch_size must be at least 1, not 0"):
        mfeat.loader("test", batch_size=0)


def test_the_slice_only_takes_items_away_from_the_order(mfeat: DataModule) -> None:
    """A strategy with a slice of its own sees the other items in the order in which plain training sees them."""
    apart, both = (mfeat.loader(*s, batch_size=64) for s in (("train",), ("train", "slice")))
    rows = set(mfeat.splits["train"])
    assert order(apart, 5) == [r for r in order(both, 5) if r in rows]
