"""What a user asks for: method specs, settings, suites; and the resolved run that follows. No torch at import."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import itertools
import json
import re
import shlex
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from mmzoo.catalogue import BUILT_IN, KINDS, Catalogue, Entry
from mmzoo.errors import BadValue, Incompatible, MmzooError, UnknownName, near_miss, unknown
from mmzoo.training import FIELDS, Training
from mmzoo.yamlfile import read

#: Bumped when the same spec may give other numbers for a reason that lies in the engine.
ENGINE_VERSION = 1

_BOUND = r"[0-9]{1,9}%?"
MOST_SEEDS = 10_000
_PART = re.compile(
    rf"^(?P<name>[^:]*\.py:[A-Za-z_]\w*|[A-Za-z_][\w./-]*?)(?::(?P<first>{_BOUND})-(?P<last>{_BOUND})?)?$"
)
#: settings of the encoder of a modality: encoder.MODALITY=NAME, encoder.MODALITY.KEY=VALUE
ENCODER = "encoder"
GRAMMAR = "NAME[:FIRST-LAST][+NAME...][@HEAD], e.g. ogm:0-50+pmr@sum"


@dataclass(frozen=True)
class Part:
    """One strategy of a method, with its parameters, and the window of epochs it acts in (None: always)."""

    strategy: str
    params: Mapping[str, Any]
    first: str | None = None
    last: str | None = None

    @property
    def bounds(self) -> tuple[int | float, int | float | None] | None:
        """First and last epoch of the window, shares of the run as floats; None where there is no window."""
        if self.first is None:
            return None
        first, last = (b if b is None else int(b[:-1]) / 100 if b.endswith("%") else int(b)
                       for b in (self.first, self.last))  # fmt: skip
        return first or 0, last


@dataclass(frozen=True)
class Method:
    """A method as resolved by the catalogue. label: how tables call it, overrides included. needs_teachers: whether it
    learns from runs of each modality alone."""

    label: str
    parts: tuple[Part, ...]
    head: str
    head_params: Mapping[str, Any]
    each_modality: bool
    versions: Mapping[str, int]
    uses_slice: bool = False
    needs_teachers: bool = False
    #: what the user or the recipe has chosen, so that tuning leaves it alone: `I.KEY` of part I, `head.KEY`
    fixed: frozenset[str] = frozenset()

    @property
    def identity(self) -> dict[str, Any]:
        """What makes it the same method, whatever it is called."""
        return {"parts": [dataclasses.asdict(p) for p in self.parts], "head": self.head,
                "head_params": dict(self.head_params), "each_modality": self.each_modality}  # fmt: skip


@dataclass(frozen=True)
class RunSpec:
    """All that decides the numbers of one run. Its hash is the run's id.

    modalities: those that are trained on (None: all). encoders: modality -> (encoder, parameters). spare_slice: leave
    the slice out of training although the method has no use for it, to be compared with one that has.
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
    spare_slice: bool = False
    versions: Mapping[str, int | str] = field(default_factory=dict)
    #: how its settings were chosen: `trials`, `seed`, `study`; None where they were given
    tuning: Mapping[str, Any] | None = None

    def as_dict(self) -> dict[str, Any]:
        given = {**dataclasses.asdict(self), "training": self.training.as_dict()}
        if self.tuning is None:
            del given["tuning"]
        return _plain({**given, "engine": ENGINE_VERSION})

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> RunSpec:
        """The spec that `as_dict` gave, of this version of the engine. Raises BadValue for anything else."""
        try:
            given = {k: v for k, v in values.items() if k != "engine"}
            given["parts"] = tuple(Part(**part) for part in given["parts"])
            given["modalities"] = None if given["modalities"] is None else tuple(given["modalities"])
            given["encoders"] = {str(m): (str(name), dict(params)) for m, (name, params) in given["encoders"].items()}
            spec = cls(**{**given, "training": Training(**given["training"])})
        except (TypeError, ValueError, KeyError, AttributeError) as error:
            raise BadValue(f"not the spec of a run ({type(error).__name__}: {error})") from None
        if values.get("engine") != ENGINE_VERSION or spec.as_dict() != values:
            raise BadValue("not the spec of a run of this version")
        return spec

    @property
    def run_id(self) -> str:
        return digest(self.as_dict())

    @property
    def data_id(self) -> str:
        """The same for all runs on one data set with the same parameters."""
        return digest({"dataset": self.dataset, "params": self.data_params})

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
    heads: tuple[str, ...] = ()
    overrides: tuple[tuple[tuple[str, Any], ...], ...] = ()
    protocol: str = "holdout"
    keep_weights: bool = False
    tune: int | None = None
    track: tuple[str, ...] = ()


