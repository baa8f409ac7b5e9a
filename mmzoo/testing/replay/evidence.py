"""Replays of evidential fusion (TMC, ETMC) and of DOMFN: the heads with given weights, and one step of the strategies."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from mmzoo.core.head import FusionHead
from mmzoo.core.values import Outputs
from mmzoo.errors import BadValue
from mmzoo.heads.evidential import PSEUDO, Evidence, Evidential, log_uncertainty
from mmzoo.heads.separate import Separate
from mmzoo.strategies.domfn import DOMFN, amended, cross_entropy, divergences, mean_scores, squashed
from mmzoo.strategies.tmc import TMC, evidence_loss, kl_to_uniform
from mmzoo.testing.replay.fusion import loaded, param, widths
from mmzoo.testing.replay.harness import run_on, step_of
from mmzoo.testing.replay.registry import Case, real, replays, skip
from mmzoo.training.strategy import Strategy

#: an epoch after any annealing
_LATE = 10**9


def _evidential(views: Mapping[str, Tensor], evidence: Evidence, pseudo: Tensor | None = None) -> tuple[Any, Any]:
    """A head that takes each view's tensor (B, C) for the output of its layer, and the features that go into it.

    pseudo: the same for the pseudo view; it rides on the features of the first modality.
    """
    first, n_classes = next(iter(views)), next(iter(views.values())).shape[1]
    eye = torch.eye(n_classes, dtype=torch.float64)
    features = dict(views)
    if pseudo is not None:
        features[first] = torch.cat([views[first], pseudo], 1)
    weights: dict[str, Tensor] = {}
    for m, width in widths(features).items():
        weights[f"linear.{m}.weight"] = torch.cat([eye, torch.zeros(n_classes, width - n_classes)], 1)
        weights[f"linear.{m}.bias"] = torch.zeros(n_classes)
        if pseudo is not None:
            weights[f"pseudo.weight.{m}"] = torch.zeros(n_classes, width)
    if pseudo is not None:
        weights[f"pseudo.weight.{first}"] = torch.cat([0 * eye, eye], 1)
        weights["pseudo.bias"] = torch.zeros(n_classes)
    head = Evidential(widths(features), n_classes, evidence=evidence, pseudo=pseudo is not None)
    return loaded(head, weights), features


def _step(
    strategy: Strategy, head: FusionHead, features: Mapping[str, Tensor], target: Tensor, epoch: int
) -> tuple[Outputs, dict[str, Tensor]]:
    """The outputs and the loss terms of one step."""
    run = run_on(strategy, features, target, head.n_classes, epoch=epoch, head=head)
    step = step_of(run)
    out = strategy.outputs(step, run.model(step.batch.inputs))
    return out, dict(strategy.losses(step, out, {"task": run.criterion(out.logits, step.batch.target)}))


def _given(case: Case, key: str, default: int) -> int:
    """A whole number that older files name in their note only."""
    return int(case.whole(key)) if key in case.inputs else default


# ---------------------------------------------------------------------- TMC
@replays("tmc_dempster")
def _tmc(case: Case) -> Iterator[Any]:
    evidence, target = case.real("evidence"), case.whole("label")
    views = {f"v{i + 1}": e for i, e in enumerate(evidence)}
    names = list(views)
    fused = {}
    for n in range(1, len(views) + 1):
        head, features = _evidential({m: views[m] for m in names[:n]}, "relu")
        fused[n] = head(features)
    yield from _combined(case, fused)
    opinions = torch.stack([*(fused[len(views)].unimodal[m] for m in names), fused[len(views)].logits])
    yield "uncertainty_views", log_uncertainty(opinions[:-1]).exp()
    yield "kl_full", kl_to_uniform(opinions[:-1]).unsqueeze(-1)
    head, features = _evidential(views, "relu")
    anneal = _given(case, "annealing_step", 10)
    for t in case.expected.get("losses", {}):
        epoch = _LATE if t == "inf" else int(t)
        yield f"losses/{t}/ce", evidence_loss(opinions, target, min(1.0, epoch / anneal)).unsqueeze(-1)
        terms = _step(TMC(anneal=anneal, first=0), head, features, target, epoch)[1]
        yield f"losses/{t}/total_mean", sum(terms.values())
    for key in case.expected:
        if found := re.fullmatch(r"mse_loss_step(\d+)_ann(\d+)", key):
            weight = min(1.0, int(found[1]) / int(found[2]))
            # The files stop short of the fused opinion here.
            yield key, evidence_loss(opinions, target, weight, "mse").unsqueeze(-1)[: len(case[key])]


def _combined(case: Case, fused: Mapping[int, Outputs]) -> Iterator[Any]:
    """What the first n views together say; a file may keep a number for each item as a row or as a column."""
    for n, out in fused.items():
        key, u = "".join(map(str, range(1, n + 1))), out.aux["uncertainty"]
        yield f"alpha_{key}", out.logits.exp()
        yield f"belief_{key}", out.scores - u.unsqueeze(-1) / out.logits.shape[-1]
        for what, value in (("uncertainty", u), ("conflict", out.aux["conflict"])):
            path = f"{what}_{key}"
            if path in case:
                yield path, value.reshape(real(case[path], path).shape)


@replays("etmc")
def _etmc(case: Case) -> Iterator[Any]:
    logits, target = case.named("logit_"), case.whole("label")
    pseudo = logits.pop(PSEUDO, None)
    if pseudo is None or not logits:
        raise BadValue("inputs logit_pseudo and logit_* of at least one view are needed")
    strategy = TMC(anneal=_given(case, "annealing_epoch", 10), first=0)
    head, features = _evidential(logits, "softplus", pseudo)
    out, terms = _step(strategy, head, features, target, _given(case, "epoch", 4))
    views = {**out.unimodal, **out.aux["opinions"]}
    yield "alpha", torch.stack(list(views.values())).exp()
    yield "alpha_fused", out.logits.exp()
    yield "loss_parts", torch.stack([*(terms[f"tmc/{m}"] for m in views), terms["task"]])
    yield "loss", sum(terms.values())


# ---------------------------------------------------------------------- DOMFN
@replays("domfn")
def _domfn(case: Case) -> Iterator[Any]:
    features, head, target = *_networks(case), case.whole("labels")
    names = list(features)
    eta, gamma = case.number("eta"), case.number("gamma")
    open_gate = DOMFN(eta=eta, gamma=gamma, tau=1e6, pretrain=0, squash="sigmoid")
    out = _step(open_gate, head, features, target, 0)[0]
    stacked = torch.stack(list(out.unimodal.values()), 1)
    p, own = squashed(stacked, "sigmoid"), cross_entropy(stacked, target, "sigmoid")
    d = divergences(p, mean_scores(p))
    loss, joint = amended(own, d, eta), own.sum(1) + cross_entropy(out.logits, target, "sigmoid")
    for i in range(len(target)):
        values: dict[str, Tensor] = {"multi_logit": squashed(out.logits[i], "sigmoid"), "multi_loss": joint[i, None]}
        for k, m in enumerate(names):
            values |= {f"{m}_logit": p[i, k], f"{m}_celoss": own[i, k, None]}
            values |= {f"{m}_penalty": d[i, k, None], f"{m}_loss": loss[i, k, None]}
        yield from ((f"per_sample/{i}/{key}", value) for key, value in values.items())
    # Item by item, as batches of one, the loss of a step is the objective itself.
    each = [
        _step(open_gate, head, {m: z[i : i + 1] for m, z in features.items()}, target[i : i + 1], 0)[1]["task"]
        for i in range(len(target))
    ]
    yield "joint_objective", torch.stack(each).unsqueeze(-1)
    for i, row in enumerate(case.expected.get("decisions", [])):
        strategy = DOMFN(eta=eta, gamma=gamma, tau=row["tau"], squash="sigmoid")
        decided = strategy.predict(out)
        whose = decided.aux["decision"].tolist()
        yield f"decisions/{i}/decision", ["multi" if k < 0 else names[k] for k in whose]
    yield skip("an input of the row", "decisions/*/tau")


def _networks(case: Case) -> tuple[dict[str, Tensor], FusionHead]:
    """The features of each modality by its own layers, and the head with the classifiers."""
    inputs = {k.removesuffix("_embeds"): case.real(k) for k in case.inputs if k.endswith("_embeds")}
    if not inputs:
        raise BadValue("no input *_embeds")
    features = {}
    for m, x in inputs.items():
        for layer in _layers(case.params, f"{m}_encoder.feature_layer"):
            x = torch.relu(x @ param(case.params, f"{layer}.weight").T + param(case.params, f"{layer}.bias"))
        features[m] = x
    first, last = _layers(case.params, "multi_encoder")
    blocks = param(case.params, f"{first}.weight").split(list(widths(features).values()), dim=1)
    weights = {f"blocks.weight.{m}": block for m, block in zip(features, blocks)}
    weights |= {"blocks.bias": param(case.params, f"{first}.bias")}
    for part in ("weight", "bias"):
        weights[f"joint.1.{part}"] = param(case.params, f"{last}.{part}")
        weights |= {
            f"linear.{m}.{part}": param(case.params, f"{m}_encoder.prediction_layer.0.{part}") for m in features
        }
    hidden = len(weights["blocks.bias"])
    return features, loaded(Separate(widths(features), len(weights["joint.1.bias"]), hidden=hidden), weights)


def _layers(params: Mapping[str, Any], prefix: str) -> Sequence[str]:
    """The numbered linear layers below a prefix, in their order."""
    found = {k.rpartition(".")[0] for k in params if k.startswith(f"{prefix}.") and k.endswith(".weight")}
    return sorted(found, key=lambda layer: int(layer.rpartition(".")[2]))
