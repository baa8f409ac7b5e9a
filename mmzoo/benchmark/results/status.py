"""The state of every run of a store, read from the folders. No torch at import."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

from mmzoo.benchmark.results.forms import FINAL
from mmzoo.benchmark.results.index import reading
from mmzoo.benchmark.results.leases import Held, read_claim
from mmzoo.benchmark.results.store import Reader, Store
from mmzoo.errors import MmzooError


def states(store: Store) -> list[dict[str, Any]]:
    """A mapping a run: state (running, done, failed or waiting), run_id, dataset, label, seed, and what belongs to the
    state: owner, epoch, epochs and seconds; status and reason; seconds and finished."""
    with reading(store, "scores") as read:
        found = [_state(store, run_id, read) for run_id in store.run_ids()]
    return [state for state in found if state is not None]


def studies(store: Store) -> list[dict[str, Any]]:
    """A mapping a study of tuning: study, dataset, label, trials (those done), of (those asked for, 0 where that is not known),
    running; and `unreadable` with the reason where its record cannot be used."""
    folder = store.root / "tuning"
    names = sorted(p.name for p in folder.iterdir() if p.is_dir()) if folder.is_dir() else []
    return [_study(store, name) for name in names]


def _study(store: Store, name: str) -> dict[str, Any]:
    held = read_claim(store.root / "tuning" / name)
    running, of = held is not None and held.alive, 0 if held is None else held.of
    found = {"study": name, "dataset": "?", "label": "?", "trials": 0, "of": of, "running": running}
    if not (store.root / "tuning" / name / "record.json").exists():
        return found  # before its first trial has ended
    try:
        record = store.tuning(name)
    except MmzooError as error:
        return {**found, "unreadable": str(error)}
    return {**found, "dataset": record["dataset"], "label": record["label"], "trials": len(record["trials"])}


def without_row(store: Store) -> tuple[list[dict[str, Any]], int]:
    """The planned runs of a store that have no row, each with its data set, label and seed, and the number of all planned runs."""
    planned = [name for name in store.run_ids() if (store.folder(name) / "planned.json").is_file()]
    return [_named(store, name) for name in planned if store.stamp(name) is None], len(planned)


def unfinished_words(missing: int, planned: int) -> str:
    return f"unfinished: {missing} of {planned} planned run{'s' if planned != 1 else ''} {'have' if missing != 1 else 'has'} no row"


def _state(store: Store, run_id: str, read: Reader) -> dict[str, Any] | None:
    held = read_claim(store.folder(run_id))
    alive = held if held is not None and held.alive else None
    try:
        row = read(run_id)
    except MmzooError as error:
        return {**_named(store, run_id), "state": "failed", "reason": str(error), "unreadable": True}
    if row is None or (alive and row["status"] not in FINAL):
        named = _named(store, run_id)
        if alive is not None:
            return {**named, "state": "running", **_running(alive)}
        if named["label"] or held is not None:
            return {**named, "state": "waiting", "epoch": 0 if held is None else held.epoch}
        return None  # a folder that is no run's
    told = {
        "run_id": run_id,
        "dataset": row["dataset"],
        "label": row["label"],
        "seed": row["seed"],
        "epochs": row["spec"]["training"]["epochs"],
    }
    if row["status"] not in FINAL:
        return {**told, "state": "failed", "reason": row["reason"]}
    timing = row["timing"]
    return {
        **told,
        "state": "done",
        "status": row["status"],
        "reason": row["reason"],
        "seconds": timing.get("seconds_total", timing["seconds"]),
        "finished": timing.get("finished", ""),
    }


def _running(held: Held) -> dict[str, Any]:
    return {
        "owner": held.owner,
        "epoch": held.epoch,
        "epochs": held.of,
        "since": held.since,
        "seconds": max(0.0, time.time() - held.since),
        "last_sign": max(0.0, held.beat),
    }


def _named(store: Store, run_id: str) -> dict[str, Any]:
    try:
        kept = store.planned(run_id)
        title = kept.get("title") or kept["method"]
        label = f"{title}: {kept['modality']}" if kept["modality"] else title
        return {
            "run_id": run_id,
            "dataset": kept["dataset"],
            "label": label,
            "seed": kept["spec"]["seed"],
            "epochs": kept["spec"]["training"]["epochs"],
        }
    except (MmzooError, KeyError, TypeError):
        return {"run_id": run_id, "dataset": "?", "label": "", "seed": "?", "epochs": 0}


def time_left(found: Sequence[dict[str, Any]]) -> float | None:
    """Seconds until all is done at the pace so far: of a data set's own runs that are done, or of all of them. None
    where nobody is at work or nothing is done to go by."""
    running = [s for s in found if s["state"] == "running"]
    ok = [s for s in found if s["state"] == "done" and s["status"] == "ok"]
    if not running or not ok:
        return None
    return sum(_work_left(s, ok) for s in found if s["state"] in ("running", "waiting")) / len(running)


def _work_left(s: dict[str, Any], ok: Sequence[dict[str, Any]]) -> float:
    """Seconds that one run still takes, from the mean time an epoch of the most similar runs took."""
    for like in (
        [d for d in ok if (d["dataset"], d["label"]) == (s["dataset"], s["label"])],
        [d for d in ok if d["dataset"] == s["dataset"]],
        ok,
    ):
        if like:
            pace = sum(d["seconds"] for d in like) / sum(d["epochs"] for d in like)
            return float(pace * max(0, s["epochs"] - s.get("epoch", 0)))
    return 0.0
