"""The installed program, run in a process of its own: how a package tests that it is found."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from mmzoo.testing.harness.report import require


def run_program(*arguments: str, cwd: Path, **env: str) -> str:
    """The output of `mmzoo ARGUMENTS`, run in a process of its own.

    Args:
        arguments: the arguments.
        cwd: the working directory.
        env: additions to the environment.

    Raises:
        CheckFailed: it exits with another code than 0; the message holds its output.
    """
    command = [sys.executable, "-m", "mmzoo", *arguments]
    done = subprocess.run(command, cwd=cwd, env={**os.environ, **env}, capture_output=True, text=True)
    told = f"exit code {done.returncode}\n{done.stderr}"
    require(done.returncode == 0, f"mmzoo {' '.join(arguments)} succeeds", told, "see what it says")
    return done.stdout


def check_installed(package: str, cwd: Path) -> None:
    """Check that the installed program loads a package without complaint.

    Args:
        package: name of the package.
        cwd: the working directory.

    Raises:
        CheckFailed: it does not.
    """
    plugins = {p["name"]: p for p in json.loads(run_program("plugins", "--json", cwd=cwd))}
    found = plugins.get(package, {"status": "not found", "notes": []})
    good = found["status"] == "loaded" and not found["notes"]
    told = "; ".join([found["status"], *found["notes"]])
    require(good, f"{package} is installed and loads without a note", told, "install the package; see: mmzoo plugins")
