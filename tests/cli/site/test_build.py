"""The site builds strictly, leads nowhere that is not there, and works from disk. Needs Sphinx: pip install 'mmzoo[docs]'."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from urllib.parse import unquote

import pytest
from helpers.pages import DOCS

from mmzoo.cli.site import build as site
from mmzoo.errors import MmzooError
from mmzoo.registry import BUILT_IN, Catalogue, built_in_path, read_entries

for _package in ("sphinx", "myst_parser", "furo"):
    pytest.importorskip(_package, reason=f"the site needs {_package}: pip install 'mmzoo[docs]'")
pytestmark = pytest.mark.filterwarnings("ignore")  # those of Sphinx and its theme

#: a few methods, of which each shows something else; the pages of all are made in the same way
METHODS = ("ogm", "dynamic_gap_lb", "concat", "umt")


@pytest.fixture(scope="module")
def known() -> Catalogue:
    entries = read_entries(built_in_path(), BUILT_IN)
    return Catalogue([e for e in entries if e.kind != "methods" or e.name in METHODS])


@pytest.fixture(scope="module")
def built(known: Catalogue, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("site")
    site.build(known, DOCS, out)
    return out


def test_every_page_is_built_and_no_link_of_one_is_dead(known: Catalogue, built: Path) -> None:
    pages = {p.relative_to(built).as_posix(): p.read_text(encoding="utf-8") for p in built.rglob("*.html")}
    assert {name.removesuffix(".md") + ".html" for name in site.site_pages(known, DOCS)} <= set(pages)
    dead = [
        f"{name}: {target}"
        for name, text in pages.items()
        for target in re.findall(r'(?:href|src)="([^"#?]+)', text)
        if ":" not in target and not (built / name).parent.joinpath(unquote(target)).exists()
    ]
    assert dead == []


def test_no_page_loads_anything_from_a_network(built: Path) -> None:
    """It works when it is opened from disk without one."""
    for page in built.rglob("*.html"):
        text = page.read_text(encoding="utf-8")
        loaded = re.findall(r'(?:<link[^>]*href|src)="((?:https?:)?//[^"]+)', text)
        assert loaded == [], page.name
    for sheet in built.rglob("*.css"):
        assert not re.search(r"url\(\s*['\"]?https?:|@import", sheet.read_text(encoding="utf-8")), sheet.name


def test_the_reference_links_to_torch(built: Path) -> None:
    page = (built / "reference" / "python.html").read_text(encoding="utf-8")
    assert f'href="{site.TORCH_SITE}tensors.html#torch.Tensor"' in page


@pytest.mark.parametrize("fault", ["[x](nowhere.md)", "[x](a.md#nothing)", "```{nothing}\n```", "# A\n\n### C"])
def test_a_fault_of_a_page_is_an_error(fault: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(site, "REFERENCE", {})
    sources = tmp_path / "mmzoo" / "docs"
    sources.mkdir(parents=True)
    (sources / "index.md").write_text("# Front\n\n## All\n\n- [a](a.md)\n\n[c](changelog.md)\n", encoding="utf-8")
    (sources / "a.md").write_text(f"# A\n\n{fault}\n", encoding="utf-8")
    with pytest.raises(MmzooError, match=r"a\.md"):
        site.build(Catalogue([]), sources, tmp_path / "out")
    shutil.rmtree(tmp_path / "out", ignore_errors=True)
