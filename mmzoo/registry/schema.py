"""The keys of an entry in registry.yaml, by kind, and what each may hold."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

STATUSES = ("stable", "experimental", "deprecated")
#: conditions on the parameters, under which something holds of a strategy: it learns from the slice; it follows the
#: steps as they are taken (`bent` of mmzoo.training.config is refused); it needs no teachers
CONDITIONS = ("slice_if", "plain_steps_if", "teachers_unless")
COMMON = {"summary", "paper", "aliases", "status", "version", "fidelity", "params", "requires", "cost"}
KEYS: Mapping[str, set[str]] = {
    "methods": COMMON | {"strategy", "head", "args", "head_args", "each_modality"},
    "strategies": COMMON
    | {"path", "equation", "owns", "modalities", "presets", "solo", "single_process", "untuned", *CONDITIONS},
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


@dataclass(frozen=True)
class _Form:
    """What a value has to be, in words and as a question."""

    words: str
    fits: Callable[[Any], bool]


def shape_fault(kind: str, key: str, value: Any) -> str | None:
    """What is wrong with the form of one value of an entry."""
    forms = (_FORMS.get(key), _BY_KIND.get((kind, key)))
    return next((f"must be {form.words}, not {value!r}" for form in forms if form and not form.fits(value)), None)


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _is_flag(value: Any) -> bool:
    return isinstance(value, bool)


def _is_mapping(value: Any) -> bool:
    return isinstance(value, dict)


def _is_names(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(v, str) for v in value)


def _is_line(value: Any) -> bool:
    return isinstance(value, str) and 0 < len(value.strip()) <= 110 and len(value.splitlines()) == 1


def _is_place(value: Any) -> bool:
    return isinstance(value, str) and re.fullmatch(r"[\w.]+:\w+", value) is not None


def _is_input(value: Any) -> bool:
    return bool(value) and (isinstance(value, str) or _is_names(value))


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1


def _is_limits(value: Any) -> bool:
    return isinstance(value, dict) and set(value) <= {"min", "max"} and all(map(_is_count, value.values()))


def is_condition(value: Any) -> bool:
    return isinstance(value, dict) and bool(value) and all(isinstance(v, list) for v in value.values())


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def is_range(value: Any) -> bool:
    return isinstance(value, list) and len(value) == 2 and all(map(_is_number, value)) and value[0] <= value[1]


def _one_of(values: Sequence[str]) -> _Form:
    return _Form(f"one of {', '.join(values)}", lambda value: value in values)


_LINE = _Form("one line of at most 110 characters", _is_line)
_PLACE = _Form("module:Name", _is_place)
_TEXT = _Form("a text", _is_text)
_NAMES = _Form("a list of names", _is_names)
_FLAG = _Form("true or false", _is_flag)
_MAPPING = _Form("a mapping", _is_mapping)
_COUNT = _Form("a whole number from 1", _is_count)
_CONDITION = _Form(
    "a mapping of parameters to lists of values, or a list of such mappings",
    lambda value: all(map(is_condition, value if isinstance(value, list) else [value])),
)
_FORMS: Mapping[str, _Form] = {
    "summary": _LINE,
    "status": _one_of(STATUSES),
    "how": _one_of(("exact", "slice", "ablated")),
    "input": _Form("a kind of input, or a list of kinds", _is_input),
    "cost": _Form(
        "a mapping of names to numbers", lambda value: isinstance(value, dict) and all(map(_is_number, value.values()))
    ),
    "paper": _Form(
        "a mapping with at least a title", lambda value: isinstance(value, dict) and isinstance(value.get("title"), str)
    ),
    **dict.fromkeys(("path", "files"), _PLACE),
    **dict.fromkeys(
        ("install", "untuned", "single_process", "strategy", "head", "equation", "metric", "licence", "select"), _TEXT
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
        _FLAG,
    ),
    **dict.fromkeys(("version", "n_classes"), _COUNT),
    **dict.fromkeys(CONDITIONS, _CONDITION),
}
_LIMITS = _Form("whole numbers for min and max", _is_limits)
_BY_KIND: Mapping[tuple[str, str], _Form] = {
    ("strategies", "modalities"): _LIMITS,
    ("heads", "modalities"): _LIMITS,
}
