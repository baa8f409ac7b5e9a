"""Forwards on sets of modalities, the others zeroed at the input, and what they cost."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from typing import Any, ClassVar

import pytest
import torch
from helpers.agm_runs import rows
from helpers.by_hand import Linear
from torch import Tensor

from mmzoo.api import Batch, Chain, Encoder, Incompatible, MultimodalModel, Run
from mmzoo.cli import main
from mmzoo.errors import UnknownName
from mmzoo.heads.concat import Concat
from mmzoo.strategies.agm import AGM
from mmzoo.strategies.plain import Plain
from mmzoo.testing import check_strategy
from mmzoo.testing.checks.strategy import REGULARISED
from mmzoo.testing.harness.observing import difference, weights
from mmzoo.testing.harness.tasks import CoupledConcat, build_model, build_run, make_task, random_present, train


# ---------------------------------------------------------------------- sets of modalities
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("head", [Concat, CoupledConcat])
def test_coalitions_are_forwards_with_zeroed_inputs(head: Any, masked: bool) -> None:
    task = make_task(3, dtype=torch.float64)
    if masked:
        task = task.with_train(present=random_present(task, 1))
    run = build_run(task, Plain(), build_model(task, head, **REGULARISED))
    train(run, 1)
    run.start_epoch()
    batch, names = task.batch(), task.modalities
    sets = [frozenset(s) for k in range(len(names) + 1) for s in itertools.combinations(names, k)]
    before, cost = weights(run.model), run.cost.forward
    found = run.coalitions(batch, sets)
    assert run.cost.forward - cost == (1 if head is Concat else len(sets))
    assert list(found) == sets and difference(before, weights(run.model)) is None and run.model.training
    g = rows(3, len(batch), task.n_classes)
    for s, out in found.items():
        other = run.forward(batch, zero=set(names) - s, mode="eval")
        assert torch.allclose(out.logits, other.logits, rtol=0, atol=1e-12)
        params = [p for p in run.model.parameters() if p.requires_grad]
        grads = [
            torch.autograd.grad(
                (o.logits * g).sum(), params, allow_unused=True, retain_graph=True, materialize_grads=True
            )
            for o in (out, other)
        ]
        assert difference(list(grads[0]), list(grads[1]), 1e-12) is None


def test_coalitions_of_some_modalities_leave_the_others_out() -> None:
    task = make_task(3, dtype=torch.float64)
    run, batch = build_run(task, Plain(), build_model(task)), task.batch()
    fed = ("audio", "text")
    out = run.coalitions(batch, [{"audio"}], present=fed)[frozenset({"audio"})]
    other = run.forward(batch, present=fed, zero=["text"], mode="eval")
    assert set(out.features) == set(fed) and torch.allclose(out.logits, other.logits, atol=1e-12)
    with pytest.raises(UnknownName, match="no modality that is fed 'image'"):
        run.coalitions(batch, [{"image"}], present=fed)


def test_features_of_a_batch_and_of_zeros_are_those_of_evaluation() -> None:
    task = make_task(3, dtype=torch.float64)
    present = random_present(task, 1)
    model, batch = build_model(task, **REGULARISED).train(), task.batch()
    before = weights(model)
    real, blank = model.encode_blanked(batch.inputs, present=present)
    assert difference(before, weights(model)) is None and all(e.training for e in model.encoders.values())
    model.eval()
    zeros = {m: torch.zeros_like(x) for m, x in batch.inputs.items()}
    for found, inputs in ((real, batch.inputs), (blank, zeros)):
        assert difference(model.encode(inputs, present=present), found, 1e-12) is None


def test_zeros_in_encoders_that_cannot_run_one_by_one_are_refused() -> None:
    task = make_task()
    with pytest.raises(Incompatible, match="acts between the stages"):
        build_model(task, CoupledConcat).encode_blanked(task.batch().inputs)


class Tokens(Encoder):
    """The mean embedding of those tokens that count."""

    def __init__(self) -> None:
        super().__init__()
        self.table = torch.nn.Embedding(9, 3)
        self.out_dim = 3

    def forward(self, x: Mapping[str, Tensor]) -> Tensor:
        mask = x["mask"].to(self.table.weight.dtype).unsqueeze(-1)
        return (self.table(x["ids"]) * mask).sum(1) / mask.sum(1).clamp_min(1)


def test_inputs_of_several_tensors_are_zeroed_as_a_whole() -> None:
    torch.manual_seed(0)
    model = MultimodalModel({"text": Tokens(), "x": Linear(2, 3)}, Concat({"text": 3, "x": 3}, 3)).double()
    text = {"ids": torch.randint(1, 9, (4, 5)), "mask": torch.ones(4, 5, dtype=torch.bool)}
    batch = Batch({"text": text, "x": rows(0, 4, 2)}, torch.arange(4) % 3, torch.arange(4))
    run = Run(model, AGM(), train=[batch])
    for s in ({"text"}, {"x"}):
        out = run.coalitions(batch, [s])[frozenset(s)]
        assert torch.allclose(out.logits, run.forward(batch, zero={"text", "x"} - s, mode="eval").logits, atol=1e-12)
    run.train_epoch()
    assert all(torch.isfinite(p).all() for p in model.parameters())


@pytest.mark.parametrize("gradient", ["exact", "detached"])
def test_the_cost_holds_for_every_head(gradient: Any) -> None:
    new = lambda: AGM(gradient=gradient)  # noqa: E731
    assert check_strategy(new, head=CoupledConcat, only=["check_cost"]).ok
    task = make_task(3)
    run = build_run(task, new(), build_model(task, CoupledConcat))
    train(run, 1)
    a_batch = run.cost.forward / run.steps_per_epoch, run.cost.backward / run.steps_per_epoch
    assert a_batch == (7, 7 if gradient == "exact" else 1)

    class Undeclared(AGM):
        cost: ClassVar[Mapping[str, float]] = {"forward": 2, "backward": 2}

    assert not check_strategy(Undeclared, head=CoupledConcat, only=["check_cost"], raise_failures=False).ok
    declared, sets = new().cost, 2 ** len(run.modalities) - 3
    assert a_batch == tuple(declared[k] + sets * declared.get(f"{k}_coalition", 0) for k in ("forward", "backward"))
    assert Chain(AGM(), AGM(gradient="detached")).cost == {
        "forward": 3,
        "backward": 2,
        "forward_coalition": 2,
        "backward_coalition": 1,
    }


def test_show_tells_what_sets_of_modalities_take(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["show", "strategies/agm"]) == 0
    text = "cost a batch: forward 2, backward 2; for each of 2^M - 3 more sets of modalities, where the head acts"
    assert text in capsys.readouterr().out
