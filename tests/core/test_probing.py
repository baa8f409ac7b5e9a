"""Whether an encoder can tell two inputs apart."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from mmzoo.core.encoder import Encoder, InputSpec
from mmzoo.core.probing import blind
from mmzoo.encoders.pretrained import Transformer
from mmzoo.registry.plugins import catalogue

SPECS = {
    "vector": InputSpec("vector", (5,)),
    "series": InputSpec("series", (3, 12)),
    "image": InputSpec("image", (3, 32, 32)),
    "spectrogram": InputSpec("spectrogram", (32, 40)),
    "video": InputSpec("video", (2, 3, 32, 32)),
    "text": InputSpec("text", (12,), vocabulary=50),
}
SMALL = {"num_hidden_layers": 2, "hidden_size": 16, "num_attention_heads": 2, "intermediate_size": 24}
T5 = {"d_model": 16, "num_layers": 2, "num_heads": 2, "d_ff": 24, "d_kv": 8}


class Deaf(Encoder):
    """Says the same of everything; zero: only until it is trained."""

    def __init__(self, spec: InputSpec, zero: bool = False) -> None:
        super().__init__()
        self.layer, self.zero, self.out_dim = nn.Linear(spec.shape[-1], 4), zero, 4
        nn.init.zeros_(self.layer.weight)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x if self.zero else torch.ones_like(x))


@pytest.mark.parametrize("name", ["mlp", "cnn", "text_bag", "text_words", "series_cnn", "series_transformer"])
def test_no_encoder_of_ours_is_blind(name: str) -> None:
    entry = catalogue().get("encoders", name)
    for kind in entry.inputs:
        state = torch.get_rng_state()
        encoder = entry.load()(SPECS[kind])
        between = torch.get_rng_state()
        assert not blind(encoder, SPECS[kind]) and encoder.training
        assert torch.equal(between, torch.get_rng_state()) and state is not None


def test_one_that_does_not_use_its_input_is_found() -> None:
    assert blind(Deaf(SPECS["vector"]), SPECS["vector"])
    assert not blind(Deaf(SPECS["vector"], zero=True), SPECS["vector"])


@pytest.mark.parametrize(
    ("model", "config", "pooling"),
    [
        ("bert", SMALL, "cls"),
        ("gpt2", {"n_embd": 16, "n_layer": 2, "n_head": 2}, "last"),
        ("llama", {**SMALL, "num_key_value_heads": 2}, "last"),
        ("t5", T5, "cls"),
        ("bart", {"d_model": 16, "encoder_layers": 2, "encoder_attention_heads": 2, "encoder_ffn_dim": 24}, "cls"),
    ],
)
def test_texts_are_read_where_the_model_has_seen_them(model: str, config: dict[str, Any], pooling: str) -> None:
    pytest.importorskip("transformers")
    spec = SPECS["text"]
    encoder = Transformer(spec, model=model, weights="none", config=config).eval()
    assert encoder.pooling == pooling and not blind(encoder, spec)
    ids = torch.randint(1, 50, (3, 12))
    ids[:, 0] = 7
    mask = torch.arange(12) < torch.tensor([[12], [5], [1]])
    with torch.no_grad():
        whole = encoder({"ids": ids, "mask": mask})
        alone = torch.cat(
            [encoder({"ids": ids[i : i + 1, :n], "mask": mask[i : i + 1, :n]}) for i, n in enumerate((12, 5, 1))]
        )
        state = encoder.begin({"ids": ids, "mask": mask})
        for stage in range(encoder.n_stages):
            state = encoder.run_stage(stage, state)
        torch.testing.assert_close(encoder.finish(state), whole)
    torch.testing.assert_close(whole, alone, atol=2e-5, rtol=1e-4)


def test_a_model_that_takes_the_first_of_what_a_layer_gives_tells_the_samples_of_a_batch_apart() -> None:
    pytest.importorskip("transformers")
    config = {"hidden_size": 16, "n_layer": 2, "n_head": 2}
    encoder = Transformer(SPECS["text"], model="bloom", weights="none", pooling="mean", config=config)
    assert not blind(encoder, SPECS["text"])
    assert encoder.n_stages == 2
