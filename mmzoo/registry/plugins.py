"""Finds what exists: the built-in catalogue and third-party packages, through one door."""

from __future__ import annotations

import contextlib
import functools
import os
import re
import sys
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from importlib import metadata
from typing import Any, TypeVar, cast

import pluggy

from mmzoo import __version__
from mmzoo.errors import BadValue, MmzooError, said
from mmzoo.registry import BUILT_IN, Catalogue, Entry, built_in_path, hookspecs, read_entries

GROUP = "mmzoo"
#: seconds that a plugin may take to be imported and listed before it is left out; MMZOO_PATIENCE sets another number
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
    #: what was registered and what it listed
    target: Any = field(default=None, repr=False)
    listed: tuple[Entry, ...] = field(default=(), repr=False)

    def public(self) -> dict[str, Any]:
        """What `mmzoo plugins --json` says of it."""
        return {k: v for k, v in vars(self).items() if k not in ("target", "listed")}


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
    their names, or empty for none. MMZOO_PATIENCE is how many seconds each of them gets.
    """
    manager = pluggy.PluginManager("mmzoo")
    manager.add_hookspecs(hookspecs)
    found = Catalogue()
    built_in = _BuiltIn()
    manager.register(built_in, BUILT_IN)
    started = time.monotonic()
    entries = list(built_in.mmzoo_catalogue())  # without these nothing works: a fault here is an error, no report
    plugins = [Plugin(BUILT_IN, __version__, "built in")]
    _add(manager, found, plugins[0], built_in, entries)
    plugins[0].seconds = time.monotonic() - started
    try:
        points = _entry_points()
    except Exception as error:  # an entry_points.txt that cannot be read, of whatever package
        plugins.append(Plugin("?", "?", "entry points", "failed", f"no package could be looked at: {_said(error)}"))
        points = []
    for point in points:
        name, version = _distribution(point)
        plugin = Plugin(name, version, point.value)
        if not _wanted(name, point.name):
            plugin.status, plugin.reason = "off", "left out by MMZOO_PLUGINS"
        else:
            _register(manager, found, plugin, point)
        plugins.append(plugin)
    _drop_dangling(found, plugins)
    return Loaded(manager, plugins, found)


def _entry_points() -> list[metadata.EntryPoint]:
    return sorted(metadata.entry_points(group=GROUP), key=lambda p: (*_distribution(p), p.name))


def _distribution(point: metadata.EntryPoint) -> tuple[str, str]:
    """Name and version of the package that an entry point comes from, as far as its metadata tell."""
    try:
        described: Any = point.dist.metadata if point.dist is not None else {}
        return str(described["Name"] or point.name), str(described["Version"] or "?")
    except Exception:  # METADATA missing or broken
        return point.name, "?"


def _check_version(point: metadata.EntryPoint) -> None:
    """Raise BadValue for a package that was made for another version of mmzoo; pip sees to that unless told not to."""
    from packaging.requirements import InvalidRequirement, Requirement

    for text in (point.dist.requires if point.dist is not None else None) or ():
        try:
            requirement = Requirement(text)
        except InvalidRequirement:
            continue
        if _normal(requirement.name) == "mmzoo" and not requirement.specifier.contains(__version__, prereleases=True):
            raise BadValue(
                f"it was made for mmzoo {requirement.specifier}, and this is {__version__}. Install a version of it that "
                "fits, or mmzoo in the version it wants"
            )


def _wanted(*names: str) -> bool:
    only = os.environ.get("MMZOO_PLUGINS")
    return only is None or bool({_normal(n) for n in only.split(",")} & {_normal(n) for n in names})


def _normal(name: str) -> str:
    """Package names count as the same however they write case, `-`, `_` and `.`."""
    return re.sub(r"[-_.]+", "-", name.strip()).lower()


def patience() -> float:
    """Seconds that each plugin gets. Raises BadValue where MMZOO_PATIENCE is no positive number."""
    given = os.environ.get("MMZOO_PATIENCE")
    try:
        seconds = PATIENCE if given is None else float(given)
    except ValueError:
        seconds = -1.0
    if not 0 < seconds < threading.TIMEOUT_MAX:
        raise BadValue(f"MMZOO_PATIENCE must be a positive number of seconds, not {given!r}.")
    return seconds


def _register(manager: pluggy.PluginManager, found: Catalogue, plugin: Plugin, point: metadata.EntryPoint) -> None:
    """Import, register and list one plugin within its time; on any failure leave no trace but the report."""
    seconds = patience()
    started, had_torch = time.monotonic(), "torch" in sys.modules
    target = None
    try:
        # What a plugin prints must not end up in the output of `mmzoo list --json`.
        with contextlib.redirect_stdout(sys.stderr):
            _check_version(point)
            loaded = _in_time(point.load, seconds)
            if manager.is_registered(loaded):
                raise BadValue(f"{point.value} is registered already, under another entry point")
            target = loaded
            manager.register(target, f"{plugin.name}:{point.name}")
            manager.check_pending()  # a misspelt hook would otherwise be ignored for ever
            calls = _own(manager, target, "mmzoo_catalogue")
            left = seconds - (time.monotonic() - started)
            entries = _in_time(lambda: [e for call in calls for e in _listed(call())], max(left, 0.0))
    except _TooSlow:
        plugin.status = "slow"
        plugin.reason = (
            f"took longer than {seconds:g} s and was left out. Set MMZOO_PATIENCE to a larger number of seconds to "
            "wait for it."
        )
    except BaseException as error:
        if isinstance(error, KeyboardInterrupt):
            raise
        plugin.status, plugin.reason = "failed", _said(error)
    plugin.seconds = time.monotonic() - started
    if plugin.status != "loaded":
        if target is not None and manager.is_registered(target):
            manager.unregister(target)
        return
    _add(manager, found, plugin, target, entries)
    if not plugin.hooks:
        plugin.notes += ("implements no hook: mark functions of the module with @mmzoo.registry.hookspecs.hookimpl",)
    if not had_torch and "torch" in sys.modules:
        plugin.notes += ("imports torch while listing, which makes every command slower",)


def _listed(returned: Any) -> list[Entry]:
    """What mmzoo_catalogue returned. Raises BadValue when those are not entries."""
    if not isinstance(returned, Iterable):
        raise BadValue(f"mmzoo_catalogue returned {type(returned).__name__}, not a list of mmzoo.registry.Entry")
    entries = list(returned)
    if wrong := [e for e in entries if not isinstance(e, Entry)]:
        raise BadValue(f"mmzoo_catalogue returned a {type(wrong[0]).__name__} among its mmzoo.registry.Entry objects")
    return entries


def _add(
    manager: pluggy.PluginManager, found: Catalogue, plugin: Plugin, target: Any, entries: Sequence[Entry]
) -> None:
    """Take a plugin's entries in, and note what came of them."""
    before = len(found.clashes)
    for entry in entries:
        found.add(entry)
        plugin.entries += 1
    plugin.target, plugin.listed = target, tuple(entries)
    plugin.hooks = tuple(caller.name for caller in manager.get_hookcallers(target) or ())
    plugin.notes += tuple(found.clashes[before:])


