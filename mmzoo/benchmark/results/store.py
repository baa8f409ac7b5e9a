"""The folder of results: each run has one of its own, and that is the truth. No torch at import."""

from __future__ import annotations

import contextlib
import datetime
import json
import math
import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

from mmzoo import __version__
from mmzoo.config.spec import digest
from mmzoo.errors import BadValue, CorruptFile, MmzooError
from mmzoo.io.files import write_bytes, write_json

SCHEMA = 1
#: ok: scored. diverged, refused: final as well, with a reason; what one version of mmzoo has refused another may take, and is
#: asked again. failed: run again by the next bench.
STATUSES = ("ok", "diverged", "refused", "failed")
FINAL = ("ok", "diverged", "refused")
WEIGHTS = "weights.safetensors"
STRATEGY_STATE = "strategy.pt"
#: how modalities are taken away, as keys of a row; see mmzoo.evaluation.scores
ABLATIONS = ("zero_feature", "zero_input", "mean_feature")
_SCORES = {"acc": float, "macro_f1": float, "map": float, "loss": float}
#: the form of what is read back; float stands for any finite number
_ROW = {
    "schema": int,
    "run_id": str,
    "config_id": str,
    "dataset": str,
    "method": str,
    "label": str,
    "seed": int,
    "status": str,
    "reason": str,
    "metrics": dict,
    "cost": dict,
    "timing": {"seconds": float},
    "environment": dict,
    "spec": {
        "parts": list,
        "head": str,
        "head_params": dict,
        "data_params": dict,
        "encoders": dict,
        "training": {"optimizer": str, "lr": float, "epochs": int},
    },
}
_SCORED = {
    "metrics": {
        **_SCORES,
        "last": _SCORES,
        "main_metric": str,
        "modalities": dict,
        "own_logits": str,
        "gap": {"own": float, "probe": float},
        "n_scored": int,
    },
    "cost": {"forward": float, "backward": float, "train_items": float},
    "hashes": dict,
}
_FLOOR = {
    "metrics": {**_SCORES, "holdout": _SCORES, "main_metric": str, "n_scored": int},
    "cost": {"train_items": float},
    "floor": {"strength": float, "width": int, "features": dict},
}
_PLANNED = {"spec": dict, "dataset": str, "method": str, "role": str, "teachers": list, "track": list}
_ID = re.compile(r"[0-9A-Za-z][0-9A-Za-z_-]{0,127}")
#: in place of a peak of memory: a run of this kind ran out of it beside others
ALONE: Literal["alone"] = "alone"
_RECORD = {"label": str, "dataset": str, "space": dict, "seed": int, "trials": list}
_TUNED = {"trials": int, "seconds": float, "forward": float, "backward": float, "chosen": dict}
_PART = {"strategy": str, "params": dict}
#: what rows of earlier versions lack: by ablation, and by parameter group
_ABLATED, _SHARE = {**_SCORES, "word": str}, {"value": float, "word": str}
_COALITIONS = {"none": float, "all": float, "imbalance": float, "word": str}
_WORDED = {"word": str}
_SIZE = {"parameters": int, "flops": int}


