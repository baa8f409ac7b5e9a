"""The run: what hooks see of the training of one model, and the verbs they may use."""

from __future__ import annotations

import contextlib
import copy
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmzoo.core import distributed
from mmzoo.core.model import MultimodalModel
from mmzoo.core.modes import buffers_kept, double_backward
from mmzoo.core.precision import compile_encoders
from mmzoo.core.seeding import seeded, stream
from mmzoo.core.values import Batch, Lazy, Outputs, Pass, batch_bounds, map_tensors
from mmzoo.errors import BadValue, Diverged, Incompatible, unknown
from mmzoo.evaluation.scores import evaluate
from mmzoo.training.batches import Batches, as_batches
from mmzoo.training.config import Training
from mmzoo.training.finishing import collect
from mmzoo.training.microbatch import MicroBatches
from mmzoo.training.optim import Schedule, build_optimizer
from mmzoo.training.passes import train_pass
from mmzoo.training.requirements import check_engine, check_requirements
from mmzoo.training.step import Step
from mmzoo.training.strategy import Group, Strategy
from mmzoo.training.teachers import OneModality, Teachers, one_modality


@dataclass
class Cost:
    """Whole-model forwards and backwards, in batches; feeding one of M modalities counts 1/M."""

    forward: float = 0.0
    backward: float = 0.0


