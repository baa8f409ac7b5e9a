"""Slips after which training goes on and its numbers look right: each check names the line and the cure."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from mmzoo.core.seeding import stream
from mmzoo.core.values import Outputs
from mmzoo.errors import MmzooError, told
from mmzoo.testing.harness.authors import (
    Writes,
    call_of,
    file_of,
    line_of,
    made_at,
    remembering,
    written_names,
)
from mmzoo.testing.harness.cases import StrategyCase
from mmzoo.testing.harness.graphs import held, products
from mmzoo.testing.harness.observing import difference, weights
from mmzoo.testing.harness.report import CheckFailed, Skipped, contract, require
from mmzoo.testing.harness.spies import Spy
from mmzoo.testing.harness.tasks import random_present, train
from mmzoo.training.composition import Window
from mmzoo.training.run import Run
from mmzoo.training.strategy import Strategy

#: how far terms may be apart, and weights after two epochs
SAME, APART = 1e-7, 1e-5
#: names that no data set has and nobody writes down
RENAMED = ("velvet", "quartz", "ember", "tundra")
#: names that data sets do have
USUAL = ("audio", "video", "visual", "vision", "image", "text", "depth", "flow", "rgb", "speech", "sound", "img", "txt")


@contract("strategy", first=True)
def check_steps(case: StrategyCase) -> None:
    """It takes the steps of two epochs on complete samples, with the modalities of the data set whatever their names."""
    run = case.run(case.task(), case.new())
    try:
        with remembering():
            train(run, 2)
    except Exception as error:
        _explain(run, error)
        raise


def _explain(run: Run, error: Exception) -> None:
    """Raise the failure that leads to the cure, where the reason is known."""
    claim = "it takes the steps of two epochs"
    if isinstance(error, KeyError) and error.args and isinstance(error.args[0], str):
        name = error.args[0]
        if name not in run.modalities:
            raise CheckFailed(
                f"{claim}, whatever the modalities are called",
                f"it looks up {name!r}; the modalities here are {', '.join(run.modalities)}",
                "take names from run.modalities, out.unimodal.items() or out.features.items(); write none into the code",
            ) from error
    if "backward through the graph a second time" in str(error):
        _check_no_graph(run)


def _check_no_graph(run: Run) -> None:
    for part in _parts(run.strategy):
        kept = [(name, t) for name, t in held(part, Tensor) if t.grad_fn is not None]
        # The oldest is what was kept; others may only pass from hook to hook within a step.
        for name, t in sorted(kept, key=lambda found: found[1].grad_fn._sequence_nr()):  # type: ignore[union-attr]
            where = made_at(t.grad_fn, file_of(part))
            raise CheckFailed(
                "what is kept from step to step holds no graph of an earlier step",
                f"self.{name} still has the graph that it was computed with{f' ({where})' if where else ''}",
                f"keep self.{name.split('[')[0]} = (...).detach(), and in a loss use a weight without a gradient",
            )


def _parts(strategy: Strategy) -> Iterator[Strategy]:
    """A strategy and those within it."""
    yield strategy
    for part in (*getattr(strategy, "parts", ()), *([strategy.inner] if hasattr(strategy, "inner") else [])):
        yield from _parts(part)


@contract("strategy")
def check_memory(case: StrategyCase) -> None:
    """What it keeps from step to step holds no graph: neither attributes nor lists of them grow with the run."""
    run = case.run(case.task())
    with remembering():
        train(run, 1)
    _check_no_graph(run)


@contract("strategy", first=True)
def check_modules(case: StrategyCase) -> None:
    """Modules and parameters of its own are added to the run: trained, saved with the weights and moved to the device."""
    run = case.run(case.task())
    train(run, 1)
    known = {id(p) for p in run.model.parameters()}
    for part in _parts(run.strategy):
        lost: list[tuple[str, Any]] = [
            (n, m) for n, m in held(part, nn.Module) if any(_learns(p, known) for p in m.parameters())
        ]
        lost += [(n, p) for n, p in held(part, nn.Parameter) if _learns(p, known)]
        for name, what in lost:
            where = _assigned(part, name)
            raise CheckFailed(
                "what it trains belongs to the run",
                f"self.{name} is a {type(what).__name__} whose parameters no optimizer knows{where}",
                'make it in `setup` with run.add_module("NAME", lambda: nn....) and use what that returns: it is then '
                "trained, saved, moved to the device and drawn from the run's seed",
            )


def _learns(parameter: nn.Parameter, known: set[int]) -> bool:
    return parameter.requires_grad and id(parameter) not in known


def _assigned(part: Strategy, name: str) -> str:
    where = line_of(part, "setup") if type(part).setup is not Strategy.setup else line_of(part)
    return f" (see {where})" if where else ""


@contract("strategy")
def check_given_values(case: StrategyCase) -> None:
    """No hook writes into what it is given: outputs, features, terms, inputs and targets are the same after it."""
    run = case.run(case.task(), Spy(case.new(), _writes_watched))
    train(run, 1)
    with torch.no_grad():
        run.strategy.predict(run.model.eval()(case.task().batch("test").inputs))


def _writes_watched(name: str, hook: Callable[..., Any], values: tuple[Any, ...]) -> Any:
    given = dict(_given(values))
    if not given:
        return hook(*values)
    before = {n: t.detach().clone() for n, t in given.items()}
    with Writes(given, file_of(hook.__self__)) as writes:  # type: ignore[attr-defined]
        result = hook(*values)
    changed = [n for n, t in given.items() if n in writes.found or difference(before[n], t.detach()) is not None]
    if changed:
        where = next((w for w in writes.found.values() if w), "") or line_of(hook.__self__, name)  # type: ignore[attr-defined]
        raise CheckFailed(
            f"`{name}` leaves what it is given as it is",
            f"{', '.join(changed)} is written to in place ({where})",
            "build new tensors: x / t in place of x.div_(t); x.detach() shares its memory with x",
        )
    return result


def _given(values: tuple[Any, ...]) -> Iterator[tuple[str, Tensor]]:
    for value in values:
        if isinstance(value, Outputs):
            yield "out.logits", value.logits
            yield from ((f"out.unimodal[{m!r}]", z) for m, z in value.unimodal.items())
            yield from ((f"out.features[{m!r}]", z) for m, z in value.features.items())
        elif hasattr(value, "batch") and hasattr(value, "pass_"):
            yield "step.target", value.batch.target
            yield from ((f"the inputs of {m}", x) for m, x in value.batch.inputs.items() if isinstance(x, Tensor))
        elif isinstance(value, Mapping):
            yield from ((f"{n!r}", t) for n, t in value.items() if isinstance(t, Tensor))


@contract("strategy")
def check_rows_that_count(case: StrategyCase) -> None:
    """What a branch says of samples that lack its modality, or are not in the loss, has no influence."""
    task = case.task(dtype=torch.float64)
    present = random_present(task, 0, 0.6)
    present[::5] = False
    task = task.with_train(present=present)
    clean = case.run(task)
    train(clean, 2)
    seen, cures = [], []
    for disturb, which, cure in _ROWS:
        spy = _Disturbed(disturb)
        run = case.run(task, Spy(case.new(), spy))
        try:
            train(run, 2)
            gap = difference(weights(clean.model), weights(run.model), APART)
        except (RuntimeError, IndexError, ValueError) as error:
            gap = told(error)
        if gap:
            seen.append(f"with other values of samples that {which}, {spy.found or f'{gap} ({spy.hook(run)})'}")
            cures.append(cure)
    claim = "what a branch says of samples that lack its modality, or are not in the loss, has no influence"
    require(not seen, claim, "; ".join(seen), "; ".join(reversed(cures)))


def _lacking(step: Any, out: Outputs) -> dict[str, Tensor]:
    """modality -> (B,) bool, the samples in the loss that lack it."""
    if step.batch.present is None:
        return {}
    kept = torch.ones_like(step.target, dtype=torch.bool) if step.keep is None else step.keep
    return {m: ~step.batch.present[:, step.run.modalities.index(m)] & kept for m in out.features}


def _left_out(step: Any, out: Outputs) -> dict[str, Tensor]:
    """Likewise the samples that are not in the loss, and under "" for the joint outputs."""
    return {} if step.keep is None else dict.fromkeys(["", *out.features], ~step.keep)


_ROWS = (
    (
        _lacking,
        "lack its modality",
        "count with step.here(m): step.mean(values, step.here(m)), step.loss(logits, step.here(m))",
    ),
    (_left_out, "are not in the loss", "take step.kept(x) of every output before anything is computed from it"),
)


class _Disturbed:
    """Hands hooks outputs that differ in some rows."""

    def __init__(self, rows: Callable[[Any, Outputs], dict[str, Tensor]]) -> None:
        self._rows = rows
        self.found = ""

    def __call__(self, name: str, hook: Callable[..., Any], values: tuple[Any, ...]) -> Any:
        if name not in ("losses", "gradients", "updated"):
            return hook(*values)
        step, out, last = values
        other = self._changed(step, out)
        if name != "losses" or self.found:
            return hook(step, other, last)
        file = file_of(hook.__self__)  # type: ignore[attr-defined]
        with remembering():
            clean, terms = hook(step, out, last), hook(step, other, last)
        for term, value in terms.items():
            if term in clean and (gap := difference(clean[term].detach(), value.detach(), SAME)) is not None:
                where = made_at(value.grad_fn, file) or line_of(hook.__self__, name)  # type: ignore[attr-defined]
                self.found = f"the term {term!r} {gap.removeprefix('value ')} ({where})"
        return terms

    def _changed(self, step: Any, out: Outputs) -> Outputs:
        rows = self._rows(step, out)

        def moved(m: str, z: Tensor) -> Tensor:
            if m not in rows or len(z) != len(rows[m]):
                return z
            noise = torch.randn(z.shape, generator=stream(step.run.global_step, "disturb", m), dtype=z.dtype)
            return z + 3.0 * noise.to(z.device) * rows[m].view(-1, *[1] * (z.ndim - 1))

        return out.replace(
            logits=moved("", out.logits),
            unimodal={m: moved(m, z) for m, z in out.unimodal.items()},
            features={m: moved(m, z) for m, z in out.features.items()},
        )

    def hook(self, run: Run) -> str:
        """Where it must be, if no term says it."""
        inner = run.strategy.inner  # type: ignore[attr-defined]
        names = [n for n in ("gradients", "updated", "losses") if getattr(type(inner), n) is not getattr(Strategy, n)]
        return ", ".join(f"`{n}`, {line_of(inner, n)}" for n in names[:1])


@contract("strategy")
def check_modality_names(case: StrategyCase) -> None:
    """Nothing depends on what the modalities are called: it trains under other names, and its code holds none."""
    claim, cure = (
        "nothing depends on the names of modalities",
        "take names from run.modalities; write none into the code",
    )
    for part in _parts(case.first):
        found = written_names(part, frozenset(USUAL))
        require(not found, claim, f"the code says {'; '.join(found)}", cure)
    task = case.task()
    names = dict(zip(task.modalities, RENAMED))
    run = case.run(task.renamed(names))
    try:
        train(run, 1)
    except (KeyError, MmzooError) as error:
        if not any(m in str(error) for m in task.modalities):
            raise
        raise CheckFailed(claim, f"{told(error)}; the modalities are {', '.join(names.values())}", cure) from error


@contract("strategy")
def check_leftovers(case: StrategyCase) -> None:
    """After its window learning rates, sampling and what may move are as they were before."""
    if case.first.solo or "finish" in case.first.owns:
        raise Skipped("a window around it is refused")
    run = case.run(case.task(), Window(case.new(), 0, 1))
    moving = {n: p.requires_grad for n, p in run.model.named_parameters()}
    train(run, 3)
    state = run.state_dict()
    scaled = {
        g: k for g, k in state["lr_scale"].items() if k != 1.0 and not g.startswith("extra:")
    }  # those are its own
    left = [f"the learning rate of {g} is still scaled by {k:g}" for g, k in scaled.items()]
    where = call_of(case.first, "set_lr_scale") if left else call_of(case.first, "set_sampling")
    left += ["the sampling that it set is still in force"] * (state["sampling"] is not None)
    now = {n: p.requires_grad for n, p in run.model.named_parameters() if n in moving}
    left += [f"requires_grad of {n} is {v}" for n, v in now.items() if v != moving[n]]
    require(
        not left,
        "after its window (NAME:0-1) the rest of the run is not touched",
        "; ".join(left[:4]) + (f" ({where})" if where else ""),
        "define window_end(self, run) and undo it there: run.set_lr_scale(group, 1.0), run.set_sampling(None), "
        "requires_grad_(True)",
    )


@contract("strategy")
def check_factors(case: StrategyCase) -> None:
    """A weight of a loss is a number: no gradient goes into the model through the factor in front of a term."""
    run = case.run(case.task(), Spy(case.new(), _factors_watched))
    with remembering():
        train(run, 2)


def _factors_watched(name: str, hook: Callable[..., Any], values: tuple[Any, ...]) -> Any:
    result = hook(*values)
    if name != "losses":
        return result
    step, _, given = values
    part, model = hook.__self__, step.run.model  # type: ignore[attr-defined]
    extra = {id(p) for p in model.extra.parameters()}
    params = {id(p) for p in model.parameters()} - extra
    for term, value in result.items():
        if value.grad_fn is None or (term in given and value is given[term]):
            continue
        for node in products(value.grad_fn, params, sizes=((), (len(step.run.modalities),))):
            where = made_at(node, file_of(part))
            if where:
                raise CheckFailed(
                    "the weight of a loss has no gradient of its own",
                    f"in the term {term!r} both factors of a product lead back to the model ({where})",
                    "detach the factor that is the weight: weight.detach() * loss; where the product itself is the objective, "
                    'say so: expected_failures = {"check_factors": "WHY"}',
                )
    return result
