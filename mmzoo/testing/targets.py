"""What `mmzoo check` was asked to check: a name, a class in a file, a file, or a package."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, cast

from mmzoo.config.methods import resolve_method
from mmzoo.config.settings import Settings
from mmzoo.errors import BadValue, MmzooError, UnknownName, near_miss, unknown
from mmzoo.registry import KINDS, SINGULAR, Catalogue, Entry, user_classes
from mmzoo.testing.api import part_case
from mmzoo.testing.harness import forked
from mmzoo.testing.harness.cases import SPECS, DatasetCase, StrategyCase
from mmzoo.testing.harness.report import CHECKS, CheckResult, Kind, Report, run_checks
from mmzoo.training.composition import Chain
from mmzoo.training.strategy import Strategy

#: kinds of entries that there are checks for -> what the checks call them
CHECKED: dict[str, Kind] = {
    "strategies": "strategy",
    "heads": "head",
    "encoders": "encoder",
    "datasets": "dataset",
}


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


def find(catalogue: Catalogue, text: str, pairs: Sequence[tuple[str, Any]] = ()) -> list[Target]:
    """All parts that a target names. Raises UnknownName or BadValue where there is nothing to check.

    text: a name of the catalogue (a method means its strategy with the head it comes with), KIND/NAME, `FILE.py:CLASS`,
    `FILE.py` for every part in it, or the name of an installed package for all its entries. pairs: settings as of a bench; a
    KEY alone is a parameter of what `text` names.
    """
    settings = Settings(
        catalogue, [(k if "." in k else f"{text.rpartition('/')[2]}.{k}", v) for k, v in _local(text, pairs)]
    )
    found = _found(catalogue, text, settings)
    try:
        settings.check_all_used()
    except MmzooError as error:
        raise BadValue(str(error).replace("in this bench ", "that is checked ").partition(" Name it")[0]) from None
    return found


def _local(text: str, pairs: Sequence[tuple[str, Any]]) -> list[tuple[str, Any]]:
    """Settings whose bare keys mean a class in a file, where that is what is checked."""
    return [(k if "." in k or not user_classes.is_local(text) else f"{text}.{k}", v) for k, v in pairs]


def _found(catalogue: Catalogue, text: str, settings: Settings) -> list[Target]:
    if text.endswith(".py"):
        names = user_classes.classes(text)
        if not names:
            raise BadValue(f"{text} defines no strategy, head or encoder.")
        return [t for name in names for t in _found(catalogue, f"{text}:{name}", settings)]
    if user_classes.is_local(text):
        kind = user_classes.kind_of(user_classes.load(*text.removeprefix("local/").rsplit(":", 1)), text)
        return list(_targets(catalogue.get(kind, text), catalogue, settings))
    kind, _, name = text.partition("/")
    if kind in KINDS and name:
        entries = [catalogue.get(kind, name)]
    else:
        entries = _named(catalogue, text) or _of_package(catalogue, text)
    found = [t for e in entries if e.kind in (*CHECKED, "methods") for t in _targets(e, catalogue, settings)]
    if not entries:
        known = {e.name for e in catalogue} | {e.package for e in catalogue}
        raise UnknownName(
            f"nothing to check is called {text!r}.{near_miss(text, known)} See: mmzoo list, or write FILE.py:CLASS."
        )
    if not found:
        raise BadValue(f"{text} is {_unchecked(entries[0])}")
    return list({t.label: t for t in found}.values())


def _unchecked(entry: Entry) -> str:
    if entry.kind == "datasets":
        return (
            f"a data set that is read from files of its publisher, which a check does not have. What holds for these: mmzoo data "
            f"check {entry.name} --root DIR"
        )
    return f"a {SINGULAR[entry.kind]}; there are checks for {', '.join(CHECKED.values())}."


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


def _targets(entry: Entry, catalogue: Catalogue, settings: Settings) -> Iterator[Target]:
    """The parts of an entry: one, or of an encoder one for each kind of input that it takes."""
    name = catalogue.name_of(entry) if entry.package != user_classes.PACKAGE else entry.name
    if entry.kind == "methods":
        yield Target(f"method {name}", "strategy", _method_case(entry, catalogue, settings))
        return
    kind, params = CHECKED[entry.kind], {**entry.defaults(), **entry.check_params(settings.take(entry))}
    if kind == "dataset":
        if inspect.isclass(entry.load()):
            return  # it is read from files of its publisher, which are checked by `mmzoo data check`
        yield Target(f"data set {name}", kind, partial(_dataset_case, entry, params))
        return
    if kind == "strategy" and (using := _method_with(entry, catalogue)):
        yield Target(f"strategy {name}", kind, _method_case(using, catalogue, settings, params))
        return
    if kind != "encoder":
        yield Target(f"{kind} {name}", kind, lambda: part_case(kind, _class(entry), params))
        return
    given = entry.extra["input"]
    for takes in [given] if isinstance(given, str) else given:
        yield Target(f"encoder {name} ({takes})", kind, partial(_encoder_case, entry, takes, params))


def _method_with(strategy: Entry, catalogue: Catalogue) -> Entry | None:
    """The first method that uses a strategy alone: it names a head that suits it."""
    using = [e for e in catalogue.entries("methods") if _strategy_of(catalogue, e) is strategy]
    return next((e for e in using if "then" not in e.extra), None)


def _method_case(
    entry: Entry, catalogue: Catalogue, settings: Settings, params: dict[str, Any] | None = None
) -> Callable[[], StrategyCase]:
    """Makes the case of a recipe: its strategies with their parameters (params: with these), and the head that it names."""
    method = resolve_method(catalogue, catalogue.name_of(entry), settings)
    named = [(catalogue.get("strategies", p.strategy), p.params) for p in method.parts]

    def make() -> Strategy:
        made = [_class(e)(**(given if params is None else params)) for e, given in named]
        return made[0] if len(made) == 1 else Chain(*made)

    def case() -> StrategyCase:
        head = catalogue.get("heads", method.head).load()
        return StrategyCase(make, head=lambda dims, n: head(dims, n, **method.head_params))

    return case


def _encoder_case(entry: Entry, takes: str, params: dict[str, Any]) -> Any:
    spec = SPECS[takes]
    return part_case("encoder", _class(entry), {"spec": spec, **params}, inputs=spec)


def _dataset_case(entry: Entry, params: dict[str, Any]) -> DatasetCase:
    return DatasetCase(entry.load(), params, label=entry.name, declared=entry.extra, params=entry.params)


def _class(entry: Entry) -> type:
    loaded = entry.load()
    if not inspect.isclass(loaded):
        raise BadValue(f"{entry.extra['path']} is no class.")
    return cast(type, loaded)


def reports(
    targets: list[Target], only: Sequence[str] = (), progress: Callable[[str, str], None] | None = None
) -> Iterator[Report]:
    """The report on each, as soon as it is there. only: names of checks, with or without `check_`; a part that has none of
    them gives an empty report. progress: told the label of the part and the name of the check before each. Raises UnknownName
    for a check that no kind of part has."""
    named = {name: name for kind in CHECKS.values() for name in kind}
    named |= {name.removeprefix("check_"): name for name in named}
    for name in only:
        if name not in named:
            raise unknown("check", name, [n for n in named if not n.startswith("check_")])
    wanted = {named[name] for name in only}
    with forked.cases([t.case for t in targets]):
        for number, target in enumerate(targets):
            yield _report(target, number, wanted if only else None, progress)


def _report(
    target: Target, number: int, wanted: Collection[str] | None, progress: Callable[[str, str], None] | None
) -> Report:
    try:
        case = target.case()
    except (MmzooError, TypeError, ValueError, AttributeError, RuntimeError) as error:
        return target.unusable(error)
    case.number = number
    chosen = None if wanted is None else [n for n in CHECKS[target.kind] if n in wanted]
    tell = None if progress is None else partial(progress, target.label)
    expected = getattr(case.first, "expected_failures", {})
    report = run_checks(target.kind, case, expected, chosen, tell)
    report.label = target.label
    return report
