"""Refit strategy: after training, refits a linear classifier on frozen features.

Used as the method `refit`, or added to any method as `NAME+refit`. Leaves encoders and unimodal logits unchanged.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from mmzoo.api import Outputs, Run, Strategy
from mmzoo.functional import RidgeClassifier, logistic_regression

#: default grid of penalty strengths, strongest first, relative to the number of samples
STRENGTHS = (10.0, 1.0, 0.1, 0.01, 1e-3, 1e-4)
#: name of the feature block used instead of per-modality features where a head has layers before its classifier
PENULTIMATE = "penultimate"
#: prefix of the indicator column of a modality: 1 where it is present
PRESENT = "present:"


class Refit(Strategy):
    """Fits a linear classifier on the frozen features after training, and predicts with it; training itself is plain.

    Classifier re-training (cRT; Kang et al., ICLR 2020), or against spurious features last-layer re-training (DFR;
    Kirichenko et al., ICLR 2023): training may leave good encoders behind a poor classifier. The classifier reads the
    input of the head's last layer (`Outputs.aux["penultimate"]`) or, for a head without earlier layers, the
    concatenated features of all modalities; an absent modality is zeros, with a column that marks it. It is fitted on
    all labelled samples, the meta set included, without augmentation, on standardised columns. Unimodal logits stay
    those of the trained head.

    Differs from cRT: no class-balanced sampling and no stochastic steps; the problem is convex and solved. Differs from
    DFR: it needs no group labels, and fits on the training samples themselves.

    Args:
        form: "ridge" on one-hot labels, in closed form; "ce" minimises the cross-entropy plus strength / 2 * ||W||^2,
            with L-BFGS in float64.
        strength: of the penalty, relative to the number of samples. None: the best of 10, 1, ... 1e-4 on the validation
            set.
        keep_better: training's own classifier is a candidate too, and wins ties.
    """

    owns = frozenset({"finish"})
    state = ("fitted",)
    cost = {"forward": 1, "backward": 1, "finish": 2}  # noqa: RUF012

    def __init__(
        self, *, form: Literal["ridge", "ce"] = "ridge", strength: float | None = None, keep_better: bool = False
    ) -> None:
        self.form = form
        self.strength = strength
        self.keep_better = keep_better
        #: block of columns -> (C, D) its weights, and "bias" -> (C,), float64; empty until fitted
        self.fitted: dict[str, Tensor] = {}

    def finish(self, run: Run) -> Iterator[str]:
        self.fitted = {}
        if self.keep_better:
            yield "as trained"
        found = run.collect(_blocks)
        target = found.pop("target")
        del found["index"]
        widths = {name: block.shape[1] for name, block in found.items()}
        columns = torch.cat([block.double() for block in found.values()], 1)
        for strength, weight, bias in self._solutions(columns, target, run.n_classes):
            self.fitted = {**dict(zip(widths, weight.split(list(widths.values()), 1))), "bias": bias}
            yield f"{self.form} {strength:g}"

    def predict(self, out: Outputs) -> Outputs:
        if not self.fitted:
            return out
        blocks = _blocks(out)
        if out.present is None:  # every modality that is fed is there
            blocks |= {f"{PRESENT}{m}": out.logits.new_ones(len(out.logits), 1) for m in out.features}
        logits = self.fitted["bias"]
        for name, weight in self.fitted.items():
            if name in blocks:
                logits = logits + F.linear(blocks[name].double(), weight)
        return out.replace(logits=logits.to(out.logits.dtype), ranking=None)

    def _solutions(self, x: Tensor, target: Tensor, n_classes: int) -> Iterator[tuple[float, Tensor, Tensor]]:
        """strength, weight (C, D) and bias (C,) on the columns as they are."""
        mean, std = x.mean(0), x.std(0, unbiased=False)
        scale = torch.where(std > 0, std, 1.0)
        fit = self._solver((x - mean) / scale, target, n_classes)
        for strength in STRENGTHS if self.strength is None else (self.strength,):
            weight, bias = fit(strength)
            yield strength, weight / scale, bias - (weight / scale) @ mean

    def _solver(self, x: Tensor, target: Tensor, n_classes: int) -> Callable[[float], tuple[Tensor, Tensor]]:
        """strength -> weight and bias. Each cross-entropy solution starts from the one before it."""
        if self.form == "ridge":
            return RidgeClassifier(x, target, n_classes).fit
        last: tuple[Tensor, Tensor] | None = None

        def fit(strength: float) -> tuple[Tensor, Tensor]:
            nonlocal last
            last = logistic_regression(x, target, n_classes, c=1.0 / (strength * len(x)), start=last, max_iter=500)
            return last

        return fit


def _blocks(out: Outputs) -> dict[str, Tensor]:
    """block -> (B, D): what the classifier reads."""
    deep: Tensor | None = out.aux.get(PENULTIMATE)
    blocks = {f"feature:{m}": z for m, z in out.features.items()} if deep is None else {PENULTIMATE: deep}
    there = out.present or {}
    return blocks | {f"{PRESENT}{m}": here[:, None].to(out.logits.dtype) for m, here in there.items()}