class Store:
    """`ROOT/runs/<run_id>/` holds planned.json (what is to be run), result.json (the row), history.jsonl,
    predictions.npz and log.txt of a run, and weights.safetensors (and strategy.pt, where the strategy remembers
    anything) where they are kept; until there is a row, also who is at it (claim.N, see mmzoo.benchmark.results.leases) and
    checkpoint.pt."""

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
        """The folder of a run. Raises BadValue for an id that would lead elsewhere."""
        if not _ID.fullmatch(run_id):
            raise BadValue(f"{run_id!r} is not the id of a run: those are letters and digits.")
        return self.root / "runs" / run_id

    def run_ids(self) -> list[str]:
        """The ids of all runs that have a folder, in order. Raises BadValue where the store is a file."""
        folder = self.root / "runs"
        if self.root.exists() and not self.root.is_dir():
            raise BadValue(f"{self.root} is a file, not a folder of results. Name what was given to bench as --out.")
        found = [p.name for p in folder.iterdir() if _ID.fullmatch(p.name) and p.is_dir()] if folder.is_dir() else []
        return sorted(found)

    def note_planned(self, run_id: str, planned: Mapping[str, Any]) -> None:
        """Keep what a run is, before it is run; what another bench wants kept is kept."""
        try:
            before = self.planned(run_id)
        except MmzooError:
            before = {}
        planned = {**planned, **{k: planned[k] or before.get(k, False) for k in ("keep", "peers")}}
        if planned != before:
            with self.guard():
                write_json(self.folder(run_id) / "planned.json", planned)

    def planned(self, run_id: str) -> dict[str, Any]:
        """What `note_planned` kept. Raises CorruptFile unless it is there and is of this very run."""
        path = self.folder(run_id) / "planned.json"
        try:
            found = json.loads(path.read_text(encoding="utf-8"), parse_constant=_refuse_constant)
        except (OSError, ValueError, RecursionError) as error:
            raise self.unusable(run_id, str(getattr(error, "strerror", None) or error)) from None
        fault = _misfit(found, _PLANNED, "")
        if fault is None and not (
            isinstance(found.get("modality", 0), (str, type(None)))
            and isinstance(found.get("keep"), bool)
            and isinstance(found.get("peers"), bool)
            and all(isinstance(t, str) for t in found["track"])
        ):
            fault = "modality, keep, peers or track has a wrong type"
        if fault is None and not all(isinstance(t, str) and _ID.fullmatch(t) for t in found["teachers"]):
            fault = "teachers are not ids of runs"
        if fault is None and digest(found["spec"]) != run_id:
            fault = "it is of another run"
        if fault:
            raise self.unusable(run_id, fault)
        return found

    def unusable(self, run_id: str, why: str) -> CorruptFile:
        """The error for a planned.json that cannot be used."""
        return CorruptFile(
            f"{self.folder(run_id) / 'planned.json'} cannot be used: {why}. Run the same bench again: it is written anew."
        )

    def log(self, run_id: str, text: str) -> None:
        """Add to the log of a run, every line with the time. A log that cannot be written stops nothing."""
        stamp = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
        lines = "".join(f"{stamp} {line}\n" for line in text.rstrip("\n").split("\n"))
        with contextlib.suppress(OSError):
            self.folder(run_id).mkdir(parents=True, exist_ok=True)
            with (self.folder(run_id) / "log.txt").open("a", encoding="utf-8", errors="backslashreplace") as file:
                file.write(lines)

    def row(self, run_id: str) -> dict[str, Any] | None:
        """The row of a run, None when there is none yet. Raises CorruptFile naming the file and the next step."""
        path = self.folder(run_id) / "result.json"
        try:
            text = path.read_text(encoding="utf-8")
        except FileNotFoundError:
            return None
        except NotADirectoryError:
            raise BadValue(
                f"{self.root} is not a folder of results: {self._obstacle()} is a file. Name another folder."
            ) from None
        except OSError as error:
            raise _corrupt(path, error.strerror or str(error)) from None
        except UnicodeDecodeError as error:
            raise _corrupt(path, f"not UTF-8 text (byte {error.start})") from None
        try:
            row = json.loads(text, parse_constant=_refuse_constant)
        except json.JSONDecodeError as error:
            raise _corrupt(path, f"not JSON ({error.msg}, line {error.lineno})") from None
        except (ValueError, RecursionError) as error:
            raise _corrupt(path, f"not JSON ({error})") from None
        if fault := _fault(row, run_id):
            raise _corrupt(path, fault)
        return row

    def finished(self, run_id: str, *, weights: bool = False, peers: bool = False) -> dict[str, Any] | None:
        """The row of a run that need not be run again, else None. weights: a scored one must have left its weights too;
        peers: and hold the scores of the peers' protocol."""
        row = self.row(run_id)
        if row is None or row["status"] not in FINAL:
            return None
        if row["status"] == "refused" and row["environment"].get("mmzoo") != __version__:
            return None
        if row["status"] != "ok":
            return row
        there = not weights or (self.folder(run_id) / WEIGHTS).is_file()
        return row if there and (not peers or "peers" in row["metrics"]) else None

    def stamp(self, run_id: str) -> int | None:
        """What changes whenever a row is written anew; None where there is none. Costs no reading."""
        try:
            return (self.folder(run_id) / "result.json").stat().st_mtime_ns
        except OSError:
            return None

    def rows(self) -> tuple[list[dict[str, Any]], list[CorruptFile]]:
        """All rows by run_id, and an error for each that cannot be read."""
        rows, errors = [], []
        for name in self.run_ids():
            try:
                row = self.row(name)
            except CorruptFile as error:
                errors.append(error)
                continue
            if row is not None:
                rows.append(row)
        return rows, errors

    def write(self, row: Mapping[str, Any]) -> None:
        """Keep the row of a run. Raises MmzooError with the next step when the disk does not take it."""
        with self.guard():
            write_json(self.folder(row["run_id"]) / "result.json", row)

    def write_file(self, run_id: str, name: str, data: bytes) -> None:
        """Keep another file of a run; raises like `write`."""
        with self.guard():
            write_bytes(self.folder(run_id) / name, data)

    @contextlib.contextmanager
    def guard(self) -> Iterator[None]:
        """Turn what the disk does not take into a MmzooError with the next step."""
        try:
            yield
        except OSError as error:
            place = self.root if error.filename is None else Path(error.filename).parent
            raise MmzooError(
                f"cannot write to {place}: {error.strerror or error}. All finished rows are kept; when the "
                "folder can be written to again, the same command does the rest."
            ) from error

    # ------------------------------------------------------------------ memory
    def micro_batch(self, data: str) -> int | None:
        """The micro-batch that memory leaves for a data set in this store; None where all has fitted so far."""
        try:
            size = json.loads((self.root / "memory" / f"{data}.json").read_text(encoding="utf-8"))["micro_batch"]
        except (OSError, ValueError, KeyError, TypeError, RecursionError):
            return None
        return size if isinstance(size, int) and size > 0 else None

    def note_micro_batch(self, data: str, size: int, facts: Mapping[str, Any]) -> None:
        """Keep a smaller one for all runs of the data set from now on."""
        if size < (self.micro_batch(data) or math.inf):
            with self.guard():
                write_json(self.root / "memory" / f"{data}.json", {**facts, "micro_batch": size})

    def peak(self, kind: str, card: str) -> int | Literal["alone"] | None:
        """The bytes that a run of a kind (its config_id) takes on a card at most; ALONE where it did not fit beside others,
        None where none has run there yet."""
        try:
            found = json.loads((self.root / "memory" / f"peak.{kind}.json").read_text(encoding="utf-8"))
            peak = found["peak"] if found["card"] == card else None
        except (OSError, ValueError, KeyError, TypeError, RecursionError):
            return None
        return peak if peak == ALONE or (isinstance(peak, int) and peak >= 0) else None

    def note_peak(self, kind: str, card: str, peak: int | Literal["alone"]) -> None:
        """Keep it for later runs of the kind."""
        with self.guard():
            write_json(self.root / "memory" / f"peak.{kind}.json", {"card": card, "peak": peak})

    def _obstacle(self) -> Path:
        """The file that stands where a folder should be."""
        return next(p for p in (*reversed(self.root.parents), self.root, self.root / "runs") if p.is_file())

    def tuning(self, study: str) -> dict[str, Any]:
        """The record of a study. Raises CorruptFile where it is not there or not one."""
        path = self.root / "tuning" / study / "record.json"
        try:
            record = json.loads(path.read_text(encoding="utf-8"), parse_constant=_refuse_constant)
            fault = _misfit(record, _RECORD, "")
        except (OSError, ValueError, RecursionError) as error:
            fault = str(error)
        if fault:
            raise CorruptFile(
                f"the record of tuning {path} cannot be used: {fault}. Move the folder {path.parent} away and run the same "
                "command again: it repeats that study only."
            )
        return record

    def note_tuning(self, study: str, record: Mapping[str, Any]) -> None:
        """Keep the record of a study; raises like `write`."""
        with self.guard():
            write_json(self.root / "tuning" / study / "record.json", record)

    def note_bench(self, methods: Mapping[str, str], refused: list[dict[str, str]]) -> None:
        """Keep the order and roles of the methods for the report: those of this bench, then those of earlier ones."""
        before = self.bench()
        merged = {**methods, **{label: role for label, role in before["methods"].items() if label not in methods}}
        told = {(r["dataset"], r["method"]) for r in refused}
        kept = [r for r in before["refused"] if (r["dataset"], r["method"]) not in told and r["method"] not in methods]
        value = {"schema": SCHEMA, "methods": list(merged.items()), "refused": [*refused, *kept]}
        with self.guard():
            write_json(self.root / "bench.json", value)

    def bench(self) -> dict[str, Any]:
        """What `note_bench` kept; empty when there is nothing or it cannot be read (the rows are the truth)."""
        try:
            data = json.loads((self.root / "bench.json").read_text(encoding="utf-8"))
            pairs = {str(label): str(role) for label, role in data["methods"]}
            refused = [{k: str(r[k]) for k in ("dataset", "method", "role", "reason")} for r in data["refused"]]
            return {"methods": pairs, "refused": refused}
        except (OSError, ValueError, KeyError, TypeError, RecursionError):
            return {"methods": {}, "refused": []}


