"""The training of a run, as each of the processes that train it together does it; most often there is one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from mmzoo import __version__
from mmzoo.benchmark.execution import memory
from mmzoo.benchmark.execution.artifacts import model_hash, order_hash
from mmzoo.benchmark.execution.building import Kit
from mmzoo.benchmark.execution.checkpoint import packed, unpacked
from mmzoo.benchmark.execution.team import Alone
from mmzoo.core.model import MultimodalModel
from mmzoo.errors import MmzooError
from mmzoo.training.config import Training
from mmzoo.training.loop import Selection
from mmzoo.training.run import Run

Saved = Mapping[str, Any]
#: what processes may hold differently between two epochs; weights and the optimizer's memory are the same in all
_OWN = ("strategy", "teachers", "warnings")


class Watcher:
    """What is told of a training. Only the first process has anybody who listens."""

    def unusable(self, error: Exception) -> None:
        """A checkpoint could not be gone on from."""

    def epoch(self, run: Run, record: dict[str, Any]) -> bool:
        """An epoch is over; whether a checkpoint is wanted."""
        return False

    def save(self, run: Run, selection: Selection, others: list[dict[str, Any]]) -> None:
        """Keep a checkpoint. others: what each process after the first holds otherwise than it."""

    def settled(self, run: Run) -> None:
        """All is done that belongs to the epoch."""

    def candidate(self, run: Run, epoch: int) -> None:
        """The weights at hand are about to be offered for selection."""


class Fitting:
    """The training of one run. eval_batch: items of a batch of holdout."""

    def __init__(self, kit: Kit, training: Training, team: Alone, *, eval_batch: int) -> None:
        self.kit, self.training, self.team, self.eval_batch = kit, training, team, eval_batch

    def begin(
        self, teachers: Mapping[str, MultimodalModel], saved: Saved | None, watcher: Watcher
    ) -> tuple[Run, Selection, Saved | None]:
        """The run where its checkpoint left it, or at its start where there is none that fits; with the checkpoint that it
        goes on from. teachers: by modality. What the first process is given of both counts."""
        self.team.check_same(self._facts, "all must see the same data, files and versions.")
        for model in teachers.values():
            model.load_state_dict(self.team.handed({name: t.cpu() for name, t in model.state_dict().items()}))
        saved = self.team.handed(saved)
        if saved is not None:
            try:
                began, error = (*self._resumed(teachers, saved), saved), None
            except Exception as raised:
                if memory.ran_out(raised):
                    raise
                error = raised
            faults = [text for text in self.team.told(None if error is None else str(error)) if text is not None]
            if not faults:
                return began
            watcher.unusable(error or MmzooError(faults[0]))
        return self.kit.run(self.training, teachers=teachers), Selection(), None

    def _resumed(self, teachers: Mapping[str, MultimodalModel], saved: Saved) -> tuple[Run, Selection]:
        list(saved["history"]), float(saved["seconds"]), list(saved["watched"])  # the first process will read them
        state = dict(saved["run"])
        if self.team.rank:
            state |= saved["others"][self.team.rank - 1]
        return self.kit.run(self.training, teachers=teachers, state=state), Selection(**saved["selection"])

    def loop(self, run: Run, selection: Selection, watcher: Watcher) -> dict[str, Any]:
        """The arguments of `fit` for this training. It raises MmzooError where the processes' weights come apart."""
        kit = self.kit
        held = kit.loader("holdout", batch_size=self.eval_batch).part(*self.team.share) if kit.held_out else None

        def epoch_done(record: dict[str, Any], chosen: Selection) -> None:
            self.team.check_same(
                lambda: {"weights": model_hash(run.model)},
                f"they have come apart in epoch {record['epoch']}. Something in this method is not reduced over processes: "
                "train it in one.",
            )
            if self.team.handed(watcher.epoch(run, record)):
                own = {k: v for k, v in run.state_dict().items() if k in _OWN} if self.team.rank else {}
                watcher.save(run, chosen, [unpacked(each) for each in self.team.told(packed(own))[1:]])
            watcher.settled(run)

        return {
            "holdout": held.batches if held else None,
            "metric": self.kit.data.metric,
            "selection": selection,
            "on_epoch": epoch_done,
            "on_candidate": lambda epoch: watcher.candidate(run, epoch),
            "pooled": self.team.size > 1,
            "choose": kit.spec.selection != "last",
        }

    def _facts(self) -> dict[str, str]:
        whole = self.kit.whole
        return {
            "versions": f"mmzoo {__version__}, torch {torch.__version__}",
            "items in its splits": whole.split_hash,
            "data": whole.recipe_hash,
            "initial weights": model_hash(self.kit.model),
            "order of batches": order_hash(self.kit.train, self.kit.spec.seed),
        }
