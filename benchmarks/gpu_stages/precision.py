"""bf16 beside fp32: the main methods on synthetic vectors whose Bayes accuracy is known, several seeds, through `mmzoo bench`.

`apart` is the difference of the mean test accuracies; `noise` is its standard error, from the spread over seeds under both
precisions. Seeds are paired: a seed has the same initial weights and batches under both.
"""

from __future__ import annotations

import json
import math
import subprocess
import sys
from collections.abc import Sequence
from statistics import mean, stdev

from benchmarks.gpu_stages.rows import At, Row, told

METHODS = ("concat", "ogm", "pmr", "agm", "mla", "dynamic_gap", "dynamic_gap_lb")
SMALL = ("concat", "ogm")
#: standard errors that bf16 may be away
WITHIN = 3.0
#: so that there is room above and below
STRENGTH = "map.strength={a: 2.0, b: 1.2}"


def run(at: At) -> None:
    methods = SMALL if at.small else METHODS
    scores: dict[str, dict[str, dict[int, float]]] = {}
    for precision in ("fp32", "bf16"):
        row = {"kind": "bench", "precision": precision}
        at.tried(10.0, row, lambda p=precision: trained(at, p, methods, scores))  # type: ignore[misc]
    for method in methods:
        found = [scores.get(precision, {}).get(method, {}) for precision in ("fp32", "bf16")]
        try:
            at.add({"kind": "accuracy", "method": method, **compared(*found)})
        except (ValueError, ArithmeticError) as error:
            at.add({"kind": "accuracy", "method": method, "status": "failed", "why": told(error)})


def trained(at: At, precision: str, methods: Sequence[str], scores: dict[str, dict[str, dict[int, float]]]) -> Row:
    """Train all methods; test accuracy by method and seed goes to `scores`."""
    out = at.scratch / precision
    command = [sys.executable, "-m", "mmzoo", "bench", "--method", methods[0], "--baselines", ",".join(methods[1:])]
    command += [
        "--datasets",
        "map",
        "--set",
        STRENGTH,
        "--no-references",
        "--selection",
        "last",
        "--device",
        at.device,
        "--out",
        str(out),
        "--json",
    ]
    command += ["--seeds", "2" if at.small else "5", "--epochs", "1" if at.small else "12"]
    command += ["--set", f"train.precision={precision}", *["--workers", "1"] * at.small]
    share = 2 if precision == "fp32" else 1  # the other one is still to come
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=max(1.0, at.left() / share))
        why = done.stderr.strip()[-200:] if done.returncode else ""
    except subprocess.TimeoutExpired as error:
        why = str(error).rpartition("timed")[2] or "out of time"
    rows = [json.loads(path.read_text()) for path in sorted(out.glob("runs/*/result.json"))]
    found = scores.setdefault(precision, {})
    for row in rows:
        if row["status"] == "ok":
            found.setdefault(row["method"], {})[row["seed"]] = row["metrics"]["acc"]
    if why:
        raise RuntimeError(f"mmzoo bench: {why}")
    return {"runs": len(rows), "ok": sum(r["status"] == "ok" for r in rows)}


def compared(wide: dict[int, float], narrow: dict[int, float]) -> Row:
    """Whether the accuracies of two precisions differ by no more than those of seeds."""
    if len(wide) < 2 or set(wide) != set(narrow):
        raise ValueError(f"seeds under fp32: {sorted(wide)}, under bf16: {sorted(narrow)}")
    a, b = list(wide.values()), list(narrow.values())
    apart, noise = mean(b) - mean(a), math.hypot(stdev(a), stdev(b)) / math.sqrt(len(a))
    good = abs(apart) <= max(WITHIN * noise, 0.005)
    return {
        "status": "ok" if good else "failed",
        "why": None
        if good
        else f"bf16 is {apart:+.4f} away, {abs(apart) / noise if noise else math.inf:.1f} standard errors",
        "fp32": round(mean(a), 4),
        "bf16": round(mean(b), 4),
        "apart": round(apart, 4),
        "noise": round(noise, 4),
        "seeds": len(a),
    }
