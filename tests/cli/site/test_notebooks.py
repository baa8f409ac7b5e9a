"""The notebooks of the documentation: run from top to bottom without an error, and readable as pages."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from helpers.pages import DOCS

from mmzoo.cli.site.notebooks import as_markdown, faults

NOTEBOOKS = sorted((DOCS / "notebooks").glob("*.ipynb"))


def written(path: Path, cells: list[dict[str, Any]]) -> Path:
    path.write_text(json.dumps({"cells": cells, "metadata": {}, "nbformat": 4, "nbformat_minor": 5}), encoding="utf-8")
    return path


def code(text: str, n: int | None, *outputs: dict[str, Any]) -> dict[str, Any]:
    return {"cell_type": "code", "source": [text], "execution_count": n, "outputs": [*outputs]}


def test_there_are_three() -> None:
    assert [p.stem for p in NOTEBOOKS] == ["first_comparison", "own_data", "own_method"]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_it_was_run_without_an_error(path: Path) -> None:
    """After a change: python benchmarks/notebooks.py"""
    assert [*faults(path)] == []
    text = path.read_text(encoding="utf-8")
    assert "Traceback" not in text and "mmzoo: error" not in text and "/tmp" not in text


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_its_page_shows_what_it_printed(path: Path) -> None:
    page = as_markdown(path)
    assert page.startswith("# ") and page.count("\n# ") <= page.count("```") and "```text\n" in page
    assert "\x1b" not in page and f"`{path.name}`" in page


def test_what_is_wrong_with_a_notebook_is_found(tmp_path: Path) -> None:
    failed = {"output_type": "error", "ename": "ValueError", "evalue": "no", "traceback": []}
    told = [*faults(written(tmp_path / "n.ipynb", [code("a", 1), code("b", 3, failed)]))]
    assert told == ["n.ipynb was not run from top to bottom", "n.ipynb: ValueError: no"]
    assert [*faults(written(tmp_path / "n.ipynb", [code("a", None)]))]
    refused = {
        "output_type": "stream",
        "name": "stdout",
        "text": ["fine\n", "mmzoo: no method 'x'.\n", "mmzoo: wrote y\n"],
    }
    assert [*faults(written(tmp_path / "n.ipynb", [code("a", 1, refused)]))] == ["n.ipynb: mmzoo: no method 'x'."]
    for shell in ("/bin/bash: line 1", "/bin/sh: 1", "bash"):
        line = f"{shell}: mmzoo: command not found"
        absent = {"output_type": "stream", "name": "stdout", "text": [f"{line}\n"]}
        assert [*faults(written(tmp_path / "n.ipynb", [code("!mmzoo list", 1, absent)]))] == [f"n.ipynb: {line}"]


def test_a_notebook_as_a_page(tmp_path: Path) -> None:
    coloured = {"output_type": "stream", "name": "stdout", "text": ["\x1b[1mbold\x1b[0m\n", "\r 0%\r 9%\rdone\n"]}
    heading = {"cell_type": "markdown", "source": ["# Title\n", "\n", "words"]}
    page = as_markdown(written(tmp_path / "n.ipynb", [heading, code("!mmzoo list", 1, coloured)]))
    assert page.startswith("# Title\n\n*This page is the notebook `n.ipynb`")
    assert "words\n\n```bash\n!mmzoo list\n```\n\n```text\nbold\ndone\n```" in page
