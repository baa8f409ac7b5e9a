"""The contract checks that every method passes, the recorded numbers, what chains, and the installed package."""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("mmzoo_later", reason="mmzoo-later is not installed")

from later_helpers import started
from mmzoo_later import amss
from mmzoo_later import replays as _replays  # noqa: F401
from mmzoo_later.amss import AMSS
from mmzoo_later.aug import AUG
from mmzoo_later.cml import CML
from mmzoo_later.inforeg import InfoReg
from mmzoo_later.mmcosine import MMCosine
from mmzoo_later.mmpareto import MMPareto
from mmzoo_later.modality_valuation import ModalityValuation
from mmzoo_later.opm import OPM
from mmzoo_later.reconboost import ReconBoost
from mmzoo_later.relearning import Relearning

from mmzoo.api import Chain, Incompatible
from mmzoo.heads.shared import Shared
from mmzoo.heads.sum import Sum
from mmzoo.strategies.gblend import GBlend
from mmzoo.strategies.mla import MLA
from mmzoo.testing import check_installed, check_vectors, parametrize_with_checks, run_program

VECTORS = sorted((Path(__file__).parent / "vectors").glob("*.json"))


@parametrize_with_checks(
    [
        MMPareto,
        lambda: Relearning(every=1, times=2),
        lambda: ModalityValuation(warmup=0),
        lambda: ModalityValuation(warmup=0, level="modality", part=1.0, strength=3.0),
        CML,
        InfoReg,
        lambda: AMSS(mode="amss_plus"),
        AMSS,
    ],
    draws=2,
)
def test_contract(check) -> None:  # type: ignore[no-untyped-def]
    check()


@parametrize_with_checks(
    [lambda: OPM(warmup=0, execute=1.0)],
    draws=2,
    expected_failures={"check_no_waiting": "items of which nothing is left are taken out of the loss by an index"},
)
def test_contract_of_dropping(check) -> None:  # type: ignore[no-untyped-def]
    check()


@parametrize_with_checks([lambda: ReconBoost(alone=1, joint=1)], head=Sum, draws=2)
def test_contract_of_boosting(check) -> None:  # type: ignore[no-untyped-def]
    check()


@parametrize_with_checks([AUG, lambda: AUG(growth="released")], head=Shared, draws=2)
def test_contract_of_growth(check) -> None:  # type: ignore[no-untyped-def]
    check()


@parametrize_with_checks([MMCosine], kind="head", draws=2)
def test_contract_of_the_head(check) -> None:  # type: ignore[no-untyped-def]
    check()


@pytest.mark.parametrize("path", VECTORS, ids=lambda p: p.stem)
def test_recorded_numbers(path: Path) -> None:
    check_vectors(path)


@pytest.mark.parametrize(
    ("parts", "owned"),
    [
        ([AUG, ReconBoost], "predict"),
        ([AUG, MLA], "predict"),
        ([ReconBoost, GBlend], "task"),
        ([MMPareto, MMPareto], "backward"),
        ([ModalityValuation, ModalityValuation], "data"),
    ],
)
def test_two_owners_are_refused(parts: Sequence[Any], owned: str) -> None:
    with pytest.raises(Incompatible, match=owned):
        Chain(*(part() for part in parts))


def test_what_cannot_work_says_why() -> None:
    with pytest.raises(Incompatible, match="Take the head sum or shared"):
        started(ReconBoost())
    with pytest.raises(Incompatible, match=r"head shared or sum"):
        started(AUG())
    with pytest.raises(Incompatible, match="InfoReg got settings for video"):
        started(InfoReg(watch="video"))
    with pytest.raises(Incompatible, match="Give each of them one"):
        started(AUG(weights={"audio": 1.0}), head=Shared)
    for strategy in (MMPareto(), OPM(), ReconBoost(), ModalityValuation(), CML(), InfoReg(), AUG(), AMSS()):
        with pytest.raises(Incompatible, match="at least 2 modalities"):
            started(strategy, 1, Sum)


def test_installed_as_a_stranger(tmp_path: Path) -> None:
    """The installed program finds the package and benches all its methods beside the built-in ones."""
    mmzoo = partial(run_program, cwd=tmp_path)
    check_installed("mmzoo-later", tmp_path)
    listed = json.loads(mmzoo("list", "methods", "--json"))["methods"]
    mine = sorted(e["name"] for e in listed if e["package"] == "mmzoo-later")
    assert len(mine) == 15
    mmzoo(
        "bench",
        "--method",
        "mmpareto",
        "--baselines",
        ",".join([*(n for n in mine if n != "mmpareto"), "opm+amss"]),
        "--no-references",
        "--seeds",
        "1",
        "--epochs",
        "1",
        "--datasets",
        "mfeat",
        "--set",
        "opm.warmup=0",
        "--set",
        "modality_valuation.warmup=0",
        "--set",
        "relearning.every=1",
        "--set",
        "relearning.times=1",
        "--out",
        "results",
    )
    rows = json.loads(mmzoo("report", "results", "--format", "json"))["rows"]
    assert sorted(r["status"] for r in rows) == ["ok"] * 16


def test_the_registry_says_which_strategies_train_in_one_process() -> None:
    from mmzoo.registry import read_entries

    path = Path(amss.__file__).with_name("registry.yaml")
    entries = [e for e in read_entries(path, "mmzoo-later") if e.kind == "strategies"]
    assert {e.name: e.extra.get("single_process", "") for e in entries} == {
        e.name: e.load().single_process for e in entries
    }
