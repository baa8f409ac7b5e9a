"""Rows for reports: equal to those of the store but for the scores of the validation set, and their equal parts are one object."""

from __future__ import annotations

import gc
from pathlib import Path

from mmzoo.benchmark.results.sharing import each_of, shared_rows
from mmzoo.benchmark.results.store import Store
from mmzoo.errors import CorruptFile


def test_the_rows_are_those_of_the_store(results: Path) -> None:
    store, errors = Store(results), list[CorruptFile]()
    rows, _ = store.rows()
    for row in rows:
        row["metrics"].pop("holdout", None)
    assert shared_rows(store, errors) == rows and errors == []


def test_equal_parts_are_one_object(results: Path) -> None:
    rows = shared_rows(Store(results), [])
    first, *others = (row["spec"]["training"] for row in rows)
    assert any(other is first for other in others) and all(other is first for other in others if other == first)
    keys = [next(k for k in row["metrics"] if k == "main_metric") for row in rows]
    assert all(key is keys[0] for key in keys)


def test_a_row_that_cannot_be_read_is_named_and_collection_goes_on(copied: Path) -> None:
    store, errors = Store(copied), list[CorruptFile]()
    ids = store.run_ids()
    (store.folder(ids[0]) / "result.json").write_text("{")
    assert each_of(store, errors, lambda row: row["run_id"]) == ids[1:]
    assert len(errors) == 1 and gc.isenabled()
