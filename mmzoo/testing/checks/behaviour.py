"""How a strategy behaves under reordering, on awkward data, and in the company of others."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from operator import itemgetter
from typing import Any

import torch
from hypothesis import strategies as st
from torch import Tensor

from mmzoo.core.seeding import stream
from mmzoo.errors import Incompatible
from mmzoo.evaluation.predictions import predict
from mmzoo.testing.checks.strategy import REGULARISED
from mmzoo.testing.harness.cases import StrategyCase
from mmzoo.testing.harness.observing import difference, examples, not_finite, weights
from mmzoo.testing.harness.report import CheckFailed, Skipped, contract, require
from mmzoo.testing.harness.spies import Alternating, Halved, Marker, Owner, combined
from mmzoo.testing.harness.tasks import Task, random_present, train
from mmzoo.training.composition import Chain, Window
from mmzoo.training.run import Run
from mmzoo.training.strategy import OWNABLE, Strategy

SAME = 1e-8


def _sorted_sizes(case: StrategyCase) -> list[int]:
    most = 4 if case.first.max_modalities is None else min(4, case.first.max_modalities)
    return list(range(max(2, case.first.min_modalities), most + 1)) or [case.modalities]


def _skip_if_random(case: StrategyCase) -> None:
    if case.first.stochastic:
        raise Skipped("declared stochastic: reordering changes which draw meets which value")


@contract("strategy")
def check_modality_order(case: StrategyCase) -> None:
    """The order in which modalities are listed does not matter: reordering them permutes the result."""
    _skip_if_random(case)

    @examples(case.draws, data=st.data(), n=st.sampled_from(_sorted_sizes(case)), seed=st.integers(0, 999))
    def one(data: Any, n: int, seed: int) -> None:
        task = case.task(n, dtype=torch.float64, seed=seed)
        order = data.draw(st.permutations(task.modalities))
        base, other = case.run(task, norm=True), case.run(task.reordered(order), norm=True)
        _copy_weights(base, other, task)
        train(base, 2)
        train(other, 2)
        gap = difference(weights(base.model), weights(other.model), SAME)
        require(
            gap is None,
            "modalities are treated by name, not by position",
            f"in the order {order}, {gap}",
            "look modalities up by name and avoid 'the first one'; break ties without the order",
        )


def _copy_weights(base: Run, other: Run, task: Task) -> None:
    """Give the reordered model the same weights by name. Skipped where the head itself depends on the order."""
    try:
        other.model.load_state_dict(base.model.state_dict())
    except RuntimeError as error:
        raise Skipped("the head's parameters depend on the order of the modalities") from error
    batch = task.batch("test")
    with torch.no_grad():
        a, b = (run.model.eval()(batch.inputs).logits for run in (base, other))
    if difference(a, b, SAME) is not None:
        raise Skipped("the head's parameters depend on the order of the modalities")


@contract("strategy")
def check_sample_order(case: StrategyCase) -> None:
    """The order of the items within a batch does not matter."""
    _skip_if_random(case)

    @examples(case.draws, seed=st.integers(0, 999))
    def one(seed: int) -> None:
        task = case.task(dtype=torch.float64, seed=seed)
        base, other = case.run(task, norm=True), case.run(task, norm=True)
        g = stream(seed, "order")
        for run, shuffle in ((base, False), (other, True)):
            run.start_epoch()
            for batch in run.epoch_batches():
                order = torch.randperm(len(batch), generator=g)
                run.step(batch.map(itemgetter(order)) if shuffle else batch)
            run.end_epoch()
        gap = difference(weights(base.model), weights(other.model), SAME)
        require(
            gap is None,
            "permuting the samples of a batch does not change the update",
            str(gap),
            "reduce over the batch with sums or means; declare `stochastic` where draws belong to positions",
        )


@contract("strategy")
def check_micro_batches(case: StrategyCase) -> None:
    """Encoding a batch in pieces (Training.micro_batch) gives the same update."""
    task = case.task(dtype=torch.float64)
    whole = case.run(task)
    if whole.model.head.couples:
        raise Skipped("the head acts between stages, which excludes micro-batches")
    pieces = case.run(task, micro_batch=2)
    train(whole, 2)
    train(pieces, 2)
    gap = difference(weights(whole.model), weights(pieces.model), SAME)
    require(
        gap is None,
        "a step means the same at any micro-batch",
        str(gap),
        "make gradients through run.backward or run.term_grads, which carry them through the pieces",
    )


def _check_finite(case: StrategyCase, task: Task, run: Run, logged: dict[str, float], where: str) -> None:
    bad = not_finite(weights(run.model)) + [n for n, v in logged.items() if not abs(v) < float("inf")]
    todo = "guard logarithms, divisions and empty selections; a class or modality without samples contributes nothing"
    require(not bad, f"{where} leaves weights and logged values finite", f"not finite: {', '.join(bad)}", todo)
    rows = predict(run.model, run.strategy, [task.batch("test")])
    require(not not_finite({"scores": rows.scores}), f"{where} leaves predictions finite", "they are not", todo)


def _survives(
    case: StrategyCase, task: Task, where: str, change: Callable[[Run], None] = lambda run: None, **options: Any
) -> None:
    run = case.run(task, **options)
    change(run)
    try:
        logged = train(run, 2)
    except Exception as error:
        raise CheckFailed(
            f"{where} does not stop training",
            f"{type(error).__name__}: {error}",
            "handle the case; add nothing then",
        ) from error
    _check_finite(case, task, run, logged, where)


@contract("strategy")
def check_batch_of_one(case: StrategyCase) -> None:
    """Batches of one item do not stop training, and leave everything finite."""
    _survives(case, case.task(batch_size=1), "a batch of one sample")


@contract("strategy")
def check_missing_classes(case: StrategyCase) -> None:
    """Batches of a single class, and classes that never occur, leave everything finite."""
    task = case.task()
    target = task.target["train"]
    _survives(case, task.with_train(target=torch.ones_like(target)), "a data set of one class", **REGULARISED)
    _survives(case, task.with_train(target=target.clamp_max(1)), "a class without samples", **REGULARISED)


@contract("strategy")
def check_zero_inputs(case: StrategyCase) -> None:
    """A modality whose inputs are all zero leaves everything finite."""
    task = case.task()
    for m, x in task.inputs["train"].items():
        zeros = task.with_train(inputs={m: torch.zeros_like(x)})
        _survives(case, zeros, f"a modality of zeros ({m})", **REGULARISED)


@contract("strategy")
def check_large_logits(case: StrategyCase) -> None:
    """Logits of ten thousand leave everything finite."""
    task = case.task()

    def scale(run: Run) -> None:
        """Multiply all parameters of the head by the one factor that gives such logits, whatever its depth."""
        initial = [p.detach().clone() for p in run.model.head.parameters()]
        low, high = 1.0, 1e8
        with torch.no_grad():
            for _ in range(40):
                factor = (low * high) ** 0.5
                for p, start in zip(run.model.head.parameters(), initial):
                    p.copy_(factor * start)
                size = float(run.model.eval()(task.batch().inputs).logits.abs().max())
                low, high = (factor, high) if size < 1e4 else (low, factor)

    _survives(case, task, "logits of 1e4", scale, lr=1e-4)


@contract("strategy")
def check_absent_modalities(case: StrategyCase) -> None:
    """Items, batches and whole epochs that lack a modality leave everything finite."""

    @examples(
        case.draws,
        n=st.sampled_from(_sorted_sizes(case)),
        share=st.floats(0.1, 0.9),
        seed=st.integers(0, 999),
    )
    def some(n: int, share: float, seed: int) -> None:
        task = case.task(n)
        present = random_present(task, seed, share)
        _survives(case, task.with_train(present=present), f"a share of {1 - share:.1f} absent of {n} modalities")

    task = case.task()
    for column, m in enumerate(task.modalities):
        never = torch.ones(len(task.target["train"]), len(task.modalities), dtype=torch.bool)
        never[:, column] = False
        if len(task.modalities) > 1:
            _survives(case, task.with_train(present=never), f"an epoch without {m}", **REGULARISED)
            _check_batch_without(case, task, column)


def _check_batch_without(case: StrategyCase, task: Task, column: int) -> None:
    """One batch in which nobody has the modality, between batches in which everybody has it."""
    run = case.run(task, **REGULARISED)
    run.start_epoch()
    for i, batch in enumerate(run.epoch_batches()):
        present = torch.ones(len(batch), len(task.modalities), dtype=torch.bool)
        present[:, column] = i != 1
        run.step(replace(batch, present=present))
    _check_finite(case, task, run, run.end_epoch(), f"a batch without {task.modalities[column]}")


def _result(case: StrategyCase, strategy: Strategy, task: Task) -> dict[str, Any]:
    run = case.run(task, strategy, slice="slice" in case.first.requires or None)
    train(run, 2)
    return {
        "weights": weights(run.model),
        "scores": predict(run.model, run.strategy, [task.batch("test")]).scores,
    }


def _same(a: dict[str, Any], b: dict[str, Any]) -> bool:
    """Whether two results agree bit for bit; modules that only one of them has do not count."""
    common = a["weights"].keys() & b["weights"].keys()
    parts: Sequence[tuple[Tensor, Tensor]] = [(a["weights"][n], b["weights"][n]) for n in common]
    return all(torch.equal(x, y) for x, y in [*parts, (a["scores"], b["scores"])])


@contract("strategy")
def check_company(case: StrategyCase) -> None:
    """In a chain the strategy has its effect, before and after others, and the others keep theirs."""
    task = case.task()
    alone, plain = _result(case, case.new(), task), _result(case, Strategy(), task)
    if _same(alone, plain):
        raise Skipped("it has no effect on the tiny task even without a chain")
    for companion in (Marker, Halved):
        only = _result(case, companion(), task)
        for first in (True, False):
            chain = combined(case.new(), companion()) if first else combined(companion(), case.new())
            if chain is None:
                raise Skipped("it cannot be chained")
            result = _result(case, chain, task)
            place = "before" if first else "after"
            require(
                not _same(result, only),
                f"it has an effect {place} {companion.__name__}",
                "the chain trains exactly like the companion strategy",
                "work on the values that the hooks pass on (out.logits, out.unimodal, terms), not on the model's",
            )
            require(
                not _same(result, alone),
                f"{companion.__name__} keeps its effect when chained {place} it",
                "the chain trains exactly like this strategy by itself",
                "pass on what you receive: {**terms, ...}, out.replace(...), the given passes",
            )


@contract("strategy")
def check_alternating_company(case: StrategyCase) -> None:
    """After a strategy that feeds one modality at a time, it trains and leaves everything finite."""
    task = case.task()
    chain = combined(Alternating(), case.new())
    if chain is None:
        raise Skipped("it cannot be chained")
    run = case.run(task, chain, **REGULARISED)
    try:
        logged = train(run, 2)
    except Exception as error:
        raise CheckFailed(
            "a pass that feeds a single modality does not stop it",
            f"{type(error).__name__}: {error}",
            "work on the modalities that out.features and out.unimodal hold; add nothing where they are too few",
        ) from error
    _check_finite(case, task, run, logged, "alternating passes")


@contract("strategy")
def check_owners(case: StrategyCase) -> None:
    """What it owns cannot be chained with another owner of the same."""
    owned = case.first.owns & OWNABLE
    if not owned:
        raise Skipped("it owns nothing")
    for what in sorted(owned):
        try:
            Chain(case.new(), Owner(owns=frozenset({what})))
        except Incompatible:
            continue
        raise CheckFailed(f"two owners of {what!r} are refused", "the chain was built", "declare `owns`")


@contract("strategy")
def check_window(case: StrategyCase) -> None:
    """A window that never opens, and an empty chain, are plain training; one that opens late trains."""
    if case.first.solo:
        raise Skipped("it is the whole of a method (solo): a window around it is refused")
    if "finish" in case.first.owns:
        raise Skipped("it acts after training (owns finish): a window around it is refused")
    task = case.task()
    runs = [case.run(task, Strategy(), **REGULARISED), case.run(task, Chain(), **REGULARISED)]
    if type(case.first).param_groups is Strategy.param_groups:
        runs.append(case.run(task, Window(case.new(), 10**6), **REGULARISED))
    for run in runs:
        train(run, 2)
    expected = weights(runs[0].model)
    for run in runs[1:]:
        got = weights(run.model)
        gap = difference(expected, {n: got[n] for n in expected})
        require(
            gap is None,
            f"{type(run.strategy).__name__} without effect is plain training, bit for bit",
            str(gap),
            "do not change the given model in `setup`, and do the work in the hooks of an epoch or a step",
        )
    for first, last in ((1, None), (0, 0)):
        late = case.run(task, Window(case.new(), first, last), **REGULARISED)
        _check_finite(case, task, late, train(late, 2), f"a window from epoch {first} to {last or 'the end'}")
