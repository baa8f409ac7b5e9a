"""Replays of methods that learn from models of one modality each: UMT and UME."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmzoo.core.encoder import Encoder
from mmzoo.core.model import MultimodalModel
from mmzoo.core.values import Batch, Outputs
from mmzoo.errors import BadValue
from mmzoo.heads.concat import Concat
from mmzoo.strategies.ume import UME, Average
from mmzoo.strategies.umt import UMT, distances
from mmzoo.testing.replay.harness import step_of
from mmzoo.testing.replay.registry import Case, real, replays
from mmzoo.training.run import Run


class Columns(Encoder):
    """Hands on some columns of its input, so that a student and its teacher can see one item differently."""

    def __init__(self, first: int, width: int) -> None:
        super().__init__()
        self.columns = slice(first, first + width)
        self.out_dim = width
        self.unused = nn.Parameter(torch.zeros(1))

    def forward(self, x: Tensor) -> Tensor:
        return x[:, self.columns]


def listed(case: Case, key: str) -> dict[str, Tensor]:
    """One block of numbers a modality; the vector gives them no names."""
    blocks = case.inputs.get(key)
    if not isinstance(blocks, list) or not blocks:
        raise BadValue(f"{key} is not a list with one block per modality")
    return {f"m{i}": real(block, key) for i, block in enumerate(blocks)}


def of(first: dict[str, int], widths: dict[str, int], n_classes: int) -> MultimodalModel:
    encoders = {m: Columns(first[m], width) for m, width in widths.items()}
    return MultimodalModel(encoders, Concat(widths, n_classes)).double()


@replays("umt")
def _umt(case: Case) -> Iterator[Any]:
    student, teacher, fused = listed(case, "student"), listed(case, "teacher"), case.real("fused_logits")
    if student.keys() != teacher.keys():
        raise BadValue("student and teacher must have the same number of modalities")
    widths, label = {m: z.shape[1] for m, z in student.items()}, case.whole("label")
    inputs = {m: torch.cat([z, teacher[m]], 1) for m, z in student.items()}
    batch, n_classes = Batch(inputs, label, torch.arange(len(label))), fused.shape[1]
    taught = {m: of(widths, {m: width}, n_classes) for m, width in widths.items()}
    strategy = UMT(weight=case.number("scaling"))
    run = Run(of(dict.fromkeys(widths, 0), widths, n_classes), strategy, train=[batch], teachers=taught)
    terms = strategy.losses(step_of(run), Outputs(fused, student, {}), {"task": F.cross_entropy(fused, label)})
    yield "ce", terms["task"]
    yield "mse", torch.stack([distances(student[m], teacher[m]).mean() for m in student])
    yield "loss", sum(terms.values())
    alone = listed(case, "uni_logits")
    averages: dict[str, Average] = {"ume_mean_logits": "logits", "ume_mean_probs": "probs"}
    for path, average in averages.items():
        out = UME(average=average).predict(Outputs(fused, {}, alone))
        yield path, out.logits if average == "logits" else out.scores
