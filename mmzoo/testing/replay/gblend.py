"""Replays of the strategies that are led by their slice: G-Blend, MSES, MSLR."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch

from mmzoo.errors import BadValue
from mmzoo.strategies import gblend
from mmzoo.strategies.mses import Watch, observed, stale
from mmzoo.strategies.mslr import MSLR
from mmzoo.testing.replay.harness import run_on, step_of
from mmzoo.testing.replay.registry import Case, replays, skip
from mmzoo.training.config import Training
from mmzoo.training.run import Run

#: expected value -> the formula that it is of, and whether it is normalised
FORMULAS: Mapping[str, tuple[gblend.Formula, bool]] = {
    "paper_raw": ("paper", False),
    "paper_signed_normalised": ("paper", True),
    "balancebenchmark_abs": ("absolute", True),
    "multibench_raw_delta_false": ("gap", False),
    "multibench_weights_delta_false": ("gap", True),
    "tsai_clamped": ("clamped", True),
}


# ---------------------------------------------------------------------- G-Blend
@replays("gblend", "weights")
def _weights(case: Case) -> Iterator[Any]:
    train, val = (torch.stack([case.real(f"{side}_{at}") for at in ("start", "end")]) for side in ("train", "val"))
    keys = [str(k) for k in case.inputs.get("keys", range(train.shape[1]))]
    for path, (formula, whole) in FORMULAS.items():
        if path not in case:
            continue
        if not _numbers(case[path]):
            yield skip("fails there, mostly dividing by zero; mmzoo then takes equal weights", path, f"{path}/*")
            continue
        raw = gblend.scores(train, val, formula)
        values = gblend.normalised(raw) if whole else raw
        yield path, dict(zip(keys, values)) if isinstance(case[path], Mapping) else values


def _numbers(value: Any) -> bool:
    """Whether a value holds numbers throughout, and not the name of an error."""
    if isinstance(value, Mapping | list):
        return all(map(_numbers, value.values() if isinstance(value, Mapping) else value))
    return isinstance(value, int | float)


@replays("gblend", "blended_loss")
def _blended(case: Case) -> Iterator[Any]:
    losses, weights = ({str(k): x for k, x in enumerate(case.real(key).tolist())} for key in ("losses", "weights"))
    yield "loss", sum(gblend.blended(losses, weights).values())


# ---------------------------------------------------------------------- MSES
@replays("mses", "peer_trace")
def _trace(case: Case) -> Iterator[Any]:
    patience = int(case.number("patience"))
    watch: Watch | None = None
    stop_epoch, restore_epoch = None, None
    for i, loss in enumerate(case.real("val_loss").tolist()):
        watch = observed(watch, loss)
        if stop_epoch is None and stale(watch, patience):
            stop_epoch, restore_epoch = watch["epoch"], watch["best_epoch"]
        yield f"trace/{i}/epoch", watch["epoch"]
        yield f"trace/{i}/smoothed", watch["smoothed"]
        yield f"trace/{i}/best_epoch", watch["best_epoch"]
        yield f"trace/{i}/stopped", stop_epoch is not None
    yield "stop_epoch", stop_epoch
    yield "restore_epoch", restore_epoch


# ---------------------------------------------------------------------- MSLR
@replays("mslr", "dynamic_official_peer")
def _dynamic(case: Case) -> Iterator[Any]:
    accuracies = {m: values.tolist() for m, values in case.named("val_acc_").items()}
    factors = case.inputs.get("init_factor")
    if not isinstance(factors, Mapping):
        raise BadValue("init_factor is not a mapping of modalities to numbers")
    strategy = MSLR(factors={m: float(factors[m]) for m in accuracies}, memory=int(case.number("memory")))
    run = _run(strategy, accuracies)
    for i, now in enumerate(zip(*accuracies.values())):
        strategy.epoch_start(run)
        yield f"per_epoch/{i}/factor_used_this_epoch", {m: run._lr_scale[f"encoder:{m}"] for m in accuracies}
        strategy.epoch_end(run, _metrics(dict(zip(accuracies, now))))
        yield f"per_epoch/{i}/ratio_after", {m: strategy.ratios.get(m, 1.0) for m in accuracies}


@replays("mslr", "dynamic_alternative_multiplicative")
def _compounded(case: Case) -> Iterator[Any]:
    n, rates = int(case.number("n")), []
    strategy = MSLR(memory=n, period=n, include_current=True, compound=True, scope="encoder")
    run = _run(strategy, {"a": [], "v": []})
    for accuracy in case.real("val_acc").tolist():
        strategy.epoch_start(run)
        strategy.epoch_end(run, _metrics({"a": accuracy, "v": accuracy}))
        rates.append(case.number("lr0") * strategy.factor("a"))
    yield "lr_after_epoch", rates


@replays("mslr", "keep")
def _keep(case: Case) -> Iterator[Any]:
    rates = case.inputs.get("unimodal_best_lr")
    if not isinstance(rates, Mapping):
        raise BadValue("unimodal_best_lr is not a mapping of modalities to rates")
    run = _run(MSLR(mode="keep", factors={m: float(rate) / Training().lr for m, rate in rates.items()}), rates)
    run.start_epoch()
    run.step(step_of(run).batch)
    used = {group["name"]: group["lr"] for group in run.optimizer.param_groups}
    yield "lr", {m: used[f"encoder:{m}"] for m in rates}


def _run(strategy: MSLR, modalities: Mapping[str, Any]) -> Run:
    features = {m: torch.zeros(2, 1, dtype=torch.float64) for m in modalities}
    return run_on(strategy, features, torch.zeros(2, dtype=torch.int64), 2)


def _metrics(accuracies: Mapping[str, float]) -> dict[str, Any]:
    return {"unimodal": {m: {"acc": accuracy} for m, accuracy in accuracies.items()}}
