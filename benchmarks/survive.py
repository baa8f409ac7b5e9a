"""Does a bench survive being killed? Every claim of docs/running.md, with real processes and SIGKILL.

    python benchmarks/survive.py kills --kills 200     workers and benches killed at random moments
    python benchmarks/survive.py two                   two benches at once on one store, eight workers in all
    python benchmarks/survive.py ray                   a cluster of two nodes, one of which is removed in the middle
    python benchmarks/survive.py slurm                 submitit's local executor, jobs killed
    python benchmarks/survive.py cluster               a real SLURM (sbatch is here): jobs requeued, killed, out of time
    python benchmarks/survive.py hosts                 every run over two hosts, network namespaces made here (as root, Linux)
    python benchmarks/survive.py attacks               a list of hostile or unlucky inputs, see attacking.py; what held is written to
                                                       results/survive_attacks.md and .json

Each compares its rows with those of an undisturbed bench in one process, byte for byte apart from clock and machine, and
counts in the logs of the runs how often each was ended and what was trained twice. --out names the folder of the
results; what was found is printed as JSON.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mmzoo.benchmark.results.leases import read_claim
from mmzoo.benchmark.results.store import Store

EPOCHS, WORKERS = 6, 4
BENCH = (
    "--method",
    "dynamic_gap_lb",
    "--baselines",
    "ogm,pmr,umt",
    "--datasets",
    "mfeat",
    "--seeds",
    "3",
    "--epochs",
    str(EPOCHS),
    "--device",
    "cpu",
    "--checkpoint-every",
    "0",
)
FILES = ("history.jsonl", "predictions.npz")


def bench(out: Path, *more: str) -> subprocess.Popen[bytes]:
    env = {**os.environ, "MMZOO_PLUGINS": "", "OMP_NUM_THREADS": "1"}
    log = out.with_suffix(".log").open("ab")
    return subprocess.Popen(
        [sys.executable, "-m", "mmzoo", "bench", *BENCH, "--out", str(out), *more],
        stdout=log,
        stderr=log,
        env=env,
        start_new_session=True,
    )


def results(out: Path) -> dict[str, dict[str, Any]]:
    """By run that has ended: its row without clock and machine, and the bytes of its other results."""
    found: dict[str, dict[str, Any]] = {}
    for path in sorted(out.glob("runs/*/result.json")):
        row = {k: v for k, v in json.loads(path.read_text()).items() if k not in ("timing", "environment", "checksum")}
        if row["status"] == "failed":  # it took too many processes with it for one bench; the next one tries again
            continue
        found[path.parent.name] = {"row": row, **{n: (path.parent / n).read_bytes() for n in FILES}}
    return found


def logged(out: Path, pattern: str) -> dict[str, list[str]]:
    """By run: what a pattern finds in the log."""
    return {p.parent.name: re.findall(pattern, p.read_text()) for p in sorted(out.glob("runs/*/log.txt"))}


def workers_of(parent: int) -> list[int]:
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            after = stat.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(after[1]) == parent and after[0] != "Z":
            found.append(int(stat.parent.name))
    return found


def compare(out: Path, straight: Path) -> dict[str, Any]:
    ours, theirs = results(out), results(straight)
    ends = logged(out, r"ends: ok")
    return {
        "runs": len(theirs),
        "lost": sorted(theirs.keys() - ours.keys()),
        "different": sorted(k for k in theirs.keys() & ours.keys() if ours[k] != theirs[k]),
        "ended_more_than_once": sorted(k for k, found in ends.items() if len(found) > 1),
        "claims_left": sorted(str(p.relative_to(out)) for p in out.glob("runs/*/claim.*")),
        "temporary_files_left": len(list(out.rglob("*.tmp"))),
    }


def undisturbed(folder: Path) -> Path:
    out = folder / "straight"
    if bench(out, "--workers", "1").wait() != 0:
        raise SystemExit(f"the undisturbed bench failed: {out.with_suffix('.log')}")
    return out


def kills(folder: Path, n: int, seed: int) -> dict[str, Any]:
    """Kill a worker, the bench, or all at once, whichever a die says, at moments drawn at random, until all are spent.

    When a matrix is complete before that, the next one begins.
    """
    straight, draw = folder / "straight", random.Random(seed)
    if len(results(straight)) < 30:
        undisturbed(folder)
    folders = [folder / "killed-1"]
    done, signals = {"worker": 0, "bench": 0, "all at once": 0}, 0
    finished: dict[str, dict[str, Any]] = {}
    changed: list[str] = []
    saved: list[tuple[Path, str, int, int]] = []
    while signals < n:
        out = folders[-1]
        process = bench(out, "--workers", str(WORKERS))
        while process.poll() is None and signals < n:
            wait(process, out, draw)
            for run_id, found in results(out).items():
                if finished.setdefault(run_id, found) != found:
                    changed.append(run_id)
            what = draw.choice(("worker", "worker", "bench", "all at once"))
            workers = workers_of(process.pid)
            victims = {
                "worker": workers[:1] and [draw.choice(workers)],
                "bench": [process.pid],
                "all at once": [process.pid, *workers],
            }[what]
            if not victims or process.poll() is not None:
                continue
            for pid in victims:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            done[what] += 1
            signals += len(victims)
            print(f"{signals} signals, {len(results(out))} rows in matrix {len(folders)}", file=sys.stderr, flush=True)
            if what != "worker":
                process.wait()
            if what == "all at once":
                saved += [(out, *found) for found in checkpoints(out)]
        if process.poll() == 0:
            folders.append(folder / f"killed-{len(folders) + 1}")
            finished = {}
    for out in folders:
        if bench(out, "--workers", str(WORKERS)).wait() != 0:
            raise SystemExit(f"the last bench failed: {out.with_suffix('.log')}")
    wrong = [
        (str(out), run_id, session, epoch)
        for out, run_id, session, epoch in saved
        if starts(out).get(run_id, [])[session : session + 1] not in ([epoch], [])
    ]
    found = [compare(out, straight) for out in folders]
    return {
        "sigkills": signals,
        "moments": done,
        "workers": WORKERS,
        "matrices": len(folders),
        "finished_rows_changed": changed,
        "sessions": sum(len(s) for out in folders for s in starts(out).values()),
        "went_on_from_a_checkpoint": sum(e > 0 for out in folders for s in starts(out).values() for e in s),
        "checkpoints_seen_after_a_kill": len(saved),
        "sessions_that_began_elsewhere": wrong,
        **{key: [f[key] for f in found] for key in found[0]},
    }


def wait(process: subprocess.Popen[bytes], out: Path, draw: random.Random) -> None:
    """To a moment drawn at random: anywhere in one of five cases, and otherwise after somebody is at work, since most
    of the time would go by while workers import torch."""
    if draw.random() < 0.8:
        before = sum(map(len, starts(out).values()))
        while process.poll() is None and sum(map(len, starts(out).values())) == before:
            time.sleep(0.05)
    time.sleep(draw.uniform(0.0, 3.0))


def starts(out: Path) -> dict[str, list[int]]:
    """By run: the epoch at which each session began."""
    found = logged(out, r"process \d+ on \S+ (?:starts at|resumes after) epoch (\d+)")
    return {run_id: [int(e) for e in epochs] for run_id, epochs in found.items()}


def checkpoints(out: Path) -> list[tuple[str, int, int]]:
    """run, how many sessions it has had, and the epoch of its checkpoint, where it has one and no row."""
    import torch

    began = starts(out)
    found = []
    for path in out.glob("runs/*/checkpoint.pt"):
        if not (path.parent / "result.json").exists():
            epoch = torch.load(path, weights_only=True)["run"]["epoch"]
            found.append((path.parent.name, len(began.get(path.parent.name, [])), epoch))
    return found


def two(folder: Path) -> dict[str, Any]:
    straight, out = undisturbed(folder), folder / "shared"
    processes = [bench(out, "--workers", "4") for _ in range(2)]
    codes = [p.wait() for p in processes]
    return {"exit_codes": codes, **compare(out, straight)}


def ray_nodes(folder: Path) -> dict[str, Any]:
    """Two nodes with a worker's slots each; the second is removed when some rows are there."""
    os.environ["MMZOO_PLUGINS"], os.environ["OMP_NUM_THREADS"] = "", "1"
    root = Path(__file__).resolve().parent.parent
    os.environ["PYTHONPATH"] = os.pathsep.join([str(root), os.environ.get("PYTHONPATH", "")])
    from ray.cluster_utils import Cluster

    straight, out = undisturbed(folder), folder / "ray"
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    try:
        second = cluster.add_node(num_cpus=1)
        cluster.wait_for_nodes()
        process = bench(out, "--launcher", "ray", "--workers", "2", "--launcher-arg", f"address={cluster.address}")
        wait_for_rows(process, out, 8)
        at = len(results(out))
        hosts = logged(out, r"process (\d+) on")
        cluster.remove_node(second, allow_graceful=False)
        code = process.wait()
    finally:
        cluster.shutdown()
    after = logged(out, r"process (\d+) on")
    return {
        "exit_code": code,
        "rows_when_the_node_was_removed": at,
        "processes_before": len({p for ps in hosts.values() for p in ps}),
        "processes_in_all": len({p for ps in after.values() for p in ps}),
        **compare(out, straight),
    }


