"""The linear floors of a bench: who wants them, and what they are. No torch at import."""

from __future__ import annotations

from collections.abc import Iterator

from mmzoo.benchmark.planning.data_plan import DataPlan
from mmzoo.benchmark.planning.planned import Planned
from mmzoo.config.datasets import OWN
from mmzoo.config.spec import BenchSpec, RunSpec
from mmzoo.registry import Entry
from mmzoo.training.config import Training

#: how tables call linear floors, and the version of how they are computed
FLOOR, VERSION = "floor", 1


def wants_floor(bench: BenchSpec, entry: Entry) -> bool:
    """Whether linear floors are asked for: by the user, else for data of one's own beside the other references."""
    if bench.floor is None:  # one chooses its strength on holdout
        return bench.references and entry.package == OWN and bench.selection != "last"
    return bench.floor


def floor_runs(bench: BenchSpec, on: DataPlan) -> Iterator[Planned]:
    """The floor of each modality, and the one of all joined. A floor draws nothing: one seed says all."""
    if not wants_floor(bench, on.entry):
        return
    each: list[tuple[str, ...] | None] = [(m,) for m in on.modalities] if len(on.modalities) > 1 else []
    for only in [*each, None]:
        spec = RunSpec(
            dataset=on.entry.id.partition("/")[2],
            data_params=dict(on.params),
            modalities=only,
            parts=(),
            head="",
            head_params={},
            encoders={},
            training=Training(epochs=1),
            seed=0,
            versions={on.entry.id: on.entry.version},
            floor={"version": VERSION},
        )
        yield Planned(spec, on.label, FLOOR, "floor", only[0] if only else None)
