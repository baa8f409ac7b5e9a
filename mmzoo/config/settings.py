"""The settings of a bench, and who takes which."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from mmzoo.config.grammar import ENCODER, TRAIN, divided_key, of_encoder, of_runs, of_training
from mmzoo.errors import BadValue, UnknownName, near_miss, short, unknown
from mmzoo.registry import Catalogue, Entry
from mmzoo.training.config import FIELDS, idle

#: in place of a modality: all of them
EVERY = "*"
_KINDS = ("methods", "strategies", "heads", "encoders", "datasets")


class Settings:
    """`--set WHAT.KEY=VALUE`: WHAT is a method, strategy, head, encoder or data set, or `train`.

    encoder.MODALITY.KEY reaches the encoder of a modality, encoder.*.KEY every encoder that has the parameter.
    METHOD.head.KEY reaches the head of one method only; METHOD.preset=NAME takes the parameters that the authors use on
    one data set, and what else is set goes before them. DATASET.train.KEY and DATASET.encoder.MODALITY hold for one data
    set, and go before train.KEY and encoder.MODALITY. Every setting must be taken by something: what nobody took is
    an error, not silence.
    """

    def __init__(self, catalogue: Catalogue, pairs: Sequence[tuple[str, Any]]) -> None:
        self._catalogue = catalogue
        self._values: dict[str, dict[str, Any]] = {}
        self._used: set[tuple[str, str]] = set()
        self._idle: dict[str, str] = {}
        self._modalities: dict[str, None] = {}
        for key, value in pairs:
            scope, name = divided_key(key)
            _check_key(catalogue, f"--set {key}={value}", scope, name)
            self._values.setdefault(scope, {})[name] = value

    def take(self, entry: Entry, only: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """The settings of one entry. only: take just these keys, leaving the rest for others of the same name.

        A name that is both a method and a strategy means the method.
        """
        found: dict[str, Any] = {}
        for scope, values in self._values.items():
            shadowed = entry.kind == "strategies" and self._catalogue.has("methods", scope)
            if shadowed or not self._catalogue.has(entry.kind, scope):
                continue
            if self._catalogue.get(entry.kind, scope).id == entry.id:
                keys = [k for k in values if only is None or k in only]
                found |= self._taken(scope, [k for k in keys if entry.kind != "datasets" or not of_runs(k)])
        return found

    def take_encoder(self, dataset: Entry, modality: str) -> tuple[str | None, dict[str, Any]]:
        """The encoder that is asked for in place of the usual one (None: that one), and parameters for it.

        `encoder.MODALITY` holds for every data set that has the modality, `DATASET.encoder.MODALITY` goes before it.
        """
        self._modalities[modality] = None
        name: Any = None
        params: dict[str, Any] = {}
        for scope, start in [(ENCODER, modality), *((s, f"{ENCODER}.{modality}") for s in self._scopes_of(dataset))]:
            values = self._values.get(scope, {})
            taken = self._taken(scope, [k for k in values if k == start or k.startswith(f"{start}.")])
            name = taken.pop(start, name)
            params |= {k.removeprefix(f"{start}."): v for k, v in taken.items()}
        if name is not None and not isinstance(name, str):
            raise BadValue(
                f"encoder.{modality} must be the name of an encoder, not {short(name)}. See: mmzoo list encoders"
            )
        return name, params

    def take_encoders(self, encoder: Entry) -> dict[str, Any]:
        """The settings `encoder.*.KEY`, which reach every encoder that has the parameter KEY."""
        start = f"{EVERY}."
        named = {k: k.removeprefix(start) for k in self._values.get(ENCODER, {}) if k.startswith(start)}
        taken = self._taken(ENCODER, [k for k, name in named.items() if name in encoder.accepted])
        return {named[k]: v for k, v in taken.items()}

    def take_training(self, dataset: Entry, preset: Mapping[str, Any]) -> dict[str, Any]:
        """The settings of training that mean something on a data set with these values of its own.

        `train.KEY` holds for every data set, `DATASET.train.KEY` goes before it.
        """
        keys = [(TRAIN, k) for k in self._values.get(TRAIN, {})]
        keys += [(s, k) for s in self._scopes_of(dataset) for k in self._values[s] if of_training(k)]
        given = {key.removeprefix(f"{TRAIN}."): self._values[scope][key] for scope, key in keys}
        unused = {name: words for name in given if (words := idle(name, {**preset, **given}))}
        for scope, key in keys:
            name = key.removeprefix(f"{TRAIN}.")
            if name in unused:
                self._idle[f"{scope}.{key}"] = unused[name]
            else:
                self._used.add((scope, key))
        return {name: value for name, value in given.items() if name not in unused}

    def idle_training(self) -> dict[str, str]:
        """The settings of training that mean nothing on any data set so far, each with why."""
        used = {f"{scope}.{key}" for scope, key in self._used}
        return {key: words for key, words in self._idle.items() if key not in used}

    def has(self, key: str) -> bool:
        """Whether a setting was given, by its whole key."""
        scope, name = divided_key(key)
        return name in self._values.get(scope, {})

    def _scopes_of(self, dataset: Entry) -> list[str]:
        """The names by which settings mean a data set."""
        named = [s for s in self._values if self._catalogue.has("datasets", s)]
        return [s for s in named if self._catalogue.get("datasets", s).id == dataset.id]

    def _taken(self, scope: str, keys: Iterable[str]) -> dict[str, Any]:
        chosen = set(keys)
        taken = {k: v for k, v in self._values.get(scope, {}).items() if k in chosen}
        self._used |= {(scope, k) for k in taken}
        return taken

    def check_all_used(self) -> None:
        """Raise BadValue for a setting that nothing in this bench takes; those of training that mean nothing beside the others
        are left to `idle_training`."""
        unused = [(scope, key) for scope, values in self._values.items() for key in values]
        for scope, key in unused:
            if (scope, key) in self._used or f"{scope}.{key}" in self._idle:
                continue
            if scope == ENCODER or of_encoder(key):
                modality, _, name = key.removeprefix(f"{ENCODER}.").partition(".")
                if modality == EVERY:
                    raise BadValue(f"--set {scope}.{key}: no encoder in this bench has a parameter {short(name)}.")
                raise unknown(f"modality (--set {scope}.{key})", modality, self._modalities)
            raise BadValue(
                f"--set {scope}.{key}: nothing in this bench uses {short(scope)}. Name it with --method, "
                "--baselines or --datasets, or leave the setting out."
            )


def _check_key(catalogue: Catalogue, given: str, scope: str, name: str) -> None:
    """Raise UnknownName or BadValue for a key that cannot mean anything, whatever the bench is."""
    if not scope or not name:
        raise BadValue(f"{given}: write WHAT.KEY=VALUE, e.g. ogm.alpha=0.3 or train.lr=0.01.")
    if scope == ENCODER:
        if not all(name.split(".", 1)) or name == EVERY:
            raise BadValue(f"{given}: write encoder.MODALITY=NAME, encoder.MODALITY.KEY=VALUE or encoder.*.KEY=VALUE.")
        return
    if scope == TRAIN or (of_training(name) and catalogue.has("datasets", scope)):
        option = name.removeprefix(f"{TRAIN}.")
        if option not in FIELDS:
            raise unknown("training option", option, FIELDS)
        return
    if not any(catalogue.has(kind, scope) for kind in _KINDS):
        names = {n.name for n in catalogue} | {TRAIN, ENCODER}
        key = given.partition("=")[0]
        raise UnknownName(
            f"{key}: no method, strategy, head, encoder or data set {short(scope)}.{near_miss(scope, names)} See: mmzoo list"
        )
