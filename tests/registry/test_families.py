"""Families and links of entries: their form, who has them, and how the program lists and shows them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mmzoo.errors import BadValue
from mmzoo.registry import Catalogue, Entry, built_in_path, read_entries
from mmzoo.registry.schema import FAMILIES

ROOT = built_in_path().parent
REGISTRIES = sorted([built_in_path(), *ROOT.glob("plugins/*/*/registry.yaml")])


def entries(path: Path) -> list[Entry]:
    return read_entries(path, "mmzoo" if path == built_in_path() else path.parent.name)


@pytest.mark.parametrize("path", REGISTRIES, ids=lambda p: p.parent.name)
def test_every_method_has_a_family_and_published_strategies_have_links(path: Path) -> None:
    known = Catalogue([*entries(built_in_path()), *(entries(path) if path != built_in_path() else [])])
    for e in entries(path):
        if e.kind in ("methods", "strategies"):
            assert known.family(e) in FAMILIES, e.name
        if e.kind == "strategies" and e.paper:
            assert known.links(e), e.name


def written(tmp_path: Path, line: str) -> Path:
    path = tmp_path / "registry.yaml"
    path.write_text(f'strategies:\n  mine:\n    summary: Mine.\n    path: "a:B"\n    {line}\n', encoding="utf-8")
    return path


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("family: gradients", "family: must be one of gradient modulation, loss weighting"),
        ("links: {paper: arxiv.org}", "links: must be a mapping of paper and code to addresses"),
        ("links: {site: https://a.org/b}", "links: must be a mapping of paper and code to addresses"),
        ("links: {}", "links: must be a mapping of paper and code to addresses"),
    ],
)
def test_the_schema_refuses_other_forms(tmp_path: Path, line: str, told: str) -> None:
    with pytest.raises(BadValue, match=r"line 5: strategies\.mine\.") as fault:
        read_entries(written(tmp_path, line), "mine")
    assert told in str(fault.value)


def test_an_entry_keeps_what_it_says(tmp_path: Path) -> None:
    (e,) = read_entries(written(tmp_path, "links: {code: https://a.org/b}"), "mine")
    assert e.links == {"code": "https://a.org/b"} and Catalogue([e]).family(e) is None


def groups(text: str) -> dict[str, list[str]]:
    """heading -> names, of what `mmzoo list --by` prints."""
    found: dict[str, list[str]] = {}
    for line in text.splitlines():
        if line.endswith(":") and not line.startswith(" "):
            found[line[:-1]] = []
        elif line.startswith("  "):
            found[list(found)[-1]].append(line.split()[0])
    return found


def test_list_by_family_year_and_cost(mmzoo: Callable[..., Any]) -> None:
    names = sorted(e["name"] for e in json.loads(mmzoo("list", "methods", "--json").out)["methods"])
    family, year, cost = (groups(mmzoo("list", "--by", by).out) for by in ("family", "year", "cost"))
    for found in (family, year, cost):
        assert sorted(n for listed in found.values() for n in listed) == names
    assert list(family) == sorted(family) and set(family) <= set(FAMILIES)
    assert "ogm" in family["gradient modulation"] and "gated" in family["architecture"]
    assert list(year)[:-1] == sorted(list(year)[:-1]) and list(year)[-1] == "no paper"
    assert "ogm" in year["2022"] and "concat" in year["no paper"]
    totals = [sum(float(word) for word in heading.replace(",", "").split()[::2]) for heading in cost]
    assert totals == sorted(totals) and "ogm" in cost["1 forward, 1 backward"]
    assert set(groups(mmzoo("list", "heads", "--by", "family").out)) == {"architecture"}


def test_show_has_the_loss_of_a_recipe_and_all_of_its_cost(mmzoo: Callable[..., Any]) -> None:
    """The recommended form does not minimise what its strategy does by default."""
    recipe, _, strategy = mmzoo("show", "dynamic_gap").out.partition("\nstrategy dynamic_gap")
    assert "L = CE(joint logits) + sum over modalities m of CE(own logits of m) + L_mm" in recipe
    assert "(1 - alpha) L_cls + alpha L_mm" in strategy and "(1 - alpha)" not in recipe
    beside = "once an epoch: 1 forward, 2 backwards; after training: 2 forwards of all labelled samples"
    assert f"cost a batch: forward 1, backward 1; {beside}" in recipe
    table = mmzoo("list", "--markdown").out.splitlines()
    assert next(line for line in table if line.startswith("| `dynamic_gap` ")).endswith(f"| 1 | 1 | {beside} |")
    assert next(line for line in table if line.startswith("| `ogm` ")).endswith("| 1 | 1 |  |")
    assert "an epoch: 0.8 forwards of the whole meta set" in mmzoo("show", "gblend").out


def test_json_and_show_have_family_and_links(mmzoo: Callable[..., Any]) -> None:
    listed = {e["name"]: e for e in json.loads(mmzoo("list", "methods", "--json").out)["methods"]}
    address = "https://arxiv.org/abs/2203.15332"
    assert listed["ogm_ge"]["links"]["paper"] == address and listed["ogm_ge"]["family"] == "gradient modulation"
    assert listed["channel"]["links"]["paper"] == "https://arxiv.org/abs/1911.08670"  # that of its head
    shown = mmzoo("show", "ogm_ge").out
    assert f"paper at: {address}" in shown and "family: gradient modulation" in shown
