"""DATASET.train.KEY: settings of training for one data set of a bench."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mmzoo.benchmark.planning.plan import make_plan
from mmzoo.config.spec import BenchSpec
from mmzoo.config.suites import read_suite
from mmzoo.errors import BadValue, MmzooError
from mmzoo.registry import Catalogue


def training(catalogue: Catalogue, **settings: Any) -> Any:
    pairs = tuple((key.replace("__", "."), value) for key, value in settings.items())
    bench = BenchSpec(method="ogm", datasets=("mfeat",), seeds=(0,), references=False, settings=pairs)
    (run,) = make_plan(bench, catalogue).runs
    return run


def test_it_goes_before_the_setting_of_all_data_sets(catalogue: Catalogue) -> None:
    run = training(catalogue, train__lr=0.1, mfeat__train__lr=0.2, train__epochs=3)
    assert (run.spec.training.lr, run.spec.training.epochs) == (0.2, 3)
    assert {"train.lr", "train.epochs"} <= run.fixed


def test_it_gives_the_run_that_the_general_setting_gives(catalogue: Catalogue) -> None:
    assert training(catalogue, mfeat__train__lr=0.2).spec.run_id == training(catalogue, train__lr=0.2).spec.run_id


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("mfeat.train.rate", 1, "no training option 'rate'"),
        ("mfeat.train.lr", -1, "lr must be positive"),
        ("mfeat.train.patience", 3, "--set mfeat.train.patience: it means nothing with train.schedule"),
        ("cremad.train.lr", 0.1, "nothing in this bench uses 'cremad'"),
    ],
)
def test_a_faulty_one_is_refused(catalogue: Catalogue, key: str, value: Any, message: str) -> None:
    bench = BenchSpec(method="ogm", datasets=("mfeat",), references=False, settings=((key, value),))
    with pytest.raises(MmzooError, match=message):
        make_plan(bench, catalogue)


def test_a_suite_takes_it_and_names_the_line_of_a_faulty_one(catalogue: Catalogue, tmp_path: Path) -> None:
    path = tmp_path / "suite.yaml"
    path.write_text("method: ogm\nset:\n  mfeat.train.lr: 0.2\n")
    assert read_suite(path, catalogue)["settings"] == (("mfeat.train.lr", 0.2),)
    path.write_text("method: ogm\nset:\n  mfeat.train.lr: fast\n")
    with pytest.raises(BadValue, match=r"line 3: set.mfeat.train.lr: .*lr must be a number"):
        read_suite(path, catalogue)


def test_the_command_takes_it(mmzoo: Callable[..., Any], tmp_path: Path) -> None:
    done = mmzoo(
        "bench", "--method", "ogm", "--no-references", "--plan", "--set", "mfeat.train.lr=0.25", "--out", tmp_path
    )
    assert done.code == 0 and "lr 0.25" in done.out
