"""Missing and corrupted test samples: what each corruption does to a sample, and that draws depend on the sample alone."""

from __future__ import annotations

import pytest
import torch

from mmzoo.core.encoder import InputSpec
from mmzoo.core.seeding import stream
from mmzoo.core.values import Batch
from mmzoo.evaluation.corruptions import CORRUPTIONS, SHARES, Corruption, Scale, corrupted, ranks_of, without


def batch(n: int = 6, present: torch.Tensor | None = None) -> Batch:
    g = torch.Generator().manual_seed(0)
    inputs = {"a": torch.randn(n, 4, generator=g), "v": torch.randn(n, 3, 8, 8, generator=g)}
    return Batch(inputs, torch.zeros(n, dtype=torch.long), 10 + torch.arange(n), present)


def named(kind: str, name: str) -> Corruption:
    return next(c for c in CORRUPTIONS[kind] if c.name == name)


def part(of: Batch, rows: slice) -> Batch:
    return Batch({m: x[rows] for m, x in of.inputs.items()}, of.target[rows], of.index[rows])


# ---------------------------------------------------------------------------------------------- missing
def test_each_sample_has_a_place_and_the_order_is_the_modality_s_own() -> None:
    index = torch.tensor([7, 3, 11, 5])
    ranks = ranks_of(index, "a")
    assert sorted(ranks[index].tolist()) == [0, 1, 2, 3]
    assert torch.equal(ranks, ranks_of(index.flip(0), "a"))
    many = torch.arange(100)
    assert not torch.equal(ranks_of(many, "a"), ranks_of(many, "v"))
    assert SHARES[0] == 0.0 and SHARES[-1] == 1.0


def test_a_missing_modality_is_zero_and_said_to_be_absent() -> None:
    given = batch()
    lacks = torch.tensor([True, False, True, False, False, False])
    found = without(given, "v", lacks)
    assert found.present is not None and found.present.tolist() == [[True, not lost] for lost in lacks.tolist()]
    assert not found.inputs["v"][lacks].any() and torch.equal(found.inputs["v"][~lacks], given.inputs["v"][~lacks])
    assert torch.equal(found.inputs["a"], given.inputs["a"]) and given.inputs["v"][0].any()


def test_a_modality_that_the_data_lacks_stays_missing() -> None:
    present = torch.ones(6, 2, dtype=torch.bool)
    present[1, 1] = False
    found = without(batch(present=present), "v", torch.zeros(6, dtype=torch.bool))
    assert found.present is not None and torch.equal(found.present, present)


# ---------------------------------------------------------------------------------------------- scale
@pytest.mark.parametrize(
    ("shape", "axes"), [((5,), (0,)), ((5, 7), (0, 2)), ((3, 4, 6), (0, 2, 3)), ((2, 3, 4, 6), (0, 1, 3, 4))]
)
def test_the_scale_is_that_of_the_samples_which_have_the_modality(
    shape: tuple[int, ...], axes: tuple[int, ...]
) -> None:
    x = torch.randn(9, *shape, generator=torch.Generator().manual_seed(1)) * 3 + 2
    here = torch.tensor([True] * 7 + [False] * 2)
    rows = [slice(0, 4), slice(4, 9)]
    given = [Batch({"a": x[r]}, torch.zeros(1), torch.zeros(1), here[r][:, None]) for r in rows]
    scale = Scale.of(given, "a", InputSpec.of(shape))
    wanted = x[here].double()
    assert torch.allclose(scale.std.double(), wanted.std(axes, correction=0, keepdim=True)[0], atol=1e-6)
    assert torch.allclose(scale.mean.double(), wanted.mean(axes, keepdim=True)[0], atol=1e-6)


# ---------------------------------------------------------------------------------------------- corruptions
def test_noise_depends_on_the_sample_alone_and_grows_with_the_strength() -> None:
    given, noise = batch(), named("vector", "gaussian noise")
    scale = Scale(torch.zeros(4), torch.tensor([1.0, 2.0, 0.0, 4.0]))
    whole = corrupted(given, "a", noise, 0.5, scale).inputs["a"]
    pieces = [corrupted(part(given, s), "a", noise, 0.5, scale).inputs["a"] for s in (slice(0, 1), slice(1, 6))]
    assert torch.equal(whole, torch.cat(pieces))
    drawn = torch.stack([torch.randn(4, generator=stream(0, "stress", noise.name, "a", n)) for n in range(10, 16)])
    assert torch.allclose(whole, given.inputs["a"] + 0.5 * scale.std * drawn)
    more = corrupted(given, "a", noise, 1.0, scale).inputs["a"]
    assert torch.allclose(more - given.inputs["a"], 2 * (whole - given.inputs["a"]), atol=1e-5)
    assert torch.equal(whole[:, 2], given.inputs["a"][:, 2])


