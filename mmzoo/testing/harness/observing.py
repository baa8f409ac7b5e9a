"""Looking at values without touching them: snapshots, differences, random states, and what an object can reach."""

from __future__ import annotations

import copy
import functools
import random
import types
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import hypothesis
import torch
from torch import Tensor, nn

PLAIN_VALUES = (Tensor, bool, int, float, str, type(None))


def weights(module: nn.Module) -> dict[str, Tensor]:
    """A copy of all parameters and buffers."""
    return {name: t.detach().clone() for name, t in module.state_dict().items()}


def attributes(obj: Any) -> dict[str, Any]:
    """A copy of those attributes of an object, and of the strategies within it, that are plain values."""
    found: dict[str, Any] = {}
    for name, value in vars(obj).items():
        if name in ("inner", "parts"):
            inner = value if isinstance(value, tuple) else (value,)
            found |= {f"{name}.{i}.{k}": v for i, part in enumerate(inner) for k, v in attributes(part).items()}
        elif _plain(value):
            found[name] = copy.deepcopy(value)
    return found


def _plain(value: Any) -> bool:
    if isinstance(value, Tensor):
        return value.is_leaf
    if isinstance(value, Mapping):
        return all(map(_plain, value.values()))
    if isinstance(value, Sequence | set | frozenset) and not isinstance(value, str):
        return all(map(_plain, value))
    return isinstance(value, PLAIN_VALUES)


def difference(a: Any, b: Any, tolerance: float = 0.0, where: str = "") -> str | None:
    """Where two nested values differ first, in words; None when they do not.

    tolerance 0 asks for equal bits (NaN equals NaN); otherwise tensors may differ by `tolerance`, relative to the
    largest value where that is above one.
    """
    if isinstance(a, Tensor) and isinstance(b, Tensor):
        return _tensor_difference(a.detach(), b.detach(), tolerance, where or "value")
    if isinstance(a, Mapping) and isinstance(b, Mapping):
        if set(a) != set(b):
            return f"{where or 'keys'}: {sorted(map(str, a))} against {sorted(map(str, b))}"
        return _first(difference(a[k], b[k], tolerance, f"{where}.{k}".lstrip(".")) for k in a)
    if isinstance(a, list | tuple) and isinstance(b, list | tuple):
        if len(a) != len(b):
            return f"{where or 'length'}: {len(a)} against {len(b)} values"
        return _first(difference(x, y, tolerance, f"{where}[{i}]") for i, (x, y) in enumerate(zip(a, b)))
    if isinstance(a, float) and isinstance(b, float):
        near = a == b or (a != a and b != b) or abs(a - b) <= tolerance * max(1.0, abs(a))
        return None if near else f"{where or 'value'}: {a!r} against {b!r}"
    return None if type(a) is type(b) and a == b else f"{where or 'value'}: {a!r} against {b!r}"


def _first(found: Iterable[str | None]) -> str | None:
    return next((text for text in found if text is not None), None)


def _tensor_difference(a: Tensor, b: Tensor, tolerance: float, where: str) -> str | None:
    if a.shape != b.shape or a.dtype != b.dtype:
        return f"{where}: {a.dtype} {tuple(a.shape)} against {b.dtype} {tuple(b.shape)}"
    if a.numel() == 0 or torch.equal(a, b):
        return None
    x, y = a.double(), b.double()
    gap = torch.where(x.isnan() & y.isnan() | (x == y), 0.0, (x - y).abs())
    worst = float(gap.max())
    if worst <= tolerance * max(1.0, float(x.abs().nan_to_num().max())):
        return None
    return f"{where} differs by up to {worst:.3g}"


def not_finite(tensors: Mapping[str, Tensor]) -> list[str]:
    """The names of tensors that hold a NaN or an infinity."""
    return [name for name, t in tensors.items() if t.is_floating_point() and not bool(torch.isfinite(t).all())]


def random_state() -> dict[str, Any]:
    """The states of the global generators of torch, python and numpy."""
    import numpy as np

    state: Any = np.random.get_state()
    kind, keys, *rest = state
    return {
        "torch": torch.get_rng_state(),
        "python": random.getstate(),
        "numpy": (kind, keys.tolist(), *rest),
    }


def reachable(*roots: Any) -> Iterator[Tensor]:
    """Every tensor that code holding `roots` could read: attributes, containers, closures, bound methods."""
    seen: set[int] = set()
    queue: deque[Any] = deque(roots)
    alive = []
    while queue:
        obj = queue.popleft()
        if id(obj) in seen or isinstance(obj, str | bytes | int | float | type | types.ModuleType):
            continue
        seen.add(id(obj))
        alive.append(obj)  # an id is only unique while its object lives
        if isinstance(obj, Tensor):
            yield obj
        queue.extend(_neighbours(obj))


def _neighbours(obj: Any) -> Iterator[Any]:
    if isinstance(obj, Mapping):
        yield from obj.keys()
        yield from obj.values()
    elif isinstance(obj, list | tuple | set | frozenset | deque):
        yield from obj
    elif isinstance(obj, types.FunctionType):
        yield from (cell.cell_contents for cell in obj.__closure__ or () if _filled(cell))
        yield from obj.__defaults__ or ()
        yield from (obj.__kwdefaults__ or {}).values()
    elif isinstance(obj, types.MethodType):
        yield obj.__self__
        yield obj.__func__
    elif isinstance(obj, functools.partial):
        yield from (obj.func, obj.args, obj.keywords)
    elif isinstance(obj, types.GeneratorType) and obj.gi_frame is not None:
        yield from obj.gi_frame.f_locals.values()
    yield from getattr(obj, "__dict__", {}).values()
    slots = (slot for cls in type(obj).__mro__ for slot in _names(getattr(cls, "__slots__", ())))
    yield from (getattr(obj, slot) for slot in slots if not slot.startswith("__") and hasattr(obj, slot))


def _names(slots: str | Iterable[str]) -> Iterable[str]:
    return (slots,) if isinstance(slots, str) else slots


def _filled(cell: Any) -> bool:
    try:
        return cell.cell_contents is not cell
    except ValueError:
        return False


def leaked(roots: Iterable[Any], secret: Mapping[str, Tensor]) -> str | None:
    """The name of a secret tensor of which `roots` reach the memory or a copy; None when they reach none."""
    places = {t.untyped_storage().data_ptr(): name for name, t in secret.items() if t.numel()}
    floats = {name: t for name, t in secret.items() if t.is_floating_point() and t.numel() > 1}
    for t in reachable(*roots):
        if t.numel() and t.untyped_storage().data_ptr() in places:
            return places[t.untyped_storage().data_ptr()]
        for name, hidden in floats.items():
            if t.shape == hidden.shape and t.dtype == hidden.dtype and torch.equal(t, hidden):
                return f"a copy of {name}"
    return None


def examples(count: int, **drawn: Any) -> Callable[[Callable[..., None]], None]:
    """A decorator that runs a function at once on `count` drawn examples, the same ones each time.

    drawn: argument -> hypothesis strategy. Nothing is written to disk and no clock is read.
    """

    def run(test: Callable[..., None]) -> None:
        settings = hypothesis.settings(
            max_examples=count,
            derandomize=True,
            database=None,
            deadline=None,
            report_multiple_bugs=False,
            phases=(hypothesis.Phase.generate,),
            suppress_health_check=list(hypothesis.HealthCheck),
        )
        settings(hypothesis.given(**drawn)(test))()

    return run
