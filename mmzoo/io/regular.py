"""Reading files that a user names: kind and size are looked at before anything is read. No torch at import."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from mmzoo.errors import BadValue

_KINDS = {
    stat.S_IFDIR: "a folder",
    stat.S_IFIFO: "a pipe",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
    stat.S_IFSOCK: "a socket",
}
#: bytes that are asked for at once of a file that holds more than it says
_BLOCK = 1 << 20


def kind_fault(path: Path) -> str | None:
    """In words, what a path is if it is no plain file. Raises OSError where it cannot be looked at."""
    mode = os.stat(path).st_mode
    return None if stat.S_ISREG(mode) else _KINDS.get(stat.S_IFMT(mode), "no plain file")


def check_regular(path: Path, noun: str) -> None:
    """Raise BadValue unless a path is a plain file; the message says what it is instead.

    Args:
        noun: What the file should be: "table".
    """
    try:
        kind = kind_fault(path)
    except (OSError, ValueError):  # not there, or not to be looked at; ValueError: a NUL in the name
        raise BadValue(f"there is no {noun} {path}.") from None
    if kind is not None:
        raise BadValue(f"{path} is {kind}, not a {noun}.")


def read_regular(path: Path, what: str, largest: int) -> bytes:
    """The content of a plain file of at most `largest` bytes.

    Args:
        what: What the file is to the user, for messages: "the table".

    Raises:
        BadValue: It is not there, a device, a pipe or a folder, or larger; the message names it and the limit.
    """
    too_large = BadValue(f"{what} {path} is larger than {largest >> 20:,} MiB, which is more than is read.")
    try:
        if (kind := kind_fault(path)) is not None:
            raise BadValue(f"{what} {path} is {kind}, not a plain file.")
        if (size := path.stat().st_size) > largest:
            raise too_large
        with path.open("rb") as file:
            data = file.read(size + 1)  # read(n) takes n bytes of memory beforehand
            while size < len(data) <= largest and (block := file.read(_BLOCK)):
                data += block  # the size of some plain files, as below /proc, is not what they hold
    except (OSError, ValueError) as error:  # ValueError: a NUL in the name
        raise BadValue(f"cannot read {what} {path}: {getattr(error, 'strerror', None) or error}.") from None
    if len(data) > largest:
        raise too_large
    return data
