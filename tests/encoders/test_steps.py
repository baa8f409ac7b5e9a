"""Maps read as sequences, and the LSTMs along them: by hand in numpy, encoders of every kind, whole runs, refusals."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from helpers import NormEncoder, data, loader, train
from helpers.by_hand import cross_entropy, gradient
from helpers.heads_by_hand import C, N, layer, sigmoid
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from mmzoo.api import Batch, Encoder, Incompatible, MultimodalModel, Run, Steps, Strategy, Training
from mmzoo.benchmark.results.store import Store
from mmzoo.encoders.cnn import CNN
from mmzoo.encoders.mlp import MLP
from mmzoo.encoders.tokens import TokenEncoder, Words
from mmzoo.errors import BadValue
from mmzoo.evaluation.scores import evaluate_modalities
from mmzoo.functional import in_steps
from mmzoo.heads.ml_lstm import MLLSTM
from mmzoo.testing import check_encoder

FIXED = settings(derandomize=True, database=None, deadline=None, max_examples=25)
SEEDS = st.integers(0, 10_000)
Command = Callable[..., Any]


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


class Text(TokenEncoder):
    """Tokens with padding: an embedding, one layer on each token, and their mean."""

    def __init__(self, width: int = 4) -> None:
        super().__init__()
        self.embed, self.layer = nn.Embedding(11, width), nn.Linear(width, width)
        self.n_stages, self.stage_dims, self.out_dim = 1, (width,), width

    def begin(self, x: Mapping[str, Tensor]) -> Words:
        return Words(self.embed(x["ids"]), x["mask"])

    def run_stage(self, stage: int, state: Words) -> Words:
        return state._replace(map=self.layer(state.map).tanh())

    def finish(self, state: Words) -> Tensor:
        return in_steps(self.view(state), state.mask, 1)[:, 0]


class Picture(Encoder):
    """Two convolutions and a mean over the picture."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList([nn.Conv2d(2, 3, 3, 2, 1), nn.Conv2d(3, 5, 3, 2, 1)])
        self.n_stages, self.stage_dims, self.out_dim = 2, (3, 5), 5

    def begin(self, x: Tensor) -> Tensor:
        return x

    def run_stage(self, stage: int, state: Tensor) -> Tensor:
        return self.layers[stage](state).relu()

    def finish(self, state: Tensor) -> Tensor:
        return state.mean((2, 3))


# ---------------------------------------------------------------------- a map as a sequence
@FIXED
@given(SEEDS, st.integers(1, 12), st.integers(1, 9), st.integers(1, 3))
def test_without_padding_a_sequence_is_adaptive_average_pooling(seed: int, length: int, steps: int, wide: int) -> None:
    map_ = drawn(2, 3, length, wide, seed=seed)
    expected = F.adaptive_avg_pool1d(map_.flatten(2), steps).transpose(1, 2)
    torch.testing.assert_close(in_steps(map_, None, steps), expected, rtol=0, atol=1e-12)


@FIXED
@given(SEEDS, st.integers(1, 10), st.integers(1, 7))
def test_padding_is_left_out_wherever_it_lies(seed: int, length: int, steps: int) -> None:
    map_, mask = drawn(4, 3, length, seed=seed), drawn(4, length, seed=seed + 1) > 0
    mask[0], mask[1] = True, False
    found = in_steps(map_, mask, steps)
    for row, there, got in zip(map_, mask, found):
        own = row[:, there]
        alone = in_steps(own[None], None, steps)[0] if there.any() else torch.zeros(steps, 3, dtype=got.dtype)
        torch.testing.assert_close(got, alone, rtol=0, atol=1e-12)
    loud = map_.masked_fill(~mask[:, None], 1e6)
    assert torch.equal(in_steps(loud, mask, steps), found)


def test_a_single_position_fills_every_step_and_one_step_is_the_mean() -> None:
    vector, map_ = drawn(2, 3), drawn(2, 3, 4, 5)
    assert torch.equal(in_steps(vector, None, 4), vector[:, None].expand(-1, 4, -1))
    torch.testing.assert_close(in_steps(map_, None, 1)[:, 0], map_.mean((2, 3)), rtol=0, atol=1e-12)


