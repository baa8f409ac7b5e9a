"""A field made again from the values that a store keeps of it. No torch, no numpy at import."""

from __future__ import annotations

import dataclasses
import importlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mmzoo.data.sources.field import Field
from mmzoo.errors import BadValue

#: class of a field -> its module
FIELDS: Mapping[str, str] = {
    "Sound": "audio",
    "Spectrogram": "audio",
    "Filterbank": "audio",
    "Flow": "flow",
    "Frames": "video",
    "Image": "image",
    "Series": "series",
    "Tokens": "text",
    "Vector": "vector",
}


def rebuilt(values: Mapping[str, Any], tokenizer: Path | None = None) -> Field:
    """The fitted field that gave `values` by `as_dict`, ready to read.

    Args:
        values: `field`, `version`, and the field's own values.
        tokenizer: The folder of the tokenizer of a text field, where it does not make its own vocabulary.

    Raises:
        BadValue: The field is that of another package, of another version, or its values are not those of a field.
    """
    name = str(values.get("field"))
    if name not in FIELDS:
        raise BadValue(
            f"its field {name!r} is none of mmzoo's own ({', '.join(FIELDS)}), so that files cannot be read here. Read them as "
            "its package does, and give the arrays to load_run(...).predict."
        )
    cls = getattr(importlib.import_module(f"mmzoo.data.fields.{FIELDS[name]}"), name)
    if values.get("version") != cls.version:
        raise BadValue(
            f"its field {name} was of version {values.get('version')!r} when the data was prepared, and is {cls.version} here: "
            "it would read other numbers. Use the version of mmzoo that trained the run, or train it again."
        )
    known = {f.name for f in dataclasses.fields(cls)}
    given = {k: tuple(v) if isinstance(v, list) else v for k, v in values.items() if k in known}
    if tokenizer is not None:
        given["tokenizer"] = str(tokenizer)
    try:
        found: Field = cls(**given)
    except (TypeError, ValueError) as error:
        raise BadValue(f"its values are not those of a field {name} ({error}).") from None
    return found
