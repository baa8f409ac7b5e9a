"""JSON files that somebody else may have written or damaged, and the checksum that tells. No torch at import."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mmzoo.io.files import read_bytes, write_json

#: the key of a file's own checksum
CHECKSUM = "checksum"
#: digits of the largest whole number that is read
DIGITS = 40


class NotJson(ValueError):
    """A file does not hold JSON. The message says why, without the path."""


def read_json(path: Path) -> Any:
    """Read a file of strict JSON: UTF-8, each key once, no NaN or Infinity, no number of more than DIGITS digits.

    Raises:
        NotJson: The content is not JSON, or nested too deeply.
        OSError: The file cannot be read, or is no regular file.
    """
    try:
        text = read_bytes(path).decode("utf-8")
    except UnicodeDecodeError as error:
        raise NotJson(f"not UTF-8 text (byte {error.start})") from None
    try:
        return json.loads(text, parse_constant=_refuse_constant, parse_int=_whole, object_pairs_hook=_unique)
    except json.JSONDecodeError as error:
        raise NotJson(f"not JSON ({error.msg}, line {error.lineno})") from None
    except (ValueError, RecursionError) as error:
        raise NotJson(f"not JSON ({error})") from None


def write_sealed(path: Path, value: Mapping[str, Any]) -> None:
    """Write an object with its checksum, see `checksum_fault`."""
    plain = json.loads(json.dumps(value, allow_nan=False))
    write_json(path, {**plain, CHECKSUM: checksum(plain)})


def unsealed(value: Mapping[str, Any]) -> dict[str, Any]:
    """The object without its checksum."""
    return {k: v for k, v in value.items() if k != CHECKSUM}


def checksum_fault(value: Mapping[str, Any]) -> str | None:
    """What is wrong with an object that `read_json` returned: it is not the one that was written. None where it is, and for one
    of an earlier version, which has no checksum."""
    if CHECKSUM not in value or value[CHECKSUM] == checksum(value):
        return None
    return "its checksum does not fit: it was changed after it was written"


def checksum(value: Mapping[str, Any]) -> str:
    """A hash of an object as JSON, its own checksum left out."""
    text = json.dumps(unsealed(value), sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is no number of JSON")


def _whole(digits: str) -> int:
    if len(digits) > DIGITS:
        raise ValueError(f"a whole number of {len(digits):,} digits")
    return int(digits)


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"key {next(n for n in names if names.count(n) > 1)!r} is there twice")
    return found
