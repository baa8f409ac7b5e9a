"""What a fusion head makes of one modality alone: the parameter-free unimodal logits of DGL and ARL."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor
from torch.func import functional_call

from mmzoo.api import Outputs, Step


def single_logits(step: Step, features: Mapping[str, Tensor], modality: str, *, train_head: bool = True) -> Tensor:
    """(B, C) the head's logits of one modality, the others absent.

    Unlike the unimodal logits of a head whose `how` is slice they hold the whole bias.

    Args:
        train_head: False leaves the head's parameters without a gradient.
    """
    head, fed = step.run.model.head, {modality: features[modality]}
    if train_head:
        alone: Outputs = head(fed, step.batch.present)
    else:
        still = {name: p.detach() for name, p in head.named_parameters()}
        alone = functional_call(head, still, (fed, step.batch.present))
    return alone.logits
