"""What a method spec names: strategies with their windows and parameters, and a head."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping, Sequence
from typing import Any

from mmzoo.config.grammar import shown
from mmzoo.config.settings import Settings
from mmzoo.config.spec import Method, Part, plain
from mmzoo.errors import BadValue, Incompatible
from mmzoo.registry import BUILT_IN, Catalogue, Entry, Param

_BOUND = r"[0-9]{1,9}%?"
_PART = re.compile(
    rf"^(?P<name>[^:]*\.py:[A-Za-z_]\w*|[A-Za-z_][\w./-]*?)(?::(?P<first>{_BOUND})-(?P<last>{_BOUND})?)?$"
)
GRAMMAR = "NAME[:FIRST-LAST][+NAME...][@HEAD], e.g. ogm:0-50+pmr@sum"


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
    during = [r for r in recipes if not _acts_after(catalogue, r)] or recipes
    if any(each) and len(during) > 1:
        alone = recipes[each.index(True)].name
        raise Incompatible(f"{text}: {alone} trains one modality at a time and cannot be combined with another method.")
    _check_solo(catalogue, text, members)
    wanted = [catalogue.get("heads", r.extra["head"], r.package) for r in recipes]
    # What acts after training takes whatever head the others are trained with.
    asking = [head for recipe, head in zip(recipes, wanted) if recipe in during]
    head = catalogue.get("heads", head_name) if head_name else _agreed_head(text, during, asking)
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
        by_name = settings.take(recipe)
        given = settings.take(strategy) | by_name
        params = {**strategy.defaults(), **strategy.check_params(recipe.extra.get("args", {}))}
        preset = strategy.preset(given.pop("preset")) if "preset" in given else {}
        own, to_head = _divided(given, strategy, head)
        own = strategy.check_params(own)
        own = _of_use(own, recipe, strategy, {**params, **preset, **own}, by_name)
        fixed |= {f"{len(parts)}.{k}" for k in (*recipe.extra.get("args", {}), *preset, *own)}
        checked = preset | own
        over_head |= to_head
        changed += [f"{k}={shown(v)}" for k, v in checked.items() if params[k] != v]
        parts.append(Part(strategy.id.partition("/")[2], {**params, **checked}, first, last))
        versions |= {strategy.id: strategy.version}
    _check_owners(catalogue, text, [r.name for r in recipes], parts)
    checked = head.check_params(over_head)
    for key in checked:
        if (cause := head.params[key].idle({**head_params, **checked})) is not None:
            raise _idle(head.name, head.params[key], cause, {**head_params, **checked}[cause])
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


def _of_use(
    own: Mapping[str, Any], recipe: Entry, strategy: Entry, params: Mapping[str, Any], by_name: Mapping[str, Any]
) -> dict[str, Any]:
    """The settings of a strategy that mean something beside the others. Given for all methods with the strategy, one is not
    for a recipe that fixes what makes it idle; given for this method it is an error. Raises BadValue."""
    kept = dict(own)
    for key in own:
        cause = strategy.params[key].idle(params) if key in strategy.params else None
        if cause is not None and (key in by_name or cause not in recipe.extra.get("args", {})):
            owner = recipe if key in by_name else strategy
            raise _idle(owner.name, strategy.params[key], cause, params[cause])
        if cause is not None:
            del kept[key]
    return kept


def _idle(owner: str, param: Param, cause: str, value: Any) -> BadValue:
    wanted = " or ".join(shown(v) for v in param.when[cause])
    return BadValue(
        f"--set {owner}.{param.name}: it means nothing where {cause} is {shown(value)}, only with {wanted}. Leave it out, or "
        f"set {owner}.{cause} too."
    )


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
        if _acts_after(catalogue, recipe) and first is not None:
            raise Incompatible(f"{text}: {recipe.name} acts after training and has no window. Write {recipe.name}.")


def _acts_after(catalogue: Catalogue, recipe: Entry) -> bool:
    """Whether a part of a method acts after training alone (it owns `finish`)."""
    strategy = catalogue.get("strategies", recipe.extra["strategy"], recipe.package)
    return "finish" in strategy.extra.get("owns", ())


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
            "parts": [
                dataclasses.asdict(
                    Part(strategy.id.partition("/")[2], {**strategy.defaults(), **recipe.extra.get("args", {})})
                )
            ],
            "head": head.id.partition("/")[2],
            "head_params": {**head.defaults(), **recipe.extra.get("head_args", {})},
            "each_modality": bool(recipe.extra.get("each_modality")),
        }
        if plain(same) == plain(method.identity):
            return catalogue.name_of(recipe)
    return None
