"""Replays of test vectors of the methods of this package."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F

from mmzoo.testing.replay import Case, Check, replays, skip
from mmzoo_later import amss, aug, cml, inforeg, mmcosine, mmpareto, modality_valuation, opm, reconboost, relearning


@replays("mmpareto", "integrate")
def _integrate(case: Case) -> Iterator[Any]:
    joint, own = [case.real("grad_multimodal")], [case.real("grad_unimodal")]
    cosine, w = mmpareto.shares(joint, own)
    yield "cos", cosine
    yield "weights", torch.stack([w, 1 - w])
    combined = 2 * w * joint[0] + 2 * (1 - w) * own[0]
    if float(combined.norm()) < 1e-12:
        yield skip("rounding errors over rounding errors: the gradients cancel", "grad", "diff")
        return
    yield "diff", mmpareto.stretch(combined, joint[0] + own[0])
    (result,) = mmpareto.integrate(joint, own, case.number("gamma"))
    yield "grad", result


@replays("mmpareto", "peer_bug")
def _peer(case: Case) -> Iterator[Any]:
    both = [case.real("grad_multimodal") + case.real("grad_unimodal")]
    (result,) = mmpareto.integrate(both, both, case.number("gamma"), total=both)
    yield "balancebenchmark_grad", result


@replays("opm", "drop_prob")
def _drop(case: Case) -> Iterator[Any]:
    yield "q", opm.drop_probabilities(case.real("perf"), case.number("q_base"), case.number("lam"))


@replays("opm", "rescale")
def _rescale(case: Case) -> Iterator[Any]:
    theta = opm.dropped_share(case.real("q"), case.whole("dims").tolist())
    yield "theta", theta
    yield "factor", 1 / (1 - theta)


@replays("mmcosine", "logits")
def _cosine(case: Case) -> Iterator[Any]:
    features = case.named("feat_")
    blocks = case.real("weight").split([z.shape[1] for z in features.values()], dim=1)
    head = mmcosine.MMCosine(
        {m: z.shape[1] for m, z in features.items()}, len(blocks[0]), scale=case.number("scaling")
    ).double()
    head.load_state_dict({f"weight.{m}": w for m, w in zip(features, blocks)})
    out = head(features)
    yield from ((f"logits_{m}", z) for m, z in out.unimodal.items())
    yield "fused", out.logits


@replays("relearning", "weight")
def _weight(case: Case) -> Iterator[Any]:
    yield "w", relearning.forgetting(case.real("gap"), case.number("lam"))


@replays("reconboost", "boosting_loss")
def _boosting(case: Case) -> Iterator[Any]:
    each = reconboost.boosting_losses(
        case.real("logits"), case.real("ensemble_logits"), case.whole("label"), case.number("w1"), case.number("w2")
    )
    yield "per_sample", each
    yield "mean", each.mean()


@replays("modality_valuation", "sample_contribution")
def _contribution(case: Case) -> Iterator[Any]:
    sets = {"a": frozenset("a"), "v": frozenset("v"), "all": frozenset("av")}
    correct = {s: case.whole(f"correct_{key}")[None].bool() for key, s in sets.items()}
    forms: dict[str, modality_valuation.Benefit] = {"": "size", "balancebenchmark/": "one"}
    for section, benefit in forms.items():
        phi = modality_valuation.contributions(correct, ["a", "v"], benefit)[0]
        for m, value, copies in zip("av", phi, modality_valuation.extra_copies(phi)):
            yield f"{section}contrib_{m}", value
            yield f"{section}extra_copies_{m}", copies


@replays("cml", "peer_conf_loss")
def _rank(case: Case) -> Iterator[Any]:
    n_classes, target = 3, case.whole("label")
    full, part = (_probabilities(case, side, n_classes) for side in ("full", "sub"))
    yield "loss", cml.rank_loss(full, part, target, form="peer")
    yield "sign_sum", (full.argmax(1) == target).sum()
    # The case adds up the rises of all items, without the authors' mask: as if all were right.
    yield "per_sample_relu", cml.rank_loss(full, part, full.argmax(1), form="masked")


def _probabilities(case: Case, side: str, n_classes: int) -> torch.Tensor:
    """Probabilities with the given confidence for the given prediction; the rest is spread over the others."""
    sure, guess = case.real(f"conf_{side}"), case.whole(f"pred_{side}")
    rest = ((1 - sure) / 1e3)[:, None].expand(-1, n_classes)  # small enough not to win; only the maximum counts
    return rest.scatter(1, guess[:, None], sure[:, None])


@replays("inforeg", "beta")
def _beta(case: Case) -> Iterator[Any]:
    scores = torch.stack([case.real("score_a"), case.real("score_v")])
    held = inforeg.pulls(scores, torch.tensor([0.95, 0.1], dtype=torch.float64))
    held = held * float(case.number("window_k") > inforeg.InfoReg().threshold)
    yield "beta_audio", held[0]
    yield "beta_visual", held[1]


@replays("aug", "loss")
def _loss(case: Case) -> Iterator[Any]:
    each = aug.boosted_losses(case.real("out"), case.real("prev_sum"), case.real("new"), case.whole("label"))
    yield "loss", each.mean()


@replays("amss", "keep_ratio")
def _keep(case: Case) -> Iterator[Any]:
    temperature, target = case.number("temperature"), case.whole("label")
    logits, features = case.named("logits_"), case.named("feat_")
    # The recorded value was computed in single precision, and all others from it.
    label = amss.label_entropy(F.one_hot(target, logits["a"].shape[1]).float().mean(0))
    yield Check("HY", label)
    loss = torch.stack([F.cross_entropy(z, target) for z in logits.values()])
    entropy = torch.stack([amss.self_entropy(features[m]).mean() for m in logits])
    ratios, above = amss.information_ratios(loss, entropy, label.double())
    keep = amss.keep_ratios(ratios, above, temperature)
    for m, ratio, share in zip(logits, ratios, keep):
        yield f"ratio_{m}", ratio
        yield f"t_{m}", ratio / temperature
        yield f"coeff_{m}", share
