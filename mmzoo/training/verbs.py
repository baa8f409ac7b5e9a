"""What the hooks of a strategy may do with a run: read its data, forward, backward, and change groups of weights."""

from __future__ import annotations

import enum
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from operator import itemgetter
from typing import Any, Literal

import torch
from torch import Tensor, nn

from mmzoo.core import distributed
from mmzoo.core.model import MultimodalModel
from mmzoo.core.modes import aside, evaluating
from mmzoo.core.seeding import seeded, stream
from mmzoo.core.values import Batch, Outputs, Pass, batch_bounds, map_tensors
from mmzoo.errors import BadValue, Incompatible, unknown
from mmzoo.training.backprop import Backprop, Cost
from mmzoo.training.batches import Batches
from mmzoo.training.config import Training
from mmzoo.training.optim import Optimization
from mmzoo.training.strategy import Strategy
from mmzoo.training.weights import Weights


class Phase(enum.Enum):
    """The life cycle of a run. In SETUP there is no optimizer yet; in ENDED no epoch remains."""

    SETUP = "setup"
    BETWEEN_EPOCHS = "between epochs"
    IN_EPOCH = "in an epoch"
    ENDED = "ended"


class Verbs:
    """The part of a `Run` that strategies call. `Run` sets the attributes and contains the loop."""

    model: MultimodalModel
    strategy: Strategy
    training: Training
    seed: int
    device: torch.device
    epoch: int
    global_step: int
    stopped: bool
    cost: Cost
    warnings: dict[str, int]
    _phase: Phase
    _forked: bool
    _train: Batches
    _meta: Batches | None
    _sampling: tuple[Tensor, Tensor | None, bool] | None
    _lr_scale: dict[str, float]
    _logged: dict[str, list[Any]]
    _backprop: Backprop
    _optimization: Optimization

    # ------------------------------------------------------------------ facts
    @property
    def modalities(self) -> tuple[str, ...]:
        """The names of the modalities, in order."""
        return self.model.modalities

    @property
    def n_classes(self) -> int:
        """The number of classes C."""
        return self.model.head.n_classes

    @property
    def n_processes(self) -> int:
        """The number of processes that train this run together."""
        return distributed.world_size()

    @property
    def optimizer(self) -> torch.optim.Optimizer:
        """The optimizer; does not exist in `setup`."""
        return self._optimization.optimizer

    def train(self, name: str = "strategy", *, shuffled: bool = True) -> Iterator[Batch]:
        """The training batches, in an order separate from the one that training uses. Resampling does not affect them.

        Args:
            name: names the order.
            shuffled: False for stored order without augmentation, in which the n-th sample is row n of `set_sampling`.
        """
        order = stream(self.seed, "train", name, self.epoch) if shuffled else None
        for batch in self._train.batches(order):
            yield batch.to(self.device)

    def meta_batches(self, name: str = "strategy") -> Iterator[Batch]:
        """The batches of the meta set: labelled samples that the strategy may learn from and training does not see.

        They are shuffled for each epoch and `name`: data is often stored by class, so that the first batches in stored
        order would contain few classes.

        Args:
            name: names the order.

        Raises:
            Incompatible: the run has no meta set.
        """
        if self._meta is None:
            raise Incompatible(
                f"{type(self.strategy).__name__} needs a meta set. "
                "Give Run(slice=...), or name 'slice' in `requires` for the bench to do so."
            )
        for batch in self._meta.batches(stream(self.seed, "slice", name, self.epoch)):
            yield batch.to(self.device)

    def strategy_holdout(self, name: str = "strategy") -> Iterator[Batch]:
        """Deprecated name of `meta_batches`; removed in 0.3."""
        warnings.warn("Run.strategy_holdout is now Run.meta_batches.", DeprecationWarning, stacklevel=2)
        return self.meta_batches(name)

    def generator(self, name: str) -> torch.Generator:
        """A random stream fixed by (seed, name, epoch), for hooks around an epoch."""
        return stream(self.seed, "epoch", name, self.epoch)

    # ------------------------------------------------------------------ passes over the model
    def log(self, name: str, value: Tensor | float) -> None:
        """Record a value; its mean over the epoch enters the run's record. A tensor is not synchronised before that.

        Args:
            name: name of the record, e.g. "ogm/audio".
            value: a number or a 0-dimensional tensor.
        """
        self._logged.setdefault(name, []).append(value.detach() if isinstance(value, Tensor) else float(value))

    def forward(
        self,
        batch: Batch,
        *,
        present: Iterable[str] | None = None,
        zero: Iterable[str] = (),
        mode: Literal["train", "eval"],
    ) -> Outputs:
        """A forward without hooks; batch statistics and random state are restored afterwards.

        Args:
            batch: the batch.
            present: the modalities that are fed; None: all.
            zero: the modalities whose input is replaced by zeros.
            mode: "train" or "eval", the mode of all modules.
        """
        inputs = dict(batch.inputs)
        for m in zero:
            inputs[m] = map_tensors(inputs[m], torch.zeros_like)
        pass_ = Pass("probe", present=None if present is None else frozenset(present))
        self.cost.forward += self._backprop.share(pass_)
        with seeded(self.seed, "forward", self.global_step), aside(self.model, training=mode == "train"):
            feats = self.model.encode(inputs, pass_, batch.present)
            return self.model.outputs(feats, batch.present)

    def coalitions(
        self, batch: Batch, sets: Iterable[Iterable[str]], *, present: Iterable[str] | None = None
    ) -> dict[frozenset[str], Outputs]:
        """The outputs for sets of modalities, with the inputs of all others set to zero, in eval mode.

        With most heads this takes one forward for any number of sets: each encoder runs once, over the batch and one
        sample of zeros, and the head runs once per set. A head that acts between stages takes one forward per set.

        Args:
            batch: the batch.
            sets: the sets of modalities.
            present: the modalities that are fed; None: all.

        Returns:
            set -> outputs.
        """
        pass_ = Pass("probe", present=None if present is None else frozenset(present))
        fed, wanted = pass_.fed(self.modalities), [frozenset(s) for s in sets]
        for m in frozenset().union(*wanted) - set(fed):
            raise unknown("modality that is fed", m, fed)
        if self.model.head.couples:
            return {
                s: self.forward(batch, present=fed, zero=[m for m in fed if m not in s], mode="eval") for s in wanted
            }
        self.cost.forward += self._backprop.share(pass_)
        with seeded(self.seed, "forward", self.global_step), aside(self.model, training=False):
            real, blank = self.model.encode_blanked(batch.inputs, pass_, batch.present)
            chosen = {s: {m: real[m] if m in s else blank[m] for m in fed} for s in wanted}
            return {s: self.model.outputs(feats, batch.present) for s, feats in chosen.items()}

    def backward(self, loss: Tensor) -> None:
        """Accumulate the gradients of a scalar `loss`. Hooks must use this and never call `loss.backward()`."""
        self._backprop.backward(loss)

    def term_grads(self, terms: Mapping[str, Tensor]) -> dict[str, dict[str, list[Tensor | None]]]:
        """term -> group -> gradient of each parameter of the group (None without one), averaged over processes."""
        return self._backprop.term_grads(terms)

    def collect(self, read: Callable[[Outputs], Mapping[str, Tensor]]) -> dict[str, Tensor]:
        """Values computed from the outputs for every labelled sample, the meta set included; for `finish`.

        Runs in eval mode without augmentation and without a graph. Resampling has no effect. The cost is counted.

        Args:
            read: outputs of a batch -> name -> (B, ...), the values wanted.

        Returns:
            name -> (N, ...), with `target` (N,) and `index` (N,): one row per sample of all processes, sorted by index.
        """
        pieces: list[dict[str, Tensor]] = []
        with evaluating(self.model), seeded(self.seed, "collect", self.global_step):
            for batch in self._every_labelled():
                for start, end in batch_bounds(len(batch), self.training.micro_batch or len(batch)):
                    piece = batch.map(itemgetter(slice(start, end))).to(self.device)
                    out = self.model(piece.inputs, piece.present)
                    pieces.append({"index": piece.index, "target": piece.target, **read(out)})
                self.cost.forward += 1
        whole = distributed.gather_rows({name: torch.cat([p[name] for p in pieces]) for name in pieces[0]})
        order = whole["index"].argsort(stable=True)
        return {name: t[order] for name, t in whole.items()}

    def _every_labelled(self) -> Iterator[Batch]:
        """This process's part of the training samples and of the meta set, in stored order; no sample is left out."""
        for source in (self._train, self._meta):
            if source is not None:
                yield from (source.part(*distributed.share()) if self.n_processes > 1 else source).batches()

    def warn(self, message: str) -> None:
        """Add a warning to the results of this run; a repeated message is counted."""
        self.warnings[message] = self.warnings.get(message, 0) + 1

    def reduce(self, x: Tensor) -> Tensor:
        """The mean of `x` over processes, for scores that steer training.

        Means over samples are `Step.mean` and `Step.loss`.
        """
        return distributed.mean(x)

    def gather(self, x: Tensor) -> Tensor:
        """The rows of all processes, by rank, for losses that compare the samples of a batch.

        Every process must pass equally many rows: pass whole batches together with a mask of the rows that count.
        Gradients return to the rank of each row, so that parameter gradients averaged over processes are those of the
        loss on the whole batch.

        Args:
            x: (B, ...).

        Returns:
            (world size * B, ...).
        """
        return distributed.gather(x)

    # ------------------------------------------------------------------ weights and data
    def add_module(self, name: str, build: Callable[[], nn.Module]) -> nn.Module:
        """Build a module under a random stream of its own and add it as group `extra:<name>`.

        If the optimizer exists already, the new parameters join it. A fork reuses the module of the copied model.

        Args:
            name: name of the module.
            build: returns the module.

        Raises:
            BadValue: the name is taken.
        """
        if self._forked and name in self.model.extra:
            return self.model.extra[name]
        if name in self.model.extra:
            raise BadValue(f"there is already an extra module {name!r}.")
        with seeded(self.seed, "init", "extra", name):
            module = build().to(self.device, next(self.model.parameters()).dtype)
        self.model.extra[name] = module
        if self._phase is not Phase.SETUP:
            self._optimization.add(f"extra:{name}", list(module.parameters()))
        return module

    def reset_optimizer(self, groups: Iterable[str]) -> None:
        """Clear the optimizer state (momentum, moments) of the named groups."""
        for name in groups:
            for p in self._weights().params(name):
                self.optimizer.state.pop(p, None)

    def snapshot(self, group: str, *, optimizer: bool = False) -> dict[str, Any]:
        """A copy of a group's parameters and, for an encoder or an extra module, of its buffers.

        Args:
            group: name of the group.
            optimizer: include the optimizer state of these parameters, under "optimizer".
        """
        return self._weights().snapshot(group, optimizer=optimizer)

    def restore(self, group: str, snapshot: Mapping[str, Any]) -> None:
        """Restore a `snapshot` of a `group`, with the optimizer state if the snapshot contains it."""
        self._weights().restore(group, snapshot)
        self.log(f"edit/{group}", 1.0)

    def edit(self, group: str, fn: Callable[[str, Tensor], Tensor]) -> None:
        """Replace each parameter of a `group` by `fn`(name, value)."""
        self._weights().edit(group, fn)
        self.log(f"edit/{group}", 1.0)

    def set_lr_scale(self, group: str, factor: float) -> None:
        """Multiply the scheduled learning rate of a `group` by `factor` from now on."""
        self._weights().params(group)
        self._lr_scale[group] = float(factor)

    def set_sampling(self, rows: Tensor | None, drop: Tensor | None = None, *, ordered: bool = False) -> None:
        """Train on other rows from the next epoch on; None restores the original data.

        Args:
            rows: (n,) or (n, M) int64, positions in the training set; in the second form one per modality, and the
                label is that of the first column.
            drop: (n, M) bool, modalities to treat as absent.
            ordered: whether batches follow `rows` as given, e.g. for a curriculum; otherwise they are shuffled.
        """
        self._sampling = None if rows is None else (rows.cpu(), None if drop is None else drop.cpu(), ordered)

    def stop(self) -> None:
        """End training after this epoch. In `setup`: before the first one; the model is then scored as it is."""
        self.stopped = True

    def _weights(self) -> Weights:
        return Weights(self.model, None if self._phase is Phase.SETUP else self.optimizer.state)
