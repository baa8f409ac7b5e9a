"""How long a plan will take: from rows of the same bench, else from a few steps of plain training. No torch at import."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from statistics import median
from typing import TYPE_CHECKING, Any

from mmzoo.benchmark.planning.planned import Planned
from mmzoo.benchmark.results.sharing import each_of
from mmzoo.registry import Catalogue

if TYPE_CHECKING:
    from mmzoo.benchmark.results.store import Store

#: a backward costs about two forwards
BACKWARD = 2.0
#: steps of a probe that are timed, after one that is not
STEPS = 3
#: what a run takes beside its training steps: a share of them for holdout and test, and seconds for building and scoring
EVALUATION, FIXED = 0.25, 0.3
#: runs whose rows are looked at: an estimate needs no more
MOST = 2000


def recorded(missing: Sequence[Planned], store: Store) -> dict[str, float]:
    """data set -> seconds that its missing runs take, by rows of the same data set that are there already: of the same method
    where there are some, else of the others, by what the methods cost. Of a large folder MOST runs are looked at; data sets without a
    row among them are left out."""
    if not missing:
        return {}
    times: dict[tuple[str, str], dict[str, list[float]]] = {}
    for dataset, training, label, seconds in filter(None, each_of(store, [], _timed, MOST, "scores")):
        times.setdefault((dataset, training), {}).setdefault(label, []).append(seconds)
    like = {key: median([s for each in by_label.values() for s in each]) for key, by_label in times.items()}
    same = {(*key, label): median(each) for key, by_label in times.items() for label, each in by_label.items()}
    found: dict[str, float] = {}
    for planned in missing:
        key = (planned.dataset, _text(planned.spec.training.as_dict()))
        if key in like:
            seconds = same.get((*key, planned.label), like[key])
            found[planned.dataset] = found.get(planned.dataset, 0.0) + seconds
    return found


def _timed(row: Mapping[str, Any]) -> tuple[str, str, str, float] | None:
    """Data set, training, label and seconds of a run that was trained."""
    if row["status"] != "ok" or not row["metrics"].get("epochs"):
        return None
    return row["dataset"], _text(row["spec"]["training"]), row["label"], _seconds(row)


def _text(training: Mapping[str, Any]) -> str:
    return json.dumps(training, sort_keys=True)


def _seconds(row: Mapping[str, Any]) -> float:
    return float(row["timing"].get("seconds_total", row["timing"]["seconds"]))


def probed(missing: Sequence[Planned], catalogue: Catalogue, device: str) -> dict[str, float]:
    """data set -> seconds that its missing runs take, by the time of a few steps of plain training on it."""
    from mmzoo.benchmark.execution.building import forget_data

    found: dict[str, float] = {}
    missing = [p for p in missing if p.spec.floor is None]
    for dataset in dict.fromkeys(p.dataset for p in missing):
        runs = [p for p in missing if p.dataset == dataset]
        try:
            step, steps = _step_seconds(runs[0], catalogue, device)
        except Exception:  # an estimate ends no bench: the run itself will say what is wrong, and the others go on
            continue
        finally:
            forget_data(device)
        work = sum(_cost(p, catalogue) * p.spec.training.epochs for p in runs)
        found[dataset] = step * steps * work * (1 + EVALUATION) + FIXED * len(runs)
    return found


def _cost(planned: Planned, catalogue: Catalogue) -> float:
    """What a step of a method costs, in steps of plain training on all modalities."""
    costs = [catalogue.get("strategies", part.strategy).cost for part in planned.spec.parts]
    forward = max([float(c.get("forward", 1)) for c in costs] or [1.0])
    backward = max([float(c.get("backward", 1)) for c in costs] or [1.0])
    share = 1.0 if planned.spec.modalities is None else 0.6  # one of two or three modalities
    return share * (forward + BACKWARD * backward) / (1 + BACKWARD)


def _step_seconds(planned: Planned, catalogue: Catalogue, device: str) -> tuple[float, int]:
    """Seconds of one step of plain training on a data set, and the steps of an epoch."""
    from mmzoo.benchmark.execution.building import build_model, data_of, set_threads
    from mmzoo.core.precision import tf32
    from mmzoo.core.seeding import stream
    from mmzoo.strategies.plain import Plain
    from mmzoo.training.run import Run

    spec = planned.spec
    data = data_of(catalogue, spec)
    data = data if spec.modalities is None else data.only(spec.modalities)
    model = build_model(catalogue, spec, data)
    set_threads(model, device)
    train = data.loader("train", "slice", batch_size=spec.training.batch_size, device=device)
    run = Run(model, Plain(), train=train, training=spec.training, seed=0, device=device)
    run.start_epoch()
    times = []
    with tf32(spec.training.tf32):
        for n, batch in enumerate(train.batches(stream(0, "order", 0))):
            started = time.perf_counter()
            run.step(batch)
            _wait(device)
            times.append(time.perf_counter() - started)
            if n == STEPS:
                break
    return min(times[1:] or times), len(train)


def _wait(device: str) -> None:
    if device.startswith("cuda"):
        import torch

        torch.cuda.synchronize(device)


def told(seconds: float) -> str:
    """`about 40 s`, `about 3 min`, `about 2.5 h`"""
    if seconds < 100:
        return f"about {max(1, round(seconds))} s"
    return f"about {round(seconds / 60)} min" if seconds < 5400 else f"about {seconds / 3600:.1f} h"
