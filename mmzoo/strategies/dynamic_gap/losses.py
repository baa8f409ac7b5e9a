"""The losses L_cls and L_mm, and their weighting by alpha."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from mmzoo.api import Batch, Outputs, Pass, Run, Step
from mmzoo.bilevel import Mixing
from mmzoo.functional import cosine_similarities, info_nce, jensen_shannon, kl_to_mean, same_class
from mmzoo.strategies.dynamic_gap.settings import LossSettings

#: the extra module that brings features of different width to one
PROJECTION = "dynamic_gap"


class GapLoss:
    """The two losses that alpha weighs (Yang et al., NeurIPS 2024, eq. 1).

    L_cls is the cross-entropy of the joint logits plus `unimodal` times the sum of those of each modality's own logits;
    L_mm is the matching loss between modalities that `matching` names.

    Args:
        settings: form, matching, temperature, floor and unimodal, as `DynamicGap` takes them.
    """

    def __init__(self, settings: LossSettings) -> None:
        self.settings = settings
        self.on_features = settings.matching in ("infonce", "class")

    @property
    def requires(self) -> frozenset[str]:
        return frozenset() if self.on_features and not self.settings.unimodal else frozenset({"unimodal"})

    def setup(self, run: Run) -> None:
        """Add the projections that features of different width need."""
        dims = dict(run.model.head.dims)
        if self.on_features and len(set(dims.values())) > 1:
            common = min(dims.values())
            run.add_module(PROJECTION, lambda: nn.ModuleDict({m: nn.Linear(d, common) for m, d in dims.items()}))

    def mixing(self, alpha: float) -> Mixing:
        """The factors on L_cls and L_mm, and their slopes in alpha."""
        if self.settings.form == "additive":
            return Mixing.additive(alpha)
        paper = Mixing.of(alpha)
        if self.settings.form == "paper":
            return paper
        return Mixing((2 * paper.factors[0], 2 * paper.factors[1]), (2 * paper.slopes[0], 2 * paper.slopes[1]))

    # ------------------------------------------------------------------ in training
    def of_step(self, step: Step, out: Outputs, task: Tensor) -> tuple[Tensor, Tensor]:
        """L_cls and L_mm of a training pass.

        Args:
            step: the batch in its pass.
            out: its outputs.
            task: the cross-entropy of the joint logits.
        """
        match = self._match(step, self._matched(step, out), tuple(out.features))
        if self.settings.unimodal:
            own = {m: step.kept(z) for m, z in out.unimodal.items()}
            task = task + self.settings.unimodal * self._own_loss(step, own)
        return task, match

    # ------------------------------------------------------------------ apart from training
    def outputs(self, step: Step) -> list[Tensor]:
        """The values that both losses are functions of, from a forward in eval mode."""
        out = step.run.forward(step.batch, mode="eval")
        own = [step.kept(out.unimodal[m]) for m in step.run.modalities] if self.settings.unimodal else []
        return [step.kept(out.logits), *own, *self._matched(step, out)]

    def of_outputs(self, step: Step, outputs: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """L_cls and L_mm as functions of what `outputs` returns."""
        modalities = step.run.modalities
        logits, *matched = outputs
        task = step.loss(logits)
        if self.settings.unimodal:
            own, matched = dict(zip(modalities, matched)), matched[len(modalities) :]
            task = task + self.settings.unimodal * self._own_loss(step, own)
        return task, self._match(step, matched, modalities)

    def of_batch(self, run: Run, batch: Batch) -> tuple[Tensor, Tensor]:
        """L_cls and L_mm of a batch, in eval mode."""
        step = joint(run, batch)
        return self.of_outputs(step, self.outputs(step))

    # ------------------------------------------------------------------ parts
    def _matched(self, step: Step, out: Outputs) -> list[Tensor]:
        """What L_mm is a function of: similarities over the samples of all processes, or each modality's own logits."""
        if not self.on_features:
            return [step.kept(z) for z in out.unimodal.values()]
        features: Mapping[str, Tensor] = out.features
        if PROJECTION in step.run.model.extra:
            project: Any = step.run.model.extra[PROJECTION]
            features = {m: project[m](z) for m, z in features.items()}
        columns = _columns(step, tuple(features))
        gathered = {m: step.run.gather(z) for m, z in features.items()}
        return cosine_similarities(gathered, self.settings.temperature, columns, self.settings.floor)

    def _match(self, step: Step, matched: Sequence[Tensor], modalities: Sequence[str]) -> Tensor:
        """L_mm of some modalities. With matching="class" a sample matches all of its class, else itself."""
        if self.on_features:
            same = self.settings.matching == "class"
            target = step.run.gather(step.batch.target) if same else None
            return info_nce(matched, None if target is None else same_class(target, _columns(step, modalities)))
        columns = [step.here(m) for m in modalities]
        complete = None if columns[0] is None else torch.stack([c for c in columns if c is not None]).all(0)
        divergence = kl_to_mean if self.settings.matching == "kl_to_mean" else jensen_shannon
        return step.mean(divergence(matched), complete)

    @staticmethod
    def _own_loss(step: Step, own: Mapping[str, Tensor]) -> Tensor:
        """The sum of each modality's own classification loss, over the samples that have it."""
        return torch.stack([step.loss(z, step.here(m)) for m, z in own.items()]).sum()


def joint(run: Run, batch: Batch) -> Step:
    """A batch in a pass that feeds all modalities, outside training."""
    return Step(run, batch).at(Pass())


def first_items(run: Run, batch: Batch, items: int | None) -> Batch:
    """At most `items` samples of a batch over all processes, equally many from each.

    Args:
        run: the run.
        batch: the batch.
        items: the number of samples; None: the whole batch.
    """
    if items is None:
        return batch
    share = -(-items // run.n_processes)
    return batch.map(lambda t: t[:share])


def _columns(step: Step, modalities: Sequence[str]) -> Tensor | None:
    """Which samples of all processes are in the loss and have each of some modalities.

    Whole batches, since all processes must hold as many rows.

    Returns:
        (samples, modalities) bool; None where all samples are in the loss and have every modality.
    """
    present, keep = step.batch.present, step.keep
    if present is None and keep is None:
        return None
    every = torch.ones(len(step.batch), len(modalities), dtype=torch.bool, device=step.run.device)
    there = every if present is None else present[:, [step.run.modalities.index(m) for m in modalities]]
    return step.run.gather(there if keep is None else there & keep[:, None])
