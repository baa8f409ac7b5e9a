"""Modality dropout."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from mmzoo.api import Step, Strategy


class ModalityDropout(Strategy):
    """Sets the features of each modality to zero for a random fraction p of the training samples.

    After ModDrop (Neverova et al., TPAMI 2016), which drops inputs; dropping features leaves the encoders' batch
    statistics unchanged. A sample that would lose everything keeps one modality, drawn at random.

    Args:
        p: probability to drop a modality.
    """

    min_modalities = 2
    neutral = {"p": 0.0}  # noqa: RUF012
    stochastic = True

    def __init__(self, *, p: float = 0.2) -> None:
        self.p = p

    def features(self, step: Step, feats: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        if self.p == 0.0:
            return feats
        generator = step.generator("modality_dropout")
        n, m = len(step.batch), len(feats)
        # The largest of the m numbers is the one that is kept where all would be dropped.
        draw = torch.rand(n, m, generator=generator)
        keep = (draw >= self.p) | (draw == draw.max(1, keepdim=True).values)
        keep = keep.to(step.run.device)
        return {name: torch.where(keep[:, i, None], z, 0.0) for i, (name, z) in enumerate(feats.items())}
