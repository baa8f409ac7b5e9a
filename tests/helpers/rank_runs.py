"""Runs over two ranks."""

from __future__ import annotations

import os
from dataclasses import replace
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist

from helpers import data, model, train, weights
from mmzoo.api import Batch, Chain, Incompatible, Run, Strategy, Training
from mmzoo.functional import cosine_similarities, info_nce
from mmzoo.heads.channel import Channel
from mmzoo.heads.concat import Concat
from mmzoo.heads.evidential import Evidential
from mmzoo.heads.shared import Shared
from mmzoo.strategies.agm import AGM
from mmzoo.strategies.domfn import DOMFN
from mmzoo.strategies.dynamic_gap import DynamicGap
from mmzoo.strategies.gblend import GBlend
from mmzoo.strategies.greedy import Greedy
from mmzoo.strategies.joint_unimodal import JointUnimodal
from mmzoo.strategies.mla import MLA
from mmzoo.strategies.mses import MSES
from mmzoo.strategies.mslr import MSLR
from mmzoo.strategies.ogm import OGM
from mmzoo.strategies.pmr import PMR
from mmzoo.strategies.tmc import TMC
from mmzoo.strategies.umt import UMT

STRATEGIES: dict[str, Any] = {
    "plain": Strategy,
    "joint_unimodal": JointUnimodal,
    "ogm": OGM,
    "pmr": lambda: PMR(fraction=1.0),
    "dynamic_gap": DynamicGap,
    "dynamic_gap_kl": lambda: DynamicGap(matching="kl_to_mean"),
    "gblend": lambda: GBlend(warmup=1, super_epoch=1),
    "mses": lambda: MSES(patience=0),
    "mslr": lambda: MSLR(memory=1),
    "mslr_smart": lambda: MSLR(mode="smart", points=2),
    "agm": AGM,
    "agm_detached": lambda: AGM(gradient="detached"),
    "mla": MLA,
    "umt": lambda: UMT(weight=0.5),
    "greedy": lambda: Greedy(epsilon=1e-3, window=2),
    "tmc": TMC,
    "domfn": lambda: DOMFN(pretrain=1, tau=0.01),
}


#: the solves are damped: without damping MINRES amplifies rounding, and sums over two halves round otherwise
STRATEGIES |= {
    f"learned_{name}": lambda given=given: DynamicGap(schedule="learned", upper_batches=2, **given)
    for name, given in {
        "gauss_newton": {"solver": "gauss_newton", "damping": 0.01, "iterations": 10},
        "last": {"scope": "last", "batches": 2, "damping": 1.0},
        "class": {"matching": "class", "unimodal": 1.0, "damping": 1.0},
        "hessian": {"solver": "hessian", "damping": 1.0, "iterations": 30},
        "neumann": {"solver": "neumann", "damping": 1.0, "every": 4},
        "identity": {"solver": "identity"},
        "items": {"items": 4, "damping": 1.0},
        "trained": {"upper": "train", "form": "additive", "damping": 1.0},
        "tangent": {"solver": "tangent"},
    }.items()
}
STRATEGIES["frozen"] = lambda: Chain(MSES(patience=0), DynamicGap(schedule="constant"))
STRATEGIES["released"] = lambda: DynamicGap(
    schedule="released_learned", form="released", matching="kl_to_mean", alpha=0.9
)
#: those that act by what an epoch has shown, and two are not enough
LONGER = {"mses": 4, "mslr": 4, "frozen": 4}
TANGENT: dict[str, Any] = {"schedule": "learned", "solver": "tangent"}
HEADS: dict[str, Any] = {"tmc": Evidential, "mla": Shared, "greedy": Channel, "frozen": Channel}


def batches(part: slice, incomplete: bool = False) -> list[Batch]:
    """Six batches of eight items. incomplete: half of all cells are missing; of the second batch the first process has no
    `a`, of the third nothing, of the fourth neither has anything, and of the fifth neither has `b`."""
    whole = Batch(**data(n=48)).map(lambda t: t.double() if t.is_floating_point() else t)
    if incomplete:
        present = torch.rand(48, 2, generator=torch.Generator().manual_seed(3)) < 0.5
        present[8:12, 0], present[16:20], present[24:32], present[32:40, 1] = False, False, False, False
        whole = replace(whole, present=present)
    found = [whole.map(lambda t, i=i: t[i : i + 8]) for i in range(0, 48, 8)]
    return [b.map(lambda t: t[part]) for b in found]


def trained(name: str, part: slice, incomplete: bool = False) -> dict[str, torch.Tensor]:
    training = Training(lr=0.05, epochs=LONGER.get(name, 2), weight_decay=0.01)
    strategy, own = STRATEGIES[name](), batches(part, incomplete)
    apart = own if "slice" in strategy.requires else None
    r = Run(model(head=HEADS.get(name, Concat)).double(), strategy, train=own, slice=apart, training=training)
    found = weights(train(r, training.epochs).model)
    if name.startswith("learned"):
        found["alpha"] = torch.tensor([strategy.current, strategy.learner.n_unusable], dtype=torch.float64)
    return found


def work(rank: int, port: int, out: str) -> None:
    torch.set_num_threads(1)
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    dist.init_process_group("gloo", rank=rank, world_size=2, timeout=timedelta(seconds=60))
    part = slice(0, 4) if rank == 0 else slice(4, 8)
    mixed = slice(rank, None, 2)  # the first items of the whole batch are then the first ones of both parts
    results: dict[str, Any] = {name: trained(name, mixed if name == "learned_items" else part) for name in STRATEGIES}
    incomplete = {name: trained(name, mixed if name == "learned_items" else part, True) for name in STRATEGIES}
    results |= {f"{name}, incomplete": found for name, found in incomplete.items()}
    z = {
        m: torch.randn(8, 3, generator=torch.Generator().manual_seed(i), dtype=torch.float64)[part].requires_grad_()
        for i, m in enumerate("ab")
    }
    from mmzoo.core.distributed import gather

    loss = info_nce(cosine_similarities({m: gather(x) for m, x in z.items()}, 0.5))
    loss.backward()
    try:
        r = Run(model(norm=True).double(), DynamicGap(**TANGENT), train=batches(part), slice=batches(part))
        results["tangent"] = f"trained in {train(r, 1).n_processes} processes"
    except Incompatible as error:
        results["tangent"] = str(error)
    results["gathered"] = {"loss": loss.detach(), **{m: x.grad / 2 for m, x in z.items()}}
    torch.save(results, f"{out}/{rank}.pt")
    dist.destroy_process_group()
