"""The installed program, as a user runs it: how a package sees that it is found."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from mmzoo.testing.harness.report import require


def run_program(*arguments: str, cwd: Path, **env: str) -> str:
    """What `mmzoo ARGUMENTS` prints, run by a process of its own in the folder `cwd`. env: added to the environment.

    Raises CheckFailed with what it says where it does not leave with 0.
    """
    command = [sys.executable, "-m", "mmzoo", *arguments]
    done = subprocess.run(command, cwd=cwd, env={**os.environ, **env}, capture_output=True, text=True)
    told = f"exit code {done.returncode}\n{done.stderr}"
    require(done.returncode == 0, f"mmzoo {' '.join(arguments)} succeeds", told, "see what it says")
    return done.stdout


def check_installed(package: str, cwd: Path) -> None:
    """The installed program has loaded a package, and has nothing to say against it. Raises CheckFailed."""
    plugins = {p["name"]: p for p in json.loads(run_program("plugins", "--json", cwd=cwd))}
    found = plugins.get(package, {"status": "not found", "notes": []})
    good = found["status"] == "loaded" and not found["notes"]
    told = "; ".join([found["status"], *found["notes"]])
    require(good, f"{package} is installed and loads without a note", told, "install the package; see: mmzoo plugins")
