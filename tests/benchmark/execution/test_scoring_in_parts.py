"""Every sample is scored once, whatever the number of processes."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from mmzoo.api import Batch, Loader, MultimodalModel, Run, Strategy
from mmzoo.core import distributed
from mmzoo.encoders.mlp import MLP
from mmzoo.errors import BadValue
from mmzoo.evaluation.predictions import predict
from mmzoo.heads.concat import Concat
from mmzoo.testing.harness.ranks import in_processes


# ---------------------------------------------------------------------- what processes make of their parts
def parts_of(n: int) -> Loader:
    g = torch.Generator().manual_seed(0)
    x = {m: torch.randn(n, 4, generator=g, dtype=torch.float64) for m in "ab"}
    present = torch.rand(n, 2, generator=g) > 0.2
    return Loader(x, torch.arange(n) % 3, torch.arange(n) * 2, present, batch_size=4)


def model_of() -> MultimodalModel:
    torch.manual_seed(0)
    encoders = {m: MLP((4,), hidden=(5,), width=3) for m in "ab"}
    return MultimodalModel(encoders, Concat({m: 3 for m in "ab"}, 3)).double()


def pooled(n: int) -> dict[str, Any]:
    """In one of several processes: predictions on all parts, and means of what each has."""
    rank, of = distributed.share()
    model = model_of()
    p = predict(model, Strategy(), parts_of(n).part(rank, of).batches()).pooled()
    norm = torch.nn.BatchNorm1d(2)
    norm.running_mean.fill_(rank), norm.num_batches_tracked.fill_(7)
    distributed.average_buffers(norm)
    logged = distributed.mean_values({"both": float(rank), **({"second": 3.0} if rank else {})})
    return {
        "scores": p.scores,
        "index": p.index,
        "present": p.present,
        "own": p.unimodal["a"],
        "mean": norm.running_mean,
        "seen": int(norm.num_batches_tracked),
        "logged": logged,
    }


@pytest.mark.parametrize("n", [8, 13])
def test_every_item_is_scored_once_whatever_the_number(n: int) -> None:
    whole = pooled(n)
    assert whole["index"].tolist() == list(range(0, 2 * n, 2))
    for found in in_processes(pooled, n):
        assert torch.equal(found["index"], whole["index"]) and torch.equal(found["present"], whole["present"])
        for key in ("scores", "own"):
            torch.testing.assert_close(found[key], whole[key], rtol=0, atol=1e-12)
        assert found["mean"].tolist() == [0.5, 0.5] and found["seen"] == 7
        assert found["logged"] == {"both": 0.5, "second": 3.0}


def test_fewer_items_than_processes_are_refused() -> None:
    with pytest.raises(BadValue, match="1 samples cannot be shared among 2 processes"):
        parts_of(1).part(0, 2)
    loader = parts_of(5)
    assert loader.part(0, 1) is loader


def test_drawing_is_seen_and_changes_nothing() -> None:
    from mmzoo.benchmark.execution.process_notes import draws

    batch = next(parts_of(8).batches())
    assert isinstance(batch, Batch)
    run = Run(model_of(), Strategy(), train=[batch])
    before = torch.get_rng_state()
    assert not draws(run, batch) and torch.equal(torch.get_rng_state(), before)
