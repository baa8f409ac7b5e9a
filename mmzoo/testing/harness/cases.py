"""Test cases: a part, built by its factory, with the surroundings that its declarations require."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from mmzoo.core.encoder import Encoder, InputSpec
from mmzoo.core.head import FusionHead
from mmzoo.core.model import MultimodalModel
from mmzoo.core.seeding import seeded, stream
from mmzoo.core.values import map_tensors
from mmzoo.errors import BadValue, Incompatible
from mmzoo.heads.channel import Channel
from mmzoo.heads.concat import Concat
from mmzoo.heads.evidential import Evidential
from mmzoo.registry import Param
from mmzoo.testing.harness.report import Skipped
from mmzoo.testing.harness.tasks import (
    CoupledConcat,
    EncoderBuilder,
    HeadBuilder,
    Task,
    TinyEncoder,
    build_model,
    build_run,
    make_task,
)
from mmzoo.training.composition import Chain, Wrapper
from mmzoo.training.run import Run
from mmzoo.training.strategy import Strategy


class StrategyCase:
    """A strategy under test.

    strategy: a class, an instance, or a function without arguments that makes one. head: (dims, n_classes) -> head,
    where the strategy needs a certain one. encoder: (input width, feature width, with batch statistics, dropout) ->
    encoder. draws: how many examples are drawn where inputs are random.
    """

    def __init__(
        self,
        strategy: Strategy | Callable[[], Strategy],
        *,
        head: HeadBuilder | None = None,
        encoder: EncoderBuilder = TinyEncoder,
        draws: int = 10,
    ) -> None:
        self.number: int | None = None
        self._make: Callable[[], Any] = (
            (lambda: copy.deepcopy(strategy)) if isinstance(strategy, Strategy) else strategy
        )
        self.first = self.new()
        self.label = _label(self.first)
        self._head = head
        self.encoder = encoder
        self.draws = draws

    def new(self) -> Strategy:
        """A fresh instance."""
        strategy = self._make()
        if not isinstance(strategy, Strategy):
            raise TypeError(f"the factory must give a Strategy, not {strategy!r}")
        return strategy

    @property
    def head(self) -> HeadBuilder:
        """The head asked for, or one that fits the declared requirements."""
        if self._head is not None:
            return self._head
        if "evidence" in self.first.requires:
            return Evidential
        if "mean_gates" in self.first.requires:
            return Channel
        return CoupledConcat if "staged" in self.first.requires else Concat

    @cached_property
    def equal(self) -> bool:
        """Whether the features must have one width."""
        if "equal_dims" in self.first.requires:
            return True
        try:
            self.head({"audio": 4, "image": 5}, 3)
        except Incompatible:
            return True
        return False

    @cached_property
    def modalities(self) -> int:
        """The number of modalities of the usual task: two where that is allowed."""
        most = 4 if self.first.max_modalities is None else self.first.max_modalities
        return max(self.first.min_modalities, min(2, most))

    def task(self, modalities: int | None = None, **options: Any) -> Task:
        """A task that meets the declared requirements."""
        options.setdefault("equal", self.equal)
        return make_task(self.modalities if modalities is None else modalities, **options)

    def model(self, task: Task, *, norm: bool = False, dropout: float = 0.0, seed: int = 0) -> MultimodalModel:
        return build_model(task, self.head, self.encoder, norm=norm, dropout=dropout, seed=seed)

    def run(
        self,
        task: Task,
        strategy: Strategy | None = None,
        *,
        norm: bool = False,
        dropout: float = 0.0,
        init: int = 0,
        **options: Any,
    ) -> Run:
        """A run of a fresh instance (or of another strategy). norm, dropout: what the encoders contain."""
        model = self.model(task, norm=norm, dropout=dropout, seed=init)
        return build_run(task, self.new() if strategy is None else strategy, model, **options)


def _label(strategy: Strategy) -> str:
    """Its repr; only the class where a parameter is not kept, which is for check_construction to say."""
    try:
        return repr(strategy)
    except AttributeError:
        return type(strategy).__name__


def is_combination(strategy: Strategy) -> bool:
    """Whether a strategy only holds others, and so has no parameters of its own to speak of."""
    return isinstance(strategy, Chain | Wrapper)


def neutral_form(strategy: Strategy) -> Strategy:
    """The strategy at its neutral parameter values. Raises Skipped where it, or a part of it, declares none."""
    if isinstance(strategy, Chain):
        return Chain(*map(neutral_form, strategy.parts))
    if isinstance(strategy, Wrapper):
        around = copy.copy(strategy)
        around.inner = neutral_form(strategy.inner)
        return around
    if strategy.neutral is None:
        raise Skipped(f"{type(strategy).__name__} declares no neutral parameter values")
    return type(strategy)(**{**strategy.params(), **strategy.neutral})


def neutral_exactly(strategy: Strategy) -> bool:
    """Whether the strategy, or every part of it, claims equal bits at its neutral values."""
    if isinstance(strategy, Chain):
        return all(map(neutral_exactly, strategy.parts))
    return neutral_exactly(strategy.inner) if isinstance(strategy, Wrapper) else strategy.neutral_how == "exact"


class HeadCase:
    """A fusion head under test, by its builder (dims, n_classes) -> head; a head class is one.

    encoder: as for a strategy; a head that acts between stages may need one with maps of its own kind, and one that
    reads encoders in its own way what its `readout` makes. multiple: a number that all feature widths are multiples of.
    """

    def __init__(
        self,
        head: HeadBuilder,
        *,
        encoder: EncoderBuilder = TinyEncoder,
        draws: int = 10,
        label: str = "",
        multiple: int = 1,
    ) -> None:
        self.builder = head
        self.encoder = encoder
        self.draws = draws
        self.multiple = multiple
        self.first = self.build({"audio": 4 * multiple, "image": 4 * multiple})
        self.label = label or type(self.first).__name__

    def build(
        self, dims: Mapping[str, int], n_classes: int = 3, *, seed: int = 0, dtype: torch.dtype = torch.float32
    ) -> FusionHead:
        """A head in eval mode. Raises Skipped where it cannot take these modalities and says so."""
        with seeded(seed, "init", "head"):
            try:
                head = self.builder(dims, n_classes)
            except Incompatible as refusal:
                raise Skipped(f"refused {dict(dims)}: {refusal}") from refusal
        return head.to(dtype).eval()


#: what the inputs of an encoder under test are drawn by
Inputs = InputSpec | tuple[int, ...] | Callable[[int, torch.Generator], Any]
#: kind -> an input of that kind that is small enough for checks
SPECS = {
    spec.kind: spec
    for spec in (
        InputSpec("vector", (7,)),
        InputSpec("series", (3, 12)),
        InputSpec("spectrogram", (33, 40)),
        InputSpec("image", (3, 32, 32)),
        InputSpec("video", (3, 3, 32, 32)),
        InputSpec("text", (6,), vocabulary=23),
    )
}


def draw_inputs(inputs: Inputs, n: int, generator: torch.Generator) -> Any:
    """A batch of n items. Texts and series end at random lengths, and their padding holds what nobody may read."""
    if callable(inputs):
        return inputs(n, generator)
    if not isinstance(inputs, InputSpec) or inputs.kind not in ("text", "series"):
        shape = inputs.shape if isinstance(inputs, InputSpec) else inputs
        return torch.randn(n, *shape, generator=generator)
    length = inputs.shape[-1]
    lengths = torch.randint(1, length + 1, (n, 1), generator=generator)
    if inputs.kind == "series":
        values = torch.randn(n, *inputs.shape, generator=generator)
        return {"values": values, "mask": torch.arange(length) < lengths}
    ids = torch.randint(inputs.vocabulary or 2, (n, length), generator=generator)
    return {"ids": ids, "mask": torch.arange(length) < lengths}


class EncoderCase:
    """An encoder under test.

    encoder: a function without arguments that makes one. inputs: what the encoder is told of its input, for which normal
    numbers or tokens are drawn; or the shape of one item; or (number of items, generator) -> a batch of inputs.
    """

    def __init__(
        self,
        encoder: Callable[[], Encoder],
        *,
        inputs: Inputs,
        draws: int = 5,
        label: str = "",
    ) -> None:
        self._make = encoder
        self._inputs = inputs
        self.draws = draws
        self.first = self.build()
        self.label = label or type(self.first).__name__

    def build(self, seed: int = 0) -> Encoder:
        """A fresh encoder in eval mode."""
        with seeded(seed, "init", "encoder"):
            return self._make().eval()

    def inputs(self, n: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> Any:
        """A batch of n items; floating-point tensors have the given dtype."""
        g = stream(seed, "inputs")
        return map_tensors(draw_inputs(self._inputs, n, g), lambda t: t.to(dtype) if t.is_floating_point() else t)


def rows(x: Any, index: Tensor | slice) -> Any:
    """Some rows of a batch of inputs."""
    return map_tensors(x, lambda t: t[index])


class DatasetCase:
    """A data set under test.

    load: a function that gives a DataModule, with these parameters. declared: what its registry entry says. params: the
    declared parameters, of which others are tried.
    """

    def __init__(
        self,
        load: Callable[..., Any],
        given: Mapping[str, Any],
        *,
        label: str,
        declared: Mapping[str, Any],
        params: Mapping[str, Param],
    ) -> None:
        self._load, self._given, self._params = load, dict(given), params
        self.label, self.declared = label, declared
        self.first = self.load()

    def load(self, **changed: Any) -> Any:
        return self._load(**{**self._given, **changed})

    def other_values(self) -> Iterator[tuple[str, Any]]:
        """Another accepted value of each parameter for which one is easily named."""
        for name, p in self._params.items():
            now = self._given.get(name, p.default)
            given = list(p.choices or ())
            if isinstance(now, bool):
                given.append(not now)
            elif isinstance(now, int | float):
                given += [now + 1, now - 1, now * 2, now / 2]
            for value in given:
                try:
                    if p.check(value) != now:
                        yield name, p.check(value)
                        break
                except BadValue:
                    continue
