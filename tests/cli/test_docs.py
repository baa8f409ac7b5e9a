"""`mmzoo docs`, and the version."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import mmzoo as package

Command = Callable[..., Any]
PAGES = Path(package.__file__).parent / "docs"


def test_docs_lists_every_page_with_its_title(mmzoo: Command) -> None:
    lines = mmzoo("docs").out.splitlines()
    assert [line.split()[0] for line in lines[:-1]] == sorted(p.stem for p in PAGES.glob("*.md"))
    assert lines[lines.index(next(x for x in lines if x.startswith("methods")))].endswith("  Writing a method")


def test_docs_prints_a_page(mmzoo: Command) -> None:
    assert (
        mmzoo("docs", "statistics").out == (PAGES / "statistics.md").read_text() == mmzoo("docs", "statistics.md").out
    )


def test_a_page_that_does_not_exist_is_named_with_a_near_miss(mmzoo: Command) -> None:
    done = mmzoo("docs", "metods")
    assert done.code == 2 and "metods" in done.err and "methods" in done.err


def test_the_version_is_printed(mmzoo: Command) -> None:
    assert mmzoo("--version").out == f"mmzoo {package.__version__}\n"
