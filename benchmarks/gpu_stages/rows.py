"""The rows of a run: appended one by one, so that one that is cut keeps what it has; and the page made of them. No torch."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mmzoo.io.files import write_bytes

Row = dict[str, Any]
#: keys that the page says once, or not at all
HIDDEN = ("stage", "hardware")


@dataclass(frozen=True)
class At:
    """What a stage works with. device: "cuda:0" or "cpu". until: the time (monotonic) at which the stage should be over.
    add: takes a row, which is then on the disk."""

    device: str
    small: bool
    until: float
    scratch: Path
    add: Callable[[Row], None]

    def left(self) -> float:
        """The seconds that the stage still has."""
        return self.until - time.monotonic()

    @property
    def cuda(self) -> bool:
        return self.device.startswith("cuda")

    def tried(self, seconds: float, row: Row, measure: Callable[[], Row]) -> Row:
        """Add the row with what `measure` gives. One that fails is a row that says so; so is one that is not begun, since it takes
        about so many `seconds` and fewer are left."""
        if self.left() < seconds:
            found: Row = {"status": "not reached", "why": "the time of the stage was over"}
        else:
            try:
                found = {"status": "ok", **measure()}
            except Exception as error:
                found = {"status": "failed", "why": told(error)}
        self.add({**row, **found})
        return found


def told(error: BaseException) -> str:
    """What an error says, in one line."""
    lines = str(error).strip().splitlines() or [""]
    return f"{type(error).__name__}: {lines[0]}"[:300]


def append(path: Path, row: Row) -> None:
    """Add a row to a file, and see it on the disk."""
    with path.open("ab") as file:
        file.write(json.dumps(row).encode() + b"\n")
        file.flush()
        os.fsync(file.fileno())


def read(path: Path) -> list[Row]:
    """The rows of a file; a last line that a cut run left torn is none."""
    if not path.exists():
        return []
    found = []
    for line in path.read_text().splitlines():
        try:
            found.append(json.loads(line))
        except ValueError:
            continue
    return found


def keep(path: Path, rows: Iterable[Row]) -> None:
    """Leave these rows alone in a file."""
    write_bytes(path, "".join(json.dumps(row) + "\n" for row in rows).encode())


# ---------------------------------------------------------------------- the page
def page(rows: Sequence[Row], titles: dict[str, str], about: str) -> str:
    """All stages as tables of Markdown."""
    parts = [f"# Rows of `benchmarks/gpu.py`\n\n{about}\n"]
    for stage, title in titles.items():
        if found := [r for r in rows if r["stage"] == stage]:
            parts.append(f"## {stage}: {title}\n\n{tables(found)}\n")
    return "\n".join(parts)


def tables(rows: Sequence[Row]) -> str:
    """One table for each kind of row, in the order in which they came."""
    kinds: dict[str, list[Row]] = {}
    for row in rows:
        kinds.setdefault(row.get("kind", ""), []).append(row)
    return "\n\n".join(_table(found) for found in kinds.values())


def _table(rows: Sequence[Row]) -> str:
    keys = [k for k in dict.fromkeys(k for row in rows for k in row) if k not in (*HIDDEN, "kind")]
    lines = [keys, ["---"] * len(keys), *[[_shown(row.get(k)) for k in keys] for row in rows]]
    kind = rows[0].get("kind", "")
    return (f"{kind}:\n\n" if kind else "") + "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _shown(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, float):
        value = f"{value:.4g}"
    return str(value).replace("|", "\\|")
