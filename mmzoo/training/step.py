"""One batch in one pass: what the hooks of a strategy read."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from mmzoo.core.seeding import stream
from mmzoo.core.values import Batch, Pass
from mmzoo.functional import loss_over, true_class_probabilities

if TYPE_CHECKING:
    from mmzoo.training.run import Run


@dataclass
class Step:
    """One batch in one pass, as every hook receives it. Only `features` may set `keep`.

    Processes that share a batch hold equally many rows each, but not equally many that are in the loss or have a
    modality: `loss`, `mean` and `true_class_scores` count those of all processes.

    Args:
        run: the run.
        batch: the batch, of B samples.
        pass_: the pass.
        keep: (B,) bool, the samples that stay in the loss, B' of them; None: all. Initially those with at least one
            modality that the pass feeds. A hook that sets it must do so in every process.
        scratch: values private to this step, keyed by their owner.
    """

    run: Run
    batch: Batch
    pass_: Pass = field(default_factory=Pass)
    keep: Tensor | None = None
    scratch: dict[Any, Any] = field(default_factory=dict)

    def generator(self, name: str, device: torch.device | str = "cpu") -> torch.Generator:
        """A random stream fixed by (seed, name, step, pass): calling a hook again replays its draws.

        Args:
            name: names the stream.
            device: where to draw. Only the default gives the same numbers on every machine; large draws on a GPU are
                cheaper, and replay on the same kind of device only.
        """
        return stream(self.run.seed, "step", name, self.run.global_step, self.pass_.name, device=device)

    def kept(self, x: Tensor) -> Tensor:
        """The rows of `x` that stay in the loss."""
        return x if self.keep is None else x[self.keep]

    def here(self, modality: str) -> Tensor | None:
        """(B',) bool, which samples in the loss have this modality; None if all have every modality."""
        if self.batch.present is None:
            return None
        return self.kept(self.batch.present[:, self.run.modalities.index(modality)])

    @property
    def target(self) -> Tensor:
        """(B',) the targets of the samples in the loss."""
        return self.kept(self.batch.target)

    def loss(self, logits: Tensor, counted: Tensor | None = None) -> Tensor:
        """The run's criterion over the samples in the loss; zero if there are none.

        Args:
            logits: (B', C).
            counted: (B',) bool, the samples that count, e.g. `here`; None: all.

        Returns:
            A scalar: this rank's contribution, as for `mean`.
        """
        return self._part(loss_over(self.run.criterion, logits, self.target, counted), counted)

    def mean(self, values: Tensor, counted: Tensor | None = None) -> Tensor:
        """The mean over the samples in the loss; zeros if there are none. All processes must call it.

        Args:
            values: (B', ...).
            counted: (B',) bool, the samples that count; None: all.

        Returns:
            (...). With several processes, this rank's contribution: the average over ranks, as taken of gradients and
            logged values, is the mean over the samples of all of them.
        """
        if counted is None:
            own = values.mean(0) if len(values) else values.sum(0)
        else:
            at = counted.view(-1, *[1] * (values.ndim - 1))
            own = torch.where(at, values, 0.0).sum(0) / counted.sum().clamp_min(1)
        return self._part(own, counted)

    def true_class_scores(self, logits: Mapping[str, Tensor]) -> Tensor:
        """For each modality, the sum over the samples in the loss of the softmax probability of the true class.

        Peng et al., CVPR 2022, eq. 8, averaged over processes. Ours for missing modalities: the mean over the samples
        that have the modality stands for all, so that a modality that is often missing does not look weak for that
        reason.

        Args:
            logits: modality -> (B', C).

        Returns:
            (M,).
        """
        p = true_class_probabilities(torch.stack([*logits.values()]), self.target)
        columns = [self.here(m) for m in logits]
        if columns[0] is None:
            return self.run.reduce(p.sum(1))
        here = torch.stack([h for h in columns if h is not None]).to(p.dtype)
        have = here.sum(1)
        sums = torch.stack([(p * here).sum(1), have, torch.full_like(have, len(self.target))])
        total, have, n = self.run.reduce(sums)
        found: Tensor = total * (n / torch.where(have > 0, have, 1.0))
        return found

    def is_empty(self) -> bool:
        """Whether no process has a sample in the loss."""
        if self.keep is None and (self.batch.present is None or self.run.n_processes == 1):
            return False
        some = torch.ones((), device=self.run.device) if self.keep is None else self.keep.any().float()
        return not bool(self.run.reduce(some) > 0)

    def _part(self, mean: Tensor, counted: Tensor | None) -> Tensor:
        """A mean over n samples of this process times n / (mean n of all processes)."""
        complete = self.keep is None and self.batch.present is None and counted is None
        if complete or self.run.n_processes == 1:
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
