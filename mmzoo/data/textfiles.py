"""Reading annotation files as they are found: byte-order marks, Windows line ends, bytes that are no UTF-8. No torch, no numpy."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from pathlib import Path

from mmzoo.errors import BadValue

#: bytes of the largest annotation file that is read
LARGEST = 1 << 28


def lines_of(path: Path) -> list[str]:
    """The lines of a text file without their ends; a last empty one is no line. Bytes that are no UTF-8 become U+FFFD.

    Only line feeds end a line: a tweet may hold any other separator. Raises BadValue naming the file.
    """
    try:
        if not path.is_file():
            raise BadValue(f"{path} is no file.")
        if path.stat().st_size > LARGEST:
            raise BadValue(f"{path} is larger than {LARGEST >> 20} MiB, too large for an annotation file.")
        text = path.read_bytes().decode("utf-8-sig", errors="replace")
    except (OSError, ValueError) as error:  # ValueError: a NUL in the name
        raise BadValue(f"cannot read {path}: {getattr(error, 'strerror', None) or error}.") from None
    if text.startswith("version https://git-lfs"):
        raise BadValue(f"{path} is a Git LFS pointer, not the file: run git lfs pull in its repository.")
    lines = [line.removesuffix("\r") for line in text.split("\n")]
    return lines[:-1] if lines[-1] == "" else lines


def folder(root: Path) -> Path:
    """`root`, which must be a folder. Raises BadValue."""
    if not root.is_dir():
        raise BadValue(f"there is no folder {root}. Give the folder of the published files with --root.")
    return root


def first_file(folders: Iterable[Path | None], names: Sequence[str]) -> Path | None:
    """The first of `names` that is a file in the first of the folders that has one; folders that are None are passed over."""
    for where in folders:
        for name in names:
            if where is not None and (where / name).is_file():
                return where / name
    return None


def names_in(where: Path) -> set[str]:
    """The names of what lies in a folder; none where there is no such folder."""
    try:
        return set(os.listdir(where))
    except OSError:
        return set()


def shortened(text: str, most: int = 60) -> str:
    """A piece of a faulty line, for a message."""
    return repr(text if len(text) <= most else text[:most] + "...")
