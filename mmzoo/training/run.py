"""The run: the training of one model under one strategy, epoch by epoch."""

from __future__ import annotations

import contextlib
import copy
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, TypedDict, Unpack

import torch
import torch.nn.functional as F
from torch import Tensor

from mmzoo.core import distributed
from mmzoo.core.model import MultimodalModel
from mmzoo.core.modes import double_backward
from mmzoo.core.precision import compile_encoders
from mmzoo.core.seeding import seeded, stream
from mmzoo.core.values import Batch, Lazy, Outputs, Pass, batch_bounds
from mmzoo.errors import BadValue, Diverged, Incompatible
from mmzoo.evaluation.scores import evaluate
from mmzoo.training.backprop import Backprop, Cost
from mmzoo.training.batches import Batches, as_batches
from mmzoo.training.compatibility import check_engine, check_requirements
from mmzoo.training.config import Training
from mmzoo.training.optim import Builder, Optimization
from mmzoo.training.passes import Parts, train_pass
from mmzoo.training.step import Step
from mmzoo.training.strategy import Strategy
from mmzoo.training.teachers import OneModality, Teachers, one_modality
from mmzoo.training.verbs import Phase, Verbs
from mmzoo.training.weights import on_device

Criterion = Callable[[Tensor, Tensor], Tensor]


class RunOptions(TypedDict, total=False):
    """Further keyword arguments of `Run`."""

    optimizer: Builder | None
    criterion: Criterion
    teachers: Mapping[str, MultimodalModel] | None
    state: Mapping[str, Any] | None
    _forked_from: Run | None


