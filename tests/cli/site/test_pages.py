"""The pages of the site: links lead somewhere, and every method has a page with its sources."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from helpers.pages import DOCS, dead_links

from mmzoo.cli.site.build import site_pages, with_toctree, write_sources
from mmzoo.cli.site.generated import pages as generated
from mmzoo.registry import BUILT_IN, Catalogue, built_in_path, read_entries


@pytest.fixture(scope="module")
def known() -> Catalogue:
    return Catalogue(read_entries(built_in_path(), BUILT_IN))


def test_every_link_between_pages_leads_to_a_page_and_a_heading(known: Catalogue) -> None:
    assert [*dead_links(site_pages(known, DOCS))] == []


def test_a_dead_link_is_found() -> None:
    pages = {"a.md": "# A b\n[x](b.md) [y](c/d.md#e) [z](#a-b) [w](#no) `[q](q.md)`", "c/d.md": "# F\n[a](../a.md)"}
    assert [*dead_links(pages)] == ["a.md: b.md", "a.md: c/d.md#e (no such heading)", "a.md: #no (no such heading)"]


def test_the_front_page_leads_to_every_page_of_ours(known: Catalogue) -> None:
    index = (DOCS / "index.md").read_text(encoding="utf-8")
    linked = set(re.findall(r"\]\(([\w/.-]+\.md)\)", index))
    single = {name for name in generated(known) if name.startswith("catalogue/method-")}
    assert set(site_pages(known, DOCS)) - {"index.md"} - single == linked
    tree = with_toctree(index)
    assert all(f"\n{name.removesuffix('.md')}\n" in tree for name in linked)


def test_every_method_has_a_page_with_its_sources(known: Catalogue) -> None:
    made = generated(known)
    for e in known.entries("methods"):
        page = made[f"catalogue/method-{e.name}.md"]
        links = known.links(e)
        assert page.startswith(f"# {e.name}\n") and all(link in page for link in links.values())
        assert f"mmzoo bench --method {e.name} " in page
        assert links or "no address of it" in page or "no paper of its own" in page


def test_the_sources_are_written_with_what_is_generated(known: Catalogue, tmp_path: Path) -> None:
    write_sources(known, DOCS, tmp_path)
    index = (DOCS / "index.md").read_text(encoding="utf-8")
    assert set(site_pages(known, DOCS)) == {p.relative_to(tmp_path).as_posix() for p in tmp_path.rglob("*.md")}
    assert (tmp_path / "index.md").read_text(encoding="utf-8").count("```{toctree}") == index.count("\n## ")
    assert (tmp_path / "torch.inv").read_bytes().startswith(b"# Sphinx inventory version 2\n")


def test_the_site_is_not_written_over_something_else(refused: Any, tmp_path: Path) -> None:
    (tmp_path / "mine.txt").touch()
    assert "something else is there" in refused("docs", "--build", tmp_path)
    assert "leave NAME out" in refused("docs", "methods", "--build", tmp_path / "new")
    (tmp_path / "file").touch()
    assert "Name a folder that you may write to" in refused("docs", "--build", tmp_path / "file" / "site")
