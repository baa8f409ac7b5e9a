"""Settings chosen on holdout: the same number of trials and epochs for every method, through Optuna."""

from __future__ import annotations

import dataclasses
import itertools
import math
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from mmzoo.benchmark.planning.planned import Plan, Planned
from mmzoo.benchmark.results import leases
from mmzoo.benchmark.results.records import best_of
from mmzoo.benchmark.results.store import Store
from mmzoo.config.spec import RunSpec, digest
from mmzoo.errors import Diverged, Incompatible, MmzooError, told
from mmzoo.registry import Catalogue

#: the first seed that is tried for tuning; those that a bench reports are left out
FIRST_SEED = 1_000_000
#: seconds between two looks at a study that another bench is at
WAIT = 2.0
#: bounds of weight_decay, and by which factor lr is searched around the given one, down and up
DECAY, AROUND = (1e-6, 1e-2), 10.0
Values = Mapping[str, float]
OnTrial = Callable[[Planned, int, Mapping[str, Any]], None]


@dataclass(frozen=True)
class Dimension:
    """One number that is searched, and where trials start."""

    low: float
    high: float
    start: float
    log: bool = False
    whole: bool = False


def search_space(planned: Planned, catalogue: Catalogue) -> dict[str, Dimension]:
    """Key -> dimension: lr and weight decay, for every method alike, and the declared numbers of strategies (`I.KEY` of
    part I) and head (`head.KEY`). What the user or the recipe has set, and what means nothing there, is not searched."""
    spec = planned.spec
    t = spec.training
    found = {"train.lr": Dimension(t.lr / AROUND, t.lr * AROUND, t.lr, log=True)}
    low, high = DECAY
    found["train.weight_decay"] = Dimension(low, high, min(max(t.weight_decay, low), high), log=True)
    owners = [(str(i), catalogue.get("strategies", p.strategy), p.params) for i, p in enumerate(spec.parts)]
    for prefix, entry, params in (*owners, ("head", catalogue.get("heads", spec.head), spec.head_params)):
        params = {**entry.defaults(), **params}
        for name, param in entry.params.items():
            s = param.search
            if s is not None and param.idle(params) is None and s.low <= params[name] <= s.high:
                found[f"{prefix}.{name}"] = Dimension(s.low, s.high, params[name], s.log, param.type == "int")
    return {key: d for key, d in found.items() if key not in planned.fixed}


def with_values(spec: RunSpec, values: Values) -> RunSpec:
    """A spec with other settings, under the keys of its search space."""

    def of(prefix: str) -> dict[str, float]:
        return {k.partition(".")[2]: v for k, v in values.items() if k.partition(".")[0] == prefix}

    parts = tuple(replace(p, params={**p.params, **of(str(i))}) for i, p in enumerate(spec.parts))
    return replace(
        spec, training=spec.training.replace(**of("train")), parts=parts, head_params={**spec.head_params, **of("head")}
    )


def tuned_plan(
    plan: Plan,
    catalogue: Catalogue,
    store: Store,
    trials: int,
    *,
    device: str = "cpu",
    on_trial: OnTrial = lambda planned, number, trial: None,
) -> Plan:
    """The plan with the settings that each configuration does best with on holdout; studies that are done are read.

    Teachers that are in it for another method's sake are trained as the tuned method is. Raises MmzooError where Optuna is
    not installed.
    """
    from mmzoo.benchmark.execution.building import forget_data

    seed = next(s for s in itertools.count(FIRST_SEED) if s not in plan.bench.seeds)
    chosen: dict[str, tuple[str, dict[str, float]]] = {}
    runs: dict[str, Planned] = {}
    for planned in plan.runs:
        if planned.role == "teacher":
            continue
        if planned.spec.floor is not None:
            runs.setdefault(planned.spec.run_id, planned)
            continue
        config = planned.spec.config_id
        if config not in chosen:
            study = Study(planned, catalogue, store, seed, device)
            chosen[config] = study.name, study.run(trials, on_trial)
        name, values = chosen[config]
        spec = replace(with_values(planned.spec, values), tuning={"trials": trials, "seed": seed, "study": name})
        shared = {k: v for k, v in values.items() if k.partition(".")[0] == "train"}
        teachers = tuple(replace(t, spec=with_values(t.spec, shared), role="teacher") for t in planned.teachers)
        title = f"{planned.title} (tuned)" if planned.title else ""
        method = f"{planned.method} (tuned)"
        for run in (*teachers, replace(planned, spec=spec, method=method, title=title, teachers=teachers)):
            runs.setdefault(run.spec.run_id, run)
    forget_data(device)
    refused = tuple(replace(r, method=f"{r.method} (tuned)") for r in plan.refused)
    return Plan(tuple(runs.values()), refused, plan.bench, plan.entries)


