"""Checks of what a strategy requires: it says so, and works with any number of modalities."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from mmzoo.errors import Incompatible
from mmzoo.heads.concat import Concat
from mmzoo.testing.harness.cases import StrategyCase
from mmzoo.testing.harness.observing import not_finite, weights
from mmzoo.testing.harness.report import CheckFailed, Skipped, contract, require
from mmzoo.testing.harness.tasks import CoupledConcat, Mixing, Task, build_model, build_run, make_task, train
from mmzoo.training.run import Run

REGULARISED: Mapping[str, Any] = {"norm": True, "dropout": 0.2}
CLOSE = {torch.float32: 1e-5, torch.float64: 1e-9}


@contract("strategy")
def check_requirements(case: StrategyCase) -> None:
    """Where something that `requires` or min_modalities ask for is missing, Run refuses before training, readably."""
    strategy = case.first
    lacking: dict[str, tuple[Task, Any, bool | None]] = {}
    unequal, equal = make_task(case.modalities), make_task(case.modalities, equal=True)
    if "unimodal" in strategy.requires or "additive" in strategy.requires:
        lacking["logits of each modality"] = (equal, Mixing, None)
    if "evidence" in strategy.requires:
        lacking["opinions"] = (equal, Concat, None)
    if "staged" in strategy.requires:
        lacking["stages"] = (equal, Concat, None)
    if "mean_gates" in strategy.requires:
        lacking["gates"] = (equal, CoupledConcat, None)
    if "equal_dims" in strategy.requires and case.modalities > 1:
        lacking["equal widths"] = (unequal, Concat, None)
    if "slice" in strategy.requires:
        lacking["a slice"] = (case.task(), case.head, False)
    if strategy.min_modalities > 1:
        lacking["modalities"] = (case.task(strategy.min_modalities - 1), case.head, None)
    if strategy.max_modalities is not None and strategy.max_modalities < 4:
        lacking["a limit on modalities"] = (case.task(strategy.max_modalities + 1), case.head, None)
    if not lacking:
        raise Skipped("it requires nothing")
    for what, (task, head, slice) in lacking.items():
        claim = f"without {what} the run is refused before training"
        try:
            build_run(task, case.new(), build_model(task, head, case.encoder), slice=slice)
        except Incompatible as refusal:
            require(
                len(str(refusal).split()) >= 4,
                claim + ", with a reason",
                f"the message is {str(refusal)!r}",
                "give what is needed, what was given, and what to do next",
            )
        else:
            raise CheckFailed(claim, "Run(...) raised nothing", "do not override the check; raise Incompatible")


@contract("strategy")
def check_modalities(case: StrategyCase) -> None:
    """It trains, or is refused by Run with Incompatible, for 1 to 4 modalities, any widths, float32 and float64."""
    worked = 0
    for n in (1, 2, 3, 4):
        for equal in (True,) if case.equal else (True, False):
            for dtype in (torch.float32, torch.float64):
                task = case.task(n, equal=equal, dtype=dtype)
                try:
                    run = case.run(task)
                except Incompatible:
                    continue
                where = f"{n} modalities, {'equal' if equal else 'unequal'} widths, {dtype}"
                _check_trains(run, where)
                worked += 1
    require(
        worked > 0,
        "it works for some number of modalities",
        "each was refused",
        "check min and max_modalities",
    )


def _check_trains(run: Run, where: str) -> None:
    try:
        train(run, 1)
    except Exception as error:
        raise CheckFailed(
            f"with {where} it trains, or Run refuses",
            f"{type(error).__name__} in training: {error}",
            "handle the case, or declare min_modalities, max_modalities or `requires`",
        ) from error
    require(
        not (bad := not_finite(weights(run.model))),
        f"with {where} the weights stay finite",
        f"{bad} are not",
        "handle the case, or declare what is needed",
    )
