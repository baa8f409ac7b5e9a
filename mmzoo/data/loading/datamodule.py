"""A data set as the benchmark uses it, and the loader that reads it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from mmzoo.core.encoder import InputSpec
from mmzoo.core.values import Batch, batch_bounds, map_tensors
from mmzoo.data.loading.columns import Buffers, Column, Mapped, column
from mmzoo.data.loading.inputs import InputForm, Preparation
from mmzoo.data.loading.transforms import Draws, Transform
from mmzoo.errors import BadValue, unknown

#: a data set is copied to a GPU as a whole where it takes no more than this share of the memory that is free there
RESIDENT_SHARE = 0.4
#: in place of the label of a test sample while there is training
UNKNOWN = -1


@dataclass(frozen=True)
class DataModule:
    """A data set with fixed splits. Some fields are known for some data sets only.

    Args:
        name: name of the data set.
        inputs: modality -> tensor with one row per sample (or a mapping of such), or a column of a store.
        target: (N,) int64.
        n_classes: number of classes C.
        splits: train (without the meta set), slice (the meta set), holdout (validation) and test -> sorted row numbers.
        split_hash: identifies the assignment of samples to splits.
        recipe_hash: identifies the preparation of the inputs.
        metric: the metric that selects epochs.
        present: (N, M) bool; None if every sample has every modality.
        kinds: modality -> kind of its input (`InputSpec`); by default its number of axes decides.
        vocabulary: modality -> number of token ids, of texts.
        transforms: modality -> transform of its rows when they are read.
        bayes: modalities, joined by "+" in order -> Bayes accuracy, of synthetic data.
        notes: remarks that belong to every score on it.
        readers: modality -> converts a batch of its tokens to texts.
        ids: the name of each row.
        classes: the names of the classes in order.
        preparation: how rows of a table become its inputs.
        given_holdout: whether the validation split is a published one, whose samples are no training samples.
    """

    name: str
    inputs: Mapping[str, Any] = field(repr=False)
    target: Tensor = field(repr=False)
    n_classes: int
    splits: Mapping[str, Sequence[int]] = field(repr=False)
    split_hash: str
    recipe_hash: str
    metric: str = "acc"
    present: Tensor | None = field(default=None, repr=False)
    kinds: Mapping[str, str] = field(default_factory=dict)
    vocabulary: Mapping[str, int] = field(default_factory=dict)
    transforms: Mapping[str, Transform] = field(default_factory=dict, repr=False)
    bayes: Mapping[str, float] = field(default_factory=dict)
    notes: Sequence[str] = field(default=(), repr=False)
    readers: Mapping[str, Callable[[Mapping[str, Any]], list[str]]] = field(default_factory=dict, repr=False)
    ids: Sequence[str] = field(default=(), repr=False)
    classes: Sequence[str] = field(default=(), repr=False)
    preparation: Preparation | None = field(default=None, repr=False)
    given_holdout: bool = False

    @property
    def modalities(self) -> tuple[str, ...]:
        return tuple(self.inputs)

    @property
    def best(self) -> float | None:
        """The Bayes accuracy of the present modalities; None if unknown."""
        return self.bayes.get("+".join(self.modalities))

    def shape(self, modality: str) -> tuple[int, ...]:
        """The shape of one sample as the encoder receives it; of text that of its ids, of a series that of its values."""
        if modality in self.transforms:
            return self.transforms[modality].shape
        x = self.inputs[modality]
        return tuple((next(x[k] for k in ("ids", "values") if k in x) if isinstance(x, Mapping) else x).shape[1:])

    def spec(self, modality: str) -> InputSpec:
        """The `InputSpec` of a modality."""
        shape = self.shape(modality)
        kind = self.kinds.get(modality) or InputSpec.of(shape).kind
        return InputSpec(kind, shape, self.vocabulary.get(modality))

    @property
    def form(self) -> InputForm:
        """The inputs that a model trained on it takes."""
        return InputForm(
            self.name,
            {m: self.spec(m) for m in self.inputs},
            self.n_classes,
            tuple(self.classes),
            self.present is not None,
            self.preparation,
        )

    def unanswered(self) -> DataModule:
        """A copy for training: test labels are UNKNOWN, and rows have no names, which may contain the label."""
        target = self.target.clone()
        target[torch.as_tensor(list(self.splits["test"]), dtype=torch.int64)] = UNKNOWN
        return replace(self, target=target, ids=())

    def only(self, modalities: Sequence[str]) -> DataModule:
        """The same samples with some of the modalities, in the data set's order."""
        for m in modalities:
            if m not in self.inputs:
                raise unknown(f"modality of {self.name}", m, self.inputs)
        columns = [i for i, m in enumerate(self.inputs) if m in modalities]
        present = None if self.present is None else self.present[:, columns]
        return replace(self, inputs={m: x for m, x in self.inputs.items() if m in modalities}, present=present)

    def loader(self, *splits: str, batch_size: int, device: torch.device | str = "cpu") -> Loader:
        """A loader of the samples of the given splits, with access to no other rows.

        Args:
            splits: names of splits.
            batch_size: samples per batch.
            device: where rows of a store are transformed and batches are returned. On a GPU the stored rows are kept
                there if they fit (RESIDENT_SHARE), and otherwise prefetched; the results are the same.
        """
        for name in splits:
            if name not in self.splits:
                raise unknown(f"split of {self.name}", name, self.splits)
        rows = torch.tensor(sorted(r for name in splits for r in self.splits[name]), dtype=torch.int64)
        inputs = {m: column(x).select(rows) for m, x in self.inputs.items()}
        if _fits(inputs, torch.device(device)):
            inputs = {m: x.on(torch.device(device)) if isinstance(x, Mapped) else x for m, x in inputs.items()}
        present = None if self.present is None else self.present[rows]
        transforms = {m: t for m, t in self.transforms.items() if m in inputs}
        return Loader(
            inputs, self.target[rows], rows, present, batch_size=batch_size, transforms=transforms, device=device
        )