def texts(n: int, generator: torch.Generator) -> dict[str, Tensor]:
    lengths = torch.randint(1, 7, (n, 1), generator=generator)
    return {"ids": torch.randint(11, (n, 6), generator=generator), "mask": torch.arange(6) < lengths}


INPUTS: Any = {"vector": (7,), "picture": (2, 9, 8), "text": texts}
MAKE: Any = {"vector": lambda: MLP((7,), hidden=(6, 5), width=3), "picture": Picture, "text": Text}


@pytest.mark.parametrize("kind", MAKE)
def test_an_encoder_read_in_steps_keeps_the_contract(kind: str) -> None:
    last = {"check_encoder_gradients": "the layer after the stages is not used"} if kind == "vector" else {}
    report = check_encoder(lambda: Steps(MAKE[kind](), 3), inputs=INPUTS[kind], expected_failures=last)
    assert report.ok
    encoder, x = MAKE[kind]().eval(), INPUTS[kind]
    batch = x(4, torch.Generator().manual_seed(0)) if callable(x) else torch.randn(4, *x)
    state = encoder.begin(batch)
    for stage in range(encoder.n_stages):
        state = encoder.run_stage(stage, state)
    steps = Steps(encoder, 3)
    assert steps.out_dim == 3 * encoder.stage_dims[-1]
    assert torch.equal(steps(batch).unflatten(1, (3, -1)), in_steps(encoder.view(state), encoder.mask(state), 3))


def test_an_encoder_may_say_along_what_its_sequence_goes() -> None:
    class Sideways(Picture):
        def sequence(self, state: Tensor, steps: int) -> Tensor:
            return in_steps(state.transpose(2, 3), None, steps)

    encoder, x = Sideways(), torch.randn(2, 2, 8, 8)
    turned = copy.deepcopy(encoder)
    turned.__class__ = Picture
    for conv in turned.layers:
        conv.weight.data = conv.weight.data.transpose(2, 3)  # type: ignore[union-attr, operator]
    torch.testing.assert_close(Steps(encoder, 2)(x), Steps(turned, 2)(x.transpose(2, 3)))
    assert not torch.allclose(Steps(encoder, 2)(x), Steps(turned, 2)(x))


def test_a_spectrogram_is_followed_through_time_and_a_video_frame_by_frame() -> None:
    torch.manual_seed(0)
    heard, seen = CNN((9, 16), widths=(4,)).eval(), CNN((4, 3, 8, 8), widths=(4,)).eval()
    sound, film = torch.randn(1, 9, 16), torch.randn(1, 4, 3, 8, 8)
    for encoder, x, later in ((heard, sound, (..., slice(12, 16))), (seen, film, (slice(None), 3))):
        changed = x.clone()
        changed[later] += 5.0
        before, after = (Steps(encoder, 4)(z).unflatten(1, (4, -1)) for z in (x, changed))
        moved = (before - after).abs().amax(2)[0] > 1e-6
        assert moved.tolist()[-1] and not moved[:2].any()


def test_what_an_encoder_was_told_still_holds() -> None:
    inner = CNN((2, 8, 8), widths=(4, 4)).configure((2, 8, 8), lr_scale=0.1, frozen_stages=1, checkpoint=True)
    steps = Steps(inner, 2).train()
    assert steps.lr_scale == 0.1 and not inner.blocks[0].training and inner.blocks[1].training
    steps(torch.randn(3, 2, 8, 8)).sum().backward()
    assert {n.split(".")[2] for n, p in steps.named_parameters() if p.grad is not None} == {"1"}


