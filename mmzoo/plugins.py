"""Finds what exists: the built-in catalogue and third-party packages, through one door."""

from __future__ import annotations

import functools
import os
import sys
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from importlib import metadata
from typing import Any, TypeVar

import pluggy

from mmzoo import __version__, hookspecs
from mmzoo.catalogue import BUILT_IN, Catalogue, Entry, built_in_path, read_entries
from mmzoo.errors import BadValue

GROUP = "mmzoo"
#: seconds that a plugin may take to be imported and listed before it is left out
PATIENCE = 5.0
T = TypeVar("T")


@dataclass
class Plugin:
    """One package that was found: where it comes from, and whether it could be used."""

    name: str
    version: str
    source: str
    status: str = "loaded"  # loaded | failed | slow | off
    reason: str = ""
    seconds: float = 0.0
    entries: int = 0
    hooks: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


class _BuiltIn:
    """The wheel's own catalogue, registered like any other plugin."""

    @hookspecs.hookimpl
    def mmzoo_catalogue(self) -> Iterable[Entry]:
        return read_entries(built_in_path(), BUILT_IN)


@dataclass
class Loaded:
    """All plugins, the catalogue they make up, and the manager that holds them."""

    manager: pluggy.PluginManager
    plugins: list[Plugin]
    catalogue: Catalogue


def catalogue() -> Catalogue:
    """Everything that can be named."""
    return load().catalogue


@functools.cache
def load() -> Loaded:
    """Find and register all plugins, once a process. A plugin that fails or dawdles is reported, never fatal.

    The environment variable MMZOO_PLUGINS limits which third-party packages are looked at: a comma-separated list of
    their names, or empty for none.
    """
    manager = pluggy.PluginManager("mmzoo")
    manager.add_hookspecs(hookspecs)
    found = Catalogue()
    plugins = [_register(manager, found, Plugin(BUILT_IN, __version__, "built in"), lambda: _BuiltIn())]
    for point in _entry_points():
        name = point.dist.name if point.dist is not None else point.name
        plugin = Plugin(name, point.dist.version if point.dist is not None else "?", point.value)
        if _wanted(name, point.name):
            plugins.append(_register(manager, found, plugin, point.load))
        else:
            plugin.status, plugin.reason = "off", "left out by MMZOO_PLUGINS"
            plugins.append(plugin)
    return Loaded(manager, plugins, found)


def _entry_points() -> list[metadata.EntryPoint]:
    return sorted(metadata.entry_points(group=GROUP), key=lambda p: (p.dist.name if p.dist else "", p.name))


def _wanted(*names: str) -> bool:
    only = os.environ.get("MMZOO_PLUGINS")
    return only is None or bool({n.strip() for n in only.split(",")} & set(names))


def _register(
    manager: pluggy.PluginManager, found: Catalogue, plugin: Plugin, get: Callable[[], Any]
) -> Plugin:
    """Import, register and list one plugin within its time; on any failure leave no trace but the report."""
    started, had_torch = time.monotonic(), "torch" in sys.modules
    try:
        target = _in_time(get)
        manager.register(target, plugin.name)
        manager.check_pending()  # a misspelt hook would otherwise be ignored for ever
        entries = _in_time(lambda: [e for call in _own(manager, target, "mmzoo_catalogue") for e in call()])
        if wrong := [e for e in entries if not isinstance(e, Entry)]:
            raise BadValue(f"mmzoo_catalogue returned {type(wrong[0]).__name__}, not mmzoo.catalogue.Entry objects")
    except TimeoutError:
        plugin.status, plugin.reason = "slow", f"took longer than {PATIENCE:g} s and was left out"
    except BaseException as error:
        if isinstance(error, KeyboardInterrupt):
            raise
        plugin.status, plugin.reason = "failed", f"{type(error).__name__}: {error}"
    plugin.seconds = time.monotonic() - started
    if plugin.status != "loaded":
        if manager.has_plugin(plugin.name):
            manager.unregister(name=plugin.name)
        return plugin
    before = len(found.clashes)
    for entry in entries:
        found.add(entry)
    plugin.entries = len(entries)
    plugin.hooks = tuple(caller.name for caller in manager.get_hookcallers(target) or ())
    plugin.notes = tuple(found.clashes[before:])
    if not had_torch and "torch" in sys.modules:
        plugin.notes += ("imports torch while listing, which makes every command slower",)
    return plugin


def _own(manager: pluggy.PluginManager, target: Any, hook: str) -> list[Callable[..., Any]]:
    """The implementations of a hook in one plugin."""
    return [i.function for i in getattr(manager.hook, hook).get_hookimpls() if i.plugin is target]


def _in_time(call: Callable[[], T]) -> T:
    """The result of a call that gets PATIENCE seconds; TimeoutError after that.

    The call runs in a daemon thread, since an import that hangs cannot be interrupted from outside.
    """
    outcome: list[Any] = []

    def work() -> None:
        try:
            outcome.append((call(), None))
        except BaseException as error:
            outcome.append((None, error))

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    thread.join(PATIENCE)
    if not outcome:
        raise TimeoutError
    value, error = outcome[0]
    if error is not None:
        raise error
    return value
