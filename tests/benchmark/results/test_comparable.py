"""Rows that were made while a package replaced functions of torch stand apart, or are marked where all were."""

from __future__ import annotations

from typing import Any

import pytest

from mmzoo.benchmark.results.comparable import separated

PATCHED = ["torch.nn.functional.cross_entropy by evil 1.2"]


def row(label: str, replaced: list[str], **change: Any) -> dict[str, Any]:
    spec = {"data_params": {}, "encoders": {"a": "mlp"}, "training": {"epochs": 2}}
    environment = {"threads": 1, **({"replaced": replaced} if replaced else {})}
    made = {"dataset": "d", "label": label, "status": "ok", "modality": None, "cost": {}, "spec": spec}
    return {**made, "hashes": {"recipe": "r", "split": "s"}, "environment": environment, **change}


def test_rows_of_torch_as_it_is_and_of_one_that_was_replaced_stand_apart() -> None:
    rows, notes = separated([row("a", []), row("b", []), row("c", PATCHED)])
    assert [r["dataset"] for r in rows] == ["d", "d", "d (2: functions of torch replaced by a package)"]
    (note,) = notes
    assert "is not compared with d" in note and PATCHED[0] in note


@pytest.mark.parametrize("replaced", [PATCHED, []])
def test_rows_that_share_what_was_replaced_are_compared_and_marked(replaced: list[str]) -> None:
    rows, notes = separated([row("a", replaced), row("b", replaced), row("c", [], status="failed")])
    assert {r["dataset"] for r in rows} == {"d"}
    assert [PATCHED[0] in n and "may move every row" in n for n in notes] == [True] * bool(replaced)
