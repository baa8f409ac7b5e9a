"""How the numbers are computed: what is usual changes nothing, and what is asked for acts or is refused."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from mmzoo.api import Incompatible, Outputs, Run, Step, Strategy, Terms, Training
from mmzoo.benchmark.planning.plan import make_plan
from mmzoo.benchmark.planning.planned import Plan
from mmzoo.config.spec import RunSpec
from mmzoo.core import precision as numeric
from mmzoo.errors import BadValue
from mmzoo.registry import BUILT_IN, Entry
from mmzoo.registry.plugins import catalogue
from mmzoo.strategies.agm import AGM
from mmzoo.strategies.dynamic_gap import DynamicGap
from mmzoo.strategies.ogm import OGM
from mmzoo.testing import SPECS
from mmzoo.testing.harness.observing import difference, weights
from mmzoo.testing.harness.reads import Reads
from mmzoo.testing.harness.tasks import CoupledConcat, build_model, build_run, make_task, train
from mmzoo.training.config import LEFT_OUT
from mmzoo.training.optim import build_optimizer


def spec(training: Training) -> RunSpec:
    return RunSpec("mfeat", {}, None, (), "concat", {}, {}, training, 0)


def test_the_usual_does_not_enter_the_run_id_and_anything_else_does() -> None:
    usual = spec(Training())
    assert not set(LEFT_OUT) & set(usual.as_dict()["training"])
    ids = {usual.run_id}
    for changed in ({"precision": "bf16"}, {"tf32": True}, {"compile": True}, {"fused": True}, {"choose_from": 0.5}):
        other = spec(Training().replace(**changed))
        assert other.as_dict()["training"] == {**usual.as_dict()["training"], **changed}
        assert RunSpec.from_dict(other.as_dict()) == other
        ids.add(other.run_id)
    assert len(ids) == 6
    assert {f.name: f.default for f in dataclasses.fields(Training) if f.name in LEFT_OUT} == LEFT_OUT


@pytest.mark.parametrize(
    "given", [{"precision": "fp16"}, {"tf32": 1}, {"fused": "yes"}, {"lr": True}, {"epochs": False}]
)
def test_what_is_no_such_value_is_refused(given: dict[str, Any]) -> None:
    with pytest.raises(BadValue, match=next(iter(given))):
        Training().replace(**given)


class Penalty(Strategy):
    """Differentiates its own step twice."""

    requires = frozenset({"double_backward"})

    def losses(self, step: Step, out: Outputs, terms: Terms) -> Terms:
        params = [p for g in step.run.model.groups().values() for p in g]
        found = torch.autograd.grad(terms["task"], params, create_graph=True)
        return {**terms, "penalty/size": 0.1 * torch.stack([g.square().sum() for g in found]).sum()}


@pytest.mark.parametrize(("make", "micro"), [(OGM, None), (OGM, 2), (AGM, None), (Penalty, None)])
def test_bf16_trains_near_fp32_and_hands_on_fp32(make: type[Strategy], micro: int | None) -> None:
    task = make_task()
    runs, slopes = {}, {}
    for precision in ("fp32", "bf16"):
        slopes[precision] = first_gradient(build_run(task, make(), build_model(task, norm=False), precision=precision))
        run = build_run(task, make(), build_model(task, norm=micro is None), precision=precision, micro_batch=micro)
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
    assert torch.cosine_similarity(slopes["fp32"], slopes["bf16"], 0) > 0.999


def first_gradient(run: Run) -> torch.Tensor:
    """(P,) the gradients that the first step leaves behind."""
    run.start_epoch()
    run.step(next(run.epoch_batches()))
    return torch.cat([p.grad.flatten() for p in run.model.parameters() if p.grad is not None])


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """torch.compile without the code generator, which takes minutes; benchmarks/compiled.py has it."""
    real = torch.compile
    monkeypatch.setattr(torch, "compile", lambda fn: real(fn, backend="aot_eager"))


SOLVES = [{"schedule": "learned"}, {"schedule": "released_learned", "form": "released", "matching": "kl_to_mean"}]


@pytest.mark.parametrize("given", SOLVES, ids=str)
@pytest.mark.filterwarnings("ignore")  # of torch.compile
def test_what_is_differentiated_twice_is_the_same_in_a_bf16_and_in_a_compiled_run(given: Any, quick: None) -> None:
    task = make_task()
    told = "dynamic_gap/surrogate" if given["schedule"] == "released_learned" else "dynamic_gap/hypergradient"
    logged = {}
    for engine_options in ({}, {"precision": "bf16"}, {"precision": "bf16", "compile": True}):
        run = build_run(task, DynamicGap(**given), build_model(task, norm=False), lr=1e-30, **engine_options)  # type: ignore[arg-type]
        logged[len(logged)] = train(run, 1)
    assert logged[0][told] == logged[1][told] == logged[2][told] != 0.0
    assert logged[0]["loss/task"] != logged[1]["loss/task"]  # which the steps are not


@pytest.mark.parametrize("make", [OGM, DynamicGap])
@pytest.mark.filterwarnings("ignore")
def test_compiled_encoders_train_like_others(make: type[Strategy], quick: None) -> None:
    task = make_task(dtype=torch.float64)
    plain, compiled = (build_run(task, make(), build_model(task), compile=c) for c in (False, True))
    train(plain, 1)
    train(compiled, 1)
    assert difference(weights(plain.model), weights(compiled.model), 1e-9) is None


@pytest.mark.filterwarnings("ignore")
def test_code_that_is_compiled_too_often_is_an_error(quick: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(numeric, "COMPILATIONS", 1)
    task = make_task()
    with pytest.raises(Exception, match="recompile_limit"):
        train(build_run(task, Strategy(), build_model(task), compile=True), 1)


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


TANGENT = {"schedule": "learned", "solver": "tangent", "upper": "train"}


@pytest.mark.parametrize(
    ("strategy", "head", "given", "why"),
    [
        (DynamicGap(**TANGENT), None, {"precision": "bf16", "clip": 1.0}, "train.clip and train.precision"),  # type: ignore[arg-type]
        (DynamicGap(**TANGENT), None, {"compile": True}, "train.compile"),  # type: ignore[arg-type]
        (DynamicGap(**TANGENT), None, {"fused": True, "micro_batch": 2}, "train.micro_batch and train.fused"),  # type: ignore[arg-type]
        (Penalty(), None, {"compile": True}, "twice"),
        (Strategy(), CoupledConcat, {"compile": True}, "between the stages"),
        (Strategy(), CoupledConcat, {"micro_batch": 2}, "between the stages"),
        (Strategy(), None, {"tf32": True}, "CUDA"),
    ],
    ids=str,
)
def test_what_cannot_be_is_refused_with_the_reason(strategy: Strategy, head: Any, given: Any, why: str) -> None:
    task = make_task(equal=True)
    with pytest.raises(Incompatible, match=why):
        build_run(task, strategy, build_model(task, **({"head": head} if head else {})), **given)


@pytest.mark.parametrize(
    ("method", "flags", "why"),
    [
        ("dynamic_gap_lb", ("dynamic_gap_lb.solver=tangent", "train.precision=bf16"), "leave out train.precision"),
        ("dynamic_gap_lb", ("dynamic_gap_lb.solver=tangent", "train.fused=true"), "leave out train.fused"),
        ("channel", ("train.compile=true", "train.micro_batch=4"), "leave out train.micro_batch and train.compile"),
        ("ogm", ("train.tf32=true",), "mode of CUDA GPUs"),
        ("ogm", ("mlp.channels_last=true",), "no convolution"),
    ],
)
def test_the_plan_refuses_it_before_anything_is_written(
    refused: Callable[..., str], tmp_path: Path, method: str, flags: tuple[str, ...], why: str
) -> None:
    given = [x for flag in flags for x in ("--set", flag)]
    assert why in refused("bench", "--method", method, "--device", "cpu", "--out", tmp_path / "out", *given)
    assert not (tmp_path / "out").exists()


def test_a_baseline_that_cannot_is_marked_and_the_rest_is_planned(plan: Callable[..., Plan]) -> None:
    made = plan(
        "dynamic_gap_lb", baselines=("channel",), settings=(("train.compile", True), ("train.precision", "bf16"))
    )
    assert [r.method for r in made.refused] == ["channel"]
    assert "dynamic_gap_lb" in {p.method for p in made.runs}


def test_a_compiler_that_is_missing_is_told(plan: Callable[..., Plan], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", "no-such-compiler")
    spec = plan("ogm", settings=(("train.compile", True),)).bench
    assert make_plan(spec, catalogue(), device="cuda").runs
    with pytest.raises(Incompatible, match="there is no no-such-compiler"):
        make_plan(spec, catalogue(), device="cpu")


@pytest.mark.parametrize(
    "entry", [e for e in catalogue().entries("encoders") if e.package == BUILT_IN], ids=lambda e: e.name
)
def test_an_entry_says_whether_an_encoder_has_convolutions(entry: Entry) -> None:
    encoder = entry.load()(SPECS[entry.inputs[-1]], **entry.extra.get("example", {}))
    assert any(p.ndim in (4, 5) for p in encoder.parameters()) == entry.extra.get("convolutions", True)
