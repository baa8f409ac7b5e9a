"""Runs what a plan lists, one idempotent call a run."""

from __future__ import annotations

import contextlib
import datetime
import time
import traceback
import warnings
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

from mmzoo.benchmark.execution.device import environment, forget_peak
from mmzoo.benchmark.execution.scoring import check_finite
from mmzoo.benchmark.execution.session import Session
from mmzoo.benchmark.execution.teachers import Row
from mmzoo.benchmark.planning.planned import Planned
from mmzoo.benchmark.results import leases
from mmzoo.benchmark.results.forms import FINAL, SCHEMA
from mmzoo.benchmark.results.leases import Claimed
from mmzoo.benchmark.results.records import summary
from mmzoo.benchmark.results.store import Store
from mmzoo.config.identity import check_identity
from mmzoo.errors import Diverged, Incompatible, told
from mmzoo.io.interrupts import is_stop
from mmzoo.registry import Catalogue, local_code


def run_one(
    planned: Planned,
    catalogue: Catalogue,
    store: Store,
    *,
    device: str = "cpu",
    checkpoint_every: float = 30.0,
    on_epoch: Callable[[int, int], None] = lambda done, of: None,
    bench: str = "",
    crowded: Callable[[], bool] = lambda: False,
) -> Row:
    """Train and score one run and write its row; return the row alone where it is in the store.

    Resumes from the checkpoint where there is one. Teachers that the store lacks are trained first. A run that diverges,
    turns out to be impossible, or has repeatedly killed its process gives a row that says so.

    Args:
        planned, catalogue, store: The run, where its parts come from, and where its row goes.
        device: Where it is trained.
        checkpoint_every: Seconds between checkpoints, taken between epochs: a kill costs at most that and one epoch.
        on_epoch: Called with the number of epochs done and of all.
        bench: Name of the benchmark that asks.
        crowded: Whether other processes may use the device's memory, so that waiting may help where it runs out.

    Raises:
        Claimed: Another process works on it, or on one of its teachers.
        Crowded: Memory ran out while others used the device.
        MmzooError: The store cannot be written to.
    """
    run_id = planned.spec.run_id
    row = store.finished(run_id, weights=planned.keep, peers=planned.peers)
    if row is not None:
        return row
    with contextlib.ExitStack() as stack:
        with store.guard():
            held = stack.enter_context(leases.claim(store.folder(run_id), bench))
        row = store.finished(run_id, weights=planned.keep, peers=planned.peers)  # another may have ended it meanwhile
        if row is None:
            stack.enter_context(_warnings_logged(lambda text: store.log(run_id, text)))
            shared: dict[str, Any] = {"device": device, "checkpoint_every": checkpoint_every, "crowded": crowded}
            teach = partial(run_one, catalogue=catalogue, store=store, bench=bench, **shared)
            row = _run(Session(planned, catalogue, store, on_epoch=on_epoch, held=held, teach=teach, **shared))
        held.release(done=True)
    return row


def _run(session: Session) -> Row:
    """The row of a run, written."""
    before = session.store.finished(session.planned.spec.run_id)
    started = time.monotonic()
    forget_peak(session.device)
    row = _unscored(session)
    session.trackers.start(row)
    try:
        session.check_deaths()
        with local_code.frozen():
            check_identity(session.catalogue, session.planned.spec)
            row |= session.train_and_score()
        check_finite(row["metrics"], "test")
    except Claimed:
        raise
    except Diverged as error:
        row |= {"status": "diverged", "reason": str(error), "metrics": {}}
    except Incompatible as error:
        row |= {"status": "refused", "reason": str(error)}
    except Exception as error:
        row |= {"status": "failed", "reason": told(error)}
        session.log(traceback.format_exc())
    except BaseException as error:
        if is_stop(error):
            session.log("is stopped")
            raise
        row |= {"status": "failed", "reason": f"{told(error)}: code must not end its process"}
        session.log(traceback.format_exc())
    # Where only the weights or the test-set selection were wanted, what was scored before stays.
    if before is None or row["status"] in FINAL:
        _write(session, row, started)
    session.trackers.end(row)
    if row["status"] in FINAL:
        session.checkpoint.forget()
    return row


def _unscored(session: Session) -> Row:
    """The row of a run before it has begun."""
    planned, spec = session.planned, session.planned.spec
    row: Row = {
        "schema": SCHEMA,
        "run_id": spec.run_id,
        "config_id": spec.config_id,
        "dataset": planned.dataset,
        "method": planned.method,
        "label": planned.label,
        "modality": planned.modality,
        "seed": spec.seed,
        "status": "ok",
        "reason": "",
        **{key: {} for key in ("metrics", "cost", "hashes", "teachers", "warnings", "record")},
        "spec": spec.as_dict(),
    }
    if spec.tuning is not None:
        row["tuning"] = summary(session.store.tuning(spec.tuning["study"]), spec.tuning["trials"])
    return row


def _write(session: Session, row: Row, started: float) -> None:
    """Add times and environment to a row, and write it."""
    session.write_history()
    row["timing"] = {
        "seconds": session.train_seconds + session.teacher_seconds,
        "seconds_total": time.monotonic() - started,
        "finished": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    }
    if row["teachers"]:
        row["timing"]["seconds_teachers"] = session.teacher_seconds
    row["environment"] = environment(session.device)
    session.store.write(row)
    session.log(f"ends: {row['status']}{row['reason'] and ': '}{row['reason']}")


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
