"""The teachers of a run: other runs of the plan, of one modality each, with the weights that they left."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from mmzoo.benchmark.execution.artifacts import read_weights
from mmzoo.benchmark.execution.building import build_model
from mmzoo.benchmark.planning.planned import Planned
from mmzoo.benchmark.results.forms import FINAL
from mmzoo.benchmark.results.store import WEIGHTS, Store
from mmzoo.core.model import MultimodalModel
from mmzoo.data.loading.datamodule import DataModule
from mmzoo.errors import CorruptFile, Incompatible, MmzooError
from mmzoo.registry import Catalogue

Row = dict[str, Any]


def taught(
    planned: Planned, catalogue: Catalogue, store: Store, whole: DataModule, do: Callable[[Planned], Row]
) -> dict[str, tuple[MultimodalModel, Row]]:
    """modality -> the trained model of each teacher that a run has, and the row of it.

    whole: the data set with all modalities. do: trains a run where it or its weights are missing, and gives its row.
    Raises Incompatible or MmzooError where a teacher has no scores.
    """
    return {str(t.modality): _taught(t, catalogue, store, whole, do) for t in planned.teachers}


def _taught(
    teacher: Planned, catalogue: Catalogue, store: Store, whole: DataModule, do: Callable[[Planned], Row]
) -> tuple[MultimodalModel, Row]:
    """A teacher as the store has it; where its weights cannot be used, it is trained again."""
    path = store.folder(teacher.spec.run_id) / WEIGHTS
    model = build_model(catalogue, teacher.spec, whole.only([str(teacher.modality)]))
    row = _scored(teacher, do(teacher))
    try:
        read_weights(path, model, row)
    except (OSError, CorruptFile) as error:
        path.unlink(missing_ok=True)
        store.log(teacher.spec.run_id, f"{WEIGHTS} could not be used ({error}); training again")
        row = _scored(teacher, do(teacher))
        read_weights(path, model, row)
    return model, row


def _scored(teacher: Planned, row: Row) -> Row:
    if row["status"] != "ok":
        kind = Incompatible if row["status"] in FINAL else MmzooError
        raise kind(f"its teacher {teacher.label} (run {row['run_id']}) is {row['status']}: {row['reason']}")
    return row
