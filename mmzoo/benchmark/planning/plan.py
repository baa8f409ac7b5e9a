"""From what a user asks for to the list of runs. No torch at import."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any, Literal

from mmzoo.benchmark.planning.refusals import check_options, obstacle
from mmzoo.config.datasets import register_manifests, resolve_dataset, resolve_training
from mmzoo.config.grammar import shown
from mmzoo.config.methods import canonical, resolve_method
from mmzoo.config.settings import Settings
from mmzoo.config.spec import BenchSpec, Method, RunSpec
from mmzoo.errors import BadValue, Incompatible, unknown
from mmzoo.registry import ENCODER_OPTIONS, Catalogue, Entry
from mmzoo.training.config import Training, open_epochs

if TYPE_CHECKING:
    from mmzoo.benchmark.results.store import Store

#: teacher: in the plan only because a method learns from it
Role = Literal["method", "baseline", "reference", "teacher"]
#: the references of every bench; the last two with each head that a method of the bench uses
ALONE, PLAIN, CONTROL = "unimodal", "concat", "joint_unimodal"


@dataclass(frozen=True)
class Planned:
    """One run: what decides its numbers, and how tables call it.

    teachers: the runs of one modality each that it learns from; they come before it in a plan. What follows changes no
    number of the row. keep: whether its weights stay in the store, since another run learns from it or the user asked.
    peers: whether test is also scored after every epoch, for the column of the peers' protocol. track: who is told of
    its epochs, each NAME or NAME:TARGET. fixed: what tuning leaves alone, as Method has it, and
    `train.KEY`.
    """

    spec: RunSpec
    dataset: str
    method: str
    role: Role
    modality: str | None = None
    teachers: tuple[Planned, ...] = ()
    keep: bool = False
    peers: bool = False
    track: tuple[str, ...] = ()
    fixed: frozenset[str] = frozenset()

    @property
    def label(self) -> str:
        return f"{self.method}: {self.modality}" if self.modality else self.method

    def as_dict(self) -> dict[str, Any]:
        """All of it as plain data; of its teachers the run ids."""
        return {
            "spec": self.spec.as_dict(),
            "dataset": self.dataset,
            "method": self.method,
            "role": self.role,
            "modality": self.modality,
            "teachers": [t.spec.run_id for t in self.teachers],
            "keep": self.keep,
            "peers": self.peers,
            "track": list(self.track),
        }


def planned_runs(store: Store, run_ids: Iterable[str]) -> tuple[Planned, ...]:
    """Runs as their folders have them. Raises CorruptFile for a folder that lacks one of its own."""
    found: dict[str, Planned] = {}

    def get(run_id: str, above: tuple[str, ...] = ()) -> Planned:
        if run_id not in found:
            found[run_id] = _planned(store, run_id, above, get)
        return found[run_id]

    return tuple(get(run_id) for run_id in run_ids)


def _planned(store: Store, run_id: str, above: tuple[str, ...], get: Callable[..., Planned]) -> Planned:
    kept = store.planned(run_id)
    spec = RunSpec.from_dict(kept["spec"])
    if run_id in above:
        raise store.unusable(run_id, "it learns from itself")
    teachers = tuple(get(t, (*above, run_id)) for t in kept["teachers"])
    return Planned(
        spec,
        kept["dataset"],
        kept["method"],
        kept["role"],
        kept["modality"],
        teachers,
        kept["keep"],
        kept["peers"],
        tuple(kept["track"]),
    )


@dataclass(frozen=True)
class Refused:
    """A method that cannot work on a data set, and why."""

    dataset: str
    method: str
    role: Role
    reason: str


@dataclass(frozen=True)
class Plan:
    runs: tuple[Planned, ...]
    refused: tuple[Refused, ...]
    bench: BenchSpec

    def methods(self) -> dict[str, Role]:
        """label -> role, in the order of the tables."""
        found: dict[str, Role] = {}
        for run in self.runs:
            found.setdefault(run.label, run.role)
        for refused in self.refused:
            found.setdefault(refused.method, refused.role)
        order = {"method": 0, "baseline": 1, "reference": 2, "teacher": 3}
        return dict(sorted(found.items(), key=lambda kv: order[kv[1]]))

    def asked(self) -> dict[str, Any]:
        """Order and roles of the methods and what was refused, as the tables want them."""
        return {"methods": self.methods(), "refused": [vars(r) for r in self.refused]}

    def rows(self, store: Store) -> list[dict[str, Any]]:
        """The rows that are there, under the names that this plan has for them."""
        named = [(store.row(p.spec.run_id), p) for p in self.runs]
        return [{**row, "label": p.label, "dataset": p.dataset} for row, p in named if row is not None]


def to_do(plan: Plan, store: Store) -> list[Planned]:
    """The runs that the store does not have yet, teachers whose weights are wanted and gone among them."""
    ids = {p.spec.run_id: p for p in plan.runs}
    missing = {
        run_id
        for run_id, p in ids.items()
        if store.finished(run_id, weights=plan.bench.keep_weights, peers=p.peers) is None
    }
    for teacher in [t.spec.run_id for run_id in missing for t in ids[run_id].teachers]:
        if store.finished(teacher, weights=True) is None:
            missing = missing | {teacher}
    return [p for run_id, p in ids.items() if run_id in missing]


def make_plan(bench: BenchSpec, catalogue: Catalogue, *, stores: bool = True, device: str = "auto") -> Plan:
    """All runs of a bench, each once. stores: False for a plan to be looked at only, while data is not prepared yet; its run
    ids are not the later ones. device: where it will be run, for what cannot be there; "auto" where that is not known.

    Raises UnknownName or BadValue for what cannot be understood, Incompatible when the method that the bench is about
    cannot work on any of the data sets.
    """
    runs: dict[str, Planned] = {}
    refused: list[Refused] = []
    if not bench.datasets:
        raise BadValue("no data set was named: mmzoo list datasets.")
    register_manifests(catalogue, bench.datasets)
    variants = [
        _plan_variant(replace(bench, settings=(*bench.settings, *override)), catalogue, runs, refused, stores, device)
        for override in bench.overrides or ((),)
    ]
    _check_training(variants)
    plan = Plan(tuple(_asked(p, bench) for p in runs.values()), tuple(dict.fromkeys(refused)), bench)
    if not any(p.role == "method" for p in plan.runs) and refused:
        about = next(r for r in refused if r.role == "method")
        raise Incompatible(f"{about.method} cannot run on {about.dataset}: {about.reason}")
    return plan


def _asked(planned: Planned, bench: BenchSpec) -> Planned:
    """A run with what the bench wants of it besides its row."""
    return replace(
        planned,
        keep=planned.keep or bench.keep_weights,
        peers=bench.protocol == "peers",
        track=bench.track,
        teachers=tuple(_asked(t, bench) for t in planned.teachers),
    )


def _plan_variant(
    bench: BenchSpec, catalogue: Catalogue, runs: dict[str, Planned], refused: list[Refused], stores: bool, device: str
) -> Settings:
    """Add the runs of a bench under one set of overrides, and return what it was told."""
    settings = Settings(catalogue, bench.settings)
    wanted = _wanted(bench, catalogue, settings)
    for text in dict.fromkeys(bench.datasets):
        label, entry, params = resolve_dataset(catalogue, text, settings, stores=stores)
        training = resolve_training(entry, bench.preset, bench.epochs, settings).replace(processes=bench.processes)
        _check_shares(training)
        modalities = _modalities(entry, params)
        encoders = _encoders(catalogue, entry, modalities, settings)
        runs_of = partial(
            _runs,
            label=label,
            entry=entry,
            params=params,
            modalities=modalities,
            encoders=encoders,
            training=training,
            seeds=bench.seeds,
            chosen=frozenset(key for key, _ in bench.settings if key.startswith("train.")),
        )
        for method, role, spare in wanted:
            _check_windows(method, training.epochs)
            if reason := obstacle(catalogue, method, modalities, training, device):
                refused.append(Refused(label, method.label, role, reason))
                continue
            alone: dict[int, list[Planned]] = {}
            if method.needs_teachers:
                for teacher in runs_of(resolve_method(catalogue, ALONE, settings), "teacher"):
                    alone.setdefault(teacher.spec.seed, []).append(teacher)
            for planned in runs_of(method, role):
                planned = _spared(planned) if spare else planned
                if alone:
                    planned = _taught(planned, alone[planned.spec.seed], apart=method.uses_slice)
                for run in (*planned.teachers, planned):
                    _add(runs, run)
    settings.check_all_used()
    return settings


def _check_training(variants: Sequence[Settings]) -> None:
    """Raise BadValue for a setting of training that means nothing on any data set, in any variant that has it."""
    for key, words in {k: w for settings in variants for k, w in settings.idle_training().items()}.items():
        if all(key in settings.idle_training() for settings in variants if settings.has_training(key)):
            raise BadValue(f"--set train.{key}: {words}. Leave it out, or change that.")


def _add(runs: dict[str, Planned], planned: Planned) -> None:
    """A run that is there already keeps its place; a teacher that is also asked for is called as it was asked for."""
    known = runs.setdefault(planned.spec.run_id, planned)
    called = planned if known.role == "teacher" else known
    runs[planned.spec.run_id] = replace(called, keep=known.keep or planned.keep)


def _spared(planned: Planned) -> Planned:
    """The same run without the slice."""
    spec = replace(planned.spec, spare_slice=True)
    return replace(planned, spec=spec, method=f"{planned.method} (slice spared)")


def _taught(planned: Planned, alone: Iterable[Planned], *, apart: bool) -> Planned:
    """A run with the runs that it learns from, on the very items that it is trained on.

    apart: whether that leaves out the slice. What may change the numbers of its teachers may change its own, so that
    their versions are part of its spec.
    """
    apart = apart or planned.spec.spare_slice
    teachers = tuple(replace(_spared(t) if apart else t, keep=True) for t in alone)
    versions = {k: v for t in teachers for k, v in t.spec.versions.items()} | dict(planned.spec.versions)
    return replace(planned, spec=replace(planned.spec, versions=versions), teachers=teachers)


def _wanted(bench: BenchSpec, catalogue: Catalogue, settings: Settings) -> list[tuple[Method, Role, bool]]:
    """The methods in the order of the tables, each once; the last of three: train without the slice for comparison.

    A method that learns from the slice is not trained on it. So that its difference to plain training does not
    measure the missing labels, plain and control then come once more, without the slice too.
    """
    asked: list[tuple[str, Role]] = [(bench.method, "method"), *((b, "baseline") for b in bench.baselines)]
    found = [
        (resolve_method(catalogue, each, settings), role)
        for text, role in asked
        for each in _with_heads(text, bench.heads)
    ]
    if bench.references:
        joint = [m for m, _ in found if not m.each_modality]
        for like in joint or [resolve_method(catalogue, PLAIN, settings)]:
            found += [(_with_head_of(like, name, catalogue, settings), "reference") for name in (PLAIN, CONTROL)]
        found.append((resolve_method(catalogue, ALONE, settings), "reference"))
    unique: dict[str, tuple[Method, Role, bool]] = {}
    for method, role in found:
        unique.setdefault(str(method.identity), (method, role, False))
    if bench.references:
        for like in [m for m, _ in found if m.uses_slice]:
            for name in (PLAIN, CONTROL):
                method = _with_head_of(like, name, catalogue, settings)
                unique[f"{method.identity} without slice"] = (method, "reference", True)
    return list(unique.values())


def _with_heads(text: str, heads: tuple[str, ...]) -> list[str]:
    """A method with each head; as it is where it names one itself."""
    return [text] if "@" in text or not heads else [f"{text}@{head}" for head in dict.fromkeys(heads)]


def _with_head_of(like: Method, name: str, catalogue: Catalogue, settings: Settings) -> Method:
    """A reference with the very head of a method, its parameters included."""
    reference = resolve_method(catalogue, f"{name}@{like.head}", settings)
    if dict(reference.head_params) == dict(like.head_params):
        return reference
    changed = ",".join(f"head.{k}={shown(v)}" for k, v in like.head_params.items() if reference.head_params.get(k) != v)
    fixed = reference.fixed | {name for name in like.fixed if name.startswith("head.")}
    same = replace(reference, head_params=like.head_params, fixed=fixed)
    return replace(same, label=canonical(catalogue, same) or f"{name}@{like.head}[{changed}]")


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


def _check_shares(training: Training) -> None:
    """Raise BadValue where a batch does not go round among the processes: each would leave some of it out every time."""
    size, of = training.batch_size, training.processes
    if of > 1 and (size % of or size < 2 * of):
        near = max(2 * of, round(size / of) * of)
        raise BadValue(
            f"a batch of {size} items does not go round among {of} processes, two or more to each. Take "
            f"--set train.batch_size={near}, or another --nproc-per-node."
        )


def _modalities(entry: Entry, params: Mapping[str, Any]) -> tuple[str, ...]:
    """The modalities of a data set under its parameters, in its order. Raises UnknownName or BadValue."""
    every = entry.extra["modalities"]
    select = entry.extra.get("select")
    chosen = tuple(params[select] if select else every)
    for m in chosen:
        if m not in every:
            raise unknown(f"modality of {entry.name}", m, every)
    if not chosen or len(set(chosen)) < len(chosen):
        given = shown(chosen) if chosen else "none"
        raise BadValue(f"{entry.name}.{select} must name one or more different modalities, not {given}.")
    return tuple(m for m in every if m in chosen)


def _encoders(
    catalogue: Catalogue, entry: Entry, modalities: tuple[str, ...], settings: Settings
) -> dict[str, tuple[Entry, dict[str, Any]]]:
    """modality -> its encoder and parameters."""
    found = {}
    for m in modalities:
        choices = entry.extra["encoders"]
        choice = choices[m] if m in choices else choices[entry.extra["modalities"][m]]
        usual = catalogue.get("encoders", choice["name"], entry.package)
        name, asked = settings.take_encoder(entry, m)
        encoder = usual if name is None else catalogue.get("encoders", name)
        kind = entry.extra["modalities"][m]
        if kind not in encoder.inputs:
            fit = ", ".join(catalogue.name_of(e) for e in catalogue.entries("encoders") if kind in e.inputs)
            raise Incompatible(
                f"{entry.name}: {m} is {kind}, and encoder {encoder.name} takes {', '.join(encoder.inputs)}. "
                f"These take it: {fit or 'none'}."
            )
        given = encoder.check_params(choice.get("params", {})) if encoder.id == usual.id else {}
        given |= encoder.check_params(settings.take(encoder)) | encoder.check_params(asked)
        check_options(encoder, given)
        # An option that is off leaves the run what it is without it.
        given = {k: v for k, v in given.items() if k not in ENCODER_OPTIONS or v != ENCODER_OPTIONS[k].default}
        found[m] = (encoder, {**encoder.defaults(), **given})
    return found


def _runs(
    method: Method,
    role: Role,
    *,
    label: str,
    entry: Entry,
    params: Mapping[str, Any],
    modalities: tuple[str, ...],
    encoders: Mapping[str, tuple[Entry, dict[str, Any]]],
    training: Training,
    seeds: tuple[int, ...],
    chosen: frozenset[str],
) -> Iterator[Planned]:
    of_data = {entry.id: entry.version}
    of_encoder = {m: _versions(*encoders[m]) for m in modalities}
    for only in [(m,) for m in modalities] if method.each_modality else [None]:
        for seed in seeds:
            used = {k: v for m in only or modalities for k, v in of_encoder[m].items()}
            versions = {**method.versions, **of_data, **used}
            spec = RunSpec(
                dataset=entry.id.partition("/")[2],
                data_params=dict(params),
                modalities=only,
                parts=method.parts,
                head=method.head,
                head_params=method.head_params,
                training=training,
                seed=seed,
                versions=versions,
                encoders={m: (encoders[m][0].id.partition("/")[2], encoders[m][1]) for m in only or modalities},
            )
            yield Planned(spec, label, method.label, role, only[0] if only else None, fixed=method.fixed | chosen)


def _versions(encoder: Entry, params: Mapping[str, Any]) -> dict[str, int | str]:
    """The version of an encoder, and a hash of the files from outside that it starts from."""
    content = encoder.content(params)
    return {encoder.id: encoder.version, **({} if content is None else {f"{encoder.id} {content}": content})}