class Run(Verbs):
    """The training of one model under one strategy. It has no access to the validation and the test set.

    Args:
        model: the model; moved to `device` and trained in place.
        strategy: the method.
        train: the training batches.
        slice: the meta set: labelled batches, separate from `train`, that a strategy may learn from.
        training: optimizer, schedule, epochs and other settings; None: the defaults.
        seed: determines every random number of the training.
        device: where to train.
        optimizer: builds the optimizer from parameter groups; default: the one that `training` names.
        criterion: (logits, target) -> the mean loss; default: cross-entropy.
        teachers: modality -> trained model of it, returned in copy by `teacher`. Missing ones are trained if the
            strategy requires them.
        state: a checkpoint made by `state_dict`, from which the run resumes.

    Attributes:
        epoch, n_epochs: the current epoch, counted from 0, and their number, from which a strategy computes a schedule.
        batch_in_epoch, global_step: number of steps done in this epoch, of `steps_per_epoch`, and in all.
        training: the settings of the training (`training.epochs`, `training.lr`, `training.batch_size` ...).
        stopped, cost: whether training ends early; the forwards and backwards so far.

    Raises:
        Incompatible: the strategy requires something that is missing.
    """

    def __init__(
        self,
        model: MultimodalModel,
        strategy: Strategy,
        *,
        train: Batches | Iterable[Batch],
        slice: Batches | Iterable[Batch] | None = None,
        training: Training | None = None,
        seed: int = 0,
        device: torch.device | str = "cpu",
        **options: Unpack[RunOptions],
    ) -> None:
        if wrong := set(options) - set(RunOptions.__annotations__):
            raise TypeError(f"Run() got an unexpected keyword argument {min(wrong)!r}")
        parent = options.get("_forked_from")
        self._phase = Phase.SETUP
        self.model = model.to(device)
        self.strategy = strategy
        self.training = Training() if training is None else training
        self.seed = seed
        self.device = torch.device(device)
        self.criterion = options.get("criterion", F.cross_entropy)
        self.n_epochs = self.training.epochs
        self.epoch = self.global_step = self.batch_in_epoch = 0
        self.stopped = False
        self.cost = Cost() if parent is None else parent.cost
        self.warnings = {}
        self._forked = parent is not None
        self._build = options.get("optimizer")
        self._train = as_batches(train)
        self._meta = None if slice is None else as_batches(slice)
        self._sampling, self._lr_scale, self._logged = None, {}, {}
        self._prepare()
        self._backprop = Backprop(self.model, self.cost, self.training.micro_batch)
        self._teachers = self._given_teachers(options.get("teachers") or {}, parent)
        self._set_up(options.get("state"))

    def _prepare(self) -> None:
        """Check that all fits together, put the precision on the model and compile its encoders where asked for."""
        name, n = type(self.strategy).__name__, self.n_processes
        check_requirements(name, self.strategy, self.model, has_meta_set=self._meta is not None, processes=n)
        check_engine(name, self.strategy, self.model, self.training, str(self.device))
        self.model.precision = self.training.precision
        if self.training.compile and not self._forked:
            compile_encoders(self.model)

    def _given_teachers(self, given: Mapping[str, MultimodalModel], parent: Run | None) -> Teachers:
        wanted = "teachers" in self.strategy.requires and parent is None
        own = Teachers(self.model, given, wanted=wanted)
        return own if parent is None else parent._teachers

    def _set_up(self, state: Mapping[str, Any] | None) -> None:
        """The strategy's setup, then the optimizer; from here on there is a step to take."""
        if state is not None:
            self.strategy.load_state_dict(on_device(state["strategy"], self.device))
            self._teachers.load(self, state["teachers"] if "teachers" in state else self._teachers.state_dict())
        self.strategy.setup(self)
        self._optimization = self._optimize()
        self._parts = Parts(self.model, self._backprop, self._optimization)
        self._phase = Phase.BETWEEN_EPOCHS
        if state is not None:
            self._load(state)

    def _optimize(self) -> Optimization:
        """The updates of this run."""
        steps = self.steps_per_epoch
        return Optimization(
            self.model, self.strategy, self.training, build=self._build, steps_per_epoch=steps, scales=self._lr_scale
        )

    # ------------------------------------------------------------------ facts
    @property
    def phase(self) -> Phase:
        """The state of the run in its life cycle."""
        over = self.stopped or self.epoch >= self.n_epochs
        return Phase.ENDED if over and self._phase is Phase.BETWEEN_EPOCHS else self._phase

    @property
    def forked(self) -> bool:
        """Whether this run is a fork. A fork cannot fork again."""
        return self._forked

    @property
    def steps_per_epoch(self) -> int:
        """The number of batches in an epoch."""
        return len(self._train)

    # ------------------------------------------------------------------ the loop
    def start_epoch(self) -> None:
        """Begin an epoch: call before its first `step`."""
        self._phase = Phase.IN_EPOCH
        self.model.train()
        self.batch_in_epoch = 0
        self._logged = {}
        self.strategy.epoch_start(self)
        self._optimization.refresh()

    def epoch_batches(self) -> Iterator[Batch]:
        """The training batches of this epoch, in an order determined by the seed."""
        train = self._train if self._sampling is None else self._train.sampled(*self._sampling)
        yield from train.batches(stream(self.seed, "order", self.epoch))

    def train_epoch(self) -> None:
        """Train one epoch and average the buffers over processes. Evaluate, then call `end_epoch`."""
        self.start_epoch()
        for batch in self.epoch_batches():
            self.step(batch)
        distributed.average_buffers(self.model)

    def step(self, batch: Batch) -> None:
        """Train on one batch, in every pass that the strategy plans."""
        if batch.present is not None and tuple(batch.inputs) != self.modalities:
            raise BadValue(
                f"the batch has the modalities {', '.join(batch.inputs)}, the model {', '.join(self.modalities)}: with "
                "`present` their order must be the same."
            )
        batch = batch.to(self.device)
        step = Step(self, batch)
        # Fused attention has no second derivative; a strategy that takes one of a step says so.
        twice = "double_backward" in self.strategy.requires
        for pass_ in self.strategy.plan(step, [Pass()]):
            with (
                double_backward() if twice else contextlib.nullcontext(),
                seeded(self.seed, "noise", self.global_step, pass_.name),
            ):
                train_pass(self._parts, self.strategy, step.at(pass_))
        self.global_step += 1
        self.batch_in_epoch += 1

    def end_epoch(self, loss: float | None = None) -> dict[str, float]:
        """End an epoch. Returns the mean of every logged value over the epoch and over processes.

        Args:
            loss: the loss that the schedule "plateau" watches.
        """
        self.strategy.epoch_end(self, Lazy(self._meta_metrics) if self._meta is not None else {})
        self._optimization.schedule.epoch_done(loss)
        self.epoch += 1
        self._phase = Phase.BETWEEN_EPOCHS
        return distributed.mean_values({name: _mean(values) for name, values in self._logged.items()})

    def _meta_metrics(self) -> dict[str, Any]:
        """The scores on the meta set of all processes; computed when a hook reads them, as they cost forwards."""
        batches = list(self.meta_batches("metrics"))
        self.cost.forward += len(batches)
        return evaluate(self.model, self.strategy, batches, pooled=self.n_processes > 1)

    def training_loss(self) -> float:
        """The sum of the mean losses logged in this epoch so far, over processes."""
        losses = {name: _mean(values) for name, values in self._logged.items() if name.startswith("loss/")}
        return math.fsum(distributed.mean_values(losses).values())

    def finite(self) -> bool:
        """Whether every value logged in this epoch is finite."""
        return all(math.isfinite(_mean(values)) for values in self._logged.values())

    # ------------------------------------------------------------------ teachers and forks
    def teacher(self, modality: str) -> MultimodalModel:
        """The teacher of a modality: a trained unimodal model, frozen, in eval mode, on the run's device.

        Unless it was given to Run(teachers=...), it is trained on first use: the initial encoder under a linear
        classifier of its own, with the same batches, seed, budget and optimizer, to the last epoch. Its cost counts as
        this run's. Teachers are not part of the model.

        Raises:
            Incompatible: none was given, and the strategy does not name 'teachers' in `requires`.
        """
        return self._teachers.get(self, modality, self._train_alone)

    @torch.no_grad()
    def teacher_outputs(self, modality: str, batch: Batch) -> Outputs:
        """Outputs of the teacher of `modality` for a `batch`, without a graph; in micro-batches as in training."""
        teacher = self.teacher(modality)
        batch = one_modality(batch, modality, self.modalities.index(modality))
        self.cost.forward += 1 / len(self.modalities)
        size = self.training.micro_batch or len(batch)
        pieces = [batch.map(lambda t, s=slice(*b): t[s]) for b in batch_bounds(len(batch), size)]  # type: ignore[misc]
        with seeded(self.seed, "teacher", self.global_step, modality):
            features = torch.cat([teacher.encode(p.inputs, present=p.present)[modality] for p in pieces])
            return teacher.outputs({modality: features}, batch.present)

    def _train_alone(self, modality: str, model: MultimodalModel) -> None:
        """Train a unimodal model plainly, as this run is trained. Raises Diverged, naming modality and epoch."""
        child = Run(
            model,
            Strategy(),
            train=OneModality(self._train, modality, self.modalities.index(modality)),
            training=self.training,
            seed=self.seed,
            device=self.device,
            optimizer=self._build,
            criterion=self.criterion,
        )
        for epoch in range(child.n_epochs):
            child.train_epoch()
            bad = {name: value for name, value in child.end_epoch().items() if not math.isfinite(value)}
            for name, value in bad.items():
                raise Diverged(
                    f"the teacher of {modality}, epoch {epoch}: {name} is {value}. A smaller learning rate or gradient "
                    "clipping usually helps."
                )
        self.cost.forward += child.cost.forward / len(self.modalities)
        self.cost.backward += child.cost.backward / len(self.modalities)

    def fork(self, strategy: Strategy | None = None, *, epochs: int = 0) -> Run:
        """A temporary copy of model and optimizer, trained by the same loop. This run does not change.

        It starts from the present weights and learning rates; its cost counts as this run's. A fork cannot fork.

        Args:
            strategy: its strategy; None: plain training. If it adds modules, the optimizer state starts empty.
            epochs: number of epochs.
        """
        if self._forked:
            raise Incompatible("a fork cannot fork again.")
        child = Run(
            copy.deepcopy(self.model),
            Strategy() if strategy is None else strategy,
            train=self._train,
            slice=self._meta,
            training=self.training,
            seed=self.seed,
            device=self.device,
            optimizer=self._build,
            criterion=self.criterion,
            _forked_from=self,
        )
        child.epoch, child.global_step, child._sampling = self.epoch, self.global_step, self._sampling
        if self._phase is not Phase.SETUP:
            child._optimization.continue_from(self._optimization)
            child._lr_scale.update(self._lr_scale)
        for _ in range(epochs):
            if child.stopped:
                break
            child.train_epoch()
            child.end_epoch()
        return child

    # ------------------------------------------------------------------ checkpoint
    def state_dict(self) -> dict[str, Any]:
        """A checkpoint, valid between two epochs. Loads with torch.load(weights_only=True)."""
        return {
            "model": copy.deepcopy(self.model.state_dict()),
            **self._optimization.state_dict(),
            "strategy": self.strategy.state_dict(),
            "extra": list(self.model.extra),
            "teachers": self._teachers.state_dict(),
            "epoch": self.epoch,
            "global_step": self.global_step,
            "stopped": self.stopped,
            "lr_scale": dict(self._lr_scale),
            "warnings": dict(self.warnings),
            "sampling": self._sampling,
            "cost": {"forward": self.cost.forward, "backward": self.cost.backward},
        }

    def _load(self, state: Mapping[str, Any]) -> None:
        if list(self.model.extra) != list(state["extra"]):
            raise BadValue(
                f"the checkpoint holds the extra modules {list(state['extra'])}, but the strategy's setup added "
                f"{list(self.model.extra)}: a strategy that grows must add in setup what its state says exists."
            )
        self.model.load_state_dict(state["model"])
        self._optimization.load_state_dict(state)
        self.strategy.load_state_dict(on_device(state["strategy"], self.device))  # once more: setup may have reset it
        self.epoch, self.global_step = state["epoch"], state["global_step"]
        self.stopped = state["stopped"]
        self._lr_scale.clear()
        self._lr_scale.update(state["lr_scale"])
        self.warnings = dict(state["warnings"])
        self._sampling = None if state["sampling"] is None else tuple(state["sampling"])
        self.cost.forward, self.cost.backward = state["cost"]["forward"], state["cost"]["backward"]


def _mean(values: list[Any]) -> float:
    return float(sum(float(v) for v in values) / len(values))
