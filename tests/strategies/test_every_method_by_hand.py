"""Every strategy and every head of the catalogue has its step or its answer written in numpy; here those left over."""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from helpers.by_hand import Weights, assert_gradients, cross_entropy, gradient, log_softmax, pass_of_head
from helpers.heads_by_hand import N, built, dims_of, features_of, layer, softmax
from helpers.places import ROOT
from helpers.steps_by_hand import C, task_loss, train_both, true_class_sum
from helpers.steps_by_hand import features_of as encoded
from helpers.steps_by_hand import unimodal_of as slices_of

from mmzoo.api import Batch
from mmzoo.heads.concat import Concat
from mmzoo.heads.shared import Shared
from mmzoo.heads.sum import Sum
from mmzoo.heads.weight import Weight
from mmzoo.registry import BUILT_IN
from mmzoo.registry.plugins import catalogue
from mmzoo.strategies.joint_unimodal import JointUnimodal
from mmzoo.strategies.label_fitting import LabelFitting
from mmzoo.strategies.ogm import OGM
from mmzoo.strategies.ume import ensemble

#: where each strategy and head is computed without torch
WHERE = {
    "strategies": {
        "plain": "strategies/test_steps_by_hand:test_plain_training",
        "joint_unimodal": "strategies/test_every_method_by_hand:test_joint_unimodal",
        "label_fitting": "strategies/test_every_method_by_hand:test_label_fitting",
        "ogm": "strategies/test_steps_by_hand:test_ogm",
        "pmr": "strategies/test_steps_by_hand:test_pmr",
        "agm": "strategies/test_agm_and_mla_by_hand:test_agm",
        "mla": "strategies/test_agm_and_mla_by_hand:test_mla",
        "greedy": "strategies/test_greedy_by_hand:test_greedy",
        "greedy_many": "strategies/test_greedy_by_hand:test_greedy",
        "gblend": "strategies/test_gblend:test_the_online_estimates_and_the_training_between_them",
        "mses": "strategies/test_mses:test_a_step_adds_the_losses_of_the_modalities_that_move",
        "mslr": "strategies/test_mslr:test_dynamic_rates_follow_the_accuracies_on_the_slice",
        "refit": "strategies/test_refit:test_ridge_is_that_of_scikit_learn",
        "umt": "strategies/test_umt:test_umt_step_by_hand",
        "ume": "strategies/test_every_method_by_hand:test_ume",
        "dynamic_gap": "strategies/test_steps_by_hand:test_dynamic_gap",
        "tmc": "strategies/test_tmc_and_domfn_by_hand:test_tmc",
        "domfn": "strategies/test_tmc_and_domfn_by_hand:test_domfn",
    },
    "heads": {
        **dict.fromkeys(("concat", "sum", "shared", "weight"), "strategies/test_every_method_by_hand:test_heads"),
        **dict.fromkeys(("affine", "gated", "gmu", "ml_lstm"), "heads/test_by_hand:test_logits_and_gradients_by_hand"),
        "channel": "strategies/test_greedy_by_hand:test_plain_training_with_the_channel_head",
        "evidential": "strategies/test_tmc_and_domfn_by_hand:test_tmc",
        "separate": "heads/test_separate:test_separate_by_hand",
    },
}


@pytest.mark.parametrize("kind", WHERE)
def test_none_is_left_out(kind: str) -> None:
    assert set(WHERE[kind]) == {e.name for e in catalogue().entries(kind) if e.package == BUILT_IN}
    for place in WHERE[kind].values():
        path, _, test = place.partition(":")
        assert f"\ndef {test}(" in (ROOT / "tests" / f"{path}.py").read_text(encoding="utf-8"), place


# ---------------------------------------------------------------------- strategies
def test_joint_unimodal() -> None:
    def by_hand(w: Weights, batch: Batch, epoch: int, step: int, start: Weights) -> Weights:
        def loss(u: Weights) -> Any:
            own = slices_of(u, encoded(u, batch.inputs))
            return task_loss(u, batch) + 0.7 * sum(cross_entropy(z, batch.target.numpy()) for z in own.values())

        return gradient(loss, w)

    train_both(JointUnimodal(weight=0.7), by_hand)


def test_label_fitting() -> None:
    def by_hand(w: Weights, batch: Batch, epoch: int, step: int, start: Weights) -> Weights:
        target = 0.7 * np.eye(C)[batch.target.numpy()] + 0.3 / C

        def loss(u: Weights) -> Any:
            log_p = log_softmax(sum(slices_of(u, encoded(u, batch.inputs)).values()))
            return -(target * log_p).sum(1).mean()

        return gradient(loss, w)

    train_both(LabelFitting(one_hot=0.7), by_hand)


