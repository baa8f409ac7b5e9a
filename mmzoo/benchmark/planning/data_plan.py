"""What a bench is on one data set: its parameters, modalities, encoders and training; and its runs. No torch at import."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from mmzoo.benchmark.planning.planned import Planned
from mmzoo.benchmark.planning.refusals import check_options
from mmzoo.config.datasets import is_manifest, resolve_dataset, resolve_training
from mmzoo.config.grammar import TRAIN, of_training, shown
from mmzoo.config.settings import Settings
from mmzoo.config.spec import BenchSpec, Method, Role, RunSpec
from mmzoo.errors import BadValue, Incompatible, unknown
from mmzoo.registry import ENCODER_OPTIONS, Catalogue, Entry
from mmzoo.training.config import Training

Encoders = Mapping[str, tuple[Entry, Mapping[str, Any]]]


@dataclass(frozen=True)
class DataPlan:
    """A data set as one bench uses it.

    Args:
        label: How tables call it.
        entry: Its entry in the catalogue.
        params: Its parameters; those of prepared data name the store by its hashes.
        modalities: Those that are used, in the order of the data set.
        encoders: modality -> entry and parameters.
        training: The protocol that all its runs share.
        seeds: The seeds of the bench.
        fixed: `train.KEY` that the user has set, so that tuning leaves it alone.
        selection: How the epoch of its runs is chosen, as `RunSpec.selection` has it.
    """

    label: str
    entry: Entry
    params: Mapping[str, Any]
    modalities: tuple[str, ...]
    encoders: Encoders
    training: Training
    seeds: tuple[int, ...]
    fixed: frozenset[str]
    selection: str = "holdout"

    def runs(self, method: Method, role: Role) -> Iterator[Planned]:
        """The runs of a method, one for each seed, and for each modality where it trains them one by one."""
        versions = {m: _versions(*self.encoders[m]) for m in self.modalities}
        for only in [(m,) for m in self.modalities] if method.each_modality else [None]:
            seen = only or self.modalities
            used = {k: v for m in seen for k, v in versions[m].items()}
            for seed in self.seeds:
                spec = RunSpec(
                    dataset=self.entry.id.partition("/")[2],
                    data_params=dict(self.params),
                    modalities=only,
                    parts=method.parts,
                    head=method.head,
                    head_params=method.head_params,
                    training=self.training,
                    seed=seed,
                    versions={**method.versions, self.entry.id: self.entry.version, **used},
                    encoders={m: (self.encoders[m][0].id.partition("/")[2], self.encoders[m][1]) for m in seen},
                    selection=self.selection,
                )
                yield Planned(
                    spec,
                    self.label,
                    method.name,
                    role,
                    only[0] if only else None,
                    title=method.label if method.label != method.name else "",
                    fixed=method.fixed | self.fixed,
                )


def plan_data(
    catalogue: Catalogue, bench: BenchSpec, text: str, settings: Settings, *, stores: bool = True
) -> DataPlan:
    """What a bench is on the data set of a name. Raises UnknownName, BadValue or Incompatible.

    Args:
        text: As --datasets names it.
        stores: False where the data is not prepared yet: the name is checked only.
    """
    text, setup = with_setup(catalogue, text, bench.preset)
    label, entry, params = resolve_dataset(catalogue, text, settings, stores=stores)
    training = resolve_training(entry, bench.preset, bench.epochs, settings).replace(processes=bench.processes)
    _check_shares(training)
    modalities = _modalities(entry, params)
    encoders = {m: _encoder(catalogue, entry, m, settings, setup.get("encoders", {})) for m in modalities}
    fixed = {key for key, _ in bench.settings if key.startswith(f"{TRAIN}.")}
    fixed |= {rest for key, _ in bench.settings if of_training(rest := key.partition(".")[2])}
    last = bench.selection == "last"
    return DataPlan(
        f"{label} (last epoch)" if last else label,
        entry,
        params,
        modalities,
        encoders,
        training,
        bench.seeds,
        frozenset(fixed),
        "last" if last else "holdout",
    )


def with_setup(catalogue: Catalogue, text: str, preset: str) -> tuple[str, Mapping[str, Any]]:
    """A data set as a training preset wants it, `NAME:DATA`, and that setup: its `data` and `encoders`. As it is, and nothing, where
    the preset has none or the text names other data, its generated twin say."""
    name, _, rest = text.strip().partition(":")
    if is_manifest(text) or not catalogue.has("datasets", name):
        return text, {}
    setup: Mapping[str, Any] = catalogue.get("datasets", name).extra.get("setups", {}).get(preset, {})
    if not setup or rest not in ("", setup["data"]):
        return text, {}
    return f"{name}:{setup['data']}", setup


def _check_shares(training: Training) -> None:
    """Raise BadValue where a batch cannot be divided among the processes: each would leave some of it out every time."""
    size, of = training.batch_size, training.processes
    if of > 1 and (size % of or size < 2 * of):
        near = max(2 * of, round(size / of) * of)
        raise BadValue(
            f"a batch of {size} samples cannot be shared among {of} processes, two or more to each. Take "
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


def _encoder(
    catalogue: Catalogue, entry: Entry, modality: str, settings: Settings, of_setup: Mapping[str, Any]
) -> tuple[Entry, Mapping[str, Any]]:
    """The encoder of a modality and its parameters: the usual one of the data set, that of the training preset, or the one that is
    asked for."""
    kind = entry.extra["modalities"][modality]
    choices = {**entry.extra["encoders"], **of_setup}
    choice = choices[modality] if modality in choices else choices[kind]
    usual = catalogue.get("encoders", choice["name"], entry.package)
    name, asked = settings.take_encoder(entry, modality)
    encoder = usual if name is None else catalogue.get("encoders", name)
    if kind not in encoder.inputs:
        fit = ", ".join(catalogue.name_of(e) for e in catalogue.entries("encoders") if kind in e.inputs)
        raise Incompatible(
            f"{entry.name}: {modality} is {kind}, and encoder {encoder.name} takes {', '.join(encoder.inputs)}. "
            f"These take it: {fit or 'none'}."
        )
    given = encoder.check_params(choice.get("params", {})) if encoder.id == usual.id else {}
    of_user: dict[str, Any] = {}
    for more in (settings.take(encoder), settings.take_encoders(encoder), asked):
        of_user |= encoder.check_params(more)
    if of_user.get("frozen"):  # a usual rate has nothing left to act on
        given.pop("lr_scale", None)
    given |= of_user
    check_options(encoder, given)
    # An option that is off leaves the run what it is without it.
    given = {k: v for k, v in given.items() if k not in ENCODER_OPTIONS or v != ENCODER_OPTIONS[k].default}
    return encoder, encoder.spelled({**encoder.defaults(), **given})


def _versions(encoder: Entry, params: Mapping[str, Any]) -> dict[str, int | str]:
    """The version of an encoder, and a hash of the files from outside that it starts from."""
    content = encoder.content(params)
    return {encoder.id: encoder.version, **({} if content is None else {f"{encoder.id} {content}": content})}