def digest(value: Any) -> str:
    """A short hash of plain data that does not depend on the order of keys."""
    return hashlib.sha256(json.dumps(_plain(value), sort_keys=True).encode()).hexdigest()[:16]


def shown(value: Any) -> str:
    """A parameter's value as it is written after --set, on one line."""
    if isinstance(value, (list, tuple)):
        return f"[{','.join(map(shown, value))}]"
    if isinstance(value, Mapping):
        return f"{{{', '.join(f'{k}: {shown(v)}' for k, v in value.items())}}}"
    if isinstance(value, str) and value.isprintable() and value:
        return value
    return repr(value) if isinstance(value, float) else json.dumps(value)


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
    _check_solo(catalogue, text, members)
    wanted = [catalogue.get("heads", r.extra["head"], r.package) for r in recipes]
    head = catalogue.get("heads", head_name) if head_name else _agreed_head(text, recipes, wanted)
    parts: list[Part] = []
    changed: list[str] = []
    versions = {head.id: head.version}
    head_params = head.defaults()
    fixed: set[str] = set()
    for recipe, own_head in zip(recipes, wanted):
        if own_head is head:
            head_params |= head.check_params(recipe.extra.get("head_args", {}))
            fixed |= {f"head.{k}" for k in recipe.extra.get("head_args", {})}
    over_head = settings.take(head, only=head.params)
    for recipe, first, last in members:
        strategy = catalogue.get("strategies", recipe.extra["strategy"], recipe.package)
        given = settings.take(strategy) | settings.take(recipe)
        params = {**strategy.defaults(), **strategy.check_params(recipe.extra.get("args", {}))}
        preset = strategy.preset(given.pop("preset")) if "preset" in given else {}
        own, to_head = _divided(given, strategy, head)
        fixed |= {f"{len(parts)}.{k}" for k in (*recipe.extra.get("args", {}), *preset, *own)}
        checked = preset | strategy.check_params(own)
        over_head |= to_head
        changed += [f"{k}={shown(v)}" for k, v in checked.items() if params[k] != v]
        parts.append(Part(strategy.id.partition("/")[2], {**params, **checked}, first, last))
        versions |= {strategy.id: strategy.version}
    _check_owners(catalogue, text, [r.name for r in recipes], parts)
    checked = head.check_params(over_head)
    changed += [f"head.{k}={shown(v)}" for k, v in checked.items() if head_params.get(k) != v]
    head_params |= checked
    label = text.strip() + (f"[{','.join(changed)}]" if changed else "")
    strategies = [catalogue.get("strategies", part.strategy) for part in parts]
    uses_slice = any(_uses_slice(strategy, part.params) for strategy, part in zip(strategies, parts))
    taught = any(_needs_teachers(strategy, part.params) for strategy, part in zip(strategies, parts))
    head_id = head.id.partition("/")[2]
    fixed |= {f"head.{k}" for k in over_head}
    method = Method(
        label, tuple(parts), head_id, head_params, any(each), versions, uses_slice, taught, frozenset(fixed)
    )
    return method if changed else dataclasses.replace(method, label=canonical(catalogue, method) or label)


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
        within = "" if piece == text else f" in {text!r}"
        raise BadValue(f"{piece!r}{within} is not NAME or NAME:FIRST-LAST. Write {GRAMMAR}.")
    name, first, last = match["name"], match["first"], match["last"]
    if first and last and first.endswith("%") == last.endswith("%") and int(last.strip("%")) < int(first.strip("%")):
        raise BadValue(f"{piece!r}: the window ends before it starts. Write {GRAMMAR}.")
    if any(b and b.endswith("%") and int(b[:-1]) > 100 for b in (first, last)):
        raise BadValue(f"{piece!r}: a share of the run is at most 100%.")
    first, last = (b and (f"{int(b[:-1])}%" if b.endswith("%") else str(int(b))) for b in (first, last))
    if not catalogue.has("methods", name) and catalogue.has("strategies", name):
        strategy = catalogue.get("strategies", name)
        extra = {"strategy": name, "head": f"{BUILT_IN}/concat"}
        return dataclasses.replace(strategy, kind="methods", extra=extra), first, last
    return catalogue.get("methods", name), first, last


