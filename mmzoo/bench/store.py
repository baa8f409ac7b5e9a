"""The folder of results: each run has one of its own, and that is the truth. No torch at import."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mmzoo.errors import BadValue, CorruptFile
from mmzoo.files import write_bytes, write_json

SCHEMA = 1
#: ok: scored. diverged, refused: final as well, with a reason. failed: run again by the next bench.
STATUSES = ("ok", "diverged", "refused", "failed")
FINAL = ("ok", "diverged", "refused")
_ROW_KEYS = {"schema": int, "run_id": str, "config_id": str, "dataset": str, "method": str, "label": str, "seed": int,
             "status": str, "metrics": dict, "spec": dict, "timing": dict, "environment": dict}  # fmt: skip


class Store:
    """`ROOT/runs/<run_id>/` holds result.json (the row), history.jsonl, predictions.npz and log.txt of a run."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def prepare(self) -> None:
        """Make the folder and see that it can be written. Raises BadValue with the next step."""
        try:
            (self.root / "runs").mkdir(parents=True, exist_ok=True)
            probe = self.root / "runs" / f".writable-{os.getpid()}"
            write_bytes(probe, b"")
            probe.unlink()
        except OSError as error:
            raise BadValue(
                f"cannot write results to {self.root}: {error.strerror or error}. "
                "Choose a folder that you may write to with --out DIR."
            ) from None

    def folder(self, run_id: str) -> Path:
        return self.root / "runs" / run_id

    def row(self, run_id: str) -> dict[str, Any] | None:
        """The row of a run, None when there is none yet. Raises CorruptFile naming the file and the next step."""
        path = self.folder(run_id) / "result.json"
        try:
            text = path.read_text(encoding="utf-8")
        except FileNotFoundError:
            return None
        except (OSError, UnicodeDecodeError) as error:
            raise _corrupt(path, str(error)) from None
        try:
            row = json.loads(text)
        except json.JSONDecodeError as error:
            raise _corrupt(path, f"not JSON ({error.msg}, line {error.lineno})") from None
        if fault := _fault(row, run_id):
            raise _corrupt(path, fault)
        return row

    def rows(self) -> tuple[list[dict[str, Any]], list[CorruptFile]]:
        """All rows by run_id, and an error for each that cannot be read."""
        rows, errors = [], []
        folder = self.root / "runs"
        for name in sorted(p.name for p in folder.iterdir() if p.is_dir()) if folder.is_dir() else []:
            try:
                row = self.row(name)
            except CorruptFile as error:
                errors.append(error)
                continue
            if row is not None:
                rows.append(row)
        return rows, errors

    def write(self, row: Mapping[str, Any]) -> None:
        write_json(self.folder(row["run_id"]) / "result.json", row)

    def note_bench(self, methods: Mapping[str, str], refused: list[dict[str, str]]) -> None:
        """Keep the order and roles of the methods of the latest bench, for the report."""
        write_json(self.root / "bench.json", {"schema": SCHEMA, "methods": list(methods.items()), "refused": refused})

    def bench(self) -> dict[str, Any]:
        """What `note_bench` kept; empty when there is nothing or it cannot be read (the rows are the truth)."""
        try:
            data = json.loads((self.root / "bench.json").read_text(encoding="utf-8"))
            pairs = {str(label): str(role) for label, role in data["methods"]}
            refused = [{k: str(r[k]) for k in ("dataset", "method", "role", "reason")} for r in data["refused"]]
            return {"methods": pairs, "refused": refused}
        except (OSError, ValueError, KeyError, TypeError):
            return {"methods": {}, "refused": []}


def _fault(row: Any, run_id: str) -> str | None:
    if not isinstance(row, dict):
        return "not a JSON object"
    for key, kind in _ROW_KEYS.items():
        if not isinstance(row.get(key), kind) or isinstance(row.get(key), bool):
            return f"{key} is missing or not of type {kind.__name__}"
    if row["schema"] != SCHEMA:
        return f"schema {row['schema']}, while this version reads {SCHEMA}"
    if row["run_id"] != run_id:
        return f"it says run_id {row['run_id']}, but lies in the folder of {run_id}"
    if row["status"] not in STATUSES:
        return f"status {row['status']!r} is none of {', '.join(STATUSES)}"
    if row["status"] == "ok" and not isinstance(row["metrics"].get("acc"), (int, float)):
        return "metrics.acc is missing"
    return None


def _corrupt(path: Path, why: str) -> CorruptFile:
    return CorruptFile(
        f"the row {path} cannot be used: {why}. All other rows are as they were. "
        f"Move the folder {path.parent.name} away and run the same bench again: it repeats that run only."
    )
