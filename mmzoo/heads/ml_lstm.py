"""Fusion by an LSTM: over all features in one step, over the modalities in turn, or over sequences of steps."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Literal

import torch
from torch import Tensor, nn

from mmzoo.core.encoder import Encoder
from mmzoo.core.head import FusionHead
from mmzoo.core.readouts import Steps
from mmzoo.errors import Incompatible

Mode = Literal["concat_step", "modality_sequence", "tokens"]


class MLLSTM(FusionHead):
    """l = W h + b with h the last hidden state of an LSTM over the modalities.

    ML-LSTM (Nie et al., Multimedia Tools and Applications 2021) has no public code, and only its abstract was
    available: an LSTM over utterances that fuses modalities. No mode is known to be that model.

    Unimodal logits are ablated, as in the code of MCUT. The features of absent modalities are zeros. `Outputs.aux`
    holds hidden (B, width).

    Args:
        dims: modality -> feature width, in order.
        n_classes: number of classes C.
        mode: "concat_step" (default): the concatenated features are a sequence of one step, the LSTM baseline in the
            code of MCUT. From a zero state h = o * tanh(i * g): recurrent weights and forget gate have no effect and
            get no gradient. "modality_sequence" (ours): each z_m, projected to `width`, is one step, in the order of
            the modalities. "tokens" (ours, closest to the abstract): z_m is a sequence of `steps` steps, read from the
            last maps of staged encoders (tokens, frames, positions); one LSTM per modality runs along it, and a joint
            LSTM along their concatenated hidden states.
        width: width of each LSTM; None: the largest width of a feature, or of a step in mode "tokens" (512 in MCUT,
            which is that).
        layers: layers of the (joint) LSTM; None: two for "modality_sequence", otherwise one.
        steps: steps of mode "tokens"; must divide all feature widths.

    Raises:
        Incompatible: fewer than two modalities, or features that are no sequences in mode "tokens".

    Shape:
        features: modality -> (B, D_m). Logits: (B, C).
    """

    how = "ablated"
    min_modalities = 2

    def __init__(
        self,
        dims: Mapping[str, int],
        n_classes: int,
        *,
        mode: Mode = "concat_step",
        width: int | None = None,
        layers: int | None = None,
        steps: int = 8,
    ) -> None:
        super().__init__(dims, n_classes)
        self.mode, self.steps = mode, steps if mode == "tokens" else 1
        if odd := [m for m, d in dims.items() if d % self.steps]:
            raise Incompatible(
                f"head MLLSTM reads sequences of {steps} steps, and the features of {', '.join(odd)} are none "
                f"({dict(dims)}). Give it the encoders that MLLSTM.readout makes."
            )
        of_step = {m: d // self.steps for m, d in dims.items()}
        width = width or max(of_step.values())
        #: of each modality: a projection, or an LSTM along its steps
        self.project = nn.ModuleDict()
        if mode == "modality_sequence":
            self.project.update({m: nn.Linear(d, width) for m, d in dims.items()})
        elif mode == "tokens":
            self.project.update({m: nn.LSTMCell(d, width) for m, d in of_step.items()})
        enters = {"modality_sequence": width, "tokens": len(dims) * width}.get(mode, sum(dims.values()))
        depth = layers or (2 if mode == "modality_sequence" else 1)
        # Cells, not nn.LSTM: its cuDNN form has no second derivative.
        self.cells = nn.ModuleList(nn.LSTMCell(width if i else enters, width) for i in range(depth))
        self.linear = nn.Linear(width, n_classes)
        if mode == "concat_step":
            self.expected_failures = {
                "check_head_parameter_gradients": "one step from a state of zeros: the recurrent weights act on nothing",
            }

    @classmethod
    def readout(
        cls, encoders: Mapping[str, Encoder], *, mode: Mode = "concat_step", steps: int = 8, **params: Any
    ) -> Mapping[str, Encoder]:
        return {m: Steps(e, steps) for m, e in encoders.items()} if mode == "tokens" else encoders

    def own(self, modality: str) -> Iterable[nn.Parameter]:
        return self.project[modality].parameters() if self.project else ()

    def fuse(self, features: Mapping[str, Tensor], present: Tensor | None) -> tuple[Tensor, dict[str, Any]]:
        steps = self._joint_steps(features)
        for cell in self.cells:
            steps = _states(cell, steps)
        return self.linear(steps[-1]), {"hidden": steps[-1], "penultimate": steps[-1]}

    def _joint_steps(self, features: Mapping[str, Tensor]) -> list[Tensor]:
        """What the (joint) LSTM reads, step by step."""
        if self.mode == "concat_step":
            return [torch.cat(list(features.values()), 1)]
        if self.mode == "modality_sequence":
            return [self.project[m](z) for m, z in features.items()]
        along = [_states(self.project[m], list(z.chunk(self.steps, 1))) for m, z in features.items()]
        return [torch.cat(side_by_side, 1) for side_by_side in zip(*along)]


def _states(cell: nn.Module, steps: list[Tensor]) -> list[Tensor]:
    """The hidden state after each step, from a state of zeros."""
    states, state = [], None
    for x in steps:
        state = cell(x, state)
        states.append(state[0])
    return states
