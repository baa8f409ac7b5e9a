"""The values that flow through a training pass. Mappings are keyed by modality name, in the data's order."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from mmzoo.functional import loss_over, true_class_probabilities
from mmzoo.seeding import stream

if TYPE_CHECKING:
    from mmzoo.run import Run


@dataclass(frozen=True)
class Batch:
    """One batch of items.

    inputs: modality -> tensor with B rows (or a mapping of tensors with B rows, e.g. token ids and their mask).
    target: (B,) int64 class indices. index: (B,) int64, the item's row in its data set.
    present: (B, M) bool, columns in the order of `inputs`; None when every modality is there for every item.
    """

    inputs: Mapping[str, Any]
    target: Tensor
    index: Tensor
    present: Tensor | None = None

    def __len__(self) -> int:
        return len(self.target)

    def map(self, fn: Callable[[Tensor], Tensor]) -> Batch:
        """The batch with `fn` applied to every tensor in it."""
        inputs = {m: map_tensors(x, fn) for m, x in self.inputs.items()}
        present = None if self.present is None else fn(self.present)
        return Batch(inputs, fn(self.target), fn(self.index), present)

    def to(self, device: torch.device | str) -> Batch:
        # Towards the CPU nothing would wait for a copy that is still under way.
        return self.map(lambda x: x.to(device, non_blocking=torch.device(device).type == "cuda"))


def map_tensors(value: Any, fn: Callable[[Tensor], Tensor]) -> Any:
    """Apply `fn` to a tensor or to every tensor of a (nested) mapping."""
    if isinstance(value, Mapping):
        return {k: map_tensors(v, fn) for k, v in value.items()}
    return fn(value)


def batch_bounds(n: int, size: int) -> list[tuple[int, int]]:
    """(start, end) of each batch of `size` among n items. A last one of a single item joins the one before it: batch
    statistics of one item do not exist."""
    starts = list(range(0, n, size))
    if len(starts) > 1 and n - starts[-1] == 1:
        starts.pop()
    return list(zip(starts, [*starts[1:], n]))


@dataclass(frozen=True)
class Pass:
    """One forward and backward over a batch, as data.

    present: the modalities that are fed (None: all). update: the modalities whose encoder and own head part may
    move (None: all); the gradients of the others are removed, not zeroed, since a zero gradient still moves weights
    through momentum and weight decay. freeze: modalities that stand still outright: no graph, and eval mode, so
    that batch statistics do not move either. flags: anything a head reads (`{"mean_gates": ...}`, see FusionHead).
    """

    name: str = "joint"
    present: frozenset[str] | None = None
    update: frozenset[str] | None = None
    freeze: frozenset[str] = frozenset()
    flags: Mapping[str, Any] = field(default_factory=dict)

    def fed(self, modalities: tuple[str, ...]) -> tuple[str, ...]:
        """Those of `modalities` that this pass feeds, in their order."""
        return tuple(m for m in modalities if self.present is None or m in self.present)

    def moves(self, modality: str) -> bool:
        """Whether the parameters of one modality may move in this pass: it is fed, updated and not frozen."""
        fed = self.present is None or modality in self.present
        return fed and (self.update is None or modality in self.update) and modality not in self.freeze


class Lazy(Mapping[str, Tensor]):
    """A mapping computed as a whole when it is first read, then kept."""

    def __init__(self, compute: Callable[[], Mapping[str, Tensor]]) -> None:
        self._compute: Callable[[], Mapping[str, Tensor]] | None = compute
        self._values: Mapping[str, Tensor] = {}

    def _filled(self) -> Mapping[str, Tensor]:
        if self._compute is not None:
            self._values, self._compute = self._compute(), None
        return self._values

    def __getitem__(self, modality: str) -> Tensor:
        return self._filled()[modality]

    def __iter__(self) -> Iterator[str]:
        return iter(self._filled())

    def __len__(self) -> int:
        return len(self._filled())


@dataclass(frozen=True)
class Outputs:
    """What a head makes of the features.

    logits: (B, C), trained on. features: modality -> (B, D_m), the encoders' outputs. unimodal: modality -> (B, C),
    each modality's own logits; how they arise is the head's `how`. aux: anything else (attention, evidence).
    ranking: (B, C) scores that are ranked and arg-maxed where they differ from softmax(logits). present: modality ->
    (B,) bool, which items have it, for the modalities in `features`; None when every item has every one of them.
    """

    logits: Tensor
    features: Mapping[str, Tensor]
    unimodal: Mapping[str, Tensor]
    aux: Mapping[str, Any] = field(default_factory=dict)
    ranking: Tensor | None = None
    present: Mapping[str, Tensor] | None = None

    @property
    def scores(self) -> Tensor:
        """(B, C): the scores a prediction is made from."""
        return self.logits.softmax(-1) if self.ranking is None else self.ranking

    def replace(self, **changes: Any) -> Outputs:
        return dataclasses.replace(self, **changes)


@dataclass
class Step:
    """One batch on its way through one pass. Hooks read it; only `features` may set `keep`.

    keep: (B,) bool, the samples that stay in the loss (None: all); at first those that have some of the modalities that
    the pass feeds. Whoever sets it does so in every process. scratch: private to the step, dies with it.

    Where several processes share a batch, as many rows lie in each, but not as many that are in the loss or have a
    modality: `loss`, `mean` and `true_class_scores` count those of all.
    """

    run: Run
    batch: Batch
    pass_: Pass = field(default_factory=Pass)
    keep: Tensor | None = None
    scratch: dict[Any, Any] = field(default_factory=dict)

    def generator(self, name: str, device: torch.device | str = "cpu") -> torch.Generator:
        """A stream fixed by (seed, name, step, pass): calling a hook again replays its draws.

        device: where to draw. Only the default gives the same numbers everywhere; elsewhere large draws are cheaper,
        and replayed on the same kind of device alone.
        """
        return stream(self.run.seed, "step", name, self.run.global_step, self.pass_.name, device=device)

    def kept(self, x: Tensor) -> Tensor:
        """The rows of `x` that stay in the loss."""
        return x if self.keep is None else x[self.keep]

    def here(self, modality: str) -> Tensor | None:
        """(B',) bool, which of the samples in the loss have this modality; None when all have every one."""
        if self.batch.present is None:
            return None
        return self.kept(self.batch.present[:, self.run.modalities.index(modality)])

    @property
    def target(self) -> Tensor:
        """(B',) the targets of the samples that stay in the loss."""
        return self.kept(self.batch.target)

    def loss(self, logits: Tensor, counted: Tensor | None = None) -> Tensor:
        """The run's criterion over the samples in the loss, a scalar; zero where there is none.

        logits: (B', C). counted: (B',) bool, those of the samples that count (`here`, for one); None for all. In several
        processes it is this one's part, as with `mean`.
        """
        return self._part(loss_over(self.run.criterion, logits, self.target, counted), counted)

    def mean(self, values: Tensor, counted: Tensor | None = None) -> Tensor:
        """(...) the mean of values (B', ...) over the samples in the loss; zeros where there is none.

        counted: (B',) bool, those of the samples that count; None for all. In several processes it is this one's part:
        what becomes the mean over the samples of all of them when the parts are averaged over processes, as gradients and
        logged values are. All processes have to call it.
        """
        if counted is None:
            own = values.mean(0) if len(values) else values.sum(0)
        else:
            at = counted.view(-1, *[1] * (values.ndim - 1))
            own = torch.where(at, values, 0.0).sum(0) / counted.sum().clamp_min(1)
        return self._part(own, counted)

    def true_class_scores(self, logits: Mapping[str, Tensor]) -> Tensor:
        """(M,) for each modality the sum over the samples in the loss of the softmax probability of the true class, the mean
        over processes (Peng et al., CVPR 2022, eq. 8).

        logits: modality -> (B', C). The mean over the samples that have the modality stands for all, so that one which is
        often missing does not look weak for that reason.
        """
        p = torch.stack([true_class_probabilities(z, self.target) for z in logits.values()])
        columns = [self.here(m) for m in logits]
        if columns[0] is None:
            return self.run.reduce(p.sum(1))
        here = torch.stack([h for h in columns if h is not None]).to(p.dtype)
        have = here.sum(1)
        sums = torch.stack([(p * here).sum(1), have, torch.full_like(have, len(self.target))])
        total, have, n = self.run.reduce(sums)
        return total * (n / torch.where(have > 0, have, 1.0))

    def is_empty(self) -> bool:
        """Whether no process has a sample in the loss: there is nothing to learn then."""
        if self.keep is None and (self.run.n_processes == 1 or self.batch.present is None):
            return False
        some = torch.ones((), device=self.run.device) if self.keep is None else self.keep.any().float()
        return not bool(self.run.reduce(some) > 0)

    def _part(self, mean: Tensor, counted: Tensor | None) -> Tensor:
        """A mean over n samples of this process times n / (mean n of all processes)."""
        complete = self.keep is None and self.batch.present is None and counted is None
        if self.run.n_processes == 1 or complete:
            return mean
        n = torch.ones_like(self.target, dtype=torch.float64).sum() if counted is None else counted.sum().double()
        whole = self.run.reduce(n)
        return mean * (n / torch.where(whole > 0, whole, 1.0)).to(mean.dtype)

    def at(self, pass_: Pass) -> Step:
        """The same batch in another pass, with a scratch of its own."""
        return Step(self.run, self.batch, pass_, self._something_of(pass_))

    def _something_of(self, pass_: Pass) -> Tensor | None:
        """Which samples have some of the modalities that a pass feeds; None for all.

        What a model says of the others is a constant, its bias, which the loss would turn into the frequency of classes
        among them.
        """
        if self.batch.present is None:
            return None
        fed = [self.run.modalities.index(m) for m in pass_.fed(self.run.modalities)]
        some = self.batch.present[:, fed].any(1)
        return None if bool(some.all()) else some
