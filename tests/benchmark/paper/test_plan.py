"""`mmzoo reproduce --plan`: the runs that the tables and figures would have, without one of them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mmzoo.benchmark.paper import runs
from mmzoo.benchmark.paper.runs import Budget, run_suite, suite_specs
from mmzoo.benchmark.python import spec_of
from mmzoo.registry import Catalogue

Command = Callable[..., Any]


def test_the_plan_counts_runs_and_writes_nothing(
    mmzoo: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MMZOO_HOME", str(tmp_path / "home"))
    done = mmzoo(
        "reproduce", "all", "--plan", "--fast", "--datasets", "cremad,kinetics_sounds", "--out", tmp_path / "out"
    )
    assert done.code == 0 and done.err == "", done.err
    lines = done.out.splitlines()
    assert lines[0] == (
        "table1: 40 runs (kinetics_sounds (mini) (last epoch) 20 of 2 epochs, cremad (mini) (last epoch) 20 of 2 epochs)"
    )
    assert "fig4: 2 runs, made each time" in lines
    each = [
        int(line.split()[1]) for line in lines if line.startswith(("table", "fig")) and "made each time" not in line
    ]
    (to_do,) = (int(line.split()[2]) for line in lines if line.startswith("To do: "))
    assert 40 <= to_do < sum(each)  # tables share runs
    assert "not known before the first run" in done.out
    assert not (tmp_path / "out").exists() and not (tmp_path / "home").exists()


@pytest.mark.parametrize("name", ["table1", "table4", "fig3"])
def test_the_plan_is_of_the_runs_that_are_made(
    name: str, catalogue: Catalogue, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    called: list[dict[str, Any]] = []

    class Rows(list[Any]):
        asked: dict[str, Any] = {"refused": []}  # noqa: RUF012

    def bench(**given: Any) -> Rows:
        called.append(given)
        return Rows()

    monkeypatch.setattr(runs, "bench", bench)
    budget = Budget(tmp_path, seeds=2)
    run_suite(name, catalogue, budget)
    assert [spec_of(**each) for each in called] == suite_specs(name, catalogue, budget) != []
