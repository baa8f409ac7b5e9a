"""The predictions of a trained model on a data set, and what its training samples provide for evaluation."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from mmzoo.core import distributed
from mmzoo.core.model import MultimodalModel
from mmzoo.core.modes import evaluating
from mmzoo.core.values import Batch, DecisionRule, map_tensors
from mmzoo.errors import BadValue
from mmzoo.evaluation.linear_probe import fit_probe

#: samples that are evaluated at once
EVAL_BATCH = 512
NO_BATCH = (
    "a batch is a {}, and evaluation reads mmzoo.api.Batch(inputs by modality, labels, index of each sample). For a network in a loop "
    "of your own, what attach returned reads your loaders: attached.evaluate(train, test)."
)


@dataclass(frozen=True)
class Predictions:
    """All that evaluation needs of a data set, one row per sample.

    Args:
        index: (N,), the samples' indices.
        target: (N,), the classes.
        logits: (N, C).
        scores: (N, C), after the decision rule.
        unimodal: modality -> (N, C).
        features: modality -> (N, D_m).
        present: (N, M) bool; None if every sample has every modality.
    """

    index: Tensor
    target: Tensor
    logits: Tensor
    scores: Tensor
    unimodal: Mapping[str, Tensor]
    features: Mapping[str, Tensor]
    present: Tensor | None = None

    def pooled(self) -> Predictions:
        """The rows of all processes, in the order of `index`."""
        own = {name: map_tensors(value, Tensor.cpu) for name, value in vars(self).items() if value is not None}
        parts = distributed.all_objects(own)
        order = torch.cat([p["index"] for p in parts]).argsort()

        def joined(pieces: Sequence[Any]) -> Any:
            first = pieces[0]
            if isinstance(first, Mapping):
                return {m: joined([piece[m] for piece in pieces]) for m in first}
            return torch.cat(list(pieces))[order]

        return Predictions(**{name: joined([p[name] for p in parts]) for name in own})

    def answered(self, target: Tensor) -> Predictions:
        """A copy with the classes of the samples, which were unknown before.

        Args:
            target: the classes of the whole data set.
        """
        return replace(self, target=target[self.index.cpu()].to(self.target.device))

    def of(self, modality: str, values: Tensor) -> Tensor:
        """The rows of `values` whose samples have a modality: features of zeros say nothing about it."""
        if self.present is None:
            return values
        return values[self.present[:, list(self.unimodal).index(modality)]]

    def seen(self, values: Tensor) -> Tensor:
        """The rows of `values` whose samples have at least one modality: all others get one prediction, the bias."""
        return values if self.present is None else values[self.present.any(1)]


def predict(model: MultimodalModel, strategy: DecisionRule, batches: Iterable[Batch]) -> Predictions:
    """The outputs for every sample, in eval mode, with the strategy's decision rule. The mode is restored.

    Args:
        model: the model.
        strategy: the decision rule.
        batches: the batches.

    Raises:
        BadValue: there are none, or one of them is no `Batch`.
    """
    rows: list[Any] = []
    masks: list[Tensor | None] = []
    with evaluating(model):
        for batch in batches:
            if not isinstance(batch, Batch):
                raise BadValue(NO_BATCH.format(type(batch).__name__))
            masks.append(batch.present)
            given = model(batch.inputs, batch.present)
            out = strategy.predict(given)
            rows.append((batch.index, batch.target, out.logits, out.scores, dict(out.unimodal), dict(given.features)))
    if not rows:
        raise BadValue("there are no batches to evaluate.")
    index, target, logits, scores, unimodal, features = zip(*rows)
    return Predictions(
        torch.cat(index),
        torch.cat(target),
        torch.cat(logits),
        torch.cat(scores),
        {m: torch.cat([u[m] for u in unimodal]) for m in unimodal[0]},
        {m: torch.cat([f[m] for f in features]) for m in features[0]},
        None if masks[0] is None else torch.cat([m for m in masks if m is not None]),
    )


@dataclass(frozen=True)
class Fitted:
    """What the training samples provide for the evaluation of others, whose labels never enter.

    Args:
        probes: modality -> (features -> logits), the linear probe of its encoder.
        means: modality -> (1, D_m), its mean feature; zeros if no sample has it.
    """

    probes: Mapping[str, Callable[[Tensor], Tensor]]
    means: Mapping[str, Tensor]

    @classmethod
    def on(cls, p: Predictions, n_classes: int) -> Fitted:
        """Fit on predictions, for each modality on the samples that have it.

        Args:
            p: predictions of the training samples.
            n_classes: number of classes C.
        """
        own = {m: p.of(m, z) for m, z in p.features.items()}
        probes = {m: fit_probe(z, p.of(m, p.target), n_classes) for m, z in own.items() if len(z)}
        means = {m: (z.double().sum(0, keepdim=True) / max(1, len(z))).to(z.dtype) for m, z in own.items()}
        return cls(probes, means)
