"""Tiny synthetic tasks, with models and runs that train in milliseconds."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextvars import ContextVar
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from mmzoo.core.encoder import Encoder
from mmzoo.core.head import FusionHead
from mmzoo.core.model import MultimodalModel
from mmzoo.core.seeding import seeded, stream
from mmzoo.core.values import Batch, Pass
from mmzoo.data.loading.datamodule import Loader
from mmzoo.heads.concat import Concat
from mmzoo.training.config import Training
from mmzoo.training.run import Run
from mmzoo.training.strategy import Strategy

NAMES = ("audio", "image", "text", "depth")
HIDDEN = 8
#: split -> number of items; 14 training items in batches of 5 are three batches, the last one smaller
SPLITS = {"train": 14, "slice": 8, "holdout": 7, "test": 7}

_PLACE: ContextVar[str] = ContextVar("place", default="cpu")

HeadBuilder = Callable[[Mapping[str, int], int], FusionHead]
EncoderBuilder = Callable[[int, int, bool, float], Encoder]


@contextlib.contextmanager
def placed(device: torch.device | str) -> Iterator[None]:
    """In a block, runs train on another device than the CPU, and a batch of all samples of a split lies there.

    Args:
        device: where.
    """
    before = _PLACE.set(str(device))
    try:
        yield
    finally:
        _PLACE.reset(before)


class TinyEncoder(Encoder):
    """Two small stages and a projection, with batch normalisation and dropout on request."""

    def __init__(self, n_in: int, width: int, norm: bool = False, dropout: float = 0.0) -> None:
        super().__init__()
        self.stages = nn.ModuleList(
            nn.Sequential(
                nn.Linear(n, HIDDEN), nn.BatchNorm1d(HIDDEN) if norm else nn.Identity(), nn.Tanh(), nn.Dropout(dropout)
            )
            for n in (n_in, HIDDEN)
        )
        self.project = nn.Linear(HIDDEN, width)
        self.out_dim = width
        self.n_stages = len(self.stages)
        self.stage_dims = (HIDDEN, HIDDEN)

    def begin(self, x: Tensor) -> Tensor:
        return x

    def run_stage(self, stage: int, state: Tensor) -> Tensor:
        done: Tensor = self.stages[stage](state)
        return done

    def finish(self, state: Tensor) -> Tensor:
        done: Tensor = self.project(state)
        return done


class CoupledConcat(Concat):
    """Concatenation whose encoders gate one another between their stages: for strategies that need stages."""

    couples = True

    def __init__(self, dims: Mapping[str, int], n_classes: int) -> None:
        super().__init__(dims, n_classes)
        self.gates = nn.ModuleDict({m: nn.Linear(HIDDEN, HIDDEN) for m in dims})

    def couple(
        self, stage: int, maps: Mapping[str, Tensor], present: Tensor | None, pass_: Pass, masks: Mapping[str, Tensor]
    ) -> Mapping[str, Tensor]:
        if not maps:
            return maps
        # Over all modalities, not those with a map: that depends on which other items are in the batch.
        parts = [x.detach() if m in pass_.freeze else x for m, x in maps.items()]
        squeezed = torch.stack(parts).sum(0) / len(self.gates)
        return {m: x * (1.0 + torch.tanh(self.gates[m](squeezed))) for m, x in maps.items()}


class Mixing(FusionHead):
    """A head whose modalities cannot be told apart afterwards: unimodal logits by ablation, not additive."""

    def __init__(self, dims: Mapping[str, int], n_classes: int) -> None:
        super().__init__(dims, n_classes)
        self.hidden = nn.Linear(sum(dims.values()), HIDDEN)
        self.out = nn.Linear(HIDDEN, n_classes)

    def fuse(self, features: Mapping[str, Tensor], present: Tensor | None) -> tuple[Tensor, dict[str, Any]]:
        return self.out(torch.tanh(self.hidden(torch.cat(list(features.values()), 1)))), {}


@dataclass(frozen=True)
class Task:
    """The samples of all splits of a tiny classification task.

    Args:
        inputs: split -> modality -> (n, width).
        target: split -> (n,).
        present: split -> (n, M) bool, or None.
        widths: modality -> feature width.
        n_classes: number of classes.
        dtype: dtype of the inputs.
        batch_size: samples per batch.
    """

    inputs: Mapping[str, Mapping[str, Tensor]]
    target: Mapping[str, Tensor]
    present: Mapping[str, Tensor | None]
    widths: Mapping[str, int]
    n_classes: int
    dtype: torch.dtype = torch.float32
    batch_size: int = 5

    @property
    def modalities(self) -> tuple[str, ...]:
        return tuple(self.widths)

    def loader(self, split: str) -> Loader:
        target = self.target[split]
        return Loader(
            self.inputs[split],
            target,
            torch.arange(len(target)),
            self.present[split],
            batch_size=self.batch_size,
        )

    def batch(self, split: str = "train") -> Batch:
        """All samples of a split as one batch."""
        target = self.target[split]
        return Batch(self.inputs[split], target, torch.arange(len(target)), self.present[split]).to(_PLACE.get())

    def reordered(self, modalities: Sequence[str]) -> Task:
        """The same samples with the modalities in another order."""
        columns = [self.modalities.index(m) for m in modalities]
        return replace(
            self,
            inputs={s: {m: x[m] for m in modalities} for s, x in self.inputs.items()},
            present={s: None if p is None else p[:, columns] for s, p in self.present.items()},
            widths={m: self.widths[m] for m in modalities},
        )

    def renamed(self, names: Mapping[str, str]) -> Task:
        """The same items with the modalities called otherwise, in the same order."""
        inputs = {s: {names[m]: v for m, v in x.items()} for s, x in self.inputs.items()}
        return replace(self, inputs=inputs, widths={names[m]: n for m, n in self.widths.items()})

    def with_train(
        self, *, inputs: Mapping[str, Tensor] | None = None, target: Tensor | None = None, present: Tensor | None = None
    ) -> Task:
        """The task with other training data.

        Args:
            inputs: modality -> tensor; None: as before.
            target: None: as before.
            present: None: as before.
        """
        new: dict[str, Any] = {}
        if inputs is not None:
            new["inputs"] = {**self.inputs, "train": {**self.inputs["train"], **inputs}}
        if target is not None:
            new["target"] = {**self.target, "train": target}
        if present is not None:
            new["present"] = {**self.present, "train": present}
        return replace(self, **new)


def make_task(
    modalities: int = 2,
    *,
    equal: bool = False,
    dtype: torch.dtype = torch.float32,
    n_classes: int = 3,
    batch_size: int = 5,
    seed: int = 0,
) -> Task:
    """A task whose first modality separates the classes best and whose last one hardly does.

    Every class occurs in every split.

    Args:
        modalities: number of modalities.
        equal: whether all features have the same width.
        dtype: dtype of the inputs.
        n_classes: number of classes.
        batch_size: samples per batch.
        seed: seed of the data.
    """
    g = stream(seed, "task", modalities)
    names = NAMES[:modalities]
    centres = {m: torch.randn(n_classes, 4 + i, generator=g, dtype=torch.float64) for i, m in enumerate(names)}
    inputs, target = {}, {}
    for split, n in SPLITS.items():
        target[split] = torch.arange(n).remainder(n_classes)[torch.randperm(n, generator=g)]
        inputs[split] = {
            m: (c[target[split]] * 1.5 / (i + 1) + torch.randn(n, c.shape[1], generator=g, dtype=c.dtype)).to(dtype)
            for i, (m, c) in enumerate(centres.items())
        }
    widths = {m: 5 if equal else 5 + i for i, m in enumerate(names)}
    return Task(inputs, target, dict.fromkeys(SPLITS), widths, n_classes, dtype, batch_size)


def random_present(task: Task, seed: int, share: float = 0.6) -> Tensor:
    """(n, M) bool for the training samples, each of which keeps at least one modality.

    Args:
        task: the task.
        seed: seed of the draw.
        share: probability of a modality to be present.
    """
    g = stream(seed, "present")
    n, m = len(task.target["train"]), len(task.modalities)
    present = torch.rand(n, m, generator=g) < share
    present[torch.arange(n), torch.randint(m, (n,), generator=g)] = True
    return present


def build_model(
    task: Task,
    head: HeadBuilder = Concat,
    encoder: EncoderBuilder = TinyEncoder,
    *,
    norm: bool = False,
    dropout: float = 0.0,
    seed: int = 0,
) -> MultimodalModel:
    """A model for a task. Each encoder has its own random stream, so that their order does not matter.

    Args:
        task: the task.
        head: (dims, n_classes) -> head.
        encoder: (input width, feature width, with batch statistics, dropout) -> encoder.
        norm: whether encoders have batch norm.
        dropout: dropout probability in the encoders.
        seed: seed of the initial weights.
    """
    encoders = {}
    for m, width in task.widths.items():
        with seeded(seed, "init", f"encoder:{m}"):
            encoders[m] = encoder(task.inputs["train"][m].shape[1], width, norm, dropout)
    with seeded(seed, "init", "head"):
        fused = head({m: e.out_dim for m, e in encoders.items()}, task.n_classes)
        model = MultimodalModel(encoders, fused)
    return model.to(task.dtype)


def build_run(
    task: Task,
    strategy: Strategy,
    model: MultimodalModel,
    *,
    slice: bool | None = None,
    state: Mapping[str, Any] | None = None,
    seed: int = 0,
    share: tuple[int, int] = (0, 1),
    **training: Any,
) -> Run:
    """A run with momentum and weight decay.

    Args:
        task: the task.
        strategy: the strategy.
        model: the model.
        slice: whether to pass a meta set; None: only if the strategy requires it.
        state: a checkpoint to resume from.
        seed: seed of the run.
        share: (rank, world size); see `Loader.shared`.
        training: fields of `Training`.
    """
    with_slice = "slice" in strategy.requires if slice is None else slice
    options = {"lr": 0.05, "momentum": 0.9, "weight_decay": 0.01, "batch_size": task.batch_size, "epochs": 4}
    return Run(
        model,
        strategy,
        train=task.loader("train").shared(*share),
        slice=task.loader("slice").shared(*share) if with_slice else None,
        training=Training(**{**options, **training}),
        seed=seed,
        device=_PLACE.get(),
        state=state,
    )


def train(run: Run, epochs: int = 2) -> dict[str, float]:
    """Train for some epochs. Returns the last value of everything that was logged."""
    logged: dict[str, float] = {}
    for _ in range(epochs):
        run.train_epoch()
        logged |= run.end_epoch()
    return logged


def edited(logged: Collection[str], groups: Collection[str]) -> bool:
    """Whether a strategy has deliberately replaced the weights of one of these groups."""
    return any(f"edit/{group}" in logged for group in groups)