def test_what_cannot_be_read_as_a_sequence_is_refused_with_the_reason() -> None:
    class Silent(Picture):
        def __init__(self) -> None:
            super().__init__()
            self.stage_dims = ()

    with pytest.raises(Incompatible, match=r"NormEncoder has no stages\. Take a staged encoder"):
        Steps(NormEncoder(4), 3)
    with pytest.raises(Incompatible, match=r"Silent has no widths of its stages \(stage_dims\)"):
        Steps(Silent(), 3)
    with pytest.raises(BadValue, match="at least one step, not 0"):
        Steps(MLP((4,)), 0)
    with pytest.raises(Incompatible, match=r"sequences of 4 steps, and the features of b are none"):
        MLLSTM({"a": 8, "b": 6}, C, mode="tokens", steps=4)


# ---------------------------------------------------------------------- ML-LSTM in mode tokens
STEPS = 3
OF_STEP = {"a": 2, "b": 4, "c": 3}


def lstm(w: Mapping[str, Any], name: str, steps: list[Any]) -> list[Any]:
    """The hidden states of a cell along a sequence."""
    h = c = np.zeros((len(steps[0]), w[f"{name}.weight_hh"].shape[1]))
    states = []
    for x in steps:
        gates = x @ w[f"{name}.weight_ih"].T + h @ w[f"{name}.weight_hh"].T
        i, f, g, o = np.split(gates + w[f"{name}.bias_ih"] + w[f"{name}.bias_hh"], 4, axis=1)
        c = sigmoid(f) * c + sigmoid(i) * np.tanh(g)
        h = sigmoid(o) * np.tanh(c)
        states.append(h)
    return states


def by_hand(w: Mapping[str, Any], z: Mapping[str, Any]) -> Any:
    along = {m: lstm(w, f"project.{m}", np.split(x, STEPS, axis=1)) for m, x in z.items()}
    steps = [np.concatenate([along[m][t] for m in z], 1) for t in range(STEPS)]
    for k in range(sum(name.startswith("cells.") and name.endswith("weight_ih") for name in w)):
        steps = lstm(w, f"cells.{k}", steps)
    return layer(w, "linear", steps[-1])


@pytest.mark.parametrize(("m", "layers"), [(2, None), (3, None), (2, 2)])
def test_tokens_by_hand(m: int, layers: int | None) -> None:
    torch.manual_seed(m)
    of_step = dict(list(OF_STEP.items())[:m])
    dims = {k: STEPS * d for k, d in of_step.items()}
    head = MLLSTM(dims, C, mode="tokens", steps=STEPS, width=3, layers=layers).double()
    assert [(c.input_size, c.hidden_size) for c in head.cells] == [(3 * m, 3), (3, 3)][: layers or 1]
    assert {k: (c.input_size, c.hidden_size) for k, c in head.project.items()} == {
        k: (d, 3) for k, d in of_step.items()
    }
    z = {k: drawn(N, d, seed=i) for i, (k, d) in enumerate(dims.items())}
    present = torch.ones(N, m, dtype=torch.bool)
    present[0, 0], present[1] = False, False
    w = {k: v.numpy().copy() for k, v in head.state_dict().items()}
    x = {k: v.numpy() * present[:, [i]].numpy() for i, (k, v) in enumerate(z.items())}
    for z_m in z.values():
        z_m.requires_grad_()
    out, target = head(z, present), torch.tensor([0, 1, 2, 0, 1])
    np.testing.assert_allclose(out.logits.detach().numpy(), by_hand(w, x), rtol=0, atol=1e-12)
    for k in z:
        alone = {j: v if j == k else 0 * v for j, v in x.items()}
        np.testing.assert_allclose(out.unimodal[k].detach().numpy(), by_hand(w, alone), rtol=0, atol=1e-12)
    F.cross_entropy(out.logits, target).backward()
    exact = gradient(lambda u: cross_entropy(by_hand(u, x), target.numpy()), w)
    for name, p in head.named_parameters():
        np.testing.assert_allclose(p.grad.numpy(), exact[name], rtol=0, atol=1e-12, err_msg=name)  # type: ignore[union-attr]
        assert np.abs(exact[name]).max() > 0, name