def test_a_sample_without_the_modality_is_left_as_it_is() -> None:
    present = torch.ones(6, 2, dtype=torch.bool)
    present[3, 0] = False
    given = batch(present=present)
    found = corrupted(given, "a", named("vector", "gaussian noise"), 1.0, Scale(torch.zeros(4), torch.ones(4)))
    same = (found.inputs["a"] == given.inputs["a"]).all(1)
    assert same.tolist() == [False, False, False, True, False, False]


def spoil(kind: str, name: str, x: torch.Tensor, level: float, scale: Scale | None = None) -> torch.Tensor:
    found: torch.Tensor = named(kind, name).apply(x, level, scale, torch.Generator().manual_seed(3))
    return found


def test_silence_is_one_stretch_of_the_mean() -> None:
    x = torch.randn(5, 20)
    scale = Scale(torch.arange(5.0)[:, None], torch.ones(5, 1))
    found = spoil("spectrogram", "silence", x, 0.4, scale)
    hidden = (found == scale.mean).all(0)
    assert int(hidden.sum()) == 8 and torch.equal(found[:, ~hidden], x[:, ~hidden])
    assert int(hidden.int().diff().abs().sum()) + int(hidden[0]) + int(hidden[-1]) == 2


def test_blur_keeps_what_is_even_and_spreads_a_point() -> None:
    even = torch.full((3, 16, 16), 2.0)
    assert torch.allclose(spoil("image", "gaussian blur", even, 0.08), even)
    point = torch.zeros(1, 33, 33)
    point[0, 16, 16] = 1.0
    found = spoil("image", "gaussian blur", point, 0.04)
    sigma = 0.04 * 33
    window = torch.exp(-0.5 * (torch.arange(-4, 5) / sigma).square())
    window = window / window.sum()
    assert torch.allclose(found[0, 12:21, 12:21], window[:, None] * window[None, :], atol=1e-6)
    video = torch.randn(4, 3, 12, 12)
    frames = torch.stack([spoil("image", "gaussian blur", frame, 0.16) for frame in video])
    assert torch.allclose(spoil("video", "gaussian blur", video, 0.16), frames, atol=1e-6)


def test_low_contrast_shrinks_deviations_from_the_mean_of_a_channel() -> None:
    x = torch.randn(3, 8, 8)
    found = spoil("image", "low contrast", x, 0.75)
    mean = x.mean((-2, -1), keepdim=True)
    assert torch.allclose(found - mean, 0.25 * (x - mean), atol=1e-6)


def text(n: int, length: int) -> dict[str, torch.Tensor]:
    ids = torch.arange(1, length + 1)
    mask = torch.arange(length) < n
    return {"ids": torch.where(mask, ids, 0), "mask": mask}


def test_deleted_tokens_leave_no_hole() -> None:
    found = named("text", "deletion").apply(text(12, 16), 0.4, None, torch.Generator().manual_seed(3))
    kept = found["ids"][found["mask"]].tolist()
    assert len(kept) == 8 and kept == sorted(kept) and kept[0] == 1 and kept[-1] == 12
    assert not found["ids"][8:].any() and found["mask"].tolist() == [True] * 8 + [False] * 8


@pytest.mark.parametrize("name", ["deletion", "shuffling"])
@pytest.mark.parametrize("n", [0, 1, 2])
def test_a_text_without_inner_tokens_stays(name: str, n: int) -> None:
    given = text(n, 4)
    found = named("text", name).apply(given, 0.8, None, torch.Generator().manual_seed(3))
    assert all(torch.equal(found[k], given[k]) for k in given)


def test_shuffled_tokens_are_the_same_tokens() -> None:
    given = text(12, 16)
    found = named("text", "shuffling").apply(given, 0.6, None, torch.Generator().manual_seed(3))
    assert sorted(found["ids"].tolist()) == sorted(given["ids"].tolist()) and torch.equal(found["mask"], given["mask"])
    assert int((found["ids"] != given["ids"]).sum()) == 6 and found["ids"][0] == 1 and found["ids"][11] == 12


def test_every_kind_of_input_has_corruptions_of_five_rising_levels() -> None:
    for kind in ("vector", "spectrogram", "image", "video", "text"):
        for corruption in CORRUPTIONS[kind]:
            assert list(corruption.levels) == sorted(set(corruption.levels)) and len(corruption.levels) == 5
