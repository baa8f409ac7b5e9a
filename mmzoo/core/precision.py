"""How the numbers are computed: autocast, full precision for what is differentiated twice, compiled encoders or no compiler."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from mmzoo.core.model import MultimodalModel

#: how often code that encoders share may be compiled in one run: for each encoder, mode, and kind of gradient
COMPILATIONS = 64
#: the methods of torch's optimizers that are marked when they are first called
_MARKED = ("add_param_group", "load_state_dict", "state_dict", "zero_grad")
_FULL: ContextVar[bool] = ContextVar("full_precision", default=False)


def autocast(precision: str, device: torch.device) -> AbstractContextManager[Any]:
    """Autocast for "bf16", but for blocks within `full_precision`, whoever runs a forward there."""
    if precision == "fp32" or _FULL.get():
        return contextlib.nullcontext()
    return torch.autocast(device.type, dtype=torch.bfloat16)


@contextlib.contextmanager
def tf32(wanted: bool) -> Iterator[None]:
    """Whether float32 products, convolutions and recurrent layers on CUDA GPUs are in TF32 within a block; as it was
    afterwards. By itself torch has TF32 off for products and on for the others.

    Through `allow_tf32` alone: torch 2.14 refuses to multiply where that and the newer `fp32_precision` disagree, and only
    the former keeps both in step.
    """
    kinds: list[Any] = [torch.backends.cuda.matmul, torch.backends.cudnn]
    was = [kind.allow_tf32 for kind in kinds]
    try:
        for kind in kinds:
            kind.allow_tf32 = wanted
        yield
    finally:
        for kind, value in zip(kinds, was):
            kind.allow_tf32 = value


@contextlib.contextmanager
def full_precision(device: torch.device) -> Iterator[None]:
    """Autocast off, also that of a model that is trained under it, and float32 products on a GPU without TF32."""
    with contextlib.ExitStack() as stack:
        if device.type == "cuda":
            stack.enter_context(tf32(False))
        stack.callback(_FULL.reset, _FULL.set(True))
        stack.enter_context(torch.autocast(device.type, enabled=False))
        yield


def compile_encoders(model: MultimodalModel) -> None:
    """Hand each encoder to torch.compile.

    Code that would have to be compiled more than COMPILATIONS times raises an error; by itself torch would go on without
    compiling it. What the process had compiled before is dropped, since it counts too.
    """
    import torch._dynamo
    import torch._functorch.config

    torch._dynamo.reset()
    torch._dynamo.config.recompile_limit = COMPILATIONS
    torch._dynamo.config.fail_on_recompile_limit_hit = True
    torch._functorch.config.donated_buffer = False  # strategies may go backward through a graph several times
    for encoder in model.encoders.values():
        encoder.compile()


@contextlib.contextmanager
def without_compiler(*modes: type | None) -> Iterator[None]:
    """Within a block, building an optimizer, taking its state and entering dispatch modes do not import torch's compiler.

    torch marks some methods as not to be compiled, and imports the compiler (seconds of processor time) when one of them
    is first called, only to mark it. Where nothing is compiled there is nothing to mark. Does nothing once the compiler is
    loaded.

    Args:
        modes: dispatch modes that are entered in the block.
    """
    marked = [getattr(torch.optim.Optimizer, name, None) for name in _MARKED]
    marked += [getattr(mode, "__torch_dispatch__", None) for mode in modes]
    loaded = "torch._dynamo" in sys.modules
    inner = [] if loaded else [getattr(method, "__wrapped__", None) for method in marked]
    plain: list[Any] = [method for method in inner if method is not None]
    for method in plain:
        method.__dynamo_disable = method
    try:
        yield
    finally:
        for method in plain:
            vars(method).pop("__dynamo_disable", None)
