"""The plan of a benchmark in words: its runs, what it cannot run, and how long it takes. No torch at import."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence

from mmzoo.benchmark.planning.choices import choice_lines
from mmzoo.benchmark.planning.planned import Plan, Planned
from mmzoo.benchmark.planning.refusals import inert
from mmzoo.benchmark.results.store import Store
from mmzoo.benchmark.scheduling.timing import probed, recorded, told
from mmzoo.data.store.choice import is_synthetic
from mmzoo.registry.plugins import catalogue

Sizes = Callable[[Sequence[Planned]], Mapping[str, int]]
#: how the plan calls the roles of methods
TITLES = {
    "method": "method",
    "baseline": "baselines",
    "reference": "references",
    "teacher": "teachers",
    "floor": "linear baselines",
}


def plan_lines(plan: Plan, missing: int, store: Store, sizes: Sizes = lambda runs: {}) -> Iterator[str]:
    """The lines that describe a plan.

    Args:
        plan: The plan.
        missing: Number of its runs that the store lacks.
        store: The results folder.
        sizes: Gives the number of parameters of each encoder, which takes torch.
    """
    methods = plan.methods()
    yield (
        f"Plan: {count(len(plan.runs), 'run')} ({count(len(methods), 'method')}, "
        f"{count(len(plan.bench.seeds), 'seed')}), by data set:"
    )
    for dataset in dict.fromkeys(p.dataset for p in plan.runs):
        here = [p for p in plan.runs if p.dataset == dataset and p.role != "floor"]
        t = here[0].spec.training
        lr, decay = (_span([getattr(p.spec.training, k) for p in here]) for k in ("lr", "weight_decay"))
        yield (
            f"  {dataset}: {count(len(here), 'run')} of {count(t.epochs, 'epoch')} ({t.optimizer}, lr {lr}, "
            f"batch {t.batch_size}, schedule {t.schedule}, weight decay {decay})"
        )
        yield from (f"    {line}" for line in choice_lines(plan, dataset, sizes(here)))
    if made := dict.fromkeys(p.dataset for p in plan.runs if is_synthetic(p.spec.data_params)):
        yield f"  note: {', '.join(made)}: synthetic data made by mmzoo, not the published data (mmzoo data show NAME)"
    for role, title in TITLES.items():
        if named := [label for label, r in methods.items() if r == role]:
            yield f"  {title}: {', '.join(named)}"
    for note, (labels, on) in _inert(plan).items():
        yield f"  note: {', '.join(labels)} on {', '.join(on)}: {note}"
    reasons: dict[tuple[str, str], list[str]] = {}
    for refused in plan.refused:
        reasons.setdefault((refused.method, refused.reason), []).append(refused.dataset)
    for (method, reason), datasets in reasons.items():
        yield f"  not on {', '.join(datasets)}: {method}: {reason}"
    if plan.bench.stress:
        yield f"  stress: {' and '.join(plan.bench.stress)}, on test, from the kept weights"
    done = len(plan.runs) - missing
    yield f"  results: {store.root}" + (f" (there already: {done}, to do: {missing})" if done else "")


def encoder_sizes_of(plan: Plan) -> Sizes:
    """Gives the number of parameters of the encoders of a user's own data, prepared or not, and nothing for other data sets,
    which takes no torch."""

    def sizes(runs: Sequence[Planned]) -> Mapping[str, int]:
        entry = plan.entries[runs[0].dataset]
        if "why" not in entry.extra:
            return {}
        from mmzoo.benchmark.execution.building import encoder_sizes
        from mmzoo.data.preparing.check import promised_vocabularies

        whole = max(runs, key=lambda p: len(p.spec.encoders))
        words = {} if "store" in whole.spec.data_params else promised_vocabularies(entry.load())
        return encoder_sizes(plan, whole, catalogue(), words)

    return sizes


def time_lines(missing: Sequence[Planned], store: Store, device: str | None) -> tuple[float, list[str]]:
    """The seconds that the missing runs take, and lines that say so and how that is known.

    Args:
        missing: The runs to do.
        store: Its rows of the same data sets give the times.
        device: Where to time a few steps of the data sets that have no rows; None to leave those out.
    """
    found = recorded(missing, store)
    source = "by the rows that are there" if found else ""
    unknown = [p for p in missing if p.dataset not in found]
    if unknown and device is not None:
        from mmzoo.benchmark.execution.device import check_device

        measured = probed(unknown, catalogue(), check_device(device))
        found |= measured
        source = " and ".join(x for x in (source, "by a few steps of plain training" if measured else "") if x)
    lines = []
    if found:
        each = ", ".join(f"{dataset} {told(s).removeprefix('about ')}" for dataset, s in found.items())
        lines.append(f"  time: {told(sum(found.values()))} ({each}; {source})")
    if rest := sorted({p.dataset for p in missing} - set(found)):
        lines.append(f"  time of {', '.join(rest)}: measured when the bench starts")
    return sum(found.values()), lines


def count(n: int, what: str) -> str:
    """`1 run`, `2 runs`"""
    return f"{n} {what}{'' if n == 1 else 's'}"


def _inert(plan: Plan) -> dict[str, tuple[dict[str, None], dict[str, None]]]:
    """Each note on a method that has next to no effect -> the methods and the data sets that it is about."""
    found: dict[str, tuple[dict[str, None], dict[str, None]]] = {}
    for run in plan.runs:
        for note in inert(catalogue(), run.spec.parts, run.spec.training):
            labels, datasets = found.setdefault(note, ({}, {}))
            labels[run.label] = datasets[run.dataset] = None
    return found


def _span(values: Sequence[float]) -> str:
    """What all runs have, or from where to where: tuning may have chosen another one for each method."""
    low, high = min(values), max(values)
    return f"{low:g}" if low == high else f"{low:.3g} to {high:.3g}"
