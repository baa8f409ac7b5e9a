"""The runs of a table or figure of the paper: on prepared real data, else on the generated twins. No torch at import."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mmzoo.benchmark.paper.cells import Found
from mmzoo.benchmark.paper.printed import suite_file
from mmzoo.benchmark.python import bench, spec_of
from mmzoo.config.spec import BenchSpec
from mmzoo.config.suites import read_suite
from mmzoo.data.store.choice import chosen_store
from mmzoo.errors import BadValue, MmzooError, short, unknown
from mmzoo.registry import Catalogue

#: epochs with --fast
FAST_EPOCHS = 2
#: the data set of Figure 4
HEAT = "twitter2015"


@dataclass(frozen=True)
class Budget:
    """How much is run, and where.

    Args:
        out: The folder of the runs.
        datasets: Those that are wanted; none: all of the suite.
        seeds: How many; None: as the suite has it.
        fast: One seed and FAST_EPOCHS epochs.
        weights: What the encoders of real data sets start from; None: as the paper has it.
        on_row: Told of every run that was missing and is there now.
    """

    out: Path
    datasets: tuple[str, ...] = ()
    seeds: int | None = None
    fast: bool = False
    device: str = "auto"
    workers: int = 1
    on_row: Callable[[dict[str, Any]], None] = lambda row: None
    weights: str | None = None


def suite_datasets(name: str, catalogue: Catalogue) -> tuple[str, ...]:
    """The data sets of a table or figure."""
    if name == "fig4":
        return (HEAT,)
    return tuple(read_suite(suite_file(name), catalogue)["datasets"])


def run_suite(name: str, catalogue: Catalogue, budget: Budget) -> dict[str, Found]:
    """The runs of a suite by data set; those that are there already are not run again. Raises UnknownName for a data set that no
    suite has, and what `mmzoo.bench` raises."""
    fields = read_suite(suite_file(name), catalogue)
    wanted = [d for d in fields["datasets"] if not budget.datasets or d in budget.datasets]
    return {dataset: _on(dataset, fields, catalogue, budget) for dataset in wanted}


def check_datasets(names: Sequence[str], suites: Sequence[str], catalogue: Catalogue) -> None:
    """Raise UnknownName for a data set that none of the suites has."""
    known = dict.fromkeys(d for suite in suites for d in suite_datasets(suite, catalogue))
    for name in names:
        if name not in known:
            raise unknown("data set of these tables", name, known)


def check_weights(budget: Budget, suites: Sequence[str], catalogue: Catalogue) -> None:
    """Raise BadValue for `weights` where all data sets are replaced by synthetic ones, whose encoders have none."""
    if budget.weights is None:
        return
    for suite in suites:
        preset = "paper" if suite == "fig4" else str(read_suite(suite_file(suite), catalogue)["preset"])
        for name in suite_datasets(suite, catalogue):
            if (not budget.datasets or name in budget.datasets) and is_prepared(name, preset, catalogue):
                return
    raise BadValue(
        f"--weights {short(budget.weights)}: no data set is prepared as in the paper, and the encoders of the synthetic sets start "
        "from no weights. Prepare one (mmzoo data prepare NAME), or leave the option out."
    )


def is_prepared(dataset: str, preset: str, catalogue: Catalogue) -> bool:
    """Whether the real data set lies prepared as a training preset wants it."""
    entry = catalogue.get("datasets", dataset)
    named = entry.extra.get("setups", {}).get(preset, {}).get("data", "default")
    try:
        chosen_store(entry, {**entry.defaults(), **entry.extra["presets"].get(named, {})}, mini=False)
    except MmzooError:
        return False
    return True


def _weights(budget: Budget, real: bool) -> dict[str, str]:
    return {"encoder.*.weights": budget.weights} if real and budget.weights is not None else {}


def _on(dataset: str, fields: Mapping[str, Any], catalogue: Catalogue, budget: Budget) -> Found:
    real = is_prepared(dataset, fields["preset"], catalogue)
    asked = _asked(dataset, fields, budget, real)
    rows = bench(**asked, out=budget.out, device=budget.device, workers=budget.workers, on_row=budget.on_row)
    refused = {each["method"].partition("[")[0]: each["reason"] for each in rows.asked["refused"]}
    return Found(list(rows), refused, synthetic=not real, fast=budget.fast)


def _asked(dataset: str, fields: Mapping[str, Any], budget: Budget, real: bool) -> dict[str, Any]:
    """The arguments of `mmzoo.bench` that say which runs a suite has on a data set. real: on the real one, not a synthetic set."""
    return {
        "method": fields["method"],
        "baselines": fields.get("baselines", ()),
        "datasets": [dataset if real else f"{dataset}:mini"],
        "seeds": 1 if budget.fast else budget.seeds or fields.get("seeds", 3),
        "epochs": FAST_EPOCHS if budget.fast else None,
        "preset": fields["preset"] if real else "default",
        "settings": dict(fields.get("settings", ())) | _weights(budget, real),
        "overrides": [dict(each) for each in fields.get("overrides", ())],
        "selection": fields.get("selection", "holdout"),
        "references": fields.get("references", True),
        "keep_weights": fields.get("keep_weights", False),
    }


def suite_specs(name: str, catalogue: Catalogue, budget: Budget) -> list[BenchSpec]:
    """The benchmarks that a table or figure runs, one a data set. None for Figure 4, whose two runs are not kept."""
    if name == "fig4":
        return []
    fields = read_suite(suite_file(name), catalogue)
    wanted = [d for d in fields["datasets"] if not budget.datasets or d in budget.datasets]
    return [spec_of(**_asked(d, fields, budget, is_prepared(d, fields["preset"], catalogue))) for d in wanted]
