"""Fusion by an LSTM that reads the modalities in one step or one after the other."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Literal

import torch
from torch import Tensor, nn

from mmzoo.head import FusionHead


class MLLSTM(FusionHead):
    """l = W h + b with h the last hidden state of an LSTM over the modalities.

    ML-LSTM (Nie et al., Multimedia Tools and Applications 2021) has no public code, and only its abstract could be
    read: an LSTM over utterances that fuses modalities on the way. So neither mode is known to be that model.

    mode="concat_step" (default): all features side by side are a sequence of one step. This is the LSTM baseline in
    the code of MCUT, from a group whose benchmarks have the row. From a state of zeros h = o * tanh(i * g), a gated
    layer: recurrent weights and forget gate act on nothing, so they change no output and get no gradient.
    mode="modality_sequence" (ours): each z_m projected to `width` is one step, in the order of the modalities.

    width: of the LSTM (none: the largest feature width; MCUT: 512, which is that). layers: stacked LSTMs (none: one
    for concat_step, two for modality_sequence).

    Unimodal logits: by ablation, as in MCUT. Absent modalities are features of zeros. Raises Incompatible for fewer
    than two modalities.

    aux: hidden (B, width).
    """

    how = "ablated"
    min_modalities = 2

    def __init__(
        self, dims: Mapping[str, int], n_classes: int, *,
        mode: Literal["concat_step", "modality_sequence"] = "concat_step", width: int | None = None,
        layers: int | None = None,
    ) -> None:  # fmt: skip
        super().__init__(dims, n_classes)
        width = width or max(dims.values())
        self.project = nn.ModuleDict()
        if mode == "modality_sequence":
            self.project.update({m: nn.Linear(d, width) for m, d in dims.items()})
        enters = width if self.project else sum(dims.values())
        depth = layers or (2 if self.project else 1)
        # Cells, not nn.LSTM: its cuDNN form has no second derivative.
        self.cells = nn.ModuleList(nn.LSTMCell(width if i else enters, width) for i in range(depth))
        self.linear = nn.Linear(width, n_classes)

    def own(self, modality: str) -> Iterable[nn.Parameter]:
        return self.project[modality].parameters() if self.project else ()

    def fuse(self, features: Mapping[str, Tensor], present: Tensor | None) -> tuple[Tensor, dict[str, Any]]:
        if self.project:
            steps = [self.project[m](z) for m, z in features.items()]
        else:
            steps = [torch.cat(list(features.values()), 1)]
        for cell in self.cells:
            steps = _states(cell, steps)
        return self.linear(steps[-1]), {"hidden": steps[-1]}


def _states(cell: nn.Module, steps: list[Tensor]) -> list[Tensor]:
    """The hidden state after each step, from a state of zeros."""
    states, state = [], None
    for x in steps:
        state = cell(x, state)
        states.append(state[0])
    return states
