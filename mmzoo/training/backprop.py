"""Encoding and backward of a training pass, in micro-batches if the training asks for them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from mmzoo.core import distributed
from mmzoo.core.model import MultimodalModel
from mmzoo.core.modes import buffers_kept
from mmzoo.core.seeding import seeded
from mmzoo.core.values import Pass, batch_bounds
from mmzoo.training.step import Step


@dataclass
class Cost:
    """Forwards and backwards of the whole model, in batches; feeding one of M modalities counts 1/M.

    Args:
        forward: number of forwards.
        backward: number of backwards.
    """

    forward: float = 0.0
    backward: float = 0.0


class Backprop:
    """Encodes the batch of a pass, runs backward through it, and counts the cost of both.

    Args:
        model: the model that is trained.
        cost: the counter that forwards and backwards are added to.
        micro_batch: how many samples are encoded at once; None: the whole batch.
    """

    def __init__(self, model: MultimodalModel, cost: Cost, micro_batch: int | None) -> None:
        self._model, self._cost, self._size = model, cost, micro_batch
        self._fed = 1.0
        self._micro: MicroBatches | None = None

    def encode(self, step: Step) -> dict[str, Tensor]:
        """modality -> features (B, D_m), of the modalities that the pass of `step` feeds."""
        self._fed = self.share(step.pass_)
        self._cost.forward += self._fed
        if self._size is None or len(step.batch) <= self._size:
            self._micro = None
            return self._model.encode(step.batch.inputs, step.pass_, step.batch.present)
        self._micro = MicroBatches(self._model, step, self._size)
        return self._micro.features()

    def backward(self, loss: Tensor, *, retain_graph: bool = False) -> None:
        """Accumulate the gradients of a loss.

        Args:
            loss: a scalar.
            retain_graph: keep the graph for another backward.
        """
        self._cost.backward += self._fed
        loss.backward(retain_graph=retain_graph)
        if self._micro is not None and self._micro.backward():
            self._cost.forward += self._fed

    def term_grads(self, terms: Mapping[str, Tensor]) -> dict[str, dict[str, list[Tensor | None]]]:
        """The gradients of each loss term, averaged over processes; `.grad` is left unchanged.

        Args:
            terms: name -> scalar.

        Returns:
            term -> group -> gradient of each of the group's parameters, None where there is none.
        """
        groups = self._model.groups()
        params = [p for ps in groups.values() for p in ps]
        kept = [p.grad for p in params]
        result: dict[str, dict[str, list[Tensor | None]]] = {}
        for name, term in terms.items():
            for p in params:
                p.grad = None
            self.backward(term, retain_graph=True)
            distributed.average_gradients(params)
            result[name] = {g: [p.grad for p in ps] for g, ps in groups.items()}
        for p, grad in zip(params, kept):
            p.grad = grad
        return result

    def share(self, pass_: Pass) -> float:
        """The fraction of a whole forward that encoding in this pass costs."""
        modalities = self._model.modalities
        return len(pass_.fed(modalities)) / len(modalities)


class MicroBatches:
    """Encodes a batch in pieces without a graph, and again after backward to pass the gradients on to the encoders.

    Only the features of the whole batch are in memory at once.

    Args:
        model: the model that is trained.
        step: the batch in its pass.
        size: how many samples are encoded at once.
    """

    def __init__(self, model: MultimodalModel, step: Step, size: int) -> None:
        self._model, self._step, self._size = model, step, size
        self._leaves: dict[str, Tensor] = {}

    def features(self) -> dict[str, Tensor]:
        """modality -> features (B, D_m), leaves of a graph that begins at them."""
        with torch.no_grad():
            pieces = [self._encode(*bounds) for bounds in self._bounds()]
        frozen = self._step.pass_.freeze
        self._leaves = {m: torch.cat([p[m] for p in pieces]).requires_grad_(m not in frozen) for m in pieces[0]}
        return dict(self._leaves)

    def backward(self) -> bool:
        """Pass the gradients accumulated on the features to the encoders. Returns whether there were any."""
        grads = {m: z.grad for m, z in self._leaves.items() if z.grad is not None}
        if not grads:
            return False
        for start, end in self._bounds():
            with buffers_kept(self._model):  # the first encoding has moved the batch statistics already
                piece = self._encode(start, end)
            rows = [m for m in grads if piece[m].requires_grad]
            if rows:  # a frozen encoder has nothing to hand on
                torch.autograd.backward([piece[m] for m in rows], [grads[m][start:end] for m in rows])
        for z in self._leaves.values():
            z.grad = None
        return True

    def _bounds(self) -> list[tuple[int, int]]:
        return batch_bounds(len(self._step.batch), self._size)

    def _encode(self, start: int, end: int) -> dict[str, Tensor]:
        piece = self._step.batch.map(lambda t: t[start:end])
        run, name = self._step.run, self._step.pass_.name
        with seeded(run.seed, "noise", run.global_step, name, start):
            return self._model.encode(piece.inputs, self._step.pass_, piece.present)
