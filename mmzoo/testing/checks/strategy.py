"""What a strategy is apart from its single hooks: construction, neutral values, state, cost, requirements."""

from __future__ import annotations

import inspect
import io
from collections.abc import Mapping
from typing import Any

import torch

from mmzoo.evaluation.predictions import predict
from mmzoo.testing.harness.cases import StrategyCase, is_combination, neutral_exactly, neutral_form
from mmzoo.testing.harness.observing import attributes, difference, leaked, random_state, weights
from mmzoo.testing.harness.report import CheckFailed, Skipped, contract, require
from mmzoo.testing.harness.tasks import Task, train
from mmzoo.training.run import Run
from mmzoo.training.strategy import Strategy

REGULARISED: Mapping[str, Any] = {"norm": True, "dropout": 0.2}
CLOSE = {torch.float32: 1e-5, torch.float64: 1e-9}


@contract("strategy")
def check_construction(case: StrategyCase) -> None:
    """Parameters are typed, keyword-only, kept as attributes of the same name, and `repr` rebuilds the strategy."""
    strategy = case.first
    if is_combination(strategy):
        raise Skipped("a combination of strategies has no parameters itself")
    kind = type(strategy)
    parameters = [p for n, p in inspect.signature(kind.__init__).parameters.items() if n != "self"]
    if kind.__init__ is object.__init__:
        parameters = []
    loose = [p.name for p in parameters if p.kind is not p.KEYWORD_ONLY or p.annotation is p.empty]
    require(
        not loose,
        "every parameter of __init__ is keyword-only and has a type",
        f"{', '.join(loose)} is not",
        "write def __init__(self, *, alpha: float = 0.3, ...) without *args and **kwargs",
    )
    unkept = [p.name for p in parameters if not hasattr(strategy, p.name)]
    require(
        not unkept,
        "each parameter is kept as an attribute of the same name",
        f"no attribute {', '.join(unkept)}",
        "assign self.<name> = <name> in __init__, unchanged",
    )
    _check_declarations(strategy, {p.name for p in parameters})
    if parameters:
        _check_rebuilt(strategy)
        _check_own_containers(case)


def _check_declarations(strategy: Strategy, parameters: set[str]) -> None:
    faults = [f"neutral names {n!r}, not a parameter" for n in strategy.neutral or {} if n not in parameters]
    faults += [f"state names {n!r}, not an attribute" for n in strategy.state if not hasattr(strategy, n)]
    faults += [f"cost lacks {k!r}" for k in ("forward", "backward") if k not in strategy.cost]
    if type(strategy).finish is not Strategy.finish and "finish" not in strategy.owns:
        faults.append("`finish` is defined and `owns` does not name it, so that it is never called")
    if strategy.neutral_how not in ("exact", "close"):
        faults.append(f"neutral_how is {strategy.neutral_how!r}")
    require(
        not faults,
        "the class attributes describe the strategy",
        "; ".join(faults),
        "name parameters in `neutral`, attributes set in __init__ in `state`, forward and backward in `cost`, "
        "and 'exact' or 'close' in `neutral_how`",
    )


def _check_rebuilt(strategy: Strategy) -> None:
    kind, claim = type(strategy), "repr(strategy) is an expression that rebuilds it"
    try:
        rebuilt = eval(repr(strategy), {kind.__name__: kind, "inf": float("inf"), "nan": float("nan")})
    except Exception as error:
        raise CheckFailed(claim, f"{strategy!r} raises {error!r}", "use numbers, strings and tuples") from error
    changed = difference(strategy.params(), rebuilt.params())
    require(
        changed is None,
        claim,
        f"the rebuilt one has {changed}",
        "keep parameters as given in their attributes",
    )


def _check_own_containers(case: StrategyCase) -> None:
    one, other = case.new(), case.new()
    mutable = (dict, list, set, torch.Tensor)
    shared = [n for n in one.state if isinstance(getattr(one, n), mutable) and getattr(one, n) is getattr(other, n)]
    require(
        not shared,
        "two instances share no state",
        f"both hold the same object as {', '.join(shared)}",
        "create containers inside __init__, not in the class body or as defaults",
    )


