"""Runs what a plan lists, one idempotent call a run."""

from __future__ import annotations

import contextlib
import datetime
import hashlib
import io
import json
import math
import os
import platform
import time
import traceback
import warnings
from collections.abc import Callable, Iterator, Mapping
from functools import lru_cache, partial
from typing import Any

import numpy as np
import torch

from mmzoo import __version__
from mmzoo.bench import claims, memory
from mmzoo.bench.claims import Claimed
from mmzoo.bench.plan import Planned
from mmzoo.bench.records import summary
from mmzoo.bench.store import FINAL, SCHEMA, STRATEGY_STATE, WEIGHTS, Store
from mmzoo.catalogue import ENCODER_OPTIONS, Catalogue
from mmzoo.complexity import complexity
from mmzoo.config.spec import Part
from mmzoo.data.datamodule import DataModule, Loader
from mmzoo.errors import BadValue, CorruptFile, Diverged, Incompatible, MmzooError
from mmzoo.evaluation import EVAL_BATCH, Fitted, Predictions, branch_scores, modality_scores, predict
from mmzoo.metrics import classification
from mmzoo.model import MultimodalModel
from mmzoo.run import Run
from mmzoo.seeding import seeded, stream
from mmzoo.strategy import Chain, Strategy, Window
from mmzoo.tracker import Trackers
from mmzoo.trainer import Selection, fit
from mmzoo.types import Batch

#: parameters below which a model trains faster on one thread
SMALL = 1_000_000
#: processes of one bench that may die in a row while they run the same run, no epoch done
DEATHS = 3
CHECKPOINT = "checkpoint.pt"
Row = dict[str, Any]


def run_one(
    planned: Planned, catalogue: Catalogue, store: Store, *, device: str = "cpu", checkpoint_every: float = 30.0,
    on_epoch: Callable[[int, int], None] = lambda done, of: None, bench: str = "",
) -> Row:  # fmt: skip
    """Train and score one run and write its row; the row alone if it is there already.

    Continues from the run's checkpoint where there is one. checkpoint_every: seconds between checkpoints, which are
    taken between epochs: a kill costs at most that and the epoch under way, with what a strategy tries out in it.
    on_epoch is told how many epochs are done, and of how many. bench: which bench asks. A run that diverges, that turns
    out not to be possible, or that has taken several processes of this bench down with it, gives a row that says so. The
    runs that it learns from are done first where the store lacks them or their weights.

    Raises Claimed while another process works on it or on one that it learns from, MmzooError where the store cannot be
    written to.
    """
    run_id = planned.spec.run_id
    row = store.finished(run_id, weights=planned.keep, peers=planned.peers)
    if row is not None:
        return row
    with contextlib.ExitStack() as stack:
        with store.guard():
            held = stack.enter_context(claims.claim(store.folder(run_id), bench))
        row = store.finished(run_id, weights=planned.keep, peers=planned.peers)  # another may have ended it meanwhile
        if row is None:
            stack.enter_context(_warnings_logged(lambda text: store.log(run_id, text)))
            row = _run(_Session(planned, catalogue, store, device, checkpoint_every, on_epoch, held))
        held.release(done=True)
    return row