def _agreed_head(text: str, recipes: Sequence[Entry], wanted: Sequence[Entry]) -> Entry:
    if any(head is not wanted[0] for head in wanted):
        listed = ", ".join(f"{r.name} wants {h.name}" for r, h in zip(recipes, wanted))
        raise Incompatible(f"{text}: the methods want different heads ({listed}). Choose one: {text}@HEAD.")
    return wanted[0]


def _check_solo(catalogue: Catalogue, text: str, members: Sequence[tuple[Entry, str | None, str | None]]) -> None:
    for recipe, first, _ in members:
        if catalogue.get("strategies", recipe.extra["strategy"], recipe.package).extra.get("solo"):
            name = recipe.name
            if len(members) > 1:
                raise Incompatible(f"{text}: {name} is the whole of a method and cannot be combined with another.")
            if first is not None:
                raise Incompatible(f"{text}: {name} is the whole of a method and has no window. Write {name}.")


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


def _uses_slice(strategy: Entry, params: Mapping[str, Any]) -> bool:
    """Whether a strategy with these parameters learns from the slice: where `slice_if` says so, else by `requires`."""
    if "slice_if" not in strategy.extra:
        return "slice" in strategy.requires
    return holds(strategy.extra["slice_if"], params)


def _needs_teachers(strategy: Entry, params: Mapping[str, Any]) -> bool:
    """Whether a strategy with these parameters learns from teachers: by `requires`, but where `teachers_unless` holds."""
    return "teachers" in strategy.requires and not holds(strategy.extra.get("teachers_unless", []), params)


def holds(given: Any, params: Mapping[str, Any]) -> bool:
    """Whether a condition of an entry holds: a mapping of parameters to values, all of which must, or a list of such
    mappings, one of which must."""
    conditions = given if isinstance(given, list) else [given]
    return any(all(params[k] in values for k, values in condition.items()) for condition in conditions)


def canonical(catalogue: Catalogue, method: Method) -> str | None:
    """The name of the recipe that is exactly this method, so that `ogm@concat` and `ogm` are one row."""
    if len(method.parts) != 1 or method.parts[0].first is not None:
        return None
    for recipe in catalogue.entries("methods"):
        strategy = catalogue.get("strategies", recipe.extra["strategy"], recipe.package)
        head = catalogue.get("heads", recipe.extra["head"], recipe.package)
        same = {
            "parts": [dataclasses.asdict(Part(strategy.id.partition("/")[2],
                                              {**strategy.defaults(), **recipe.extra.get("args", {})}))],
            "head": head.id.partition("/")[2],
            "head_params": {**head.defaults(), **recipe.extra.get("head_args", {})},
            "each_modality": bool(recipe.extra.get("each_modality")),
        }  # fmt: skip
        if _plain(same) == _plain(method.identity):
            return catalogue.name_of(recipe)
    return None


