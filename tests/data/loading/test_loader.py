"""The order in which loaders show samples."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from mmzoo.data.loading.datamodule import DataModule, Loader
from mmzoo.errors import BadValue, UnknownName

FIXED = settings(derandomize=True, database=None, deadline=None, max_examples=60)


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
