"""Replays of AGM and MLA: coefficients and responses, projections and the decision rule."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from mmzoo.errors import BadValue
from mmzoo.strategies import agm, mla
from mmzoo.testing.replay.registry import Case, real, replays, skip


# ---------------------------------------------------------------------- AGM
def _after(scores: Tensor, means: Tensor, iteration: float) -> Tensor:
    return agm.running_mean(means, scores, scores.new_tensor(iteration))


@replays("agm", "bimodal")
def _bimodal(case: Case) -> Iterator[Any]:
    score, run = case.named("score_"), case.named("run_")
    scores, means = torch.stack(list(score.values())), torch.stack([run[m] for m in score])
    found = {
        "ratio": agm.ratios(scores),
        "optimal_ratio": agm.ratios(means),
        "coeff": agm.coefficients(scores, means, case.number("alpha")),
        "new_run": _after(scores, means, case.number("iteration")),
    }
    for key, values in found.items():
        yield from ((f"{key}_{m}", value) for m, value in zip(score, values))


@replays("agm", "trimodal")
def _trimodal(case: Case) -> Iterator[Any]:
    score, run = _table(case, "score"), _table(case, "run")
    scores, means = torch.stack(list(score.values())), torch.stack([run[m] for m in score])
    found = {
        "ratio": agm.ratios(scores),
        "optimal": agm.ratios(means),
        "coeff": agm.coefficients(scores, means, case.number("alpha")),
        "new_run": _after(scores, means, case.number("iteration")),
    }
    for key, values in found.items():
        yield from ((f"{key}/{m}", value) for m, value in zip(score, values))


def _table(case: Case, key: str) -> dict[str, Tensor]:
    table = case.inputs.get(key)
    if not isinstance(table, Mapping):
        raise BadValue(f"input {key!r} is not a table of modalities")
    return {m: real(v, f"{key}.{m}") for m, v in table.items()}


@replays("agm", "shapley_bimodal")
def _shapley_pair(case: Case) -> Iterator[Any]:
    padded = case.named("pad_")
    if len(padded) != 2:
        raise BadValue("two inputs pad_* are needed, one for each modality whose input is zeroed")
    values = {frozenset(padded) - {m}: z for m, z in padded.items()}
    phi = agm.responses({**values, frozenset(padded): case.real("full")}, list(padded))
    for m, response in zip(padded, phi):
        yield f"mono_{m[0]}", response
    yield "sum", phi.sum(0)


@replays("agm", "shapley_trimodal")
def _shapley(case: Case) -> Iterator[Any]:
    padded = case.named("pad_")  # by the initials of the modalities whose input is zeroed
    everyone = frozenset("".join(padded))
    values = {everyone - frozenset(m): z for m, z in padded.items()} | {everyone: case.real("total")}
    if len(values) != 2 ** len(everyone) - 1:
        raise BadValue("an input pad_* is needed for every set of modalities but none and all")
    phi = agm.responses(values, sorted(everyone))
    of = dict(zip(sorted(everyone), phi))
    for name in case.expected:
        if name[0].lower() in of and name != "sum":
            yield name, of[name[0].lower()]
    yield "sum", phi.sum(0)


@replays("agm", "peer_sign_flip")
def _flipped(case: Case) -> Iterator[Any]:
    scores, means, alpha = case.real("scores"), case.real("run"), case.number("alpha")
    yield "official", agm.coefficients(scores, means, alpha)
    # Losses taken for scores of which more is better: the same formula with both signs turned, and its own cap.
    yield "balancebenchmark", agm.coefficients(-scores, -means, alpha, cap=7.0)


# ---------------------------------------------------------------------- MLA
@replays("mla_projection")
def _projection(case: Case) -> Iterator[Any]:
    features, grads, at = case.real("features"), case.real("grads"), case.real("batch_index")
    n_batches = int(case.number("len_loader"))
    forms: dict[str, mla.Projection] = {"official": "released", "owm": "owm", "owm_norm": "owm_normalized"}
    for key, form in forms.items():
        matrix = torch.eye(features.shape[-1], dtype=torch.float64)
        matrices = [matrix]
        for z, batch in zip(features[1:], at[1:].tolist()):  # the first call is made without an update
            matrix = mla.next_matrix(matrix, z.mean(0), mla.damping(batch, n_batches), form)
            matrices.append(matrix)
        stacked = torch.stack(matrices)
        yield f"P_{key}", stacked
        yield f"grad_{key}", mla.projected(grads, stacked)
        if key == "official":
            yield "asymmetry_official", (stacked - stacked.mT).abs().amax((1, 2))
            # It adds to the gradient what the others put in its place; and nothing before the first update.
            added = grads + mla.projected(grads, stacked)
            yield "grad_balancebenchmark", torch.cat([grads[:1], added[1:]])
        yield f"min_eig_{key}", torch.linalg.eigvals(stacked).real.amin(1)


@replays("mla_entropy_gate")
def _gate(case: Case) -> Iterator[Any]:
    logits = case.real("logits").movedim(0, 1)  # (B, M, C)
    yield "entropy", mla.entropies(logits).T
    for key in case.expected:
        found = re.fullmatch(r"(sample_w|sample_fused|fixed_fused)(\d+)(_\w+)?", key)
        if found is None:
            continue
        some = logits[:, : int(found[2])]
        weights = mla.entropy_weights(some)
        if found[1] == "sample_w":
            yield key, weights
        elif found[1] == "sample_fused":
            yield key, mla.fused(some, weights)
        elif some.shape[1] in mla.FIXED:
            yield key, mla.fused(some, some.new_tensor(mla.FIXED[some.shape[1]]))
    yield skip("softmax over the batch, so that a prediction depends on the other samples; not in mmzoo", "batch_w*")
