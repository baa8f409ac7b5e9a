"""Every block of code and every command of the README and the pages is run, in a short form, or checked as the list says."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.pages import PAGES, commands
from helpers.places import ROOT
from helpers.running_pages import PARSED, PROGRAMS, SHORTER, Page, todo, todos

from mmzoo.cli import build_parser
from mmzoo.cli.site.generated import pages as generated
from mmzoo.config.methods import resolve_method
from mmzoo.config.settings import Settings
from mmzoo.registry import plugins

#: run by a test of its own, with the packages that it needs
ELSEWHERE = {"own_loop": "tests/loops/test_own_loop_page.py"}
README = ROOT / "README.md"
TEXTS = [p for p in (README, *PAGES) if p.is_file() and p.stem not in ELSEWHERE]


class Module(torch.nn.Module):
    """A network of a reader, on two views of mfeat."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(123, 10)

    def forward(self, fou: torch.Tensor, zer: torch.Tensor) -> torch.Tensor:
        return self.layer(torch.cat([fou, zer], 1))


#: what a page speaks of as the reader's own
NAMES: dict[str, dict[str, Any]] = {
    "protocol": {"my_module": Module(), "x": torch.randn(4, 76), "z": torch.randn(4, 47)},
}


@pytest.mark.parametrize("path", TEXTS, ids=lambda p: p.stem)
def test_every_block_of_a_page_runs(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MMZOO_HOME", str(tmp_path / "home"))
    text = path.read_text(encoding="utf-8")
    counts = Page(text, tmp_path, NAMES.get(path.stem, {})).run()
    assert sum(counts.values()) * 2 == text.count("```")


def test_code_is_in_blocks_with_a_language() -> None:
    """A command in an indented block would not be found."""
    for path in (README, *PAGES) if README.is_file() else PAGES:
        fenced = False
        for line in path.read_text(encoding="utf-8").splitlines():
            fenced ^= line.startswith("```")
            assert fenced or not line.startswith(("    mmzoo ", "    pip ", "    python ")), f"{path.name}: {line}"


def test_what_is_not_run_is_listed(capsys: pytest.CaptureFixture[str]) -> None:
    """Each reason is used, and is printed with its commands (pytest -rP). Benches of data sets that nobody has are planned."""
    reasons: dict[str, list[str]] = {}
    for path in TEXTS:
        for found in todos(path.read_text(encoding="utf-8")):
            if found.reason:
                reasons.setdefault(found.reason, []).append(f"{path.name}: {' '.join(found.words)}")
    for reason, found_there in reasons.items():
        print(f"{reason}:", *found_there, sep="\n  ")
    if README.is_file():
        assert {*PARSED.values(), *PROGRAMS.values()} <= set(reasons)
        assert all(any(long in p.read_text(encoding="utf-8") for p in TEXTS) for long in SHORTER)
    ran = [found for path in TEXTS for found in todos(path.read_text(encoding="utf-8")) if not found.reason]
    assert len(ran) > 2 * sum(len(found_there) for found_there in reasons.values()) / 3


def test_a_command_that_nobody_has_thought_of_is_found(tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match="no check for curl"):
        todo(["curl", "x"])
    for block, told in (
        ("bash\nmmzoo bench --methd ogm\n", "--methd"),
        ("bash\nmmzoo show ogn\n", "ogn"),
        ("bash\npip install 'mmzoo[figures]'\n", "no such extra"),
        ("bash\npip install ./plugin/x\n", "no such folder"),
        ("yaml\nmethod: ogm\nsedes: 3\n", "sedes"),
        ("ruby\n1\n", "ruby"),
        ("python\nassert False, 'here'\n", "here"),
    ):
        with pytest.raises(Exception, match=told):
            Page(f"```{block}```\n", tmp_path, {}).run()


def test_the_commands_of_the_catalogue_name_what_there_is() -> None:
    parser, known = build_parser(), plugins.catalogue()
    for name, text in generated(known).items():
        for command in commands(text):
            parsed = parser.parse_args(command)
            if command[0] == "bench":
                for method in (parsed.method, *parsed.baselines.split(",")):
                    assert resolve_method(known, method, Settings(known, ())).parts, name
            else:
                assert command[0] == "show" and name == f"catalogue/method-{command[1]}.md"
