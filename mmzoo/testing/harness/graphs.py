"""What is in the graph of a loss, and what an object holds."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from typing import Any, TypeVar

from torch import Tensor, nn

T = TypeVar("T")
#: the operations that multiply two tensors -> where the node keeps them
_FACTORS = {
    "MulBackward0": ("_saved_self", "_saved_other"),
    "DivBackward0": ("_saved_self", "_saved_other"),
    "DotBackward0": ("_saved_self", "_saved_tensor"),
}


def held(obj: object, kind: type[T]) -> Iterator[tuple[str, T]]:
    """Name and value of each attribute of a kind, those in lists and mappings included."""
    for name, value in vars(obj).items():
        if name not in ("inner", "parts"):
            yield from _within(name, value, kind, 3)


def _within(name: str, value: object, kind: type[T], depth: int) -> Iterator[tuple[str, T]]:
    if isinstance(value, kind):
        yield name, value
    elif depth and isinstance(value, Mapping) and not isinstance(value, nn.Module):
        for key, each in value.items():
            yield from _within(f"{name}[{key!r}]", each, kind, depth - 1)
    elif depth and isinstance(value, list | tuple | set | frozenset):
        for i, each in enumerate(value):
            yield from _within(f"{name}[{i}]", each, kind, depth - 1)


def products(root: Any, params: Collection[int], sizes: Collection[tuple[int, ...]]) -> Iterator[Any]:
    """The nodes of a graph that multiply or divide two tensors of one of these sizes, both of which depend on the parameters.

    params: ids of parameters.
    """
    for node in _nodes(root):
        following = [n for n, _ in node.next_functions]
        if node.name() in _FACTORS and len(following) == 2 and following[0] is not following[1]:
            shapes = {_shape(node, name) for name in _FACTORS[node.name()]} - {None}
            if shapes and shapes <= set(sizes) and all(_depends(n, params) for n in following):
                yield node


def _shape(node: Any, name: str) -> tuple[int, ...] | None:
    try:
        saved = getattr(node, name)
    except (AttributeError, RuntimeError):
        return None
    return tuple(saved.shape) if isinstance(saved, Tensor) else None


def _depends(root: Any, params: Collection[int]) -> bool:
    return any(hasattr(node, "variable") and id(node.variable) in params for node in _nodes(root))


def _nodes(root: Any) -> Iterator[Any]:
    """The nodes of a graph, each once."""
    seen: set[Any] = set()
    waiting = [root]
    while waiting:
        node = waiting.pop()
        if node is not None and node not in seen:
            seen.add(node)
            waiting += [n for n, _ in node.next_functions]
            yield node