# ---------------------------------------------------------------------------------------------- settings
class Settings:
    """`--set WHAT.KEY=VALUE`: WHAT is a method, strategy, head, encoder or data set, or `train`.

    METHOD.head.KEY reaches the head of one method only; METHOD.preset=NAME takes the parameters that the authors use on
    one data set, and what else is set goes before them. Every setting must be taken by something: what nobody took is
    an error, not silence.
    """

    def __init__(self, catalogue: Catalogue, pairs: Sequence[tuple[str, Any]]) -> None:
        self._values: dict[str, dict[str, Any]] = {}
        self._used: set[tuple[str, str]] = set()
        for key, value in pairs:
            scope, name = _divided_key(key)
            if not scope or not name:
                raise BadValue(f"--set {key}={value}: write WHAT.KEY=VALUE, e.g. ogm.alpha=0.3 or train.lr=0.01.")
            if scope == ENCODER:
                if not all(name.split(".", 1)):
                    raise BadValue(f"--set {key}={value}: write encoder.MODALITY=NAME or encoder.MODALITY.KEY=VALUE.")
            elif scope != "train" and not any(catalogue.has(kind, scope) for kind in
                                            ("methods", "strategies", "heads", "encoders", "datasets")):  # fmt: skip
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
                found |= self._taken(scope, [k for k in keys if entry.kind != "datasets" or not _of_encoder(k)])
        return found

    def take_encoder(self, dataset: Entry, modality: str) -> tuple[str | None, dict[str, Any]]:
        """The encoder that is asked for in place of the usual one (None: that one), and parameters for it.

        `encoder.MODALITY` holds for every data set that has the modality, `DATASET.encoder.MODALITY` goes before it.
        """
        self._modalities[modality] = None
        name: Any = None
        params: dict[str, Any] = {}
        own = [s for s in self._values if self._catalogue.has("datasets", s)
               and self._catalogue.get("datasets", s).id == dataset.id]  # fmt: skip
        for scope, start in [(ENCODER, modality), *((s, f"{ENCODER}.{modality}") for s in own)]:
            values = self._values.get(scope, {})
            taken = self._taken(scope, [k for k in values if k == start or k.startswith(f"{start}.")])
            name = taken.pop(start, name)
            params |= {k.removeprefix(f"{start}."): v for k, v in taken.items()}
        if name is not None and not isinstance(name, str):
            raise BadValue(f"encoder.{modality} must be the name of an encoder, not {name!r}. See: mmzoo list encoders")
        return name, params

    def take_training(self) -> dict[str, Any]:
        """The settings `train.KEY`."""
        return self._taken("train", FIELDS)

    def _taken(self, scope: str, keys: Iterable[str]) -> dict[str, Any]:
        chosen = set(keys)
        taken = {k: v for k, v in self._values.get(scope, {}).items() if k in chosen}
        self._used |= {(scope, k) for k in taken}
        return taken

    def check_all_used(self) -> None:
        """Raise BadValue for a setting that nothing in this bench takes."""
        for scope, values in self._values.items():
            for key in values:
                if (scope, key) not in self._used and (scope == ENCODER or _of_encoder(key)):
                    modality = key.removeprefix(f"{ENCODER}.").partition(".")[0]
                    raise unknown(f"modality (--set {scope}.{key})", modality, self._modalities)
                if (scope, key) not in self._used:
                    raise BadValue(
                        f"--set {scope}.{key}: nothing in this bench uses {scope!r}. Name it with --method, "
                        "--baselines or --datasets, or leave the setting out."
                    )


def _divided_key(key: str) -> tuple[str, str]:
    """`WHAT.KEY` as its two parts, where WHAT may be a class in a file: `./mine.py:Mine.weight`."""
    local = re.match(r"(.*\.py:[A-Za-z_]\w*)\.(.*)", key)
    if local is not None:
        return local[1], local[2]
    scope, _, name = key.partition(".")
    return scope, name


def _of_encoder(key: str) -> bool:
    """Whether a setting of a data set is about the encoder of one of its modalities."""
    return key.startswith(f"{ENCODER}.")


def parse_setting(text: str) -> tuple[str, Any]:
    """`KEY=VALUE` with the value read as YAML, so that 0.3, true, null and [a, b] mean what they look like."""
    key, equals, value = text.partition("=")
    if not equals or not key.strip():
        raise BadValue(f"--set {text!r}: write WHAT.KEY=VALUE, e.g. ogm.alpha=0.3.")
    return key.strip(), _scalar(value, text)


def parse_override(text: str) -> tuple[tuple[str, Any], ...]:
    """`KEY=VALUE KEY=VALUE ...`: settings that hold together, parted by blanks as a shell parts words."""
    try:
        words = shlex.split(text)
    except ValueError as error:
        raise BadValue(f"--override {text!r}: {error}. Write 'WHAT.KEY=VALUE WHAT.KEY=VALUE'.") from None
    if not words:
        raise BadValue("--override is empty: write 'WHAT.KEY=VALUE WHAT.KEY=VALUE'.")
    return tuple(map(parse_setting, words))


