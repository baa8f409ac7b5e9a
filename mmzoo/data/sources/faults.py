"""What becomes of items that something is wrong with, and the report of them. No torch, no numpy."""

from __future__ import annotations

import io
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from mmzoo.data.sources.source import FAULTS, Fault, File, Files, Item
from mmzoo.errors import BadValue, unknown
from mmzoo.io.csv_file import write_rows
from mmzoo.io.files import write_bytes

#: keep: as it is; drop: leave the item out; blank: zeros in place of the content; absent: the modality counts as missing;
#: error: no store
ACTIONS = ("keep", "drop", "blank", "absent", "error")
#: kinds that leave something to be stored, and what is done with each unless a user says otherwise
KEEPABLE = ("duplicate", "mislabelled", "silent", "short", "range", "untrained")
DEFAULTS: Mapping[str, str] = {kind: "keep" if kind in ("duplicate", "mislabelled") else "error" for kind in FAULTS}
_POINTER = b"version https://git-lfs"


def policy_of(texts: Iterable[str]) -> dict[str, str]:
    """`drop` or `missing=drop,silent=keep` -> an action for every kind. A bare action is for all kinds that would else be an
    error. Raises UnknownName or BadValue."""
    policy = dict(DEFAULTS)
    pieces = [p.strip() for text in texts for p in text.split(",") if p.strip()]
    for piece in sorted(pieces, key=lambda p: "=" in p):
        kind, equals, action = piece.rpartition("=")
        if action not in ACTIONS:
            raise unknown("--on-bad action", action, ACTIONS)
        if equals and kind not in FAULTS:
            raise unknown("kind of fault", kind, FAULTS)
        kinds = [kind] if equals else [k for k, usual in DEFAULTS.items() if usual == "error"]
        if action == "keep" and (bad := [k for k in kinds if k not in KEEPABLE]):
            raise BadValue(
                f"--on-bad {piece}: nothing of a {bad[0]!r} sample can be kept; keep is for "
                f"{', '.join(KEEPABLE)}. Choose drop, blank or absent."
            )
        policy |= dict.fromkeys(kinds, action)
    return policy


def scan(items: Sequence[Item]) -> list[Fault]:
    """What is wrong with the items' files as far as the folder tells: missing, empty, not pulled. Nothing is decoded."""
    known: dict[Path, tuple[str, str] | None] = {}
    found = []
    for item in items:
        for modality, media in item.media.items():
            for path in paths_of(media):
                if path not in known:
                    known[path] = _file_fault(path)
                if (fault := known[path]) is not None:
                    found.append(Fault(*fault, item.id, modality, item.where))
                    break
    return found


def paths_of(media: object) -> tuple[Path, ...]:
    return (media.path,) if isinstance(media, File) else media.paths if isinstance(media, Files) else ()


def _file_fault(path: Path) -> tuple[str, str] | None:
    try:
        if not path.is_file():
            return ("missing", f"there is no file {path}" if not path.exists() else f"{path} is no file")
        size = path.stat().st_size
        if size == 0:
            return ("empty", f"{path} has no content")
        if size < 1024:
            with path.open("rb") as file:
                if file.read(len(_POINTER)) == _POINTER:
                    return ("lfs_pointer", f"{path} is a Git LFS pointer: run git lfs pull in its repository")
    except (OSError, ValueError) as error:  # ValueError: a NUL in the name
        why = getattr(error, "strerror", None) or str(error)
        return ("missing", f"{path} cannot be read: {why}")
    return None


def write_report(path: Path, faults: Sequence[tuple[Fault, str]]) -> None:
    """One line a fault, with what became of it."""
    text = io.StringIO()
    write_rows(text, [("item", "modality", "kind", "action", "message", "where")])
    write_rows(text, ((f.item or "", f.modality or "", f.kind, action, f.message, f.where) for f, action in faults))
    write_bytes(path, text.getvalue().encode("utf-8", "surrogateescape"))


def summary(faults: Sequence[tuple[Fault, str]], *, examples: int = 3) -> list[str]:
    """A line for each kind and action, with how many and the first few."""
    lines = []
    for (kind, action), n in Counter((f.kind, action) for f, action in faults).most_common():
        here = [f for f, a in faults if (f.kind, a) == (kind, action)]
        named = "; ".join(told(f) for f in here[:examples])
        more = f" and {n - examples} more" if n > examples else ""
        lines.append(f"{kind} ({FAULTS[kind]}): {n}, {action}: {named}{more}")
    return lines


def told(fault: Fault) -> str:
    """One fault in a line."""
    about = " ".join(x for x in (fault.item, fault.modality) if x)
    where = f" ({fault.where})" if fault.where else ""
    return (f"{about}: " if about else "") + fault.message + where
