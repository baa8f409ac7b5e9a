"""The folder of results: each run has one of its own, and that is the truth. No torch at import."""

from __future__ import annotations

import contextlib
import datetime
import math
import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from mmzoo import __version__
from mmzoo.benchmark.results.forms import FINAL, ID, SCHEMA, planned_fault, present_name, record_fault, row_fault
from mmzoo.errors import BadValue, CorruptFile, MmzooError, ResultsLost
from mmzoo.io.files import append_text, write_bytes, write_json
from mmzoo.io.json_file import NotJson, checksum_fault, read_json, read_sealed, unsealed, write_line, write_sealed

if TYPE_CHECKING:
    from mmzoo.benchmark.results.packing import Parts

Row = dict[str, Any]
#: gives the row of a run, None where there is none
Reader = Callable[[str], Row | None]
WEIGHTS = "weights.safetensors"
STRATEGY_STATE = "strategy.pt"
#: bytes that a folder of results must take before a bench begins
ROOM = 4096
#: in place of a peak of memory: a run of this kind ran out of it beside others
ALONE: Literal["alone"] = "alone"
#: what `Store.bench` gives where nothing was kept
_NO_BENCH: Mapping[str, Any] = {"methods": {}, "datasets": [], "refused": [], "command": ""}


class Store:
    """`ROOT/runs/<run_id>/` holds planned.json (what is to be run), result.json (the row), history.jsonl,
    predictions.npz and log.txt of a run, and weights.safetensors (and strategy.pt, where the strategy remembers
    anything) where they are kept; until there is a row, also who is at it (claim.N, see mmzoo.benchmark.results.leases) and
    checkpoint.pt."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._place: tuple[int, int] | None = None

    def prepare(self) -> None:
        """Make the folder and see that it can be written. Raises BadValue with the next step."""
        self.check_there()
        try:
            (self.root / "runs").mkdir(parents=True, exist_ok=True)
            probe = self.root / "runs" / f".writable-{os.getpid()}"
            write_bytes(probe, bytes(ROOM))  # a full disk still takes empty files
            probe.unlink()
            self.anchor()
        except OSError as error:
            raise BadValue(
                f"cannot write results to {self.root}: {error.strerror or error}. "
                "Choose a folder that you may write to with --out DIR."
            ) from None

    def anchor(self) -> None:
        """From now on the folder must stay the one that it is; see `check_there`. Raises ResultsLost where there is none."""
        try:
            found = (self.root / "runs").stat()
        except OSError as error:
            raise ResultsLost(f"the folder of results {self.root} is gone: {error.strerror or error}.") from None
        self._place = (found.st_dev, found.st_ino)

    def check_there(self) -> None:
        """Raise ResultsLost where the folder was moved or deleted since `anchor`: writing on would make another in its place."""
        if self._place is None:
            return
        try:
            found = (self.root / "runs").stat()
            same = (found.st_dev, found.st_ino) == self._place
        except OSError:
            same = False
        if not same:
            raise ResultsLost(
                f"the folder of results {self.root} was moved or deleted while the bench wrote to it. Rows that were finished are "
                "where it was moved to; the same command with --out there does the rest."
            )

    def folder(self, run_id: str) -> Path:
        """The folder of a run. Raises BadValue for an id that would lead elsewhere."""
        if not ID.fullmatch(run_id):
            raise BadValue(f"{run_id!r} is not the id of a run: those are letters and digits.")
        return self.root / "runs" / run_id

    def run_ids(self) -> list[str]:
        """The ids of all runs that have a folder, in order. Raises BadValue where the store is a file, or cannot be looked into."""
        folder = self.root / "runs"
        try:
            if self.root.exists() and not self.root.is_dir():
                raise BadValue(
                    f"{self.root} is a file, not a folder of results. Name what was given to bench as --out."
                )
            if not folder.is_dir():
                return []
            with os.scandir(folder) as entries:
                return sorted(e.name for e in entries if ID.fullmatch(e.name) and e.is_dir())
        except OSError as error:
            raise BadValue(
                f"cannot read the folder of results {self.root}: {error.strerror or error}. Read it as a user who may, or let "
                "yourself read it (chmod)."
            ) from None

    def note_planned(self, run_id: str, planned: Mapping[str, Any]) -> None:
        """Keep what a run is, before it is run; what another bench wants kept is kept."""
        path, before = self.folder(run_id) / "planned.json", dict[str, Any]()
        if os.path.exists(path):
            with contextlib.suppress(MmzooError):
                before = self.planned(run_id)
        planned = {**planned, **{k: planned[k] or before.get(k, False) for k in ("keep", "peers")}}
        if planned != before:
            with self.guard():
                # a bench writes it anew where a power cut took it; to wait for the disk takes minutes for 20,000 runs
                write_line(path, planned)

    def planned(self, run_id: str) -> dict[str, Any]:
        """What `note_planned` kept. Raises CorruptFile unless it is there and is of this very run."""
        path = self.folder(run_id) / "planned.json"
        try:
            found = read_json(path)
        except (OSError, NotJson) as error:
            raise unusable_plan(self, run_id, str(getattr(error, "strerror", None) or error)) from None
        if fault := planned_fault(found, run_id) or checksum_fault(found):
            raise unusable_plan(self, run_id, fault)
        return unsealed(found) | {k: present_name(found[k]) for k in ("method", "title") if found.get(k)}

    def log(self, run_id: str, text: str) -> None:
        """Add to the log of a run, every line with the time. A log that cannot be written stops nothing."""
        stamp = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
        lines = "".join(f"{stamp} {line}\n" for line in text.rstrip("\n").split("\n"))
        with contextlib.suppress(OSError, ResultsLost):
            self.check_there()
            self.folder(run_id).mkdir(parents=True, exist_ok=True)
            append_text(self.folder(run_id) / "log.txt", lines)

    def row(self, run_id: str) -> Row | None:
        """The row of a run, None when there is none yet. Raises CorruptFile naming the file and the next step."""
        path = self.folder(run_id) / "result.json"
        try:
            row, fault = read_sealed(path)
        except FileNotFoundError:
            return None
        except NotADirectoryError:
            what = f"{self._obstacle()} is a file"
            raise BadValue(f"{self.root} is not a folder of results: {what}. Name another folder.") from None
        except (OSError, NotJson) as error:
            raise _corrupt(path, str(getattr(error, "strerror", None) or error)) from None
        if fault := row_fault(row, run_id) or fault:
            raise _corrupt(path, fault)
        return unsealed(row) | {k: present_name(row[k]) for k in ("label", "method")}

    def finished(
        self,
        run_id: str,
        *,
        weights: bool = False,
        peers: bool = False,
        read: Callable[[str], Row | None] | None = None,
    ) -> Row | None:
        """The row of a run that need not be run again, else None. weights: a scored one must have left its weights too;
        peers: and hold the scores of the peers' protocol. read: what gives the row, `row` by default."""
        row = (read or self.row)(run_id)
        if row is None or row["status"] not in FINAL:
            return None
        if row["status"] != "ok":
            old = row["status"] == "refused" and row["environment"].get("mmzoo") != __version__
            return None if old else row
        there = not weights or (self.folder(run_id) / WEIGHTS).is_file()
        return row if there and (not peers or "peers" in row["metrics"]) else None

    def stamp(self, run_id: str) -> int | None:
        """What changes whenever a row is written anew; None where there is none. Costs no reading."""
        with contextlib.suppress(OSError):
            return (self.folder(run_id) / "result.json").stat().st_mtime_ns
        return None

    def rows(self) -> tuple[list[Row], list[CorruptFile]]:
        """All rows by run_id, to be read only, and an error for each that cannot be read."""
        errors: list[CorruptFile] = []
        return list(self.each_row(errors)), errors

    def each_row(self, errors: list[CorruptFile], most: int | None = None, parts: Parts = "all") -> Iterator[Row]:
        """The rows by run_id, one at a time and to be read only. errors: takes an error for each that cannot be read. most: of so many
        runs, any at all. parts: how much of each row. What was read before is not read again, see `mmzoo.benchmark.results.index`."""
        from mmzoo.benchmark.results.index import reading

        with reading(self, parts) as read:
            for name in self.run_ids()[:most]:
                try:
                    row = read(name)
                except CorruptFile as error:
                    errors.append(error)
                    continue
                if row is not None:
                    yield row

    def write(self, row: Mapping[str, Any]) -> None:
        """Keep the row of a run. Raises MmzooError with the next step when the disk does not take it."""
        with self.guard():
            write_sealed(self.folder(row["run_id"]) / "result.json", row)

    def write_file(self, run_id: str, name: str, data: bytes) -> None:
        """Keep another file of a run; raises like `write`."""
        with self.guard():
            write_bytes(self.folder(run_id) / name, data)

    @contextlib.contextmanager
    def guard(self) -> Iterator[None]:
        """Turn what the disk does not take into a MmzooError with the next step."""
        self.check_there()
        try:
            yield
        except OSError as error:
            self.check_there()
            path = self.root if error.filename is None else Path(error.filename)
            place = path if error.filename is None or (path.exists() and not path.is_file()) else path.parent
            raise MmzooError(
                f"cannot write to {place}: {error.strerror or error}. All finished rows are kept; when the "
                "folder can be written to again, the same command does the rest."
            ) from error

    def micro_batch(self, data: str) -> int | None:
        """The micro-batch that memory leaves for a data set in this store; None where all has fitted so far."""
        try:
            size = read_json(self.root / "memory" / f"{data}.json")["micro_batch"]
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
            found = read_json(self.root / "memory" / f"peak.{kind}.json")
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
            record = read_json(path)
            fault = record_fault(record) or checksum_fault(record)
        except (OSError, NotJson) as error:
            fault = str(error)
        if fault:
            raise CorruptFile(
                f"the record of tuning {path} cannot be used: {fault}. Move the folder {path.parent} away and run the same "
                "command again: it repeats that study only."
            )
        return unsealed(record)

    def note_tuning(self, study: str, record: Mapping[str, Any]) -> None:
        """Keep the record of a study; raises like `write`."""
        with self.guard():
            write_sealed(self.root / "tuning" / study / "record.json", record)

    def note_bench(self, asked: Mapping[str, Any], command: str = "") -> None:
        """Keep what a benchmark asked for, for the report; what earlier ones asked for comes after it.

        Args:
            asked: `Plan.asked`: order and roles of the methods, order of the data sets, refusals.
            command: The command that asked for it.
        """
        before, methods = self.bench(), asked["methods"]
        merged = {**methods, **{label: role for label, role in before["methods"].items() if label not in methods}}
        refused = {(r["dataset"], r["method"]) for r in asked["refused"]}
        earlier = [
            r for r in before["refused"] if (r["dataset"], r["method"]) not in refused and r["method"] not in methods
        ]
        value = {
            "schema": SCHEMA,
            "methods": list(merged.items()),
            "datasets": list(dict.fromkeys([*asked["datasets"], *before["datasets"]])),
            "refused": [*asked["refused"], *earlier],
            "command": command,
        }
        with self.guard():
            write_sealed(self.root / "bench.json", value)

    def bench(self) -> dict[str, Any]:
        """What `note_bench` kept; empty when there is nothing or it cannot be read (the rows are the truth)."""
        try:
            return self._read_bench()
        except CorruptFile:
            return dict(_NO_BENCH)

    def bench_fault(self) -> CorruptFile | None:
        """Why bench.json is not used; None where it is, and where there is none."""
        try:
            self._read_bench()
        except CorruptFile as error:
            return error
        return None

    def _read_bench(self) -> dict[str, Any]:
        path = self.root / "bench.json"
        try:
            data = read_json(path)
            found = {
                "methods": {present_name(str(label)): str(role) for label, role in data["methods"]},
                "datasets": [str(name) for name in data.get("datasets", ())],  # absent in folders of version 0.1
                "refused": [{k: str(r[k]) for k in ("dataset", "method", "role", "reason")} for r in data["refused"]],
                "command": str(data.get("command", "")),
            }
            fault = checksum_fault(data)
        except (FileNotFoundError, NotADirectoryError):
            return dict(_NO_BENCH)
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            fault = str(getattr(error, "strerror", None) or error)
        if fault:
            raise CorruptFile(
                f"{path} cannot be used: {fault}. Methods are shown without their order and roles; the next bench into this "
                "folder writes it anew."
            )
        return found


def _corrupt(path: Path, why: str) -> CorruptFile:
    return CorruptFile(
        f"the row {path} cannot be used: {why}. All other rows are as they were. "
        f"Move the folder {path.parent.name} away and run the same bench again: it repeats that run only."
    )


def unusable_plan(store: Store, run_id: str, why: str) -> CorruptFile:
    """The error for a planned.json that cannot be used."""
    return CorruptFile(
        f"{store.folder(run_id) / 'planned.json'} cannot be used: {why}. Run the same bench again: it is written anew."
    )
