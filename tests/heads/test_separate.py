"""Separate and evidential heads: by hand, and what they refuse."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from helpers.evidence_runs import rows, run_of

from mmzoo.api import Incompatible
from mmzoo.cli import main
from mmzoo.heads.evidential import Evidential
from mmzoo.heads.separate import Separate
from mmzoo.strategies.tmc import TMC


# ---------------------------------------------------------------------- heads, contract, catalogue
@pytest.mark.parametrize("join", ["concat", "mean", "max"])
@pytest.mark.parametrize("hidden", [0, 5])
def test_separate_by_hand(join: Any, hidden: int) -> None:
    dims = {"a": 4, "v": 4, "t": 4}
    head = Separate(dims, 3, join=join, hidden=hidden).double()
    feats = {m: rows(i, 2, 4) for i, m in enumerate(dims)}
    present = torch.tensor([[True, False, True], [True, True, True]])
    out, w = head(feats, present), {n: p.detach().numpy() for n, p in head.named_parameters()}
    for i, here in enumerate(present.tolist()):
        z = {m: feats[m][i].numpy() * is_there for (m, is_there) in zip(dims, here)}
        there = np.stack([z[m] for m, is_there in zip(dims, here) if is_there])
        if join == "concat":
            x = sum(w[f"blocks.weight.{m}"] @ z[m] for m in dims) + w["blocks.bias"]
        else:
            x = w["joint.0.weight"] @ (there.mean(0) if join == "mean" else there.max(0)) + w["joint.0.bias"]
        if hidden:
            last = "joint.1" if join == "concat" else "joint.2"
            x = w[f"{last}.weight"] @ np.maximum(x, 0) + w[f"{last}.bias"]
        np.testing.assert_allclose(out.logits[i].detach(), x, atol=1e-12)
        np.testing.assert_allclose(out.unimodal["t"][i].detach(), w["linear.t.weight"] @ z["t"] + w["linear.t.bias"])


def test_what_the_heads_refuse() -> None:
    with pytest.raises(Incompatible, match="Rename the modality, or take pseudo=false"):
        Evidential({"a": 3, "pseudo": 3}, 2, pseudo=True)
    assert Evidential({"a": 3, "pseudo": 3}, 2).modalities == ("a", "pseudo")
    with pytest.raises(Incompatible, match="join=max needs features of one width"):
        Separate({"a": 3, "v": 4}, 2, join="max")


def test_tmc_without_opinions_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(Incompatible, match="Use head evidential"):
        run_of(TMC(), ("a", "v"), Separate)
    assert main(["bench", "--method", "tmc@concat", "--plan"]) != 0
    printed = capsys.readouterr()
    assert (
        "needs a head that gives opinions (logits that are log alpha); head concat does not"
        in printed.out + printed.err
    )
