"""From what a user asks for to the list of runs. No torch at import."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from mmzoo.benchmark.planning.data_plan import DataPlan, plan_data
from mmzoo.benchmark.planning.floors import floor_runs
from mmzoo.benchmark.planning.planned import Plan, Planned, Refused
from mmzoo.benchmark.planning.refusals import chooses_after, lacks_meta_set, obstacle
from mmzoo.benchmark.planning.wanted import UNIMODAL, Wanted, wanted_methods
from mmzoo.benchmark.results.forms import WITHOUT_META_SET
from mmzoo.config.datasets import register_manifests
from mmzoo.config.grammar import MethodText
from mmzoo.config.methods import resolve_method
from mmzoo.config.settings import Settings
from mmzoo.config.spec import BenchSpec, Method, Role
from mmzoo.errors import BadValue, Incompatible
from mmzoo.registry import Catalogue, Entry
from mmzoo.training.config import open_epochs


@dataclass(frozen=True)
class _Variant:
    """A bench under one set of overrides: its runs, what it cannot run, its settings, and its data sets by label."""

    runs: tuple[Planned, ...]
    refused: tuple[Refused, ...]
    settings: Settings
    entries: Mapping[str, Entry]


def make_plan(bench: BenchSpec, catalogue: Catalogue, *, stores: bool = True, device: str = "auto") -> Plan:
    """All runs of a bench, each once.

    Args:
        stores: False for a plan to be looked at only, while data is not prepared yet; its run ids are not the later ones.
        device: Where it will be run, for what cannot be there; "auto" where that is not known.

    Raises:
        UnknownName: A name is not in the catalogue.
        BadValue: A value cannot be understood.
        Incompatible: The method that the bench is about cannot work on any of the data sets.
    """
    register_manifests(catalogue, bench.datasets)
    asked = bench.asked  # a method's text is parsed here, and only here
    variants = [
        _plan_variant(replace(bench, settings=(*bench.settings, *override)), asked, catalogue, stores, device)
        for override in bench.overrides or ((),)
    ]
    _check_training([v.settings for v in variants])
    runs = _merged(run for variant in variants for run in variant.runs)
    refused = dict.fromkeys(each for variant in variants for each in variant.refused)
    entries = {label: entry for variant in variants for label, entry in variant.entries.items()}
    plan = Plan(tuple(_asked(run, bench) for run in runs), tuple(refused), bench, entries)
    if not any(p.role == "method" for p in plan.runs) and refused:
        about = next(r for r in refused if r.role == "method")
        raise Incompatible(f"{about.method} cannot run on {about.dataset}: {about.reason}")
    return plan


def _plan_variant(
    bench: BenchSpec, asked: Sequence[tuple[MethodText, Role]], catalogue: Catalogue, stores: bool, device: str
) -> _Variant:
    settings = Settings(catalogue, bench.settings)
    last = bench.selection == "last"
    wanted = wanted_methods(asked, catalogue, settings, references=bench.references, without_meta_set=last)
    runs: list[Planned] = []
    refused: list[Refused] = []
    entries: dict[str, Entry] = {}
    for text in dict.fromkeys(bench.datasets):
        on = plan_data(catalogue, bench, text, settings, stores=stores)
        for each in wanted:
            _check_windows(each.method, on.training.epochs)
            lacks = lacks_meta_set(on.entry, on.params)
            if each.spared and lacks:  # training without the meta set is plain training
                continue
            reason = lacks if each.method.uses_slice and lacks else None
            reason = reason or (chooses_after(catalogue, each.method) if last else None)
            if reason := reason or obstacle(catalogue, each.method, on.modalities, on.training, device):
                refused.append(Refused(on.label, each.method.label, each.role, reason))
            else:
                teacher = resolve_method(catalogue, UNIMODAL, settings) if each.method.needs_teachers else None
                runs += _runs(each, on, teacher)
        runs += floor_runs(bench, on)
        entries[on.label] = on.entry
    settings.check_all_used()
    return _Variant(tuple(runs), tuple(refused), settings, entries)


def _runs(wanted: Wanted, on: DataPlan, teacher: Method | None) -> list[Planned]:
    """The runs of a method on a data set, each behind the runs that it learns from: those of `teacher`."""
    found: list[Planned] = []
    teachers = [] if teacher is None else list(on.runs(teacher, "teacher"))
    for planned in on.runs(wanted.method, wanted.role):
        run = _spared(planned) if wanted.spared else planned
        if teachers:
            own = [t for t in teachers if t.spec.seed == run.spec.seed]
            run = _with_teachers(run, own, apart=wanted.method.uses_slice)
        found += [*run.teachers, run]
    return found


def _spared(planned: Planned) -> Planned:
    """The same run without the meta set."""
    title = planned.title and planned.title + WITHOUT_META_SET
    spec = replace(planned.spec, spare_slice=True)
    return replace(planned, spec=spec, method=planned.method + WITHOUT_META_SET, title=title)


def _with_teachers(planned: Planned, unimodal: Iterable[Planned], *, apart: bool) -> Planned:
    """A run with the runs that it learns from, on the very samples that it is trained on.

    apart: whether that leaves out the meta set. What may change the numbers of its teachers may change its own, so that
    their versions are part of its spec.
    """
    apart = apart or planned.spec.spare_slice
    teachers = tuple(replace(_spared(t) if apart else t, keep=True) for t in unimodal)
    versions = {k: v for t in teachers for k, v in t.spec.versions.items()} | dict(planned.spec.versions)
    return replace(planned, spec=replace(planned.spec, versions=versions), teachers=teachers)


def _merged(runs: Iterable[Planned]) -> list[Planned]:
    """Each run once, where it first came; a teacher that is also asked for is called as it was asked for."""
    found: dict[str, Planned] = {}
    for run in runs:
        known = found.setdefault(run.spec.run_id, run)
        named = run if known.role == "teacher" else known
        found[run.spec.run_id] = replace(named, keep=known.keep or run.keep)
    return list(found.values())


def _asked(planned: Planned, bench: BenchSpec) -> Planned:
    """A run with what the bench wants of it besides its row."""
    return replace(
        planned,
        keep=planned.keep or bench.keeps,
        peers=bench.selection == "test",
        track=bench.track,
        teachers=tuple(_asked(t, bench) for t in planned.teachers),
    )


# ---------------------------------------------------------------------------------------------- checks
def _check_training(variants: Sequence[Settings]) -> None:
    """Raise BadValue for a setting of training that means nothing on any data set, in any variant that has it."""
    idle = {key: words for settings in variants for key, words in settings.idle_training().items()}
    for key, words in idle.items():
        if all(key in settings.idle_training() for settings in variants if settings.has(key)):
            raise BadValue(f"--set {key}: {words}. Leave it out, or change that.")


def _check_windows(method: Method, n_epochs: int) -> None:
    """Raise BadValue for a window that never opens, and for a strategy that would act twice in one epoch."""
    acts: list[tuple[str, range]] = []
    for part in method.parts:
        epochs = range(n_epochs) if part.bounds is None else open_epochs(*part.bounds, n_epochs)
        if not set(epochs) & set(range(n_epochs)):
            window = f"{part.first}-{part.last or ''}"
            raise BadValue(
                f"{method.label}: the window {window} of {part.strategy} never opens in {n_epochs} epochs (0 to "
                f"{n_epochs - 1}). Move it, or train longer with --epochs."
            )
        if any(name == part.strategy and set(epochs) & set(other) for name, other in acts):
            raise BadValue(f"{method.label}: {part.strategy} would act twice in the same epochs. Name it once there.")
        acts.append((part.strategy, epochs))
