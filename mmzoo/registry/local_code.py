"""The code of a user's own file: read once with the local modules that it imports, hashed, and run from those very bytes.

What is hashed is what is run: modules are compiled from the bytes that were read, never from a cached .pyc or from a file
that was edited in between. No torch at import.
"""

from __future__ import annotations

import ast
import hashlib
import importlib.util
import os
import re
import sys
import sysconfig
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property, lru_cache
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, SourceFileLoader
from pathlib import Path
from types import CodeType, ModuleType
from typing import Any

from mmzoo.errors import HERE, BadValue
from mmzoo.io.files import read_bytes

_INSTALLED = {"site-packages", "dist-packages"}
_STDLIB = Path(sysconfig.get_path("stdlib")).resolve()


@dataclass(frozen=True)
class Source:
    """A Python file as it was read."""

    path: Path
    data: bytes

    @cached_property
    def digest(self) -> str:
        return hashlib.sha256(self.data).hexdigest()

    @property
    def is_package(self) -> bool:
        return self.path.name == "__init__.py"


@dataclass(frozen=True)
class LocalCode:
    """A file, and by name every local module that it imports, directly or through another."""

    root: Source
    modules: Mapping[str, Source]

    @cached_property
    def digest(self) -> str:
        """A hash of all of it; that of the file alone where it imports no local module."""
        if not self.modules:
            return self.root.digest
        total = hashlib.sha256(self.root.digest.encode())
        for name, source in sorted(self.modules.items()):
            total.update(f"\n{name} {source.digest}".encode())
        return total.hexdigest()

    @property
    def version(self) -> int:
        """The hash as the version of an entry."""
        return int(self.digest[:12], 16)

    @property
    def files(self) -> tuple[Path, ...]:
        return (self.root.path, *(source.path for source in self.modules.values()))


_FROZEN: dict[str, LocalCode] | None = None


@contextmanager
def frozen() -> Iterator[None]:
    """Within this block a file is read once: all that is built in it comes from the same code."""
    global _FROZEN
    before = _FROZEN
    _FROZEN = {} if before is None else before
    try:
        yield
    finally:
        _FROZEN = before


def read(file: str) -> LocalCode:
    """The code of a file. Raises BadValue where it cannot be read."""
    if _FROZEN is not None and file in _FROZEN:
        return _FROZEN[file]
    path = Path(file).resolve()
    try:
        root = Source(path, read_bytes(path))
    except OSError as error:
        raise BadValue(f"cannot read {file}: {error.strerror or error}. Write PATH/FILE.py:CLASS.") from None
    code = LocalCode(root, _imported(root))
    if _FROZEN is not None:
        _FROZEN[file] = code
    return code


# ---------------------------------------------------------------------------------------------- imports of a source
def _imported(root: Source) -> dict[str, Source]:
    """All local modules that a file reaches by its import statements, by name."""
    places = _places(root.path.parent)
    found: dict[str, Source] = {}
    todo = list(_names(root.data, ""))
    seen: set[str] = set()
    while todo:
        name = todo.pop()
        if name in seen:
            continue
        seen.add(name)
        source = _find(name, places)
        if source is not None:
            found[name] = source
            todo += _names(source.data, name if source.is_package else name.rpartition(".")[0])
    return found


def _places(folder: Path) -> tuple[Path, ...]:
    """Where local modules are looked for: beside the file, and in PYTHONPATH, which worker processes have too."""
    given = [Path(p).resolve() for p in os.environ.get("PYTHONPATH", "").split(os.pathsep) if p]
    return (folder, *(p for p in given if p != HERE.parent and not _is_installed(p)))


def _is_installed(path: Path) -> bool:
    return bool(_INSTALLED & set(path.parts)) or path == _STDLIB or _STDLIB in path.parents


