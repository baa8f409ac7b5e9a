"""UME: the ensemble, and heads that cannot hold it."""

from __future__ import annotations

import copy
from functools import partial
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from helpers import equal, loader, model, run, train, weights
from helpers.taught_runs import MODALITIES, C, batches, drawn, given_teachers, linear_run
from torch import Tensor

from mmzoo.api import Chain, MultimodalModel, Run, Strategy, Window
from mmzoo.core.head import FusionHead
from mmzoo.core.values import Outputs, Pass
from mmzoo.errors import Incompatible
from mmzoo.evaluation.predictions import predict
from mmzoo.evaluation.scores import evaluate
from mmzoo.heads.concat import Concat
from mmzoo.heads.shared import Shared
from mmzoo.heads.sum import Sum
from mmzoo.heads.weight import Weight
from mmzoo.strategies.joint_unimodal import JointUnimodal
from mmzoo.strategies.ogm import OGM
from mmzoo.strategies.ume import UME
from mmzoo.strategies.umt import UMT
from mmzoo.testing import check_head
from mmzoo.training.loop import fit
from mmzoo.training.teachers import Alone

Mean = partial(Sum, reduce="mean")


# ---------------------------------------------------------------------- UME
def ume_run(average: Any = "probs", **options: Any) -> Run:
    return linear_run(UME(average=average), head=Mean, **options)


@pytest.mark.parametrize("average", ["probs", "logits"])
@pytest.mark.parametrize("head", [Concat, Sum, Alone, Shared])
def test_the_model_of_ume_is_the_ensemble(average: Any, head: Any) -> None:
    teachers = given_teachers(head)
    r = ume_run(average, teachers=teachers)
    batch = batches()[0]
    own = {m: teachers[m]({m: batch.inputs[m]}).logits.detach() for m in MODALITIES}
    rows = predict(r.model, r.strategy, [batch])
    for m in MODALITIES:
        torch.testing.assert_close(rows.unimodal[m], own[m], rtol=0, atol=1e-12)
    if average == "probs":
        torch.testing.assert_close(rows.scores, torch.stack([z.softmax(-1) for z in own.values()]).mean(0))
        nll = F.nll_loss(rows.scores.log(), batch.target)
        assert evaluate(r.model, r.strategy, [batch])["loss"] == pytest.approx(float(nll))
    else:
        torch.testing.assert_close(rows.logits, sum(own.values()) / 3)
        torch.testing.assert_close(r.model(batch.inputs).logits.detach(), rows.logits)


def test_ume_lets_an_item_be_decided_by_what_it_has() -> None:
    r = ume_run(teachers=given_teachers())
    batch = batches(present=True)[0]
    rows = predict(r.model, r.strategy, [batch])
    assert batch.present is not None
    for i, there in enumerate(batch.present):
        if not bool(there.any()):
            continue
        some = [m for m, here in zip(MODALITIES, there) if here]
        one = {m: batch.inputs[m][i : i + 1] for m in some}
        p = [r.teacher(m)({m: one[m]}).logits.softmax(-1) for m in some]
        torch.testing.assert_close(rows.scores[i], torch.stack(p).mean(0)[0])
        # The same where the other modalities are not even fed.
        fed = r.model.outputs(r.model.encode(one, Pass(present=frozenset(some))), None)
        torch.testing.assert_close(r.strategy.predict(fed).scores[0], rows.scores[i])


def test_ume_trains_nothing_of_its_own() -> None:
    r = ume_run(teachers=given_teachers())
    before = weights(r.model)
    assert r.stopped and vars(r.cost) == {"forward": 0.0, "backward": 0.0}
    records: list[Any] = []
    chosen = fit(r, lambda: iter(batches()), on_epoch=lambda record, selection: records.append(record))
    assert records == [] and r.epoch == 0 and chosen.epoch == -1 and equal(chosen.weights, before)
    assert chosen.score == evaluate(r.model, r.strategy, batches())["acc"]
    train(r, 2)  # a loop of one's own that does not ask whether the run has been stopped
    assert equal(weights(r.model), before) and vars(r.cost) == {"forward": 0.0, "backward": 0.0}


