"""Contexts that set how a model computes, and restore it afterwards: train and eval mode, buffers, double backward.

The one place for them: encoders, the model, the run, evaluation and bilevel solves enter these.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager

import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel


@contextlib.contextmanager
def double_backward() -> Iterator[None]:
    """Run code that can be differentiated twice: attention as plain matrix products, no compiled modules."""
    loaded = "torch._dynamo" in sys.modules  # otherwise nothing is compiled, and loading it takes a second
    with sdpa_kernel(SDPBackend.MATH), torch.compiler.set_stance("force_eager") if loaded else contextlib.nullcontext():
        yield


@contextlib.contextmanager
def in_mode(training: bool, *modules: nn.Module) -> Iterator[None]:
    """Train or eval mode in a block; the mode of every submodule is restored afterwards, also after an error.

    Args:
        training: True for train mode, False for eval mode.
        modules: any number of modules, none included.
    """
    was = [(inner, inner.training) for module in modules for inner in module.modules()]
    for module in modules:
        module.train(training)
    try:
        yield
    finally:
        for inner, mode in was:
            inner.training = mode


def frozen_statistics(model: nn.Module) -> AbstractContextManager[None]:
    """Eval mode in a block: batch norm uses its running statistics, dropout and stochastic depth are off."""
    return in_mode(False, model)


@contextlib.contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Eval mode without a graph in a block."""
    with in_mode(False, model), torch.no_grad():
        yield


@contextlib.contextmanager
def buffers_kept(model: nn.Module) -> Iterator[None]:
    """Run a block on copies of all buffers, so that the graph it leaves behind stays valid."""
    kept = [(m, name, b) for m in model.modules() for name, b in m._buffers.items() if b is not None]
    for module, name, buffer in kept:
        module._buffers[name] = buffer.clone()
    try:
        yield
    finally:
        for module, name, buffer in kept:
            module._buffers[name] = buffer


@contextlib.contextmanager
def aside(model: nn.Module, *, training: bool) -> Iterator[None]:
    """A forward outside the training pass, on copies of all buffers; restores modes and batch statistics.

    Args:
        model: the model.
        training: True for train mode in the block, False for eval mode.
    """
    with buffers_kept(model), in_mode(training, model):
        yield
