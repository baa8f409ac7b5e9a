"""How the numbers are computed: what is usual changes nothing, and what is asked for acts or is refused."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch

from mmzoo.api import Incompatible, Strategy, Training
from mmzoo.config.spec import RunSpec
from mmzoo.errors import BadValue
from mmzoo.optim import build_optimizer
from mmzoo.strategies.dynamic_gap import DynamicGap
from mmzoo.strategies.ogm import OGM
from mmzoo.testing.observing import difference, weights
from mmzoo.testing.reads import Reads
from mmzoo.testing.tasks import CoupledConcat, build_model, build_run, make_task, train
from mmzoo.training import ENGINE


def spec(training: Training) -> RunSpec:
    return RunSpec("mfeat", {}, None, (), "concat", {}, {}, training, 0)


def test_the_usual_does_not_enter_the_run_id_and_anything_else_does() -> None:
    usual = spec(Training())
    assert not set(ENGINE) & set(usual.as_dict()["training"])
    ids = {usual.run_id}
    for changed in ({"precision": "bf16"}, {"tf32": True}, {"compile": True}, {"fused": True}):
        other = spec(Training().replace(**changed))
        assert other.as_dict()["training"] == {**usual.as_dict()["training"], **changed}
        assert RunSpec.from_dict(other.as_dict()) == other
        ids.add(other.run_id)
    assert len(ids) == 5
    assert {f.name: f.default for f in dataclasses.fields(Training) if f.name in ENGINE} == ENGINE


@pytest.mark.parametrize("given", [{"precision": "fp16"}, {"tf32": 1}, {"fused": "yes"}, {"lr": True}, {"epochs": False}])
def test_what_is_no_such_value_is_refused(given: dict[str, Any]) -> None:
    with pytest.raises(BadValue, match=next(iter(given))):
        Training().replace(**given)


@pytest.mark.parametrize("micro", [None, 2])
def test_bf16_trains_near_fp32_and_hands_on_fp32(micro: int | None) -> None:
    task = make_task()
    runs = {}
    for precision in ("fp32", "bf16"):
        run = build_run(task, OGM(), build_model(task, norm=micro is None), precision=precision, micro_batch=micro)
        first = train(run, 1)["loss/task"]
        assert train(run, 12)["loss/task"] < first
        runs[precision] = run
    batch = task.batch("test")
    out = runs["bf16"].forward(batch, mode="eval")
    assert {out.logits.dtype, *(z.dtype for z in out.features.values())} == {torch.float32}
    assert {p.dtype for p in runs["bf16"].model.parameters()} == {torch.float32}
    narrow = out.features["audio"]
    runs["bf16"].model.precision = "fp32"
    wide = runs["bf16"].forward(batch, mode="eval").features["audio"]
    assert difference(narrow, narrow.bfloat16().float()) is None  # it did run in bf16
    assert 0 < float((narrow - wide).detach().abs().max()) < 0.05
    assert difference(weights(runs["fp32"].model), weights(runs["bf16"].model)) is not None


@pytest.mark.parametrize("given", [{}, {"clip": 0.1}, {"micro_batch": 2}, {"precision": "bf16"}])
def test_a_step_never_waits_for_a_value(given: dict[str, Any]) -> None:
    task = make_task()
    run = build_run(task, OGM(noise=True), build_model(task, norm="micro_batch" not in given, dropout=0.1), **given)
    train(run, 1)
    run.start_epoch()
    for batch in run.epoch_batches():
        with Reads() as reads:
            run.step(batch)
        assert reads.found == []


def test_a_fused_optimizer_takes_the_same_steps() -> None:
    task = make_task(dtype=torch.float64)
    for optimizer in ("sgd", "adam", "adamw"):
        plain, fused = (
            build_run(task, Strategy(), build_model(task), optimizer=optimizer, fused=f) for f in (False, True)
        )
        train(plain, 2)
        train(fused, 2)
        assert difference(weights(plain.model), weights(fused.model), 1e-9) is None
    group = [{"params": [torch.nn.Parameter(torch.zeros(1))], "name": "x"}]
    assert build_optimizer(group, Training(fused=True)).defaults["fused"]
    assert not build_optimizer(group, Training()).defaults["fused"]


@pytest.mark.parametrize(
    ("strategy", "head", "given", "why"),
    [
        (DynamicGap(schedule="learned"), None, {"precision": "bf16"}, "twice"),
        (DynamicGap(schedule="learned"), None, {"compile": True}, "twice"),
        (Strategy(), CoupledConcat, {"compile": True}, "between the stages"),
        (Strategy(), None, {"tf32": True}, "CUDA"),
    ],
    ids=str,
)
def test_what_cannot_be_is_refused_with_the_reason(strategy: Strategy, head: Any, given: Any, why: str) -> None:
    task = make_task(equal=True)
    with pytest.raises(Incompatible, match=why):
        build_run(task, strategy, build_model(task, **({"head": head} if head else {})), **given)
