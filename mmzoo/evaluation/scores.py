"""Evaluation: the scores of a model and what each modality gives to them, every number with the word for how it arose.

A branch of a joint model has no accuracy of its own. Several numbers go by that name and may lie far apart, so none is
stored without its word:

- `own`: the modality's own logits; the word is the head's `how` (exact, slice or ablated).
- `probe`: a linear classifier fitted on the features of the frozen encoder; the same measure for every head.
- `zero_feature`, `zero_input`, `mean_feature`: the answer of the joint model with the features of all other modalities
  replaced by zeros, by what their encoders make of inputs of zeros, or by their mean over the training items.

The last three are ablations. The head is not told of them (`present` stays as it is), and the strategy's decision rule
(`predict`) applies, since they are answers of the model as it would be used; own and probe are no such answers, and
take the plain softmax. `ablated` and zero-feature are the same logits. From the ablations come, over the subsets of
modalities that are kept, the Shapley contributions to the accuracy, their imbalance, and the conditional utilisation.

With a head that acts between stages a branch's features hold what the others passed into it. There own and probe are
called `coupled`, zero-input runs every subset through the encoders, and the two ablations of features are not defined:
features cannot be taken away from the others once the stages have mixed them.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from mmzoo.core import distributed
from mmzoo.core.model import MultimodalModel
from mmzoo.core.modes import evaluating
from mmzoo.core.seeding import stream
from mmzoo.core.values import Batch, DecisionRule, Outputs, batch_bounds, map_tensors
from mmzoo.evaluation.linear_probe import fit_probe
from mmzoo.evaluation.metrics import accuracy, classification, gap, imbalance, modality_gap, utilisation
from mmzoo.functional import sampled_shapley, shapley

EVAL_BATCH = 512
#: The ablations, as words; under the same names with an underscore their numbers are kept.
ABLATIONS = ("zero-feature", "zero-input", "mean-feature")
#: Subsets of modalities that are scored at most: over features that are there already, and through the encoders.
SUBSETS, SUBSETS_COUPLED = 64, 16


# ---------------------------------------------------------------------------------------------- predictions
@dataclass(frozen=True)
class Predictions:
    """All that evaluation needs of a data set: one row an item. unimodal and features are keyed by modality; present
    is (N, M), or None when every item has every modality."""

    index: Tensor
    target: Tensor
    logits: Tensor
    scores: Tensor
    unimodal: Mapping[str, Tensor]
    features: Mapping[str, Tensor]
    present: Tensor | None = None

    def pooled(self) -> Predictions:
        """The rows of all processes, each of which holds some, in the order of `index`."""
        own = {name: map_tensors(value, Tensor.cpu) for name, value in vars(self).items() if value is not None}
        parts = distributed.all_objects(own)
        order = torch.cat([p["index"] for p in parts]).argsort()

        def joined(pieces: Sequence[Any]) -> Any:
            first = pieces[0]
            if isinstance(first, Mapping):
                return {m: joined([piece[m] for piece in pieces]) for m in first}
            return torch.cat(list(pieces))[order]

        return Predictions(**{name: joined([p[name] for p in parts]) for name in own})

    def of(self, modality: str, values: Tensor) -> Tensor:
        """The rows of `values` whose items have a modality: what is made of zeros says nothing about it."""
        if self.present is None:
            return values
        return values[self.present[:, list(self.unimodal).index(modality)]]

    def seen(self, values: Tensor) -> Tensor:
        """The rows of `values` whose items have any of the modalities: the others all get one answer, the bias."""
        return values if self.present is None else values[self.present.any(1)]


def predict(model: MultimodalModel, strategy: DecisionRule, batches: Iterable[Batch]) -> Predictions:
    """Outputs for every item, in eval mode, with the strategy's decision rule. The mode is put back."""
    rows: list[Any] = []
    masks: list[Tensor | None] = []
    with evaluating(model):
        for batch in batches:
            masks.append(batch.present)
            given = model(batch.inputs, batch.present)
            out = strategy.predict(given)
            rows.append((batch.index, batch.target, out.logits, out.scores, dict(out.unimodal), dict(given.features)))
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


# ---------------------------------------------------------------------------------------------- scores
def evaluate(
    model: MultimodalModel, strategy: DecisionRule, batches: Iterable[Batch], *, pooled: bool = False
) -> dict[str, Any]:
    """Accuracy, macro-F1, MAP and loss of the joint model; the same of each modality's own logits under `unimodal`,
    their gap in accuracy, and under `distance` the modality gap of each pair of features of one width.

    For choosing and steering: over the items of which the model sees anything, or all where there is none. A final score
    is over every item instead (`branch_scores`). pooled: the batches are one process's part of the items, and the scores are
    over those of all processes.
    """
    p = predict(model, strategy, batches)
    p = p.pooled() if pooled else p
    own = own_scores(p)
    seen = [p.seen(x) for x in (p.scores, p.target, p.logits)]
    scores, target, logits = seen if len(seen[1]) else (p.scores, p.target, p.logits)
    return {
        **classification(scores, target, logits),
        "unimodal": own,
        "gap": gap({m: scores["acc"] for m, scores in own.items()}),
        "distance": distances(p),
    }