def slurm_jobs(folder: Path) -> dict[str, Any]:
    """Two jobs of submitit's local executor, one of whose workers is killed in the middle."""
    straight, out = undisturbed(folder), folder / "slurm"
    process = bench(out, "--launcher", "slurm", "--workers", "2", "--launcher-arg", "cluster=local")
    wait_for_rows(process, out, 8)
    owners = [h for run_id in Store(out).run_ids() if (h := read_claim(Store(out).folder(run_id))) and h.alive]
    if owners:
        os.kill(owners[0].pid, signal.SIGKILL)
    return {"killed": len(owners[:1]), "exit_code": process.wait(), **compare(out, straight)}


def slurm_cluster(folder: Path) -> dict[str, Any]:
    """An array of two jobs of a real SLURM, each allowed a minute: one is requeued after four rows, and of one a worker is
    killed after eight."""
    straight, out = undisturbed(folder), folder / "cluster"
    given = ("timeout_min=1", "slurm_signal_delay_s=20", "slurm_cpus_per_task=1", "slurm_mem=0")
    process = bench(out, "--launcher", "slurm", "--workers", "2", *(x for g in given for x in ("--launcher-arg", g)))
    wait_for_rows(process, out, 4)
    requeued = jobs("RUNNING")[:1]
    subprocess.run(["scontrol", "requeue", *requeued], check=True)
    wait_for_rows(process, out, 8)
    owners = [h for run_id in Store(out).run_ids() if (h := read_claim(Store(out).folder(run_id))) and h.alive]
    for owner in owners[:1]:
        os.kill(owner.pid, signal.SIGKILL)
    code = process.wait()
    logs = [p.read_text() for p in (out / "slurm").glob("*_log.err")]
    return {
        "requeued": len(requeued),
        "killed": len(owners[:1]),
        "exit_code": code,
        "out_of_time": sum(len(re.findall("Caught signal", log)) for log in logs),
        **compare(out, straight),
    }