def _scalar(value: str, text: str) -> Any:
    try:
        read = yaml.safe_load(value)
    except (yaml.YAMLError, ValueError, RecursionError):
        raise BadValue(
            f"--set {text!r}: the value is not plain YAML. Write a number, a word, true, false, null, [A, B] or "
            "{A: 1, B: 2}."
        ) from None
    return {k: _number(v) for k, v in read.items()} if isinstance(read, dict) else _number(read)


def _number(read: Any) -> Any:
    """YAML 1.1 takes 1e-3 for a text; nobody who writes it means one."""
    if isinstance(read, str):
        try:
            return float(read)
        except ValueError:
            return read
    return read


def parse_seeds(text: str) -> tuple[int, ...]:
    """`3` is 0, 1, 2; `0,4` and `7,` list seeds; `5-14` is a range, both ends included."""
    faulty = BadValue(f"seeds {text!r}: write how many (3), a list (0,4 or 7,) or a range (5-14).")
    pieces = [p.strip() for p in text.split(",")]
    if len(pieces) > 1 and not pieces[-1]:
        pieces.pop()  # `7,` is a list of one
    if not all(re.fullmatch(r"[0-9]{1,18}(-[0-9]{1,18})?", p) for p in pieces):
        raise faulty
    if "," not in text and "-" not in text:
        ranges = [range(int(text))]
    else:
        ranges = [range(int(first), int(last or first) + 1) for first, _, last in (p.partition("-") for p in pieces)]
    if not all(ranges):
        raise faulty
    if sum(map(len, ranges)) > MOST_SEEDS:
        raise BadValue(f"seeds {text!r}: those are more than {MOST_SEEDS:,}. A list of seeds is written 7, or 0,4.")
    return tuple(dict.fromkeys(itertools.chain(*ranges)))


# ---------------------------------------------------------------------------------------------- suites
#: how the epoch of a run is chosen; peers: on holdout, and beside it, in a column of its own, on test
PROTOCOLS = ("holdout", "peers")
_SUITE_KEYS = {f.name for f in dataclasses.fields(BenchSpec)} - {"settings", "track"} | {"set", "schema"}


def read_suite(path: Path, catalogue: Catalogue) -> dict[str, Any]:
    """The fields of a BenchSpec that a YAML suite gives. Raises BadValue listing all faults with their lines."""
    document = read(path)
    data = document.data
    if not isinstance(data, dict):
        raise BadValue(f"{path} must be a mapping with the keys {', '.join(sorted(_SUITE_KEYS))}.")
    if isinstance(listed := data.get("datasets"), list):
        with contextlib.suppress(MmzooError):  # told below, with its line
            register_manifests(catalogue, [t for t in listed if isinstance(t, str)])
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
        return {"settings": tuple(_suite_settings(value, catalogue, document, ("set",)))}
    if key == "overrides":
        if not isinstance(value, list) or not value:
            raise BadValue("must be a list of mappings, each as in set: [{train.lr: 0.01}, {train.lr: 0.1}]")
        found = [_suite_settings(v, catalogue, document, (key, i)) for i, v in enumerate(value)]
        return {"overrides": tuple(map(tuple, found))}
    if key == "seeds":
        if isinstance(value, list) and value:
            return {"seeds": parse_seeds(",".join(map(str, value)) + ",")}
        return {"seeds": parse_seeds(str(value))}
    if key in ("baselines", "datasets", "heads"):
        if not isinstance(value, list) or not all(isinstance(v, str) for v in value):
            raise BadValue(f"must be a list of names, not {value!r}")
        for i, name in enumerate(value):
            try:
                _known(key, name, catalogue)
            except MmzooError as error:
                document.fault((key, i), str(error))
        return {key: tuple(value)}
    wanted: Any
    wanted, words = {"method": (str, "a method"), "preset": (str, "a name"), "epochs": (int, "a whole number"),
                     "references": (bool, "true or false"), "keep_weights": (bool, "true or false"),
                     "protocol": (str, "a name"), "tune": (int, "a whole number of trials")}[key]  # fmt: skip
    if not isinstance(value, wanted) or (wanted is int and isinstance(value, bool)):
        raise BadValue(f"must be {words}, not {value!r}")
    if key == "epochs":
        Training().replace(epochs=value)
    if key == "tune" and value < 1:
        raise BadValue(f"must be at least 1 trial, not {value}")
    if key == "protocol":
        check_protocol(value)
    if key == "method":
        _known(key, value, catalogue)
    if key == "preset":
        presets = {name for entry in catalogue.entries("datasets") for name in entry.extra["training"]}
        if value not in presets:
            raise unknown("training preset", value, presets)
    return {key: value}


