"""Early stopping per modality (MSES): a modality whose loss on the meta set rises is frozen at its best epoch."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal

from mmzoo.api import Outputs, Pass, Run, Step, Strategy, Terms

#: what is remembered of a sequence of losses
Watch = dict[str, float]


def observed(watch: Watch | None, loss: float, smoothing: float = 0.6) -> Watch:
    """The memory of a modality after one more validation loss.

    smoothed_1 = v_1, then smoothed_e = smoothing * v_(e-1) + (1 - smoothing) * v_e: a filter over two *raw* losses, not
    a running mean. An epoch is the best one if its smoothed loss is strictly below all before it. A loss that is not
    finite is no improvement and is forgotten.

    Args:
        watch: the memory so far; None: none yet.
        loss: the validation loss.
        smoothing: weight of the previous loss.
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
    """Whether the best epoch is more than `patience` epochs ago."""
    return watch["epoch"] - watch["best_epoch"] > patience


class MSES(Strategy):
    """Stops each modality on its own once its validation loss has stopped falling (after Fujimori et al., ACPR 2019).

    The article was not available; its abstract describes classifiers for each modality, trained together with the joint
    one, and a separate stop for each. The rule here is that of the authors of AGM (ICCV 2023), who compare with it.
    After each epoch v is the mean cross-entropy of a modality's own logits on the meta set; `observed` smooths it. If
    the best epoch is more than `patience` epochs ago, the modality stops for good: its weights return to that epoch,
    and from then on its encoder and its part of the head are frozen bit for bit, momentum, weight decay and batch
    statistics included. When all have stopped, training ends. A modality without samples in the meta set is not
    monitored. In a Window stopped modalities are released when the window closes.

    Args:
        patience: epochs without improvement, strictly more of which stop a modality. The code: 10 to 80.
        smoothing: weight of the previous loss in the filter; 0.6 in the code.
        weight: factor on the sum of the modalities' own losses, trained beside the joint loss; 0: joint loss only.
        restore: "modality" (default, ours) restores encoder and part of the head of the modality that stops. "all"
            restores the whole model and the optimizer, except modalities that stopped earlier, as in the AGM authors'
            code; this also reverts the others. "none" restores nothing.
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