class Study:
    """The trials of one configuration, in `DIR/tuning/<study>/`: Optuna's journal, and the record that rows refer to.

    A trial depends on the trials before it and on its number alone, so that a study that is interrupted and taken up
    again goes on as if nothing had happened, and one of 20 trials begins with those of one of 10.
    """

    def __init__(self, planned: Planned, catalogue: Catalogue, store: Store, seed: int, device: str) -> None:
        self.planned, self.catalogue, self.store, self.seed, self.device = planned, catalogue, store, seed, device
        self.space = search_space(planned, catalogue)
        self._facts = {"space": {k: dataclasses.asdict(d) for k, d in self.space.items()}, "seed": seed}
        base = replace(planned.spec, seed=seed)
        self.name = digest({"spec": base.as_dict(), **self._facts})

    def run(self, trials: int, on_trial: OnTrial) -> dict[str, float]:
        """Do the trials that are missing, or wait for another bench that is at them; the values of the best."""
        record = self._record()
        while len(record["trials"]) < trials:
            try:
                with leases.claim(self._folder) as held:
                    record = self._record()  # whoever had the claim before may have added to it
                    for trial in self._missing(trials):
                        record["trials"] = [t for t in record["trials"] if t["number"] < trial["number"]] + [trial]
                        self.store.note_tuning(self.name, record)
                        held.note(len(record["trials"]), trials)
                        on_trial(self.planned, trial["number"], trial)
                    held.release(done=True)
            except leases.Claimed:
                time.sleep(WAIT)
                record = self._record()
        return dict(best_of(record, trials)["values"])

    @property
    def _folder(self) -> Path:
        return self.store.root / "tuning" / self.name

    def _record(self) -> dict[str, Any]:
        if (self._folder / "record.json").exists():
            return self.store.tuning(self.name)
        return {**self._facts, "label": self.planned.label, "dataset": self.planned.dataset, "trials": []}

    def _missing(self, trials: int) -> Iterator[dict[str, Any]]:
        """Every trial from Optuna's storage, then new ones until there are enough."""
        optuna = _optuna()
        study, done = self._open(optuna)
        for trial in done[:trials]:
            yield {"number": trial.user_attrs["number"], "values": _plain(trial.params), **trial.user_attrs["result"]}
        ranges = {k: _distribution(optuna, d) for k, d in self.space.items()}
        for number in range(len(done), trials):
            # Not of the study's own: methods then try the same rates first, and none has luckier draws than another.
            study.sampler = optuna.samplers.TPESampler(seed=int(digest(["tuning", self.seed, number]), 16) % 2**32)
            if number == 0:
                study.enqueue_trial({k: d.start for k, d in self.space.items()})
            asked = study.ask(ranges)
            values = _plain(asked.params)
            result = score_trial(replace(self.planned, spec=self._spec(values)), self.catalogue, self.device)
            asked.set_user_attr("number", number)
            asked.set_user_attr("result", result)
            study.tell(asked, result["score"])
            yield {"number": number, "values": values, **result}

    def _spec(self, values: Values) -> RunSpec:
        return replace(with_values(self.planned.spec, values), seed=self.seed)

    def _open(self, optuna: Any) -> tuple[Any, list[Any]]:
        """The study and its finished trials in order; one that a kill left open is given up and made again."""
        from optuna.storages import JournalStorage
        from optuna.storages.journal import JournalFileBackend

        folder = self._folder
        try:
            storage = JournalStorage(JournalFileBackend(str(folder / "optuna.log")))
            study = optuna.create_study(
                storage=storage, study_name=self.name, direction="maximize", load_if_exists=True
            )
            every = study.get_trials(deepcopy=False)
        except (ValueError, KeyError, TypeError) as error:
            raise MmzooError(
                f"Optuna cannot read {folder / 'optuna.log'}: {error}. Move the folder {folder} away and run the same command "
                "again: it repeats that study only."
            ) from error
        complete = optuna.trial.TrialState.COMPLETE
        for trial in every:
            if trial.state in (optuna.trial.TrialState.RUNNING, optuna.trial.TrialState.WAITING):
                storage.set_trial_state_values(trial._trial_id, optuna.trial.TrialState.FAIL)
        return study, [t for t in every if t.state == complete]