def check_protocol(name: str) -> str:
    """One of PROTOCOLS. Raises UnknownName."""
    if name not in PROTOCOLS:
        raise unknown("protocol", name, PROTOCOLS)
    return name


def _known(key: str, name: str, catalogue: Catalogue) -> None:
    if key == "heads":
        catalogue.get("heads", name)
    elif key == "datasets":
        resolve_dataset(catalogue, name, Settings(catalogue, ()), stores=False)
    else:
        resolve_method(catalogue, name, Settings(catalogue, ()))


def _suite_settings(value: Any, catalogue: Catalogue, document: Any, where: tuple[Any, ...]) -> list[tuple[str, Any]]:
    if not isinstance(value, dict):
        raise BadValue("must map WHAT.KEY to values, e.g. ogm.alpha: 0.3")
    pairs = []
    for key, setting in value.items():
        try:
            Settings(catalogue, [(str(key), setting)])
            _check_setting(catalogue, str(key), setting)
            pairs.append((str(key), setting))
        except MmzooError as error:
            document.fault((*where, key), str(error))
    return pairs


def _check_setting(catalogue: Catalogue, key: str, value: Any) -> None:
    """Type and range of one setting, as far as its name alone decides them."""
    scope, name = _divided_key(key)
    if scope == "train":
        Training().replace(**{name: value})
        return
    if scope == ENCODER or _of_encoder(name):
        _check_encoder_setting(catalogue, name.removeprefix(f"{ENCODER}."), value)
        return
    named = [catalogue.get(kind, scope) for kind in KINDS if catalogue.has(kind, scope)]
    for method in [e for e in named if e.kind == "methods"]:
        named.append(catalogue.get("strategies", method.extra["strategy"], method.package))
    if name == "preset" and (strategies := [e for e in named if e.kind == "strategies"]):
        strategies[-1].preset(value)
        return
    takers = [e for e in named if name in e.accepted]
    if any(e.kind in ("methods", "strategies") for e in named):  # which head these go with is not known yet
        takers += [h for h in catalogue.entries("heads") if name.removeprefix("head.") in h.params]
    if not takers:
        accepted = {p: None for e in named for p in e.accepted}
        raise unknown(f"parameter of {scope}", name, accepted, see=f"See: mmzoo show {scope}")
    errors = []
    for entry in takers:
        try:
            entry.check_params({name if name in entry.params else name.removeprefix("head."): value})
            return
        except MmzooError as error:
            errors.append(error)
    raise errors[0]


def _check_encoder_setting(catalogue: Catalogue, name: str, value: Any) -> None:
    """`MODALITY: NAME` or `MODALITY.KEY: VALUE`, as far as that can be told without the data set."""
    _, _, key = name.partition(".")
    if not key:
        catalogue.get("encoders", str(value))
        return
    known = {k for e in catalogue.entries("encoders") for k in e.accepted}
    if key not in known:
        raise unknown("parameter of any encoder", key, known, see="See: mmzoo list encoders")


# ---------------------------------------------------------------------------------------------- data sets
def resolve_dataset(
    catalogue: Catalogue, text: str, settings: Settings, *, stores: bool = True
) -> tuple[str, Entry, dict[str, Any]]:
    """`NAME[:PRESET]` -> its label, entry and parameters.

    Of a data set that has to be prepared, `NAME` is the prepared data, else its prepared twin; `NAME:mini` and `NAME:real`
    insist. Its parameters then name the store by its hashes. stores: False to check the name only. Raises UnknownName or
    BadValue, of which Unprepared where there is no store, CorruptFile.
    """
    text = text.strip()
    name, _, preset = (text, "", "") if is_manifest(text) else text.partition(":")
    entry = register_manifest(catalogue, text) if is_manifest(text) else catalogue.get("datasets", name)
    if entry.extra.get("prepared"):
        return _resolve_prepared(entry, preset, settings.take(entry), stores)
    presets = entry.extra.get("presets", {})
    if preset and preset not in presets:
        raise unknown(f"preset of {name}", preset, presets, see=f"See: mmzoo show {name}")
    return _resolved(entry, preset, settings.take(entry))


