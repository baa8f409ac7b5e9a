"""A class in a file of the user's own, named `./mine.py:Mine` wherever a catalogue name is accepted. No torch until then."""

from __future__ import annotations

import importlib
import inspect
import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

from mmzoo.errors import BadValue, MmzooError, ended, near_miss, said
from mmzoo.registry import Entry, Param, local_code

#: what such entries say of their package
PACKAGE = "local"
#: a file and a class; `local/` stands in front where an id is looked up again
NAME = re.compile(rf"(?:{PACKAGE}/)?(?P<file>[^:+@]*\.py):(?P<cls>[A-Za-z_]\w*)")
#: kind -> module and name of the base class
BASES = {
    "strategies": "mmzoo.training.strategy:Strategy",
    "heads": "mmzoo.core.head:FusionHead",
    "encoders": "mmzoo.core.encoder:Encoder",
}
#: what an encoder is taken to read where it has no `kinds`
KINDS = ("vector", "series", "spectrogram", "image", "video", "text")
_TYPES: Mapping[str, str] = {"bool": "bool", "int": "int", "float": "float", "str": "str"}


def is_local(name: str) -> bool:
    """Whether a name means a class in a file."""
    return NAME.fullmatch(name) is not None


def file_of(name: str) -> str | None:
    """The file that a name would load a class from; None where it names none."""
    bare = name.removeprefix(f"{PACKAGE}/")
    return bare[: bare.index(".py:") + 3] if ".py:" in bare else None


def files(name: str) -> tuple[Path, ...]:
    """The file that a name stands for, and the local modules that it imports."""
    file = file_of(name)
    return () if file is None else local_code.read(file).files


def entry(kind: str, name: str) -> Entry | None:
    """The entry of a class in a file, as a registry.yaml would describe it; None where it is of another kind.

    Parameters and their types are read from `__init__`, the rest from what the class declares; the version is a hash of
    the file and of the local modules that it imports, so that changed code is another method. Raises MmzooError where the file cannot be loaded or the class is
    neither strategy, head nor encoder.
    """
    match = NAME.fullmatch(name)
    if match is None or kind not in BASES:
        return None
    path, cls = Path(match["file"]), load(match["file"], match["cls"])
    if kind != kind_of(cls, name):
        return None
    summary = (inspect.getdoc(cls) or f"{cls.__name__} of {path.name}.").strip().splitlines()[0]
    requires, cost, extra = _claims(kind, cls)
    return Entry(
        kind,
        f"{match['file']}:{match['cls']}",
        PACKAGE,
        summary,
        None,
        _params(cls, name),
        requires,
        cost,
        "experimental",
        local_code.read(match["file"]).version,
        (),
        {"ours": f"a class of the file {path}"},
        {"path": f"{match['file']}:{match['cls']}", **extra},
    )


def kind_of(cls: type, name: str) -> str:
    """The kind of a class. Raises BadValue where it has none."""
    for kind, path in BASES.items():
        module, _, base = path.partition(":")
        if issubclass(cls, getattr(importlib.import_module(module), base)):
            return kind
    raise BadValue(
        f"{name}: {cls.__name__} is neither a Strategy, a FusionHead nor an Encoder. Derive it from one of them: "
        f"from mmzoo.api import Strategy"
    )


def classes(file: str) -> list[str]:
    """The names of all strategies, heads and encoders that a file defines, in its order. Raises MmzooError like `load`."""
    module = _module(file)
    own = [c for c in vars(module).values() if inspect.isclass(c) and c.__module__ == module.__name__]
    bases = tuple(
        getattr(importlib.import_module(m), b) for m, _, b in (path.partition(":") for path in BASES.values())
    )
    return [c.__name__ for c in own if issubclass(c, bases)]


def load(file: str, name: str) -> type:
    """A class of a file. Raises MmzooError naming the file, what is wrong and the next step."""
    module = _module(file)
    found = getattr(module, name, None)
    if not inspect.isclass(found):
        own = [n for n, c in vars(module).items() if inspect.isclass(c) and c.__module__ == module.__name__]
        raise BadValue(
            f"{file} has no class {name!r}.{near_miss(name, own)} Classes there: {', '.join(own) or 'none'}."
        )
    return found


