"""The training pass, the loop around it, evaluation, and the choice of the epoch."""

from __future__ import annotations

import copy
import itertools
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from mmzoo.errors import Diverged, Incompatible
from mmzoo.gradients import Grads
from mmzoo.metrics import classification, gap, modality_gap
from mmzoo.model import MultimodalModel
from mmzoo.run import Run
from mmzoo.strategy import Strategy
from mmzoo.types import Batch, Step

_CURE = "A smaller learning rate (--set train.lr=...) or gradient clipping (--set train.clip=1) usually helps."


def train_pass(run: Run, step: Step) -> None:
    """One pass over one batch: the whole of what training does."""
    strategy, model = run.strategy, run.model
    run.optimizer.zero_grad(set_to_none=True)
    feats = strategy.features(step, run.encode(step))
    if step.keep is not None and not bool(step.keep.any()):
        return
    out = strategy.outputs(step, model.outputs(feats, step.batch.present))
    task = run.criterion(step.kept(out.logits), step.target)
    terms = strategy.losses(step, out, {"task": task})
    for name, value in terms.items():
        run.log(f"loss/{name}", value)
    strategy.backward(step, terms)
    run.reduce_grads()
    strategy.gradients(step, out, Grads(model, step.pass_))
    run.clip()
    run.update()
    strategy.updated(step, out, terms)


@dataclass
class Selection:
    """The best epoch so far by a holdout score; ties go to the lower holdout loss, then to the earlier epoch."""

    epoch: int = -1
    score: float = -math.inf
    loss: float = math.inf
    weights: dict[str, Tensor] = field(default_factory=dict)
    strategy: dict[str, Any] = field(default_factory=dict)

    def offer(self, epoch: int, score: float, loss: float, run: Run) -> None:
        if (score, -loss) > (self.score, -self.loss):
            self.epoch, self.score, self.loss = epoch, score, loss
            self.weights = copy.deepcopy(run.model.state_dict())
            self.strategy = run.strategy.state_dict()

    def restore(self, run: Run) -> None:
        """Put model and strategy back to the chosen epoch: a decision rule may depend on both."""
        run.model.load_state_dict(self.weights)
        run.strategy.load_state_dict(self.strategy)


def fit(
    run: Run,
    holdout: Callable[[], Iterable[Batch]],
    *,
    metric: str = "acc",
    selection: Selection | None = None,
    on_epoch: Callable[[dict[str, Any], Selection], None] = lambda record, selection: None,
) -> Selection:
    """Train to the end, choosing the epoch on holdout.

    holdout: gives the holdout batches; the run itself never sees them. on_epoch is called after every epoch with its
    record. A run that was stopped before its first epoch is scored as it stands, as epoch -1. Raises Diverged, naming
    epoch and loss term, at the end of an epoch with a value that is not finite.
    """
    selection = Selection() if selection is None else selection
    while run.epoch < run.n_epochs and not run.stopped:
        epoch = run.epoch
        try:
            run.train_epoch()
        except Incompatible as error:
            # A method that checks what it is handed may notice first that training has blown up.
            if run.finite():
                raise
            raise Diverged(f"epoch {epoch}: a loss is not finite. {_CURE}") from error
        scores = evaluate(run.model, run.strategy, (b.to(run.device) for b in holdout()))
        # Before the epoch ends: a strategy may put other weights in place then, and those have not been scored.
        selection.offer(epoch, scores[metric], scores["loss"], run)
        logged = run.end_epoch(scores["loss"])
        for name, value in {**logged, "holdout loss": scores["loss"]}.items():
            if not math.isfinite(value):
                raise Diverged(f"epoch {epoch}: {name} is {value}. {_CURE}")
        on_epoch({"epoch": epoch, "train": logged, "holdout": scores}, selection)
    if not selection.weights:
        scores = evaluate(run.model, run.strategy, (b.to(run.device) for b in holdout()))
        selection.offer(-1, scores[metric], scores["loss"], run)
    return selection


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

    def of(self, modality: str, values: Tensor) -> Tensor:
        """The rows of `values` whose items have a modality: what is made of zeros says nothing about it."""
        if self.present is None:
            return values
        return values[self.present[:, list(self.unimodal).index(modality)]]


@torch.no_grad()
def predict(model: MultimodalModel, strategy: Strategy, batches: Iterable[Batch]) -> Predictions:
    """Outputs for every item, in eval mode, with the strategy's decision rule. The mode is put back."""
    was = {module: module.training for module in model.modules()}
    model.eval()
    rows: list[Any] = []
    masks: list[Tensor | None] = []
    for batch in batches:
        masks.append(batch.present)
        out = strategy.predict(model(batch.inputs, batch.present))
        rows.append((batch.index, batch.target, out.logits, out.scores, dict(out.unimodal), dict(out.features)))
    for module, training in was.items():
        module.training = training
    index, target, logits, scores, unimodal, features = zip(*rows)
    return Predictions(
        torch.cat(index), torch.cat(target), torch.cat(logits), torch.cat(scores),
        {m: torch.cat([u[m] for u in unimodal]) for m in unimodal[0]},
        {m: torch.cat([f[m] for f in features]) for m in features[0]},
        None if masks[0] is None else torch.cat([m for m in masks if m is not None]),
    )  # fmt: skip


def evaluate(model: MultimodalModel, strategy: Strategy, batches: Iterable[Batch]) -> dict[str, Any]:
    """Accuracy, macro-F1, MAP and loss of the joint model; the same of each modality's own logits under `unimodal`,
    their gap in accuracy, and under `distance` the modality gap of each pair of features of one width."""
    p = predict(model, strategy, batches)
    return {
        **classification(p.scores, p.target, p.logits), "unimodal": own_scores(p),
        "gap": gap({m: scores["acc"] for m, scores in own_scores(p).items()}), "distance": distances(p),
    }  # fmt: skip


def own_scores(p: Predictions) -> dict[str, dict[str, float]]:
    """modality -> the scores of its own logits, over the items that have it."""
    return {
        m: classification(p.of(m, z).softmax(-1), p.of(m, p.target), p.of(m, z))
        for m, z in p.unimodal.items() if len(p.of(m, z))
    }  # fmt: skip


def distances(p: Predictions) -> dict[str, float]:
    """`a-b` -> the modality gap (Liang et al., NeurIPS 2022), for each pair of one width."""
    features = {m: p.of(m, z) for m, z in p.features.items() if len(p.of(m, z))}
    return {
        f"{a}-{b}": modality_gap(features[a], features[b])
        for a, b in itertools.combinations(features, 2) if features[a].shape[1] == features[b].shape[1]
    }  # fmt: skip