class Loader:
    """Batches gathered from columns. A last batch of one sample joins the one before: it has no batch statistics.

    Args:
        inputs: modality -> tensor, mapping of tensors, or Column, each with one row per sample.
        target: (n,) int64.
        index: (n,) int64, the rows' numbers in the data set.
        present: (n, M) bool; None if every sample has every modality.
        batch_size: samples per batch.
        order_by: (n,), with the generator determines the order; default: `index`. Loaders that differ by some rows show
            their common rows in the same order.
        transforms: modality -> transform of its rows, on `device`; random if a generator is given.
        device: device of the batches.
        share: (rank, world size); see `shared`.
        ordered: keep the stored order even with a generator.
    """

    def __init__(
        self,
        inputs: Mapping[str, Any],
        target: Tensor,
        index: Tensor,
        present: Tensor | None = None,
        *,
        batch_size: int,
        order_by: Tensor | None = None,
        transforms: Mapping[str, Transform] | None = None,
        device: torch.device | str = "cpu",
        share: tuple[int, int] = (0, 1),
        ordered: bool = False,
    ) -> None:
        if batch_size < 1:
            raise BadValue(f"batch_size must be at least 1, not {batch_size}.")
        self._columns: dict[str, Column] = {m: column(x) for m, x in inputs.items()}
        self._target, self._index, self._present = target, index, present
        self._batch_size = batch_size
        self._order_by = index if order_by is None else order_by
        self._transforms, self._device = transforms or {}, torch.device(device)
        self._spare: list[Buffers] = []
        self._share, self._ordered = share, ordered

    def __len__(self) -> int:
        return len(self._whole_bounds())

    @property
    def n_items(self) -> int:
        return len(self._target)

    @property
    def n_seen(self) -> int:
        """The number of samples with at least one modality."""
        return self.n_items if self._present is None else int(self._present.any(1).sum())

    @property
    def index(self) -> Tensor:
        return self._index

    def order(self, generator: torch.Generator) -> Tensor:
        """The row numbers in the order of `batches(generator)`, without reading data."""
        self._key(generator)
        return self._index[self._order(generator)]

    def batches(self, generator: torch.Generator | None = None) -> Iterator[Batch]:
        """All samples once: as stored, or in the order and with the augmentation that `generator` draws."""
        key = None if generator is None else self._key(generator)
        order = None if generator is None else self._order(generator)
        number, of = self._share
        pieces = [
            torch.arange(a, b)[number::of] if order is None else order[a:b][number::of] for a, b in self._whole_bounds()
        ]
        buffers = self._spare.pop() if self._spare else Buffers()  # two epochs at once have buffers of their own
        try:
            for rows, raw in self._read(pieces, buffers):
                batch = self._made(rows, raw, key)
                buffers.give_up(batch.inputs)
                yield batch
        finally:
            self._spare[:] = [buffers]

    def shared(self, number: int, of: int) -> Loader:
        """The share of a process in training: every `of`-th sample of each batch of a single process, from `number` on.

        All processes hold equally many samples of a batch, so that the mean of their means is that of the batch.
        Leftover samples (`n_left_out`) are skipped, and so is a last batch with fewer than two samples per process.
        """
        return Loader(
            self._columns,
            self._target,
            self._index,
            self._present,
            batch_size=self._batch_size,
            order_by=self._order_by,
            transforms=self._transforms,
            device=self._device,
            share=(number, of),
            ordered=self._ordered,
        )

    def part(self, number: int, of: int) -> Loader:
        """The share of a process in evaluation: every `of`-th sample from `number` on. Raises BadValue for too few."""
        if of == 1:
            return self
        if self.n_items < of:
            raise BadValue(f"{self.n_items} samples cannot be shared among {of} processes: start fewer.")
        rows = torch.arange(number, self.n_items, of)
        return Loader(
            {m: x.select(rows) for m, x in self._columns.items()},
            self._target[rows],
            self._index[rows],
            None if self._present is None else self._present[rows],
            batch_size=self._batch_size,
            order_by=self._order_by[rows],
            transforms=self._transforms,
            device=self._device,
        )

    @property
    def n_left_out(self) -> int:
        """The number of samples that an epoch skips because they cannot be shared equally among processes."""
        return self.n_items - sum(b - a for a, b in self._whole_bounds())

    def sampled(self, rows: Tensor, drop: Tensor | None = None, ordered: bool = False) -> Loader:
        """The loader over other `rows`; `drop` and `ordered` as for `Run.set_sampling`."""
        own = rows if rows.ndim == 2 else rows[:, None].expand(-1, len(self._columns))
        inputs = {m: x.select(own[:, i]) for i, (m, x) in enumerate(self._columns.items())}
        present = None if self._present is None else self._present.gather(0, own)
        if drop is not None:
            present = ~drop if present is None else present & ~drop
        first = own[:, 0]
        return Loader(
            inputs,
            self._target[first],
            self._index[first],
            present,
            batch_size=self._batch_size,
            order_by=torch.arange(len(rows)),  # a row may occur twice, and the order must tell the copies apart
            transforms=self._transforms,
            device=self._device,
            share=self._share,
            ordered=ordered,
        )

    # ------------------------------------------------------------------ reading
    def _read(self, pieces: Sequence[Tensor], buffers: Buffers) -> Iterator[tuple[Tensor, dict[str, Any]]]:
        """Each piece of positions with its stored rows, which may lie in the buffers. On the way to a GPU, those of the next
        batch are fetched meanwhile, each into memory of its own."""
        if self._device.type == "cpu" or not any(isinstance(c, Mapped) for c in self._columns.values()):
            for rows in pieces:
                yield rows, self._rows(rows, buffers)
            return
        with ThreadPoolExecutor(1) as pool:
            ahead: Future[dict[str, Any]] | None = None
            for rows, following in zip(pieces, [*pieces[1:], None]):
                raw = self._rows(rows) if ahead is None else ahead.result()
                ahead = None if following is None else pool.submit(self._rows, following)
                yield rows, raw

    def _rows(self, rows: Tensor, buffers: Buffers | None = None) -> dict[str, Any]:
        pinned = self._device.type == "cuda"
        return {
            m: c.take(rows, pinned=pinned, buffers=buffers) if isinstance(c, Mapped) else c.take(rows)
            for m, c in self._columns.items()
        }

    def _made(self, rows: Tensor, raw: Mapping[str, Any], key: int | None) -> Batch:
        draws = None if key is None else Draws(key, self._order_by[rows].numpy())
        inputs = {}
        for m, x in raw.items():
            if m in self._transforms:
                x = map_tensors(x, lambda t: t.to(self._device, non_blocking=True))
                x = self._transforms[m](x, draws)
            inputs[m] = x
        present = None if self._present is None else self._present[rows]
        return Batch(inputs, self._target[rows], self._index[rows], present)

    def _key(self, generator: torch.Generator) -> int | None:
        """The key of an epoch's augmentation, drawn first so that it does not depend on which rows there are. Nothing is
        drawn where nothing is augmented."""
        if not self._transforms:
            return None
        return int(torch.randint(2**62, (), generator=generator))

    def _order(self, generator: torch.Generator) -> Tensor:
        """Sort by a key drawn for each row number, so that leaving rows out does not reorder the rest; as they stand where
        they are ordered."""
        if self._ordered:
            return torch.arange(self.n_items)
        keys = torch.rand(int(self._order_by.max()) + 1, generator=generator, dtype=torch.float64)
        return keys[self._order_by].argsort(stable=True)

    def _whole_bounds(self) -> list[tuple[int, int]]:
        """Where the batches of all processes together begin and end."""
        of, bounds = self._share[1], batch_bounds(self.n_items, self._batch_size)
        if of == 1:
            return bounds
        return [(a, b - (b - a) % of) for a, b in bounds if b - a >= 2 * of]


def _fits(inputs: Mapping[str, Column], device: torch.device) -> bool:
    """Whether the stored rows of a data set may lie on the device as a whole."""
    mapped = [x for x in inputs.values() if isinstance(x, Mapped)]
    if device.type != "cuda" or not mapped:
        return False
    missing = sum(x.n_bytes for x in mapped if not x.is_on(device))
    return missing <= RESIDENT_SHARE * torch.cuda.mem_get_info(device)[0]