@contract("strategy")
def check_neutral(case: StrategyCase) -> None:
    """At its `neutral` parameter values the strategy trains exactly (or up to rounding) like plain training."""
    neutral_form(case.first)
    exact = neutral_exactly(case.first)
    for dtype in (torch.float32,) if exact else (torch.float32, torch.float64):
        task = case.task(dtype=dtype)
        plain = case.run(task, Strategy(), **REGULARISED)
        neutral = case.run(task, neutral_form(case.first), **REGULARISED)
        train(plain, 3)
        train(neutral, 3)
        expected, got = weights(plain.model), weights(neutral.model)
        gap = difference(expected, {n: got[n] for n in expected}, 0.0 if exact else CLOSE[dtype])
        require(
            gap is None,
            f"at {neutral.strategy!r} training equals plain training {'bit for bit' if exact else 'up to rounding'}",
            f"after 9 steps {gap}",
            "return the hooks' inputs untouched at these values, or correct `neutral` or `neutral_how`",
        )


def through_disk(state: Any) -> Any:
    """A value as torch.load(weights_only=True) gives it back."""
    memory = io.BytesIO()
    torch.save(state, memory)
    memory.seek(0)
    return torch.load(memory, weights_only=True)


@contract("strategy")
def check_resume(case: StrategyCase) -> None:
    """Two epochs, a checkpoint and two epochs more give the same bits as four epochs: the state is complete."""
    task = case.task()
    straight = case.run(task, **REGULARISED)
    train(straight, 4)
    before = case.run(task, **REGULARISED)
    fresh = attributes(before.strategy)
    train(before, 2)
    # Other initial weights: all that matters must come from the checkpoint.
    after = case.run(task, init=1, state=through_disk(before.state_dict()), **REGULARISED)
    train(after, 2)
    gap = difference(_outcome(straight, task), _outcome(after, task))
    if gap is not None:
        moved = [n for n, v in attributes(before.strategy).items() if difference(fresh.get(n), v) is not None]
        undeclared = [n for n in moved if n.split(".")[-1] not in before.strategy.state]
        hint = f"; changed in training, but not in its state: {', '.join(undeclared)}" if undeclared else ""
        raise CheckFailed(
            "training continued from a checkpoint equals training without a break",
            f"{gap}{hint}",
            "name every attribute that is carried from step to step in `state`",
        )


def _outcome(run: Run, task: Task) -> dict[str, Any]:
    """All that a continued run has to reproduce."""
    rows = predict(run.model, run.strategy, [task.batch("test")])
    state = run.state_dict()
    return {
        "weights": state["model"],
        "optimizer": state["optimizer"],
        "strategy state": state["strategy"],
        "scores": rows.scores,
        "lr scale": state["lr_scale"],
        "cost": state["cost"],
    }


@contract("strategy")
def check_state(case: StrategyCase) -> None:
    """The state loads with torch.load(weights_only=True), comes back unchanged, and is a copy."""
    task = case.task()
    run = case.run(task)
    train(run, 1)
    state = run.strategy.state_dict()
    try:
        loaded = through_disk(state)
    except Exception as error:
        raise CheckFailed(
            "the state holds tensors, numbers, strings and containers of them",
            f"torch.load(weights_only=True) refuses it: {type(error).__name__}: {str(error).splitlines()[0]}",
            "keep other objects out of `state`, or turn them into plain values in state_dict",
        ) from error
    require(
        (gap := difference(state, loaded)) is None,
        "the state survives being saved",
        str(gap),
        "keep tensors, numbers, strings and containers of them in `state`",
    )
    other = case.new()
    other.load_state_dict(loaded)
    require(
        (gap := difference(state, other.state_dict())) is None,
        "load_state_dict restores what state_dict gave",
        str(gap),
        "load every key as it was saved",
    )
    kept = through_disk(state)
    train(run, 1)
    require(
        (gap := difference(kept, state)) is None,
        "state_dict returns a copy",
        f"training on changed an earlier state_dict: {gap}",
        "copy tensors and containers in state_dict",
    )


