"""The batches of your own loader, converted to mmzoo's."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from mmzoo.core.seeding import seeded
from mmzoo.core.values import Batch
from mmzoo.errors import BadValue, Incompatible
from mmzoo.training.batches import Batches

#: what a mapping may call its labels
LABELS = ("labels", "label", "target", "targets", "y")
#: how a user's batch becomes (inputs by modality, labels)
Read = Callable[[Any], tuple[Mapping[str, Any], Tensor]]


def read_batch(given: Any, modalities: tuple[str, ...], read: Read | None = None) -> Batch:
    """Convert a batch to mmzoo's `Batch`.

    Args:
        given: a `Batch`; a mapping with each modality and its labels; a tuple of the inputs in the order of the
            modalities and the labels; or (mapping of inputs, labels).
        modalities: those of the model, in order.
        read: returns (inputs by modality, labels) of a batch of any other kind.

    Raises:
        BadValue: the batch is none of these.
    """
    if isinstance(given, Batch):
        return given
    if read is not None:
        given = read(given)
    inputs, target = _parted(given, modalities)
    if missing := [m for m in modalities if m not in inputs]:
        raise BadValue(f"the batch lacks {', '.join(missing)}; it holds {', '.join(map(str, inputs))}.")
    if not isinstance(target, Tensor) or target.ndim != 1:
        raise BadValue("the labels of a batch must be a tensor (B,) of class indices.")
    return Batch({m: inputs[m] for m in modalities}, target, torch.arange(len(target), device=target.device))


def _parted(given: Any, modalities: tuple[str, ...]) -> tuple[Mapping[str, Any], Any]:
    if isinstance(given, Mapping):
        label = next((k for k in LABELS if k in given), None)
        if label is not None:
            return given, given[label]
    elif isinstance(given, (tuple, list)):
        if len(given) == 2 and isinstance(given[0], Mapping):
            return given[0], given[1]
        if len(given) == len(modalities) + 1:
            return dict(zip(modalities, given)), given[-1]
    kind = f"{type(given).__name__} of {len(given)}" if hasattr(given, "__len__") else type(given).__name__
    raise BadValue(
        f"a batch is a {kind}. Write a mapping with {', '.join(modalities)} and labels, a tuple of {len(modalities)} inputs "
        "and the labels, or give attach(read=lambda batch: (inputs, labels))."
    )


class UserBatches:
    """A loader from outside mmzoo. Strategies that read the training data leave the global generator unchanged.

    Args:
        source: the loader.
        read: converts its batches.
    """

    def __init__(self, source: Iterable[Any], read: Callable[[Any], Batch]) -> None:
        self._source, self._read = source, read

    def __len__(self) -> int:
        try:
            return len(self._source)  # type: ignore[arg-type]
        except TypeError:
            raise BadValue("give a loader or a list of batches, whose length is known, not an iterator.") from None

    def batches(self, generator: torch.Generator | None = None) -> Iterator[Batch]:
        """All batches once. The seed of `generator` determines what the loader draws."""
        seed = 0 if generator is None else generator.initial_seed()
        source: Iterator[Any] | None = None
        for i in range(len(self)):
            with seeded(seed, "batches", i):
                source = iter(self._source) if source is None else source
                try:
                    given = next(source)
                except StopIteration:
                    return
            yield self._read(given)

    def part(self, number: int, of: int) -> Batches:
        raise Incompatible("attach trains in one process.")

    def sampled(self, rows: Tensor, drop: Tensor | None, ordered: bool = False) -> Batches:
        raise Incompatible("the loop draws its own samples; a strategy cannot resample them.")
