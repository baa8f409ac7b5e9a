"""Shell completion, by argcomplete: the script for the shell, and the names that it offers. No torch."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterable
from typing import Any

from mmzoo.errors import BadValue
from mmzoo.registry import KINDS, Catalogue


def run(arguments: argparse.Namespace) -> int:
    try:
        from argcomplete.shell_integration import shellcode
    except ImportError:
        raise BadValue("shell completion needs argcomplete. Install it: pip install 'mmzoo[completion]'") from None
    print(shellcode(["mmzoo"], shell=arguments.shell))
    return 0


def answer(parser: argparse.ArgumentParser) -> None:
    """Answer the shell that asks, and exit."""
    import argcomplete

    names: Any = Names()
    argcomplete.autocomplete(parser, default_completer=names, always_complete_options="long")


class Names:
    """What argcomplete calls for an argument: the words that may stand where the cursor is."""

    def __call__(self, prefix: str, action: argparse.Action, **_: object) -> Iterable[str]:
        from mmzoo.registry.plugins import catalogue

        words = _WORDS.get(action.dest)
        if words is not None:
            return words(catalogue(), prefix)
        from argcomplete.completers import FilesCompleter

        found: Iterable[str] = FilesCompleter()(prefix)
        return found


def _listed(*kinds: str) -> Callable[[Catalogue, str], list[str]]:
    """Names of some kinds in a comma-separated list, of which the last word is completed."""

    def words(catalogue: Catalogue, prefix: str) -> list[str]:
        before, comma, _ = prefix.rpartition(",")
        return [f"{before}{comma}{catalogue.name_of(e)}" for kind in kinds for e in catalogue.entries(kind)]

    return words


def _methods(catalogue: Catalogue, prefix: str) -> list[str]:
    """Methods, in a list and in a chain; heads after an @."""
    cut = max(prefix.rfind(mark) for mark in ",+@") + 1
    kind = "heads" if prefix[cut - 1 : cut] == "@" else "methods"
    return [prefix[:cut] + catalogue.name_of(e) for e in catalogue.entries(kind)]


def _datasets(catalogue: Catalogue, prefix: str) -> list[str]:
    before, comma, last = prefix.rpartition(",")
    name = last.partition(":")[0]
    if ":" in last and catalogue.has("datasets", name):
        presets = catalogue.get("datasets", name).extra.get("presets", {})
        return [f"{before}{comma}{name}:{preset}" for preset in presets]
    return _listed("datasets")(catalogue, prefix)


def _settings(catalogue: Catalogue, prefix: str) -> list[str]:
    """WHAT. and, after the point, its keys."""
    from mmzoo.config.suite_schema import suite_schema

    keys = suite_schema(catalogue)["$defs"]["settings"]["properties"]
    if "." not in prefix:
        return sorted({f"{key.partition('.')[0]}." for key in keys} | {"encoder."})
    return [f"{key}=" for key in keys]


def _encoders(catalogue: Catalogue, prefix: str) -> list[str]:
    before, equals, _ = prefix.rpartition("=")
    return [f"{before}{equals}{e.name}" for e in catalogue.entries("encoders")] if equals else []


def _anything(catalogue: Catalogue, prefix: str) -> list[str]:
    return [catalogue.name_of(e) for e in catalogue]


def _pages(catalogue: Catalogue, prefix: str) -> list[str]:
    from mmzoo.cli.docs import pages

    return [*pages()]


#: argument of a command -> the words that it takes; any other takes a file
_WORDS: dict[str, Callable[[Catalogue, str], list[str]]] = {
    "method": _methods,
    "baselines": _methods,
    "datasets": _datasets,
    "heads": _listed("heads"),
    "track": _listed("trackers"),
    "settings": _settings,
    "overrides": _settings,
    "encoders": _encoders,
    "data": _listed("datasets"),
    "what": _anything,
    "target": _anything,
    "page": _pages,
    "kind": lambda catalogue, prefix: [*KINDS],
}