def hosts(folder: Path) -> dict[str, Any]:
    """torchrun over two hosts with nothing in common but a cable, against two processes of one."""
    made = ["netns add h1", "netns add h2", "link add v1 netns h1 type veth peer name v2 netns h2"]
    made += [
        f"-n h{i} {what}"
        for i in (1, 2)
        for what in (f"addr add 10.9.0.{i}/24 dev v{i}", "link set lo up", f"link set v{i} up")
    ]
    try:
        for command in made:
            subprocess.run(["ip", *command.split()], check=True)
        meet = ("--nnodes", "2", "--nproc-per-node", "1", "--master-addr", "10.9.0.1", "--master-port", "29555")
        at = [("ip", "netns", "exec", f"h{i}", "env", f"GLOO_SOCKET_IFNAME=v{i}") for i in (1, 2)]
        both = [together(folder / f"h{i}", *meet, "--node-rank", str(i - 1), before=at[i - 1]) for i in (1, 2)]
        codes = [process.wait() for process in both]
    finally:
        for i in (1, 2):
            subprocess.run(["ip", "netns", "del", f"h{i}"], check=False)
    one = together(folder / "one", "--nproc-per-node", "2", "--master-port", "29556").wait()
    return {
        "exit_codes": [*codes, one],
        "folder_of_the_second": (folder / "h2").exists(),
        **compare(folder / "h1", folder / "one"),
    }


