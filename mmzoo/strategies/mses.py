"""Early stopping of single modalities: one that gets worse on the slice stands still from its best epoch on."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal

from mmzoo.api import Outputs, Pass, Run, Step, Strategy, Terms

#: what is remembered of a sequence of losses
Watch = dict[str, float]


def observed(watch: Watch | None, loss: float, smoothing: float = 0.6) -> Watch:
    """What is remembered after one more validation loss; None stands for nothing yet.

    smoothed_1 = v_1, then smoothed_e = smoothing * v_(e-1) + (1 - smoothing) * v_e: a filter over two *raw* losses, not
    a running mean. An epoch is the best one if its smoothed loss is strictly below all before it. A loss that is not
    finite is no improvement and is forgotten.
    """
    before: Watch = {"epoch": 0, "previous": math.nan, "best": math.inf, "best_epoch": 0} if watch is None else watch
    after = {**before, "epoch": before["epoch"] + 1, "smoothed": math.nan}
    if not math.isfinite(loss):
        return after
    previous = loss if math.isnan(before["previous"]) else before["previous"]
    after["previous"] = loss
    after["smoothed"] = loss + smoothing * (previous - loss)  # two equal losses give just this loss, without rounding
    if after["smoothed"] < before["best"]:
        after |= {"best": after["smoothed"], "best_epoch": after["epoch"]}
    return after


def stale(watch: Watch, patience: int) -> bool:
    """Whether the best epoch lies more than `patience` epochs back."""
    return watch["epoch"] - watch["best_epoch"] > patience


class MSES(Strategy):
    """Modality-specific early stopping, after Fujimori et al., ACPR 2019.

    The article could not be obtained: its abstract tells of classifiers for each modality, learned together with
    the joint one, and of a separate stop for each modality. The rule here is that of the authors of AGM (ICCV 2023),
    who compare with it. After each epoch v is the mean cross-entropy of a modality's own logits on the slice;
    `observed` smooths it. When the best epoch lies more than `patience` back, the modality stops for good: its weights
    go back to that epoch, and from then on its encoder and its part of the head stand still bit for bit, momentum,
    weight decay and batch statistics included. When all have stopped, training ends.

    weight: factor on the sum of the modalities' own losses, which are trained beside the joint one (0: joint only).
    restore="modality" puts back the encoder and the part of the head of the modality that stops; "all" puts the
    whole model and the optimizer back to that epoch, but for those that stopped before, as the AGM authors' code does,
    and so takes steps back from the others; "none" puts nothing back.

    A modality without an item in the slice is not watched. In a Window it moves again when the window has closed.
    """

    requires = frozenset({"unimodal", "slice"})
    min_modalities = 2
    neutral = {"weight": 0.0, "patience": 1_000_000}  # noqa: RUF012
    state = ("watched", "stopped", "kept")
    cost = {"forward": 1, "backward": 1, "slice": 1}  # noqa: RUF012

    def __init__(
        self,
        *,
        patience: int = 10,
        smoothing: float = 0.6,
        weight: float = 1.0,
        restore: Literal["modality", "all", "none"] = "modality",
    ) -> None:
        self.patience = patience
        self.smoothing = smoothing
        self.weight = weight
        self.restore = restore
        self.watched: dict[str, Watch] = {}
        self.stopped: list[str] = []
        self.kept: dict[str, dict[str, Any]] = {}

    def plan(self, step: Step, passes: Sequence[Pass]) -> Sequence[Pass]:
        if not self.stopped:
            return passes
        return [replace(p, freeze=p.freeze | set(self.stopped)) for p in passes]

    def losses(self, step: Step, out: Outputs, terms: Terms) -> Terms:
        if self.weight == 0.0:
            return terms
        own = {}
        for m, logits in out.unimodal.items():
            if not step.pass_.moves(m):  # where the head's parts share a bias, it would follow a modality at rest
                continue
            own[f"mses/{m}"] = self.weight * step.loss(step.kept(logits), step.here(m))
        return {**terms, **own}

    def epoch_end(self, run: Run, metrics: Mapping[str, Any]) -> None:
        watching = {m: s["loss"] for m, s in metrics["unimodal"].items() if m not in self.stopped}
        for m, loss in watching.items():
            self.watched[m] = observed(self.watched.get(m), loss, self.smoothing)
            if self.watched[m]["best_epoch"] == self.watched[m]["epoch"]:
                self._keep(run, m)
        for m in watching:
            if stale(self.watched[m], self.patience):
                self._stop(run, m)
        for m in run.modalities:
            run.log(f"mses/stopped/{m}", float(m in self.stopped))
        if len(self.stopped) == len(run.modalities):
            run.stop()

    def _keep(self, run: Run, modality: str) -> None:
        if self.restore == "none":
            return
        whole = self.restore == "all"
        self.kept[modality] = {g: run.snapshot(g, optimizer=whole) for g in self._groups(run, modality)}

    def _stop(self, run: Run, modality: str) -> None:
        at_rest = {f"{part}:{m}" for m in self.stopped for part in ("encoder", "head")}
        for group, snapshot in self.kept.pop(modality, {}).items():
            if group not in at_rest:
                run.restore(group, snapshot)
        self.stopped.append(modality)

    def _groups(self, run: Run, modality: str) -> list[str]:
        """The parameter groups to put back when a modality stops."""
        own = (f"encoder:{modality}", f"head:{modality}")
        return [g for g in run.model.groups() if self.restore == "all" or g in own]
