"""What differs between two stores, or between two methods of one: specification, scores, and whether that is decided."""

from __future__ import annotations

import json
import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mmzoo.benchmark.reporting.groups import METRICS, Group, Row, grouped, main_metric, main_score
from mmzoo.benchmark.reporting.statistics import NO_INTERVAL, detectable, interval, smallest_p, spread
from mmzoo.benchmark.reporting.tables import DASH, Cell, Table, percent
from mmzoo.benchmark.results.forms import present_name
from mmzoo.errors import BadValue

LEVEL = 0.05
#: parts of a row that are compared beside its specification
FACTS = ("hashes", "environment")
#: what follows from a run and does not specify it
RESULTS = (("hashes", "weights"), ("hashes", "strategy"), ("hashes", "predictions"), ("spec", "seed"))


@dataclass(frozen=True)
class Side:
    """One side of a comparison: its name, and its groups by data set and by what the other side calls the same."""

    name: str
    groups: Mapping[tuple[str, str], Group]


def stores(a: tuple[str, Sequence[Row]], b: tuple[str, Sequence[Row]]) -> tuple[Side, Side]:
    """Two sides of the rows of two stores, matched by data set and method."""
    return _side(*a), _side(*b)


def methods(name_a: str, name_b: str, rows: Sequence[Row]) -> tuple[Side, Side]:
    """Two sides of the rows of two methods in one store, matched by data set; names of earlier versions are understood, and
    `ogm` where `ogm[alpha=0.8]` is the only one of this name. Raises BadValue for one without rows."""
    known = list(dict.fromkeys(r["label"] for r in rows))
    sides = []
    for name in map(present_name, (name_a, name_b)):
        with_settings = [label for label in known if label.startswith(f"{name}[")]
        if name not in known and len(with_settings) == 1:
            name = with_settings[0]
        mine = [{**r, "label": ""} for r in rows if r["label"] == name]
        if not mine:
            raise BadValue(f"no run of the method {name!r} is there. There are: {', '.join(known) or 'none'}.")
        sides.append(_side(name, mine))
    return sides[0], sides[1]


def _side(name: str, rows: Sequence[Row]) -> Side:
    found = {}
    for dataset in dict.fromkeys(r["dataset"] for r in rows):
        for group in grouped([r for r in rows if r["dataset"] == dataset], {}):
            found[dataset, group.label] = group
    return Side(name, found)


def compare_tables(a: Side, b: Side) -> list[Table]:
    """Paired differences with a verdict, then everything in which the specifications differ. Raises BadValue where nothing is in
    both."""
    common = [key for key in a.groups if key in b.groups]
    if not common:
        what = "method on the same data set" if any(method for _, method in a.groups) else "data set"
        raise BadValue(
            f"there is nothing to compare: {a.name} and {b.name} have no run of the same {what} in "
            f"common. {a.name} has: {_listed(a.groups)}. {b.name} has: {_listed(b.groups)}."
        )
    scores = Table(
        f"{a.name} minus {b.name}: test scores, points",
        [
            "data set",
            "method",
            a.name,
            b.name,
            "difference",
            "95 % interval",
            "sign-flip p",
            "detectable",
            "seeds",
            "verdict",
        ],
        priority=[0, 0, 2, 2, 0, 1, 3, 4, 5, 0],
        words=2,
    )
    for key in common:
        scores.body.append([Cell(text) for text in _line(key, a.groups[key], b.groups[key])])
    scores.notes += _notes(a, b)
    differing = Table("differences in specification", ["where", "what", a.name, b.name], words=4)
    where: dict[tuple[str, str, str], list[str]] = {}
    for key in common:
        for difference in spec_differences(a.groups[key], b.groups[key]):
            where.setdefault(difference, []).append(" ".join(key).strip())
    for difference, places in where.items():
        shown = "everywhere" if len(places) == len(common) else ", ".join(places[:3]) + ", ..." * (len(places) > 3)
        differing.body.append([Cell(text) for text in (shown, *difference)])
    if not differing.body:
        differing.notes.append("The specifications, hashes and environments are equal.")
    return [scores, differing]


