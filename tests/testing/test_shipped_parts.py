"""The contract checks pass on what is shipped."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest

from mmzoo.api import Chain, Strategy, Window
from mmzoo.encoders.mlp import MLP
from mmzoo.heads.channel import Channel
from mmzoo.heads.concat import Concat
from mmzoo.heads.shared import Shared
from mmzoo.heads.sum import Sum
from mmzoo.heads.weight import Weight
from mmzoo.strategies.dynamic_gap import DynamicGap
from mmzoo.strategies.joint_unimodal import JointUnimodal
from mmzoo.strategies.ogm import OGM
from mmzoo.strategies.pmr import PMR
from mmzoo.testing import check_encoder, check_head, check_part, check_strategy
from mmzoo.testing.harness.report import CHECKS
from mmzoo.testing.harness.tasks import CoupledConcat, Mixing

DRAWS = 4


# What is shipped


@pytest.mark.parametrize(
    "strategy",
    [
        PMR(variant="code", fraction=1.0),
        DynamicGap(matching="js", schedule="stepwise"),
        DynamicGap(schedule="learned", solver="hessian", upper="train"),
        Chain(OGM(), JointUnimodal()),
        Window(PMR(fraction=1.0), 1, 2),
    ],
    ids=str,
)
def test_strategies_keep_the_contract(strategy: Strategy) -> None:
    report = check_strategy(strategy, draws=DRAWS)
    assert [r.name for r in report] == list(CHECKS["strategy"])
    assert sum(r.status == "passed" for r in report) >= len(report) - 6


def test_a_solve_within_an_epoch_is_what_a_gpu_waits_for_and_nothing_else() -> None:
    waits = {"check_no_waiting": "once every two steps the solver looks at its residual"}
    assert check_strategy(
        DynamicGap(schedule="learned", every=2, items=3, damping=1.0), draws=DRAWS, expected_failures=waits
    ).ok


@pytest.mark.parametrize(
    "head",
    [
        Concat,
        Sum,
        partial(Sum, reduce="mean"),
        Shared,
        partial(Weight, level="feature"),
        partial(Weight, level="logit"),
        partial(Weight, level="gate"),
        Channel,
        CoupledConcat,
        Mixing,
    ],
    ids=str,
)
def test_heads_keep_the_contract(head: Any) -> None:
    check_head(head, draws=DRAWS)


def test_a_strategy_that_needs_stages_gets_a_head_that_couples() -> None:
    class Staged(JointUnimodal):
        requires = frozenset({"unimodal", "staged"})

    report = check_strategy(Staged, draws=2)
    assert report.status("check_requirements") == "passed"
    assert report.status("check_micro_batches") == "skipped"


def test_the_encoder_keeps_the_contract() -> None:
    check_encoder(lambda: MLP((4, 2), hidden=(6, 5), width=3, dropout=0.2, skip=True), inputs=(4, 2))
    check_part("encoder", MLP, {"spec": (6,), "hidden": ()}, inputs=(6,))
