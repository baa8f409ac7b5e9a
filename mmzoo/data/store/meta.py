"""What meta.json of a prepared data set holds: its form, and the hash over the content that it describes. No torch, no numpy."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from mmzoo.io.json_file import CHECKSUM, unsealed
from mmzoo.io.schema import FLAG, LIST, OBJECT, TEXT, WHOLE, Form, each, items, misfit, optional, whole

FORMAT = 1
_ARRAY: Form = {"shape": items(whole(0)), "dtype": TEXT}
_META: Form = {
    "format": WHOLE,
    "dataset": TEXT,
    "mini": FLAG,
    "classes": items(TEXT),
    "rows": WHOLE,
    "items": WHOLE,
    "modalities": each(
        {
            "kind": TEXT,
            "arrays": each(_ARRAY),
            "facts": optional({"vocabulary": optional(whole(1))}),
            "fitted": optional({"vocabulary": optional(items(TEXT))}),
        },
    ),
    "splits": each(OBJECT),
    "files": each({"bytes": WHOLE, "sha256": TEXT}),
    "content": TEXT,
    "faults": LIST,
    "versions": OBJECT,
    "recipe": {"name": TEXT, "hash": TEXT, "fields": items(LIST), "options": OBJECT},
    "unavailable": optional(OBJECT),
}
#: axes of one item of a kind
_AXES = {"image": 3, "video": 4}
#: parts that a kind needs; others have one without a name
_PARTS = {"text": ("ids", "mask"), "series": ("values", "mask")}


def meta_fault(meta: Any) -> str | None:
    """The first thing about the content of a meta.json that is not as a store writes it; None where all is."""
    if isinstance(meta, dict) and meta.get("format", FORMAT) != FORMAT:
        return f"it has format {meta['format']!r}, while this version reads {FORMAT}"
    if fault := misfit(meta, _META):
        return fault
    if not meta["splits"]:
        return "splits names no split"
    if not meta["classes"]:
        return "classes names no class"
    for name in meta["files"]:
        if "/" in name or "\\" in name or name.startswith("."):
            return f"files.{name} is not a plain file name"
    if not _same_modalities(meta["recipe"]["fields"], meta["modalities"]):
        return "recipe.fields and modalities do not name the same modalities"
    for modality, body in meta["modalities"].items():
        if fault := _kind_fault(body):
            return f"modalities.{modality}.{fault}"
    return None


def _same_modalities(fields: list[Any], modalities: Mapping[str, Any]) -> bool:
    """Whether the fields of a recipe, pairs of a modality and its values, name each of the modalities once."""
    pairs = [f for f in fields if len(f) == 2 and isinstance(f[0], str) and isinstance(f[1], dict)]
    return bool(pairs) and len(pairs) == len(fields) and sorted(f[0] for f in pairs) == sorted(modalities)


def _kind_fault(body: Mapping[str, Any]) -> str | None:
    """What of a modality does not fit its kind, so that no transform could take it."""
    kind, arrays = body["kind"], body["arrays"]
    for part in _PARTS.get(kind, ("",)):
        if part not in arrays:
            return f"arrays has no part {part!r}, which kind {kind} needs"
    wanted = _AXES.get(kind)
    if wanted is not None and len(arrays[""]["shape"]) != wanted:
        return f"arrays..shape has {len(arrays['']['shape'])} axes, while kind {kind} has {wanted}"
    return None


def sealed(meta: Mapping[str, Any]) -> dict[str, Any]:
    """The content of a meta.json with a checksum over all of it."""
    return {**meta, CHECKSUM: _whole_hash(meta)}


def seal_fault(meta: Mapping[str, Any]) -> str | None:
    """What is wrong with a meta.json whose form is right: it is not the one that was written. None where it is; one of an
    earlier version has no checksum, and its hash over the content must fit."""
    if content_hash(meta) != meta["content"]:
        return "its own hash does not fit it"
    if CHECKSUM in meta and meta[CHECKSUM] != _whole_hash(meta):
        return "its checksum does not fit: it was changed after it was written"
    return None


def _whole_hash(meta: Mapping[str, Any]) -> str:
    """Keys stay in order: the first split is the default."""
    text = json.dumps(unsealed(meta), separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def content_hash(meta: Mapping[str, Any]) -> str:
    """A hash over all files but meta.json, and over what meta.json says of their meaning."""
    keys = ("format", "dataset", "mini", "classes", "rows", "modalities")
    described = {
        **{k: meta[k] for k in keys},
        "recipe": meta["recipe"]["hash"],
        "files": {name: f["sha256"] for name, f in meta["files"].items()},
    }
    return hashlib.sha256(json.dumps(described, sort_keys=True).encode()).hexdigest()[:16]
