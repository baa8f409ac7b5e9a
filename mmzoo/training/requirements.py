"""Whether a strategy, a model and a way of training can work together; refused before training, with the reason."""

from __future__ import annotations

from collections.abc import Iterable

import torch

from mmzoo.core import distributed
from mmzoo.core.head import FusionHead
from mmzoo.core.model import MultimodalModel
from mmzoo.errors import Incompatible
from mmzoo.training.compatibility import HeadFacts, Needs, unmet, unsuited, unsuited_device, unsuited_head
from mmzoo.training.config import Training
from mmzoo.training.strategy import Strategy


def check_requirements(name: str, strategy: Strategy, model: MultimodalModel, *, has_slice: bool) -> None:
    """Raise Incompatible, with the reason, when a model or its data lacks what a strategy asks for."""
    _refuse(
        unmet(_needs(name, strategy), _facts(model.head), len(model.modalities), processes=distributed.world_size())
    )
    if "equal_dims" in strategy.requires and len(set(model.head.dims.values())) > 1:
        raise Incompatible(f"{name} needs features of one width, but they have {model.head.dims}.")
    if "slice" in strategy.requires and not has_slice:
        raise Incompatible(f"{name} learns from a labelled slice of the training data, and none was given.")


def check_engine(
    name: str, strategy: Strategy, model: MultimodalModel, training: Training, device: torch.device
) -> None:
    """Raise Incompatible, with the reason, where the numbers cannot be computed as the training asks."""
    _refuse(unsuited(_needs(name, strategy), training))
    _refuse(unsuited_head(_facts(model.head), training))
    _refuse(unsuited_device(training, str(device)))


def _refuse(reasons: Iterable[str]) -> None:
    for reason in reasons:
        raise Incompatible(reason)


def _needs(name: str, strategy: Strategy) -> Needs:
    return Needs(name, strategy.requires, strategy.min_modalities, strategy.max_modalities, strategy.single_process)


def _facts(head: FusionHead) -> HeadFacts:
    return HeadFacts(type(head).__name__, head.how, head.additive, head.evidential, head.couples, head.mean_gates)
