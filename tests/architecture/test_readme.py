"""What the README says is true. Its code and commands are run by tests/cli/site/test_blocks.py."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from helpers.pages import commands
from helpers.places import ROOT

from mmzoo.cli import main
from mmzoo.cli.list import method_table
from mmzoo.config.suites import read_suite
from mmzoo.registry import BUILT_IN, Catalogue, built_in_path, plugins, read_entries

README = ROOT / "README.md"
pytestmark = pytest.mark.skipif(not README.is_file(), reason="needs the source tree")


def test_the_two_commands_are_marked_for_the_gate() -> None:
    text = README.read_text(encoding="utf-8")
    for mark in ("<!-- command: bench -->\n```bash\n", "<!-- command: test -->\n```bash\n"):
        assert text.count(mark) == 1
    assert ["bench", "--method", "dynamic_gap_lb", "--baselines", "ogm,pmr"] in commands(text)


def test_the_tables_that_it_printed_are_there() -> None:
    text = README.read_text(encoding="utf-8")
    assert "### overview: test ACC in %" in text and "### mfeat: test scores in %" in text
    for label in ("dynamic_gap_lb", "ogm", "pmr", "concat", "joint_unimodal", "unimodal: fou"):
        assert f"\n| {label} " in text


def test_its_table_of_methods_is_the_catalogues() -> None:
    """After a change: mmzoo list --markdown, between the two marks."""
    table = re.search(
        r"<!-- methods -->\n(.*?)\n<!-- end of methods -->", README.read_text(encoding="utf-8"), re.DOTALL
    )
    assert table and table[1] == method_table(Catalogue(read_entries(built_in_path(), BUILT_IN)), BUILT_IN)


SUITES = [p for p in sorted((ROOT / "benchmarks").glob("*.yaml")) if "\nmethod:" in p.read_text(encoding="utf-8")]
#: what a suite needs beside mmzoo itself
_METHODS = ("mmzoo-dropout", "mmzoo-heads", "mmzoo-later", "mmzoo-newer")
PACKAGES = {"zoo": (*_METHODS, "mmzoo-openmoji"), "minis": _METHODS, "tuned": ("mmzoo-openmoji",)}


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


def test_the_suite_of_all_methods_names_them_all() -> None:
    known = Catalogue(read_entries(built_in_path(), BUILT_IN))
    suite = read_suite(ROOT / "benchmarks" / "methods.yaml", known)
    added = {e.name for e in known.entries("methods") if e.extra.get("each_modality")} | {"concat", "joint_unimodal"}
    assert {suite["method"], *suite["baselines"]} | added == {e.name for e in known.entries("methods")}
