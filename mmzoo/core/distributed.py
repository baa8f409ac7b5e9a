"""Collectives over the processes of a distributed run. In a single process each of them returns its input."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

_AVAILABLE = dist.is_available()


def world_size() -> int:
    """The number of processes; 1 without `torch.distributed`."""
    return dist.get_world_size() if _AVAILABLE and dist.is_initialized() else 1


def share() -> tuple[int, int]:
    """(rank, world size), in the form that a loader's `shared` takes."""
    return (dist.get_rank(), world_size()) if world_size() > 1 else (0, 1)


def mean(x: Tensor) -> Tensor:
    """The mean of a tensor over all processes, without a graph."""
    if world_size() == 1:
        return x
    total = x.detach().clone()
    dist.all_reduce(total)
    return total / world_size()


def gather(x: Tensor) -> Tensor:
    """The rows of all processes, by rank; the gradient of a row reaches the rank that it came from."""
    if world_size() == 1:
        return x
    return _Gather.apply(x) if x.is_floating_point() else _gathered(x)


def _gathered(x: Tensor) -> Tensor:
    pieces = [torch.empty_like(x) for _ in range(world_size())]
    dist.all_gather(pieces, x.contiguous())
    return torch.cat(pieces)


class _Gather(torch.autograd.Function):
    """The rows of all processes; backward: the sum over processes of what each asks of the rows of this one."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.n = len(x)
        return _gathered(x)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        found: Tensor = _Summed.apply(grad).narrow(0, dist.get_rank() * ctx.n, ctx.n)
        return found


class _Summed(torch.autograd.Function):
    """The sum over processes, whose gradient is the sum of theirs: second derivatives go through a gather."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        total = x.detach().clone()
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        found: Tensor = _Summed.apply(grad)
        return found


def no_features(n: int, width: int, encoder: nn.Module, like: Tensor) -> Tensor:
    """The features of an encoder whose modality no sample of this process has: zeros.

    With several processes the zeros depend on the encoder's parameters, but pass no gradient to them: either all ranks
    join the backward of `gather` or none does, and other ranks do have such samples.

    Args:
        n: number of rows.
        width: number of columns.
        encoder: the encoder that the features stand for.
        like: a tensor of the dtype and device wanted.

    Returns:
        (n, width) zeros.
    """
    params = list(encoder.parameters())
    return like.new_zeros(n, width) if world_size() == 1 or not params else _Nothing.apply(n, width, *params)


class _Nothing(torch.autograd.Function):
    """Zeros with a way back to parameters, along which nothing goes: their gradients stay missing. Where these are to be
    differentiated themselves they are zeros, so that there is a way through them."""

    @staticmethod
    def forward(ctx: Any, n: int, width: int, *params: Tensor) -> Tensor:
        ctx.shapes = [p.shape for p in params]
        return params[0].new_zeros(n, width)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:
        nothing = (grad * 0.0).sum() if torch.is_grad_enabled() else None
        return None, None, *(None if nothing is None else nothing.expand(shape) for shape in ctx.shapes)


def leads_nowhere(node: Any) -> bool:
    """Whether a node of an autograd graph is that of `no_features`, so that no gradient flows beyond it."""
    found: bool = node.name() == f"{_Nothing.__name__}Backward"
    return found


def all_objects(value: Any) -> list[Any]:
    """The value of each process, by rank. Any picklable value; tensors must be on the CPU."""
    if world_size() == 1:
        return [value]
    found: list[Any] = [None] * world_size()
    dist.all_gather_object(found, value)
    return found


def gather_rows(values: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """name -> the rows of all processes, whose numbers of rows may differ; without gradients."""
    if world_size() == 1:
        return dict(values)
    parts = all_objects({name: t.cpu() for name, t in values.items()})
    return {name: torch.cat([part[name] for part in parts]).to(t.device) for name, t in values.items()}


def mean_values(values: Mapping[str, float]) -> dict[str, float]:
    """name -> the mean over the processes that have this name, in order of first appearance."""
    if world_size() == 1:
        return dict(values)
    found: dict[str, list[float]] = {}
    for each in all_objects(dict(values)):
        for name, value in each.items():
            found.setdefault(name, []).append(value)
    return {name: sum(each) / len(each) for name, each in found.items()}


def average_buffers(model: nn.Module) -> None:
    """Replace each floating-point buffer by its mean over processes, in one message per dtype.

    Batch statistics differ between processes until then.
    """
    if world_size() == 1:
        return
    by_type: dict[torch.dtype, list[Tensor]] = {}
    for buffer in model.buffers():
        if buffer.is_floating_point():
            by_type.setdefault(buffer.dtype, []).append(buffer)
    for buffers in by_type.values():
        flat = mean(torch.cat([b.flatten() for b in buffers]))
        for b, value in zip(buffers, flat.split([b.numel() for b in buffers])):
            b.copy_(value.view_as(b))


def average_gradients(params: Iterable[nn.Parameter]) -> None:
    """Replace each gradient by its mean over processes, in one message.

    A gradient that is missing on this rank but present on another counts as zero; one that is missing on all ranks
    stays missing.
    """
    if world_size() == 1:
        return
    params = [p for p in params if p.requires_grad]
    if not params:
        return
    has = torch.tensor([float(p.grad is not None) for p in params], device=params[0].device)
    dist.all_reduce(has)
    active = [p for p, n in zip(params, has.tolist()) if n]
    if not active:
        return
    flat = torch.cat([torch.zeros_like(p).flatten() if p.grad is None else p.grad.flatten() for p in active])
    dist.all_reduce(flat)
    for p, g in zip(active, (flat / world_size()).split([p.numel() for p in active])):
        p.grad = g.view_as(p).clone()
