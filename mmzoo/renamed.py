"""Modules that moved: their old names still import, with a DeprecationWarning, until version 0.3."""

from __future__ import annotations

import importlib
import sys
import warnings
from collections.abc import Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

#: old name -> new name, of the modules that packages were told to import from
RENAMED = {
    "mmzoo.autodiff": "mmzoo.bilevel",
    "mmzoo.tangent": "mmzoo.bilevel",
    "mmzoo.catalogue": "mmzoo.registry",
    "mmzoo.hookspecs": "mmzoo.registry.hookspecs",
    "mmzoo.plugins": "mmzoo.registry.plugins",
    "mmzoo.tracker": "mmzoo.trackers.base",
    "mmzoo.encoder": "mmzoo.core.encoder",
    "mmzoo.head": "mmzoo.core.head",
    "mmzoo.model": "mmzoo.core.model",
    "mmzoo.run": "mmzoo.training.run",
    "mmzoo.strategy": "mmzoo.api",
    "mmzoo.types": "mmzoo.api",
    "mmzoo.data.datamodule": "mmzoo.data.loading.datamodule",
    "mmzoo.data.field": "mmzoo.data.sources.field",
    "mmzoo.data.source": "mmzoo.data.sources.source",
    "mmzoo.data.textfiles": "mmzoo.data.sources.textfiles",
    "mmzoo.data.splits": "mmzoo.data.store.splits",
    "mmzoo.testing.tasks": "mmzoo.testing.harness.tasks",
    "mmzoo.testing.report": "mmzoo.testing.harness.report",
}


class _Forward(ModuleType):
    """A module whose attributes are those of another one."""

    __target: str

    def __init__(self, name: str, target: str) -> None:
        super().__init__(name, f"Renamed to {target}.")
        self.__target = target

    def __getattr__(self, name: str) -> Any:
        return getattr(importlib.import_module(self.__target), name)


class _Renamed(MetaPathFinder, Loader):
    """Finds the old names. It stands last, so that a module that exists is never replaced."""

    def find_spec(self, name: str, path: Sequence[str] | None, target: ModuleType | None = None) -> ModuleSpec | None:
        return ModuleSpec(name, self) if name in RENAMED else None

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        return _Forward(spec.name, RENAMED[spec.name])

    def exec_module(self, module: ModuleType) -> None:
        new = RENAMED[module.__name__]
        # 2: the importing line, as warnings skips the frames of importlib.
        warnings.warn(f"{module.__name__} was renamed to {new}: import from there.", DeprecationWarning, stacklevel=2)


def install() -> None:
    """Make the old names importable. Repeated calls add nothing."""
    if not any(isinstance(finder, _Renamed) for finder in sys.meta_path):
        sys.meta_path.append(_Renamed())