def _resolved(entry: Entry, preset: str, given: Mapping[str, Any]) -> tuple[str, Entry, dict[str, Any]]:
    presets = entry.extra.get("presets", {})
    params = {**entry.defaults(), **entry.check_params(presets.get(preset or "default", {}))}
    checked = entry.check_params(given)
    changed = [f"{k}={shown(v)}" for k, v in checked.items() if params[k] != v]
    label = entry.name + (f":{preset}" if preset and preset != "default" else "")
    return label + (f"[{','.join(changed)}]" if changed else ""), entry, {**params, **checked}


def _resolve_prepared(
    entry: Entry, preset: str, given: Mapping[str, Any], stores: bool
) -> tuple[str, Entry, dict[str, Any]]:
    """The same for a data set that lies in a store: of real data, else of its twin, unless the preset says which."""
    from mmzoo.data.choice import MINI, REAL, Unprepared, as_mini, chosen_store, identity, of_store

    presets = entry.extra.get("presets", {})
    if preset and preset not in (*presets, MINI, REAL):
        raise unknown(f"preset of {entry.name}", preset, [*presets, MINI, REAL], see=f"See: mmzoo show {entry.name}")
    named = "" if preset in (MINI, REAL) else preset
    missing: Unprepared | None = None
    for mini in (False, True):
        if preset == (REAL if mini else MINI) or (mini and entry.package == OWN):
            continue
        label, asked, params = _resolved(as_mini(entry) if mini else entry, named, given)
        label = label.replace(entry.name, f"{entry.name} (mini)", 1) if mini else label
        if not stores:
            return label, asked, params
        try:
            store = chosen_store(asked, params, mini=mini)
        except Unprepared as error:
            missing = missing or error
            continue
        if "split" in params:
            params = {**params, "split": store.split_name(params["split"])}
        return label, of_store(asked, store), {**params, "store": identity(store, entry.extra.get("metric", "acc"))}
    assert missing is not None
    raise missing


#: the package of data sets that a manifest describes
OWN = "own"


def is_manifest(text: str) -> bool:
    return text.strip().endswith((".yaml", ".yml"))


def register_manifest(catalogue: Catalogue, text: str) -> Entry:
    """The entry of a user's own data, under its name in the catalogue from now on. Raises BadValue."""
    from mmzoo.data.manifest import own_entry

    entry = own_entry(Path(text.strip()), catalogue)
    known = catalogue.get("datasets", entry.name) if catalogue.has("datasets", entry.name) else None
    if known is not None:
        catalogue.remove(known)
    catalogue.add(entry)
    return entry


def register_manifests(catalogue: Catalogue, texts: Iterable[str]) -> None:
    """The same for all manifests among data sets. Raises BadValue for two of one name."""
    found: dict[str, str] = {}
    for text in dict.fromkeys(t.strip() for t in texts if is_manifest(t)):
        name = register_manifest(catalogue, text).name
        if name in found:
            raise BadValue(f"{found[name]} and {text} are both called {name}. Give one of them another name.")
        found[name] = text


def resolve_training(entry: Entry, preset: str, epochs: int | None, settings: Settings) -> Training:
    """The training protocol of a data set. Raises UnknownName or BadValue."""
    known = entry.extra["training"]
    if preset not in known:
        raise unknown(f"training preset of {entry.name}", preset, known, see=f"See: mmzoo show {entry.name}")
    given = settings.take_training()
    if epochs is not None:
        if given.get("epochs", epochs) != epochs:
            raise BadValue(f"epochs are given twice: --epochs {epochs} and --set train.epochs={given['epochs']}. "
                           "Leave one of them out.")  # fmt: skip
        given["epochs"] = epochs
    changes = {**known[preset], **given}
    return Training().replace(**changes)
