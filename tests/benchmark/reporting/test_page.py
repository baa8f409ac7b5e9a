"""The HTML report: one file that loads nothing, whose numbers lead to their runs, and in which no name is markup."""

from __future__ import annotations

import copy
import html.parser
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mmzoo.benchmark.paper.documents import Document, write_documents
from mmzoo.benchmark.reporting.html.page import render_page
from mmzoo.benchmark.reporting.tables import Cell, Table
from mmzoo.benchmark.results.store import Store

pytest.importorskip("vl_convert")
EVIL = "<script>alert(1)</script><img src=x onerror=alert(1)>\"'`{{7*7}}</script><!--\u202e"


class Page(html.parser.HTMLParser):
    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: dict[str, int] = {}
        self.attributes: list[tuple[str, str | None]] = []
        self.ids: list[str] = []
        self.links: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags[tag] = self.tags.get(tag, 0) + 1
        self.attributes += attrs
        given = dict(attrs)
        if found := given.get("id"):
            self.ids.append(found)
        if tag == "a" and (link := given.get("href")):
            self.links.append(link)


@pytest.fixture(scope="module")
def store(results: Path) -> Store:
    return Store(results)


@pytest.fixture(scope="module")
def text(store: Store) -> str:
    rows, _ = store.rows()
    return render_page(rows, store.bench(), store, out=store.root / "report.html")


def embedded(text: str) -> dict[str, Any]:
    start = text.index('id="specs">') + len('id="specs">')
    return dict(json.loads(text[start : text.index("</script>", start)]))


def test_every_number_leads_to_its_runs_and_their_files(text: str, store: Store) -> None:
    page = Page(text)
    inside = [link[1:] for link in page.links if link.startswith("#")]
    assert len(set(page.ids)) == len(page.ids) and set(inside) <= set(page.ids)
    files = [link for link in page.links if not link.startswith("#")]
    rows, _ = store.rows()
    assert len(files) == 3 * len(rows) and all((store.root / link).is_file() for link in files)
    assert sum(link.startswith("runs-") for link in inside) == len({r["config_id"] for r in rows})


def test_it_loads_nothing(text: str) -> None:
    page = Page(text)
    assert "link" not in page.tags and "img" not in page.tags and "iframe" not in page.tags
    assert not {name for name, _ in page.attributes} & {"src", "srcset", "onload", "onerror", "onclick"}
    policy = next(value for name, value in page.attributes if name == "content" and value and "default-src" in value)
    assert "default-src 'none'" in policy and "http" not in policy and "connect-src" not in policy


def test_it_has_the_charts_that_the_rows_allow(text: str) -> None:
    kinds = {name.partition("-")[2] for name in embedded(text)["charts"]}
    assert kinds == {"scores", "branches", "curves", "logged", "gap", "cost", "confusion", "calibration"}


def test_it_says_what_is_held_equal(text: str) -> None:
    for fact in ("test split", "data recipe", "epochs", "selection", "initial weights", "batch order", "threads"):
        assert f">{fact}<" in text
    assert "differs between methods of a seed" in text  # a method with a meta set has fewer training samples


def test_nothing_in_a_name_becomes_markup_or_code(store: Store) -> None:
    rows, _ = store.rows()
    rows = copy.deepcopy(rows)
    for row in rows:
        row["label"] = row["dataset"] = EVIL
        row["warnings"] = {EVIL: 1}
    evil = Table(EVIL, [EVIL, "b"], [[Cell(EVIL), Cell(EVIL, best=True)]], [EVIL])
    bench = {"methods": {EVIL: EVIL}, "refused": [], "command": EVIL}
    harmless = Page(render_page(store.rows()[0], store.bench(), store))
    page = Page(text := render_page(rows, bench, store, tables=[evil]))
    assert page.tags["script"] == harmless.tags["script"] and "img" not in page.tags
    assert not {name for name, _ in page.attributes} & {"onerror", "src"}
    assert "{{7*7}}" in text and "\u202e" not in text
    assert any(spec["data"]["values"] for spec in embedded(text)["charts"].values())


def test_figures_of_the_paper_are_images_with_a_text(store: Store, copied: Path) -> None:
    drawn = Document(
        "fig1", "Figure 1", pictures={EVIL: f"<svg xmlns='http://www.w3.org/2000/svg'>{EVIL}</svg>"}, notes=[EVIL]
    )
    write_documents([drawn], copied / "paper")
    rows, bench = store.rows()[0], store.bench()
    text, harmless = (render_page(rows, bench, Store(root)) for root in (copied, store.root))
    page = Page(text)
    given = dict(page.attributes)
    assert page.tags["img"] == 1 and page.tags["script"] == Page(harmless).tags["script"] and "onerror" not in given
    assert str(given["src"]).startswith("data:image/svg+xml;base64,") and str(given["alt"]).startswith(
        "Figure 1, <script>alert(1)"
    )
    assert "paper" in page.ids and "#paper" in page.links and "paper" not in Page(harmless).ids


def test_the_page_is_the_same_each_time(text: str, store: Store) -> None:
    rows, _ = store.rows()
    assert render_page(rows, store.bench(), store, out=store.root / "report.html") == text


def test_rows_without_histories_or_predictions_cost_charts_only(store: Store, tmp_path: Path) -> None:
    rows, _ = store.rows()
    page = render_page(rows, store.bench(), Store(tmp_path))
    assert {name.partition("-")[2] for name in embedded(page)["charts"]} == {"scores", "branches", "gap", "cost"}


def test_without_vl_convert_it_says_how_to_get_it(
    results: Path, refused: Callable[..., str], mmzoo: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    from mmzoo.benchmark.reporting.html import page

    page._runtime.cache_clear()
    monkeypatch.setitem(__import__("sys").modules, "vl_convert", None)
    assert "pip install vl-convert-python" in refused("report", results, "--format", "html")
    drawn = mmzoo("report", results, "--figures", results / "figures")
    assert drawn.code == 2 and "pip install vl-convert-python" in drawn.err


def test_the_suffix_of_the_file_says_the_form(results: Path, tmp_path: Path, mmzoo: Callable[..., Any]) -> None:
    begins = {"html": "<!doctype html>", "tex": "%", "csv": "run_id,", "json": "{", "md": "### overview"}
    for suffix, start in begins.items():
        path = tmp_path / f"r.{suffix}"
        assert mmzoo("report", results, "-o", path).code == 0
        assert path.read_text(encoding="utf-8").lstrip().startswith(start)
