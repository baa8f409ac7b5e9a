"""Numerical precision: autocast, TF32, full precision for double backward; and compiled encoders."""

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
    """Autocast for "bf16", a null context otherwise; off inside `full_precision`.

    Args:
        precision: "fp32" or "bf16".
        device: where the forward runs.
    """
    if precision == "fp32" or _FULL.get():
        return contextlib.nullcontext()
    return torch.autocast(device.type, dtype=torch.bfloat16)


@contextlib.contextmanager
def tf32(wanted: bool) -> Iterator[None]:
    """Switch TF32 on or off for float32 products, convolutions and recurrent layers on CUDA GPUs; restored afterwards.

    By default torch has TF32 off for products and on for the others. Only `allow_tf32` is set: torch 2.14 refuses to
    multiply if it disagrees with the newer `fp32_precision`, and setting the former keeps both in step.
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
    """No autocast, not even that of the model, and float32 products on a GPU without TF32."""
    with contextlib.ExitStack() as stack:
        if device.type == "cuda":
            stack.enter_context(tf32(False))
        stack.callback(_FULL.reset, _FULL.set(True))
        stack.enter_context(torch.autocast(device.type, enabled=False))
        yield


def compile_encoders(model: MultimodalModel) -> None:
    """Compile each encoder with torch.compile.

    More than COMPILATIONS compilations of one piece of code raise an error; torch itself would silently run it without
    compilation. What the process compiled before is dropped, since it counts too.
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
    """In a block, optimizers and dispatch modes do not import torch's compiler.

    torch marks some methods as excluded from compilation, and imports the compiler (seconds of processor time) on the
    first call of one of them only to do so. Nothing changes once the compiler is loaded.

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
