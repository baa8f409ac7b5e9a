"""Whether a strategy looks for the labels of test samples."""

from __future__ import annotations

import inspect
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mmzoo.data.store.home import home
from mmzoo.errors import HERE
from mmzoo.evaluation.predictions import predict
from mmzoo.testing.harness.cases import StrategyCase, is_combination
from mmzoo.testing.harness.report import Skipped, contract, require
from mmzoo.testing.harness.tasks import train
from mmzoo.testing.harness.tripwire import watching


@contract("strategy")
def check_tripwire(case: StrategyCase) -> None:
    """It does not look for what it is not given: live objects, frames of its callers, prepared data, results."""
    if is_combination(case.first):
        raise Skipped("it only holds others")
    try:
        author = Path(inspect.getsourcefile(type(case.first)) or "")
    except TypeError:
        author = Path()
    if not author.name:
        raise Skipped("its source is not available")
    with _decoy() as folder, watching(author, [folder, home(), HERE / "data" / "datasets"]) as found:
        task = case.task()
        run = case.run(task)
        train(run, 2)
        predict(run.model, run.strategy, [task.batch("test")])
    require(
        not found,
        "a strategy learns from what its hooks are given",
        f"it looks at {'; '.join(found)}",
        "leave that out: labels of test samples are not in a process that trains, and a row that rests on them elsewhere is no "
        "result",
    )


@contextmanager
def _decoy() -> Iterator[Path]:
    """MMZOO_HOME with something in it that looks like prepared data."""
    before = os.environ.get("MMZOO_HOME")
    with tempfile.TemporaryDirectory(prefix="mmzoo-check-") as name:
        store = Path(name) / "stores" / "decoy" / "own-0"
        store.mkdir(parents=True)
        (store / "meta.json").write_text("{}", encoding="utf-8")
        (store / "index.csv").write_text("id,label\nsample,0\n", encoding="utf-8")
        os.environ["MMZOO_HOME"] = name
        try:
            yield Path(name)
        finally:
            if before is None:
                del os.environ["MMZOO_HOME"]
            else:
                os.environ["MMZOO_HOME"] = before
