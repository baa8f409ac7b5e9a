"""Each check of a data set catches the fault that it is there for."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from helpers.catching import is_caught

from mmzoo.api import DataModule
from mmzoo.registry import Param
from mmzoo.testing.harness.cases import DatasetCase
from mmzoo.testing.harness.report import CHECKS, run_checks

N = 12
DECLARED = {"n_classes": 2, "modalities": {"a": "vector", "b": "vector"}}
PARAMS = {"shift": Param("shift", "int", 0, "of all inputs", (0, 9))}


def load(*, shift: int = 0, **changed: Any) -> DataModule:
    g = torch.Generator().manual_seed(0)
    inputs = {m: torch.randn(N, 3, generator=g) + shift for m in ("a", "b")}
    splits = {"train": range(6), "slice": range(6, 8), "holdout": range(8, 10), "test": range(10, 12)}
    given = {
        "inputs": inputs,
        "target": torch.arange(N) % 2,
        "n_classes": 2,
        "splits": {k: list(v) for k, v in splits.items()},
        "split_hash": "s",
        "recipe_hash": f"r{shift}",
    }
    return DataModule(name="made", **{**given, **changed})


def report(make: Callable[..., Any], *, declared: Any = DECLARED, only: list[str] | None = None) -> Any:
    case = DatasetCase(make, {"shift": 0}, label="made", declared=declared, params=PARAMS)
    return run_checks("dataset", case, only=only)


def draws(**given: Any) -> DataModule:
    return load(**{**given, "inputs": {m: torch.randn(N, 3) for m in ("a", "b")}})


def nan(**given: Any) -> DataModule:
    return load(**given, inputs={"a": torch.full((N, 3), float("nan")), "b": torch.zeros(N, 3)})


FAULTS: list[tuple[str, Callable[..., Any], str]] = [
    ("check_loads", lambda shift: {"a": 1}, "it gives a dict"),
    (
        "check_splits",
        lambda shift: load(splits={"train": [0, 1], "test": [1, 2], "holdout": [3]}),
        "row 1 is in train and in",
    ),
    (
        "check_splits",
        lambda shift: load(splits={"train": [0, 2], "test": [1], "holdout": [3]}),
        "classes without one: [1]",
    ),
    (
        "check_splits",
        lambda shift: load(splits={"train": [0, 1], "eval": [2], "holdout": [3]}),
        "wrong or missing: eval, test",
    ),
    ("check_splits", lambda shift: load(splits={"train": [0, 1], "test": [], "holdout": [99]}), "test has no sample"),
    ("check_values", lambda shift: load(target=torch.arange(N) % 3), "where n_classes is 2"),
    ("check_values", lambda shift: load(inputs={"a": torch.zeros(N - 1, 3)}), "a has 11"),
    ("check_values", nan, "not finite: a"),
    ("check_declared", lambda shift: load(n_classes=3), "n_classes is 3, declared 2"),
    (
        "check_declared",
        lambda shift: load(inputs={"a": torch.zeros(N, 3), "c": torch.zeros(N, 3)}),
        "c is not declared",
    ),
    ("check_repeats", draws, "differs by up to"),
    ("check_hashes", lambda shift: load(shift=shift, recipe_hash="r"), "with shift=1 the samples differ"),
    ("check_batches", lambda shift: Shuffling(**vars(load())), "differs by up to"),
]


class Shuffling(DataModule):
    """Its batches come as the global generator wants."""

    def loader(self, *splits: str, **given: Any) -> Any:
        rows = torch.tensor([int(r) for r in self.splits[splits[0]]])[torch.randperm(len(self.splits[splits[0]]))]
        found = super().loader(*splits, **given)
        found.batches = lambda generator=None: [type("B", (), {"index": rows})()]  # type: ignore[method-assign]
        return found


@pytest.mark.parametrize(("check", "make", "seen"), FAULTS)
def test_a_faulty_data_set_is_caught(check: str, make: Callable[..., Any], seen: str) -> None:
    torch.manual_seed(0)
    is_caught(report(make, only=[check]), check, seen)


def test_a_sound_one_passes_and_every_check_has_caught_a_fault() -> None:
    assert {r.status for r in report(load)} == {"passed"}
    assert {check for check, *_ in FAULTS} == set(CHECKS["dataset"])
