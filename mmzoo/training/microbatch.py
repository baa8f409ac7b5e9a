"""Encoding a batch in pieces, so that only the features of the whole batch are in memory at once."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from mmzoo.core.modes import buffers_kept
from mmzoo.core.seeding import seeded
from mmzoo.core.values import batch_bounds
from mmzoo.training.step import Step

if TYPE_CHECKING:
    from mmzoo.training.run import Run


class MicroBatches:
    """Encode a batch in pieces without a graph; after backward, encode again to carry the gradients on."""

    def __init__(self, run: Run, step: Step, size: int) -> None:
        self._run, self._step, self._size = run, step, size
        self._leaves: dict[str, Tensor] = {}

    def features(self) -> dict[str, Tensor]:
        with torch.no_grad():
            pieces = [self._encode(*bounds) for bounds in self._bounds()]
        frozen = self._step.pass_.freeze
        self._leaves = {m: torch.cat([p[m] for p in pieces]).requires_grad_(m not in frozen) for m in pieces[0]}
        return dict(self._leaves)

    def backward(self) -> None:
        """Hand the gradients that have gathered on the features to the encoders."""
        grads = {m: z.grad for m, z in self._leaves.items() if z.grad is not None}
        if not grads:
            return
        self._run.count_forward(self._step.pass_)
        for start, end in self._bounds():
            with buffers_kept(self._run.model):  # the first encoding has moved the batch statistics already
                piece = self._encode(start, end)
            rows = [m for m in grads if piece[m].requires_grad]
            if rows:  # a frozen encoder has nothing to hand on
                torch.autograd.backward([piece[m] for m in rows], [grads[m][start:end] for m in rows])
        for z in self._leaves.values():
            z.grad = None

    def _bounds(self) -> list[tuple[int, int]]:
        return batch_bounds(len(self._step.batch), self._size)

    def _encode(self, start: int, end: int) -> dict[str, Tensor]:
        piece = self._step.batch.map(lambda t: t[start:end])
        name = self._step.pass_.name
        with seeded(self._run.seed, "noise", self._run.global_step, name, start):
            return self._run.model.encode(piece.inputs, self._step.pass_, piece.present)