def own_scores(p: Predictions) -> dict[str, dict[str, float]]:
    """modality -> the scores of its own logits, over the items that have it."""
    return {
        m: classification(p.of(m, z).softmax(-1), p.of(m, p.target), p.of(m, z))
        for m, z in p.unimodal.items()
        if len(p.of(m, z))
    }


def distances(p: Predictions) -> dict[str, float]:
    """`a-b` -> the modality gap (Liang et al., NeurIPS 2022), for each pair of one width."""
    features = {m: p.of(m, z) for m, z in p.features.items() if len(p.of(m, z))}
    return {
        f"{a}-{b}": modality_gap(features[a], features[b])
        for a, b in itertools.combinations(features, 2)
        if features[a].shape[1] == features[b].shape[1]
    }


@dataclass(frozen=True)
class Fitted:
    """What the training items give to the evaluation of others. Labels of those others never enter it.

    probes: modality -> (features -> logits), the linear probe of its encoder. means: modality -> (1, D_m), its mean
    feature, zeros where no item has it.
    """

    probes: Mapping[str, Callable[[Tensor], Tensor]]
    means: Mapping[str, Tensor]

    @classmethod
    def on(cls, p: Predictions, n_classes: int) -> Fitted:
        """Fit on predictions, for each modality on the items that have it."""
        own = {m: p.of(m, z) for m, z in p.features.items()}
        probes = {m: fit_probe(z, p.of(m, p.target), n_classes) for m, z in own.items() if len(z)}
        means = {m: (z.double().sum(0, keepdim=True) / max(1, len(z))).to(z.dtype) for m, z in own.items()}
        return cls(probes, means)


def branch_scores(model: MultimodalModel, p: Predictions, fitted: Fitted, metric: str = "acc") -> dict[str, Any]:
    """The joint scores, and under `modalities` each modality's by its own logits and by a linear probe.

    A modality that no item has, here or among the training items, is left out. `gap`: the largest difference in
    `metric` between modalities, by either measure.
    """
    own, probe = {m: s for m, s in own_scores(p).items() if m in fitted.probes}, {}
    for m in own:
        logits = fitted.probes[m](p.of(m, p.features[m]))
        probe[m] = classification(logits.softmax(-1), p.of(m, p.target), logits)
    mixed = ", coupled" if model.head.couples else ""
    words = {"own": model.head.how + mixed, "probe": "probe" + mixed}
    return {
        **classification(p.scores, p.target, p.logits),
        "modalities": {
            m: {"own": {**own[m], "word": words["own"]}, "probe": {**probe[m], "word": words["probe"]}} for m in own
        },
        "gap": {
            "own": gap({m: s[metric] for m, s in own.items()}),
            "probe": gap({m: s[metric] for m, s in probe.items()}),
        },
        "distance": distances(p),
    }


def evaluate_modalities(
    model: MultimodalModel,
    strategy: DecisionRule,
    *,
    train: Callable[[], Iterable[Batch]],
    test: Callable[[], Iterable[Batch]],
    metric: str = "acc",
) -> dict[str, Any]:
    """Every score of `test`, joint and by modality, each with its word; see the module for what the words mean.

    train: gives the batches that probes are fitted on and features are averaged over. Returns the joint scores, and

    - `modalities`: modality -> own, probe, zero_feature, zero_input, mean_feature, each with acc, macro_f1, map, loss
      and `word`, over the items that have the modality; and `shapley` and `utilisation`, ablation -> value and word.
    - `shapley`: ablation -> accuracy of `none` and `all` of the modalities (over every item), `imbalance`, `word`.
    - `gap`, `distance`: differences between the modalities by each measure, distances between their features.
    - `undefined`: ablation -> why it says nothing here.
    """
    fitted = Fitted.on(predict(model, strategy, train()), model.head.n_classes)
    return modality_scores(model, strategy, predict(model, strategy, test()), fitted, test, metric)


