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
    """Train and score one run and write its row; the row alone if it is there already.

    Continues from the run's checkpoint where there is one. checkpoint_every: seconds between checkpoints, which are
    taken between epochs: a kill costs at most that and the epoch under way, with what a strategy tries out in it.
    on_epoch is told how many epochs are done, and of how many. bench: which bench asks. A run that diverges, that turns
    out not to be possible, or that has taken several processes of this bench down with it, gives a row that says so. The
    runs that it learns from are done first where the store lacks them or their weights.

    crowded: whether other processes may take of the device's memory, so that a smaller micro-batch is not the first cure.

    Raises Claimed while another process works on it or on one that it learns from, Crowded where memory runs out and is
    crowded, MmzooError where the store cannot be written to.
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
            teach = partial(
                run_one,
                catalogue=catalogue,
                store=store,
                device=device,
                checkpoint_every=checkpoint_every,
                bench=bench,
                crowded=crowded,
            )
            row = _run(
                Session(
                    planned,
                    catalogue,
                    store,
                    device=device,
                    checkpoint_every=checkpoint_every,
                    on_epoch=on_epoch,
                    held=held,
                    teach=teach,
                    crowded=crowded,
                )
            )
        held.release(done=True)
    return row


def _run(session: Session) -> Row:
    """The row of a run, written."""
    planned, store = session.planned, session.store
    spec = planned.spec
    before = store.finished(spec.run_id)
    started = time.time()
    forget_peak(session.device)
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
        "metrics": {},
        "cost": {},
        "hashes": {},
        "teachers": {},
        "warnings": {},
        "record": {},
        "spec": spec.as_dict(),
    }
    if spec.tuning is not None:
        row["tuning"] = summary(store.tuning(spec.tuning["study"]), spec.tuning["trials"])
    session.trackers.start(row)
    try:
        session.check_deaths()
        with local_code.frozen():
            check_identity(session.catalogue, spec)
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
    if before is not None and row["status"] not in FINAL:
        session.trackers.end(row)
        return row  # only the weights or the peers' protocol were wanted: what was scored stays
    session.write_history()
    row["timing"] = {
        "seconds": session.train_seconds + session.teacher_seconds,
        "seconds_total": time.time() - started,
        "finished": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    }
    if row["teachers"]:
        row["timing"]["seconds_teachers"] = session.teacher_seconds
    row["environment"] = environment(session.device)
    store.write(row)
    session.log(f"ends: {row['status']}{row['reason'] and ': '}{row['reason']}")
    session.trackers.end(row)
    if row["status"] in FINAL:
        session.checkpoint.forget()
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
