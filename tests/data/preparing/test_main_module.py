"""A program that worker processes cannot import prepares its data all the same: a script on standard input, or without a guard."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from helpers.own_tables import write_table
from helpers.places import ROOT

BODY = """
from pathlib import Path
from mmzoo.data.own.manifest import read_manifest
from mmzoo.data.preparing.prepare import prepare
print("at work")
"""
CALL = """source = read_manifest(Path(r"{manifest}"))
done = prepare(source, source.root, jobs=2)
print(len(done.store), "samples")
"""


def started(program: list[str], text: str, home: Path) -> tuple[str, str]:
    """What a program prints and says."""
    env = {**os.environ, "MMZOO_HOME": str(home), "PYTHONPATH": str(ROOT), "PYTHONWARNINGS": "default"}
    done = subprocess.run(program, input=text, capture_output=True, text=True, timeout=120, env=env, cwd=home.parent)
    assert done.returncode == 0, done.stderr
    return done.stdout, done.stderr


@pytest.mark.parametrize("form", ["input", "unguarded", "guarded"])
def test_a_script_prepares_whatever_it_is_read_from(form: str, tmp_path: Path) -> None:
    call = CALL.format(manifest=write_table(tmp_path, kind="vector"))
    if form == "guarded":
        call = 'if __name__ == "__main__":\n' + "".join(f"    {line}\n" for line in call.splitlines())
    path = tmp_path / "script.py"
    path.write_text(BODY + call)
    program = [sys.executable, "-" if form == "input" else str(path)]
    out, said = started(program, BODY + call if form == "input" else "", tmp_path / "home")
    assert "60 samples" in out and "Traceback" not in said
    if form == "guarded":
        assert "in this process" not in said
    else:
        assert out.count("at work") == 1 and "Samples are decoded in this process" in said
        assert ("<stdin>" in said) == (form == "input") and ("script.py has no `if __name__" in said) == (
            form != "input"
        )