#: file -> digest and module of what was loaded from it last
_LOADED: dict[str, tuple[str, ModuleType]] = {}


def _module(file: str) -> ModuleType:
    """The module of a file, loaded anew where it or a local module that it imports has changed. Raises MmzooError."""
    code = local_code.read(file)
    path = str(code.root.path)
    if path not in _LOADED or _LOADED[path][0] != code.digest:
        try:
            _LOADED[path] = (code.digest, local_code.run(code))
        except KeyboardInterrupt:
            raise
        except BaseException as error:
            where = _line(error, code.root.path)
            raise MmzooError(f"{file} cannot be loaded{where}: {ended(said(error))}") from error
    return _LOADED[path][1]


def _line(error: BaseException, path: Path) -> str:
    """Where in the file it went wrong."""
    if isinstance(error, SyntaxError) and error.lineno is not None:
        return f" (line {error.lineno})"
    line, trace = None, error.__traceback__
    while trace is not None:
        if trace.tb_frame.f_code.co_filename == str(path):
            line = trace.tb_lineno
        trace = trace.tb_next
    return "" if line is None else f" (line {line})"


def _claims(kind: str, cls: Any) -> tuple[tuple[str, ...], dict[str, Any], dict[str, Any]]:
    """What the class declares about itself: requires, cost, and what only its kind has."""
    if kind == "strategies":
        limits = {"min": cls.min_modalities, "max": cls.max_modalities}
        extra: dict[str, Any] = {"modalities": {k: v for k, v in limits.items() if v is not None}}
        extra |= {"owns": sorted(cls.owns), "solo": cls.solo}
        extra |= {"single_process": cls.single_process} if cls.single_process else {}
        return tuple(sorted(cls.requires)), dict(cls.cost), extra
    if kind == "heads":
        extra = {"how": cls.how, "additive": _additive(cls), "modalities": {"min": cls.min_modalities}}
        extra |= {key: getattr(cls, key) for key in ("equal_dims", "evidential", "couples", "mean_gates")}
        return ("equal_dims",) if cls.equal_dims else (), {}, extra
    return (), {}, {"input": list(getattr(cls, "kinds", KINDS))}


def _additive(cls: Any) -> bool:
    """What a head says when it is made, since that may depend on its parameters; one that cannot be made fails later."""
    try:
        return bool(cls({f"m{i}": 4 for i in range(max(2, cls.min_modalities))}, 3).additive)
    except Exception:
        return bool(cls.additive)


def _params(cls: type, name: str) -> dict[str, Param]:
    """The keyword-only parameters of `__init__`. Raises BadValue for one without a default or of no known type."""
    found = {}
    for p in inspect.signature(cls).parameters.values():
        if p.kind is not inspect.Parameter.KEYWORD_ONLY:
            continue
        if p.default is inspect.Parameter.empty:
            raise BadValue(f"{name}: parameter {p.name} of {cls.__name__} has no default. Give it one.")
        if isinstance(p.default, float) and not math.isfinite(p.default):
            raise BadValue(
                f"{name}: the default of parameter {p.name} is {p.default}, which no row can hold. Take None for it: {p.name}: "
                "float | None = None."
            )
        found[p.name] = Param(p.name, _type(p, name), p.default)
    return found


def _type(p: inspect.Parameter, name: str) -> str:
    """The type of a parameter as a registry.yaml names it: by its annotation, else by its default."""
    said = "" if p.annotation is inspect.Parameter.empty else str(getattr(p.annotation, "__name__", p.annotation))
    optional = "?" if p.default is None or re.search(r"\bNone\b|^Optional", said) else ""
    bare = re.sub(r"\s*\|\s*None|None\s*\|\s*", "", said).strip()
    if bare in _TYPES:
        return _TYPES[bare] + optional
    if isinstance(p.default, bool | int | float | str):
        return type(p.default).__name__
    if isinstance(p.default, Sequence) and all(isinstance(v, int | str) for v in p.default):
        return "strs" if any(isinstance(v, str) for v in p.default) or "str" in said else "ints"
    if isinstance(p.default, Mapping):
        return "numbers"
    raise BadValue(
        f"{name}: the type of parameter {p.name} cannot be inferred from {said or 'its default'}. Annotate it as float, int, "
        "bool or str, with | None where none is accepted."
    )