def modality_scores(
    model: MultimodalModel,
    strategy: DecisionRule,
    p: Predictions,
    fitted: Fitted,
    batches: Callable[[], Iterable[Batch]],
    metric: str = "acc",
) -> dict[str, Any]:
    """`evaluate_modalities` for predictions that are there already. batches: those that p was made of, once more."""
    found = {**branch_scores(model, p, fitted, metric), "shapley": {}, "undefined": {}}
    with evaluating(model):
        for word in ABLATIONS:
            key = word.replace("-", "_")
            try:
                parts, facts = _measured(ablate(word, model, strategy, p, fitted, batches), found["modalities"])
            except Undefined as why:
                found["undefined"][key] = str(why)
                continue
            found["shapley"][key] = facts
            found["gap"][key] = gap({m: part["alone"][metric] for m, part in parts.items()})
            for m, part in parts.items():
                numbers = found["modalities"][m]
                numbers[key] = {**part.pop("alone"), "word": word}
                for what, value in part.items():
                    numbers.setdefault(what, {})[key] = value
    return found


def _measured(ablation: Ablation, modalities: Iterable[str]) -> tuple[dict[str, dict[str, Any]], dict[str, Any]]:
    """What one ablation says of each modality, and of all together. Nothing is used of an accuracy of zero."""
    whole = ablation.accuracy(ablation.all)
    parts: dict[str, dict[str, Any]] = {m: {"alone": ablation.scores_of(m)} for m in modalities}
    shares, facts = contributions(ablation)
    for m, part in parts.items():
        part["shapley"] = {"value": shares[m], "word": facts["word"]}
        if whole:
            used = utilisation(whole, ablation.accuracy(ablation.all - {m}))
            part["utilisation"] = {"value": used, "word": ablation.word}
    return parts, facts


# ---------------------------------------------------------------------------------------------- ablations
class Undefined(Exception):
    """An ablation that says nothing about a model; the message says why."""


class Ablation:
    """The answers of a joint model of which some modalities are kept and the others are taken away.

    word: how they are taken away. answer: (kept modalities) -> (N, C) logits and (N, C) scores. costly: whether an
    answer takes the encoders, so that few subsets should be asked for. What all of them answer is known already: p.
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
        return tuple(self._p.features)

    def answers(self, kept: Iterable[str]) -> tuple[Tensor, Tensor]:
        """(N, C) logits and (N, C) scores. Raises Undefined where they are not finite."""
        kept = frozenset(kept)
        if kept == self.all:
            return self._p.logits, self._p.scores
        logits, scores = self._answer(kept)
        if not bool(logits.isfinite().all() & scores.isfinite().all()):
            raise Undefined(f"with {_named(kept)} kept the model's answers are not finite")
        self._accuracy[kept] = accuracy(scores, self._p.target)
        return logits, scores

    def accuracy(self, kept: Iterable[str]) -> float:
        """The accuracy over every item, whether it has the modalities or not; computed once for a subset."""
        kept = frozenset(kept)
        if kept not in self._accuracy:
            self.answers(kept)
        return self._accuracy[kept]

    def scores_of(self, modality: str) -> dict[str, float]:
        """The scores with one modality kept, over the items that have it."""
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
    """One of ABLATIONS on predictions p, which were made of `batches`.

    Raises Undefined for an ablation of features under a head that acts between stages.
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
    """modality -> (N, D_m), what its encoder makes of inputs of zeros shaped like those of each batch.

    One item a batch is encoded and stands for all: in eval mode items do not depend on one another.
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


# ---------------------------------------------------------------------------------------------- contributions
def contributions(ablation: Ablation) -> tuple[dict[str, float], dict[str, Any]]:
    """modality -> Shapley contribution to the accuracy; and the facts that go with them.

    v(S) is the accuracy with the modalities S kept. v(none) is that of a model that knows nothing of the item, not
    zero, so that the contributions add up to accuracy - v(none). Exact while the subsets are at most SUBSETS (SUBSETS_COUPLED
    where each takes the encoders); beyond, the mean gain over sampled orders of the modalities, and the word says how
    many. They are the same orders for every model, and come in pairs, an order and its reverse.
    """
    players = ablation.modalities
    limit = SUBSETS_COUPLED if ablation.costly else SUBSETS
    if 2 ** len(players) <= limit:
        shares = shapley(ablation.accuracy, players)
        word = f"{ablation.word}, exact"
    else:
        orders = paired_orders(players, max(1, (limit - 2) // (len(players) - 1) // 2))
        shares = sampled_shapley(ablation.accuracy, orders)
        word = f"{ablation.word}, {len(orders)} sampled orders"
    facts = {"none": ablation.accuracy(()), "all": ablation.accuracy(players), "imbalance": imbalance(shares)}
    return shares, {**facts, "word": word}


def paired_orders(players: Sequence[str], pairs: int) -> list[tuple[str, ...]]:
    """2 * pairs orders of the players: random ones, always the same, each followed by its reverse."""
    generator = stream(0, "orders", len(players))
    drawn = [torch.randperm(len(players), generator=generator).tolist() for _ in range(pairs)]
    return [tuple(players[i] for i in order) for each in drawn for order in (each, each[::-1])]


def _named(kept: frozenset[str]) -> str:
    return ", ".join(sorted(kept)) or "none"
