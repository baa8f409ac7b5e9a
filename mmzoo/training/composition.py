"""Strategies made of strategies: Window limits one to some epochs, Chain applies several in order."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from torch import Tensor

from mmzoo.errors import BadValue, Incompatible
from mmzoo.training.config import open_epochs
from mmzoo.training.strategy import CLAIMED, Claims, Group, Strategy, Terms

if TYPE_CHECKING:
    from mmzoo.core.values import Outputs, Pass
    from mmzoo.training.gradients import Grads
    from mmzoo.training.run import Run
    from mmzoo.training.step import Step


class Wrapper(Strategy):
    """A strategy around another one that passes every hook on. Base of `Window`.

    Args:
        inner: the strategy that is wrapped.
    """

    def __init__(self, inner: Strategy) -> None:
        self.inner = inner
        _declare(self, inner.claims)

    def setup(self, run: Run) -> None:
        self.inner.setup(run)

    def param_groups(self, groups: Mapping[str, Group]) -> Mapping[str, Group]:
        return self.inner.param_groups(groups)

    def epoch_start(self, run: Run) -> None:
        self.inner.epoch_start(run)

    def epoch_end(self, run: Run, metrics: Mapping[str, Any]) -> None:
        self.inner.epoch_end(run, metrics)

    def window_end(self, run: Run) -> None:
        self.inner.window_end(run)

    def plan(self, step: Step, passes: Sequence[Pass]) -> Sequence[Pass]:
        return self.inner.plan(step, passes)

    def inputs(self, step: Step, inputs: Mapping[str, Any]) -> Mapping[str, Any]:
        return self.inner.inputs(step, inputs)

    def features(self, step: Step, feats: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        return self.inner.features(step, feats)

    def outputs(self, step: Step, out: Outputs) -> Outputs:
        return self.inner.outputs(step, out)

    def losses(self, step: Step, out: Outputs, terms: Terms) -> Terms:
        return self.inner.losses(step, out, terms)

    def backward(self, step: Step, terms: Terms) -> None:
        self.inner.backward(step, terms)

    def gradients(self, step: Step, out: Outputs, grads: Grads) -> None:
        self.inner.gradients(step, out, grads)

    def updated(self, step: Step, out: Outputs, terms: Terms) -> None:
        self.inner.updated(step, out, terms)

    def predict(self, out: Outputs) -> Outputs:
        return self.inner.predict(out)

    def finish(self, run: Run) -> Iterator[str]:
        return self.inner.finish(run)

    def state_dict(self) -> dict[str, Any]:
        return {"inner": self.inner.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.inner.load_state_dict(state["inner"])


class Window(Wrapper):
    """Applies a strategy in some epochs only, first and last included, counted from 0.

    Outside the window every hook returns its input, and `window_end` has reverted lasting changes. `setup`,
    `param_groups`, `predict` and the state belong to the whole run.

    Args:
        inner: the strategy.
        first: the first epoch. A float in [0, 1] is a fraction of the run: Window(s, 0.0, 0.5) is the first half.
        last: the last epoch, or a fraction; None: the end of the run.
    """

    def __init__(self, inner: Strategy, first: int | float = 0, last: int | float | None = None) -> None:
        super().__init__(inner)
        if inner.solo:
            raise Incompatible(f"{type(inner).__name__} is the whole of a method: it has no window.")
        if "finish" in inner.owns:
            raise Incompatible(f"{type(inner).__name__} acts after training: it has no window.")
        if last is not None and type(first) is type(last) and last < first:
            raise BadValue(f"a window must not end before it starts: {first}-{last}.")
        self.first, self.last = first, last

    def _open(self, run: Run, later: int = 0) -> bool:
        return run.epoch + later in open_epochs(self.first, self.last, run.n_epochs)

    def epoch_start(self, run: Run) -> None:
        if self._open(run):
            self.inner.epoch_start(run)

    def epoch_end(self, run: Run, metrics: Mapping[str, Any]) -> None:
        if self._open(run):
            before = run.stopped
            self.inner.epoch_end(run, metrics)
            if self.last is not None and not before and run.epoch + 1 < run.n_epochs:
                run.stopped = False  # a part that is done with its window is not the end of the run
            if self.last is not None and not self._open(run, later=1):
                self.inner.window_end(run)

    def window_end(self, run: Run) -> None:
        if self._open(run):
            self.inner.window_end(run)

    def plan(self, step: Step, passes: Sequence[Pass]) -> Sequence[Pass]:
        return self.inner.plan(step, passes) if self._open(step.run) else passes

    def inputs(self, step: Step, inputs: Mapping[str, Any]) -> Mapping[str, Any]:
        return self.inner.inputs(step, inputs) if self._open(step.run) else inputs

    def features(self, step: Step, feats: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        return self.inner.features(step, feats) if self._open(step.run) else feats

    def outputs(self, step: Step, out: Outputs) -> Outputs:
        return self.inner.outputs(step, out) if self._open(step.run) else out

    def losses(self, step: Step, out: Outputs, terms: Terms) -> Terms:
        return self.inner.losses(step, out, terms) if self._open(step.run) else terms

    def backward(self, step: Step, terms: Terms) -> None:
        (self.inner if self._open(step.run) else _PLAIN).backward(step, terms)

    def gradients(self, step: Step, out: Outputs, grads: Grads) -> None:
        if self._open(step.run):
            self.inner.gradients(step, out, grads)

    def updated(self, step: Step, out: Outputs, terms: Terms) -> None:
        if self._open(step.run):
            self.inner.updated(step, out, terms)


class Chain(Strategy):
    """Applies several strategies as one: the result of each hook is the input of the next strategy's hook.

    Args:
        parts: the strategies in order.

    Raises:
        Incompatible: two of them own the same thing, or one of them cannot be combined (`solo`).
    """

    def __init__(self, *parts: Strategy) -> None:
        self.parts: tuple[Strategy, ...] = tuple(
            p for part in parts for p in (part.parts if isinstance(part, Chain) else (part,))
        )
        check_owners([(type(p.inner if isinstance(p, Wrapper) else p).__name__, p.owns) for p in self.parts])
        for part in self.parts:
            if part.solo and len(self.parts) > 1:
                raise Incompatible(
                    f"{type(part).__name__} is the whole of a method and cannot be combined with another."
                )
        _declare(self, _joined([part.claims for part in self.parts]))

    def setup(self, run: Run) -> None:
        for part in self.parts:
            part.setup(run)

    def param_groups(self, groups: Mapping[str, Group]) -> Mapping[str, Group]:
        for part in self.parts:
            groups = part.param_groups(groups)
        return groups

    def epoch_start(self, run: Run) -> None:
        for part in self.parts:
            part.epoch_start(run)

    def epoch_end(self, run: Run, metrics: Mapping[str, Any]) -> None:
        for part in self.parts:
            part.epoch_end(run, metrics)

    def window_end(self, run: Run) -> None:
        for part in self.parts:
            part.window_end(run)

    def plan(self, step: Step, passes: Sequence[Pass]) -> Sequence[Pass]:
        for part in self.parts:
            passes = part.plan(step, passes)
        return passes

    def inputs(self, step: Step, inputs: Mapping[str, Any]) -> Mapping[str, Any]:
        for part in self.parts:
            inputs = part.inputs(step, inputs)
        return inputs

    def features(self, step: Step, feats: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        for part in self.parts:
            feats = part.features(step, feats)
        return feats

    def outputs(self, step: Step, out: Outputs) -> Outputs:
        for part in self.parts:
            out = part.outputs(step, out)
        return out

    def losses(self, step: Step, out: Outputs, terms: Terms) -> Terms:
        for part in self.parts:
            terms = part.losses(step, out, terms)
        return terms

    def backward(self, step: Step, terms: Terms) -> None:
        next((p for p in self.parts if "backward" in p.owns), _PLAIN).backward(step, terms)

    def gradients(self, step: Step, out: Outputs, grads: Grads) -> None:
        for part in self.parts:
            part.gradients(step, out, grads)

    def updated(self, step: Step, out: Outputs, terms: Terms) -> None:
        for part in self.parts:
            part.updated(step, out, terms)

    def predict(self, out: Outputs) -> Outputs:
        """The decision rule of the parts. One set after training takes precedence, wherever it stands in the chain."""
        for part in sorted(self.parts, key=lambda p: "finish" in p.owns):
            out = part.predict(out)
        return out

    def finish(self, run: Run) -> Iterator[str]:
        return next((p for p in self.parts if "finish" in p.owns), _PLAIN).finish(run)

    def state_dict(self) -> dict[str, Any]:
        return {str(i): part.state_dict() for i, part in enumerate(self.parts)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        if set(state) != {str(i) for i in range(len(self.parts))}:
            raise BadValue(f"state of a chain of {len(self.parts)} has parts {sorted(state)}.")
        for i, part in enumerate(self.parts):
            part.load_state_dict(state[str(i)])

    def __repr__(self) -> str:
        return f"Chain({', '.join(map(repr, self.parts))})"


def _declare(strategy: Strategy, claims: Claims) -> None:
    """Let a strategy made of others claim what a value says; parameter values that make it neutral are its own matter."""
    for name in set(CLAIMED) - {"neutral", "neutral_how"}:
        setattr(strategy, name, getattr(claims, name))


def _joined(parts: Sequence[Claims]) -> Claims:
    """What several strategies claim together."""
    limits = [p.max_modalities for p in parts if p.max_modalities is not None]
    return Claims(
        requires=frozenset().union(*(p.requires for p in parts)),
        min_modalities=max((p.min_modalities for p in parts), default=1),
        max_modalities=min(limits) if limits else None,
        owns=frozenset().union(*(p.owns for p in parts)),
        solo=any(p.solo for p in parts),
        single_process=next((p.single_process for p in parts if p.single_process), ""),
        neutral=None,
        neutral_how="exact",
        cost=_joined_cost([p.cost for p in parts]),
        stochastic=any(p.stochastic for p in parts),
        expected_failures={k: v for p in parts for k, v in p.expected_failures.items()},
    )


def _joined_cost(costs: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """What several strategies cost together: the one forward and backward of training is shared."""
    found: dict[str, float] = {k: 1 + sum(c[k] - 1 for c in costs) for k in ("forward", "backward")}
    for k in (
        "forward_epoch",
        "backward_epoch",
        "slice",
        "slice_run",
        "finish",
        "forward_coalition",
        "backward_coalition",
    ):
        if extra := sum(c.get(k, 0) for c in costs):
            found[k] = extra
    return found


def check_owners(parts: Sequence[tuple[str, frozenset[str]]]) -> None:
    """Check that no two named parts own the same thing.

    Args:
        parts: (name, what it owns) of each part.

    Raises:
        Incompatible: two of them do.
    """
    for i, (name, owns) in enumerate(parts):
        for other, others in parts[:i]:
            if both := sorted(owns & others):
                raise Incompatible(
                    f"{other} and {name} cannot be combined: both replace {' and '.join(map(repr, both))}."
                )


_PLAIN = Strategy()
