"""The logits of a fusion head for a single modality: the parameter-free unimodal logits of DGL and ARL."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor
from torch.func import functional_call

from mmzoo.api import Outputs, Step


def single_logits(step: Step, features: Mapping[str, Tensor], modality: str, *, train_head: bool = True) -> Tensor:
    """(B, C) the head's logits for one modality with all others absent.

    Unlike unimodal logits that are slices, they include the whole bias.

    Args:
        step: the batch in its pass.
        features: modality -> (B, D_m).
        modality: the modality.
        train_head: False: no gradient to the head's parameters.
    """
    head, fed = step.run.model.head, {modality: features[modality]}
    if train_head:
        alone: Outputs = head(fed, step.batch.present)
    else:
        still = {name: p.detach() for name, p in head.named_parameters()}
        alone = functional_call(head, still, (fed, step.batch.present))
    return alone.logits
