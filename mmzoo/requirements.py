"""Whether a strategy, a model and a way of training can work together; refused before training, with the reason."""

from __future__ import annotations

import torch

from mmzoo.errors import Incompatible
from mmzoo.model import MultimodalModel
from mmzoo.strategy import Strategy
from mmzoo.training import Training, bent


def check_requirements(name: str, strategy: Strategy, model: MultimodalModel, *, has_slice: bool) -> None:
    """Raise Incompatible, with the reason, when a model or its data lacks what a strategy asks for."""
    head, n = model.head, len(model.modalities)
    kind = type(head).__name__
    if n < strategy.min_modalities:
        raise Incompatible(f"{name} needs at least {strategy.min_modalities} modalities, not {n}.")
    if strategy.max_modalities is not None and n > strategy.max_modalities:
        raise Incompatible(f"{name} is defined for at most {strategy.max_modalities} modalities, not {n}.")
    if "unimodal" in strategy.requires and head.how == "ablated":
        raise Incompatible(
            f"{name} needs logits of each modality; head {kind} has none of its own. "
            "Use a head whose `how` is exact or slice: mmzoo list heads."
        )
    if "additive" in strategy.requires and not head.additive:
        raise Incompatible(f"{name} needs a head whose unimodal logits add up to the joint ones; {kind} is not one.")
    if "evidence" in strategy.requires and not head.evidential:
        raise Incompatible(
            f"{name} needs a head whose logits are log alpha of opinions; {kind} is not one. Use head evidential."
        )
    if "staged" in strategy.requires and not head.couples:
        raise Incompatible(f"{name} needs a head that acts between encoder stages; {kind} does not.")
    if "mean_gates" in strategy.requires and not head.mean_gates:
        raise Incompatible(
            f"{name} needs a head with gates between encoder stages whose running means can stand in for them; {kind} "
            "has none. Use such a head (channel): mmzoo list heads."
        )
    if "equal_dims" in strategy.requires and len(set(head.dims.values())) > 1:
        raise Incompatible(f"{name} needs features of one width, but they have {head.dims}.")
    if "slice" in strategy.requires and not has_slice:
        raise Incompatible(f"{name} learns from a labelled slice of the training data, and none was given.")


def check_engine(
    name: str, strategy: Strategy, model: MultimodalModel, training: Training, device: torch.device
) -> None:
    """Raise Incompatible, with the reason, where the numbers cannot be computed as the training asks."""
    if "plain_steps" in strategy.requires and (options := bent(training)):
        raise Incompatible(f"{name} as set follows the steps as they are taken: leave out {' and '.join(options)}.")
    if training.compile and "double_backward" in strategy.requires:
        raise Incompatible(
            f"{name} differentiates its steps twice, which compiled encoders cannot: leave out train.compile."
        )
    if model.head.couples and (whole := [f"train.{k}" for k in ("micro_batch", "compile") if getattr(training, k)]):
        raise Incompatible(
            f"{type(model.head).__name__} acts between the stages of the encoders, so that they are not run one by one: "
            f"leave out {' and '.join(whole)}."
        )
    if training.tf32 and device.type != "cuda":
        raise Incompatible(f"train.tf32 is a mode of CUDA GPUs, and this run is on {device}: leave it out.")
