"""Reading annotation files as they are found: byte-order marks, Windows line ends, bytes that are no UTF-8. No torch, no numpy."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from mmzoo.data.sources.source import Fault, Item, Listing
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


def rows_of(path: Path, *, header: bool = False) -> Iterator[tuple[str, str]]:
    """Place (`name:line`) and text of each line that is not blank. header: the first line is no row. Raises as `lines_of`."""
    for n, line in enumerate(lines_of(path), 1):
        if line.strip() and not (header and n == 1):
            yield f"{path.name}:{n}", line


@dataclass
class Reading:
    """What the annotation files of a data set have given so far: items, what is wrong, and the files that were read."""

    items: list[Item] = field(default_factory=list)
    faults: list[Fault] = field(default_factory=list)
    sources: list[Path] = field(default_factory=list)

    def annotation(self, message: str, where: str) -> None:
        """Note a line that gives no item."""
        self.faults.append(Fault("annotation", message, where=where))

    def listing(self, classes: Sequence[str], words: str) -> Listing:
        """All of it. words: where the split comes from. Raises BadValue where no line gave an item."""
        if not self.items:
            raise BadValue(f"no row of {', '.join(map(str, self.sources))} can be used.")
        return Listing(self.items, tuple(classes), tuple(self.faults), words, tuple(self.sources))


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
