"""Two processes with half of each batch take the steps that one process takes with the whole."""

from __future__ import annotations

import os
import socket
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from helpers import data, model, train, weights

from mmzoo.api import Batch, Incompatible, Run, Strategy, Training
from mmzoo.functional import cosine_similarities, info_nce
from mmzoo.heads.concat import Concat
from mmzoo.heads.shared import Shared
from mmzoo.strategies.agm import AGM
from mmzoo.strategies.dynamic_gap import DynamicGap
from mmzoo.strategies.joint_unimodal import JointUnimodal
from mmzoo.strategies.mla import MLA
from mmzoo.strategies.ogm import OGM
from mmzoo.strategies.pmr import PMR

STRATEGIES: dict[str, Any] = {
    "plain": Strategy, "joint_unimodal": JointUnimodal, "ogm": OGM, "pmr": lambda: PMR(fraction=1.0),
    "dynamic_gap": DynamicGap, "dynamic_gap_kl": lambda: DynamicGap(matching="kl_to_mean"),
    "agm": AGM, "agm_detached": lambda: AGM(gradient="detached"), "mla": MLA,
}  # fmt: skip
HEADS: dict[str, Any] = {"mla": Shared}


def batches(part: slice) -> list[Batch]:
    whole = Batch(**data(n=48)).map(lambda t: t.double() if t.is_floating_point() else t)
    found = [whole.map(lambda t, i=i: t[i : i + 8]) for i in range(0, 48, 8)]
    return [b.map(lambda t: t[part]) for b in found]


def trained(name: str, part: slice) -> dict[str, torch.Tensor]:
    training = Training(lr=0.05, epochs=2, weight_decay=0.01)
    r = Run(model(head=HEADS.get(name, Concat)).double(), STRATEGIES[name](), train=batches(part), training=training)
    return weights(train(r, 2).model)


def work(rank: int, port: int, out: str) -> None:
    torch.set_num_threads(1)
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    dist.init_process_group("gloo", rank=rank, world_size=2)
    part = slice(0, 4) if rank == 0 else slice(4, 8)
    results: dict[str, Any] = {name: trained(name, part) for name in STRATEGIES}
    z = {m: torch.randn(8, 3, generator=torch.Generator().manual_seed(i), dtype=torch.float64)[part].requires_grad_()
         for i, m in enumerate("ab")}  # fmt: skip
    from mmzoo.distributed import gather

    loss = info_nce(cosine_similarities({m: gather(x) for m, x in z.items()}, 0.5))
    loss.backward()
    try:
        r = Run(model().double(), DynamicGap(schedule="learned", upper="train"), train=batches(part))
        results["learned"] = f"trained in {r.n_processes} processes"
    except Incompatible as error:
        results["learned"] = str(error)
    results["gathered"] = {"loss": loss.detach(), **{m: x.grad / 2 for m, x in z.items()}}
    torch.save(results, f"{out}/{rank}.pt")
    dist.destroy_process_group()


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


def test_a_learned_alpha_is_refused_in_several_processes(ranks: list[dict[str, Any]]) -> None:
    assert all("not shared out over processes" in rank["learned"] for rank in ranks)


def test_gathered_negatives_give_the_loss_and_gradient_of_the_whole_batch(ranks: list[dict[str, Any]]) -> None:
    z = {m: torch.randn(8, 3, generator=torch.Generator().manual_seed(i), dtype=torch.float64).requires_grad_()
         for i, m in enumerate("ab")}  # fmt: skip
    loss = info_nce(cosine_similarities(z, 0.5))
    loss.backward()
    for rank, part in zip(ranks, (slice(0, 4), slice(4, 8))):
        assert torch.allclose(rank["gathered"]["loss"], loss.detach(), atol=1e-12)
        for m in "ab":
            assert torch.allclose(rank["gathered"][m], z[m].grad[part], atol=1e-12)
