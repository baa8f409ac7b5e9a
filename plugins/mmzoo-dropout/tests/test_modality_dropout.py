"""What is particular to modality dropout, and the contract checks that every strategy has to pass."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path

import pytest
import torch

from mmzoo.api import Batch, Step
from mmzoo.testing import check_installed, parametrize_with_checks, run_program

_module = pytest.importorskip("mmzoo_dropout.modality_dropout", reason="mmzoo-dropout is not installed")
ModalityDropout = _module.ModalityDropout


@parametrize_with_checks([ModalityDropout, lambda: ModalityDropout(p=0.9)])
def test_contract(check) -> None:  # type: ignore[no-untyped-def]
    check()


class _Run:
    """The little that the hook reads of a run."""

    seed, global_step, device = 3, 7, torch.device("cpu")


@pytest.mark.parametrize("p", [0.0, 0.3, 1.0])
def test_share_of_dropped_features(p: float) -> None:
    n = 4000
    feats = {"a": torch.ones(n, 2), "b": torch.ones(n, 3), "c": torch.ones(n, 1)}
    batch = Batch(feats, torch.zeros(n, dtype=torch.int64), torch.arange(n))
    dropped = ModalityDropout(p=p).features(Step(_Run(), batch), feats)  # type: ignore[arg-type]
    kept = torch.stack([z[:, 0] for z in dropped.values()], 1)
    assert bool((kept.sum(1) >= 1).all()), "an item lost all its modalities"
    expected = (1 - p) + p**3 / 3  # kept by its own draw, or as the one that is spared
    assert float(kept.mean()) == pytest.approx(expected, abs=0.02)


def test_installed_as_a_stranger(tmp_path: Path) -> None:
    """The installed program finds it, says where it is from, and benches it beside the built-in methods."""
    mmzoo = partial(run_program, cwd=tmp_path)
    check_installed("mmzoo-dropout", tmp_path)
    listed = json.loads(mmzoo("list", "methods", "--json"))["methods"]
    assert {e["name"]: e["package"] for e in listed}["modality_dropout"] == "mmzoo-dropout"
    mmzoo(
        "bench",
        "--method",
        "modality_dropout:0-50%+ogm",
        "--no-references",
        "--seeds",
        "1",
        "--epochs",
        "2",
        "--set",
        "modality_dropout.p=0.5",
        "--out",
        "results",
    )
    (row,) = json.loads(mmzoo("report", "results", "--format", "json"))["rows"]
    assert row["status"] == "ok"
    assert row["spec"]["parts"][0]["params"] == {"p": 0.5}