def _drop_dangling(found: Catalogue, plugins: Iterable[Plugin]) -> None:
    """Leave out third-party entries that name what does not exist; others may be looked up while they are there."""
    for plugin in plugins:
        for entry in plugin.listed:
            try:
                found.check(entry)
            except Exception as error:
                why = str(error) if isinstance(error, MmzooError) else _said(error)
                found.remove(entry)
                plugin.entries -= 1
                plugin.notes += (f"{entry.id} is left out: {why}",)


def _said(error: BaseException) -> str:
    """An error in one string."""
    if isinstance(error, SystemExit):
        return f"SystemExit: it called sys.exit({error.code!r}) while it was imported"
    return said(error)


def _own(manager: pluggy.PluginManager, target: Any, hook: str) -> list[Callable[..., Any]]:
    """The implementations of a hook in one plugin."""
    return [i.function for i in getattr(manager.hook, hook).get_hookimpls() if i.plugin is target]


class _TooSlow(Exception):
    """A plugin did not finish in time. Not TimeoutError, which a plugin may raise itself."""


def _in_time(call: Callable[[], T], seconds: float) -> T:
    """The result of a call that gets so many seconds; _TooSlow after that.

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
    thread.join(seconds)
    if not outcome:
        raise _TooSlow
    value, error = outcome[0]
    if error is not None:
        raise error
    return cast("T", value)
