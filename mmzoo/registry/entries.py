"""One thing that has a name: what its registry.yaml says of it, and the class behind it."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mmzoo.errors import BadValue, MmzooError, ended, said, unknown
from mmzoo.registry.parameters import ENCODER_OPTIONS, Param

KINDS = ("methods", "strategies", "heads", "encoders", "datasets", "trackers")
SINGULAR = {
    "methods": "method",
    "strategies": "strategy",
    "heads": "head",
    "encoders": "encoder",
    "datasets": "data set",
    "trackers": "tracker",
}
BUILT_IN = "mmzoo"


@dataclass(frozen=True)
class Entry:
    """One thing that has a name. `extra` holds what only its kind has (path, strategy, head, presets ...)."""

    kind: str
    name: str
    package: str
    summary: str
    paper: Mapping[str, Any] | None
    params: Mapping[str, Param]
    requires: tuple[str, ...]
    cost: Mapping[str, Any]
    status: str
    version: int
    aliases: tuple[str, ...]
    fidelity: Mapping[str, Any]
    extra: Mapping[str, Any] = field(default_factory=dict)
    links: Mapping[str, str] = field(default_factory=dict, kw_only=True)

    @property
    def source(self) -> str:
        """Where it comes from, in a cell of a table: its paper; the paper after which it is ours; or nothing of the kind."""
        if self.paper:
            return _venue(self.paper)
        return f"ours, after {_venue(self.extra['after'])}" if "after" in self.extra else "baseline"

    @property
    def title(self) -> str | None:
        """The paper it follows, or after which it is ours, in full; None for a baseline."""
        told = self.paper or self.extra.get("after")
        return f"{told['title']} ({_venue(told)})" if told else None

    @property
    def id(self) -> str:
        """`kind/name`, with the package in front of the name for what is not built in."""
        return f"{self.kind}/{self.qualified if self.package != BUILT_IN else self.name}"

    @property
    def inputs(self) -> tuple[str, ...]:
        """The kinds of input that an encoder takes."""
        given = self.extra["input"]
        return (given,) if isinstance(given, str) else tuple(given)

    @property
    def accepted(self) -> dict[str, Param]:
        """Its own parameters and, of an encoder, the options that all encoders have."""
        return {**self.params, **(ENCODER_OPTIONS if self.kind == "encoders" else {})}

    @property
    def qualified(self) -> str:
        return f"{self.package}/{self.name}"

    def load(self) -> Any:
        """Import and return what the entry points to. Raises MmzooError naming the entry when that fails."""
        return self._imported("path")

    def files(self, params: Mapping[str, Any]) -> list[Path]:
        """The files from outside that decide what an encoder with these parameters starts from: its `files`, a function of
        them. None where the entry names no such function. Raises what it raises where files are missing."""
        return self._imported("files")(params) if "files" in self.extra else []

    def content(self, params: Mapping[str, Any]) -> str | None:
        """A hash of the content of `files`; None where there are none."""
        files = self.files(params)
        if not files:
            return None
        from mmzoo.io.weights import digest_of

        return digest_of(files)

    def _imported(self, key: str) -> Any:
        module, _, attribute = self.extra[key].partition(":")
        if module.endswith(".py"):
            from mmzoo.registry import user_classes

            return user_classes.load(module, attribute)
        try:
            return getattr(importlib.import_module(module), attribute)
        except BaseException as error:
            if isinstance(error, KeyboardInterrupt):
                raise
            raise MmzooError(
                f"{SINGULAR[self.kind]} {self.name!r} of package {self.package} cannot be loaded from "
                f"{self.extra[key]}: {ended(said(error))}"
                + (f" Install it: {self.extra['install']}" if "install" in self.extra else "")
            ) from error

    def check_params(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """`given` validated against the declared parameters. Raises UnknownName or BadValue naming the entry."""
        checked, known = {}, self.accepted
        for name, value in given.items():
            if name not in known:
                see = f"See: mmzoo show {self.name}"
                raise unknown(f"parameter of {SINGULAR[self.kind]} {self.name}", name, known, see=see)
            try:
                checked[name] = known[name].check(value)
            except BadValue as error:
                raise BadValue(f"{SINGULAR[self.kind]} {self.name}: {error} See: mmzoo show {self.name}") from None
        return checked

    def preset(self, name: Any) -> dict[str, Any]:
        """The parameters that authors use on one data set. Raises UnknownName with the nearest known name."""
        known = self.extra.get("presets", {})
        if not isinstance(name, str) or name not in known:
            see = f"See: mmzoo show {self.name}"
            raise unknown(f"preset of {SINGULAR[self.kind]} {self.name}", str(name), known, see=see)
        return self.check_params(known[name])

    def spelled(self, params: Mapping[str, Any]) -> dict[str, Any]:
        """All parameters as a run's spec has them: without those that were added later and have their default."""
        own = self.params
        return {k: v for k, v in params.items() if not (k in own and own[k].added_later and own[k].default == v)}

    def defaults(self) -> dict[str, Any]:
        return {name: p.default for name, p in self.params.items()}

    def cost_beside(self) -> list[str]:
        """What it costs beside the forwards and backwards of a batch, in words."""
        found = []
        for suffix, when in (
            ("epoch", "once an epoch"),
            ("coalition", "for each of 2^M - 3 more sets of modalities, where the head acts between encoder stages"),
        ):
            words = [
                f"{self.cost[key]:g} {what}{'' if self.cost[key] == 1 else 's'}"
                for what in ("forward", "backward")
                if (key := f"{what}_{suffix}") in self.cost
            ]
            found += [f"{when}: {', '.join(words)}"] if words else []
        for key, when, what in (
            ("slice", "an epoch", "of the whole meta set"),
            ("slice_run", "a run", "of the whole meta set"),
            ("finish", "after training", "of all labelled samples"),
        ):
            if key in self.cost:
                found.append(f"{when}: {self.cost[key]:g} forward{'' if self.cost[key] == 1 else 's'} {what}")
        return found

    def public(self) -> dict[str, Any]:
        """What `mmzoo list --json` says of it."""
        return {
            "name": self.name,
            "kind": self.kind,
            "summary": self.summary,
            "paper": self.paper,
            "requires": list(self.requires),
            "cost": dict(self.cost),
            "status": self.status,
            "package": self.package,
            "aliases": list(self.aliases),
            "version": self.version,
        }


def _venue(paper: Mapping[str, Any]) -> str:
    return f"{paper.get('venue', '?')} {paper.get('year', '?')}"
