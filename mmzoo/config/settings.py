"""The settings of a bench, and who takes which."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from mmzoo.config.grammar import ENCODER, divided_key, of_encoder
from mmzoo.errors import BadValue, UnknownName, near_miss, unknown
from mmzoo.registry import Catalogue, Entry
from mmzoo.training.config import FIELDS, idle


class Settings:
    """`--set WHAT.KEY=VALUE`: WHAT is a method, strategy, head, encoder or data set, or `train`.

    METHOD.head.KEY reaches the head of one method only; METHOD.preset=NAME takes the parameters that the authors use on
    one data set, and what else is set goes before them. Every setting must be taken by something: what nobody took is
    an error, not silence.
    """

    def __init__(self, catalogue: Catalogue, pairs: Sequence[tuple[str, Any]]) -> None:
        self._values: dict[str, dict[str, Any]] = {}
        self._used: set[tuple[str, str]] = set()
        self._idle: dict[str, str] = {}
        for key, value in pairs:
            scope, name = divided_key(key)
            if not scope or not name:
                raise BadValue(f"--set {key}={value}: write WHAT.KEY=VALUE, e.g. ogm.alpha=0.3 or train.lr=0.01.")
            if scope == ENCODER:
                if not all(name.split(".", 1)):
                    raise BadValue(f"--set {key}={value}: write encoder.MODALITY=NAME or encoder.MODALITY.KEY=VALUE.")
            elif scope != "train" and not any(
                catalogue.has(kind, scope) for kind in ("methods", "strategies", "heads", "encoders", "datasets")
            ):
                names = {n.name for n in catalogue} | {"train", ENCODER}
                what = "method, strategy, head, encoder or data set"
                raise UnknownName(f"--set {key}: no {what} {scope!r}.{near_miss(scope, names)} See: mmzoo list")
            if scope == "train" and name not in FIELDS:
                raise unknown("training option", name, FIELDS)
            self._values.setdefault(scope, {})[name] = value
        self._catalogue = catalogue
        self._modalities: dict[str, None] = {}

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
                found |= self._taken(scope, [k for k in keys if entry.kind != "datasets" or not of_encoder(k)])
        return found

    def take_encoder(self, dataset: Entry, modality: str) -> tuple[str | None, dict[str, Any]]:
        """The encoder that is asked for in place of the usual one (None: that one), and parameters for it.

        `encoder.MODALITY` holds for every data set that has the modality, `DATASET.encoder.MODALITY` goes before it.
        """
        self._modalities[modality] = None
        name: Any = None
        params: dict[str, Any] = {}
        own = [
            s
            for s in self._values
            if self._catalogue.has("datasets", s) and self._catalogue.get("datasets", s).id == dataset.id
        ]
        for scope, start in [(ENCODER, modality), *((s, f"{ENCODER}.{modality}") for s in own)]:
            values = self._values.get(scope, {})
            taken = self._taken(scope, [k for k in values if k == start or k.startswith(f"{start}.")])
            name = taken.pop(start, name)
            params |= {k.removeprefix(f"{start}."): v for k, v in taken.items()}
        if name is not None and not isinstance(name, str):
            raise BadValue(f"encoder.{modality} must be the name of an encoder, not {name!r}. See: mmzoo list encoders")
        return name, params

    def take_training(self, preset: Mapping[str, Any]) -> dict[str, Any]:
        """The settings `train.KEY` that mean something on a data set with these values of its own."""
        given = self._values.get("train", {})
        unused = {k: words for k in given if (words := idle(k, {**preset, **given}))}
        self._idle |= unused
        return self._taken("train", given.keys() - unused.keys())

    def idle_training(self) -> dict[str, str]:
        """The settings `train.KEY` that mean nothing on any data set so far, each with why."""
        return {k: words for k, words in self._idle.items() if ("train", k) not in self._used}

    def has_training(self, key: str) -> bool:
        return key in self._values.get("train", {})

    def _taken(self, scope: str, keys: Iterable[str]) -> dict[str, Any]:
        chosen = set(keys)
        taken = {k: v for k, v in self._values.get(scope, {}).items() if k in chosen}
        self._used |= {(scope, k) for k in taken}
        return taken

    def check_all_used(self) -> None:
        """Raise BadValue for a setting that nothing in this bench takes; those of training that mean nothing beside the others
        are for `idle_training` to tell."""
        for scope, values in self._values.items():
            for key in values:
                if (scope, key) not in self._used and (scope == ENCODER or of_encoder(key)):
                    modality = key.removeprefix(f"{ENCODER}.").partition(".")[0]
                    raise unknown(f"modality (--set {scope}.{key})", modality, self._modalities)
                if (scope, key) not in self._used and not (scope == "train" and key in self._idle):
                    raise BadValue(
                        f"--set {scope}.{key}: nothing in this bench uses {scope!r}. Name it with --method, "
                        "--baselines or --datasets, or leave the setting out."
                    )
