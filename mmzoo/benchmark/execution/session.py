"""The training and scoring of one planned run, from its checkpoint where there is one."""

from __future__ import annotations

import json
import os
import platform
import time
import traceback
from collections.abc import Callable
from typing import Any

from mmzoo.benchmark.execution import memory
from mmzoo.benchmark.execution.artifacts import model_hash, order_hash, write_inputs, write_predictions, write_weights
from mmzoo.benchmark.execution.building import Kit, answers_of, data_of, set_threads
from mmzoo.benchmark.execution.checkpoint import Checkpoint
from mmzoo.benchmark.execution.device import environment
from mmzoo.benchmark.execution.fitting import Fitting, Saved, Watcher
from mmzoo.benchmark.execution.nonzero_ranks import job_of
from mmzoo.benchmark.execution.packing import Crowded
from mmzoo.benchmark.execution.process_notes import per_process
from mmzoo.benchmark.execution.scoring import (
    ends,
    floor_row,
    on_device,
    peers_scores,
    predictions,
    score,
    still_improving,
)
from mmzoo.benchmark.execution.teachers import Row, Teachers, load_teachers
from mmzoo.benchmark.execution.team import Alone
from mmzoo.benchmark.execution.torchrun import team
from mmzoo.benchmark.planning.planned import Planned
from mmzoo.benchmark.planning.refusals import inert
from mmzoo.benchmark.results.leases import Claim
from mmzoo.benchmark.results.store import Store
from mmzoo.core.precision import tf32
from mmzoo.data.loading.datamodule import DataModule, Loader
from mmzoo.errors import MmzooError
from mmzoo.evaluation.complexity import complexity
from mmzoo.evaluation.metrics import classification
from mmzoo.evaluation.predictions import EVAL_BATCH
from mmzoo.registry import Catalogue
from mmzoo.trackers.base import Trackers
from mmzoo.training.loop import Selection, fit
from mmzoo.training.run import Run

#: processes of one bench that may die in a row while they run the same run, no epoch done
DEATHS = 3


