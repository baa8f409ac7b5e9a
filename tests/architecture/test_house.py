"""House rules that a tool can check."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from helpers.places import ROOT

pytestmark = pytest.mark.skipif(not (ROOT / "pyproject.toml").is_file(), reason="needs the source tree")


@pytest.mark.parametrize("command", [["ruff", "check", "."], ["mypy"]], ids=lambda c: c[0])
def test_tools_have_nothing_to_say(command: list[str]) -> None:
    if shutil.which(command[0]) is None and shutil.which(command[0], path=str(Path(sys.executable).parent)) is None:
        pytest.skip(f"{command[0]} is not installed: pip install '.[dev]'")
    done = subprocess.run([sys.executable, "-m", *command], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_no_unsafe_loading_and_nothing_left_for_later() -> None:
    banned = {
        r"import pickle|pickle\.load": "no pickle from outside",
        r"yaml\.(load|unsafe_load|full_load)\(": "use yamlfile or yaml.safe_load",
        r"torch\.load\((?!.*weights_only=True)": "pass weights_only=True",
        r"\bTODO\b|\bFIXME\b": "finish it",
        r"except:\s": "name what is expected",
    }
    for path in [*(ROOT / "mmzoo").rglob("*.py"), *(ROOT / "plugins").rglob("*.py")]:
        for n, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
            for pattern, why in banned.items():
                assert not re.search(pattern, line), f"{path.relative_to(ROOT)}:{n}: {why}"
