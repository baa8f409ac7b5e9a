"""The map as a data set: what a user names, and what the bench gets."""

from __future__ import annotations

import pytest
import torch

from mmzoo.config.datasets import resolve_dataset
from mmzoo.config.grammar import dataset_names, dataset_options
from mmzoo.config.settings import Settings
from mmzoo.data.datasets.map import load
from mmzoo.errors import BadValue, UnknownName
from mmzoo.registry.plugins import catalogue


def test_splits_and_bayes() -> None:
    data = load(items=100, content=0.6)
    assert {k: len(v) for k, v in data.splits.items()} == {"train": 80, "slice": 20, "holdout": 1000, "test": 4000}
    assert list(data.bayes) == ["a", "b", "a+b"]
    assert data.best == data.bayes["a+b"] == pytest.approx(0.889, abs=0.001)
    assert data.bayes["a"] == data.bayes["b"] == pytest.approx(0.835, abs=0.001)


def test_more_items_leave_validation_and_test_of_the_same_law_and_number() -> None:
    assert len(load(items=200).splits["test"]) == len(load(items=100).splits["test"])


def test_training_samples_are_standardised_and_absent_ones_are_zeros() -> None:
    data = load(items=400, missing=0.4, views=("a", "b", "c"))
    assert data.present is not None
    for i, m in enumerate(data.modalities):
        x, there = data.inputs[m], data.present[:, i]
        assert torch.equal(x[~there], torch.zeros_like(x[~there]))
        assert torch.allclose(x[:400][there[:400]].mean(0), torch.zeros(x.shape[1]), atol=1e-5)


@pytest.mark.parametrize(
    "bad", [{"views": ("a", "e")}, {"views": ()}, {"strength": {"c": 1.0}}, {"items": 10, "classes": 8}]
)
def test_what_cannot_be_is_refused_with_words(bad: dict[str, object]) -> None:
    with pytest.raises(BadValue, match="map"):
        load(**bad)  # type: ignore[arg-type]


def test_values_may_follow_the_name() -> None:
    label, entry, params = resolve_dataset(catalogue(), "map:content=0.6,hard=1", Settings(catalogue(), ()))
    assert (label, entry.name, params["content"], params["hard"]) == ("map[content=0.6,hard=1]", "map", 0.6, 1)
    label, _, params = resolve_dataset(catalogue(), "mfeat:fou_mor,labels=20", Settings(catalogue(), ()))
    assert (label, params["labels"], params["views"]) == ("mfeat:fou_mor[labels=20]", 20, ("fou", "mor"))


def test_values_after_the_name_go_before_settings() -> None:
    settings = Settings(catalogue(), [("map.hard", 3), ("map.content", 0.2)])
    params = resolve_dataset(catalogue(), "map:hard=1", settings)[2]
    assert (params["hard"], params["content"]) == (1, 0.2)


def test_a_value_that_is_not_there_is_refused() -> None:
    with pytest.raises(UnknownName, match="content"):
        resolve_dataset(catalogue(), "map:contents=0.6", Settings(catalogue(), ()))
    with pytest.raises(BadValue, match=r"0\.99"):
        resolve_dataset(catalogue(), "map:content=1.0", Settings(catalogue(), ()))


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("mfeat,map", ("mfeat", "map")),
        ("map:content=0.6,hard=1,mfeat", ("map:content=0.6,hard=1", "mfeat")),
        ("map:views=[a,c],hard=1,map", ("map:views=[a,c],hard=1", "map")),
        ("mfeat:six,labels=20,own.yaml", ("mfeat:six,labels=20", "own.yaml")),
        ("map:strength={a: 1, b: 2},mfeat", ("map:strength={a: 1, b: 2}", "mfeat")),
    ],
)
def test_a_list_of_data_sets_with_values(text: str, names: tuple[str, ...]) -> None:
    assert dataset_names(text) == names


@pytest.mark.parametrize("text", ["hard=1", "mfeat,hard=1", "a,,b", ""])
def test_a_list_that_means_nothing(text: str) -> None:
    with pytest.raises(BadValue):
        dataset_names(text)


def test_options_are_a_preset_and_settings() -> None:
    assert dataset_options("six,labels=20") == ("six", {"labels": 20})
    assert dataset_options("hard=1,views=[a,c]") == ("", {"hard": 1, "views": ["a", "c"]})
    assert dataset_options("mini") == ("mini", {})
