"""Kills `prepare` at random moments, lets it go on, and compares the store with that of an undisturbed one.

    python benchmarks/prepare_kills.py [--kills 50] [--items 1200]

Each trial starts in an empty home, is killed (SIGKILL, the parent alone: its workers have to notice) at a random moment one to
three times, and is then let through. Prints a line a trial and, at the end, how many stores are bit-identical; exit code 1
unless all are. Between kills no store may be there that opens but differs.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

RUN = """
import sys
from pathlib import Path
from mmzoo.data.own.manifest import read_manifest
from mmzoo.data.preparing.prepare import prepare
if __name__ == "__main__":
    source = read_manifest(Path(sys.argv[1]))
    prepare(source, source.root, jobs=2, sync_every=0.0, on_bad=["drop"])
"""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--items", type=int, default=1200)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    draw = random.Random(arguments.seed)
    with tempfile.TemporaryDirectory() as folder:
        top = Path(folder)
        manifest = make_data(top / "data", arguments.items)
        (top / "run.py").write_text(RUN)
        started = time.monotonic()
        _start(top, manifest, top / "undisturbed").wait()
        took = time.monotonic() - started
        wanted = contents(top / "undisturbed")
        print(f"undisturbed: {len(wanted)} files, {took:.1f} s", flush=True)
        assert wanted, "the undisturbed prepare made no store"
        kills, same, trials = 0, 0, 0
        while kills < arguments.kills:
            trials += 1
            home = top / f"trial{trials}"
            moments = [draw.uniform(0, 1.05 * took) for _ in range(draw.randint(1, 3))]
            early = 0
            for moment in moments:
                early += _killed(top, manifest, home, moment)
                found = contents(home)
                if found and found != wanted:
                    print(f"trial {trials}: a store that is neither absent nor right")
                    return 1
            _start(top, manifest, home).wait()
            right = contents(home) == wanted
            kills, same = kills + early, same + right
            print(
                f"trial {trials}: killed at {', '.join(f'{m:.2f}' for m in moments)} s ({early} in time): "
                f"{'identical' if right else 'DIFFERENT'}",
                flush=True,
            )
            subprocess.run(["rm", "-rf", str(home)], check=True)
        print(f"{kills} kills in {trials} trials: {same} of {trials} stores bit-identical")
    return 0 if same == trials else 1


def make_data(folder: Path, n: int) -> Path:
    """Pictures, some of them broken or equal, and vectors, some of them missing."""
    import numpy as np
    from PIL import Image

    draw = np.random.default_rng(0)
    folder.mkdir(parents=True)
    lines = ["id,label,picture,a,b"]
    for i in range(n):
        Image.fromarray(draw.integers(0, 255, (48, 64, 3), dtype=np.uint8)).save(folder / f"{i}.jpg")
        if i % 97 == 5:
            (folder / f"{i}.jpg").write_bytes((folder / f"{i}.jpg").read_bytes()[:200])
        vector = f"{i},{i % 7}" if i % 11 else ","
        lines.append(f"item{i},{'xyz'[i % 3]},{i if i % 50 else 0}.jpg,{vector}")
    (folder / "items.csv").write_text("\n".join(lines) + "\n")
    (folder / "own.yaml").write_text(
        "name: kills\ntable: items.csv\nmodalities:\n  picture: {kind: image, size: 192}\n"
        "  numbers: {kind: vector, columns: [a, b]}\n"
    )
    return folder / "own.yaml"


def _start(top: Path, manifest: Path, home: Path) -> subprocess.Popen[bytes]:
    environment = {**os.environ, "MMZOO_HOME": str(home), "PYTHONPATH": os.pathsep.join(sys.path)}
    return subprocess.Popen([sys.executable, str(top / "run.py"), str(manifest)], env=environment)


def _killed(top: Path, manifest: Path, home: Path, moment: float) -> bool:
    """Start, kill after so many seconds, and say whether that was before it ended by itself."""
    process = _start(top, manifest, home)
    try:
        process.wait(moment)
        return False
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGKILL)
        process.wait()
        return True


def contents(home: Path) -> dict[str, str]:
    """Hash of each file of the finished stores, apart from prepared.json, which says when; nothing else may lie there."""
    return {
        str(path.relative_to(home)): hashlib.sha256(path.read_bytes()).hexdigest()
        for meta in home.glob("stores/*/*/meta.json")
        if not meta.parent.name.endswith((".part", ".old"))
        for path in sorted(meta.parent.iterdir())
        if path.name not in ("prepared.json", "plan.json", "journal.jsonl")
    }


if __name__ == "__main__":
    sys.exit(main())
