"""Each check of what authors easily forget catches the slip, names the line and the cure."""

from __future__ import annotations

import sys
import textwrap
import warnings
from pathlib import Path
from typing import Any

import pytest
from helpers.slips import SLIPS, START

from mmzoo.registry import user_classes
from mmzoo.testing import check_strategy
from mmzoo.testing.harness import forked
from mmzoo.testing.harness.report import FIRST, Report, run_checks
from mmzoo.testing.targets import find

KEEPS_A_GRAPH = """
    ema = 1.0

    def losses(self, step, out, terms):
        self.spread = step.mean(step.kept(out.logits).square().sum(-1))
        return {**terms, "mine/spread": self.ema * self.spread}

    def updated(self, step, out, terms):
        self.ema = 0.9 * self.ema + 0.1 * self.spread
"""


def _written(folder: Path, body: str) -> Path:
    file = folder / "mine.py"
    file.write_text(START + textwrap.indent(textwrap.dedent(body).strip(), "    ") + "\n")
    return file


@pytest.mark.parametrize("slip", SLIPS)
def test_a_slip_is_caught_with_its_line_and_the_cure(slip: str, tmp_path: Path) -> None:
    check, body, line, cure = SLIPS[slip]
    file = _written(tmp_path, body)
    numbers = [i for i, text in enumerate(file.read_text().splitlines(), 1) if line in text]
    cls = user_classes.load(str(file), "Mine")
    report = check_strategy(cls, only=[check], raise_failures=False)
    assert report.status(check) == "failed", report
    (failed,) = report.failed
    assert any(f"mine.py:{n}" in failed.reason for n in numbers), failed.reason
    assert cure in failed.reason.partition("to do: ")[2], failed.reason


def test_what_is_done_right_passes() -> None:
    from mmzoo.strategies.joint_unimodal import JointUnimodal
    from mmzoo.strategies.mslr import MSLR
    from mmzoo.strategies.ogm import OGM

    names = {check for check, *_ in SLIPS.values()}
    for cls in (OGM, JointUnimodal, MSLR):
        assert check_strategy(cls, only=names - {"check_processes"}, raise_failures=False).ok


def test_where_the_training_of_a_check_raises_the_reason_is_told_too(tmp_path: Path) -> None:
    """One check alone, on a class that no training survives, leads to the line and the cure; torch warns of nothing."""
    file = _written(tmp_path, KEEPS_A_GRAPH)
    cls = user_classes.load(str(file), "Mine")
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        for name in ("check_memory", "check_terms"):
            report = check_strategy(cls, only=[name], raise_failures=False)
            assert [r.name for r in report] == [name, "check_steps"] and len(report.failed) == 2
            assert "self.ema still has the graph" in report[1].reason and "(mine.py:" in report[1].reason
            assert "keep self.ema = (...).detach()" in report[1].reason.partition("to do: ")[2]
    assert not warned


def test_where_no_step_can_be_taken_nothing_else_is_tried() -> None:
    from mmzoo.api import Strategy

    class Stumbles(Strategy):
        def losses(self, step, out, terms):  # type: ignore[no-untyped-def]
            raise ZeroDivisionError

    report: Report = check_strategy(Stumbles, raise_failures=False)
    assert [r.name for r in report] == ["check_steps"] and not report.ok
    assert {"check_steps", "check_modules"} <= set(FIRST)


@pytest.mark.skipif(sys.platform != "linux", reason="processes are copied on Linux alone")
def test_a_copy_of_this_process_answers() -> None:
    from mmzoo.registry.plugins import catalogue

    (target,) = find(catalogue(), "strategies/ogm")
    case = target.case()
    assert forked.ask(_label, (case, 1)) is None
    with forked.cases([target.case]):
        assert forked.ask(_label, (case, 1)) is None
        case.number = 0
        assert forked.ask(_label, (case, 1)) == (("OGM", 1),)
        assert forked.ask(_ends, (case,)) is None  # whoever asks does it otherwise
    told: list[str] = []
    run_checks("strategy", case, only=["check_cost"], progress=told.append)
    assert told == ["check_cost"]


def _label(given: tuple[Any, int]) -> tuple[str, int]:
    return type(given[0].first).__name__, given[1]


def _ends(given: tuple[Any]) -> None:
    raise SystemExit
