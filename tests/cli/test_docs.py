"""`mmzoo docs`, and the version."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

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


@pytest.mark.parametrize(
    "name", ["catalogue/methods", "catalogue/method-ogm.md", "reference/python", "changelog", "notebooks/own_data"]
)
def test_a_page_of_the_site_says_how_to_make_it(mmzoo: Command, name: str) -> None:
    done = mmzoo("docs", name)
    assert done.code == 2 and "mmzoo docs --build DIR writes it" in done.err and "mmzoo show NAME" in done.err


def test_the_index_says_which_links_are_the_sites() -> None:
    """Each link is a page that is there, or of a part that the page says is made by --build."""
    text = (PAGES / "index.md").read_text(encoding="utf-8")
    made = {
        link
        for part in text.split("\n## ")
        for link in re.findall(r"\]\(([\w/]+\.md)", part)
        if part.partition("\n")[0] in ("Notebooks", "Catalogue", "Reference")
    }
    missing = {link for link in re.findall(r"\]\(([\w/]+\.md)", text) if not (PAGES / link).is_file()}
    assert missing == made and "Notebooks, Catalogue and Reference are made by `mmzoo docs --build DIR`" in text


def test_the_version_is_printed(mmzoo: Command) -> None:
    assert mmzoo("--version").out == f"mmzoo {package.__version__}\n"
