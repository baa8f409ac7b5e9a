"""AUG: alternating training in which the classifier of the weaker modality grows by boosting."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmzoo.api import Incompatible, Outputs, Pass, Run, Step, Strategy, Terms
from mmzoo.functional import constant


def boosted_losses(total: Tensor, before: Tensor, new: Tensor, target: Tensor, residual: float = 0.5) -> Tensor:
    """(B,) CE(total, y) + CE(before, y) + CE(new, y) - residual * CE(new, y p).

    p = softmax(before) without a gradient; y p keeps only its entry for the true class, so that the newest part is
    trained on 1 - residual p[y].

    Args:
        total: (B, C), before + new.
        before: (B, C), the logits without the newest part.
        new: (B, C), those of the newest part.
        target: (B,).
        residual: factor of the last term.
    """
    plain = torch.stack([F.cross_entropy(z, target, reduction="none") for z in (total, before, new)]).sum(0)
    p = before.detach().softmax(-1).gather(1, target[:, None]).squeeze(1)
    log_new = new.log_softmax(-1).gather(1, target[:, None]).squeeze(1)
    return plain + residual * p * log_new


def merged(
    unimodal: Mapping[str, Tensor], weights: Mapping[str, float] | None, present: Mapping[str, Tensor] | None
) -> Tensor:
    """(B, C) the weighted mean of the logits of the modalities that a sample has.

    Args:
        unimodal: modality -> (B, C).
        weights: modality -> weight; None: equal.
        present: modality -> (B,) bool; None: all.
    """
    stacked = torch.stack(list(unimodal.values()), 1)
    share = constant([1.0 if weights is None else weights[m] for m in unimodal], stacked).expand(stacked.shape[:2])
    if present is not None:
        share = share * torch.stack([present[m] for m in unimodal], 1)
    share = share / share.sum(1, keepdim=True).clamp_min(torch.finfo(share.dtype).tiny)
    return (share[..., None] * stacked).sum(1)


class AUG(Strategy):
    """Trains modalities in turns, and extends the weakest one's classifier by boosting (Jiang et al., NeurIPS 2025).

    Each batch takes one pass per modality. The logits of modality m are W z + b + sum_i (W relu(A_m,i z + a_m,i) + b),
    with W, b the head's classifier; the loss is their cross-entropy, and from the first layer A on `boosted_losses`. At
    regular intervals the sums of true-class probabilities over the last epoch are compared; if the strongest is more
    than 1 + tolerance times the weakest, the weakest gets another layer, as wide as its features.

    Differs from the authors' code, whose layers halve the width, as an embedding does before the first part; here the
    features keep their width. More than two modalities are ours.

    Args:
        every: interval, as a fraction of the run.
        tolerance: margin of the comparison.
        residual: factor in `boosted_losses`; 0.5 in the code, beside a comment that says 0.2.
        weights: modality -> weight in the prediction, the weighted mean of the logits; None: equal.
        growth: "trained" (default): new layers are trained. "released": they keep their initial weights, as in the
            authors' code, which builds the optimizer once; the gradient still flows through them.

    Raises:
        Incompatible: in setup, the head has no linear classifier of features for each modality, or it is a slice.
    """

    requires = frozenset({"unimodal"})
    owns = frozenset({"task", "predict"})
    min_modalities = 2
    state = ("grown", "sums", "layers", "classifiers")
    expected_failures = {"check_modality_order": "modalities take turns in the data's order"}  # noqa: RUF012

    def __init__(
        self,
        *,
        every: float = 0.1,
        tolerance: float = 0.01,
        residual: float = 0.5,
        weights: Mapping[str, float] | None = None,
        growth: Literal["trained", "released"] = "trained",
    ) -> None:
        self.every = every
        self.tolerance = tolerance
        self.residual = residual
        self.weights = weights
        self.growth = growth
        self.grown: list[str] = []
        self.sums: dict[str, Tensor] = {}
        #: what `predict` needs, since it sees outputs only: each modality's layers and classifier as they are by now
        self.layers: dict[str, list[list[Tensor]]] = {}
        self.classifiers: dict[str, list[Tensor]] = {}

    def setup(self, run: Run) -> None:
        head = run.model.head
        if head.how == "slice" or any(head.classifier(m) is None for m in run.modalities):
            raise Incompatible(
                f"AUG grows a linear classifier of each modality's features; head {type(head).__name__} has none. Take "
                "head shared or sum."
            )
        if self.weights is not None and set(self.weights) != set(run.modalities):
            raise Incompatible(
                f"AUG has weights for {', '.join(self.weights)}; the modalities here are {', '.join(run.modalities)}. "
                "Give each of them one."
            )
        for i, m in enumerate(self.grown):
            self._add(run, m, self.grown[:i].count(m))
        self._refresh(run)

    def epoch_start(self, run: Run) -> None:
        interval = max(1, round(self.every * run.n_epochs))
        if run.epoch and run.epoch % interval == 0 and len(self.sums) == len(run.modalities):
            scores = torch.stack([self.sums[m] for m in run.modalities])
            weakest = run.modalities[int(scores.argmin())]
            if bool(scores.max() > (1.0 + self.tolerance) * scores.min()):
                self._add(run, weakest, self.grown.count(weakest))
                self.grown.append(weakest)
                self._refresh(run)
        self.sums = {}
        for m in run.modalities:
            run.log(f"aug/layers/{m}", float(self.grown.count(m)))

    def plan(self, step: Step, passes: Sequence[Pass]) -> Sequence[Pass]:
        return [
            p if len(fed) == 1 else replace(p, name=f"{p.name}/{m}", present=frozenset({m}))
            for p in passes
            for fed in [p.fed(step.run.modalities)]
            for m in fed
        ]

    def features(self, step: Step, feats: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        if step.batch.present is not None and len(feats) == 1:
            (modality,) = feats
            here = step.batch.present[:, step.run.modalities.index(modality)]
            step.keep = here if step.keep is None else here & step.keep
        return feats

    def outputs(self, step: Step, out: Outputs) -> Outputs:
        unimodal = {m: z + sum(self._parts(step.run, m, out.features[m])) for m, z in out.unimodal.items()}
        return out.replace(logits=merged(unimodal, self.weights, out.present), unimodal=unimodal)

    def losses(self, step: Step, out: Outputs, terms: Terms) -> Terms:
        task = []
        for m, z in out.unimodal.items():
            total, target, parts = step.kept(z), step.target, self._parts(step.run, m, step.kept(out.features[m]))
            task.append(
                step.mean(boosted_losses(total, total - parts[-1], parts[-1], target, self.residual))
                if parts
                else step.loss(total)
            )
        return {**terms, "task": torch.stack(task).sum()}

    @torch.no_grad()
    def updated(self, step: Step, out: Outputs, terms: Terms) -> None:
        for m, z in out.unimodal.items():
            self.sums[m] = self.sums.get(m, 0.0) + step.true_class_scores({m: step.kept(z.detach())})[0]
        self._refresh(step.run)

    def predict(self, out: Outputs) -> Outputs:
        unimodal = {}
        for m, z in out.unimodal.items():
            parts = [_part(out.features[m], layer, self.classifiers[m]) for layer in self.layers.get(m, [])]
            unimodal[m] = z + sum(parts)
        return out.replace(logits=merged(unimodal, self.weights, out.present), unimodal=unimodal, ranking=None)

    def _parts(self, run: Run, modality: str, z: Tensor) -> list[Tensor]:
        """(B, C) what each layer of a modality adds to its logits."""
        classifier = run.model.head.classifier(modality)
        layers = [_tensors(run.model.extra[_name(modality, i)]) for i in range(self.grown.count(modality))]
        if self.growth == "released":
            layers = [[t.detach() for t in layer] for layer in layers]
        return [_part(z, layer, classifier) for layer in layers]  # type: ignore[arg-type]

    def _add(self, run: Run, modality: str, number: int) -> None:
        width = run.model.head.dims[modality]
        run.add_module(_name(modality, number), lambda: nn.Linear(width, width))

    def _refresh(self, run: Run) -> None:
        """Look at the tensors as they are now; no copies but in a state that is saved."""
        for m in run.modalities:
            self.classifiers[m] = [t.detach() for t in run.model.head.classifier(m)]  # type: ignore[union-attr]
            modules = [run.model.extra[_name(m, i)] for i in range(self.grown.count(m))]
            self.layers[m] = [[t.detach() for t in _tensors(module)] for module in modules]


def _part(z: Tensor, layer: Sequence[Tensor], classifier: Sequence[Tensor]) -> Tensor:
    return F.linear(torch.relu(F.linear(z, *layer)), *classifier)


def _tensors(module: nn.Module) -> list[Tensor]:
    return [module.weight, module.bias]  # type: ignore[list-item]


def _name(modality: str, number: int) -> str:
    return f"aug_{modality}_{number}"
