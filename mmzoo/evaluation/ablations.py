"""Predictions of a joint model with some modalities kept and the others removed.

The head is not informed (`present` stays as it is), and the strategy's decision rule applies: these are predictions of
the model in use. `mmzoo.evaluation.scores` explains the numbers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence

import torch
from torch import Tensor

from mmzoo.core.model import MultimodalModel
from mmzoo.core.modes import evaluating
from mmzoo.core.values import Batch, DecisionRule, Outputs, batch_bounds, map_tensors
from mmzoo.evaluation.metrics import accuracy, classification
from mmzoo.evaluation.predictions import EVAL_BATCH, Fitted, Predictions

#: The ablations, as words; under the same names with an underscore their numbers are kept.
ABLATIONS = ("zero-feature", "zero-input", "mean-feature")


class Undefined(Exception):
    """An ablation is undefined for a model; the message gives the reason."""


class Ablation:
    """The predictions of a joint model with some modalities kept and the others removed.

    Args:
        word: how modalities are removed; one of ABLATIONS.
        p: the predictions with all modalities.
        answer: kept modalities -> (N, C) logits and (N, C) scores.
        costly: whether `answer` runs the encoders, so that few subsets should be evaluated.
    """

    def __init__(
        self,
        word: str,
        p: Predictions,
        answer: Callable[[frozenset[str]], tuple[Tensor, Tensor]],
        *,
        costly: bool = False,
    ) -> None:
        self.word = word
        self.all = frozenset(p.features)
        self.costly = costly
        self._p = p
        self._answer = answer
        self._accuracy = {self.all: accuracy(p.scores, p.target)}

    @property
    def modalities(self) -> tuple[str, ...]:
        """The names of the modalities, in order."""
        return tuple(self._p.features)

    def answers(self, kept: Iterable[str]) -> tuple[Tensor, Tensor]:
        """(N, C) logits and (N, C) scores with the modalities `kept`. Raises Undefined if they are not finite."""
        kept = frozenset(kept)
        if kept == self.all:
            return self._p.logits, self._p.scores
        logits, scores = self._answer(kept)
        if not bool(logits.isfinite().all() & scores.isfinite().all()):
            raise Undefined(f"with {_named(kept)} kept the model's answers are not finite")
        self._accuracy[kept] = accuracy(scores, self._p.target)
        return logits, scores

    def accuracy(self, kept: Iterable[str]) -> float:
        """The accuracy over all samples, whether they have the modalities or not; computed once per subset."""
        kept = frozenset(kept)
        if kept not in self._accuracy:
            self.answers(kept)
        return self._accuracy[kept]

    def scores_of(self, modality: str) -> dict[str, float]:
        """The scores with one modality kept, over the samples that have it."""
        logits, scores = self.answers([modality])
        return classification(*(self._p.of(modality, x) for x in (scores, self._p.target, logits)))


def ablate(
    word: str,
    model: MultimodalModel,
    strategy: DecisionRule,
    p: Predictions,
    fitted: Fitted,
    batches: Callable[[], Iterable[Batch]],
) -> Ablation:
    """One of ABLATIONS, on given predictions.

    Args:
        word: its name.
        model: the model.
        strategy: the decision rule.
        p: predictions of the model.
        fitted: probes and mean features of the training samples.
        batches: yields the batches that `p` was computed from.

    Raises:
        Undefined: features would be removed under a head that acts between stages.
    """
    if model.head.couples:
        if word != "zero-input":
            raise Undefined("the head acts between encoder stages, so that a branch's features hold the others' too")
        return Ablation(word, p, lambda kept: _from_inputs(model, strategy, batches(), kept), costly=True)
    fill: Mapping[str, Tensor] = {m: z.new_zeros(1, z.shape[1]) for m, z in p.features.items()}
    if word == "zero-input":
        fill = features_of_zeros(model, batches())
    elif word == "mean-feature":
        fill = fitted.means
    return Ablation(word, p, lambda kept: _from_features(model, strategy, p, kept, fill))


def features_of_zeros(model: MultimodalModel, batches: Iterable[Batch]) -> dict[str, Tensor]:
    """modality -> (N, D_m), the features of inputs of zeros with the shapes of each batch.

    One sample per batch is encoded and stands for all: in eval mode samples do not influence each other.

    Args:
        model: the model.
        batches: the batches.
    """
    rows = []
    with evaluating(model):
        for batch in batches:
            blank = map_tensors(batch.inputs, lambda t: torch.zeros_like(t[:1]))
            rows.append({m: z.expand(len(batch), -1) for m, z in model.encode(blank).items()})
    return {m: torch.cat([row[m] for row in rows]) for m in rows[0]}


def _from_features(
    model: MultimodalModel, strategy: DecisionRule, p: Predictions, kept: frozenset[str], fill: Mapping[str, Tensor]
) -> tuple[Tensor, Tensor]:
    """The head's answers with the features of the others replaced by `fill` (one row, or one an item)."""
    features = {m: z if m in kept else fill[m].expand_as(z) for m, z in p.features.items()}
    with evaluating(model):
        pieces = []
        for start, end in batch_bounds(len(p.target), EVAL_BATCH):
            present = None if p.present is None else p.present[start:end]
            pieces.append(strategy.predict(model.outputs({m: z[start:end] for m, z in features.items()}, present)))
    return _joined(pieces)


def _from_inputs(
    model: MultimodalModel, strategy: DecisionRule, batches: Iterable[Batch], kept: frozenset[str]
) -> tuple[Tensor, Tensor]:
    """The whole model's answers with the inputs of the others replaced by zeros."""
    with evaluating(model):
        pieces = []
        for batch in batches:
            inputs = {m: x if m in kept else map_tensors(x, torch.zeros_like) for m, x in batch.inputs.items()}
            pieces.append(strategy.predict(model(inputs, batch.present)))
    return _joined(pieces)


def _joined(pieces: Sequence[Outputs]) -> tuple[Tensor, Tensor]:
    return torch.cat([out.logits for out in pieces]), torch.cat([out.scores for out in pieces])


def _named(kept: frozenset[str]) -> str:
    return ", ".join(sorted(kept)) or "none"
