"""The size of a model and its number of operations, by parameter group."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from mmzoo.core.model import MultimodalModel
from mmzoo.core.modes import double_backward, evaluating
from mmzoo.core.precision import without_compiler
from mmzoo.core.values import Batch, DecisionRule

if TYPE_CHECKING:
    from torch.utils.flop_counter import FlopCounterMode

SHARED = "head:shared"


def complexity(model: MultimodalModel, strategy: DecisionRule, batch: Batch) -> dict[str, Any]:
    """Parameters and floating-point operations of a model, in total and by parameter group.

    Args:
        model: the model.
        strategy: the decision rule.
        batch: its first sample gives the shapes.

    Returns:
        `parameters` and `flops` of the model, and under `groups` those of each group; see `flops`. If the operations
        cannot be counted, `parameters` and, under `uncounted`, the reason.
    """
    held = {group: sum(p.numel() for p in params) for group, params in model.groups().items()}
    try:
        counted = flops(model, strategy, batch)
    except Exception as error:  # whatever a stranger's model does under the counter: it has been trained by now
        why = (str(error) or "no message").splitlines()[0][:300]
        return {"parameters": sum(held.values()), "uncounted": f"{type(error).__name__}: {why}"}
    names = [*held, *(g for g, n in counted.items() if n and g not in held)]
    return {
        "parameters": sum(held.values()),
        "flops": sum(counted.values()),
        "groups": {g: {"parameters": held.get(g, 0), "flops": counted.get(g, 0)} for g in names},
    }


def flops(model: MultimodalModel, strategy: DecisionRule, batch: Batch) -> dict[str, int]:
    """group -> floating-point operations of one sample's prediction, decision rule included.

    Counts what torch's FlopCounterMode knows: matrix products, convolutions and attention, with a multiplication and an
    addition as two operations. Element-wise work (activations, normalisations, outer products) counts as zero.

    `encoder:<m>` is the encoder itself. Any other operation belongs to `head:<m>` or `extra:<name>` if it reads a
    parameter of that group, or a view of one, and otherwise to `head:shared`, including the coupling between stages and
    weights that were computed first. The groups add up to the total.

    Args:
        model: the model.
        strategy: the decision rule.
        batch: its first sample gives the shapes; all modalities count as present.
    """
    from torch.utils import flop_counter  # imports sympy and triton: not before the first step of a worker

    inputs = batch.map(lambda t: t[:1]).inputs
    counts = getattr(flop_counter, "_FlopCounterMode", None)
    with evaluating(model), _plain_kernels(), without_compiler(counts, _ByGroup):
        counted = {f"encoder:{m}": _count(lambda e=e, m=m: e(inputs[m])) for m, e in model.encoders.items()}  # type: ignore[misc]
        apart = {g: params for g, params in model.groups().items() if g not in (*counted, SHARED)}
        by_group = _ByGroup(apart)
        whole = _count(lambda: strategy.predict(model(inputs)).scores, by_group)
    rest = whole - sum(counted.values()) - sum(by_group.found.values())
    return {**counted, **by_group.found, SHARED: rest}


def _count(forward: Callable[[], Any], inside: _ByGroup | None = None) -> int:
    """The operations of a forward. inside: is told of each as it happens."""
    from torch.utils.flop_counter import FlopCounterMode

    counter = FlopCounterMode(display=False)
    counter.mod_tracker = _OneModule()  # type: ignore[assignment]
    with counter:
        if inside is None:
            forward()
        else:
            with inside.reading(counter):
                forward()
    return int(counter.get_total_flops())


class _OneModule:
    """Stands in for torch's module tracker, which hooks gradients into the inputs of every submodule and so fails on
    a view of a parameter (learned queries, a class token). No count by submodule is needed here."""

    parents = frozenset({"Global"})

    def __enter__(self) -> _OneModule:
        return self

    def __exit__(self, *error: object) -> None:
        pass


class _ByGroup(TorchDispatchMode):
    """Adds up, by group, the operations that read one of the group's parameters."""

    def __init__(self, groups: Mapping[str, Sequence[nn.Parameter]]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.found = dict.fromkeys(groups, 0)
        # A view, such as a transposed weight, shares the storage of its parameter.
        self._owner = {_storage(p): g for g, params in groups.items() for p in params if p.numel()}
        self._total: Callable[[], int] = lambda: 0

    @contextlib.contextmanager
    def reading(self, counter: FlopCounterMode) -> Iterator[None]:
        """Watch every operation in a block; the counter is around this mode, so that it has counted each by then."""
        self._total = counter.get_total_flops
        with self:
            yield

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        before = self._total()
        result = func(*args, **(kwargs or {}))
        if more := self._total() - before:
            owners = (self._owner.get(_storage(x)) for x in _tensors([args, kwargs or {}]))
            if group := next((g for g in owners if g is not None), None):
                self.found[group] += more
        return result


def _tensors(value: Any) -> Iterator[Tensor]:
    """Every tensor among the arguments of an operation."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, (list, tuple, Mapping)):
        for inner in value.values() if isinstance(value, Mapping) else value:
            yield from _tensors(inner)


def _storage(x: Tensor) -> int:
    return x.untyped_storage().data_ptr()


@contextlib.contextmanager
def _plain_kernels() -> Iterator[None]:
    """Attention and recurrent layers by single products: what a fused kernel does inside is not counted."""
    backends: Any = torch.backends
    switches = [(backends.mkldnn, "enabled"), (backends.cudnn, "enabled")]
    was = [getattr(*switch) for switch in switches]
    fast = backends.mha.get_fastpath_enabled()
    try:
        backends.mha.set_fastpath_enabled(False)
        for owner, name in switches:
            setattr(owner, name, False)
        with double_backward():
            yield
    finally:
        for (owner, name), value in zip(switches, was):
            setattr(owner, name, value)
        backends.mha.set_fastpath_enabled(fast)