class Session(Watcher):
    """The training of one planned run. teach: does a run that this one learns from, and gives its row. crowded: whether
    others may take of the device's memory."""

    def __init__(
        self,
        planned: Planned,
        catalogue: Catalogue,
        store: Store,
        *,
        device: str,
        checkpoint_every: float,
        on_epoch: Callable[[int, int], None],
        held: Claim,
        teach: Callable[[Planned], Row],
        crowded: Callable[[], bool] = lambda: False,
    ) -> None:
        self.planned, self.catalogue, self.store, self.device = planned, catalogue, store, device
        self.checkpoint_every, self.on_epoch, self.claim, self.teach = checkpoint_every, on_epoch, held, teach
        self.crowded = crowded
        self.checkpoint = Checkpoint(planned, store)
        self.trackers = Trackers(catalogue, planned.track, store.root)
        self.history: list[dict[str, Any]] = []
        self.train_seconds = 0.0
        self.teacher_seconds = 0.0
        self.eval_batch = EVAL_BATCH
        self._least: int | None = 1
        self._test: Loader | None = None
        self.team: Alone = team() or Alone()
        #: the peers' protocol alone: test scores of every epoch, and the seconds they took. Nothing here reads them but
        #: `peers_scores`.
        self.watched: list[dict[str, Any]] = []
        self.watch_seconds = 0.0

    def log(self, text: str) -> None:
        self.store.log(self.planned.spec.run_id, text)

    def check_deaths(self) -> None:
        """Raise MmzooError for a run that takes down every process that comes near it."""
        if self.claim.deaths >= DEATHS:
            raise MmzooError(
                f"{self.claim.deaths} processes in a row were killed while they ran it, without finishing one more "
                "epoch. Often the machine is out of memory: a smaller --set train.micro_batch=..., or fewer --workers."
            )

    # ------------------------------------------------------------------ memory
    def train_and_score(self) -> Row:
        """All that the row says of how it went; with a smaller micro-batch where memory runs out."""
        spec = self.planned.spec
        if spec.floor is not None:
            started = time.monotonic()
            row = floor_row(self.planned, self.catalogue, self.store)
            self.train_seconds = time.monotonic() - started
            return row
        if spec.training.processes != self.team.size:
            raise MmzooError(
                f"it was planned for {spec.training.processes} processes, and here {'is' if self.team.size == 1 else 'are'} "
                f"{self.team.size}: the bench that planned it does it, under torchrun."
            )
        data = data_of(self.catalogue, spec)
        saved = self.checkpoint.load()
        begun = None if saved is None else saved["micro_batch"]
        micro = memory.smallest(spec.training.micro_batch, self.store.micro_batch(spec.data_id), begun)
        if saved and saved["micro_batch"] != micro:
            saved = None  # all of a run is trained in the same pieces
        while True:
            try:
                with tf32(spec.training.tf32):
                    return self._attempt(data, saved, micro)
            except Exception as error:
                if not memory.ran_out(error):
                    raise
                self.log(traceback.format_exc())
                reason = memory.told(error)
            # Out here nothing holds the tensors of the attempt any more.
            if self.crowded():
                memory.free(self.device)
                self.log("out of memory beside other runs: resumes when it has the GPU to itself")
                raise Crowded(f"{spec.run_id} does not fit beside other runs.")
            micro, saved = self._smaller(micro, reason), None
            memory.free(self.device)
            self.log(f"out of memory: restarts with micro-batches of {micro}")

    def _smaller(self, micro: int | None, reason: str) -> int:
        """Half of the micro-batch, or the one that another run of the data set has found. Raises MmzooError at the end."""
        spec = self.planned.spec
        if self._least is None:
            raise MmzooError(
                f"out of memory ({reason}), and the head {spec.head} acts between the stages of the encoders: no "
                "micro-batches. A smaller --set train.batch_size=..., for all methods, is what is left."
            )
        share = spec.training.batch_size // self.team.size
        now = min(micro or share, share)
        if now <= self._least:
            raise MmzooError(f"out of memory ({reason}), even in micro-batches of {now}.")
        found = self.store.micro_batch(spec.data_id) or now
        return max(found if found < now else now // 2, self._least)

    def _share_micro_batch(self, run: Run) -> None:
        """Tell all later runs of the data set what fits, once an epoch was trained with it."""
        spec = self.planned.spec
        facts = {"dataset": self.planned.dataset, "run_id": spec.run_id, "environment": environment(self.device)}
        self.store.note_micro_batch(spec.data_id, run.training.micro_batch or spec.training.batch_size, facts)

    # ------------------------------------------------------------------ one attempt
    def _attempt(self, whole: DataModule, saved: Saved | None, micro: int | None) -> Row:
        """Train and score, and gather the row. `fit` is called here, so that a step is few frames away from `run_one`."""
        spec = self.planned.spec
        kit = Kit(self.catalogue, spec, whole, self.device, share=self.team.share)
        initial = model_hash(kit.model)
        self._least = memory.least(kit.model)
        micro = spec.training.micro_batch if self._least is None else micro
        limited = micro != spec.training.micro_batch
        self.eval_batch = min(EVAL_BATCH, micro) if limited and micro else EVAL_BATCH
        teachers = self._teachers(kit)
        fitting = Fitting(kit, spec.training.replace(micro_batch=micro), self.team, eval_batch=self.eval_batch)
        sources = {str(t.modality): t.spec for t in self.planned.teachers if str(t.modality) in teachers.models}
        self.team.order(job_of(spec, sources, device=self.device, micro_batch=micro, eval_batch=self.eval_batch))
        with self.team.together(self.device):
            run, selection, saved = fitting.begin(teachers.models, saved, self)
            self._begin(run, saved, kit)
            fit(run, **fitting.loop(run, selection, self))
            self._count_seconds()
        differs = per_process(run, kit, self.team.size)
        scored = self._scored(run, kit, selection)
        size = self._warned(run, kit, micro if limited else None)
        return {
            **scored,
            **({"bayes": kit.data.best} if kit.data.best is not None and kit.data.metric == "acc" else {}),
            "micro_batch": micro,
            "processes": self.team.size,
            **({"per_process": differs} if differs else {}),
            "warnings": dict(run.warnings),
            "still_improving": still_improving(
                self.history,
                None if spec.selection == "last" or spec.training.choose_from else selection.epoch,
                run.n_epochs,
            ),
            "record": ends(self.history),
            "cost": {"train_items": kit.train.n_seen, **size, **teachers.cost(run.cost)},
            "hashes": {**self._hashes(run, kit), "initial_weights": initial, **scored["hashes"]},
            "teachers": {
                m: {"run_id": r["run_id"], "weights": r["hashes"]["weights"]} for m, r in teachers.rows.items()
            },
        }

    def _teachers(self, kit: Kit) -> Teachers:
        """The teachers of the run, trained first where the store lacks them."""
        wants = "teachers" in kit.requires
        found = load_teachers(self.planned, self.catalogue, self.store, kit.whole, self.teach) if wants else {}
        set_threads(kit.model, self.device)  # after the teachers, which may have been trained here
        models = {m: model for m, (model, _) in found.items()}
        teachers = Teachers(models, {m: row for m, (_, row) in found.items()}, len(kit.model.modalities))
        self.teacher_seconds = teachers.seconds
        return teachers

    def _begin(self, run: Run, saved: Saved | None, kit: Kit) -> None:
        """Take up the records of the checkpoint, if there is one, and note that the run is at work."""
        self.history = [] if saved is None else list(saved["history"])
        self.watched = [] if saved is None else list(saved["watched"])
        self.train_seconds = 0.0 if saved is None else float(saved["seconds"])
        self._started(
            run, "starts at epoch 0" if saved is None else f"resumes after epoch {run.epoch} of {run.n_epochs}"
        )
        self._test = kit.loader("test", batch_size=self.eval_batch) if self.planned.peers else None

    def _scored(self, run: Run, kit: Kit, selection: Selection) -> Row:
        """The scores of the selected epoch; predictions and weights are written, with their hashes."""
        metrics, chosen, answers = score(run, kit, selection, batch_size=self.eval_batch)
        hashes = {"predictions": write_predictions(self.store, self.planned.spec.run_id, chosen, answers)}
        if self.planned.peers:
            metrics["peers"] = peers_scores(self.watched, kit.data.metric, metrics)
        if self.planned.keep:
            hashes |= write_weights(self.store, self.planned.spec.run_id, run)
            hashes |= write_inputs(self.store, self.planned.spec.run_id, kit.data)
        return {"metrics": metrics, "hashes": hashes}

    def _warned(self, run: Run, kit: Kit, limit: int | None) -> Row:
        """The size and operations of the model. Warns the run of all that a reader of its row has to know.

        Args:
            limit: The micro-batch that memory has forced; None where it has not.
        """
        spec = self.planned.spec
        for note in inert(self.catalogue, spec.parts, spec.training):
            run.warn(note)
        if limit is not None:
            run.warn(memory.note(kit.model, limit))
        for note in kit.whole.notes:
            run.warn(note)
        size = complexity(run.model, run.strategy, next(on_device(kit.train, run.device)))
        if reason := size.pop("uncounted", None):
            run.warn(f"the operations of this model could not be counted ({reason})")
        return size

    def _hashes(self, run: Run, kit: Kit) -> Row:
        return {
            "split": kit.whole.split_hash,
            "recipe": kit.whole.recipe_hash,
            "weights": model_hash(run.model),
            "batch_order": order_hash(kit.train, self.planned.spec.seed),
        }

    def _count_seconds(self) -> None:
        """The seconds of training so far, without those spent on the test set for the column of the peers' protocol."""
        self.train_seconds = self._seconds_before + time.monotonic() - self._began - self.watch_seconds

    def _started(self, run: Run, how: str) -> None:
        self.claim.note(run.epoch, run.n_epochs, began=True)
        before = self.claim.before
        gone = "" if before is None or before.released else f"; taken over from {before.owner}, which is gone"
        others = f", the first of {self.team.size}," if self.team.size > 1 else ""
        self.log(f"process {os.getpid()} on {platform.node()}{others} {how} on {self.device}{gone}")
        self.watch_seconds = 0.0
        self._seconds_before, self._began, self._saved_at = self.train_seconds, time.monotonic(), time.monotonic()

    # ------------------------------------------------------------------ what the training tells
    def unusable(self, error: Exception) -> None:
        self.checkpoint.set_aside(error)

    def epoch(self, run: Run, record: dict[str, Any]) -> bool:
        self.history.append(record)
        self._count_seconds()
        self.trackers.epoch(record)
        return time.monotonic() - self._saved_at >= self.checkpoint_every and run.epoch < run.n_epochs

    def save(self, run: Run, selection: Selection, others: list[dict[str, Any]]) -> None:
        self.checkpoint.save(
            run.epoch,
            {
                "run": run.state_dict(),
                "selection": vars(selection),
                "history": self.history,
                "seconds": self.train_seconds,
                "watched": self.watched,
                "micro_batch": run.training.micro_batch,
                "others": others,
            },
        )
        self._saved_at = time.monotonic()

    def settled(self, run: Run) -> None:
        self.claim.note(run.epoch, run.n_epochs)
        if run.training.micro_batch != self.planned.spec.training.micro_batch:
            self._share_micro_batch(run)
        self.on_epoch(run.epoch, run.n_epochs)

    def candidate(self, run: Run, epoch: int) -> None:
        if self._test is not None:
            start = time.monotonic()
            p = predictions(run, self._test)
            p = p.answered(answers_of(self.catalogue, self.planned.spec).target)
            self.watched.append({"epoch": epoch, **classification(p.scores, p.target, p.logits)})
            self.watch_seconds += time.monotonic() - start

    def write_history(self) -> None:
        """The epochs so far, one line each; nothing where training never began."""
        if self.history:
            lines = "".join(json.dumps(r, sort_keys=True) + "\n" for r in self.history)
            self.store.write_file(self.planned.spec.run_id, "history.jsonl", lines.encode())