def together(out: Path, *more: str, before: Sequence[str] = ()) -> subprocess.Popen[bytes]:
    """The bench in processes that train each run together."""
    env = {**os.environ, "MMZOO_PLUGINS": "", "OMP_NUM_THREADS": "1"}
    log = out.with_suffix(".log").open("ab")
    return subprocess.Popen(
        [
            *before,
            sys.executable,
            "-m",
            "torch.distributed.run",
            *more,
            "-m",
            "mmzoo",
            "bench",
            *BENCH,
            "--out",
            str(out),
        ],
        stdout=log,
        stderr=log,
        env=env,
    )


def jobs(state: str) -> list[str]:
    found = subprocess.run(["squeue", "-h", "-o", "%i", "--name", "mmzoo", "-t", state], capture_output=True, text=True)
    return found.stdout.split()


def wait_for_rows(process: subprocess.Popen[bytes], out: Path, n: int) -> None:
    while len(results(out)) < n and process.poll() is None:
        time.sleep(0.2)


def attacked(folder: Path, only: str) -> int:
    """Make the attacks, and write what held. Returns the exit code."""
    import attacks_files  # noqa: F401  its attacks join the list
    import attacks_inputs  # noqa: F401
    from attacks import attacks

    results = Path(__file__).resolve().parent / "results"
    found = attacks(folder.resolve(), only)
    lost = [f for f in found if f["outcome"] == "NOT HELD"]
    if not only:
        counts = {o: sum(f["outcome"] == o for f in found) for o in ("held", "NOT HELD", "skipped")}
        lines = [
            "# What a bench does under attack",
            "",
            "`python benchmarks/survive.py attacks`: each in a folder of its own, by the",
        ]
        lines += [
            "program itself. Held: no hang, no traceback, the exit code and the words that `attacks.py` asks for."
        ]
        lines += [
            "",
            ", ".join(f"{n} {o.lower()}" for o, n in counts.items()) + ".",
            "",
            "| attack | outcome | seen | seconds |",
        ]
        lines += ["|---|---|---|---:|"]
        shown = [{**f, "seen": f["seen"].replace("|", "/")} for f in found]
        lines += [f"| {f['attack']} | {f['outcome']} | {f['seen']} | {f['seconds']} |" for f in shown]
        (results / "survive_attacks.md").write_text("\n".join(lines) + "\n")
        (results / "survive_attacks.json").write_text(json.dumps(found, indent=1) + "\n")
    return 1 if lost else 0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("kills", "two", "ray", "slurm", "cluster", "hosts", "attacks"))
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--only", default="", help="of the attacks those whose name holds this; nothing is written then"
    )
    parser.add_argument("--folder", type=Path, help="where to work (default: a temporary folder)")
    arguments = parser.parse_args()
    folder = arguments.folder or Path(tempfile.mkdtemp(prefix="survive-"))
    folder.mkdir(parents=True, exist_ok=True)
    began = time.monotonic()
    if arguments.what == "attacks":
        raise SystemExit(attacked(folder, arguments.only))
    found = {
        "kills": lambda: kills(folder, arguments.kills, arguments.seed),
        "two": lambda: two(folder),
        "ray": lambda: ray_nodes(folder),
        "slurm": lambda: slurm_jobs(folder),
        "cluster": lambda: slurm_cluster(folder),
        "hosts": lambda: hosts(folder),
    }[arguments.what]()
    print(
        json.dumps(
            {
                "what": arguments.what,
                "bench": " ".join(BENCH),
                "seconds": round(time.monotonic() - began),
                "cores": os.cpu_count(),
                **found,
            },
            indent=1,
        )
    )


if __name__ == "__main__":
    main()
