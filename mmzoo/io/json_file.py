"""Reading JSON files that somebody else may have written or damaged. No torch at import."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any


class NotJson(ValueError):
    """A file does not hold JSON. The message says why, without the path."""


def read_json(path: Path) -> Any:
    """Read a file of strict JSON: UTF-8, and no NaN or Infinity.

    Raises:
        NotJson: The content is not JSON, or nested too deeply.
        OSError: The file cannot be read.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise NotJson(f"not UTF-8 text (byte {error.start})") from None
    try:
        return json.loads(text, parse_constant=_refuse_constant)
    except json.JSONDecodeError as error:
        raise NotJson(f"not JSON ({error.msg}, line {error.lineno})") from None
    except (ValueError, RecursionError) as error:
        raise NotJson(f"not JSON ({error})") from None


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is no number of JSON")