def _fault(row: Any, run_id: str) -> str | None:
    if not isinstance(row, dict):
        return "not a JSON object"
    if "schema" in row and row["schema"] != SCHEMA:
        return f"schema {row['schema']!r}, while this version reads {SCHEMA}"
    if fault := _misfit(row, _ROW, ""):
        return fault
    if row["run_id"] != run_id:
        return f"it says run_id {row['run_id']!r}, but lies in the folder of {run_id}"
    if row["status"] not in STATUSES:
        return f"status {row['status']!r} is none of {', '.join(STATUSES)}"
    if not isinstance(row.get("modality", 0), (str, type(None))):
        return f"modality must be a text or null, not {row.get('modality', 'missing')!r}"
    if not isinstance(row["spec"].get("modalities", 0), (list, type(None))):
        return f"spec.modalities must be a list or null, not {row['spec'].get('modalities', 'missing')!r}"
    if "tuning" in row and (fault := _misfit(row["tuning"], _TUNED, "tuning.")):
        return fault
    if not isinstance(row.get("processes", 1), int) or not _texts(row.get("per_process", [])):
        return "processes must be a whole number, and per_process a list of texts"
    if row.get("per_process") and "processes" not in row:
        return "per_process is there without processes"
    if not isinstance(row.get("warnings", {}), dict):
        return f"warnings must be a mapping, not {row['warnings']!r}"
    for part in row["spec"]["parts"]:
        if fault := _misfit(part, _PART, "spec.parts."):
            return fault
    if not isinstance(row["spec"].get("floor", {}), dict):
        return "spec.floor is not an object"
    if row["status"] != "ok":
        return None
    return _floor_fault(row) if row["spec"].get("floor") else _scores_fault(row)


