"""A strategy attached to a training loop outside mmzoo: `mmzoo.attach`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, TypedDict, Unpack

import torch
from torch import Tensor, nn

from mmzoo.benchmark.execution.building import build_strategy
from mmzoo.config.grammar import parse_method
from mmzoo.config.methods import resolve_method, without_after
from mmzoo.config.settings import Settings
from mmzoo.core.modes import evaluating
from mmzoo.core.seeding import seeded
from mmzoo.core.values import Batch, Outputs, Pass
from mmzoo.errors import BadValue, Incompatible
from mmzoo.evaluation.scores import evaluate_modalities
from mmzoo.loops.batches import Read, UserBatches, read_batch
from mmzoo.loops.branches import Branches, as_model
from mmzoo.loops.refused import RUN, refuse
from mmzoo.loops.updates import ForeignUpdates
from mmzoo.registry.plugins import catalogue
from mmzoo.training.config import Training
from mmzoo.training.gradients import Grads
from mmzoo.training.passes import forward_pass
from mmzoo.training.run import Criterion, Run
from mmzoo.training.step import Step
from mmzoo.training.strategy import Strategy, Terms


class AttachOptions(TypedDict, total=False):
    """Further keyword arguments of `attach`."""

    optimizer: Any
    slice: Iterable[Any] | None
    seed: int
    read: Read | None
    criterion: Criterion
    settings: Mapping[str, Any]


@dataclass
class _Open:
    """A step between its forward and that of the optimizer."""

    step: Step
    out: Outputs | None
    terms: Terms
    modulated: bool = False


class Attached(Run):
    """A strategy in a training loop of your own. Returned by `attach`, which documents the parameters.

    The loop calls `start_epoch`, then for each batch `loss`, its own backward, `gradients` and its own optimizer step,
    and `end_epoch`. `step` does everything for a batch at once, as methods with several passes over a batch require.
    Random numbers of a forward come from the seed, as in `Run`, and not from the global generator.
    """

    def __init__(
        self,
        net: nn.Module | Branches,
        strategy: Strategy,
        *,
        train: Iterable[Any],
        epochs: int,
        **options: Unpack[AttachOptions],
    ) -> None:
        refuse(strategy)
        self._reader = options.get("read")
        model = as_model(net, _first_inputs(net, train, self._reader))
        self._open: _Open | None = None
        self._steps_itself = False
        held = options.get("slice")
        given: dict[str, Any] = {"criterion": options["criterion"]} if "criterion" in options else {}
        super().__init__(
            model,
            strategy,
            train=UserBatches(train, self._read),
            slice=None if held is None else UserBatches(held, self._read),
            training=Training(epochs=epochs),
            seed=options.get("seed", 0),
            device=next(model.parameters()).device,
            **given,
        )
        if options.get("optimizer") is not None:
            self.watch(options["optimizer"])

    def _optimize(self) -> ForeignUpdates:
        self._updates = ForeignUpdates(self.model, self.strategy, self._stepped)
        return self._updates

    def watch(self, optimizer: Any) -> None:
        """Follow the optimizer of the loop, if it did not exist at `attach`."""
        self._updates.watch(optimizer)

    # ------------------------------------------------------------------ the loop
    def start_epoch(self) -> None:
        """Begin an epoch: call before its first batch. The loop itself sets the network to train mode.

        Raises:
            BadValue: No optimizer is known, or the epochs that `attach` was given are over: schedules of methods end there.
        """
        self._need_optimizer()
        if self.epoch >= self.n_epochs:
            raise BadValue(
                f"epoch {self.epoch + 1} begins, and attach was given epochs={self.n_epochs}, where the schedules of a method "
                "end. Give attach the number of epochs of your loop."
            )
        self._open = None
        self.device = next(self.model.parameters()).device
        self.model.extra.to(self.device)
        modes = [(module, module.training) for module in self.model.modules()]
        super().start_epoch()
        for module, training in modes:
            module.training = training

    def loss(self, batch: Any) -> Tensor:
        """The loss of a batch under the strategy, a scalar with a graph: call backward of it.

        Args:
            batch: as `read_batch` takes it.

        Raises:
            Incompatible: The strategy makes several passes over a batch, or its own backward.
            BadValue: No epoch was started, or the optimizer has not stepped since the last batch.
        """
        self._check_order()
        for p in self.model.extra.parameters():  # a loop that calls net.zero_grad() does not know of these
            p.grad = None
        step = Step(self, self._read(batch).to(self.device))
        passes = self.strategy.plan(step, [Pass()])
        if len(passes) != 1 or "backward" in self.strategy.owns:
            does = "makes its own backward" if len(passes) == 1 else f"makes {len(passes)} passes over a batch"
            raise Incompatible(
                f"{type(self.strategy).__name__} {does}: call step(batch) in place of loss, backward, gradients and the "
                "optimizer's step. In Lightning that takes automatic_optimization = False; the Hugging Face Trainer has no "
                "place for it."
            )
        step = step.at(passes[0])
        with seeded(self.seed, "noise", self.global_step, passes[0].name):
            found = forward_pass(self._parts, self.strategy, step)
        if found is None:
            self._open = _Open(step, None, {})
            return sum((p.sum() for p in self.model.parameters()), torch.zeros((), device=self.device)) * 0.0
        self._open = _Open(step, *found)
        total: Tensor = sum(found[1].values())  # type: ignore[assignment]
        if self.batch_in_epoch == 0:  # later ones are scaled alike, and looking waits for a GPU
            total.register_hook(_check_scale)
        return total

    @property
    def out(self) -> Outputs:
        """The outputs of the model for the last batch given to `loss`."""
        if self._open is None or self._open.out is None:
            raise BadValue("there are outputs between loss(batch) and the optimizer's step.")
        return self._open.out

    def gradients(self) -> None:
        """Apply the strategy to the gradients: call after backward, before clipping and the optimizer step."""
        if self._open is None or self._open.modulated:
            raise BadValue("gradients() follows loss(batch) and its backward, once for each step of the optimizer.")
        self._open.modulated = True
        out, step = self._open.out, self._open.step
        if out is None:  # no sample is in the loss: nothing moves, weight decay and momentum included
            for p in self.model.parameters():
                p.grad = None
            return
        self.strategy.gradients(step, out, Grads(self.model, step.pass_, self._updates.groups))

    def step(self, batch: Any) -> None:
        """Train on one batch: every pass that the strategy plans, with backward and optimizer step."""
        self._check_order()
        self._steps_itself = True
        try:
            super().step(self._read(batch))
        finally:
            self._steps_itself = False

    def end_epoch(self, loss: float | None = None) -> dict[str, float]:
        """End an epoch. Returns the mean of each value that the strategy and the losses logged in it."""
        return super().end_epoch(loss)

    def predict(self, inputs: Mapping[str, Any], present: Tensor | None = None) -> Outputs:
        """Outputs for inputs by modality with the strategy's decision rule, in eval mode without a graph."""
        with evaluating(self.model):
            return self.strategy.predict(self.model(inputs, present))

    def evaluate(self, train: Iterable[Any], test: Iterable[Any], *, metric: str = "acc") -> dict[str, Any]:
        """The scores of the network on `test`, joint and by modality, as `mmzoo.api.evaluate_modalities` returns them.

        Args:
            train: the training loader, on which linear probes are fitted and features averaged; read as `attach` reads it.
            test: the loader that is scored.
            metric: the metric of gaps between modalities.

        Raises:
            BadValue: there are no batches, or `attach` cannot read them.
        """
        device = next(self.model.parameters()).device
        fit, score = (UserBatches(x, lambda given: self._read(given).to(device)).batches for x in (train, test))
        return evaluate_modalities(self.model, self.strategy, train=fit, test=score, metric=metric)

    # ------------------------------------------------------------------ checkpoint
    def state_dict(self) -> dict[str, Any]:
        """The state of the strategy, between two epochs. The loop saves network and optimizer."""
        return {
            "strategy": self.strategy.state_dict(),
            "extra": {k: v.clone() for k, v in self.model.extra.state_dict().items()},
            "epoch": self.epoch,
            "global_step": self.global_step,
            "stopped": self.stopped,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Resume from a `state_dict`."""
        self.strategy.load_state_dict(state["strategy"])
        self.model.extra.load_state_dict(state["extra"])
        self.epoch, self.global_step, self.stopped = state["epoch"], state["global_step"], state["stopped"]

    # ------------------------------------------------------------------ what a foreign loop cannot do
    def fork(self, strategy: Strategy | None = None, *, epochs: int = 0) -> Run:
        raise Incompatible(f"{type(self.strategy).__name__} trains copies of the run. {RUN}")

    def set_lr_scale(self, group: str, factor: float) -> None:
        raise Incompatible(f"{type(self.strategy).__name__} sets learning rates, and those are the loop's. {RUN}")

    def set_sampling(self, rows: Tensor | None, drop: Tensor | None = None, *, ordered: bool = False) -> None:
        raise Incompatible(f"{type(self.strategy).__name__} chooses the samples of an epoch. {RUN}")

    # ------------------------------------------------------------------ inside
    def _read(self, given: Any) -> Batch:
        return read_batch(given, self.modalities, self._reader)

    def _need_optimizer(self) -> None:
        if not self._updates.watched:
            raise BadValue("there is no optimizer yet: give attach(optimizer=...), or call watch(optimizer).")

    def _check_order(self) -> None:
        if self.phase.value != "in an epoch":
            raise BadValue("call start_epoch() before the first batch of an epoch, and end_epoch() after its last.")
        if self._open is not None and self._open.modulated:
            raise BadValue(
                "the optimizer has not stepped since the last batch. Gradients of several batches cannot be accumulated: set "
                "accumulation to 1."
            )

    def _stepped(self) -> None:
        """After each step of the optimizer."""
        done, self._open = self._open, None
        if done is None or self._steps_itself:
            return
        if not done.modulated:
            raise BadValue("the optimizer stepped without gradients(): call it after backward of every loss(batch).")
        if done.out is not None:
            self.strategy.updated(done.step, done.out, done.terms)
        self.global_step += 1
        self.batch_in_epoch += 1


def attach(
    net: nn.Module | Branches,
    method: str | Strategy,
    *,
    train: Iterable[Any],
    epochs: int,
    **options: Unpack[AttachOptions],
) -> Attached:
    """Attach a method to your own training loop.

    Args:
        net: an mmzoo model; a network with the attributes `encoders` and `head` (see `Branches`); or `Branches`.
        method: as for the benchmark, `"ogm"` or `"ogm:0-5+pmr"`, without a head; or a strategy.
        train: the training batches, for methods that read them outside the loop, and to infer widths.
        epochs: number of epochs, on which schedules and windows depend.
        optimizer: the optimizer of the loop. If it is created later, call `watch`.
        slice: labelled batches that the network is not trained on, for methods that learn from a meta set.
        seed: determines every random number of the method.
        read: converts a batch into (inputs by modality, labels), if it is no mapping or tuple of them.
        criterion: (logits, labels) -> the mean loss; default: cross-entropy.
        settings: parameters of the method, `{"ogm.alpha": 0.1}`.

    Raises:
        UnknownName: there is no such method.
        BadValue: the text or a setting is malformed.
        Incompatible: the method needs something that the network or this loop lacks; the message names it.
    """
    if wrong := set(options) - set(AttachOptions.__annotations__):
        raise TypeError(f"attach() got an unexpected keyword argument {min(wrong)!r}")
    settings = options.pop("settings", {})
    if isinstance(method, Strategy):
        strategy = method
    else:
        strategy, names = _built(method, settings)
        refuse(strategy, method, names, without_after(catalogue(), method))
    return Attached(net, strategy, train=train, epochs=epochs, **options)


def strategy_of(text: str, settings: Mapping[str, Any] = MappingProxyType({})) -> Strategy:
    """The strategy that a method's text names; the head is that of the network.

    Args:
        text: the method.
        settings: its parameters by dotted name.
    """
    return _built(text, settings)[0]


def _built(text: str, settings: Mapping[str, Any]) -> tuple[Strategy, tuple[str, ...]]:
    """The strategy that a method's text names, and the names of its parts."""
    parsed = parse_method(text)
    if parsed.head is not None:
        raise BadValue(f"{text}: the network has its own head. Write {parsed.body}.")
    known = catalogue()
    given = Settings(known, list(settings.items()))
    method = resolve_method(known, parsed.with_head("concat"), given)
    given.check_all_used()
    if method.each_modality:
        raise Incompatible(f"{text} trains each modality by itself. {RUN}")
    return build_strategy(known, method.parts), tuple(part.strategy for part in method.parts)


def _first_inputs(net: Any, train: Iterable[Any], read: Read | None) -> Mapping[str, Any]:
    """The inputs of the first batch, on the device of the network."""
    encoders = net.encoders if hasattr(net, "encoders") else Branches.of(net).encoders
    modalities = tuple(encoders)
    module = net.net if isinstance(net, Branches) else net
    first = next(iter(UserBatches(train, lambda given: read_batch(given, modalities, read)).batches()), None)
    if first is None:
        raise BadValue("train has no batches.")
    return first.to(next(module.parameters()).device).inputs


def _check_scale(grad: Tensor) -> None:
    if float(grad) != 1.0:
        raise Incompatible(
            f"the loss was multiplied by {float(grad):g} before its backward, by a gradient scaler or an accumulation over "
            "batches. Train in full precision or bf16, one batch a step."
        )
