"""What a user asks for: method specs, settings, suites; and the resolved run that follows. No torch at import."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from mmzoo.catalogue import Catalogue, Entry
from mmzoo.errors import BadValue, Incompatible, MmzooError, near_miss, unknown
from mmzoo.training import FIELDS, Training
from mmzoo.yamlfile import read

#: Bumped when the same spec may give other numbers for a reason that lies in the engine.
ENGINE_VERSION = 1

_BOUND = r"\d+%?"
_PART = re.compile(rf"^(?P<name>[A-Za-z_][\w./-]*?)(?::(?P<first>{_BOUND})-(?P<last>{_BOUND})?)?$")
GRAMMAR = "NAME[:FIRST-LAST][+NAME...][@HEAD], e.g. ogm:0-50+pmr@sum"


@dataclass(frozen=True)
class Part:
    """One strategy of a method, with its parameters, and the window of epochs it acts in (None: always)."""

    strategy: str
    params: Mapping[str, Any]
    first: str | None = None
    last: str | None = None


@dataclass(frozen=True)
class Method:
    """A method as resolved by the catalogue. label: how tables call it, overrides included."""

    label: str
    parts: tuple[Part, ...]
    head: str
    head_params: Mapping[str, Any]
    each_modality: bool
    versions: Mapping[str, int]

    @property
    def identity(self) -> dict[str, Any]:
        """What makes it the same method, whatever it is called."""
        return {"parts": [dataclasses.asdict(p) for p in self.parts], "head": self.head,
                "head_params": dict(self.head_params), "each_modality": self.each_modality}  # fmt: skip


@dataclass(frozen=True)
class RunSpec:
    """All that decides the numbers of one run. Its hash is the run's id.

    modalities: those that are trained on (None: all). encoders: modality -> (encoder, parameters).
    """

    dataset: str
    data_params: Mapping[str, Any]
    modalities: tuple[str, ...] | None
    parts: tuple[Part, ...]
    head: str
    head_params: Mapping[str, Any]
    encoders: Mapping[str, tuple[str, Mapping[str, Any]]]
    training: Training
    seed: int
    versions: Mapping[str, int] = field(default_factory=dict)

    def as_dict(self) -> dict[str, Any]:
        return _plain({**dataclasses.asdict(self), "engine": ENGINE_VERSION})

    @property
    def run_id(self) -> str:
        return digest(self.as_dict())

    @property
    def config_id(self) -> str:
        """The same for all seeds of one configuration."""
        return digest({k: v for k, v in self.as_dict().items() if k != "seed"})


@dataclass(frozen=True)
class BenchSpec:
    """A bench as asked for; see `mmzoo bench --help` for each field."""

    method: str
    baselines: tuple[str, ...] = ()
    datasets: tuple[str, ...] = ("mfeat",)
    seeds: tuple[int, ...] = (0, 1, 2)
    epochs: int | None = None
    preset: str = "default"
    settings: tuple[tuple[str, Any], ...] = ()
    references: bool = True


def digest(value: Any) -> str:
    """A short hash of plain data that does not depend on the order of keys."""
    return hashlib.sha256(json.dumps(_plain(value), sort_keys=True).encode()).hexdigest()[:16]


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(v) for v in value]
    return value


# ---------------------------------------------------------------------------------------------- methods
def resolve_method(catalogue: Catalogue, text: str, settings: Settings) -> Method:
    """The method that a spec names, with the settings that apply to it.

    Raises UnknownName, BadValue, or Incompatible when its parts cannot be chained or want different heads.
    """
    body, _, head_name = text.strip().partition("@")
    if not body or text.count("@") > 1 or (text.endswith("@")):
        raise BadValue(f"{text!r} is not a method. Write {GRAMMAR}.")
    members = [_member(catalogue, piece, text) for piece in body.split("+")]
    recipes = [recipe for recipe, _, _ in members]
    each = [bool(r.extra.get("each_modality")) for r in recipes]
    if any(each) and len(recipes) > 1:
        alone = recipes[each.index(True)].name
        raise Incompatible(f"{text}: {alone} trains one modality at a time and cannot be combined with another method.")
    head = catalogue.get("heads", head_name or _agreed_head(text, recipes))
    parts, changed = [], []
    versions = {head.id: head.version}
    head_params = {**head.defaults(), **_recipe_head_args(recipes, head)}
    over_head = settings.take("heads", head.name, only=head.params)
    for recipe, first, last in members:
        strategy = catalogue.get("strategies", recipe.extra["strategy"])
        given = settings.take("strategies", strategy.name) | settings.take("methods", recipe.name)
        params = {**strategy.defaults(), **strategy.check_params(recipe.extra.get("args", {}))}
        own, to_head = _divided(given, strategy, head)
        checked = strategy.check_params(own)
        over_head |= to_head
        changed += [f"{k}={v}" for k, v in checked.items() if params[k] != v]
        parts.append(Part(strategy.id.partition("/")[2], {**params, **checked}, first, last))
        versions |= {strategy.id: strategy.version}
    _check_owners(catalogue, text, [r.name for r in recipes], parts)
    checked = head.check_params(over_head)
    changed += [f"head.{k}={v}" for k, v in checked.items() if head_params.get(k) != v]
    head_params |= checked
    label = text.strip() + (f"[{','.join(changed)}]" if changed else "")
    method = Method(label, tuple(parts), head.id.partition("/")[2], head_params, any(each), versions)
    return method if changed else dataclasses.replace(method, label=_canonical(catalogue, method) or label)


def _divided(given: Mapping[str, Any], strategy: Entry, head: Entry) -> tuple[dict[str, Any], dict[str, Any]]:
    """Settings of a method: those of its strategy, and those of its head (`head.KEY`, or a key only the head has)."""
    own, to_head = {}, {}
    for key, value in given.items():
        bare = key.removeprefix("head.")
        if key != bare or (key not in strategy.params and key in head.params):
            to_head[bare] = value
        else:
            own[key] = value
    return own, to_head


def _member(catalogue: Catalogue, piece: str, text: str) -> tuple[Entry, str | None, str | None]:
    """A recipe (a bare strategy counts as one, with the head `concat`) and its window."""
    match = _PART.match(piece.strip())
    if match is None:
        raise BadValue(f"{piece!r} in {text!r} is not NAME or NAME:FIRST-LAST. Write {GRAMMAR}.")
    name, first, last = match["name"], match["first"], match["last"]
    if first and last and first.endswith("%") == last.endswith("%") and int(last.strip("%")) < int(first.strip("%")):
        raise BadValue(f"{piece!r}: the window ends before it starts.")
    if any(b and b.endswith("%") and int(b[:-1]) > 100 for b in (first, last)):
        raise BadValue(f"{piece!r}: a share of the run is at most 100%.")
    if not catalogue.has("methods", name) and catalogue.has("strategies", name):
        strategy = catalogue.get("strategies", name)
        extra = {"strategy": name, "head": "concat"}
        return dataclasses.replace(strategy, kind="methods", extra=extra), first, last
    return catalogue.get("methods", name), first, last


def _agreed_head(text: str, recipes: Sequence[Entry]) -> str:
    wanted = {r.name: r.extra["head"] for r in recipes}
    if len(set(wanted.values())) > 1:
        listed = ", ".join(f"{n} wants {h}" for n, h in wanted.items())
        raise Incompatible(f"{text}: the methods want different heads ({listed}). Choose one: {text}@HEAD.")
    return next(iter(wanted.values()))


def _recipe_head_args(recipes: Sequence[Entry], head: Entry) -> dict[str, Any]:
    merged: dict[str, Any] = {}
    for recipe in recipes:
        if recipe.extra["head"] == head.name:
            merged |= head.check_params(recipe.extra.get("head_args", {}))
    return merged


def _check_owners(catalogue: Catalogue, text: str, names: Sequence[str], parts: Sequence[Part]) -> None:
    owner: dict[str, str] = {}
    for name, part in zip(names, parts):
        for what in catalogue.get("strategies", part.strategy).extra.get("owns", ()):
            if what in owner:
                raise Incompatible(
                    f"{text}: {owner[what]} and {name} cannot be combined, since both replace {what!r}. "
                    "Methods that only add to the loss or scale gradients can be."
                )
            owner[what] = name


def _canonical(catalogue: Catalogue, method: Method) -> str | None:
    """The name of the recipe that is exactly this method, so that `ogm@concat` and `ogm` are one row."""
    if len(method.parts) != 1 or method.parts[0].first is not None:
        return None
    for recipe in catalogue.entries("methods"):
        strategy = catalogue.get("strategies", recipe.extra["strategy"])
        head = catalogue.get("heads", recipe.extra["head"])
        same = {
            "parts": [dataclasses.asdict(Part(strategy.id.partition("/")[2],
                                              {**strategy.defaults(), **recipe.extra.get("args", {})}))],
            "head": head.id.partition("/")[2],
            "head_params": {**head.defaults(), **recipe.extra.get("head_args", {})},
            "each_modality": bool(recipe.extra.get("each_modality")),
        }  # fmt: skip
        if _plain(same) == _plain(method.identity):
            return recipe.id.partition("/")[2]
    return None


# ---------------------------------------------------------------------------------------------- settings
class Settings:
    """`--set WHAT.KEY=VALUE`: WHAT is a method, strategy, head, encoder or data set, or `train`.

    METHOD.head.KEY reaches the head of one method only. Every setting must be taken by something: what nobody took is
    an error, not silence.
    """

    def __init__(self, catalogue: Catalogue, pairs: Sequence[tuple[str, Any]]) -> None:
        self._values: dict[str, dict[str, Any]] = {}
        self._used: set[tuple[str, str]] = set()
        for key, value in pairs:
            scope, _, name = key.partition(".")
            if not name:
                raise BadValue(f"--set {key}={value}: write WHAT.KEY=VALUE, e.g. ogm.alpha=0.3 or train.lr=0.01.")
            if scope != "train" and not any(catalogue.has(kind, scope) for kind in
                                            ("methods", "strategies", "heads", "encoders", "datasets")):  # fmt: skip
                names = {n.name for n in catalogue} | {"train"}
                raise unknown("method, strategy, head, encoder or data set", scope, names, see="mmzoo list")
            if scope == "train" and name not in FIELDS:
                raise unknown("training option", name, FIELDS)
            self._values.setdefault(scope, {})[name] = value
        self._catalogue = catalogue

    def take(self, kind: str, name: str, only: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """The settings of one entry. only: take just these keys, leaving the rest for others of the same name.

        A name that is both a method and a strategy means the method.
        """
        found: dict[str, Any] = {}
        for scope, values in self._values.items():
            if kind == "train":
                matches = scope == "train"
            else:
                shadowed = kind == "strategies" and self._catalogue.has("methods", scope)
                matches = not shadowed and self._catalogue.has(kind, scope) and (
                    self._catalogue.get(kind, scope).name == name
                )  # fmt: skip
            if matches:
                taken = {k: v for k, v in values.items() if only is None or k in only}
                found |= taken
                self._used |= {(scope, k) for k in taken}
        return found

    def check_all_used(self) -> None:
        """Raise BadValue for a setting that nothing in this bench takes."""
        for scope, values in self._values.items():
            for key in values:
                if (scope, key) not in self._used:
                    raise BadValue(
                        f"--set {scope}.{key}: nothing in this bench uses {scope!r}. Name it with --method, "
                        "--baselines or --datasets, or leave the setting out."
                    )


def parse_setting(text: str) -> tuple[str, Any]:
    """`KEY=VALUE` with the value read as YAML, so that 0.3, true, null and [a, b] mean what they look like."""
    key, equals, value = text.partition("=")
    if not equals or not key.strip():
        raise BadValue(f"--set {text!r}: write WHAT.KEY=VALUE, e.g. ogm.alpha=0.3.")
    return key.strip(), _scalar(value, text)


def _scalar(value: str, text: str) -> Any:
    try:
        read = yaml.safe_load(value)
    except yaml.YAMLError:
        raise BadValue(f"--set {text!r}: the value is not valid YAML.") from None
    # YAML 1.1 takes 1e-3 for a text; nobody who writes it means one.
    if isinstance(read, str):
        try:
            return float(read)
        except ValueError:
            return read
    return read


def parse_seeds(text: str) -> tuple[int, ...]:
    """`3` is 0, 1, 2; `0,4` and `7,` list seeds; `5-14` is a range, both ends included."""
    faulty = BadValue(f"seeds {text!r}: write how many (3), a list (0,4 or 7,) or a range (5-14).")
    pieces = [p.strip() for p in text.split(",") if p.strip()]
    if not pieces or not all(re.fullmatch(r"\d+(-\d+)?", p) for p in pieces):
        raise faulty
    if "," not in text and "-" not in text:
        count = int(text)
        if count < 1:
            raise faulty
        return tuple(range(count))
    seeds: list[int] = []
    for piece in pieces:
        first, _, last = piece.partition("-")
        if last and int(last) < int(first):
            raise faulty
        seeds += range(int(first), int(last or first) + 1)
    return tuple(dict.fromkeys(seeds))


# ---------------------------------------------------------------------------------------------- suites
_SUITE_KEYS = {f.name for f in dataclasses.fields(BenchSpec)} - {"settings"} | {"set", "schema"}


def read_suite(path: Path, catalogue: Catalogue) -> dict[str, Any]:
    """The fields of a BenchSpec that a YAML suite gives. Raises BadValue listing all faults with their lines."""
    document = read(path)
    data = document.data
    if not isinstance(data, dict):
        raise BadValue(f"{path} must be a mapping with the keys {', '.join(sorted(_SUITE_KEYS))}.")
    fields: dict[str, Any] = {}
    for key, value in data.items():
        if key not in _SUITE_KEYS:
            document.fault((key,), f"unknown key.{near_miss(str(key), _SUITE_KEYS)}")
            continue
        try:
            fields |= _suite_field(key, value, catalogue, document)
        except MmzooError as error:
            document.fault((key,), str(error))
    document.raise_faults()
    return fields


def _suite_field(key: str, value: Any, catalogue: Catalogue, document: Any) -> dict[str, Any]:
    if key == "schema":
        if value != 1:
            raise BadValue(f"this version reads schema 1, not {value!r}")
        return {}
    if key == "set":
        return {"settings": tuple(_suite_settings(value, catalogue, document))}
    if key == "seeds":
        if isinstance(value, list) and value and all(isinstance(v, int) and not isinstance(v, bool) for v in value):
            return {"seeds": tuple(value)}
        if isinstance(value, int) and not isinstance(value, bool):
            return {"seeds": parse_seeds(str(value))}
        return {"seeds": parse_seeds(value if isinstance(value, str) else repr(value))}
    if key in ("baselines", "datasets"):
        if not isinstance(value, list) or not all(isinstance(v, str) for v in value):
            raise BadValue(f"must be a list of names, not {value!r}")
        for i, name in enumerate(value):
            try:
                _known(key, name, catalogue)
            except MmzooError as error:
                document.fault((key, i), str(error))
        return {key: tuple(value)}
    wanted = {"method": str, "preset": str, "epochs": int, "references": bool}[key]
    if not isinstance(value, wanted) or (wanted is int and isinstance(value, bool)):
        raise BadValue(f"must be a {wanted.__name__}, not {value!r}")
    if key == "epochs" and value < 1:
        raise BadValue(f"must be at least 1, not {value}")
    if key == "method":
        _known(key, value, catalogue)
    return {key: value}


def _known(key: str, name: str, catalogue: Catalogue) -> None:
    if key == "datasets":
        resolve_dataset(catalogue, name, Settings(catalogue, ()))
    else:
        resolve_method(catalogue, name, Settings(catalogue, ()))


def _suite_settings(value: Any, catalogue: Catalogue, document: Any) -> list[tuple[str, Any]]:
    if not isinstance(value, dict):
        raise BadValue("must map WHAT.KEY to values, e.g. ogm.alpha: 0.3")
    pairs = []
    for key, setting in value.items():
        try:
            Settings(catalogue, [(str(key), setting)])
            _check_setting(catalogue, str(key), setting)
            pairs.append((str(key), setting))
        except MmzooError as error:
            document.fault(("set", key), str(error))
    return pairs


def _check_setting(catalogue: Catalogue, key: str, value: Any) -> None:
    """Type and range of one setting, as far as its name alone decides them."""
    scope, _, name = key.partition(".")
    if scope == "train":
        Training().replace(**{name: value})
    elif catalogue.has("methods", scope) or catalogue.has("strategies", scope):
        resolve_method(catalogue, scope, Settings(catalogue, [(key, value)]))


# ---------------------------------------------------------------------------------------------- data sets
def resolve_dataset(catalogue: Catalogue, text: str, settings: Settings) -> tuple[str, Entry, dict[str, Any]]:
    """`NAME[:PRESET]` -> its label, entry and parameters. Raises UnknownName or BadValue."""
    name, _, preset = text.strip().partition(":")
    entry = catalogue.get("datasets", name)
    presets = entry.extra.get("presets", {})
    if preset and preset not in presets:
        raise unknown(f"preset of {name}", preset, presets)
    params = {**entry.defaults(), **entry.check_params(presets.get(preset or "default", {}))}
    checked = entry.check_params(settings.take("datasets", entry.name))
    changed = [f"{k}={v}" for k, v in checked.items() if params[k] != v]
    label = entry.name + (f":{preset}" if preset and preset != "default" else "")
    return label + (f"[{','.join(changed)}]" if changed else ""), entry, {**params, **checked}


def resolve_training(entry: Entry, preset: str, epochs: int | None, settings: Settings) -> Training:
    """The training protocol of a data set. Raises UnknownName or BadValue."""
    known = entry.extra["training"]
    if preset not in known:
        raise unknown(f"training preset of {entry.name}", preset, known)
    changes = {**known[preset], **settings.take("train", "train")}
    if epochs is not None:
        changes["epochs"] = epochs
    return Training().replace(**changes)
