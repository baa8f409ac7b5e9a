"""Registry files with faults."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from helpers.registry_files import listed

from mmzoo.errors import BadValue
from mmzoo.registry import read_entries

#: a registry, and the lines of its faults
FAULTY = """\
schema: 2
strategys: {}
strategies:
  Bad-Name: {summary: A., path: "a:B"}
  one:
    path: nowhere
    summary: [not, a, text]
    requires: unimodal
    cost: {forward: much}
    modalities: {min: two}
    version: new
    paper: some text
    colour: red
  two:
    summary: Two.
    path: a.b:C
    params:
      a: {type: float}
      b: {type: number, default: 1}
      c: {type: float, default: 1.0, range: [1]}
      d: {type: int, default: 0, range: [1, 5]}
      e: {type: str, default: x, choices: y}
      f: {type: bool, default: true, docs: misspelt}
      g: {type: str, default: x, range: [0, 1]}
heads:
  three: {summary: Three., path: "a:B", how: partly}
methods:
  four: {summary: Four., strategy: 7, args: [1]}
datasets:
  five:
    summary: Five.
    path: a:b
    modalities: {m: image}
    n_classes: none
    encoders: {vector: {name: mlp}}
    training: {default: {lr: -1}}
"""
FAULTS = [
    (1, "schema"),
    (2, "strategys"),
    (4, "strategies.Bad-Name"),
    (6, "strategies.one.path"),
    (7, "strategies.one.summary"),
    (8, "strategies.one.requires"),
    (9, "strategies.one.cost"),
    (10, "strategies.one.modalities"),
    (11, "strategies.one.version"),
    (12, "strategies.one.paper"),
    (13, "strategies.one.colour"),
    (18, "strategies.two.params.a"),
    (19, "strategies.two.params.b.type"),
    (20, "strategies.two.params.c.range"),
    (21, "strategies.two.params.d.default"),
    (22, "strategies.two.params.e.choices"),
    (23, "strategies.two.params.f.docs"),
    (24, "strategies.two.params.g.range"),
    (26, "heads.three.how"),
    (28, "methods.four.args"),
    (28, "methods.four.strategy"),
    (28, "methods.four"),
    (34, "datasets.five.n_classes"),
]


def test_all_faults_of_a_registry_are_told_at_once_with_their_lines(tmp_path: Path) -> None:
    faults = listed(FAULTY, tmp_path)
    assert [f.partition(": ")[0] + ": " + f.split(": ")[1] for f in faults] == [f"line {n}: {k}" for n, k in FAULTS]


def test_faults_within_a_data_set_are_told_once_its_form_is_right(tmp_path: Path) -> None:
    text = """\
datasets:
  five:
    summary: Five.
    path: a:b
    modalities: {m: image}
    n_classes: 3
    encoders: {vector: {name: mlp}, text: bert}
    select: nothing
    params: {k: {type: int, default: 1}}
    presets: {default: {k: x, l: 1}}
    training: {other: {lr: -1}, third: {rate: 1}}
"""
    faults = listed(text, tmp_path)
    assert len(faults) == 8
    for part in (
        "encoders.text: must be a mapping with at least a name",
        "modalities.m: encoders names none",
        "select: must be one of the parameters",
        "presets.default.k",
        "presets.default.l: no parameter 'l'",
        "training: needs a preset named default",
        "training.other: training: lr must be positive",
        "training.third: no training option 'rate'",
    ):
        assert any(part in f for f in faults), part


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "3",
        "methods: []",
        "methods: {x: 3}",
        "{[a]: 1}",
        "a: &x [*x]",
        "methods: {x: {summary: 2020-13-45}}",
        "a: !!python/name:os.system",
        "[" * 5000,
        "a: \x07",
        "methods: {x: !!int y}",
    ],
)
def test_what_is_no_registry_is_refused_in_words(text: str, tmp_path: Path) -> None:
    (tmp_path / "registry.yaml").write_text(text, encoding="utf-8")
    with pytest.raises(BadValue, match=r"registry\.yaml"):
        read_entries(tmp_path / "registry.yaml", "pkg")


def test_a_registry_that_is_missing_or_no_text_is_refused_in_words(tmp_path: Path) -> None:
    with pytest.raises(BadValue, match=r"cannot read .*none"):
        read_entries(tmp_path / "none", "pkg")
    (tmp_path / "registry.yaml").write_bytes(b"a: \xff\xfe")
    with pytest.raises(BadValue, match="not UTF-8"):
        read_entries(tmp_path / "registry.yaml", "pkg")


@pytest.mark.parametrize(
    "after", ["NeurIPS 2024", {"title": "One"}, {"title": "One", "differs": " "}, {"differs": "in all"}]
)
def test_what_is_ours_after_a_paper_names_it_and_says_how_it_differs(tmp_path: Path, after: object) -> None:
    text = "strategies:\n  one:\n    summary: One.\n    path: a:b\n    after: " + json.dumps(after) + "\n"
    (fault,) = listed(text, tmp_path)
    assert "strategies.one.after: must be a mapping with the title of a paper and how this differs from it" in fault
