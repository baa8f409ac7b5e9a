"""A device that is not there: what goes wrong on a GPU alone, without one.

Its tensors say that they lie on `elsewhere:0`, hold their values on the CPU, and take part in no operation with a tensor of
the CPU but where a GPU takes them: copies, single numbers, and indices of the CPU. Draws there want a generator of the
device. Operations are those of the CPU, so that results have the same bits; those that the CPU does not have are refused with
NotImplementedError. A process that has such a device keeps it: give work to `mmzoo.testing.harness.ranks.in_another`.
"""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Iterator, Sequence
from functools import cache
from typing import Any, cast
from unittest import mock

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

from mmzoo.testing.harness.report import Skipped

NAME = "elsewhere"
COPIES = ("aten::_to_copy", "aten::copy_", "aten::_copy_from")
INDEXED = ("aten::index", "aten::index_put", "aten::index_put_", "aten::_index_put_impl_")
#: what takes not even a single number of the CPU
STRICT = ("aten::cat", "aten::stack")
#: what has to know values of the device, for which a GPU would have to finish all that is queued
READS = (
    "aten::_local_scalar_dense",
    "aten::nonzero",
    "aten::equal",
    "aten::is_nonzero",
    "aten::masked_select",
    "aten::_unique2",
    "aten::unique_dim",
    "aten::unique_consecutive",
)
_noted: list[list[str]] = []


class TwoDevices(RuntimeError):
    """An operation was given tensors of two devices."""


class Elsewhere(torch.Tensor):
    """A tensor on the device; `there` are its values."""

    there: Tensor

    @staticmethod
    def __new__(cls, there: Tensor) -> Elsewhere:
        made: Any = torch.Tensor._make_wrapper_subclass(
            cls,
            there.size(),
            strides=there.stride(),
            storage_offset=there.storage_offset(),
            dtype=there.dtype,
            layout=there.layout,
            device=torch.device(NAME, 0),
            requires_grad=False,
        )
        made.there = there
        return cast("Elsewhere", made)

    def tolist(self) -> Any:
        for noted in _noted:
            noted.append("tolist")
        return self.there.tolist()

    def untyped_storage(self) -> torch.UntypedStorage:
        return self.there.untyped_storage()

    def __repr__(self, **_: Any) -> str:  # type: ignore[override]
        return f"Elsewhere({self.there!r})"

    def __deepcopy__(self, memo: dict[int, Any]) -> Elsewhere:
        if id(self) not in memo:
            memo[id(self)] = made = Elsewhere(self.there.clone()).requires_grad_(self.requires_grad)
            vars(made).update({k: v for k, v in vars(self).items() if k != "there"})  # a parameter stays one
            made.grad = copy.deepcopy(self.grad, memo)
        copied: Elsewhere = memo[id(self)]
        return copied

    def __reduce_ex__(self, protocol: Any) -> Any:
        return self.there.__reduce_ex__(protocol)  # a file holds the values

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:  # type: ignore[override]
        return _operate(func, args, kwargs or {})


class _Operations(TorchDispatchMode):
    """Catches what has no tensor of the device yet: tensors that are made there, or brought there."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _operate(func, args, kwargs or {})


class _Generator(torch.Generator):
    """Draws for the device on the CPU: torch takes no generator of a device that is made up. away: whether it is for it."""

    away: bool

    def __new__(cls, where: Any = "cpu") -> Any:
        make: Any = super().__new__
        away = torch.device(where).type == NAME
        made = make(cls, "cpu" if away else where)
        made.away = away
        return made


class _Draws(TorchFunctionMode):
    """Looks at what draws before torch loses sight of whose generator it is."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        for generator in (x for x in (*args, *kwargs.values()) if isinstance(x, _Generator)):
            goal = kwargs.get("device")
            there = any(isinstance(t, Elsewhere) for t in args) if goal is None else torch.device(goal).type == NAME
            if generator.away != there:
                raise TwoDevices(f"{func.__name__} draws on one device with a generator of another")
        return func(*args, **kwargs)


@contextlib.contextmanager
def device() -> Iterator[torch.device]:
    """The device, in a block. Raises Skipped where this torch cannot have one."""
    _register()
    with _Operations(), _Draws(), mock.patch.object(torch, "Generator", _Generator):  # type: ignore[no-untyped-call]
        yield torch.device(NAME, 0)


@contextlib.contextmanager
def reads() -> Iterator[list[str]]:
    """The operations in a block that read values of the device, one after the other."""
    found: list[str] = []
    _noted.append(found)
    try:
        yield found
    finally:
        _noted.remove(found)


def values(x: Any) -> Any:
    """The same with tensors of the device on the CPU."""
    return tree_map(lambda t: t.there if isinstance(t, Elsewhere) else t, x)