@FIXED
@given(SEEDS, st.floats(1, 1e6))
def test_hidden_states_are_bounded_and_the_order_of_steps_matters(seed: int, size: float) -> None:
    torch.manual_seed(seed)
    dims = {k: STEPS * d for k, d in OF_STEP.items()}
    head = MLLSTM(dims, C, mode="tokens", steps=STEPS).double()
    z = {k: drawn(N, d, seed=seed + i) for i, (k, d) in enumerate(dims.items())}
    out = head(z)
    assert head.cells[0].hidden_size == max(OF_STEP.values())
    assert bool((head({k: size * x for k, x in z.items()}).aux["hidden"].abs() <= 1).all())
    turned = {k: x.unflatten(1, (STEPS, -1)).flip(1).flatten(1) for k, x in z.items()}
    assert not torch.allclose(head(turned).logits, out.logits, atol=1e-6)


def test_text_and_pictures_train_together_and_are_measured_apart() -> None:
    g = torch.Generator().manual_seed(0)
    target = torch.arange(24) % 2
    words = texts(24, g)
    words["ids"][:, 0] = target
    inputs = {"text": words, "picture": torch.randn(24, 2, 9, 8, generator=g) + target[:, None, None, None]}
    torch.manual_seed(0)
    encoders = MLLSTM.readout({"text": Text(), "picture": Picture()}, mode="tokens", steps=4)
    head = MLLSTM({m: e.out_dim for m, e in encoders.items()}, 2, mode="tokens", steps=4)
    m = MultimodalModel(encoders, head)
    assert m.head.dims == {"text": 16, "picture": 20} and not head.couples
    batch = Batch(inputs, target, torch.arange(24))
    r = train(Run(m, Strategy(), train=[batch], training=Training(optimizer="adam", lr=0.02, epochs=60)), 60)
    scores = evaluate_modalities(m, r.strategy, train=lambda: [batch], test=lambda: [batch])
    assert scores["acc"] > 0.9 and not scores["undefined"]
    assert scores["modalities"]["text"]["own"]["word"] == "ablated"


def test_a_readout_belongs_to_the_mode() -> None:
    encoders = {"a": MLP((4,)), "b": MLP((3,))}
    assert MLLSTM.readout(encoders) is encoders
    assert {m: e.out_dim for m, e in MLLSTM.readout(encoders, mode="tokens").items()} == {"a": 512, "b": 512}


def test_the_recipe_runs_and_teachers_of_other_features_are_refused(mmzoo: Command, tmp_path: Any) -> None:
    done = mmzoo(
        "bench",
        "--method",
        "ml_lstm_tokens",
        "--baselines",
        "dynamic_gap_lb@ml_lstm,umt@ml_lstm",
        "--seeds",
        "1",
        "--epochs",
        "2",
        "--set",
        "ml_lstm.mode=tokens",
        "--set",
        "ml_lstm.steps=2",
        "--no-references",
        "--out",
        tmp_path,
    )
    assert done.code == 0, done.err
    rows = {r["label"].partition("[")[0]: r for r in Store(tmp_path).rows()[0]}
    own = rows["ml_lstm_tokens"]
    assert own["status"] == "ok" and own["spec"]["head_params"]["steps"] == 2
    assert math.isfinite(own["metrics"]["acc"]) and own["metrics"]["n_scored"] == 500
    assert rows["dynamic_gap_lb@ml_lstm"]["status"] == "ok"
    assert rows["umt@ml_lstm"]["status"] == "refused" and "have width 128" in rows["umt@ml_lstm"]["reason"]


def test_parameters_that_no_sequence_reads_do_not_move() -> None:
    encoders = MLLSTM.readout({"a": MLP((4,)), "b": MLP((3,))}, mode="tokens", steps=2)
    m = MultimodalModel(encoders, MLLSTM({k: e.out_dim for k, e in encoders.items()}, 3, mode="tokens", steps=2))
    before = copy.deepcopy(m.state_dict())
    train(Run(m, Strategy(), train=loader(), training=Training(lr=0.1, epochs=1)), 1)
    still = {n for n, t in m.state_dict().items() if torch.equal(t, before[n])}
    assert still == {f"encoders.{k}.encoder.project.{p}" for k in "ab" for p in ("weight", "bias")}
    assert data()["inputs"].keys() == m.encoders.keys()