def _floor_fault(row: Mapping[str, Any]) -> str | None:
    """What is wrong with the numbers of a linear floor."""
    if fault := _misfit(row, _FLOOR, ""):
        return fault
    features = row["floor"]["features"]
    if not _texts(list(features.values())):
        return "floor.features does not map modalities to texts"
    main = row["metrics"]["main_metric"]
    return None if main in _SCORES else f"metrics.main_metric {main!r} is none of {', '.join(_SCORES)}"


def _texts(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(v, str) for v in value)


def _scores_fault(row: Mapping[str, Any]) -> str | None:
    """What is wrong with the numbers of a run that was scored."""
    if fault := _misfit(row, _SCORED, ""):
        return fault
    metrics = row["metrics"]
    if metrics["main_metric"] not in _SCORES:
        return f"metrics.main_metric {metrics['main_metric']!r} is none of {', '.join(_SCORES)}"
    if not 1 <= metrics["n_scored"] == metrics.get("n_total", metrics["n_scored"]):
        return f"metrics.n_scored is {metrics['n_scored']} of {metrics.get('n_total', '?')} test items"
    forms: list[tuple[Any, Mapping[str, Any], str]] = []
    for m, scores in metrics["modalities"].items():
        where = f"metrics.modalities.{m}."
        forms.append((scores, {"own": _SCORES, "probe": _SCORES}, where))
        forms += _measures(scores, where) if isinstance(scores, dict) else []
    if "peers" in metrics:
        forms.append((metrics["peers"], {**_SCORES, "selected_epoch": int, "flatters": float}, "metrics.peers."))
    forms.append(_all_of(metrics, "shapley", _COALITIONS, "metrics."))
    forms.append(_all_of(metrics, "undefined", str, "metrics."))
    forms.append(_all_of(row["cost"], "groups", _SIZE, "cost."))
    return next((fault for form in forms if (fault := _misfit(*form))), None)


