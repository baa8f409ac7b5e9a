"""Figures of the paper that a results folder has: found with their captions, shown as images only, harmless when spoiled."""

from __future__ import annotations

import base64
import json
import os
from pathlib import Path

import pytest

from mmzoo.benchmark.paper.documents import Document, write_documents
from mmzoo.benchmark.results import paper_figures
from mmzoo.benchmark.results.paper_figures import paper_folder, read_figures

SVG = '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 10 10"><rect width="10" height="10"/></svg>'


@pytest.fixture
def made(tmp_path: Path) -> Path:
    """A results folder with Figure 3, and Figure 1 in two pictures."""
    first = Document("fig1", "Figure 1", pictures={"cremad": SVG, "own <data>": SVG}, notes=["(fast)"])
    third = Document("fig3", "Figure 3", records=[{"alpha": 1}], pictures={"alpha": SVG})
    write_documents([third, first], paper_folder(tmp_path))
    return tmp_path


def test_they_are_in_the_order_of_the_paper_with_captions_and_notes(made: Path) -> None:
    found = read_figures(made)
    assert [(f.title, f.caption, f.notes) for f in found] == [
        ("Figure 1", "cremad", ()),
        ("Figure 1", "own <data>", ("(fast)",)),
        ("Figure 3", "alpha", ()),
    ]
    kind, _, content = found[0].source.partition(",")
    assert kind == "data:image/svg+xml;base64" and base64.b64decode(content).decode() == SVG


def test_a_folder_without_them_has_none(tmp_path: Path) -> None:
    assert read_figures(tmp_path) == []


def test_a_picture_of_an_earlier_version_has_no_caption(made: Path) -> None:
    (paper_folder(made) / "fig3.json").write_text('{"schema": 1, "cells": []}')
    assert [f.caption for f in read_figures(made) if f.title == "Figure 3"] == [""]


@pytest.mark.parametrize("told", ["[]", "{", '{"pictures": 3, "notes": 4}', '{"pictures": {}, "notes": null}'])
def test_a_spoiled_description_costs_the_captions_only(made: Path, told: str) -> None:
    (paper_folder(made) / "fig3.json").write_text(told)
    assert [f.source[:5] for f in read_figures(made)] == ["data:"] * 3


def test_what_is_no_picture_is_named_and_not_shown(made: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = paper_folder(made)
    (folder / "fig3.svg").write_text("<!DOCTYPE svg [<!ENTITY a 'a'>]><svg/>")
    assert [f.fault for f in read_figures(made)][2] == "fig3.svg cannot be shown: it is not an SVG picture"
    (folder / "fig3.svg").unlink()
    os.mkfifo(folder / "fig3.svg")
    assert "not a regular file" in read_figures(made)[2].fault
    monkeypatch.setattr(paper_figures, "LARGEST", 10)
    assert all("larger than 10 bytes" in f.fault and not f.source for f in read_figures(made)[:2])


def test_a_description_leads_to_no_other_folder(made: Path) -> None:
    (made / "secret.svg").write_text(SVG)
    told = {"pictures": {"../secret.svg": "", "fig3.svg": "here"}}
    (paper_folder(made) / "fig3.json").write_text(json.dumps(told))
    assert [f.caption for f in read_figures(made) if f.title == "Figure 3"] == ["here"]