def _operate(func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    """One operation, on the CPU."""
    leaves = tree_leaves((args, kwargs))
    ours = [t for t in leaves if isinstance(t, Elsewhere)]
    name = func._schema.name
    short = name.removeprefix("aten::")
    if ours and (others := _strangers(name, args, kwargs)):
        shapes = ", ".join(str(tuple(t.shape)) for t in others)
        raise TwoDevices(f"{short} was given tensors of two devices; of the CPU: {shapes}")
    goal = kwargs.get("device")
    there = bool(ours) if goal is None else torch.device(goal).type == NAME
    if ours and _reads(func, args, goal):
        for noted in _noted:
            noted.append(short)
    given = values(kwargs) if goal is None else {**values(kwargs), "device": torch.device("cpu")}
    result = _OWN.get(name, func)(*values(args), **given)
    if torch.Tag.inplace_view in func.tags:
        with torch._C._DisableTorchDispatch():
            func(*args, **kwargs)  # the tensor of the device has a shape of its own to be changed
    return tree_map(lambda t: _brought(t, ours) if isinstance(t, Tensor) else t, result) if there else result


def _strangers(name: str, args: Any, kwargs: Any) -> list[Tensor]:
    """The tensors of the CPU that an operation on one of the device does not take."""
    if name in COPIES:
        return []
    first = args[0] if args else None
    if isinstance(first, Tensor) and not isinstance(first, Elsewhere) and (name in INDEXED or name.endswith("_")):
        return [first]  # indexed or changed in place by what lies elsewhere
    given = args[2:] if name in INDEXED else (args, kwargs)
    cpu = [t for t in tree_leaves(given) if isinstance(t, Tensor) and not isinstance(t, Elsewhere)]
    return cpu if name in STRICT else [t for t in cpu if t.ndim]


def _reads(func: Any, args: Any, goal: Any) -> bool:
    """Whether an operation on a tensor of the device reads it: a number, a copy to the CPU, an index by true and false."""
    name = func._schema.name
    if name in INDEXED:
        return any(isinstance(t, Tensor) and t.dtype is torch.bool for t in args[1])
    if name in ("aten::copy_", "aten::_copy_from"):
        source, to = (args[1], args[0]) if name == "aten::copy_" else args[:2]
        return isinstance(source, Elsewhere) and not isinstance(to, Elsewhere)
    repeats = name == "aten::repeat_interleave" and func._overloadname == "Tensor"
    return repeats or name in READS or (goal is not None and torch.device(goal).type != NAME)


def _brought(t: Tensor, ours: Sequence[Elsewhere]) -> Tensor:
    """A result as a tensor of the device: of those that were given where it was changed in place."""
    found = next((own for own in ours if own.there is t), None)
    return Elsewhere(t) if found is None else found


# ---------------------------------------------------------------------- what the CPU does in another way
def _lstm(igates: Tensor, hgates: Tensor, cx: Tensor, *biases: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
    """The fused cell that torch takes everywhere but on the CPU."""
    gates = igates + hgates + sum(b for b in biases if b is not None)
    i, f, g, o = gates.chunk(4, 1)
    i, f, g, o = i.sigmoid(), f.sigmoid(), g.tanh(), o.sigmoid()
    cy = f * cx + i * g
    return o * cy.tanh(), cy, torch.cat([i, f, g, o], 1)


def _lstm_backward(
    grad_hy: Tensor | None, grad_cy: Tensor | None, cx: Tensor, cy: Tensor, workspace: Tensor, has_bias: bool
) -> tuple[Tensor | None, ...]:
    i, f, g, o = workspace.chunk(4, 1)
    out = cy.tanh()
    grad_hy = torch.zeros_like(cy) if grad_hy is None else grad_hy
    grad_c = grad_hy * o * (1 - out.square()) + (0.0 if grad_cy is None else grad_cy)
    parts = (
        grad_c * g * i * (1 - i),
        grad_c * cx * f * (1 - f),
        grad_c * i * (1 - g.square()),
        grad_hy * out * o * (1 - o),
    )
    gates = torch.cat(parts, 1)
    return gates, grad_c * f, gates.sum(0) if has_bias else None


_OWN = {"aten::_thnn_fused_lstm_cell": _lstm, "aten::_thnn_fused_lstm_cell_backward_impl": _lstm_backward}


# ---------------------------------------------------------------------- what torch has to know of a device
@cache
def _register() -> Any:
    """Tell torch of the device, once and for all. Returns what has to stay alive."""
    try:
        from torch.utils import backend_registration as torch_side

        module = torch_side._DummyBackendModule
    except (ImportError, AttributeError):
        raise Skipped(f"torch {torch.__version__} does not support a mock device") from None

    class Module(module):  # type: ignore[misc, valid-type]
        def get_amp_supported_dtype(self) -> list[torch.dtype]:
            return [torch.bfloat16]

    torch_side._setup_privateuseone_for_python_backend(NAME, backend_module=Module())
    library = torch.library.Library("aten", "IMPL")
    for name, kernel in {
        "empty_strided": _empty_strided,
        "empty.memory_format": _empty,
        "_copy_from": _copy_from,
    }.items():
        library.impl(name, kernel, "PrivateUse1")
    return library


def _empty_strided(size: Any, stride: Any, *, dtype: Any = None, **_: Any) -> Tensor:
    with torch._C._DisableTorchDispatch():
        made = torch.empty_strided(size, stride, dtype=dtype)
    return Elsewhere(made)


def _empty(size: Any, *, dtype: Any = None, **_: Any) -> Tensor:
    with torch._C._DisableTorchDispatch():
        made = torch.empty(size, dtype=dtype)
    return Elsewhere(made)


def _copy_from(source: Tensor, to: Tensor, non_blocking: bool = False) -> Tensor:
    with torch._C._DisableTorchDispatch():
        values(to).copy_(values(source))
    return to
