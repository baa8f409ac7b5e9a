"""Contributions and logits against recorded vectors."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any

import pytest
import torch
from helpers.places import VECTORS
from torch import Tensor

from mmzoo.api import Batch, Encoder, MultimodalModel, Strategy
from mmzoo.evaluation.ablations import ablate
from mmzoo.evaluation.contributions import contributions
from mmzoo.evaluation.predictions import Fitted, predict
from mmzoo.heads.concat import Concat


# ---------------------------------------------------------------------- the authors' numbers
class Table:
    """An ablation whose accuracies are given."""

    word, costly = "zero-input", False

    def __init__(self, value: Mapping[str, float]) -> None:
        self._value = {frozenset(filter(None, s.split("+"))): v for s, v in value.items()}
        self.all = max(self._value, key=len)
        self.modalities = tuple(sorted(self.all))

    def accuracy(self, kept: Iterable[str]) -> float:
        return self._value[frozenset(kept)]


@pytest.mark.parametrize("n", ["2", "3"])
def test_contributions_of_the_vector(n: str) -> None:
    vector = json.loads((VECTORS / "shapley.json").read_text())
    table: Any = Table(vector["inputs"][f"v{n}"])
    shares, facts = contributions(table)
    assert shares == pytest.approx(vector["outputs"][f"shapley{n}"], abs=1e-12)
    assert sum(shares.values()) == pytest.approx(facts["all"] - facts["none"], abs=1e-12)
    total = sum(map(abs, shares.values()))
    assert facts["imbalance"] == pytest.approx((max(shares.values()) - min(shares.values())) / total, abs=1e-12)


def test_zero_feature_logits_of_the_vector() -> None:
    vector = json.loads((VECTORS / "concat_sum_unimodal.json").read_text())
    features = {m: torch.tensor(v, dtype=torch.float64) for m, v in vector["inputs"].items()}
    widths = {m: z.shape[1] for m, z in features.items()}
    weight = torch.tensor(vector["params"]["concat"]["fc_out.weight"], dtype=torch.float64)
    bias = torch.tensor(vector["params"]["concat"]["fc_out.bias"], dtype=torch.float64)

    class Given(Encoder):
        def __init__(self, width: int) -> None:
            super().__init__()
            self.out_dim = width

        def forward(self, x: Tensor) -> Tensor:
            return x

    model = MultimodalModel({m: Given(w) for m, w in widths.items()}, Concat(widths, len(bias)).double())
    blocks = dict(zip(widths, weight.split(list(widths.values()), dim=1)))
    model.head.load_state_dict({**{f"weight.{m}": w for m, w in blocks.items()}, "bias": bias})
    n = len(next(iter(features.values())))
    batch = Batch(features, torch.arange(n) % len(bias), torch.arange(n))
    p = predict(model, Strategy(), [batch])
    for word in ("zero-feature", "zero-input"):
        ablation = ablate(word, model, Strategy(), p, Fitted.on(p, len(bias)), lambda: [batch])
        for m in features:
            expected = torch.tensor(vector["outputs"][f"concat_uni_{m}_zerofeat"], dtype=torch.float64)
            assert torch.allclose(ablation.answers([m])[0], expected, atol=1e-12, rtol=0)
