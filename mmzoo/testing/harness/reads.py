"""Which operations bring values of tensors to the host: on a GPU each of them waits for all that is queued before it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from types import TracebackType
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.weak import WeakIdKeyDictionary

#: operations that read values, or whose result has a shape that depends on them
READING = {
    "aten::_local_scalar_dense": "a number taken out of a tensor (item, float, int, bool, or an if on it)",
    "aten::equal": "torch.equal",
    "aten::nonzero": "nonzero, or an index of booleans",
    "aten::masked_select": "masked_select",
    "aten::_unique2": "unique",
    "aten::unique_dim": "unique",
    "aten::bincount": "bincount",
    "aten::repeat_interleave": "repeat_interleave by a tensor",
}
#: methods that copy to the host without any such operation
COPYING = {Tensor.tolist: "tolist", Tensor.numpy: "numpy", Tensor.cpu: "cpu"}


class Reads:
    """A block that notes in `found` what is read in it, in words, in order and once each.

    What was drawn or built within the block without any tensor from outside is on the host anyway, and may be read.
    """

    def __init__(self) -> None:
        self.found: list[str] = []
        self._host: WeakIdKeyDictionary = WeakIdKeyDictionary()
        self._paused = False
        self._modes = (_Operations(self), _Methods(self))

    def __enter__(self) -> Reads:
        for mode in self._modes:
            mode.__enter__()  # type: ignore[no-untyped-call]
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for mode in reversed(self._modes):
            mode.__exit__(kind, error, trace)  # type: ignore[no-untyped-call]

    def note(self, what: str, tensors: Sequence[Tensor]) -> None:
        if not self._paused and what not in self.found and not self.on_host(tensors):
            self.found.append(what)

    def on_host(self, tensors: Sequence[Tensor]) -> bool:
        return all(t in self._host for t in tensors)

    def keep_on_host(self, tensors: Sequence[Tensor]) -> None:
        for t in tensors:
            self._host[t] = True

    def unnoticed(self, call: Callable[[], Any]) -> Any:
        before, self._paused = self._paused, True
        try:
            return call()
        finally:
            self._paused = before


def _tensors(*values: Any) -> list[Tensor]:
    return [x for x in tree_leaves(values) if isinstance(x, Tensor)]


def _masks(args: Sequence[Any]) -> list[Tensor]:
    """The booleans that choose rows in an `index` or `index_put`. With a single value to put there, none is read."""
    chosen = args[1] if len(args) > 1 and isinstance(args[1], list | tuple) else ()
    if len(args) > 2 and isinstance(args[2], Tensor) and args[2].numel() == 1:
        return []
    return [t for t in chosen if isinstance(t, Tensor) and t.dtype in (torch.bool, torch.uint8)]


class _Operations(TorchDispatchMode):
    def __init__(self, reads: Reads) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._reads = reads

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        given, name = _tensors(args, kwargs), func._schema.name
        if name in READING:
            self._reads.note(READING[name], given)
        elif name.startswith("aten::index") and (chosen := _masks(args)):
            self._reads.note(READING["aten::nonzero"], chosen)
        result = func(*args, **kwargs)
        if self._reads.on_host(given) or name == "aten::lift_fresh":  # the latter is what torch.tensor makes
            self._reads.keep_on_host(_tensors(result))
        return result


class _Methods(TorchFunctionMode):
    def __init__(self, reads: Reads) -> None:
        super().__init__()
        self._reads = reads

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func in COPYING:
            self._reads.note(COPYING[func], _tensors(args))
        # Looks at the labels on a CPU only, and at none where the number of classes is not given.
        if func is torch.nn.functional.one_hot and len(args) + len(kwargs) > 1:
            return self._reads.unnoticed(lambda: func(*args, **kwargs))
        return func(*args, **kwargs)