@contract("strategy")
def check_fork(case: StrategyCase) -> None:
    """A fork leaves the run, and all that it would do next, exactly as it was."""
    task = case.task()
    alone, parent = case.run(task, **REGULARISED), case.run(task, **REGULARISED)
    train(alone, 1)
    train(parent, 1)
    before = _watched(parent)
    for strategy in (None, case.new()):
        parent.fork(strategy, epochs=1)
        require(
            (gap := difference(before, _watched(parent))) is None,
            "a fork does not change its parent",
            str(gap),
            "keep state on the instance, never on the class, in the module, or in objects that forks share",
        )
    train(alone, 1)
    train(parent, 1)
    require(
        (gap := difference(weights(alone.model), weights(parent.model))) is None,
        "training continues as if there had been no fork",
        str(gap),
        "keep state on the instance only",
    )


def _watched(run: Run) -> dict[str, Any]:
    state = {k: v for k, v in run.state_dict().items() if k != "cost"}
    training = {n: m.training for n, m in run.model.named_modules()}
    return {**state, "attributes": attributes(run.strategy), "random": random_state(), "training": training}


@contract("strategy")
def check_isolation(case: StrategyCase) -> None:
    """Nothing that the run or the strategy holds leads to holdout or test data, or to outputs on them."""
    task = case.task()
    run = case.run(task)
    secret: dict[str, torch.Tensor] = {}
    for _ in range(2):
        train(run, 1)
        for split in ("holdout", "test"):
            batch = task.batch(split)
            with torch.no_grad():
                out = run.strategy.predict(run.model.eval()(batch.inputs, batch.present))
            secret |= {f"{split} input {m}": x for m, x in batch.inputs.items()}
            secret |= {
                f"{split} target": batch.target,
                f"{split} logits": out.logits,
                f"{split} scores": out.scores,
            }
            secret |= {f"{split} features {m}": z for m, z in out.features.items()}
    found = leaked((run, run.strategy), secret)
    require(
        found is None,
        "a strategy cannot reach holdout or test data",
        f"the run or the strategy holds {found}",
        "keep nothing in `predict`, and give the factory no data; learn from the meta set instead (requires 'slice')",
    )


@contract("strategy")
def check_cost(case: StrategyCase) -> None:
    """Forwards and backwards an epoch stay within the declared `cost`, and all forwards go through the run."""
    task = case.task()
    run = case.run(task)
    seen = [0.0]
    for encoder in run.model.encoders.values():
        encoder.register_forward_hook(lambda *_: seen.__setitem__(0, seen[0] + 1 / len(run.modalities)))
    train(run, 1)
    forward, backward, ran = run.cost.forward, run.cost.backward, seen[0]
    train(run, 1)
    slices = len(task.loader("slice")) if "slice" in run.strategy.requires else 0  # end_epoch measures on it
    used = {
        "forward": max(run.cost.forward - forward, seen[0] - ran - slices),
        "backward": run.cost.backward - backward,
    }
    cost = case.first.cost
    sets = max(0, 2 ** len(run.modalities) - 3) if run.model.head.couples else 0
    for what, number in used.items():
        a_batch = cost[what] + cost.get(f"{what}_coalition", 0) * sets
        # One more an epoch is allowed: a share of the epoch's batches is rounded up to a whole one.
        allowed = a_batch * run.steps_per_epoch + cost.get(f"{what}_epoch", 0) + 1
        allowed += cost.get("slice", 0) * slices if what == "forward" else 0
        require(
            number <= allowed + 1e-6,
            f"an epoch of {run.steps_per_epoch} batches takes at most {allowed:g} {what}s (`cost`, and one more)",
            f"it took {number:g}",
            f"declare cost[{what!r}] a batch; for what is done once an epoch cost['{what}_epoch'], and for passes over "
            "the slice cost['slice']; call the model only through run.forward and run.backward",
        )
