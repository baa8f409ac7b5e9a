"""JSON files that somebody else may have written or damaged, and the checksum that tells. No torch at import."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mmzoo.io.files import read_bytes, write_bytes, write_json

#: the key of a file's own checksum
CHECKSUM = "checksum"
_SORTED = json.JSONEncoder(sort_keys=True, separators=(",", ":"), allow_nan=False)
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
    return _parsed(_text(path), **_STRICT)


def read_sealed(path: Path) -> tuple[Any, str | None]:
    """Read a file that `write_sealed` may have written, and what `checksum_fault` says of it. Raises what `read_json` raises."""
    text = _text(path)
    if _is_as_written(text):
        return _parsed(text), None
    value = _parsed(text, **_STRICT)
    return value, checksum_fault(value) if isinstance(value, dict) else None


def _text(path: Path) -> str:
    try:
        return read_bytes(path).decode("utf-8")
    except UnicodeDecodeError as error:
        raise NotJson(f"not UTF-8 text (byte {error.start})") from None


def _parsed(text: str, **strict: Any) -> Any:
    try:
        return json.loads(text, parse_constant=_refuse_constant, **strict)
    except json.JSONDecodeError as error:
        raise NotJson(f"not JSON ({error.msg}, line {error.lineno})") from None
    except (ValueError, RecursionError) as error:
        raise NotJson(f"not JSON ({error})") from None


def _is_as_written(text: str) -> bool:
    """Whether a text is that of `write_sealed` to the letter, spaces between its parts aside.

    Then its checksum is that of the text without these spaces, and each key is there once: no number is made into text again, which
    takes most of the time of a check. A text that holds '": ' inside a string is left to `checksum_fault`.
    """
    before, _, rest = text.partition(f'\n "{CHECKSUM}": "')
    given, _, after = rest.partition('",')
    plain = "".join(map(str.strip, (before + after).split("\n"))).replace('": ', '":')
    return hashlib.sha256(plain.encode()).hexdigest() == given


def write_sealed(path: Path, value: Mapping[str, Any]) -> None:
    """Write an object with its checksum, see `checksum_fault`."""
    plain = json.loads(json.dumps(value, allow_nan=False))
    write_json(path, {**plain, CHECKSUM: checksum(plain)})


def write_line(path: Path, plain: Mapping[str, Any]) -> None:
    """The same in one line, in a fifth of the time and not to outlive a power cut, of plain data with texts for keys."""
    text = _SORTED.encode(plain)
    digest = hashlib.sha256(text.encode()).hexdigest()
    write_bytes(path, f'{{"{CHECKSUM}":"{digest}"{"," if plain else ""}{text[1:]}\n'.encode(), sync=False)


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
    return hashlib.sha256(_SORTED.encode(unsealed(value)).encode()).hexdigest()


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


#: how `json.loads` reads what anybody may have written
_STRICT: Mapping[str, Any] = {"parse_int": _whole, "object_pairs_hook": _unique}