def test_fit_scores_a_run_that_was_stopped_before_it_began_once() -> None:
    class Stops(Strategy):
        def setup(self, run: Run) -> None:
            run.stop()

    stopped = run(Stops())
    assert fit(stopped, lambda: loader().batches()).epoch == -1 and stopped.epoch == 0
    assert fit(run(), lambda: loader().batches()).epoch >= 0


def test_batch_statistics_come_with_the_encoder() -> None:
    r = run(UME(), model(norm=True, head=Sum, reduce="mean"))
    for m in r.modalities:
        assert equal(weights(r.model.encoders[m]), weights(r.teacher(m).encoders[m]))
        assert float(r.model.encoders[m].net[1].running_mean.abs().sum()) > 0


@pytest.mark.parametrize("head", [Concat, partial(Weight, level="logit"), partial(Weight, level="gate")])
def test_ume_refuses_a_head_that_cannot_hold_the_classifiers(head: Any) -> None:
    with pytest.raises(Incompatible, match=r"UME needs a head with a separate linear classifier.*ume@sum"):
        run(UME(), model(head=head))


def test_ume_refuses_one_classifier_for_all() -> None:
    with pytest.raises(Incompatible, match="Shared has none for a"):
        run(UME(), model(head=Shared))


def test_ume_refuses_a_teacher_without_a_linear_classifier() -> None:
    encoder = copy.deepcopy(model().encoders["a"])
    odd = MultimodalModel({"a": encoder}, Weight({"a": 5}, 3))
    with pytest.raises(Incompatible, match="the teacher of a has none"):
        run(UME(), model(head=Sum, reduce="mean"), teachers={"a": odd})


def test_ume_stands_alone() -> None:
    for build in (lambda: Chain(UME(), OGM()), lambda: Chain(JointUnimodal(), UME())):
        with pytest.raises(Incompatible, match="UME is the whole of a method and cannot be combined"):
            build()
    with pytest.raises(Incompatible, match="UME is the whole of a method: it has no window"):
        Window(UME(), 0, 2)
    with pytest.raises(Incompatible, match="no window"):
        Window(Chain(UME()), 0, 2)
    assert Chain(UME()).solo and not Chain(OGM(), UMT()).solo


# ---------------------------------------------------------------------- classifiers of heads
@pytest.mark.parametrize("head", [Concat, Sum, Mean, Shared])
@pytest.mark.parametrize("modalities", [1, 2, 3])
def test_the_classifier_of_a_head_gives_its_own_logits(head: Any, modalities: int) -> None:
    dims = dict.fromkeys(MODALITIES[:modalities], 4)
    built = head(dims, C).double()
    z = {m: drawn(i, 6, 4) for i, m in enumerate(dims)}
    for m, own in built(z).unimodal.items():
        weight, bias = built.classifier(m)
        assert weight.shape == (C, 4) and bias.shape == (C,)
        torch.testing.assert_close(F.linear(z[m], weight, bias), own)
    if modalities == 1:  # with one modality it is the joint classifier too
        torch.testing.assert_close(built(z).logits, F.linear(z["a"], *built.classifier("a")))


def test_a_head_whose_logits_are_not_linear_has_no_classifier() -> None:
    assert all(Weight({"a": 3, "b": 3}, 2, level=level).classifier("a") is None for level in ("logit", "gate"))
    assert FusionHead({"a": 2}, 2).classifier("a") is None


def test_a_classifier_that_is_not_what_split_uses_is_caught() -> None:
    class Halved(Sum):
        def classifier(self, modality: str) -> tuple[Tensor, Tensor]:
            weight, bias = super().classifier(modality)
            return weight, bias / 2

    (result,) = check_head(Halved, only=["check_head_unimodal"], raise_failures=False)
    assert result.status == "failed" and "W and b of `classifier`" in result.reason


def test_predict_of_ume_replaces_the_logits_only() -> None:
    own = {m: drawn(i, 3, C) for i, m in enumerate(MODALITIES)}
    out = Outputs(torch.zeros(3, C), {}, own)
    said = UME().predict(out)
    assert said.unimodal is own and said.ranking is None
    torch.testing.assert_close(said.scores, torch.stack([z.softmax(-1) for z in own.values()]).mean(0))