def _run(session: _Session) -> Row:
    """The row of a run, written."""
    planned, store = session.planned, session.store
    spec = planned.spec
    before = store.finished(spec.run_id)
    started = time.time()
    row: Row = {
        "schema": SCHEMA, "run_id": spec.run_id, "config_id": spec.config_id, "dataset": planned.dataset,
        "method": planned.method, "label": planned.label, "modality": planned.modality, "seed": spec.seed,
        "status": "ok", "reason": "", "metrics": {}, "cost": {}, "hashes": {}, "teachers": {}, "warnings": {}, "record": {},
        "spec": spec.as_dict(),
    }  # fmt: skip
    if spec.tuning is not None:
        row["tuning"] = summary(store.tuning(spec.tuning["study"]), spec.tuning["trials"])
    session.trackers.start(row)
    try:
        session.check_deaths()
        row |= session.train_and_score()
        _check_finite(row["metrics"], "test")
    except Claimed:
        raise
    except Diverged as error:
        row |= {"status": "diverged", "reason": str(error), "metrics": {}}
    except Incompatible as error:
        row |= {"status": "refused", "reason": str(error)}
    except Exception as error:
        row |= {"status": "failed", "reason": f"{type(error).__name__}: {error}"}
        session.log(traceback.format_exc())
    except BaseException:
        session.log("is stopped")
        raise
    if before is not None and row["status"] not in FINAL:
        session.trackers.end(row)
        return row  # only the weights or the peers' protocol were wanted: what was scored stays
    session.write_history()
    row["timing"] = {
        "seconds": session.train_seconds + session.teacher_seconds, "seconds_total": time.time() - started,
        "finished": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    }  # fmt: skip
    if row["teachers"]:
        row["timing"]["seconds_teachers"] = session.teacher_seconds
    row["environment"] = environment(session.device)
    store.write(row)
    session.log(f"ends: {row['status']}{row['reason'] and ': '}{row['reason']}")
    session.trackers.end(row)
    if row["status"] in FINAL:
        session.forget_checkpoint()
    return row


@contextlib.contextmanager
def _warnings_logged(log: Callable[[str], None]) -> Iterator[None]:
    """Python's warnings go into the run's log, not across the progress bar."""
    before = warnings.showwarning

    def show(message: Any, category: Any, filename: str, lineno: int, file: Any = None, line: Any = None) -> None:
        log(f"{category.__name__}: {message} ({filename}:{lineno})")

    warnings.showwarning = show
    try:
        yield
    finally:
        warnings.showwarning = before


