"""Evaluation: the scores of a model and the contribution of each modality, every number with the word for its origin.

A branch of a joint model has no accuracy of its own. Several numbers have that name and may differ a lot, so none is
stored without its word:

- `own`: the modality's own logits; the word is the head's `how` (exact, slice or ablated). - `probe`: a linear
classifier fitted on the features of the frozen encoder; the same measure for every head. - `zero_feature`,
`zero_input`, `mean_feature`: the prediction of the joint model with the features of all other
  modalities replaced by zeros, by the features of inputs of zeros, or by their mean over the training samples.

The last three are ablations. The head is not informed of them (`present` stays as it is), and the strategy's decision
rule (`predict`) applies, since they are predictions of the model in use; own and probe are not, and use the plain
softmax. `ablated` and zero-feature are the same logits. From the ablations follow, over the subsets of modalities that
are kept, the Shapley contributions to the accuracy, their imbalance, and the conditional utilisation.

With a head that acts between stages the features of a branch contain information from the others. There own and probe
are called `coupled`, zero-input runs every subset through the encoders, and the two ablations of features are
undefined: features cannot be separated once the stages have mixed them.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable
from typing import Any

from mmzoo.core.model import MultimodalModel
from mmzoo.core.modes import evaluating
from mmzoo.core.values import Batch, DecisionRule
from mmzoo.errors import BadValue
from mmzoo.evaluation.ablations import ABLATIONS, Ablation, Undefined, ablate
from mmzoo.evaluation.contributions import contributions
from mmzoo.evaluation.metrics import classification, gap, modality_gap, utilisation
from mmzoo.evaluation.predictions import Fitted, Predictions, predict


def evaluate(
    model: MultimodalModel, strategy: DecisionRule, batches: Iterable[Batch], *, pooled: bool = False
) -> dict[str, Any]:
    """Accuracy, macro-F1, MAP and loss of the joint model, and the scores of each modality.

    The result also holds the same scores of each modality's own logits under `unimodal`, their gap in accuracy, and
    under `distance` the modality gap of each pair of features of the same width. For selection and steering: over the
    samples of which the model sees anything, or all if there is none. A final score covers every sample
    (`branch_scores`).

    Args:
        model: the model.
        strategy: the decision rule.
        batches: the batches.
        pooled: the batches are this process's share of the samples, and the scores cover all processes.
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
    """modality -> the scores of its own logits, over the samples that have it."""
    return {
        m: classification(p.of(m, z).softmax(-1), p.of(m, p.target), p.of(m, z))
        for m, z in p.unimodal.items()
        if len(p.of(m, z))
    }


def distances(p: Predictions) -> dict[str, float]:
    """`a-b` -> the modality gap (Liang et al., NeurIPS 2022), for each pair of the same width."""
    features = {m: p.of(m, z) for m, z in p.features.items() if len(p.of(m, z))}
    return {
        f"{a}-{b}": modality_gap(features[a], features[b])
        for a, b in itertools.combinations(features, 2)
        if features[a].shape[1] == features[b].shape[1]
    }


def branch_scores(model: MultimodalModel, p: Predictions, fitted: Fitted, metric: str = "acc") -> dict[str, Any]:
    """The joint scores, and under `modalities` those of each modality by its own logits and by a linear probe.

    A modality without samples, here or in training, is left out. `gap`: the largest difference in `metric` between
    modalities, by either measure.

    Args:
        model: the model.
        p: its predictions.
        fitted: probes of the training samples.
        metric: the metric of the gap.
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
    """Every score of `test`, joint and by modality, each with its word; the module docstring explains the words.

    Args:
        model: the model.
        strategy: the decision rule.
        train: yields the batches that probes are fitted on and features are averaged over.
        test: yields the batches that are scored.
        metric: the metric of gaps.

    Returns:
        The joint scores, and `modalities`: modality -> own, probe, zero_feature, zero_input, mean_feature, each with
        acc, macro_f1, map, loss and `word`, over the samples that have the modality; and `shapley` and `utilisation`,
        ablation -> value and word. `shapley`: ablation -> accuracy of `none` and `all` of the modalities over every
        sample, `imbalance`, `word`. `gap`, `distance`: differences between modalities by each measure, distances
        between their features. `undefined`: ablation -> why it is undefined here.

    Raises:
        BadValue: train or test is no function, or yields no batches, or something else than `Batch`.
    """
    for name, given in (("train", train), ("test", test)):
        if not callable(given):
            raise BadValue(
                f"{name} must be a function that returns batches, as they are read more than once, not {type(given).__name__}: "
                f"write {name}=lambda: batches."
            )
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
    """`evaluate_modalities` for given predictions.

    Args:
        model: the model.
        strategy: the decision rule.
        p: predictions of the model.
        fitted: probes and mean features of the training samples.
        batches: yields the batches that `p` was computed from.
        metric: the metric of gaps.
    """
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