def _find(name: str, places: Sequence[Path]) -> Source | None:
    """The source of a local module; None for a module from elsewhere, and for what is no module."""
    *parents, last = name.split(".")
    if name.partition(".")[0] in {HERE.name, *sys.stdlib_module_names}:  # also where another checkout is on the path
        return None
    for place in places:
        folder = place.joinpath(*parents)
        for path in (folder / last / "__init__.py", folder / f"{last}.py"):
            if path.is_file():
                try:
                    return Source(path, read_bytes(path))
                except OSError as error:
                    raise BadValue(f"cannot read {path}: {error.strerror or error}.") from None
    return None


@lru_cache(maxsize=256)
def _names(data: bytes, package: str) -> frozenset[str]:
    """The names of all modules that a source may import, those of their packages included."""
    try:
        tree = ast.parse(data)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return frozenset()  # loading it says what is wrong
    found: set[str] = set()
    for node in ast.walk(tree):
        found.update(_of_node(node, package))
    return frozenset(
        ".".join(parts[:n]) for name in found for parts in [name.split(".")] for n in range(1, len(parts) + 1)
    )


def _of_node(node: ast.AST, package: str) -> Iterator[str]:
    if isinstance(node, ast.Import):
        yield from (alias.name for alias in node.names)
    elif isinstance(node, ast.ImportFrom):
        above = package.split(".") if package else []
        above = above[: len(above) - node.level + 1] if node.level else []
        base = ".".join([*above, *([node.module] if node.module else [])])
        if base:
            yield base
            yield from (f"{base}.{alias.name}" for alias in node.names if alias.name != "*")
    elif isinstance(node, ast.Call) and node.args and isinstance(node.args[0], ast.Constant):
        called = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
        if called in ("import_module", "__import__") and isinstance(node.args[0].value, str):
            yield node.args[0].value.lstrip(".")


# ---------------------------------------------------------------------------------------------- running it
class _Loader(SourceFileLoader):
    """Runs a module from the bytes that were hashed."""

    def __init__(self, name: str, source: Source) -> None:
        super().__init__(name, str(source.path))
        self._source = source

    def get_code(self, fullname: str) -> CodeType:
        code: CodeType = self.source_to_code(self._source.data, self.path)
        return code


class _Finder(MetaPathFinder):
    """Finds the local modules of the files that were loaded; of two with one name, those of the file loaded last."""

    def __init__(self) -> None:
        self.sources: dict[str, Source] = {}

    def find_spec(self, fullname: str, path: Any, target: Any = None) -> ModuleSpec | None:
        source = self.sources.get(fullname)
        return None if source is None else _spec(fullname, source)

    def use(self, modules: Mapping[str, Source]) -> None:
        """Take over modules. All are loaded anew: one that is as it was may hold what it took from one that is not."""
        for each in {n for name in modules for n in (name, name.partition(".")[0])}:
            sys.modules.pop(each, None)
        self.sources |= modules
        if self not in sys.meta_path:
            sys.meta_path.insert(0, self)


_FINDER = _Finder()


def _spec(name: str, source: Source) -> ModuleSpec:
    inner = [str(source.path.parent)] if source.is_package else None
    spec = importlib.util.spec_from_file_location(
        name, source.path, loader=_Loader(name, source), submodule_search_locations=inner
    )
    assert spec is not None  # there is a loader
    return spec


def run(code: LocalCode) -> ModuleType:
    """The module of a file, made anew. Its folder can be imported from meanwhile, as when it is run as a script."""
    root = code.root
    name = f"mmzoo_local_{code.digest[:12]}_{re.sub(r'[^A-Za-z0-9_]', '_', root.path.stem)}"
    spec = _spec(name, root)
    module = importlib.util.module_from_spec(spec)
    _FINDER.use(code.modules)
    sys.modules[name] = module
    folder = str(root.path.parent)
    sys.path.insert(0, folder)
    try:
        assert spec.loader is not None
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    finally:
        sys.path.remove(folder)
    return module
