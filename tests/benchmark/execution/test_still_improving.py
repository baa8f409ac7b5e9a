"""When a row says that more epochs may have helped it."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mmzoo.benchmark.execution.scoring import still_improving


def history(losses: list[float]) -> list[dict[str, dict[str, float]]]:
    return [{"train": {"loss/task": loss, "alpha": 9.0}} for loss in losses]


@pytest.mark.parametrize(
    ("losses", "chosen", "words"),
    [
        ([1.0] * 20, 5, []),
        ([1.0] * 20, 17, []),
        ([1.0] * 20, 18, ["last tenth (19 of 20)"]),
        ([1.0 - 0.04 * i for i in range(20)], 5, ["has not flattened"]),
        ([1.0 - 0.04 * i for i in range(20)], 19, ["last tenth (20 of 20)", "has not flattened"]),
        ([1.0] * 18 + [0.96, 0.96], 5, []),
        ([0.004 - 0.0002 * i for i in range(20)], 5, []),
        ([1.0], 0, ["last tenth (1 of 1)"]),
        ([2.0, 1.0], 0, ["has not flattened (2 to 1"]),
    ],
)
def test_by_the_epoch_and_by_the_loss(losses: list[float], chosen: int, words: list[str]) -> None:
    found = still_improving(history(losses), chosen, len(losses))
    assert len(found) == len(words) and all(w in text for w, text in zip(words, found))


def test_a_run_that_stopped_itself_is_not_said_to_have_ended_early() -> None:
    assert still_improving(history([1.0] * 5), 4, 20) == []


@settings(derandomize=True, max_examples=50, deadline=None)
@given(st.lists(st.floats(0.01, 10), min_size=4, max_size=60))
def test_a_loss_that_rises_has_flattened(losses: list[float]) -> None:
    assert still_improving(history(sorted(losses)), 0, max(20, len(losses))) == []
