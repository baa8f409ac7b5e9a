"""What `mmzoo check` was asked to check: a name, a class in a file, a file, or a package."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, cast

from mmzoo.config.methods import resolve_method
from mmzoo.config.settings import Settings
from mmzoo.errors import BadValue, MmzooError, UnknownName, near_miss, unknown
from mmzoo.registry import KINDS, SINGULAR, Catalogue, Entry, user_classes
from mmzoo.testing.api import part_case
from mmzoo.testing.harness.cases import SPECS
from mmzoo.testing.harness.report import CHECKS, CheckResult, Kind, Report, run_checks

#: kinds of entries that there are checks for -> what the checks call them
CHECKED: dict[str, Kind] = {"strategies": "strategy", "heads": "head", "encoders": "encoder"}


@dataclass(frozen=True)
class Target:
    """One part to be checked. case: makes what the checks work on; it may raise, which is a finding about the part."""

    label: str
    kind: Kind
    case: Callable[[], Any]

    def unusable(self, error: Exception) -> Report:
        """The report on a part that cannot even be made."""
        reason = (
            f"claimed: it can be made with its declared parameters\nseen: {type(error).__name__}: {error}\n"
            "to do: make this work first; no other check was run"
        )
        return Report(self.label, [CheckResult("construction", "failed", reason)])


def find(catalogue: Catalogue, text: str) -> list[Target]:
    """All parts that a target names. Raises UnknownName or BadValue where there is nothing to check.

    text: a name of the catalogue (a method means its strategy with the head it comes with), KIND/NAME, `FILE.py:CLASS`,
    `FILE.py` for every part in it, or the name of an installed package for all its entries.
    """
    if text.endswith(".py"):
        names = user_classes.classes(text)
        if not names:
            raise BadValue(f"{text} defines no strategy, head or encoder.")
        return [t for name in names for t in find(catalogue, f"{text}:{name}")]
    if user_classes.is_local(text):
        kind = user_classes.kind_of(user_classes.load(*text.removeprefix("local/").rsplit(":", 1)), text)
        return list(_targets(catalogue.get(kind, text), catalogue))
    kind, _, name = text.partition("/")
    if kind in KINDS and name:
        entries = [catalogue.get(kind, name)]
    else:
        entries = _named(catalogue, text) or _of_package(catalogue, text)
    found = [t for e in entries if e.kind in (*CHECKED, "methods") for t in _targets(e, catalogue)]
    if not entries:
        known = {e.name for e in catalogue} | {e.package for e in catalogue}
        raise UnknownName(
            f"nothing to check is called {text!r}.{near_miss(text, known)} See: mmzoo list, or write FILE.py:CLASS."
        )
    if not found:
        raise BadValue(f"{text} is a {SINGULAR[entries[0].kind]}; there are checks for {', '.join(CHECKED.values())}.")
    return list({t.label: t for t in found}.values())


def _named(catalogue: Catalogue, name: str) -> list[Entry]:
    """The parts of a name; a method stands for its strategy, so that a strategy of the same name is not checked twice."""
    found = [catalogue.get(kind, name) for kind in KINDS if catalogue.has(kind, name)]
    return [e for e in found if not (e.kind == "strategies" and any(o.kind == "methods" for o in found))]


def _of_package(catalogue: Catalogue, package: str) -> list[Entry]:
    """All entries of a package; its methods stand for their strategies."""
    found = [e for e in catalogue if e.package == package]
    stood_for = {_strategy_of(catalogue, e).id for e in found if e.kind == "methods"}
    return [e for e in found if e.id not in stood_for]


def _strategy_of(catalogue: Catalogue, recipe: Entry) -> Entry:
    return catalogue.get("strategies", recipe.extra["strategy"], recipe.package)


def _targets(entry: Entry, catalogue: Catalogue) -> Iterator[Target]:
    """The parts of an entry: one, or of an encoder one for each kind of input that it takes."""
    name = catalogue.name_of(entry) if entry.package != user_classes.PACKAGE else entry.name
    if entry.kind == "methods":
        yield Target(f"method {name}", "strategy", partial(_method_case, entry, catalogue))
        return
    kind = CHECKED[entry.kind]
    if kind == "strategy" and (using := _method_with(entry, catalogue)):
        yield Target(f"strategy {name}", kind, lambda: _method_case(using, catalogue, entry.defaults()))
        return
    if kind != "encoder":
        yield Target(f"{kind} {name}", kind, lambda: part_case(kind, _class(entry), entry.defaults()))
        return
    given = entry.extra["input"]
    for takes in [given] if isinstance(given, str) else given:
        yield Target(f"encoder {name} ({takes})", kind, partial(_encoder_case, entry, takes))


def _method_with(strategy: Entry, catalogue: Catalogue) -> Entry | None:
    """The first method that uses a strategy: it names a head that suits it."""
    return next((e for e in catalogue.entries("methods") if _strategy_of(catalogue, e) is strategy), None)


def _method_case(entry: Entry, catalogue: Catalogue, params: dict[str, Any] | None = None) -> Any:
    """A recipe's strategy with its parameters (params: with these), and the head that the recipe names."""
    method = resolve_method(catalogue, catalogue.name_of(entry), Settings(catalogue, ()))
    (part,), head = method.parts, catalogue.get("heads", method.head).load()
    options = {"head": lambda dims, n: head(dims, n, **method.head_params)}
    given = part.params if params is None else params
    return part_case("strategy", _class(catalogue.get("strategies", part.strategy)), given, **options)


def _encoder_case(entry: Entry, takes: str) -> Any:
    spec = SPECS[takes]
    return part_case("encoder", _class(entry), {"spec": spec, **entry.defaults()}, inputs=spec)


def _class(entry: Entry) -> type:
    loaded = entry.load()
    if not inspect.isclass(loaded):
        raise BadValue(f"{entry.extra['path']} is no class.")
    return cast(type, loaded)


def reports(targets: list[Target], only: Sequence[str] = ()) -> Iterator[Report]:
    """The report on each, as soon as it is there. only: names of checks, with or without `check_`; a part that has none of
    them gives an empty report. Raises UnknownName for a check that no kind of part has."""
    named = {name: name for kind in CHECKS.values() for name in kind}
    named |= {name.removeprefix("check_"): name for name in named}
    for name in only:
        if name not in named:
            raise unknown("check", name, [n for n in named if not n.startswith("check_")])
    wanted = {named[name] for name in only}
    for target in targets:
        try:
            case = target.case()
        except (MmzooError, TypeError, ValueError, AttributeError, RuntimeError) as error:
            yield target.unusable(error)
            continue
        chosen = [n for n in CHECKS[target.kind] if n in wanted] if only else None
        report = run_checks(target.kind, case, getattr(case.first, "expected_failures", {}), chosen)
        report.label = target.label
        yield report
