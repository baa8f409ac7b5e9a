"""The report in a real browser: no error, no request, sorting and filters work, links lead to runs, nothing overflows."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from mmzoo.benchmark.paper.documents import Document, write_documents
from mmzoo.benchmark.reporting.html.page import render_page
from mmzoo.benchmark.results.store import Store

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
pytestmark = [
    pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium (Debian: apt-get install chromium)"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
]
sync_api = pytest.importorskip("playwright.sync_api", reason="needs playwright (pip install 'mmzoo[browser]')")
pytest.importorskip("vl_convert")
OFFLINE = ("--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-sync", "--no-first-run")


#: a figure that would run a script and load a picture, were it more than an image
FIGURE = """<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 900 300" width="900" height="300" onload="alert(1)">
<script>top.ran = true; fetch("http://127.0.0.1:9/")</script><rect width="900" height="300"/>
<image href="http://127.0.0.1:9/x.png" width="9" height="9"/></svg>"""


@pytest.fixture(scope="module")
def page_file(results: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("page")
    store = Store(Path(shutil.copytree(results, folder / "results")))
    write_documents([Document("fig1", "Figure 1", pictures={"mfeat": FIGURE})], store.root / "paper")
    rows, _ = store.rows()
    path = folder / "report.html"
    path.write_text(render_page(rows, store.bench(), store, out=path), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with sync_api.sync_playwright() as play:
        started = play.chromium.launch(executable_path=CHROMIUM, args=list(OFFLINE))
        yield started
        started.close()


@pytest.fixture
def page(browser: Any, page_file: Path, request: pytest.FixtureRequest) -> Iterator[Any]:
    width = getattr(request, "param", 1300)
    opened = browser.new_page(viewport={"width": width, "height": 900})
    opened.said, opened.asked = [], []
    opened.on("console", lambda message: opened.said.append(f"{message.type}: {message.text}"))
    opened.on("pageerror", lambda error: opened.said.append(str(error)))
    opened.on("request", lambda given: opened.asked.append(given.url))
    opened.goto(page_file.as_uri())
    opened.locator("[data-chart]").first.scroll_into_view_if_needed()
    opened.wait_for_selector("[data-chart] svg")
    yield opened
    opened.close()


def test_a_figure_of_the_paper_is_an_image_that_does_nothing(page: Any) -> None:
    image = page.locator("#paper img")
    image.scroll_into_view_if_needed()
    size = image.evaluate("i => [i.naturalWidth, i.clientWidth, i.closest('figure').clientWidth]")
    assert size[0] == 900 and size[1] <= size[2] and page.evaluate("window.ran") is None
    assert page.said == [] and not [url for url in page.asked if "127.0.0.1" in url]


def column(page: Any, number: int) -> list[str]:
    return list(
        page.eval_on_selector_all(
            f"#board tbody tr:not([hidden]) > :nth-child({number})", "c => c.map(x => x.innerText)"
        )
    )


def test_it_opens_without_an_error_or_a_request(page: Any, page_file: Path) -> None:
    for chart in page.query_selector_all("[data-chart]"):
        chart.scroll_into_view_if_needed()
        page.wait_for_timeout(100)
    page.wait_for_timeout(500)
    assert page.eval_on_selector_all("[data-chart]", "c => c.every(x => x.querySelector('svg'))")
    assert page.said == [] and [u for u in page.asked if not u.startswith(("data:", "blob:"))] == [page_file.as_uri()]


def test_sorting_changes_the_order_and_says_so(page: Any) -> None:
    head = page.locator("#board thead th").nth(1)
    head.get_by_role("button").click()
    scores = [float(text.split(" ")[0]) for text in column(page, 2) if text[0].isdigit()]
    assert scores == sorted(scores, reverse=True) and head.get_attribute("aria-sort") == "descending"
    head.get_by_role("button").click()
    assert column(page, 2)[0] != f"{scores[0]}" and head.get_attribute("aria-sort") == "ascending"


def test_filters_change_the_rows(page: Any) -> None:
    every = column(page, 1)
    page.fill("#search", "unimodal:")
    assert column(page, 1) == [name for name in every if "unimodal:" in name]
    page.fill("#search", "")
    page.select_option("#role", "baseline")
    assert set(column(page, 1)) == {"ogm", "pmr"}
    page.select_option("#role", "")
    before = column(page, 2)
    page.select_option("#metric", "macro_f1")
    assert column(page, 2) != before


def test_every_score_leads_to_its_runs(page: Any) -> None:
    for link in page.query_selector_all("#board td a"):
        target = link.get_attribute("href")
        link.click()
        assert page.eval_on_selector(f"[id='{target[1:]}']", "d => d.open")


@pytest.mark.parametrize("page", [360, 768, 1300], indirect=True)
def test_no_text_overflows(page: Any) -> None:
    over = page.evaluate(
        """() => {
          const width = document.documentElement.clientWidth;
          const texts = [...document.querySelectorAll("h1, h2, h3, p, li, summary, figcaption, label, nav a")];
          return [document.documentElement.scrollWidth > width ? "the page" : "",
            ...texts.filter((e) => e.getBoundingClientRect().right > width + 1).map((e) => e.textContent)].filter(Boolean);
        }"""
    )
    assert over == []


@pytest.mark.parametrize("page", [360, 1300], indirect=True)
def test_axe_finds_no_serious_violation(page: Any) -> None:
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="pip install 'mmzoo[browser]'")
    for theme in ("light", "dark"):
        page.emulate_media(color_scheme=theme)
        page.wait_for_timeout(300)
        found = axe.Axe().run(page).response["violations"]
        assert [v["id"] for v in found if v["impact"] in ("serious", "critical")] == []