@pytest.mark.parametrize("tensors", ["conv", "matrix", "all"])
def test_ogm_touches_what_it_is_told_to(tensors: Any) -> None:
    """The encoders have a matrix and a vector each, and no kernel of four dimensions."""
    alpha, slowed = 0.6, []

    def by_hand(w: Weights, batch: Batch, epoch: int, step: int, start: Weights) -> Weights:
        g, y = gradient(lambda u: task_loss(u, batch), w), batch.target.numpy()
        score = {m: true_class_sum(z, y) for m, z in slices_of(w, encoded(w, batch.inputs)).items()}
        for m, other in (("a", "v"), ("v", "a")):
            rho = score[m] / score[other]
            parts = {"conv": [], "matrix": ["weight"], "all": ["weight", "bias"]}[tensors]
            for part in parts if rho > 1 else []:
                g[f"encoders.{m}.linear.{part}"] = (1 - math.tanh(alpha * rho)) * g[f"encoders.{m}.linear.{part}"]
                slowed.append(part)
        return g

    train_both(OGM(alpha=alpha, tensors=tensors), by_hand, epochs=1)
    assert set(slowed) == {"conv": set(), "matrix": {"weight"}, "all": {"weight", "bias"}}[tensors]


def test_ume() -> None:
    own = {m: z.numpy() for m, z in features_of({"a": C, "b": C, "c": C}, 4).items()}
    of_probs = sum(softmax(z, 1) for z in own.values()) / 3
    of_logits = softmax(sum(own.values()) / 3, 1)
    for average, expected in (("probs", of_probs), ("logits", of_logits)):
        found = ensemble([torch.from_numpy(z) for z in own.values()], average).softmax(-1)  # type: ignore[arg-type]
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-14)
    assert np.abs(of_probs - of_logits).max() > 0.01


# ---------------------------------------------------------------------- heads
Answer = tuple[Any, dict[str, Any]]


def concat_by_hand(w: Weights, z: Mapping[str, Any], here: Any) -> Answer:
    own = {m: x @ w[f"weight.{m}"].T for m, x in z.items()}
    return sum(own.values()) + w["bias"], {m: x + w["bias"] / len(z) for m, x in own.items()}


def sum_by_hand(mean: bool, w: Weights, z: Mapping[str, Any], here: Any) -> Answer:
    own = {m: layer(w, f"linear.{m}", x) * here[:, [i]] for i, (m, x) in enumerate(z.items())}
    return sum(own.values()) / (np.maximum(here.sum(1, keepdims=True), 1) if mean else 1), own


def shared_by_hand(w: Weights, z: Mapping[str, Any], here: Any) -> Answer:
    own = {m: layer(w, "linear", x) for m, x in z.items()}
    total = sum(x * here[:, [i]] for i, x in enumerate(own.values()))
    return total / np.maximum(here.sum(1, keepdims=True), 1), own


def weight_by_hand(level: str, w: Weights, z: Mapping[str, Any], here: Any) -> Answer:
    h = np.stack([layer(w, f"project.{m}", x) if f"project.{m}.weight" in w else x for m, x in z.items()], 1)
    if level == "gate":
        e = softmax(h, 2) * here[:, :, None]
        return layer(w, "linear", (e / e.sum(1, keepdims=True) * h).sum(1)), {
            m: layer(w, "linear", h[:, i]) for i, m in enumerate(z)
        }
    x = layer(w, "attend.0", h)
    score = np.exp(layer(w, "attend.2", x * (x.real > 0))) * here[:, :, None]
    a = score / score.sum(1, keepdims=True)
    if level == "feature":
        own = {m: layer(w, "linear", h[:, i]) for i, m in enumerate(z)}
        return layer(w, "linear", (a * h).sum(1)), own
    own = {m: layer(w, f"each.{m}", h[:, i]) for i, m in enumerate(z)}
    return (a * np.stack(list(own.values()), 1)).sum(1), own


HEADS: Any = {
    "concat": (Concat, {}, concat_by_hand),
    "sum": (Sum, {}, partial(sum_by_hand, False)),
    "mean": (Sum, {"reduce": "mean"}, partial(sum_by_hand, True)),
    "shared": (Shared, {}, shared_by_hand),
    **{
        f"weight {k}": (Weight, {"level": k, "attention": (6,)}, partial(weight_by_hand, k))
        for k in ("feature", "logit", "gate")
    },
}


@pytest.mark.parametrize("m", [1, 2, 3, 4])
@pytest.mark.parametrize("name", HEADS)
def test_heads(name: str, m: int) -> None:
    cls, params, by_hand = HEADS[name]
    dims = dict.fromkeys(dims_of(m), 4) if cls is Shared else dims_of(m)
    head, z = built(cls, dims, seed=m, **params), features_of(dims, seed=m)
    present = torch.rand(N, m, generator=torch.Generator().manual_seed(m)) < 0.6
    present[0], present[:, 0] = True, True  # no item lacks everything
    here, target = present.numpy(), torch.tensor([0, 1, 2, 0, 1])
    out, every, seen = pass_of_head(head, z, present, target)
    w = head.state_dict()

    def answer(values: Weights) -> Answer:
        absent = {k: values[f"z.{k}"] * here[:, [i]] for i, k in enumerate(z)}
        return by_hand({k: values[k] for k in w}, absent, here)

    joint, own = answer(every)
    np.testing.assert_allclose(out.logits.detach(), joint, rtol=0, atol=1e-12)
    for i, k in enumerate(z):  # of an item that has the modality: what it says of the others is its bias, or nothing
        np.testing.assert_allclose(out.unimodal[k].detach()[here[:, i]], own[k][here[:, i]], rtol=0, atol=1e-12)
    assert_gradients(seen, gradient(lambda u: cross_entropy(answer(u)[0], target.numpy()), every))
