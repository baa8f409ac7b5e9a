"""What each encoder makes of its input, beyond the contract that all keep."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from mmzoo.api import BadValue, DataModule, Encoder, Incompatible, InputSpec, Loader, MultimodalModel, Run, Training
from mmzoo.core.seeding import seeded, stream
from mmzoo.encoders.cnn import CNN
from mmzoo.encoders.mlp import MLP
from mmzoo.encoders.series import SeriesCNN
from mmzoo.encoders.tokens import TextBag, TextTransformer
from mmzoo.evaluation.scores import evaluate
from mmzoo.heads.channel import Channel
from mmzoo.heads.concat import Concat
from mmzoo.heads.sum import Sum
from mmzoo.strategies.plain import Plain
from mmzoo.testing import SPECS
from mmzoo.testing.harness.cases import draw_inputs


def drawn(kind: str, n: int = 4, seed: int = 0) -> Any:
    return draw_inputs(SPECS[kind], n, stream(seed, "inputs"))


# ---------------------------------------------------------------------- what an encoder is told
def test_a_bare_shape_is_taken_for_the_kind_with_as_many_axes() -> None:
    assert [InputSpec.of((2,) * n).kind for n in (1, 2, 3, 4)] == ["vector", "spectrogram", "image", "video"]
    spec = InputSpec("text", (5,), 9)
    assert InputSpec.of(spec) is spec
    with pytest.raises(BadValue, match=r"\(\) has 0"):
        InputSpec.of(())


def test_an_encoder_refuses_an_input_of_another_kind() -> None:
    for cls, kind in ((MLP, "text"), (CNN, "vector"), (TextBag, "image"), (TextTransformer, "vector")):
        with pytest.raises(Incompatible, match=f"not {kind}"):
            cls(SPECS[kind])
    with pytest.raises(BadValue, match="vocabulary"):
        TextBag(InputSpec("text", (5,)))


def test_data_tells_an_encoder_its_kind_its_shape_and_its_vocabulary() -> None:
    text = {"ids": torch.zeros(4, 6, dtype=torch.int64), "mask": torch.ones(4, 6, dtype=torch.bool)}
    rows = {"train": [0, 1], "slice": [], "holdout": [2], "test": [3]}
    data = DataModule(
        "d",
        {"text": text, "still": torch.zeros(4, 3, 8, 8), "depth": torch.zeros(4, 5, 8, 8)},
        torch.zeros(4).long(),
        2,
        rows,
        "",
        "",
        kinds={"text": "text", "depth": "image"},
        vocabulary={"text": 11},
    )
    assert data.spec("text") == InputSpec("text", (6,), 11)
    assert data.spec("still") == InputSpec("image", (3, 8, 8))
    assert data.only(["text"]).spec("text") == data.spec("text")


# ---------------------------------------------------------------------- video, frame by frame
@pytest.mark.parametrize("temporal", ["mean", "max"])
def test_a_video_is_the_pool_of_its_frames(temporal: Any) -> None:
    with seeded(0, "cnn"):
        encoder = CNN(SPECS["video"], temporal=temporal).eval()
    clip = drawn("video")
    features = torch.stack([encoder(clip[:, t : t + 1]) for t in range(clip.shape[1])])
    pooled = features.mean(0) if temporal == "mean" else features.amax(0)
    assert torch.allclose(encoder(clip), pooled, atol=1e-5)
    # More frames than it was built for: evaluation may read them all.
    assert encoder(torch.cat([clip, clip], 1)).shape == (4, encoder.out_dim)


def test_the_map_of_a_video_has_time_before_height_and_width() -> None:
    encoder = CNN(SPECS["video"]).eval()
    clip = drawn("video")
    state = encoder.run_stage(0, encoder.begin(clip))
    single = encoder.run_stage(0, encoder.begin(clip[:, 1:2]))
    assert encoder.view(state).shape == (4, 16, 3, 16, 16)
    assert torch.allclose(encoder.view(state)[:, :, 1], encoder.view(single)[:, :, 0], atol=1e-6)


def test_pooling_over_time_needs_time() -> None:
    with pytest.raises(BadValue, match="temporal"):
        CNN(SPECS["image"], temporal="max")


# ---------------------------------------------------------------------- what the small ones can learn
def task(kind: str, target: Tensor, seed: int) -> Any:
    """Four classes that a mean over all positions cannot tell apart in a spectrogram (its pitch), that differ in where a
    bright square lies in an image, or in one frame, and in one of twenty words of a text."""
    x, n = drawn(kind, len(target), seed), len(target)
    rows = torch.arange(n)
    if kind == "spectrogram":
        x[rows, 4 + 8 * target] += 2.0
    if kind == "vector":
        x[rows, target] += 3.0
    if kind in ("image", "video"):
        frame = x if kind == "image" else x[:, 1]
        for i, c in enumerate(target.tolist()):
            frame[i, :, 16 * (c // 2) : 16 * (c // 2) + 8, 16 * (c % 2) : 16 * (c % 2) + 8] += 3.0
    if kind == "text":
        x["ids"] = x["ids"].remainder(19) + 4
        x["ids"][:, 0] = target
    return x


SMALL = [
    ("vector", MLP),
    ("spectrogram", CNN),
    ("image", CNN),
    ("video", CNN),
    ("text", TextBag),
    ("text", TextTransformer),
]


@pytest.mark.parametrize(("kind", "cls"), SMALL)
def test_the_small_encoders_learn_in_a_few_epochs(kind: str, cls: Any) -> None:
    target = torch.arange(160).remainder(4)
    with seeded(0, "init"):
        encoder = cls(SPECS[kind])
        model = MultimodalModel({"m": encoder}, Concat({"m": encoder.out_dim}, 4))
    loader = Loader({"m": task(kind, target, 1)}, target, torch.arange(160), batch_size=16)
    run = Run(model, Plain(), train=loader, training=Training(optimizer="adam", lr=0.003, epochs=6))
    for _ in range(6):
        run.train_epoch()
        run.end_epoch()
    fresh = Loader({"m": task(kind, target, 2)}, target, torch.arange(160), batch_size=80)
    assert evaluate(model, Plain(), fresh.batches())["acc"] > 0.95


def test_a_skip_adds_a_linear_map_of_the_input() -> None:
    with seeded(0, "init"):
        encoder = MLP((6,), hidden=(5, 4), width=3, skip=True).eval()
    x = torch.randn(7, 6, generator=stream(0, "x"))
    first = encoder.layers[0](x)
    second = encoder.layers[1](torch.cat([first, x], 1))
    w, linear = encoder.project.weight.split([4, 6], 1)
    torch.testing.assert_close(encoder(x), second @ w.T + x @ linear.T + encoder.project.bias)
    assert encoder.stage_dims == (11, 10) and MLP((6,)).stage_dims == (64,)


@pytest.mark.parametrize("skip", [False, True])
def test_a_bound_is_of_what_hidden_layers_read(skip: bool) -> None:
    with seeded(0, "init"):
        encoder = MLP((6,), hidden=(5, 4), width=3, skip=skip, bound=2.0).eval()
    with seeded(0, "init"):
        free = MLP((6,), hidden=(5, 4), width=3, skip=skip).eval()
    x = 9 * torch.randn(7, 6, generator=stream(0, "x"))
    bent = x / (1 + x.square() / 4).sqrt()
    assert bent.abs().max() < 2 < x.abs().max()
    first = free.layers[0](bent)
    second = free.layers[1](torch.cat([first, bent], 1) if skip else first)
    torch.testing.assert_close(encoder(x), free.project(torch.cat([second, x], 1) if skip else second))
    with pytest.raises(BadValue, match="bound"):
        MLP((6,), bound=-1.0)


def test_dropout_of_a_picture_acts_in_training_alone_and_has_no_weights() -> None:
    with seeded(0, "init"):
        plain = CNN(SPECS["image"]).eval()
    with seeded(0, "init"):
        dropped = CNN(SPECS["image"], dropout=0.5).eval()
    x = drawn("image")
    torch.testing.assert_close(plain(x), dropped(x), rtol=0, atol=0)
    dropped.dropout.train()
    assert not torch.equal(dropped(x), dropped(x))
    plain.train()
    torch.testing.assert_close(plain(x), plain(x), rtol=0, atol=0)


def test_what_a_series_reads_of_its_input_leaves_padding_out() -> None:
    spec = InputSpec("series", (2, 12))
    with seeded(0, "init"):
        encoder = SeriesCNN(spec, pieces=3).eval()
    with torch.no_grad():
        encoder.project.weight[:, : -2 * 5] = 0.0  # what the convolutions give
    x = torch.randn(4, 2, 12, generator=stream(0, "x"))
    mask = torch.arange(12)[None] < torch.tensor([[12], [9], [6], [3]])
    z = encoder({"values": x, "mask": mask})
    alone = [encoder({"values": x[i : i + 1, :, :n], "mask": mask[i : i + 1, :n]}) for i, n in enumerate((12, 9, 6, 3))]
    torch.testing.assert_close(z, torch.cat(alone))
    means = torch.stack([x[i, :, :n].mean(1) for i, n in enumerate((12, 9, 6, 3))])
    stats = torch.linalg.lstsq(encoder.project.weight[:, -10:], (z - encoder.project.bias).T).solution.T
    torch.testing.assert_close(stats[:, :2], means, atol=1e-4, rtol=1e-3)
    with pytest.raises(BadValue, match="pieces"):
        SeriesCNN(spec, pieces=-1)


# ---------------------------------------------------------------------- encoders in a model
def pair(head: Any) -> MultimodalModel:
    encoders: dict[str, Encoder] = {
        "video": CNN(SPECS["video"], width=5),
        "text": TextTransformer(SPECS["text"], dim=8, dropout=0.0),
    }
    return MultimodalModel(encoders, head({m: e.out_dim for m, e in encoders.items()}, 3))


@pytest.mark.parametrize("head", [Sum, Channel])
def test_rows_without_a_modality_are_not_read(head: Any) -> None:
    with seeded(0, "init"):
        model = pair(head).train()
    inputs = {"video": drawn("video"), "text": drawn("text")}
    present = torch.tensor([[True, True], [False, True], [True, False], [True, True]])
    other = {"video": inputs["video"].clone(), "text": {k: t.clone() for k, t in inputs["text"].items()}}
    other["video"][1] = torch.nan
    other["text"]["ids"][2], other["text"]["mask"][2] = 0, False
    first, second = model(inputs, present), model(other, present)
    assert bool(torch.isfinite(first.logits).all()) and torch.equal(first.logits, second.logits)


def test_a_step_through_stages_of_video_and_text() -> None:
    with seeded(0, "init"):
        model = pair(Channel)
    target = torch.tensor([0, 1, 2, 0])
    loss = F.cross_entropy(model({"video": drawn("video"), "text": drawn("text")}).logits, target)
    loss.backward()
    silent = [n for n, p in model.named_parameters() if p.grad is None]
    assert not silent
