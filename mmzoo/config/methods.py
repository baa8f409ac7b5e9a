"""What a method is: the strategies that its text names, their windows and parameters, and a head."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mmzoo.config.grammar import MethodPart, MethodText, parse_method, shown
from mmzoo.config.settings import Settings
from mmzoo.config.spec import Method, Part, plain
from mmzoo.errors import BadValue, Incompatible
from mmzoo.registry import BUILT_IN, Catalogue, Entry, Param


@dataclass(frozen=True)
class _Member:
    """One part of a method's text as the catalogue knows it: its recipe, and the strategy and the head that this names."""

    recipe: Entry
    strategy: Entry
    head: Entry
    written: MethodPart

    @property
    def acts_after(self) -> bool:
        """Whether it acts after training, and has no say in how the others train."""
        return acts_after(self.strategy)

    @property
    def args(self) -> Mapping[str, Any]:
        found: Mapping[str, Any] = self.recipe.extra.get("args", {})
        return found

    @property
    def head_args(self) -> Mapping[str, Any]:
        found: Mapping[str, Any] = self.recipe.extra.get("head_args", {})
        return found


@dataclass(frozen=True)
class _Resolved:
    """What a part or a head becomes under the settings.

    Args:
        params: All its parameters.
        fixed: Those that the recipe or the user has chosen.
        changed: Those that the user has set to something else than the recipe, written `KEY=VALUE`.
        to_head: Settings that were given to the method and are for its head.
    """

    params: Mapping[str, Any]
    fixed: frozenset[str]
    changed: tuple[str, ...]
    to_head: Mapping[str, Any] = dataclasses.field(default_factory=dict)


def resolve_method(catalogue: Catalogue, method: str | MethodText, settings: Settings) -> Method:
    """The method that a text names, with the settings that apply to it.

    Raises:
        UnknownName: A name is not in the catalogue.
        BadValue: The text cannot be parsed, or a setting has a bad value.
        Incompatible: Its parts cannot be chained, or want different heads.
    """
    text = parse_method(method) if isinstance(method, str) else method
    members = [_member(catalogue, part) for part in text.parts]
    members += _after(catalogue, members)
    _check_chain(text, members)
    head = catalogue.get("heads", text.head) if text.head else _agreed_head(text, members)
    over_head = settings.take(head, only=head.params)
    resolved = [_resolve_part(member, head, settings) for member in members]
    for each in resolved:
        over_head |= each.to_head
    _check_owners(text, members)
    at_head = _resolve_head(head, members, over_head)
    parts = tuple(
        Part(m.strategy.id.partition("/")[2], dict(r.params), m.written.first, m.written.last)
        for m, r in zip(members, resolved)
    )
    changed = [change for each in (*resolved, at_head) for change in each.changed]
    found = Method(
        label=str(text) + (f"[{','.join(changed)}]" if changed else ""),
        name=str(text),
        parts=parts,
        head=head.id.partition("/")[2],
        head_params=at_head.params,
        each_modality=any(m.recipe.extra.get("each_modality") for m in members),
        versions={head.id: head.version} | {m.strategy.id: m.strategy.version for m in members},
        uses_slice=any(_uses_slice(m.strategy, r.params) for m, r in zip(members, resolved)),
        needs_teachers=any(_needs_teachers(m.strategy, r.params) for m, r in zip(members, resolved)),
        fixed=at_head.fixed.union(*({f"{i}.{k}" for k in r.fixed} for i, r in enumerate(resolved))),
    )
    return found if changed else renamed(found, canonical(catalogue, found))


def renamed(method: Method, name: str | None) -> Method:
    """The same method under another name; as it is where there is none."""
    return method if name is None else dataclasses.replace(method, label=name, name=name)


# ---------------------------------------------------------------------------------------------- parts
def _member(catalogue: Catalogue, part: MethodPart) -> _Member:
    """A recipe with what it names. A bare strategy counts as a recipe with the head `concat`."""
    name = part.name
    if not catalogue.has("methods", name) and catalogue.has("strategies", name):
        extra = {"strategy": name, "head": f"{BUILT_IN}/concat"}
        recipe = dataclasses.replace(catalogue.get("strategies", name), kind="methods", extra=extra)
    else:
        recipe = catalogue.get("methods", name)
    strategy = catalogue.get("strategies", recipe.extra["strategy"], recipe.package)
    return _Member(recipe, strategy, catalogue.get("heads", recipe.extra["head"], recipe.package), part)


