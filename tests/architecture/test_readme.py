"""What the README says works as it says."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from helpers.places import ROOT

from mmzoo.cli import build_parser, main
from mmzoo.cli.list import method_table
from mmzoo.config.suites import read_suite
from mmzoo.registry import BUILT_IN, Catalogue, built_in_path, plugins, read_entries

README = ROOT / "README.md"
pytestmark = pytest.mark.skipif(not README.is_file(), reason="needs the source tree")


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README.read_text(encoding="utf-8"), re.DOTALL)


def mmzoo_commands() -> list[list[str]]:
    text = "\n".join(blocks("bash")).replace("\\\n", " ")
    found = re.findall(r"(?:^|&& )(mmzoo [^#\n&]*)", text, re.MULTILINE)
    return [shlex.split(command)[1:] for command in found]


def test_the_two_commands_are_marked_for_the_gate() -> None:
    text = README.read_text(encoding="utf-8")
    for mark in ("<!-- command: bench -->\n```bash\n", "<!-- command: test -->\n```bash\n"):
        assert text.count(mark) == 1
    assert ["bench", "--method", "dynamic_gap_lb", "--baselines", "ogm,pmr"] in mmzoo_commands()


def test_the_tables_that_it_printed_are_there() -> None:
    text = README.read_text(encoding="utf-8")
    assert "### overview: test ACC in %" in text and "### mfeat: test scores in %" in text
    for label in ("dynamic_gap_lb", "ogm", "pmr", "concat", "joint_unimodal", "unimodal: fou"):
        assert f"\n| {label} " in text


#: what is run as it stands, a bench as its plan; of the rest, which takes long or wants files, the words are checked
RUN = ("bench", "report", "compare", "status", "list", "show", "plugins", "data list", "data show")


@pytest.mark.parametrize("command", mmzoo_commands(), ids=" ".join)
def test_every_command_is_understood(command: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "agree.py").write_text(
        next(b for b in blocks("python") if b.startswith("# agree.py")), encoding="utf-8"
    )
    if not " ".join(command).startswith(RUN):
        assert build_parser().parse_args(command).command
        return
    if command[0] in ("report", "status", "compare"):
        out = command[-1] if command[0] == "compare" else command[1]
        quick = ["--no-references", "--seeds", "1", "--epochs", "1", "--out", out]
        assert main(["bench", "--method", "ogm_ge", "--baselines", "pmr", *quick]) == 0
    assert main([*command, "--plan"] if command[0] == "bench" else command) == 0


def test_its_table_of_methods_is_the_catalogues() -> None:
    """After a change: mmzoo list --markdown, between the two marks."""
    table = re.search(
        r"<!-- methods -->\n(.*?)\n<!-- end of methods -->", README.read_text(encoding="utf-8"), re.DOTALL
    )
    assert table and table[1] == method_table(Catalogue(read_entries(built_in_path(), BUILT_IN)), BUILT_IN)


SUITES = [p for p in sorted((ROOT / "benchmarks").glob("*.yaml")) if "\nmethod:" in p.read_text(encoding="utf-8")]
#: what a suite needs beside mmzoo itself
_METHODS = ("mmzoo-dropout", "mmzoo-heads", "mmzoo-later", "mmzoo-newer")
PACKAGES = {"zoo": (*_METHODS, "mmzoo-openmoji"), "minis": _METHODS}


@pytest.mark.parametrize("suite", SUITES, ids=lambda p: p.stem)
def test_the_suites_are_understood(
    suite: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    packages = PACKAGES.get(suite.stem, ())
    for name in packages:
        pytest.importorskip(name.replace("-", "_"), reason=f"needs the package {name} (pip install ./plugins/*)")
    monkeypatch.setenv("MMZOO_PLUGINS", ",".join(packages))
    plugins.load.cache_clear()
    assert main(["bench", "--suite", str(suite), "--plan"]) == 0, capsys.readouterr().err
    if suite.stem in ("methods", "minis", "zoo"):
        named = {part for m in [read_suite(suite, plugins.catalogue())] for part in (m["method"], *m["baselines"])}
        rows = {e.name for e in plugins.catalogue().entries("methods") if not e.extra.get("each_modality")}
        assert rows - named <= {"concat", "joint_unimodal"}, "references come by themselves; all others are named"


def test_every_python_block_runs(tmp_path: Path) -> None:
    """In order, in one folder, each in a process of its own; a first line `# name.py` names the file."""
    pythons = blocks("python")
    assert len(pythons) == 3
    for i, code in enumerate(pythons):
        name = re.match(r"# (\w+\.py)\n", code)
        path = tmp_path / (name[1] if name else f"block{i}.py")
        path.write_text(code, encoding="utf-8")
        env = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(tmp_path)]), "MMZOO_PLUGINS": ""}
        done = subprocess.run([sys.executable, str(path)], cwd=tmp_path, env=env, capture_output=True, text=True)
        assert done.returncode == 0, f"block {i}:\n{done.stderr}"


def test_the_suite_of_all_methods_names_them_all() -> None:
    known = Catalogue(read_entries(built_in_path(), BUILT_IN))
    suite = read_suite(ROOT / "benchmarks" / "methods.yaml", known)
    added = {e.name for e in known.entries("methods") if e.extra.get("each_modality")} | {"concat", "joint_unimodal"}
    assert {suite["method"], *suite["baselines"]} | added == {e.name for e in known.entries("methods")}
