"""The teachers of a run: other runs of the plan, of one modality each, with the weights that they left."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
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
from mmzoo.training.backprop import Cost

Row = dict[str, Any]


@dataclass(frozen=True)
class Teachers:
    """The teachers of a run, by modality.

    Args:
        models: Their trained models.
        rows: Their rows.
        n_modalities: Number of modalities of the model that learns from them.
    """

    models: Mapping[str, MultimodalModel]
    rows: Mapping[str, Row]
    n_modalities: int

    @property
    def seconds(self) -> float:
        """The time that their training took."""
        return float(sum(row["timing"]["seconds"] for row in self.rows.values()))

    def cost(self, cost: Cost) -> Row:
        """What a run has cost, its teachers included: whole-model passes, in batches.

        A pass over one of M modalities is 1/M of a pass over the whole model.
        """
        keys = ("forward", "backward")
        own = {k: sum(row["cost"][k] for row in self.rows.values()) / self.n_modalities for k in keys}
        total = {k: round(getattr(cost, k) + own[k], 6) for k in keys}
        return {**total, **({"teachers": {k: round(v, 6) for k, v in own.items()}} if self.rows else {})}


def load_teachers(
    planned: Planned, catalogue: Catalogue, store: Store, whole: DataModule, do: Callable[[Planned], Row]
) -> dict[str, tuple[MultimodalModel, Row]]:
    """modality -> trained model and row, of each teacher of a run.

    Args:
        planned: The run.
        catalogue, store: Where its parts and its results come from.
        whole: The data set with all modalities.
        do: Trains a run where it or its weights are missing, and returns its row.

    Raises:
        Incompatible: A teacher has no scores, and never will.
        MmzooError: A teacher has failed.
    """
    return {str(t.modality): _load(t, catalogue, store, whole, do) for t in planned.teachers}


def _load(
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
