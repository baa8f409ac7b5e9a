"""What the hooks of a strategy may do to what they are given."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from operator import itemgetter
from typing import Any

import torch

from mmzoo.core.seeding import seeded
from mmzoo.core.values import Batch, Outputs, Pass
from mmzoo.evaluation.predictions import predict
from mmzoo.testing.checks.strategy import REGULARISED
from mmzoo.testing.harness.cases import StrategyCase
from mmzoo.testing.harness.observing import attributes, difference, not_finite, random_state, weights
from mmzoo.testing.harness.reads import Reads
from mmzoo.testing.harness.report import Skipped, contract, require
from mmzoo.testing.harness.spies import Restricted, Spy, versions
from mmzoo.testing.harness.tasks import Task, edited, train
from mmzoo.training.passes import with_inputs
from mmzoo.training.run import Run
from mmzoo.training.step import Step
from mmzoo.training.strategy import HOOKS

PURE = "keep state for gradients, updated, epoch_start or epoch_end; use step.scratch within the step"


def _mid_epoch(case: StrategyCase, task: Task) -> Iterator[tuple[Run, Batch, Pass]]:
    """Every pass over one batch, at the beginning of a run and after an epoch."""
    run = case.run(task, **REGULARISED)
    for epoch in range(2):
        if epoch:
            train(run, 1)
        run.start_epoch()
        batch = next(iter(run.epoch_batches())).to(run.device)
        for pass_ in run.strategy.plan(Step(run, batch), [Pass()]):
            yield run, batch, pass_


def _surroundings(run: Run) -> dict[str, Any]:
    """All that a hook which changes nothing leaves as it is."""
    return {
        "strategy state": run.strategy.state_dict(),
        "strategy attributes": attributes(run.strategy),
        "weights and buffers": weights(run.model),
        "random state": random_state(),
        "grad mode": torch.is_grad_enabled(),
        "training mode": [m.training for m in run.model.modules()],
        "gradients": {n: p.grad for n, p in run.model.named_parameters() if p.grad is not None},
    }


def _said(out: Outputs) -> dict[str, Any]:
    return {"logits": out.logits, "unimodal": dict(out.unimodal), "scores": out.scores}


def _check_pure(
    run: Run,
    name: str,
    call: Callable[[], Any],
    given: Mapping[str, torch.Tensor],
    said: Callable[[Any], Any],
) -> Any:
    """Call a hook twice: equal results, and nothing around it has changed."""
    before, values, edits = (
        _surroundings(run),
        {n: t.detach().clone() for n, t in given.items()},
        versions(given),
    )
    first, second = call(), call()
    touched = [n for n, t in given.items() if t._version != edits[n] or difference(values[n], t) is not None]
    require(
        not touched,
        f"`{name}` does not change its inputs",
        f"edited in place: {', '.join(touched)}",
        "build new tensors instead of writing into given ones (x * k, not x.mul_(k))",
    )
    gap = difference(said(first), said(second))
    require(
        gap is None,
        f"`{name}` called again gives the same result",
        str(gap),
        PURE + "; draw from step.generator",
    )
    gap = difference(before, _surroundings(run))
    require(gap is None, f"`{name}` changes nothing outside its result", str(gap), PURE)
    return first


@contract("strategy")
def check_purity(case: StrategyCase) -> None:
    """`inputs`, `features`, `outputs` and `losses` give the same when called again, and change nothing else."""
    for run, batch, pass_ in _mid_epoch(case, case.task()):
        step = Step(run, batch, pass_)
        data = {f"input {m}": x for m, x in batch.inputs.items()} | {"target": batch.target}
        read = _check_pure(run, "inputs", partial(run.strategy.inputs, step, batch.inputs), data, dict)
        step.batch = with_inputs(batch, read)
        with seeded(0, "purity"):
            feats = run.model.encode(step.batch.inputs, pass_, batch.present)
        given = data | {f"feature {m}": z for m, z in feats.items()}
        mixed, step = _check_pure(
            run,
            "features",
            partial(_features_anew, step, feats),
            given,
            lambda r: {"features": r[0], "keep": r[1].keep},
        )
        with seeded(0, "purity"):
            raw = run.model.outputs(mixed, batch.present)
        own = {f"unimodal {m}": z for m, z in raw.unimodal.items()}
        given = data | {"logits": raw.logits} | own | {f"feature {m}": z for m, z in raw.features.items()}
        out = _check_pure(run, "outputs", partial(run.strategy.outputs, step, raw), given, _said)
        terms = {"task": run.criterion(step.kept(out.logits), step.target)}
        given |= terms
        _check_pure(run, "losses", partial(run.strategy.losses, step, out, terms), given, dict)


def _features_anew(step: Step, feats: Mapping[str, torch.Tensor]) -> tuple[Mapping[str, torch.Tensor], Step]:
    """What `features` returns, and the step on which it may have set `keep`."""
    again = step.at(step.pass_)
    return again.run.strategy.features(again, feats), again


@contract("strategy")
def check_terms(case: StrategyCase) -> None:
    """Loss terms are finite scalars; received ones stay as they are, unless owned; new ones are named `name/what`."""
    for run, batch, pass_ in _mid_epoch(case, case.task()):
        strategy, step = run.strategy, Step(run, batch, pass_)
        feats = strategy.features(step, run.model.encode(batch.inputs, pass_, batch.present))
        out = strategy.outputs(step, run.model.outputs(feats, batch.present))
        given = {"task": run.criterion(step.kept(out.logits), step.target), "company/size": out.logits.square().mean()}
        terms = strategy.losses(step, out, dict(given))
        _check_scalars(terms)
        for name, value in given.items():
            require(
                name in terms,
                "every term that was received is still there",
                f"{name!r} is gone",
                "return {**terms, ...}: without it the rest of a chain has no effect",
            )
            if name == "task" and "task" in strategy.owns:
                continue
            gap = difference(value, terms[name])
            require(
                gap is None,
                f"the term {name!r}, which it does not own, keeps its value",
                str(gap),
                "add a term of your own, or declare owns = frozenset({'task'}) to change the task term",
            )
        bare = [n for n in terms if n not in given and not all(n.partition("/")[::2])]
        require(
            not bare,
            "added terms are named `<strategy>/<what>`",
            f"added {', '.join(map(repr, bare))}",
            "prefix the name of the strategy, so that two strategies never use one name",
        )
        require(
            torch.stack(list(terms.values())).sum().requires_grad,
            "the terms depend on the model",
            "their sum has no gradient",
            "do not detach the task term",
        )


def _check_scalars(terms: Mapping[str, torch.Tensor]) -> None:
    odd = [n for n, t in terms.items() if not isinstance(t, torch.Tensor) or t.ndim != 0]
    require(not odd, "every term is a scalar tensor", f"{', '.join(odd)} is not", "return 0-dimensional tensors")
    bad = [f"{n} is {float(t.detach())}" for n, t in terms.items() if not torch.isfinite(t)]
    require(not bad, "every term is finite", ", ".join(bad), "guard logarithms, divisions and empty selections")


@contract("strategy")
def check_gradients(case: StrategyCase) -> None:
    """No hook of a step moves a parameter, and the gradients that are left are finite."""
    run = case.run(case.task(), Spy(case.new(), _gradients_watched), **REGULARISED)
    train(run, 2)


def _gradients_watched(name: str, hook: Callable[..., Any], values: tuple[Any, ...]) -> Any:
    if "step" not in HOOKS[name]:
        return hook(*values)
    model = values[0].run.model
    before = {n: p.detach().clone() for n, p in model.named_parameters()}
    result = hook(*values)
    gap = difference(before, {n: p.detach() for n, p in model.named_parameters()})
    require(
        gap is None,
        f"`{name}` moves no parameter",
        str(gap),
        "change p.grad through Grads; to replace weights use run.edit or run.restore around an epoch",
    )
    if name == "gradients":
        bad = not_finite({n: p.grad for n, p in model.named_parameters() if p.grad is not None})
        require(not bad, "gradients are finite", f"not finite: {', '.join(bad)}", "guard divisions and deviations")
    return result


@contract("strategy")
def check_no_waiting(case: StrategyCase) -> None:
    """No hook of a step reads a value of a tensor, for which a GPU would have to finish all that is queued."""
    run = case.run(case.task(), Spy(case.new(), _reads_watched), **REGULARISED)
    train(run, 1)


def _reads_watched(name: str, hook: Callable[..., Any], values: tuple[Any, ...]) -> Any:
    if "step" not in HOOKS[name]:
        return hook(*values)
    with Reads() as reads:
        result = hook(*values)
    require(
        not reads.found,
        f"`{name}` leaves the values of tensors where they are",
        f"it uses {'; '.join(reads.found)}",
        "compute with tensors (torch.where in place of an if), and hand tensors to run.log; what is read around an epoch "
        "costs nothing",
    )
    return result


@contract("strategy")
def check_random_streams(case: StrategyCase) -> None:
    """The global random state of torch, numpy and python is left alone; it has no influence either."""
    results = []
    for seed in (1, 2):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            run = case.run(case.task(), Spy(case.new(), _random_watched), **REGULARISED)
            before = random_state()
            train(run, 2)
            gap = difference(before, random_state())
            results.append(weights(run.model))
        require(gap is None, "training does not change the global random state", str(gap), "see step.generator")
    gap = difference(results[0], results[1])
    require(
        gap is None,
        "results depend only on the run's seed",
        f"another global seed changes them: {gap}",
        "draw from step.generator(name), or around an epoch from run.generator(name)",
    )


def _random_watched(name: str, hook: Callable[..., Any], values: tuple[Any, ...]) -> Any:
    before = random_state()
    result = hook(*values)
    gap = difference(before, random_state())
    require(
        gap is None,
        f"`{name}` draws no global random number",
        f"the random state changed: {gap}",
        "draw from step.generator(name), or around an epoch from run.generator(name); it replays in resume and forks",
    )
    return result


@contract("strategy")
def check_frozen(case: StrategyCase) -> None:
    """An encoder that a pass freezes or does not update keeps its bits, in spite of momentum and weight decay."""
    task, checked = case.task(), 0
    for modality in task.modalities:
        for how in ("freeze", "still"):
            restricted = Restricted(case.new())
            run = case.run(task, restricted, **REGULARISED)
            train(run, 1)  # now there is momentum that could carry on
            setattr(restricted, how, modality)
            encoder = run.model.encoders[modality]
            tensors = weights if how == "freeze" else _parameters
            before = tensors(encoder)
            if edited(train(run, 2), [f"encoder:{modality}"]):
                continue
            checked += 1
            held, kept = {
                "freeze": ("Pass(freeze=...)", "weights and statistics"),
                "still": ("Pass(update=...)", "weights"),
            }[how]
            gap = difference(before, tensors(encoder))
            require(
                gap is None,
                f"an encoder held back by {held} keeps its {kept}",
                f"{modality}: {gap}",
                "touch only gradients that are there (Grads.params, Grads.scale); create none",
            )
    if not checked:
        raise Skipped("it replaces the weights of every encoder around epochs")


def _parameters(module: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {n: p.detach().clone() for n, p in module.named_parameters()}


@contract("strategy")
def check_prediction(case: StrategyCase) -> None:
    """Predictions are finite, do not depend on the mode or on other items, and leave the strategy as it is."""
    task = case.task()
    run = case.run(task, **REGULARISED)
    train(run, 1)
    batch, before = task.batch("test"), attributes(run.strategy)
    rows = predict(run.model.eval(), run.strategy, [batch])
    n = len(batch)
    require(
        rows.scores.shape == (n, task.n_classes) and not not_finite({"scores": rows.scores, "logits": rows.logits}),
        "scores are finite and (samples, classes)",
        f"shape {tuple(rows.scores.shape)}, or not finite",
        "return out.replace(ranking=...) with one finite row per sample",
    )
    if "predict" not in run.strategy.owns:
        sums = difference(rows.scores.sum(1), torch.ones_like(rows.scores[:, 0]), 1e-5)
        require(
            sums is None and bool((rows.scores >= 0).all()),
            "without owning 'predict', scores are probabilities",
            f"row sums: {sums}, smallest {float(rows.scores.min()):.3g}",
            "declare owns = frozenset({'predict'})",
        )
    again = predict(run.model.train(), run.strategy, [batch])
    require(
        (gap := difference(rows.scores, again.scores)) is None,
        "a prediction repeats, whatever the training mode",
        str(gap),
        "use only what `out` holds",
    )
    single = predict(run.model, run.strategy, [batch.map(itemgetter(slice(i, i + 1))) for i in range(n)])
    require(
        (gap := difference(rows.scores, single.scores, 1e-5)) is None,
        "a sample's scores do not depend on its batch",
        str(gap),
        "decide row by row: no statistics over the batch in `predict`",
    )
    require(
        (gap := difference(before, attributes(run.strategy))) is None,
        "`predict` changes no state",
        str(gap),
        "predictions are made on holdout and test: keep nothing of them",
    )
