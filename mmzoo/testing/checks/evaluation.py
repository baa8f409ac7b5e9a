"""What heads and strategies owe to the evaluation of modalities."""

from __future__ import annotations

from typing import Any

import torch

from mmzoo.core.model import MultimodalModel
from mmzoo.core.values import Batch
from mmzoo.errors import Incompatible
from mmzoo.evaluation.scores import evaluate_modalities
from mmzoo.testing.harness.cases import HeadCase, StrategyCase
from mmzoo.testing.harness.observing import difference, not_finite
from mmzoo.testing.harness.report import Skipped, contract, require
from mmzoo.testing.harness.tasks import Task, build_model, make_task, random_present, train
from mmzoo.training.strategy import Strategy

FINITE = "answer for any features: modalities are taken away by zeros, by inputs of zeros and by mean features"


def _numbers(value: Any, name: str = "") -> dict[str, torch.Tensor]:
    """Every number of nested mappings, by its path."""
    if not isinstance(value, dict):
        return {} if isinstance(value, str) else {name: torch.tensor(float(value))}
    return {k: v for key, inner in value.items() for k, v in _numbers(inner, f"{name}/{key}").items()}


def _check_measured(model: MultimodalModel, strategy: Strategy, batches: list[Batch], where: str) -> None:
    found = evaluate_modalities(model, strategy, train=lambda: batches, test=lambda: batches)
    excused = {"zero_feature", "mean_feature"} if model.head.couples else set()
    lost = {k: why for k, why in found["undefined"].items() if k not in excused}
    bad = not_finite(_numbers(found))
    require(not lost and not bad, f"{where} every measure of a modality is a number", str(lost or bad), FINITE)
    for ablation, facts in found["shapley"].items():
        shares = [numbers["shapley"][ablation]["value"] for numbers in found["modalities"].values()]
        gap = difference(torch.tensor(facts["all"] - facts["none"]), torch.tensor(shares).sum(), 1e-6)
        require(
            gap is None,
            f"{where} the contributions by {ablation} add up",
            str(gap),
            "answer the same question the same way each time: no draws and no memory in evaluation",
        )


def _with_present(task: Task, batch: Batch) -> Batch:
    return Batch(batch.inputs, batch.target, batch.index, random_present(task, 0))


@contract("head")
def check_head_ablations(case: HeadCase) -> None:
    """Each modality of its models can be measured; logits declared ablated are those with the other features zero."""
    task = make_task(3, equal=case.first.equal_dims)
    try:
        model = build_model(task, case.builder, case.encoder)
    except Incompatible as refusal:
        raise Skipped(str(refusal)) from refusal
    batch = task.batch()
    _check_measured(model, Strategy(), [batch], "in its models")
    _check_measured(model, Strategy(), [_with_present(task, batch)], "where modalities are absent")
    if case.first.how != "ablated":
        return
    model.eval()
    features = model.encode(batch.inputs)
    zeros = {m: torch.zeros_like(z) for m, z in features.items()}
    for m, own in model.head(features).unimodal.items():
        gap = difference(own, model.head({**zeros, m: features[m]}).logits, 1e-5)
        require(
            gap is None,
            f"the logits of {m} are the joint ones with the other features zero (ablated)",
            str(gap),
            "leave `split` as it is, or declare another `how`",
        )


@contract("strategy")
def check_ablations(case: StrategyCase) -> None:
    """After training each modality can be measured: its decision rule answers whatever is left of the features."""
    task = case.task()
    run = case.run(task)
    train(run, 1)
    _check_measured(run.model, run.strategy, [task.batch("test")], "after training")
