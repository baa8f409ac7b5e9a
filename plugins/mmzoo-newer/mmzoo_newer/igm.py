"""IGM: modalities train in turns, and each keeps to directions in its classifier that the previous one did not use."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call

from mmzoo.api import BadValue, Grads, Incompatible, Outputs, Pass, Run, Step, Strategy, Terms, mean_over_present


def projection(covariance: Tensor, temperature: float = 0.4) -> Tensor:
    """(D, D) V diag(exp(-temperature (l - min) / (max - min))) V' with eigenvalues l and eigenvectors V.

    The largest direction shrinks by e^-temperature, the smallest is unchanged. The identity if all eigenvalues are
    equal.

    Args:
        covariance: (D, D), symmetric.
        temperature: strength of the projection.
    """
    values, vectors = torch.linalg.eigh(covariance)
    low, high = values[0], values[-1]
    apart = torch.where(high > low, (values - low) / torch.where(high > low, high - low, 1.0), 0.0)
    return (vectors * torch.exp(-temperature * apart)) @ vectors.T


def mixed_losses(logits: Tensor, target: Tensor, other: Tensor, share: float) -> Tensor:
    """(B,) share CE(logits, target) + (1 - share) CE(logits, other).

    Args:
        logits: (B, C).
        target: (B,).
        other: (B,), the targets of the samples mixed in.
        share: weight of the first.
    """
    first, second = (F.cross_entropy(logits, y, reduction="none") for y in (target, other))
    return share * first + (1.0 - share) * second


def displaced(values: Mapping[str, Tensor], grads: Sequence[Tensor], rho: float) -> dict[str, Tensor]:
    """Each tensor moved by rho along its normalised gradient; without a gradient it is unchanged.

    Args:
        values: name -> tensor.
        grads: gradients in the same order.
        rho: the distance.
    """
    tiny = torch.finfo(next(iter(values.values())).dtype).tiny
    return {name: p + rho * g / g.norm().clamp_min(tiny) for (name, p), g in zip(values.items(), grads)}


def turn(epoch: int, lengths: Sequence[int]) -> tuple[int, bool]:
    """The index of the turn in an epoch, with turns of these lengths repeating, and whether it begins there.

    Args:
        epoch: the epoch, from 0.
        lengths: epochs of each turn.
    """
    at = epoch % sum(lengths)
    for i, length in enumerate(lengths):
        if at < length:
            return i, at == 0
        at -= length
    raise BadValue(f"turns must be at least one epoch long, not {list(lengths)}.")


class IGM(Strategy):
    """Trains modalities in turns with projected, flat gradients (Jiang et al., IJCAI 2025), as in its released code.

    There is no joint loss. The run is split into `rounds` rounds; in each, every modality in turn trains its own
    encoder and classifier, in the data's order. At the start of a turn the previous modality provides, for each linear
    layer of its part of the head, the mean input of every batch (eval mode): A = sum of their outer products, P =
    `projection`(A). The gradient G of the i-th layer of the present modality becomes G P, if P has its width. The
    optimizer state is cleared. Predictions are those of the mean of softmax(o_m).

    Loss: (1 - flat) (s CE(o, y) + (1 - s) CE(o, y')) + flat CE(o', y), of inputs mixed as s x + (1 - s) x', s from
    Beta(mixup, mixup); o' uses the classifier moved by rho along its gradient, on the same features. Token inputs are
    not mixed.

    Differs from the authors, who continue from the weights that were best on the test set, and keep the moved weights
    with a rho of 1e-10; here nothing is selected, and the weights are restored.

    Args:
        rounds: number of rounds.
        lengths: modality -> relative length of its turn; None: equal.
        temperature: strength of the projection; 0 leaves gradients unchanged.
        mixup: parameter of the Beta distribution; 0: no mixing.
        flat: weight of the loss of the moved classifier.
        rho: distance by which it is moved.

    Raises:
        BadValue: in setup, `lengths` does not name every modality.
        Incompatible: in setup, the head has no linear layers of each modality's own, unless temperature is 0.
    """

    requires = frozenset({"unimodal"})
    owns = frozenset({"task", "predict"})
    min_modalities = 2
    stochastic = True
    state = ("projections",)

    def __init__(
        self,
        *,
        rounds: int = 6,
        lengths: Mapping[str, float] | None = None,
        temperature: float = 0.4,
        mixup: float = 1.0,
        flat: float = 0.3,
        rho: float = 0.0,
    ) -> None:
        self.rounds = rounds
        self.lengths = lengths
        self.temperature = temperature
        self.mixup = mixup
        self.flat = flat
        self.rho = rho
        #: of the layers of the modality before
        self.projections: list[Tensor] = []

    def setup(self, run: Run) -> None:
        if self.lengths is not None and set(self.lengths) != set(run.modalities):
            raise BadValue(
                f"IGM has lengths for {', '.join(self.lengths)}; the modalities here are {', '.join(run.modalities)}. Give "
                "each of them one."
            )
        if self.temperature and any(not _layers(run, m) for m in run.modalities):
            raise Incompatible(
                f"IGM projects the gradients of each modality's own linear layers; head {type(run.model.head).__name__} has "
                "none. Take the head sum, or temperature=0."
            )

    def epoch_start(self, run: Run) -> None:
        learner, begins = self._turn(run)
        run.log(f"igm/{learner}", 1.0)
        if not begins:
            return
        if run.epoch:
            before = run.modalities[run.modalities.index(learner) - 1]
            self.projections = [projection(a, self.temperature) for a in _covariances(run, before)]
        run.reset_optimizer(run.model.groups())

    def plan(self, step: Step, passes: Sequence[Pass]) -> Sequence[Pass]:
        learner, _ = self._turn(step.run)
        return [
            replace(p, name=f"{p.name}/{learner}", present=frozenset({learner}))
            for p in passes
            if learner in p.fed(step.run.modalities)
        ]

    def inputs(self, step: Step, inputs: Mapping[str, Any]) -> Mapping[str, Any]:
        learner, _ = self._turn(step.run)
        x = inputs[learner]
        if not self._mixes(x):
            return inputs
        share, partner = self._draw(step, learner)
        return {**inputs, learner: share * x + (1.0 - share) * x[partner]}

    def losses(self, step: Step, out: Outputs, terms: Terms) -> Terms:
        learner, _ = self._turn(step.run)
        if learner not in out.unimodal:
            return terms
        logits, other, share = step.kept(out.unimodal[learner]), step.batch.target, 1.0
        if self._mixes(step.batch.inputs[learner]):
            share, partner = self._draw(step, learner)
            other = other[partner]
        mixed = step.mean(mixed_losses(logits, step.target, step.kept(other), share), step.here(learner))
        moved = logits
        if self.flat and self.rho:
            moved = step.kept(self._displaced(step, learner, out.features[learner], mixed))
        flat = step.mean(F.cross_entropy(moved, step.target, reduction="none"), step.here(learner))
        return {**terms, "task": (1.0 - self.flat) * mixed + self.flat * flat}

    @torch.no_grad()
    def gradients(self, step: Step, out: Outputs, grads: Grads) -> None:
        learner, _ = self._turn(step.run)
        for layer, p in zip(_layers(step.run, learner), self.projections):
            grad = layer.weight.grad
            if grad is not None and grad.shape[1] == len(p):
                layer.weight.grad = grad @ p.to(grad)

    def predict(self, out: Outputs) -> Outputs:
        p = torch.stack([z.softmax(-1) for z in out.unimodal.values()], 1)
        present = None if out.present is None else torch.stack([out.present[m] for m in out.unimodal], 1)
        mean = mean_over_present(p, present)
        return out.replace(logits=mean.clamp_min(torch.finfo(mean.dtype).tiny).log(), ranking=mean)

    def _turn(self, run: Run) -> tuple[str, bool]:
        """The modality whose turn it is, and whether its turn begins with the epoch."""
        weights = {m: 1.0 if self.lengths is None else self.lengths[m] for m in run.modalities}
        unit = run.n_epochs / self.rounds / sum(weights.values())
        i, begins = turn(run.epoch, [max(1, round(unit * w)) for w in weights.values()])
        return run.modalities[i], begins

    def _mixes(self, x: Any) -> bool:
        return self.mixup > 0 and isinstance(x, Tensor) and x.is_floating_point()

    def _draw(self, step: Step, modality: str) -> tuple[float, Tensor]:
        """s and (B,) whom each sample is mixed with: itself where one of the two lacks the modality."""
        generator, batch = step.generator("igm"), step.batch
        seed = int(torch.randint(2**62, (), generator=generator))
        partner = torch.randperm(len(batch), generator=generator).to(batch.target.device)
        if batch.present is not None:
            here = batch.present[:, step.run.modalities.index(modality)]
            partner = torch.where(here & here[partner], partner, torch.arange(len(batch), device=partner.device))
        return float(np.random.default_rng(seed).beta(self.mixup, self.mixup)), partner

    def _displaced(self, step: Step, modality: str, features: Tensor, loss: Tensor) -> Tensor:
        """(B, C) the logits of the same features under the classifier moved along its gradient."""
        head = step.run.model.head
        own = {id(p) for p in head.own(modality)}
        named = {name: p for name, p in head.named_parameters() if id(p) in own}
        if not named or not loss.requires_grad:
            return step.run.model.outputs({modality: features}, step.batch.present).logits
        grads = torch.autograd.grad(loss, list(named.values()), retain_graph=True)
        moved = displaced(named, [step.run.reduce(g) for g in grads], self.rho)
        alone: Outputs = functional_call(head, moved, ({modality: features}, step.batch.present))
        return alone.logits


def _layers(run: Run, modality: str) -> list[Any]:
    """The linear layers of a modality's own part of the head, in order."""
    head = run.model.head
    own = {id(p) for p in head.own(modality)}
    return [layer for layer in head.modules() if isinstance(layer, nn.Linear) and id(layer.weight) in own]


@torch.no_grad()
def _covariances(run: Run, modality: str) -> list[Tensor]:
    """For each of these layers (D, D): the outer products of its mean input in every training batch, added up."""
    layers, column = _layers(run, modality), run.modalities.index(modality)
    found = [torch.zeros(layer.in_features, layer.in_features, dtype=torch.float64) for layer in layers]
    with _watched(layers) as seen:
        for batch in run.train("igm"):
            run.forward(batch, present=[modality], mode="eval")
            here = slice(None) if batch.present is None else batch.present[:, column]
            for i, x in enumerate(seen):
                mean = run.reduce(x[here].double().sum(0) / max(1, len(x[here]))).cpu()
                found[i] += mean[:, None] * mean[None, :]
    return found


@contextmanager
def _watched(layers: Sequence[nn.Module]) -> Iterator[list[Tensor]]:
    """The last inputs of some layers."""
    seen: list[Tensor] = [torch.empty(0)] * len(layers)

    def note(i: int) -> Any:
        return lambda module, inputs: seen.__setitem__(i, inputs[0])

    hooks = [layer.register_forward_pre_hook(note(i)) for i, layer in enumerate(layers)]
    try:
        yield seen
    finally:
        for hook in hooks:
            hook.remove()
