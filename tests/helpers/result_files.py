"""Rows and files that a bench has left, read back for a test."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any


def rows_of(folder: Path) -> dict[str, dict[str, Any]]:
    """run_id -> row, read from the files themselves."""
    rows = [json.loads(p.read_text(encoding="utf-8")) for p in sorted(folder.glob("runs/*/result.json"))]
    return {row["run_id"]: {k: v for k, v in row.items() if k != "checksum"} for row in rows}


def rows_by_label(folder: Path) -> dict[str, dict[str, Any]]:
    return {row["label"]: row for row in rows_of(folder).values()}


def lasting(row: dict[str, Any] | None) -> dict[str, Any]:
    """A row without the facts of clock and machine, and without the hashes of files that lie beside kept weights."""
    found = {k: v for k, v in (row or {}).items() if k not in ("timing", "environment", "checksum")}
    if "hashes" in found:
        found["hashes"] = {k: v for k, v in found["hashes"].items() if k not in ("strategy", "inputs")}
    return found


def rewrite(path: Path, row: dict[str, Any]) -> None:
    """Write a row as an earlier version did: without a checksum."""
    path.write_text(json.dumps({k: v for k, v in row.items() if k != "checksum"}), encoding="utf-8")


def contents(folder: Path) -> dict[str, bytes]:
    """Every file below a folder, byte for byte."""
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}
