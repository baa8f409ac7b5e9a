"""Runs with the channel head."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from helpers import data
from mmzoo.api import Loader, MultimodalModel, Run, Strategy, Training
from mmzoo.encoders.mlp import MLP
from mmzoo.heads.channel import Channel


def bench_run(
    strategy: Strategy, head: type = Channel, present: Tensor | None = None, n: int = 2, **options: Any
) -> Run:
    torch.manual_seed(0)
    widths = dict(zip("abcd", (4, 3, 5, 2)[:n]))
    encoders = {m: MLP((w,), hidden=(6, 5), width=4) for m, w in widths.items()}
    model = MultimodalModel(encoders, head(dict.fromkeys(widths, 4), 3, **options))
    loader = Loader(**data(n=40, widths=widths), present=present, batch_size=8)
    return Run(model, strategy, train=loader, training=Training(lr=0.05, epochs=4))
