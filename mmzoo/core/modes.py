"""Contexts that set how a model computes, and restore it afterwards: eval mode, buffers, double backward."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator

import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel


@contextlib.contextmanager
def double_backward() -> Iterator[None]:
    """What can be differentiated twice: attention by plain matrix products, and compiled modules as they were written."""
    loaded = "torch._dynamo" in sys.modules  # otherwise nothing is compiled, and loading it takes a second
    with sdpa_kernel(SDPBackend.MATH), torch.compiler.set_stance("force_eager") if loaded else contextlib.nullcontext():
        yield


@contextlib.contextmanager
def frozen_statistics(model: nn.Module) -> Iterator[None]:
    """Eval mode for every module in a block: batch norm uses its running statistics and leaves them alone, dropout
    and stochastic depth do nothing. Each module's own mode is put back, also after an error."""
    was = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, training in was:
            module.training = training


@contextlib.contextmanager
def buffers_kept(model: nn.Module) -> Iterator[None]:
    """Let a block work on copies of all buffers, so that the graph it leaves behind stays valid."""
    kept = [(m, name, b) for m in model.modules() for name, b in m._buffers.items() if b is not None]
    for module, name, buffer in kept:
        module._buffers[name] = buffer.clone()
    try:
        yield
    finally:
        for module, name, buffer in kept:
            module._buffers[name] = buffer


@contextlib.contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Eval mode and no graph in a block. Each module's own mode is put back, also after an error."""
    training = [module for module in model.modules() if module.training]
    if training:
        model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        for module in training:
            module.training = True
