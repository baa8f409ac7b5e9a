"""The bundled data set and its fixed split."""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch

from mmzoo.data.datasets.mfeat import VIEWS, _read, load
from mmzoo.data.loading.datamodule import DataModule
from mmzoo.errors import BadValue

#: a folder with mfeat-fou.csv and the other five, as benchmarks/pack_mfeat.py reads them; skipped without one
RAW = os.environ.get("MMZOO_MFEAT_RAW")
WIDTHS = {"fou": 76, "fac": 216, "kar": 64, "pix": 240, "zer": 47, "mor": 6}


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
    raw = _read(VIEWS)
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
    packed = _read(VIEWS)
    for v in VIEWS:
        published = np.loadtxt(Path(str(RAW)) / f"mfeat-{v}.csv", delimiter=",", skiprows=1)
        np.testing.assert_array_equal(packed[v], published[:, :-1])
        np.testing.assert_array_equal(packed["label"], published[:, -1])
