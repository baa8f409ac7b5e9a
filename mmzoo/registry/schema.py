"""The keys of an entry in registry.yaml, by kind, and what each may hold."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from mmzoo.io.schema import FLAG, TEXT, Kind, is_number, is_object, is_texts, one_of, whole

STATUSES = ("stable", "experimental", "deprecated")
#: conditions on the parameters, under which something holds of a strategy: it learns from the slice; it follows the
#: steps as they are taken (`bent` of mmzoo.training.config is refused); it needs no teachers
CONDITIONS = ("slice_if", "plain_steps_if", "teachers_unless", "scales_gradients_if")
#: what a method acts on, one word an entry: the groups of `mmzoo list --by family`
FAMILIES = (
    "gradient modulation",
    "loss weighting",
    "distillation",
    "data",
    "alternating",
    "architecture",
    "contrastive",
    "evaluation-only",
)
LINKS = ("paper", "code")
COMMON = {"summary", "paper", "links", "aliases", "status", "version", "fidelity", "params", "requires", "cost"}
KEYS: Mapping[str, set[str]] = {
    "methods": COMMON
    | {"strategy", "head", "args", "head_args", "each_modality", "family", "then", "equation", "after"},
    "strategies": COMMON
    | {
        "path",
        "equation",
        "owns",
        "modalities",
        "presets",
        "solo",
        "single_process",
        "untuned",
        "family",
        "reach",
        "without_slice",
        "after",
        *CONDITIONS,
    },
    "heads": COMMON
    | {
        "path",
        "equation",
        "how",
        "additive",
        "equal_dims",
        "modalities",
        "evidential",
        "couples",
        "mean_gates",
        "untuned",
    },
    "encoders": COMMON | {"path", "input", "files", "example", "convolutions"},
    "datasets": COMMON
    | {
        "path",
        "modalities",
        "n_classes",
        "metric",
        "presets",
        "setups",
        "training",
        "encoders",
        "licence",
        "select",
        "prepared",
        "mini",
    },
    "trackers": {"summary", "aliases", "status", "version", "path", "install"},
}
NEEDED: Mapping[str, set[str]] = {
    "methods": {"summary", "strategy", "head"},
    "strategies": {"summary", "path"},
    "heads": {"summary", "path", "how"},
    "encoders": {"summary", "path", "input"},
    "datasets": {"summary", "path", "modalities", "n_classes", "training", "encoders"},
    "trackers": {"summary", "path"},
}


def shape_fault(kind: str, key: str, value: Any) -> str | None:
    """What is wrong with the form of one value of an entry."""
    forms = (_FORMS.get(key), _BY_KIND.get((kind, key)))
    return next((f"must be {form.words}, not {value!r}" for form in forms if form and not form.fits(value)), None)


def _is_line(value: Any) -> bool:
    return isinstance(value, str) and 0 < len(value.strip()) <= 110 and len(value.splitlines()) == 1


def _is_links(value: Any) -> bool:
    return (
        isinstance(value, dict)
        and bool(value)
        and set(value) <= set(LINKS)
        and all(isinstance(v, str) and re.fullmatch(r"https://[^\s/]+/\S+", v) for v in value.values())
    )


def _is_place(value: Any) -> bool:
    return isinstance(value, str) and re.fullmatch(r"[\w.]+:\w+", value) is not None


def _is_input(value: Any) -> bool:
    return bool(value) and (isinstance(value, str) or is_texts(value))


def _is_limits(value: Any) -> bool:
    return isinstance(value, dict) and set(value) <= {"min", "max"} and all(map(_COUNT.fits, value.values()))


def is_condition(value: Any) -> bool:
    return isinstance(value, dict) and bool(value) and all(isinstance(v, list) for v in value.values())


def _is_setups(value: Any) -> bool:
    return isinstance(value, dict) and all(
        isinstance(each, dict) and set(each) <= {"data", "encoders"} and isinstance(each.get("encoders", {}), dict)
        for each in value.values()
    )


def _is_reach(value: Any) -> bool:
    names, numbers = ("moves", "step", "limit", "every"), ("typical", "least")
    return (
        isinstance(value, dict)
        and set(value) == {*names, *numbers, "if"}
        and all(isinstance(value[k], str) for k in names)
        and all(is_number(value[k]) for k in numbers)
        and is_condition(value["if"])
    )


def _is_then(value: Any) -> bool:
    return is_object(value) and bool(value) and all(map(is_object, value.values()))


def _is_after(value: Any) -> bool:
    return isinstance(value, dict) and all(
        isinstance(value.get(k), str) and value[k].strip() for k in ("title", "differs")
    )


def is_range(value: Any) -> bool:
    return isinstance(value, list) and len(value) == 2 and all(map(is_number, value)) and value[0] <= value[1]


_LINE = Kind("one line of at most 110 characters", _is_line)
_PLACE = Kind("module:Name", _is_place)
_NAMES = Kind("a list of names", is_texts)
_MAPPING = Kind("a mapping", is_object)
_COUNT = whole(1)
_CONDITION = Kind(
    "a mapping of parameters to lists of values, or a list of such mappings",
    lambda value: all(map(is_condition, value if isinstance(value, list) else [value])),
)
_FORMS: Mapping[str, Kind] = {
    "summary": _LINE,
    "status": one_of(*STATUSES),
    "family": one_of(*FAMILIES),
    "links": Kind(f"a mapping of {' and '.join(LINKS)} to addresses that begin with https://", _is_links),
    "how": one_of("exact", "slice", "ablated"),
    "input": Kind("a kind of input, or a list of kinds", _is_input),
    "cost": Kind(
        "a mapping of names to numbers", lambda value: isinstance(value, dict) and all(map(is_number, value.values()))
    ),
    "paper": Kind(
        "a mapping with at least a title", lambda value: isinstance(value, dict) and isinstance(value.get("title"), str)
    ),
    "after": Kind("a mapping with the title of a paper and how this differs from it (differs)", _is_after),
    **dict.fromkeys(("path", "files"), _PLACE),
    **dict.fromkeys(
        ("install", "untuned", "single_process", "strategy", "head", "equation", "metric", "licence", "select"), TEXT
    ),
    **dict.fromkeys(("aliases", "requires", "owns"), _NAMES),
    **dict.fromkeys(
        ("mini", "params", "fidelity", "args", "head_args", "presets", "training", "encoders", "modalities", "example"),
        _MAPPING,
    ),
    **dict.fromkeys(
        (
            "each_modality",
            "additive",
            "equal_dims",
            "solo",
            "evidential",
            "couples",
            "mean_gates",
            "prepared",
            "convolutions",
        ),
        FLAG,
    ),
    "then": Kind("a mapping of strategies that act after training to their parameters", _is_then),
    "reach": Kind("a mapping of if, moves, step, limit, every, typical and least (see `refusals.inert`)", _is_reach),
    **dict.fromkeys(("version", "n_classes"), _COUNT),
    **dict.fromkeys(CONDITIONS, _CONDITION),
    "without_slice": Kind("a mapping of parameters to values", is_object),
    "setups": Kind("a mapping of training presets to data and encoders", _is_setups),
}
_LIMITS = Kind("whole numbers for min and max", _is_limits)
_BY_KIND: Mapping[tuple[str, str], Kind] = {
    ("strategies", "modalities"): _LIMITS,
    ("heads", "modalities"): _LIMITS,
}
