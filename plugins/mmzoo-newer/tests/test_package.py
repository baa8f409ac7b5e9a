"""The package as it is installed: found without a note, its registry in agreement with its classes, and benched."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path

import pytest

pytest.importorskip("mmzoo_newer", reason="mmzoo-newer is not installed")

from mmzoo_newer import dgl

from mmzoo.registry import Entry, read_entries
from mmzoo.testing import check_installed, run_program

ENTRIES = read_entries(Path(dgl.__file__).with_name("registry.yaml"), "mmzoo-newer")


@pytest.mark.parametrize("entry", [e for e in ENTRIES if e.kind == "strategies"], ids=lambda e: e.name)
def test_an_entry_says_what_its_class_says(entry: Entry) -> None:
    strategy = entry.load()()
    limits = entry.extra.get("modalities", {})
    assert entry.params.keys() == strategy.params().keys() and entry.defaults() == strategy.params()
    assert set(entry.requires) == strategy.requires and set(entry.extra.get("owns", ())) == strategy.owns
    assert limits.get("min", 1) == strategy.min_modalities and limits.get("max") == strategy.max_modalities
    assert dict(entry.cost) == dict(strategy.cost)
    assert entry.extra.get("single_process", "") == strategy.single_process
    assert entry.extra.get("equation") and entry.fidelity and entry.links


def test_methods_say_what_their_strategies_need() -> None:
    by_name = {e.name: e for e in ENTRIES if e.kind == "strategies"}
    for e in ENTRIES:
        if e.kind == "methods":
            strategy = by_name[e.extra["strategy"]].load()(**e.extra.get("args", {}))
            assert set(e.requires) == strategy.requires and dict(e.cost) == dict(strategy.cost), e.name


def test_installed_as_a_stranger(tmp_path: Path) -> None:
    """The installed program finds the package and benches all its methods beside the built-in ones."""
    mmzoo = partial(run_program, cwd=tmp_path)
    check_installed("mmzoo-newer", tmp_path)
    mine = sorted(e.name for e in ENTRIES if e.kind == "methods")
    listed = json.loads(mmzoo("list", "methods", "--json"))["methods"]
    assert sorted(e["name"] for e in listed if e["package"] == "mmzoo-newer") == mine
    chosen = ["--method", mine[0], "--baselines", ",".join([*mine[1:], "ogm+dgl"]), "--no-references"]
    now = ["remix.warmup=0", "arl.start=0", "arl_many.start=0", "train.clip=0.8"]  # cggm_released diverges without
    options = [word for setting in now for word in ("--set", setting)]
    mmzoo("bench", *chosen, "--seeds", "1", "--epochs", "1", "--datasets", "mfeat", *options, "--out", "results")
    rows = json.loads(mmzoo("report", "results", "--format", "json"))["rows"]
    assert {r["status"] for r in rows} == {"ok"}
    assert len({r["method"].partition("[")[0] for r in rows} & {*mine, "ogm+dgl"}) == len(mine) + 1
