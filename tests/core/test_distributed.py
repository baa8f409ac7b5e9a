"""Two processes with half of each batch take the steps that one process takes with the whole."""

from __future__ import annotations

import socket
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.multiprocessing as mp
from helpers.rank_runs import STRATEGIES, trained, work

from mmzoo.functional import cosine_similarities, info_nce


@pytest.fixture(scope="module")
def ranks(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    out = tmp_path_factory.mktemp("ranks")
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    mp.spawn(work, args=(port, str(out)), nprocs=2)
    return [torch.load(Path(out) / f"{rank}.pt", weights_only=True) for rank in (0, 1)]


@pytest.mark.parametrize("name", list(STRATEGIES))
def test_two_processes_equal_one(ranks: list[dict[str, Any]], name: str) -> None:
    alone = trained(name, slice(None))
    for rank in ranks:
        for key, value in alone.items():
            assert torch.allclose(value, rank[name][key], rtol=0, atol=1e-10), f"{name}: {key}"


@pytest.mark.parametrize("name", list(STRATEGIES))
def test_two_processes_equal_one_on_incomplete_items(ranks: list[dict[str, Any]], name: str) -> None:
    alone = trained(name, slice(None), incomplete=True)
    for rank in ranks:
        for key, value in alone.items():
            assert torch.allclose(value, rank[f"{name}, incomplete"][key], rtol=0, atol=1e-10), f"{name}: {key}"


def test_a_learned_alpha_moves(ranks: list[dict[str, Any]]) -> None:
    """Or else the equality above would say nothing of the solves."""
    moved = [name for name in STRATEGIES if name.startswith("learned") and abs(ranks[0][name]["alpha"][0] - 0.5) > 1e-4]
    assert len(moved) == 9


def test_the_tangent_is_refused_where_each_process_has_running_statistics_of_its_own(
    ranks: list[dict[str, Any]],
) -> None:
    assert all("differ from process to process" in rank["tangent"] for rank in ranks)


def test_gathered_negatives_give_the_loss_and_gradient_of_the_whole_batch(ranks: list[dict[str, Any]]) -> None:
    z = {
        m: torch.randn(8, 3, generator=torch.Generator().manual_seed(i), dtype=torch.float64).requires_grad_()
        for i, m in enumerate("ab")
    }
    loss = info_nce(cosine_similarities(z, 0.5))
    loss.backward()
    for rank, part in zip(ranks, (slice(0, 4), slice(4, 8))):
        assert torch.allclose(rank["gathered"]["loss"], loss.detach(), atol=1e-12)
        for m in "ab":
            assert torch.allclose(rank["gathered"][m], z[m].grad[part], atol=1e-12)
