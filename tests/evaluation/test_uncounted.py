"""A count of operations never costs a run: views of parameters reach submodules, and some models cannot be counted."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from mmzoo.api import Batch, Encoder, InputSpec, MultimodalModel, Strategy, complexity
from mmzoo.encoders.backbones import Timm
from mmzoo.encoders.pretrained import Transformer
from mmzoo.heads.concat import Concat


class Queries(Encoder):
    """Learned queries, a view of a parameter, go into an attention layer."""

    def __init__(self, width: int = 8) -> None:
        super().__init__()
        self.lift, self.queries = nn.Linear(1, width), nn.Parameter(torch.randn(3, width))
        self.look, self.out_dim = nn.MultiheadAttention(width, 2, batch_first=True), width

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.lift(x[..., None])
        return self.look(self.queries.expand(len(x), -1, -1), tokens, tokens)[0].mean(1)


class Token(Encoder):
    """A slice of a parameter goes through a linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.table, self.layer, self.out_dim = nn.Parameter(torch.randn(4, 5)), nn.Linear(5, 3), 3

    def forward(self, x: Tensor) -> Tensor:
        return x[:, :1] + self.layer(self.table[1:2].view(1, 5))


class Uncountable(Encoder):
    """A model that refuses to run under another dispatch mode."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.out_dim = nn.Linear(4, 3), 3

    def forward(self, x: Tensor) -> Tensor:
        if torch.utils._python_dispatch._get_current_dispatch_mode() is not None:
            raise ValueError("no place for this mode\nsecond line")
        return self.layer(x)


def counted(encoder: Encoder, x: Any) -> dict[str, Any]:
    model = MultimodalModel({"x": encoder}, Concat({"x": encoder.out_dim}, 3))
    return complexity(model, Strategy(), Batch({"x": x}, torch.zeros(2, dtype=torch.int64), torch.arange(2)))


def linear(n_in: int, n_out: int) -> int:
    return 2 * n_in * n_out


def test_learned_queries_and_slices_by_hand() -> None:
    found = counted(Queries(), torch.randn(2, 4))["groups"]["encoder:x"]["flops"]
    projections = 4 * linear(1, 8) + 3 * linear(8, 8) + 4 * 2 * linear(8, 8) + 3 * linear(8, 8)
    assert found == projections + 2 * 2 * 3 * 4 * 8
    assert counted(Token(), torch.randn(2, 4))["groups"]["encoder:x"]["flops"] == linear(5, 3)


@pytest.mark.parametrize("name", ["cait_xxs24_224", "pit_ti_224"])
def test_timm_models_with_a_class_token(name: str) -> None:
    spec = InputSpec("image", (3, 32, 32))
    assert counted(Timm(spec, model=name, weights="none"), spec.example())["flops"] > 0


def test_disentangled_attention(tmp_path: Path) -> None:
    from transformers import DebertaConfig

    small = {"vocab_size": 40, "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    positions = {"relative_attention": True, "max_relative_positions": 8, "pos_att_type": ["p2c", "c2p"]}
    DebertaConfig(**small, intermediate_size=16, **positions).save_pretrained(tmp_path)
    spec = InputSpec("text", (6,), vocabulary=40)
    encoder = Transformer(spec, model=str(tmp_path), weights="none")
    assert counted(encoder, spec.example())["flops"] > 0


def test_a_model_that_cannot_be_counted_keeps_its_size_and_says_why() -> None:
    assert counted(Uncountable(), torch.randn(2, 4)) == {
        "parameters": 4 * 3 + 3 + 3 * 3 + 3,
        "uncounted": "ValueError: no place for this mode",
    }