def _measures(scores: Mapping[str, Any], where: str) -> list[tuple[Any, Mapping[str, Any], str]]:
    """Values, form and place of what a row of this version says of one modality, as far as it is there."""
    found = {key: scores[key] for key in ABLATIONS if key in scores}
    worded = {k: v for k, v in scores.items() if k in ("own", "probe") and isinstance(v, dict) and "word" in v}
    return [
        (found, dict.fromkeys(found, _ABLATED), where),
        (worded, dict.fromkeys(worded, _WORDED), where),
        _all_of(scores, "shapley", _SHARE, where),
        _all_of(scores, "utilisation", _SHARE, where),
    ]


def _all_of(inside: Mapping[str, Any], key: str, form: Any, where: str) -> tuple[Any, Mapping[str, Any], str]:
    """Values, form and place of a mapping whose values all have one form; of none where it is missing."""
    values = inside.get(key, {})
    return values, dict.fromkeys(values, form) if isinstance(values, dict) else {}, f"{where}{key}."


def _misfit(value: Any, form: Mapping[str, Any], where: str) -> str | None:
    """The first key of a mapping that is missing or has another type than the form says."""
    if not isinstance(value, dict):
        return f"{where.rstrip('.')} is not an object"
    for key, kind in form.items():
        inner = value.get(key)
        if isinstance(kind, dict):
            if fault := _misfit(inner, kind, f"{where}{key}."):
                return fault
            continue
        types = (int, float) if kind is float else kind
        if not isinstance(inner, types) or isinstance(inner, bool):
            return f"{where}{key} is missing" if key not in value else f"{where}{key} is not {_NAMES[kind]}"
        if kind is float and not abs(inner) < math.inf:
            return f"{where}{key} is not a finite number"
    return None


_NAMES = {int: "a whole number", float: "a number", str: "a text", dict: "an object", list: "a list"}


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is no number of JSON")


def _corrupt(path: Path, why: str) -> CorruptFile:
    return CorruptFile(
        f"the row {path} cannot be used: {why}. All other rows are as they were. "
        f"Move the folder {path.parent.name} away and run the same bench again: it repeats that run only."
    )
