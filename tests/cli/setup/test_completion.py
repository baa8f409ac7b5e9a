"""Shell completion: what a bash that asks is told."""

from __future__ import annotations

import argparse
import os
import shutil
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from helpers.places import ROOT

from mmzoo.cli.setup.completion import Names

argcomplete = pytest.importorskip("argcomplete", reason="needs argcomplete (pip install 'mmzoo[completion]')")
#: asks bash for its own entry for the command, and calls it as the Tab key does
ASK = """
eval "$(mmzoo completion bash)"
function=$(complete -p mmzoo | sed 's/.*-F \\([^ ]*\\) .*/\\1/')
COMP_LINE="$1"; COMP_POINT=${#1}; COMP_TYPE=9; read -ra COMP_WORDS <<< "$1"; COMP_CWORD=$((${#COMP_WORDS[@]} - 1))
"$function" mmzoo "${COMP_WORDS[-1]}" "${COMP_WORDS[-2]}"
printf '%s\\n' "${COMPREPLY[@]}"
"""


@pytest.mark.skipif(shutil.which("bash") is None, reason="needs bash")
def test_bash_completes_a_method_in_a_list(tmp_path: Path) -> None:
    program = tmp_path / "mmzoo"
    program.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m mmzoo "$@"\n', encoding="utf-8")
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    env = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}", "PYTHONPATH": str(ROOT), "MMZOO_PLUGINS": ""}
    line = "mmzoo bench --baselines pmr,ogm"
    done = subprocess.run(["bash", "-c", ASK, "ask", line], env=env, capture_output=True, text=True, cwd=tmp_path)
    assert {word.strip() for word in done.stdout.splitlines()} == {"pmr,ogm", "pmr,ogm_ge"}, done.stderr


#: argument, what is typed, a word that is offered
OFFERED = [
    ("method", "og", "ogm"),
    ("method", "ogm+pm", "ogm+pmr"),
    ("method", "ogm@su", "ogm@sum"),
    ("baselines", "pmr,og", "pmr,ogm"),
    ("datasets", "cremad,mf", "cremad,mfeat"),
    ("datasets", "mfeat:s", "mfeat:six"),
    ("heads", "su", "sum"),
    ("track", "t", "tensorboard"),
    ("settings", "og", "ogm."),
    ("settings", "ogm.al", "ogm.alpha="),
    ("settings", "train.l", "train.lr="),
    ("encoders", "audio=re", "audio=resnet18"),
    ("what", "conc", "concat"),
    ("page", "proto", "protocol"),
    ("kind", "me", "methods"),
    ("data", "cre", "cremad"),
]


def test_what_may_stand_where() -> None:
    lacking = [row for row in OFFERED if row[2] not in Names()(row[1], argparse.Action([], row[0]))]
    assert lacking == []


def test_other_arguments_take_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "suite.yaml").touch()
    assert [*Names()("sui", argparse.Action([], "suite"))] == ["suite.yaml"]


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_each_shell_has_its_script(shell: str, mmzoo: Callable[..., Any]) -> None:
    done = mmzoo("completion", shell)
    assert done.code == 0 and "mmzoo" in done.out and "_ARGCOMPLETE" in done.out


def test_without_argcomplete_it_says_what_to_install(
    refused: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in ("argcomplete", "argcomplete.shell_integration"):
        monkeypatch.setitem(sys.modules, module, None)
    assert "mmzoo[completion]" in refused("completion", "bash")