def _after(catalogue: Catalogue, members: Sequence[_Member]) -> list[_Member]:
    """What recipes name under `then`: strategies that act after training, each where nothing of the text has it."""
    found: dict[str, _Member] = {}
    for member in members:
        for name, args in member.recipe.extra.get("then", {}).items():
            strategy = catalogue.get("strategies", name, member.recipe.package)
            extra = {"strategy": name, "head": member.head.qualified, "args": args}
            recipe = dataclasses.replace(strategy, kind="methods", extra=extra)
            if all(m.strategy is not strategy for m in members):
                found.setdefault(strategy.id, _Member(recipe, strategy, member.head, MethodPart(name)))
    return list(found.values())


def _resolve_part(member: _Member, head: Entry, settings: Settings) -> _Resolved:
    recipe, strategy = member.recipe, member.strategy
    by_name = settings.take(recipe)
    given = settings.take(strategy) | by_name
    usual = {**strategy.defaults(), **strategy.check_params(member.args)}
    preset = strategy.preset(given.pop("preset")) if "preset" in given else {}
    own, to_head = _divided(given, strategy, head)
    own = strategy.check_params(own)
    own = _of_use(own, member, {**usual, **preset, **own}, by_name)
    checked = preset | own
    return _Resolved(
        strategy.spelled({**usual, **checked}),
        frozenset([*member.args, *preset, *own]),
        tuple(f"{k}={shown(v)}" for k, v in checked.items() if usual[k] != v),
        to_head,
    )


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
    own: Mapping[str, Any], member: _Member, params: Mapping[str, Any], by_name: Mapping[str, Any]
) -> dict[str, Any]:
    """The settings of a strategy that mean something beside the others. Given for all methods with the strategy, one is not
    for a recipe that fixes what makes it idle; given for this method it is an error. Raises BadValue."""
    used = dict(own)
    for key in own:
        param = member.strategy.params[key]
        cause = param.idle(params)
        if cause is not None and (key in by_name or cause not in member.args):
            owner = member.recipe if key in by_name else member.strategy
            raise _idle(owner.name, param, cause, params[cause])
        if cause is not None:
            del used[key]
    return used


def _idle(owner: str, param: Param, cause: str, value: Any) -> BadValue:
    wanted = " or ".join(shown(v) for v in param.when[cause])
    return BadValue(
        f"--set {owner}.{param.name}: it means nothing where {cause} is {shown(value)}, only with {wanted}. Leave it out, or "
        f"set {owner}.{cause} too."
    )


# ---------------------------------------------------------------------------------------------- head
def _agreed_head(text: MethodText, members: Sequence[_Member]) -> Entry:
    """The head of the members; those that act after training take whatever head the others train with."""
    asking = [m for m in members if not m.acts_after] or members
    wanted = asking[0].head
    if any(m.head is not wanted for m in asking):
        listed = ", ".join(f"{m.recipe.name} wants {m.head.name}" for m in asking)
        raise Incompatible(f"{text}: the methods want different heads ({listed}). Choose one: {text}@HEAD.")
    return wanted


def _resolve_head(head: Entry, members: Sequence[_Member], given: Mapping[str, Any]) -> _Resolved:
    """The parameters of a head: its own, those of the recipes that come with it, and what the user has set."""
    params, fixed = head.defaults(), set(given)
    for member in members:
        if member.head is head:
            params |= head.check_params(member.head_args)
            fixed |= set(member.head_args)
    checked = head.check_params(given)
    final = {**params, **checked}
    for key in checked:
        if (cause := head.params[key].idle(final)) is not None:
            raise _idle(head.name, head.params[key], cause, final[cause])
    changed = tuple(f"head.{k}={shown(v)}" for k, v in checked.items() if params.get(k) != v)
    return _Resolved(final, frozenset(f"head.{k}" for k in fixed), changed)


# ---------------------------------------------------------------------------------------------- what may be chained
def _check_chain(text: MethodText, members: Sequence[_Member]) -> None:
    """Raise Incompatible for a member that is a whole method and stands beside another, or in a window, and for a window
    around what acts after training."""
    training = [m for m in members if not m.acts_after]
    for member in members:
        name = member.recipe.name
        if member.acts_after and member.written.first is not None:
            raise Incompatible(f"{text}: {name} acts after training and has no window. Write {name}.")
        if len(training) > 1 and member.recipe.extra.get("each_modality"):
            raise Incompatible(
                f"{text}: {name} trains one modality at a time and cannot be combined with another method."
            )
    for member in members:
        name = member.recipe.name
        if not member.strategy.extra.get("solo"):
            continue
        if len(members) > 1:
            raise Incompatible(f"{text}: {name} is the whole of a method and cannot be combined with another.")
        if member.written.first is not None:
            raise Incompatible(f"{text}: {name} is the whole of a method and has no window. Write {name}.")