def _line(key: tuple[str, str], a: Group, b: Group) -> list[str]:
    left, right = a.by_seed(main_score), b.by_seed(main_score)
    seeds = sorted(set(left) & set(right))
    d = [left[s] - right[s] for s in seeds]
    means = [percent(g.spread(main_score)) for g in (a, b)]
    label = f"{key[1] or METRICS[main_metric([a, b])]}"
    if not d:
        return [key[0], label, *means, DASH, DASH, DASH, DASH, "0", "no common seed"]
    s = spread(d)
    p = sign_flip(d)
    least = DASH if s.deviation is None else f"{100 * detectable(s.n) * s.deviation:.1f}"
    low, high = interval(s)
    return [
        key[0],
        label,
        *means,
        percent(s, sign=True),
        DASH if math.isinf(low) else f"{100 * low:+.1f} to {100 * high:+.1f}",
        f"{p:.3g}",
        least,
        str(s.n),
        verdict(p, s.mean, s.n),
    ]


def verdict(p: float, mean: float, n: int) -> str:
    """Whether seeds decide a difference: "higher", "lower", "undecided", or "too few seeds" where none could."""
    if smallest_p(n) > LEVEL:
        return "too few seeds"
    return "undecided" if p > LEVEL else "higher" if mean > 0 else "lower"


def sign_flip(differences: Sequence[float]) -> float:
    from mmzoo.benchmark.reporting.significance import sign_flip as test

    return test(differences)


def _notes(a: Side, b: Side) -> list[str]:
    notes = [
        "Runs are paired by seed. detectable: the true difference that a paired t-test at 5 % finds with 80 % power. "
        f"verdict: by the sign-flip test at 5 %, which needs six seeds. {NO_INTERVAL}"
    ]
    for side, other in ((a, b), (b, a)):
        only = [key for key in side.groups if key not in other.groups]
        if only:
            notes.append(f"only in {side.name}: {_listed(only)}")
    return notes


def _listed(keys: Collection[tuple[str, str]], most: int = 8) -> str:
    """Data sets and methods, in words."""
    shown = ", ".join(f"{d} {m}".strip() for d, m in list(keys)[:most])
    return f"{shown}{f' and {len(keys) - most} more' if len(keys) > most else ''}"


def spec_differences(a: Group, b: Group) -> Iterator[tuple[str, str, str]]:
    """(what, value of a, value of b) for each part of specification, hashes and environment that differs.

    Hashes are compared over common seeds: those of weights differ wherever training does, and are left out.
    """
    left, right = ({r["seed"]: r for r in g.rows if r["status"] == "ok"} for g in (a, b))
    seed = min(set(left) & set(right), default=None)
    x, y = (left[seed], right[seed]) if seed is not None else (a.rows[0], b.rows[0])
    facts = [("spec", x["spec"], y["spec"]), *((f, x.get(f, {}), y.get(f, {})) for f in FACTS)]
    for name, mine, other in facts:
        one, two = dict(_flat(mine)), dict(_flat(other))
        for key in sorted(set(one) | set(two)):
            if one.get(key) != two.get(key) and (name, key) not in RESULTS:
                yield f"{name}.{key}", _text(one.get(key)), _text(two.get(key))


def _flat(value: Mapping[Any, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, inner in value.items():
        if isinstance(inner, list) and inner and all(isinstance(part, Mapping) for part in inner):
            inner = dict(enumerate(inner))
        if isinstance(inner, Mapping):
            yield from _flat(inner, f"{prefix}{key}.")
        else:
            yield prefix + str(key), inner


def _text(value: Any) -> str:
    text = DASH if value is None else value if isinstance(value, str) else json.dumps(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
