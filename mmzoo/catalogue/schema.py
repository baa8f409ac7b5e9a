"""The keys of an entry in registry.yaml, by kind, and what each may hold."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any

STATUSES = ("stable", "experimental", "deprecated")
#: conditions on the parameters, under which something holds of a strategy: it learns from the slice; it follows the
#: steps as they are taken (`bent` of mmzoo.training is refused); it needs no teachers
CONDITIONS = ("slice_if", "plain_steps_if", "teachers_unless")
COMMON = {"summary", "paper", "aliases", "status", "version", "fidelity", "params", "requires", "cost"}
KEYS: Mapping[str, set[str]] = {
    "methods": COMMON | {"strategy", "head", "args", "head_args", "each_modality"},
    "strategies": COMMON | {"path", "equation", "owns", "modalities", "presets", "solo", "untuned", *CONDITIONS},
    "heads": COMMON | {"path", "equation", "how", "additive", "equal_dims", "modalities", "evidential", "couples",
                       "mean_gates", "untuned"},
    "encoders": COMMON | {"path", "input", "files", "example", "convolutions"},
    "datasets": COMMON | {"path", "modalities", "n_classes", "metric", "presets", "training", "encoders", "licence",
                          "select", "prepared", "mini"},
    "trackers": {"summary", "aliases", "status", "version", "path", "install"},
}  # fmt: skip
NEEDED: Mapping[str, set[str]] = {
    "methods": {"summary", "strategy", "head"},
    "strategies": {"summary", "path"},
    "heads": {"summary", "path", "how"},
    "encoders": {"summary", "path", "input"},
    "datasets": {"summary", "path", "modalities", "n_classes", "training", "encoders"},
    "trackers": {"summary", "path"},
}

_TEXTS = {"install", "untuned", "strategy", "head", "equation", "metric", "licence", "select"}
_LISTS = {"aliases", "requires", "owns"}
_MAPPINGS = {
    "mini", "params", "fidelity", "args", "head_args", "presets", "training", "encoders", "modalities", "example"
}  # fmt: skip
_FLAGS = {"each_modality", "additive", "equal_dims", "solo", "evidential", "couples", "mean_gates", "prepared",
          "convolutions"}  # fmt: skip


def shape_fault(kind: str, key: str, value: Any) -> str | None:
    """What is wrong with the form of one value of an entry."""
    wanted = None
    if key == "summary" and not (
        isinstance(value, str) and 0 < len(value.strip()) <= 110 and len(value.splitlines()) == 1
    ):
        wanted = "one line of at most 110 characters"
    elif key in ("path", "files") and not (isinstance(value, str) and re.fullmatch(r"[\w.]+:\w+", value)):
        wanted = "module:Name"
    elif key == "status" and value not in STATUSES:
        wanted = f"one of {', '.join(STATUSES)}"
    elif key == "how" and value not in ("exact", "slice", "ablated"):
        wanted = "one of exact, slice, ablated"
    elif key in _TEXTS and not isinstance(value, str):
        wanted = "a text"
    elif key in _LISTS and not _is_names(value):
        wanted = "a list of names"
    elif key == "input" and not ((value and isinstance(value, str)) or (_is_names(value) and value)):
        wanted = "a kind of input, or a list of kinds"
    elif key in _FLAGS and not isinstance(value, bool):
        wanted = "true or false"
    elif key in _MAPPINGS and not isinstance(value, dict):
        wanted = "a mapping"
    elif key in ("version", "n_classes") and (not isinstance(value, int) or isinstance(value, bool) or value < 1):
        wanted = "a whole number from 1"
    elif key == "cost" and not (isinstance(value, dict) and all(map(_is_number, value.values()))):
        wanted = "a mapping of names to numbers"
    elif key in CONDITIONS and not all(map(is_condition, value if isinstance(value, list) else [value])):
        wanted = "a mapping of parameters to lists of values, or a list of such mappings"
    elif key == "paper" and not (isinstance(value, dict) and isinstance(value.get("title"), str)):
        wanted = "a mapping with at least a title"
    elif (
        key == "modalities"
        and kind in ("strategies", "heads")
        and not (set(value) <= {"min", "max"} and all(isinstance(v, int) and v >= 1 for v in value.values()))
    ):
        wanted = "whole numbers for min and max"
    return wanted and f"must be {wanted}, not {value!r}"


def _is_names(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(v, str) for v in value)


def is_condition(value: Any) -> bool:
    return isinstance(value, dict) and bool(value) and all(isinstance(v, list) for v in value.values())


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def is_range(value: Any) -> bool:
    return isinstance(value, list) and len(value) == 2 and all(map(_is_number, value)) and value[0] <= value[1]
