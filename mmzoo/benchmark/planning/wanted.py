"""Which methods a bench compares: those that were asked for, and the references. No torch at import."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from mmzoo.config.grammar import MethodText, parse_method, shown
from mmzoo.config.methods import acts_after, canonical, renamed, resolve_method, without_slice
from mmzoo.config.settings import Settings
from mmzoo.config.spec import Method, Role
from mmzoo.registry import Catalogue

#: the references of every bench; the last two with each head that a method of the bench uses
UNIMODAL, PLAIN, CONTROL = map(parse_method, ("unimodal", "concat", "joint_unimodal"))


@dataclass(frozen=True)
class Wanted:
    """A method of a bench. spared: it is trained without the meta set, to be compared with one that learns from that."""

    method: Method
    role: Role
    spared: bool = False


def wanted_methods(
    asked: Sequence[tuple[MethodText, Role]],
    catalogue: Catalogue,
    settings: Settings,
    *,
    references: bool,
    without_meta_set: bool = False,
) -> list[Wanted]:
    """The methods in the order of the tables, each once: those of `BenchSpec.asked`, and the references.

    A method that learns from the meta set is not trained on it. So that its difference to plain training does not
    measure the missing labels, plain and control then come once more, without the meta set too. without_meta_set: what can learn
    from training samples instead does so.
    """
    named = [Wanted(resolve_method(catalogue, text, settings), role) for text, role in asked]
    if without_meta_set:
        named = [replace(w, method=without_slice(catalogue, w.method)) for w in named]
    if not references:
        return _unique(named)
    joint = [w.method for w in named if not w.method.each_modality]
    joint = joint or [resolve_method(catalogue, PLAIN, settings)]
    compared = [*_references(joint, catalogue, settings), resolve_method(catalogue, UNIMODAL, settings)]
    every = [*named, *(Wanted(method, "reference") for method in compared)]
    learning = [w.method for w in every if w.method.uses_slice]
    spared = [Wanted(method, "reference", spared=True) for method in _references(learning, catalogue, settings)]
    return [*_unique(every), *_unique(spared)]


def _unique(wanted: Sequence[Wanted]) -> list[Wanted]:
    found: dict[str, Wanted] = {}
    for each in wanted:
        found.setdefault(str(each.method.identity), each)
    return list(found.values())


def _references(methods: Sequence[Method], catalogue: Catalogue, settings: Settings) -> list[Method]:
    """Plain training and the control, both with the head of each method.

    What acts after training in a method could be added to any, so that references without it alone would make an unfair
    comparison: they come with it, too.
    """
    found = []
    for method in methods:
        after = [p.strategy for p in method.parts if acts_after(catalogue.get("strategies", p.strategy))]
        # A method that does nothing else is plain training with that already.
        texts = [PLAIN, CONTROL, *(t.with_parts(after) for t in (PLAIN, CONTROL) if 0 < len(after) < len(method.parts))]
        found += [_finished_like(_like(text, method, catalogue, settings), method) for text in texts]
    return found


def _finished_like(reference: Method, method: Method) -> Method:
    """A reference whose parts that act after training have the parameters that they have in a method."""
    own = {p.strategy: p for p in method.parts}
    parts = tuple(own.get(p.strategy, p) if i else p for i, p in enumerate(reference.parts))
    changed = [
        f"{k}={shown(v)}" for p, q in zip(reference.parts, parts) for k, v in q.params.items() if p.params.get(k) != v
    ]
    return replace(reference, parts=parts, label=f"{reference.label}[{','.join(changed)}]") if changed else reference


def _like(text: MethodText, method: Method, catalogue: Catalogue, settings: Settings) -> Method:
    """A reference with the very head of a method, its parameters included."""
    reference = resolve_method(catalogue, text, settings)
    if reference.head != method.head:
        text = text.with_head(method.head)
        reference = resolve_method(catalogue, text, settings)
    if dict(reference.head_params) == dict(method.head_params):
        return reference
    changes = {k: v for k, v in method.head_params.items() if reference.head_params.get(k) != v}
    fixed = reference.fixed | {name for name in method.fixed if name.startswith("head.")}
    same = replace(reference, head_params=method.head_params, fixed=fixed)
    listed = ",".join(f"head.{k}={shown(v)}" for k, v in changes.items())
    return renamed(replace(same, name=str(text), label=f"{text}[{listed}]"), canonical(catalogue, same))