def acts_after(strategy: Entry) -> bool:
    """Whether a strategy acts after training (`Strategy.finish`)."""
    return "finish" in strategy.extra.get("owns", ())


def without_after(catalogue: Catalogue, method: str | MethodText) -> str | None:
    """The method without its parts that act after training, e.g. `ogm` for `ogm+refit`. None if no part is left, or if the
    remaining parts of a recipe have no name."""
    text = parse_method(method) if isinstance(method, str) else method
    members = [_member(catalogue, part) for part in text.parts]
    kept = []
    for member, written in zip(members, text.body.split("+")):
        if member.acts_after:
            continue
        name = _without_then(catalogue, member.recipe) if "then" in member.recipe.extra else member.written.name
        if name is None:
            return None
        kept.append(written.replace(member.written.name, name, 1))
    return "+".join(kept) + (f"@{text.head}" if text.head else "") if kept else None


def _without_then(catalogue: Catalogue, recipe: Entry) -> str | None:
    """The name of the recipe that is another without what it does after training (`then`)."""
    rest = dataclasses.replace(recipe, extra={k: v for k, v in recipe.extra.items() if k != "then"})
    wanted = _identity(catalogue, rest)
    found = (e for e in catalogue.entries("methods") if _identity(catalogue, e) == wanted)
    return next(map(catalogue.name_of, found), None)


def _check_owners(text: MethodText, members: Sequence[_Member]) -> None:
    """Raise Incompatible where two members replace the same thing."""
    owner: dict[str, str] = {}
    for member in members:
        for what in member.strategy.extra.get("owns", ()):
            if what in owner:
                raise Incompatible(
                    f"{text}: {owner[what]} and {member.recipe.name} cannot be combined, since both replace {what!r}. "
                    "Methods that only add to the loss or scale gradients can be."
                )
            owner[what] = member.recipe.name


# ---------------------------------------------------------------------------------------------- what it needs
def _uses_slice(strategy: Entry, params: Mapping[str, Any]) -> bool:
    """Whether a strategy with these parameters learns from the meta set: where `slice_if` says so, else by `requires`."""
    if "slice_if" not in strategy.extra:
        return "slice" in strategy.requires
    return holds(strategy.extra["slice_if"], params)


def without_slice(catalogue: Catalogue, method: Method) -> Method:
    """The method with its strategies learning from training samples in place of the meta set, where they can (`without_slice`)
    and neither the recipe nor the user has said otherwise."""
    parts, changed, uses = [], [], False
    for i, part in enumerate(method.parts):
        strategy = catalogue.get("strategies", part.strategy)
        given = strategy.extra.get("without_slice", {}) if _uses_slice(strategy, part.params) else {}
        new = {k: v for k, v in given.items() if f"{i}.{k}" not in method.fixed}
        parts.append(dataclasses.replace(part, params=strategy.spelled({**part.params, **new})))
        changed += [f"{k}={shown(v)}" for k, v in new.items()]
        uses = uses or _uses_slice(strategy, parts[-1].params)
    if not changed:
        return method
    inside = method.label.removeprefix(method.name).strip("[]")
    label = f"{method.name}[{','.join([*filter(None, [inside]), *changed])}]"
    return dataclasses.replace(method, label=label, parts=tuple(parts), uses_slice=uses)


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
    if any(part.first is not None for part in method.parts):
        return None
    for recipe in catalogue.entries("methods"):
        if _identity(catalogue, recipe) == plain(method.identity):
            return catalogue.name_of(recipe)
    return None


def _identity(catalogue: Catalogue, recipe: Entry) -> Any:
    """What `Method.identity` is of a recipe as it stands in the catalogue."""
    strategy = catalogue.get("strategies", recipe.extra["strategy"], recipe.package)
    head = catalogue.get("heads", recipe.extra["head"], recipe.package)
    params = strategy.spelled({**strategy.defaults(), **recipe.extra.get("args", {})})
    parts = [Part(strategy.id.partition("/")[2], params)]
    for name, args in recipe.extra.get("then", {}).items():
        after = catalogue.get("strategies", name, recipe.package)
        parts.append(Part(after.id.partition("/")[2], after.spelled({**after.defaults(), **args})))
    return plain(
        {
            "parts": [dataclasses.asdict(part) for part in parts],
            "head": head.id.partition("/")[2],
            "head_params": {**head.defaults(), **recipe.extra.get("head_args", {})},
            "each_modality": bool(recipe.extra.get("each_modality")),
        }
    )
