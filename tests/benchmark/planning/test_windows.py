"""Windows that cannot act are refused."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

Command = Callable[..., Any]


# ---------------------------------------------------------------------- what a plan refuses and adds
@pytest.mark.parametrize(
    ("method", "epochs", "message"),
    [
        ("ogm:100-200", 3, "never opens in 3 epochs"),
        ("ogm:50%-10", 30, "never opens in 30 epochs"),
        ("ogm+ogm", 3, "ogm would act twice"),
        ("ogm:0-2+ogm_ge:2-", 6, "ogm would act twice"),
    ],
)
def test_a_window_that_cannot_act_or_acts_twice_is_refused(
    method: str, epochs: int, message: str, mmzoo: Command
) -> None:
    done = mmzoo("bench", "--method", method, "--epochs", str(epochs), "--plan")
    assert done.code == 2 and message in done.err


def test_two_windows_of_one_strategy_may_follow_each_other(mmzoo: Command) -> None:
    assert mmzoo("bench", "--method", "ogm:0-2+ogm_ge:3-", "--epochs", "6", "--plan").code == 0


def test_references_that_spare_the_slice_come_with_a_method_that_uses_it(mmzoo: Command) -> None:
    assert "without meta set" in mmzoo("bench", "--method", "dynamic_gap_lb", "--plan").out
    assert "without meta set" not in mmzoo("bench", "--method", "dynamic_gap_h", "--plan").out
