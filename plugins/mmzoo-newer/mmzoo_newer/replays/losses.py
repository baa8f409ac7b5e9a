"""Replays of the methods that add losses: MBSD."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch

from mmzoo.testing.replay import Case, replays
from mmzoo.testing.replay.harness import terms_of
from mmzoo_newer import mbsd
from mmzoo_newer.replays.common import named


@replays("mbsd", "loss")
def _mbsd(case: Case) -> Iterator[Any]:
    own, fused = named(list(case.real("own"))), case.real("fused")
    terms = terms_of(mbsd.MBSD(), own, fused, case.whole("label"), unimodal=own)
    yield "rs", terms["mbsd/rs"]
    yield "kl", terms["mbsd/kl"]
    yield "loss_fused", terms["task"]
    yield "loss_own", torch.stack([terms[f"mbsd/{m}"] for m in own])
    yield "total", torch.stack(list(terms.values())).sum()