class Run:
    """The training of one model under one strategy.

    train: the training batches. slice: labelled batches apart from them that a strategy may learn from. There is no
    way from here to holdout or test. optimizer: builds one from parameter groups, in place of the one that
    `training` names. teachers: trained models of one modality each, copies of which `teacher` hands out; those that are
    missing are trained here where the strategy requires them. state: a checkpoint made by `state_dict` to continue from.

    Raises Incompatible when the strategy asks for what is not there.
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
        optimizer: Callable[[list[dict[str, Any]]], torch.optim.Optimizer] | None = None,
        criterion: Callable[[Tensor, Tensor], Tensor] = F.cross_entropy,
        teachers: Mapping[str, MultimodalModel] | None = None,
        state: Mapping[str, Any] | None = None,
        _forked_from: Run | None = None,
    ) -> None:
        self.model = model.to(device)
        self.strategy = strategy
        self.training = Training() if training is None else training
        self.seed = seed
        self.device = torch.device(device)
        self.criterion = criterion
        self.n_epochs = self.training.epochs
        self.epoch = 0
        self.global_step = 0
        self.batch_in_epoch = 0
        self.stopped = False
        self.cost: Cost = Cost() if _forked_from is None else _forked_from.cost
        self._forked = _forked_from is not None
        self._build_optimizer = optimizer
        self._train = as_batches(train)
        self._slice = None if slice is None else as_batches(slice)
        self._sampling: tuple[Tensor, Tensor | None] | None = None
        self._lr_scale: dict[str, float] = {}
        self._logged: dict[str, list[Any]] = {}
        self.warnings: dict[str, int] = {}
        self._micro: MicroBatches | None = None
        self._fed = 1.0
        self._check_requirements()
        self._prepare_engine()
        wanted = "teachers" in strategy.requires
        own = Teachers(self.model, teachers or {}, wanted=wanted and _forked_from is None)
        self._teachers: Teachers = own if _forked_from is None else _forked_from._teachers
        if state is not None:
            strategy.load_state_dict(on_device(state["strategy"], self.device))
            self._teachers.load(self, state["teachers"] if "teachers" in state else self._teachers.state_dict())
        strategy.setup(self)
        groups = self._param_groups(own_rates=optimizer is None)
        self.optimizer = optimizer(groups) if optimizer else build_optimizer(groups, self.training)
        self._base_lr = {g["name"]: g["lr"] for g in self.optimizer.param_groups}
        self._schedule = Schedule(self.training, self.steps_per_epoch)
        if state is not None:
            self._load(state)

    # ------------------------------------------------------------------ facts
    @property
    def modalities(self) -> tuple[str, ...]:
        return self.model.modalities

    @property
    def n_classes(self) -> int:
        return self.model.head.n_classes

    @property
    def n_processes(self) -> int:
        """How many processes train this run together."""
        return distributed.world_size()

    @property
    def forked(self) -> bool:
        """Whether this run is a fork, which cannot fork again."""
        return self._forked

    @property
    def steps_per_epoch(self) -> int:
        return len(self._train)

    def train(self, name: str = "strategy", *, shuffled: bool = True) -> Iterator[Batch]:
        """The training batches, in an order of the strategy's own (`name`) that leaves training's order alone.

        shuffled=False: in stored order and without augmentation, so that the n-th item is row n for `set_sampling`.
        Resampling changes neither.
        """
        order = stream(self.seed, "train", name, self.epoch) if shuffled else None
        for batch in self._train.batches(order):
            yield batch.to(self.device)

    def strategy_holdout(self, name: str = "strategy") -> Iterator[Batch]:
        """The strategy's own labelled slice, in an order of its own for each epoch and `name`.

        Data is often stored by class, so that the first batches in stored order would hold a few classes only. Raises
        Incompatible where there is no slice.
        """
        if self._slice is None:
            raise Incompatible(
                f"{type(self.strategy).__name__} wants a labelled slice of its own. "
                "Give Run(slice=...), or name 'slice' in `requires` for the bench to do so."
            )
        for batch in self._slice.batches(stream(self.seed, "slice", name, self.epoch)):
            yield batch.to(self.device)

    def generator(self, name: str) -> torch.Generator:
        """A stream fixed by (seed, name, epoch), for hooks around an epoch."""
        return stream(self.seed, "epoch", name, self.epoch)

    # ------------------------------------------------------------------ the loop
    def start_epoch(self) -> None:
        """Begin an epoch: call before its first `step`."""
        self.model.train()
        self.batch_in_epoch = 0
        self._logged = {}
        self.strategy.epoch_start(self)

    def epoch_batches(self) -> Iterator[Batch]:
        """The training batches of this epoch, in the order that the seed fixes."""
        train = self._train if self._sampling is None else self._train.sampled(*self._sampling)
        yield from train.batches(stream(self.seed, "order", self.epoch))

    def train_epoch(self) -> None:
        """One epoch without its end: evaluate, then call `end_epoch`. All processes leave it with the same buffers."""
        self.start_epoch()
        for batch in self.epoch_batches():
            self.step(batch)
        distributed.average_buffers(self.model)

    def step(self, batch: Batch) -> None:
        """Train on one batch: every pass that the strategy plans."""
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
                train_pass(self, step.at(pass_))
        self.global_step += 1
        self.batch_in_epoch += 1

    def end_epoch(self, loss: float | None = None) -> dict[str, float]:
        """End an epoch. loss: what the schedule "plateau" watches. Returns the mean of every logged value, over the epoch and
        over processes."""
        self.strategy.epoch_end(self, Lazy(self._slice_metrics) if self._slice is not None else {})
        self._schedule.epoch_done(loss)
        self.epoch += 1
        return distributed.mean_values({name: _mean(values) for name, values in self._logged.items()})

    def _slice_metrics(self) -> dict[str, Any]:
        """The scores on the strategy's own slice, that of all processes, which cost forwards: computed when a hook reads
        them."""
        batches = list(self.strategy_holdout("metrics"))
        self.cost.forward += len(batches)
        return evaluate(self.model, self.strategy, batches, pooled=self.n_processes > 1)

    def finite(self) -> bool:
        """Whether everything that was logged in this epoch is finite."""
        return all(math.isfinite(_mean(values)) for values in self._logged.values())

    # ------------------------------------------------------------------ verbs for hooks
    def log(self, name: str, value: Tensor | float) -> None:
        """Record a value; the epoch's mean goes into the run's record. A tensor is not synchronised until then."""
        self._logged.setdefault(name, []).append(value.detach() if isinstance(value, Tensor) else float(value))

    def forward(
        self,
        batch: Batch,
        *,
        present: Iterable[str] | None = None,
        zero: Iterable[str] = (),
        mode: Literal["train", "eval"],
    ) -> Outputs:
        """A raw forward without hooks; batch statistics and random state are as before afterwards.

        present: the modalities that are fed (None: all). zero: those whose input is replaced by zeros.
        """
        inputs = dict(batch.inputs)
        for m in zero:
            inputs[m] = map_tensors(inputs[m], torch.zeros_like)
        pass_ = Pass("probe", present=None if present is None else frozenset(present))
        self.count_forward(pass_)
        with self._aside(mode):
            feats = self.model.encode(inputs, pass_, batch.present)
            return self.model.outputs(feats, batch.present)

    def coalitions(
        self, batch: Batch, sets: Iterable[Iterable[str]], *, present: Iterable[str] | None = None
    ) -> dict[frozenset[str], Outputs]:
        """set -> what `forward(batch, zero=<all others>, mode="eval")` gives, for any number of sets of modalities.

        Where the head does not act between the stages, this takes one forward however many the sets are: every
        encoder runs once, over the batch and an item of zeros, and only the head runs once a set. Otherwise it takes
        a forward a set. present: the modalities that are fed at all (None: all).
        """
        pass_ = Pass("probe", present=None if present is None else frozenset(present))
        fed, wanted = pass_.fed(self.modalities), [frozenset(s) for s in sets]
        for m in frozenset().union(*wanted) - set(fed):
            raise unknown("modality that is fed", m, fed)
        if self.model.head.couples:
            return {
                s: self.forward(batch, present=fed, zero=[m for m in fed if m not in s], mode="eval") for s in wanted
            }
        self.count_forward(pass_)
        with self._aside("eval"):
            real, blank = self.model.encode_blanked(batch.inputs, pass_, batch.present)
            chosen = {s: {m: real[m] if m in s else blank[m] for m in fed} for s in wanted}
            return {s: self.model.outputs(feats, batch.present) for s, feats in chosen.items()}

    @contextlib.contextmanager
    def _aside(self, mode: Literal["train", "eval"]) -> Iterator[None]:
        """A mode for a block that leaves modes, batch statistics and random state as they were."""
        was = {module: module.training for module in self.model.modules()}
        with seeded(self.seed, "forward", self.global_step), buffers_kept(self.model):
            self.model.train(mode == "train")
            try:
                yield
            finally:
                for module, training in was.items():
                    module.training = training

    def backward(self, loss: Tensor) -> None:
        """Accumulate the gradients of a loss: the only way to call backward."""
        self.cost.backward += self._fed
        loss.backward()
        if self._micro is not None:
            self._micro.backward()

    def term_grads(self, terms: Mapping[str, Tensor]) -> dict[str, dict[str, list[Tensor | None]]]:
        """term -> group -> gradient of each of the group's parameters (None where it has none), reduced."""
        groups = self.model.groups()
        params = [p for ps in groups.values() for p in ps]
        kept = [p.grad for p in params]
        result: dict[str, dict[str, list[Tensor | None]]] = {}
        for name, term in terms.items():
            for p in params:
                p.grad = None
            self.cost.backward += self._fed
            term.backward(retain_graph=True)
            if self._micro is not None:
                self._micro.backward()
            distributed.average_gradients(params)
            result[name] = {g: [p.grad for p in ps] for g, ps in groups.items()}
        for p, grad in zip(params, kept):
            p.grad = grad
        return result

    def collect(self, read: Callable[[Outputs], Mapping[str, Tensor]]) -> dict[str, Tensor]:
        """What the model makes of every labelled sample, those of the meta set included: for `finish`.

        In eval mode, without augmentation or a graph, one row a sample in the order of their numbers; in several
        processes each gets the rows of all. Resampling changes nothing. The cost is counted.

        Args:
            read: out -> name -> (B, ...), what is wanted of the outputs of a batch.

        Returns:
            name -> (N, ...), with `target` (N,) and `index` (N,), the samples' numbers.
        """
        return collect(self, read)

    @property
    def labelled(self) -> tuple[Batches, ...]:
        """All labelled batches: those of training as the data has them, and the meta set where there is one."""
        return (self._train,) if self._slice is None else (self._train, self._slice)

    def warn(self, message: str) -> None:
        """Note something that a reader of the results should know; the same message is counted, not repeated."""
        self.warnings[message] = self.warnings.get(message, 0) + 1

    def reduce(self, x: Tensor) -> Tensor:
        """The mean over processes: for every score that steers training. Means over items are `Step.mean` and `Step.loss`."""
        return distributed.mean(x)

    def gather(self, x: Tensor) -> Tensor:
        """The rows of all processes, one after the other, for losses that compare the items of a batch.

        Every process must hold as many rows: give whole batches, and beside them what tells which rows count. Gradients flow
        back to where a row came from, so that averaging the parameters' gradients over processes gives the gradient of the
        loss on the whole batch.
        """
        return distributed.gather(x)

    def teacher(self, modality: str) -> MultimodalModel:
        """The teacher of a modality: a trained model of it alone, frozen, in eval mode, on the run's device.

        It is the one that was given to Run(teachers=...). Otherwise it is trained when first asked for: the encoder as
        it was before training, under a linear classifier of its own, on the same batches, with the same seed, budget
        and optimizer, to the last epoch. Its cost then counts as this run's. Teachers are no part of the model.

        Raises Incompatible where the strategy does not name 'teachers' in `requires` and none was given.
        """
        return self._teachers.get(self, modality, self._train_alone)

    @torch.no_grad()
    def teacher_outputs(self, modality: str, batch: Batch) -> Outputs:
        """What a teacher makes of a batch, without a graph; in micro-batches where the training asks for them."""
        teacher = self.teacher(modality)
        batch = one_modality(batch, modality, self.modalities.index(modality))
        self.cost.forward += 1 / len(self.modalities)
        size = self.training.micro_batch or len(batch)
        pieces = [batch.map(lambda t, s=slice(*b): t[s]) for b in batch_bounds(len(batch), size)]  # type: ignore[misc]
        with seeded(self.seed, "teacher", self.global_step, modality):
            features = torch.cat([teacher.encode(p.inputs, present=p.present)[modality] for p in pieces])
            return teacher.outputs({modality: features}, batch.present)

    def _train_alone(self, modality: str, model: MultimodalModel) -> None:
        """Train a model of one modality plainly, as this run is trained. Raises Diverged, naming modality and epoch."""
        child = Run(
            model,
            Strategy(),
            train=OneModality(self._train, modality, self.modalities.index(modality)),
            training=self.training,
            seed=self.seed,
            device=self.device,
            optimizer=self._build_optimizer,
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
        """A throw-away copy of model and optimizer that trains through the same loop under `strategy`.

        It starts from the present weights and learning rates and runs `epochs` epochs; its cost counts as this run's.
        One level deep: a fork cannot fork. Nothing of this run changes. Under a strategy that adds modules the optimizer
        starts without its memory.
        """
        if self._forked:
            raise Incompatible("a fork cannot fork again.")
        child = Run(
            copy.deepcopy(self.model),
            Strategy() if strategy is None else strategy,
            train=self._train,
            slice=self._slice,
            training=self.training,
            seed=self.seed,
            device=self.device,
            optimizer=self._build_optimizer,
            criterion=self.criterion,
            _forked_from=self,
        )
        child.epoch, child.global_step, child._sampling = self.epoch, self.global_step, self._sampling
        if hasattr(self, "optimizer") and len(self.optimizer.param_groups) == len(child.optimizer.param_groups):
            child.optimizer.load_state_dict(copy.deepcopy(self.optimizer.state_dict()))
        if hasattr(self, "_schedule"):
            child._schedule.load_state_dict(copy.deepcopy(self._schedule.state_dict()))
            child._lr_scale = dict(self._lr_scale)
        for _ in range(epochs):
            if child.stopped:
                break
            child.train_epoch()
            child.end_epoch()
        return child

    def add_module(self, name: str, build: Callable[[], nn.Module]) -> nn.Module:
        """Build a module from a stream of its own and add it as group `extra:<name>`.

        Once the optimizer exists, the new parameters join it. In a fork, a module that came with the copied model is
        used as it is.
        """
        if self._forked and name in self.model.extra:
            return self.model.extra[name]
        if name in self.model.extra:
            raise BadValue(f"there is already an extra module {name!r}.")
        with seeded(self.seed, "init", "extra", name):
            module = build().to(self.device, next(self.model.parameters()).dtype)
        self.model.extra[name] = module
        if hasattr(self, "optimizer"):
            params = list(module.parameters())
            if params:
                group: dict[str, Any] = {"name": f"extra:{name}", "params": params, "lr_scale": 1.0}
                if self._build_optimizer is None:
                    group |= {"lr": self.training.lr, "weight_decay": self.training.weight_decay}
                self.optimizer.add_param_group(group)
                self._base_lr[group["name"]] = self.optimizer.param_groups[-1]["lr"]
        return module

    def reset_optimizer(self, groups: Iterable[str]) -> None:
        """Forget the optimizer's state (momentum, moments) of the named groups."""
        for name in groups:
            for p in self._group(name):
                self.optimizer.state.pop(p, None)

    def snapshot(self, group: str, *, optimizer: bool = False) -> dict[str, Any]:
        """A copy of a group's parameters and, for an encoder or an extra module, of its buffers.

        optimizer: with what the optimizer remembers of them (momentum, moments), under "optimizer".
        """
        tensors = self._tensors(group)
        kept: dict[str, Any] = {name: t.detach().clone() for name, t in tensors.items()}
        if optimizer:
            memory = self.optimizer.state
            kept["optimizer"] = {n: copy.deepcopy(dict(memory[t])) for n, t in tensors.items() if t in memory}
        return kept

    @torch.no_grad()
    def restore(self, group: str, snapshot: Mapping[str, Any]) -> None:
        """Put a snapshot back, the optimizer's memory too where the snapshot holds it."""
        for name, t in self._tensors(group).items():
            t.copy_(snapshot[name])
            if "optimizer" in snapshot:
                self.optimizer.state.pop(t, None)
                if name in snapshot["optimizer"]:
                    self.optimizer.state[t] = copy.deepcopy(dict(snapshot["optimizer"][name]))
        self.log(f"edit/{group}", 1.0)

    @torch.no_grad()
    def edit(self, group: str, fn: Callable[[str, Tensor], Tensor]) -> None:
        """Replace each parameter of a group by fn(name, value)."""
        module = self._module(group)
        buffers = {} if module is None else dict(module.named_buffers())
        for name, t in self._tensors(group).items():
            if name not in buffers:
                t.copy_(fn(name, t))
        self.log(f"edit/{group}", 1.0)

    def set_lr_scale(self, group: str, factor: float) -> None:
        """Multiply the scheduled learning rate of a group from now on."""
        self._group(group)
        self._lr_scale[group] = float(factor)

    def set_sampling(self, rows: Tensor | None, drop: Tensor | None = None) -> None:
        """Train on other rows from the next epoch on; None restores the data as it is.

        rows: (n,) or (n, M) int64, positions in the training set (per modality in the second form; the label is
        that of the first column). drop: (n, M) bool, modalities to treat as absent.
        """
        self._sampling = None if rows is None else (rows.cpu(), None if drop is None else drop.cpu())

    def stop(self) -> None:
        """End training after this epoch; in `setup`, before the first one: the model is then scored as setup left it."""
        self.stopped = True

    # ------------------------------------------------------------------ used by the pass
    def encode(self, step: Step) -> dict[str, Tensor]:
        """The features of a step, in micro-batches where the training asks for them."""
        self.count_forward(step.pass_)
        self._fed = len(step.pass_.fed(self.modalities)) / len(self.modalities)
        size = self.training.micro_batch
        if size is None or len(step.batch) <= size:
            self._micro = None
            return self.model.encode(step.batch.inputs, step.pass_, step.batch.present)
        self._micro = MicroBatches(self, step, size)
        return self._micro.features()

    def reduce_grads(self) -> None:
        distributed.average_gradients(self.model.parameters())

    def clip(self) -> None:
        if self.training.clip is not None:
            norm = nn.utils.clip_grad_norm_(self.model.parameters(), self.training.clip)
            self.log("grad_norm", norm)

    def update(self) -> None:
        """One optimizer step at the scheduled rate of each group."""
        factor = self._schedule.factor(self.global_step)
        for group in self.optimizer.param_groups:
            name = group["name"]
            group["lr"] = self._base_lr[name] * factor * group["lr_scale"] * self._lr_scale.get(name, 1.0)
        self.optimizer.step()

    # ------------------------------------------------------------------ checkpoint
    def state_dict(self) -> dict[str, Any]:
        """All that is needed to continue, between two epochs. Loads with torch.load(weights_only=True)."""
        return {
            "model": copy.deepcopy(self.model.state_dict()),
            "optimizer": copy.deepcopy(self.optimizer.state_dict()),
            "schedule": self._schedule.state_dict(),
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
        self.optimizer.load_state_dict(copy.deepcopy(dict(state["optimizer"])))
        self._schedule.load_state_dict(state["schedule"])
        self.strategy.load_state_dict(on_device(state["strategy"], self.device))  # once more: setup may have reset it
        self.epoch, self.global_step = state["epoch"], state["global_step"]
        self.stopped, self._lr_scale = state["stopped"], dict(state["lr_scale"])
        self.warnings = dict(state["warnings"])
        self._sampling = None if state["sampling"] is None else tuple(state["sampling"])
        self.cost.forward, self.cost.backward = state["cost"]["forward"], state["cost"]["backward"]

    # ------------------------------------------------------------------ internals
    def _check_requirements(self) -> None:
        check_requirements(type(self.strategy).__name__, self.strategy, self.model, has_slice=self._slice is not None)
        check_engine(type(self.strategy).__name__, self.strategy, self.model, self.training, self.device)

    def _prepare_engine(self) -> None:
        """Put the precision on the model and hand its encoders to torch.compile, where the training asks for it."""
        self.model.precision = self.training.precision
        if self.training.compile and not self._forked:
            compile_encoders(self.model)

    def _param_groups(self, own_rates: bool) -> list[dict[str, Any]]:
        """The groups for the optimizer. own_rates: with the rate and the weight decay of `training`; otherwise those
        are the optimizer's, but for a weight decay that the strategy has changed."""
        t = self.training
        own = {f"encoder:{m}": float(e.lr_scale) for m, e in self.model.encoders.items()}  # type: ignore[arg-type]
        before = {name: Group(ps, own.get(name, 1.0), t.weight_decay) for name, ps in self.model.groups().items()}
        after = self.strategy.param_groups(dict(before))
        if set(after) != set(before):
            raise BadValue(
                f"{type(self.strategy).__name__}.param_groups returned the groups {sorted(after)}; "
                f"it must return every one of {sorted(before)}."
            )
        groups: list[dict[str, Any]] = []
        for name, group in before.items():
            given = {"name": name, "params": list(group.params), "lr_scale": after[name].lr_scale}
            if own_rates:
                given["lr"] = t.lr
            if own_rates or after[name].weight_decay != group.weight_decay:
                given["weight_decay"] = after[name].weight_decay
            groups.append(given)
        return groups

    def _group(self, name: str) -> list[nn.Parameter]:
        groups = self.model.groups()
        if name not in groups:
            raise unknown("parameter group", name, groups)
        return groups[name]

    def _module(self, group: str) -> nn.Module | None:
        kind, _, name = group.partition(":")
        modules = {"encoder": self.model.encoders, "extra": self.model.extra}.get(kind)
        return modules[name] if modules is not None and name in modules else None

    def _tensors(self, group: str) -> dict[str, Tensor]:
        module = self._module(group)
        if module is not None:
            return {**dict(module.named_parameters()), **dict(module.named_buffers())}
        names = {id(p): n for n, p in self.model.head.named_parameters()}
        return {names[id(p)]: p for p in self._group(group)}

    def count_forward(self, pass_: Pass) -> None:
        """Note the cost of encoding a batch in a pass."""
        self.cost.forward += len(pass_.fed(self.modalities)) / len(self.modalities)


def on_device(value: Any, device: torch.device) -> Any:
    """A state with all its tensors on a device."""
    if isinstance(value, Tensor):
        return value.to(device)
    if isinstance(value, Mapping):
        return {k: on_device(v, device) for k, v in value.items()}
    return type(value)(on_device(v, device) for v in value) if isinstance(value, (list, tuple)) else value


def _mean(values: list[Any]) -> float:
    return float(sum(float(v) for v in values) / len(values))
