"""mmzoo status: what is running in a folder of results, done, failed and waiting; mmzoo watch: its report in a browser."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from mmzoo.errors import BadValue

#: runs of a kind that are named one by one; the rest is counted
MOST = 20


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = commands.add_parser(
        "status",
        help="show running, finished, failed and waiting runs",
        description="Reads the folders of runs and of tuning. Read-only, and safe while a bench is running.",
    )
    parser.add_argument("folder", metavar="DIR", help="the folder given to bench as --out")
    parser.add_argument("--json", action="store_true", help="print JSON with one object per run")
    parser.set_defaults(command=run)

    parser = commands.add_parser(
        "watch",
        help="serve the live report of a results folder",
        description="Serves the HTML report on the loopback address. The page reloads when a run ends. Nothing is written.",
    )
    parser.add_argument("folder", metavar="DIR", help="the folder given to bench as --out")
    parser.add_argument("--port", type=int, default=8765, help="port; 0: any free port (default: 8765)")
    parser.set_defaults(command=watch)


def run(arguments: argparse.Namespace) -> int:
    """Print the state of the store. Rows that cannot be read are among the failed, and the exit code is then 2."""
    from mmzoo.benchmark.results.status import states, studies, time_left
    from mmzoo.benchmark.results.store import Store

    if not arguments.folder:
        raise BadValue("the folder of the results is empty: name what was given to bench as --out.")
    store = Store(Path(arguments.folder))
    found, tuned = states(store), studies(store)
    if not found and not tuned:
        where = arguments.folder
        raise BadValue(
            f"there are no runs in the folder {where}: make some with: mmzoo bench --method NAME --out {where}"
        )
    left = time_left(found)
    if arguments.json:
        counts = {state: sum(s["state"] == state for s in found) for state in ("running", "done", "failed", "waiting")}
        print(json.dumps({"counts": counts, "seconds_left": left, "runs": found, "tuning": tuned}, indent=1))
    else:
        if tuned:
            _print_tuning(tuned, alone=not found)
        if found:
            _print(found, left)
    return 2 if any(s.get("unreadable") for s in (*found, *tuned)) else 0


def _print_tuning(tuned: list[dict[str, Any]], *, alone: bool) -> None:
    """The studies, one a line. alone: the folder has no runs yet, so that tuning may have stopped between two studies."""
    trials = sum(s["trials"] for s in tuned)
    print(
        f"tuning: {len(tuned)} stud{'y' if len(tuned) == 1 else 'ies'}, {trials} finished trial{'s' if trials != 1 else ''}"
    )
    for s in tuned[:MOST]:
        of = f" of {s['of']}" if s["of"] > s["trials"] else ""
        told = _text(s["unreadable"]) if "unreadable" in s else f"{s['trials']}{of} trials"
        print(
            f"  {'running' if s['running'] else 'stopped' if of else 'tuned':8s} {_text(s['dataset'])} {_text(s['label'])}: {told}"
        )
    if len(tuned) > MOST:
        print(f"  ... and {len(tuned) - MOST} more studies; --json names all")
    if not any(s["running"] for s in tuned) and (alone or any(s["of"] > s["trials"] for s in tuned)):
        print("no study is active: the same mmzoo tune (or mmzoo bench --tune) command resumes")


def _print(found: list[dict[str, Any]], left: float | None) -> None:
    of = {state: [s for s in found if s["state"] == state] for state in ("running", "failed", "waiting", "done")}
    print(f"{len(found)} runs: " + ", ".join(f"{len(runs)} {state}" for state, runs in of.items()))
    if left is not None:
        print(f"time left: about {_duration(left)}, at the pace of the runs that are done")
    elif of["waiting"] and not of["running"]:
        print("no worker is active: the same mmzoo bench command resumes")
    for s in of["running"][:MOST]:
        epoch = f"epoch {s['epoch']} of {s['epochs']}" if s["epochs"] else "starting"
        print(f"  running  {_name(s)}: {epoch}, {_text(s['owner'])}, for {_duration(s['seconds'])}")
    for s in of["failed"][:MOST]:
        print(f"  failed   {_name(s)}: {_text(s['reason'])}")
    for s in [d for d in of["done"] if d["status"] != "ok"][:MOST]:
        print(f"  {s['status']:8s} {_name(s)}: {_text(s['reason'])}")
    for s in of["waiting"][:MOST]:
        print(f"  waiting  {_name(s)}" + (f": {s['epoch']} epochs are saved" if s.get("epoch") else ""))
    for state in ("running", "failed", "waiting"):
        if len(of[state]) > MOST:
            print(f"  ... and {len(of[state]) - MOST} more {state}; --json names all")


def _name(s: dict[str, Any]) -> str:
    return _text(f"{s['dataset']} {s['label']} seed {s['seed']} ({s['run_id']})")


def _text(text: str) -> str:
    """One line that cannot steer a terminal."""
    line = " ".join(text.split())
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in line)


def _duration(seconds: float) -> str:
    minutes, rest = divmod(max(0, round(seconds)), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s" if minutes else f"{rest} s"


def watch(arguments: argparse.Namespace) -> int:
    """Serve the report until Ctrl-C."""
    from mmzoo.benchmark.reporting.html.server import serve

    if not Path(arguments.folder).is_dir():
        raise BadValue(f"there is no folder {arguments.folder}: name the folder given to bench as --out.")
    if not 0 <= arguments.port < 65536:
        raise BadValue(f"--port must be from 0 to 65535, not {arguments.port}.")
    try:
        serve(Path(arguments.folder), arguments.port, lambda url: print(f"{url} (Ctrl-C stops)", flush=True))
    except KeyboardInterrupt:
        print()
    return 0