def score_trial(planned: Planned, catalogue: Catalogue, device: str) -> dict[str, Any]:
    """Train a run and score it on holdout: score (the data set's metric, at the chosen epoch), loss, cost, status.

    The test items are not there. Teachers are trained within, and counted. A run that diverges, is refused or fails scores
    zero.
    """
    from mmzoo.benchmark.execution import memory
    from mmzoo.benchmark.execution.building import Kit, data_of, set_threads
    from mmzoo.config.identity import check_identity
    from mmzoo.core.precision import tf32
    from mmzoo.evaluation.predictions import EVAL_BATCH
    from mmzoo.training.loop import fit

    spec = planned.spec
    data = data_of(catalogue, spec)
    cost = {"forward": 0.0, "backward": 0.0}
    found: dict[str, Any] = {"score": 0.0, "loss": 1e9, "epoch": -1, "status": "ok", "reason": ""}
    started = time.monotonic()
    try:
        check_identity(catalogue, spec)
        kit = Kit(catalogue, spec, replace(data, splits={k: v for k, v in data.splits.items() if k != "test"}), device)
        set_threads(kit.model, device)
        with tf32(spec.training.tf32):
            run = kit.run()
            cost = vars(run.cost)
            best = fit(run, kit.loader("holdout", batch_size=EVAL_BATCH).batches, metric=data.metric)
        found |= {"score": best.score, "loss": best.loss if math.isfinite(best.loss) else 1e9, "epoch": best.epoch}
    except Diverged as error:
        found |= {"status": "diverged", "reason": str(error)}
    except Incompatible as error:
        found |= {"status": "refused", "reason": str(error)}
    except Exception as error:
        found |= {"status": "failed", "reason": memory.told(error) if memory.ran_out(error) else told(error)}
    return {**found, "seconds": time.monotonic() - started, **{k: float(cost[k]) for k in ("forward", "backward")}}


def _plain(params: Mapping[str, Any]) -> dict[str, float]:
    return {k: v if isinstance(v, int) else float(v) for k, v in params.items()}


def _distribution(optuna: Any, d: Dimension) -> Any:
    if d.whole:
        return optuna.distributions.IntDistribution(int(d.low), int(d.high), log=d.log)
    return optuna.distributions.FloatDistribution(d.low, d.high, log=d.log)


def _optuna() -> Any:
    try:
        import optuna
    except ImportError as error:
        raise MmzooError(f"tuning needs Optuna ({error}). Install it: pip install 'mmzoo[tune]'") from None
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    return optuna


def check_tuning() -> None:
    """Raise MmzooError, before anything is trained, where Optuna is not installed."""
    _optuna()
