"""Which modes of a strategy learn from the meta set, and what methods cost."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from helpers.blended_runs import method

from mmzoo.api import (
    BadValue,
)
from mmzoo.benchmark.planning.plan import make_plan
from mmzoo.cli import main
from mmzoo.config.spec import BenchSpec
from mmzoo.registry import read_entries
from mmzoo.registry.plugins import catalogue


@pytest.mark.parametrize(
    ("name", "settings", "uses"),
    [
        ("gblend", (), True),
        ("gblend_offline", (), True),
        ("gblend_fixed", (), False),
        ("mses", (), True),
        ("mslr", (), True),
        ("mslr_keep", (), True),
        ("mslr_smart", (), True),
        ("mslr_keep", (("mslr_keep.factors", {"fou": 0.5}),), False),
        ("mslr_smart", (("mslr_smart.factors", {"fou": 0.5}),), True),
    ],
)
def test_the_catalogue_knows_which_modes_learn_from_the_slice(name: str, settings: Any, uses: bool) -> None:
    found = method(name, *settings)
    assert found.uses_slice is uses
    made = catalogue().get("strategies", found.parts[0].strategy).load()(**found.parts[0].params)
    assert ("slice" in made.requires) is uses


@pytest.mark.parametrize("given", ["{}", "{mode: online}", "[mode]", "online", "[{mode: [a]}, {mode: a}]"])
def test_a_condition_for_the_slice_that_is_none_is_refused(given: str, tmp_path: Path) -> None:
    text = f"strategies: {{s: {{summary: S., path: 'a:B', slice_if: {given}}}}}"
    (tmp_path / "registry.yaml").write_text(text, encoding="utf-8")
    with pytest.raises(BadValue, match=r"s\.slice_if: must be a mapping of parameters to lists of values"):
        read_entries(tmp_path / "registry.yaml", "pkg")


def test_what_the_methods_cost_is_shown(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["show", "mses"]) == 0
    assert "an epoch: 1 forward of the whole meta set" in capsys.readouterr().out
    plan = make_plan(BenchSpec("gblend", baselines=("mses",), seeds=(0,), epochs=1), catalogue())
    assert {"gblend", "mses", "concat", "sum"} <= {p.method for p in plan.runs}