class _Session:
    """The training of one planned run, with its checkpoint."""

    def __init__(
        self, planned: Planned, catalogue: Catalogue, store: Store, device: str, checkpoint_every: float,
        on_epoch: Callable[[int, int], None], held: claims.Claim,
    ) -> None:  # fmt: skip
        self.planned, self.catalogue, self.device = planned, catalogue, device
        self.store, self.folder = store, store.folder(planned.spec.run_id)
        self.checkpoint_every, self.on_epoch, self.claim = checkpoint_every, on_epoch, held
        self.history: list[dict[str, Any]] = []
        self.train_seconds = 0.0
        self.teacher_seconds = 0.0
        self.eval_batch = EVAL_BATCH
        self._least: int | None = 1
        self.trackers = Trackers(catalogue, planned.track, store.root)
        #: the peers' protocol alone: test scores of every epoch, and the seconds they took. Nothing here reads them but
        #: `_peers`.
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

    def train_and_score(self) -> Row:
        """All that the row says of how it went; with a smaller micro-batch where memory runs out."""
        spec = self.planned.spec
        data = load_data(self.catalogue, spec.dataset, json.dumps(spec.as_dict()["data_params"], sort_keys=True))
        saved = self._load_checkpoint()
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
            micro, saved = self._smaller(micro, reason), None
            memory.free(self.device)
            self.log(f"out of memory: starts anew in micro-batches of {micro}")

    def _smaller(self, micro: int | None, reason: str) -> int:
        """Half of the micro-batch, or the one that another run of the data set has found. Raises MmzooError at the end."""
        spec = self.planned.spec
        if self._least is None:
            raise MmzooError(
                f"out of memory ({reason}), and the head {spec.head} acts between the stages of the encoders: no "
                "micro-batches. A smaller --set train.batch_size=..., for all methods, is what is left."
            )
        now = min(micro or spec.training.batch_size, spec.training.batch_size)
        if now <= self._least:
            raise MmzooError(f"out of memory ({reason}), even in micro-batches of {now}.")
        found = self.store.micro_batch(spec.data_id) or now
        return max(found if found < now else now // 2, self._least)

    def _attempt(self, whole: DataModule, saved: dict[str, Any] | None, micro: int | None) -> Row:
        spec = self.planned.spec
        data = whole if spec.modalities is None else whole.only(spec.modalities)
        strategy = build_strategy(self.catalogue, spec.parts)
        size = spec.training.batch_size
        apart = "slice" in strategy.requires
        parts = ("train",) if apart or spec.spare_slice else ("train", "slice")
        train = data.loader(*parts, batch_size=size, device=self.device)
        model = build_model(self.catalogue, spec, data)
        initial = _model_hash(model)
        self._least = memory.least(model)
        micro = spec.training.micro_batch if self._least is None else micro
        limited = micro != spec.training.micro_batch
        self.eval_batch = min(EVAL_BATCH, micro) if limited and micro else EVAL_BATCH
        teachers = self._teachers(whole) if "teachers" in strategy.requires else {}
        rows = [row for _, row in teachers.values()]
        self.teacher_seconds = sum(row["timing"]["seconds"] for row in rows)
        # A pass over one of M modalities is 1/M of one over the whole model.
        lessons = {k: sum(row["cost"][k] for row in rows) / len(model.modalities) for k in ("forward", "backward")}
        set_threads(model, self.device)  # after the teachers, which may have been trained here

        unused = [model]

        def begin(state: Any) -> Run:
            return Run(
                unused.pop() if unused else build_model(self.catalogue, spec, data),
                build_strategy(self.catalogue, spec.parts), train=train,
                slice=data.loader("slice", batch_size=size, device=self.device) if apart else None,
                training=spec.training.replace(micro_batch=micro), seed=spec.seed, device=self.device, state=state,
                teachers={m: teacher for m, (teacher, _) in teachers.items()},
            )  # fmt: skip

        run, selection = self._begin(begin, saved)
        self._train(run, data, selection)
        metrics = self._score(run, data, selection)
        if self.planned.peers:
            metrics["peers"] = _peers(self.watched, data.metric, metrics)
        if self.planned.keep:
            self._write_weights(run)
        if limited:
            run.warn(memory.note(model, micro))
        return {
            "metrics": metrics,
            **({"bayes": data.best} if data.best is not None and data.metric == "acc" else {}),
            "micro_batch": micro,
            "warnings": dict(run.warnings),
            "record": _ends(self.history),
            "cost": {"train_items": train.n_seen, "forward": round(run.cost.forward + lessons["forward"], 6),
                     "backward": round(run.cost.backward + lessons["backward"], 6),
                     **complexity(run.model, run.strategy, next(_on(train, run.device))),
                     **({"teachers": {k: round(v, 6) for k, v in lessons.items()}} if teachers else {})},
            "hashes": {"split": whole.split_hash, "recipe": whole.recipe_hash, "initial_weights": initial,
                       "weights": _model_hash(run.model), "batch_order": _order_hash(train, spec.seed)},
            "teachers": {m: {"run_id": row["run_id"], "weights": row["hashes"]["weights"]}
                         for m, (_, row) in teachers.items()},
        }  # fmt: skip

    def _begin(self, begin: Callable[[Any], Run], saved: dict[str, Any] | None) -> tuple[Run, Selection]:
        """The run where its checkpoint left it, or at its start where there is none that fits."""
        if saved is not None:
            try:
                run, selection = begin(saved["run"]), Selection(**saved["selection"])
                self.history, self.train_seconds = list(saved["history"]), float(saved["seconds"])
                self.watched = list(saved["watched"])
                self._started(run, f"goes on after epoch {run.epoch} of {run.n_epochs}")
                return run, selection
            except Claimed:
                raise
            except Exception as error:
                if memory.ran_out(error):
                    raise
                self._set_aside(error)
        run = begin(None)
        self.history, self.watched, self.train_seconds, self.watch_seconds = [], [], 0.0, 0.0
        self._started(run, "starts at epoch 0")
        return run, Selection()

    def _started(self, run: Run, how: str) -> None:
        self.claim.note(run.epoch, run.n_epochs, began=True)
        before = self.claim.before
        gone = "" if before is None or before.released else f"; taken over from {before.owner}, which is gone"
        self.log(f"process {os.getpid()} on {platform.node()} {how} on {self.device}{gone}")

    def write_history(self) -> None:
        """The epochs so far, one line each; nothing where training never began."""
        if self.history:
            self._write("history.jsonl", "".join(json.dumps(r, sort_keys=True) + "\n" for r in self.history).encode())

    def _train(self, run: Run, data: DataModule, selection: Selection) -> None:
        began, saved_at, before = time.monotonic(), time.monotonic(), self.train_seconds
        holdout = data.loader("holdout", batch_size=self.eval_batch, device=self.device)
        test = data.loader("test", batch_size=self.eval_batch, device=self.device) if self.planned.peers else None

        def epoch_done(record: dict[str, Any], chosen: Selection) -> None:
            nonlocal saved_at
            self.history.append(record)
            self.train_seconds = before + time.monotonic() - began - self.watch_seconds
            self.trackers.epoch(record)
            if time.monotonic() - saved_at >= self.checkpoint_every and run.epoch < run.n_epochs:
                self._save_checkpoint(run, chosen)
                saved_at = time.monotonic()
            self.claim.note(run.epoch, run.n_epochs)
            if run.training.micro_batch != self.planned.spec.training.micro_batch:
                self._share_micro_batch(run)
            self.on_epoch(run.epoch, run.n_epochs)

        def watch(epoch: int) -> None:
            if test is not None:
                start = time.monotonic()
                p = self._predict(run, test)
                self.watched.append({"epoch": epoch, **classification(p.scores, p.target, p.logits)})
                self.watch_seconds += time.monotonic() - start

        fit(run, holdout.batches, metric=data.metric, selection=selection, on_epoch=epoch_done, on_candidate=watch)

    def _share_micro_batch(self, run: Run) -> None:
        """Tell all later runs of the data set what fits, once an epoch was trained with it."""
        spec = self.planned.spec
        facts = {"dataset": self.planned.dataset, "run_id": spec.run_id, "environment": environment(self.device)}
        self.store.note_micro_batch(spec.data_id, run.training.micro_batch or spec.training.batch_size, facts)

    def _score(self, run: Run, data: DataModule, selection: Selection) -> dict[str, Any]:
        """Test scores of the last and of the chosen epoch, each computed once, on every item; and those of holdout,
        on which anything may be chosen."""
        test = data.loader("test", batch_size=self.eval_batch, device=self.device)
        last = self._predict(run, test)
        selection.restore(run)
        # Not the slice: some methods train on it and some do not.
        known = data.loader("train", batch_size=self.eval_batch, device=self.device)
        fitted = Fitted.on(self._predict(run, known), data.n_classes)
        held = self._predict(run, data.loader("holdout", batch_size=self.eval_batch, device=self.device))
        chosen = self._predict(run, test)
        self._write_predictions(chosen)
        return {
            **modality_scores(run.model, run.strategy, chosen, fitted, partial(_on, test, run.device), data.metric),
            "last": classification(last.scores, last.target, last.logits),
            "holdout": branch_scores(run.model, held, fitted, data.metric),
            "selected_epoch": selection.epoch, "epochs": run.epoch, "main_metric": data.metric,
            "own_logits": run.model.head.how,
            "n_scored": len(chosen.target), "n_total": len(data.splits["test"]), "n_seen": len(chosen.seen(chosen.target)),
        }  # fmt: skip

    def _predict(self, run: Run, loader: Loader) -> Predictions:
        return predict(run.model, run.strategy, _on(loader, run.device))

    # ------------------------------------------------------------------ teachers
    def _teachers(self, data: DataModule) -> dict[str, tuple[MultimodalModel, Row]]:
        """modality -> its trained model and the row of its run, for each that the plan names."""
        return {str(t.modality): self._teacher(t, data) for t in self.planned.teachers}

    def _teacher(self, planned: Planned, data: DataModule) -> tuple[MultimodalModel, Row]:
        """A teacher as the store has it; where its weights cannot be used, it is trained again."""
        path = self.store.folder(planned.spec.run_id) / WEIGHTS
        model = build_model(self.catalogue, planned.spec, data.only([str(planned.modality)]))
        row = self._teacher_row(planned)
        try:
            _read_weights(path.read_bytes(), model, row)
        except (OSError, CorruptFile) as error:
            path.unlink(missing_ok=True)
            self.store.log(planned.spec.run_id, f"{WEIGHTS} could not be used ({error}); training again")
            row = self._teacher_row(planned)
            _read_weights(path.read_bytes(), model, row)
        return model, row

    def _teacher_row(self, planned: Planned) -> Row:
        """The row of a teacher, which is trained now where it or its weights are missing."""
        row = run_one(planned, self.catalogue, self.store, device=self.device,
                      checkpoint_every=self.checkpoint_every, bench=self.claim.bench)  # fmt: skip
        if row["status"] != "ok":
            kind = Incompatible if row["status"] in FINAL else MmzooError
            raise kind(f"its teacher {planned.label} (run {row['run_id']}) is {row['status']}: {row['reason']}")
        return row

    # ------------------------------------------------------------------ files
    def _write_weights(self, run: Run) -> None:
        """The weights, in the order that their hash is taken in; and what the strategy remembers, which may decide how it
        predicts."""
        from safetensors.torch import save

        tensors = {n: t.detach().cpu().clone().contiguous() for n, t in run.model.state_dict().items()}
        if state := run.strategy.state_dict():
            buffer = io.BytesIO()
            torch.save(state, buffer)
            self._write(STRATEGY_STATE, buffer.getvalue())
        self._write(WEIGHTS, save(tensors, {"order": json.dumps(list(tensors))}))

    def _write(self, name: str, data: bytes) -> None:
        self.store.write_file(self.planned.spec.run_id, name, data)

    def _write_predictions(self, p: Predictions) -> None:
        buffer = io.BytesIO()
        arrays = {"index": p.index, "target": p.target, "scores": p.scores.float()}
        arrays |= {f"unimodal.{m}": z.float() for m, z in p.unimodal.items()}
        np.savez_compressed(buffer, **{k: v.cpu().numpy() for k, v in arrays.items()})  # type: ignore[arg-type]
        self._write("predictions.npz", buffer.getvalue())

    def _save_checkpoint(self, run: Run, selection: Selection) -> None:
        """Keep where the run is. A disk that does not take it costs the checkpoint, not the run."""
        buffer = io.BytesIO()
        spec = json.dumps(self.planned.spec.as_dict(), sort_keys=True)
        state = {"run": run.state_dict(), "selection": vars(selection), "history": self.history,
                 "seconds": self.train_seconds, "spec": spec, "watched": self.watched,
                 "micro_batch": run.training.micro_batch}  # fmt: skip
        torch.save(state, buffer)
        try:
            self._write(CHECKPOINT, sealed(buffer.getvalue()))
        except MmzooError as error:
            self.log(f"no checkpoint after epoch {run.epoch}: {error}")

    def _load_checkpoint(self) -> dict[str, Any] | None:
        """The checkpoint of this very spec. One that cannot be read is set aside, and the run starts anew."""
        path = self.folder / CHECKPOINT
        if not path.exists():
            return None
        try:
            saved = torch.load(io.BytesIO(_unsealed(path.read_bytes())), map_location="cpu", weights_only=True)
            same = saved["spec"] == json.dumps(self.planned.spec.as_dict(), sort_keys=True)
            if not same or not {"run", "selection", "history", "seconds", "watched", "micro_batch"} <= set(saved):
                raise BadValue("it is not of this run")
            if bool(saved["watched"]) != self.planned.peers:
                raise BadValue("it was begun under another protocol")
            return saved
        except Exception as error:
            self._set_aside(error)
            return None

    def _set_aside(self, error: Exception) -> None:
        path = self.folder / CHECKPOINT
        with self.store.guard():
            path.replace(path.with_suffix(".unreadable"))
        self.log(f"{CHECKPOINT} could not be used ({type(error).__name__}: {error}); starting from epoch 0")

    def forget_checkpoint(self) -> None:
        (self.folder / CHECKPOINT).unlink(missing_ok=True)


def sealed(data: bytes) -> bytes:
    """With its hash behind it, where torch.load overlooks it: torch itself notices no bit that flips."""
    return data + hashlib.sha256(data).digest()


def _unsealed(data: bytes) -> bytes:
    if sealed(data[:-32]) != data:
        raise CorruptFile("it is damaged")
    return data[:-32]


def _peers(watched: list[dict[str, Any]], metric: str, honest: dict[str, Any]) -> dict[str, Any]:
    """The epoch with the best test score and its scores, ties to the earliest; flatters: how far its `metric` lies
    above that of the epoch chosen on holdout."""
    best = max(watched, key=lambda scores: scores[metric])
    scores = {k: v for k, v in best.items() if k != "epoch"}
    return {"protocol": "epoch chosen on test", "selected_epoch": best["epoch"], **scores,
            "flatters": best[metric] - honest[metric]}  # fmt: skip


def _on(loader: Loader, device: torch.device) -> Iterator[Batch]:
    return (batch.to(device) for batch in loader.batches())


def _ends(history: list[dict[str, Any]]) -> dict[str, dict[str, float]]:
    """The first and the last epoch's value of everything that was logged in training; nothing without any."""
    if not history:
        return {}
    first, last = history[0]["train"], history[-1]["train"]
    return {k: {"first": first[k], "last": last[k]} for k in first if k in last}


# ---------------------------------------------------------------------------------------------- building
@lru_cache(maxsize=4)
def load_data(catalogue: Catalogue, name: str, params: str) -> DataModule:
    """A data set, kept for the next run of the same process. params: as JSON; those of a store name it by its hashes."""
    given = json.loads(params)
    return open_prepared(given) if "store" in given else catalogue.get("datasets", name).load()(**given)


def open_prepared(given: Mapping[str, Any]) -> DataModule:
    """The data set of the store that a spec's parameters name."""
    from mmzoo.data.choice import find
    from mmzoo.data.prepared import open_module, reading_params

    told = given["store"]
    data = open_module(find(told).folder, content=told["content"], metric=told["metric"], **reading_params(given))
    return data.only(given["modalities"]) if given.get("modalities") else data


def build_model(catalogue: Catalogue, spec: Any, data: DataModule) -> MultimodalModel:
    """Encoders and head of a run, every part initialised from a stream of its own name."""
    encoders = {}
    for m in data.modalities:
        name, params = spec.encoders[m]
        options = {k: v for k, v in params.items() if k in ENCODER_OPTIONS}
        own = {k: v for k, v in params.items() if k not in options}
        with seeded(spec.seed, "init", "encoder", m):
            encoders[m] = catalogue.get("encoders", name).load()(data.spec(m), **own).configure(data.spec(m), **options)
    head = catalogue.get("heads", spec.head).load()
    with seeded(spec.seed, "init", "head", spec.head):
        read = head.readout(encoders, **spec.head_params)
        built = head({m: e.out_dim for m, e in read.items()}, data.n_classes, **spec.head_params)
        model = MultimodalModel(read, built)  # within the stream: a head may make layers for the encoders' stages
    model.precision = spec.training.precision
    return model


@contextlib.contextmanager
def tf32(wanted: bool) -> Iterator[None]:
    """TF32 on CUDA GPUs within a block, where it is wanted; as it was afterwards."""
    matmul, cudnn = torch.backends.cuda.matmul, torch.backends.cudnn
    was = matmul.allow_tf32, cudnn.allow_tf32
    if wanted:
        matmul.allow_tf32 = cudnn.allow_tf32 = True
    try:
        yield
    finally:
        if wanted:
            matmul.allow_tf32, cudnn.allow_tf32 = was


def build_strategy(catalogue: Catalogue, parts: tuple[Part, ...]) -> Strategy:
    """One strategy, or the chain of several, each in its window."""
    built = []
    for part in parts:
        strategy = catalogue.get("strategies", part.strategy).load()(**part.params)
        if part.bounds is not None:
            strategy = Window(strategy, *part.bounds)
        built.append(strategy)
    return built[0] if len(built) == 1 else Chain(*built)


def set_threads(model: MultimodalModel, device: str) -> None:
    """One thread for a small model on the CPU: handing its short operations to several costs more than it gains, and
    many times more on a busy machine. OMP_NUM_THREADS decides where it is set."""
    if device == "cpu" and "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(1 if _small(model) else os.cpu_count() or 1)


def _small(model: MultimodalModel) -> bool:
    return sum(p.numel() for p in model.parameters()) < SMALL


def is_small(planned: Planned, catalogue: Catalogue) -> bool:
    """Whether a run's model is trained on one thread; of one that cannot be built it is not known."""
    spec = planned.spec
    try:
        data = load_data(catalogue, spec.dataset, json.dumps(spec.as_dict()["data_params"], sort_keys=True))
        with torch.device("meta"):
            return _small(build_model(catalogue, spec, data if spec.modalities is None else data.only(spec.modalities)))
    except Exception:
        return False


def _read_weights(data: bytes, model: MultimodalModel, row: Row) -> None:
    """Fill a model. Raises CorruptFile unless these are all of its weights, with the hash that the row names."""
    from safetensors import SafetensorError
    from safetensors.torch import load

    try:
        model.load_state_dict(load(data))
    except (SafetensorError, RuntimeError, ValueError, KeyError) as error:
        raise CorruptFile(f"{type(error).__name__}: {error}") from error
    if _model_hash(model) != row["hashes"].get("weights"):
        raise CorruptFile("they are not those that the run was scored with")


# ---------------------------------------------------------------------------------------------- facts
def environment(device: str) -> dict[str, Any]:
    """What the numbers were made on."""
    facts = {"mmzoo": __version__, "torch": torch.__version__, "numpy": np.__version__,
             "python": platform.python_version(), "machine": platform.machine(), "device": device,
             "threads": torch.get_num_threads()}  # fmt: skip
    if device.startswith("cuda"):
        facts["gpu"] = torch.cuda.get_device_name(device)
    return facts


def _check_finite(metrics: Any, where: str) -> None:
    """Raise Diverged, naming the first score that is not finite."""
    for key, value in metrics.items():
        if isinstance(value, dict):
            _check_finite(value, f"{where} {key}")
        elif isinstance(value, float) and not math.isfinite(value):
            raise Diverged(f"{where} {key} is {value}")


def _model_hash(model: MultimodalModel) -> str:
    return weights_hash(model.state_dict())


def weights_hash(tensors: Mapping[str, torch.Tensor]) -> str:
    """A short hash of tensors in their order, names included."""
    total = hashlib.sha256()
    for name, tensor in tensors.items():
        total.update(name.encode() + tensor.detach().cpu().contiguous().numpy().tobytes())
    return total.hexdigest()[:16]


def _order_hash(train: Loader, seed: int) -> str:
    """The items of the first epoch in the order in which they are shown."""
    order = train.order(stream(seed, "order", 0))
    return hashlib.sha256(order.numpy().tobytes()).hexdigest()[:16]


def check_device(name: str) -> str:
    """`auto` or a torch device that is there. Raises BadValue otherwise."""
    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
        torch.zeros((), device=device).item()  # "meta" makes tensors, but they hold nothing
    except (RuntimeError, AssertionError, ValueError) as error:
        why = (str(error) or type(error).__name__).splitlines()[0].rstrip(".")
        raise BadValue(f"device {name!r} cannot be used here: {why}. Try --device auto.") from None
    return str(device)
