"""What to do when memory runs out: the same mathematics in smaller pieces."""

from __future__ import annotations

import gc

import torch
from torch.nn.modules.batchnorm import _BatchNorm

from mmzoo.core.model import MultimodalModel

#: how allocators say it that have no exception class of their own
_WORDS = (
    "DefaultCPUAllocator: can't allocate memory",
    "not enough memory: you tried to allocate",
    "CUDA error: out of memory",
    "CUBLAS_STATUS_ALLOC_FAILED",
    "CUDNN_STATUS_ALLOC_FAILED",
)


def ran_out(error: BaseException | None) -> bool:
    """Whether an error, or one that it arose from, is an allocation that failed."""
    while error is not None:
        if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
            return True
        if isinstance(error, RuntimeError) and any(words in str(error) for words in _WORDS):
            return True
        error = error.__cause__
    return False


def told(error: BaseException) -> str:
    """The first line of what the allocator said."""
    return (str(error) or type(error).__name__).splitlines()[0]


def least(model: MultimodalModel) -> int | None:
    """The smallest micro-batch that a model can be trained in; None where it takes none at all."""
    if model.head.couples:
        return None
    return 2 if _batch_statistics(model) else 1


def smallest(*sizes: int | None) -> int | None:
    """The smallest of some micro-batches; None stands for the whole batch."""
    return min((s for s in sizes if s is not None), default=None)


def note(model: MultimodalModel, micro: int | None) -> str:
    """What a reader of the row should know."""
    text = f"memory ran out: trained in micro-batches of {micro}, which is the same mathematics"
    return text + (
        ", except for batch statistics, which are those of a micro-batch" if _batch_statistics(model) else ""
    )


def free(device: str) -> None:
    """Give back what nothing refers to any more."""
    gc.collect()
    if device.startswith("cuda"):
        torch.cuda.empty_cache()


def _batch_statistics(model: MultimodalModel) -> bool:
    return any(isinstance(m, _BatchNorm) and m.training for m in model.encoders.modules())
