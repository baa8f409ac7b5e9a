"""Correlations within classes: what was planted is found, and what was not is no more than chance."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from mmzoo.data.synthetic.shared import Shared as Planted
from mmzoo.errors import BadValue
from mmzoo.evaluation.shared_variation import shared_variation


def drawn(n: int = 2000, classes: int = 4, **planted: float) -> tuple[Tensor, Tensor, Tensor]:
    found = Planted(classes, {"a": 2.5, "b": 2.5}, context_dim=6, **planted).draw(n, 0)  # type: ignore[arg-type]
    x, y = (torch.from_numpy(np.asarray(found.inputs[m], dtype=np.float64)) for m in "ab")
    return x, y, torch.from_numpy(found.target.astype(np.int64))


@pytest.mark.parametrize(("content", "context"), [(0.0, 0.0), (0.6, 0.0), (0.0, 0.8), (0.5, 0.7)])
def test_what_was_planted_is_found(content: float, context: float) -> None:
    """Within a class the two are Gaussian with these correlations along every direction of each kind."""
    found = shared_variation(*drawn(content=content, context=context), permutations=99)
    for value, planted in ((found.content, content), (found.context, context)):
        assert value is not None
        assert value.value == pytest.approx(planted, abs=0.07)
        assert value.decided == (planted > 0)
        assert (value.p < 0.05) == (planted > 0)
        assert value.chance[0] < 0 < value.chance[1] < 0.1


def test_the_class_alone_is_no_shared_variation() -> None:
    """Both tell the class without an error: over all classes they correlate fully, within classes not at all."""
    g = torch.Generator().manual_seed(3)
    target = torch.arange(300) % 3
    one_hot = torch.nn.functional.one_hot(target).double()
    x, y = (10 * one_hot + torch.randn(300, 3, generator=g, dtype=torch.float64) for _ in range(2))
    found = shared_variation(x, y, target, permutations=99)
    assert found.content is not None and not found.content.decided


def test_the_same_result_again_and_under_any_invertible_map_of_the_features() -> None:
    x, y, target = drawn(400, content=0.5)
    mix = torch.randn(x.shape[1], x.shape[1], generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    once, again = (shared_variation(x, y, target, permutations=9) for _ in range(2))
    moved = shared_variation(x @ mix + 3, y, target, permutations=9)
    assert once == again
    assert once.content is not None and moved.content is not None
    assert moved.content.value == pytest.approx(once.content.value, abs=1e-6)


def test_without_directions_of_a_kind_there_is_none() -> None:
    x, y, target = drawn(200, classes=4)
    found = shared_variation(x[:, :2], y[:, :2], target, permutations=9)
    assert found.content is not None and found.context is None
    constant = shared_variation(torch.ones(200, 3), y, target, permutations=9)
    assert constant.content is None and constant.context is None


@pytest.mark.parametrize("target", [torch.arange(30) % 2, torch.zeros(100, dtype=torch.long)])
def test_too_little_is_refused(target: Tensor) -> None:
    with pytest.raises(BadValue, match="at least 60"):
        shared_variation(torch.randn(len(target), 2), torch.randn(len(target), 2), target)
