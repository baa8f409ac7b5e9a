"""Results folders of several seeds without training, and the index of what was read of them."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

from mmzoo.benchmark.results.store import Store
from mmzoo.config.spec import RunSpec
from mmzoo.errors import CorruptFile

#: how many rows were read since it was last asked
Count = Callable[[], int]
#: seeds of each configuration
SEEDS = 4


def with_seed(row: dict[str, Any], seed: int) -> dict[str, Any]:
    """The row of another seed of the same configuration."""
    other = copy.deepcopy(row)
    other["seed"] = other["spec"]["seed"] = seed
    other["run_id"] = RunSpec.from_dict(other["spec"]).run_id
    return other


def plainly(found: Store) -> list[dict[str, Any]]:
    """The rows as their files have them."""
    rows = []
    for run_id in found.run_ids():
        try:
            rows.append(found.row(run_id))
        except CorruptFile:
            continue
    return [row for row in rows if row is not None]


def row_file(found: Store, run_id: str) -> Path:
    return found.folder(run_id) / "result.json"


def the_index(home: Path) -> Path:
    (found,) = (home / "rows").glob("*.sqlite")
    return found
