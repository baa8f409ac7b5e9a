"""Recordings: spectrograms against librosa, scipy and torch, and every fault by its kind."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path

import numpy as np
import pytest
from helpers.field_faults import check_form, fault
from helpers.media_files import numbered, real, tone, write_video, write_wav
from hypothesis import given, settings
from hypothesis import strategies as st

from mmzoo.data.datasets.cremad import CremaD
from mmzoo.data.datasets.kinetics_sounds import KineticsSounds
from mmzoo.data.datasets.nvgesture import NVGesture
from mmzoo.data.datasets.sarcasm import Sarcasm
from mmzoo.data.datasets.twitter2015 import Twitter2015
from mmzoo.data.fields.audio import Filterbank, Spectrogram, samples
from mmzoo.data.sources.source import File, Recipe, Source, Text

SOURCES: tuple[type[Source], ...] = (KineticsSounds, CremaD, Sarcasm, Twitter2015, NVGesture)
RECIPES = [(s, r) for s in SOURCES for r in s.recipes().values()]
LFS = "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 132\n"


# ---------------------------------------------------------------------- recipes
@pytest.mark.parametrize(("source", "recipe"), RECIPES, ids=[f"{s.name}-{r.name}" for s, r in RECIPES])
def test_a_recipe_says_who_does_so_and_blanks_have_its_form(source: type[Source], recipe: Recipe) -> None:
    assert recipe.doc and source.recipes()[recipe.name].fields == recipe.fields
    for field in recipe.fields.values():
        check_form(field, field.blank())
        assert field.as_dict()["field"] == type(field).__name__


PUBLISHED = {
    ("cremad", "paper"): (257, 299),
    ("cremad", "ogm"): (257, 188),
    ("cremad", "bss"): (257, 188),
    ("cremad", "mla"): (129, 626),
    ("cremad", "lfm_release"): (257, 1250),
    ("cremad", "pmr"): (257, 1004),
    ("cremad", "pmr_299"): (257, 299),
    ("kinetics_sounds", "paper"): (257, 1004),
    ("kinetics_sounds", "bss"): (257, 1003),
    ("kinetics_sounds", "ogm"): (128, 1024),
    ("kinetics_sounds", "mla"): (128, 1024),
}


@pytest.mark.parametrize(("source", "recipe"), PUBLISHED)
def test_recordings_get_the_shapes_of_the_papers(source: str, recipe: str, tmp_path: Path) -> None:
    field = next(s for s in SOURCES if s.name == source).recipes()[recipe].fields["audio"]
    found = field.read(File(write_wav(tmp_path / "a.wav", tone(2.5))))[""]
    assert found.shape == field.arrays()[""].shape == PUBLISHED[source, recipe]
    assert found.dtype == np.float16


# ---------------------------------------------------------------------- recordings
@settings(max_examples=25, deadline=None)
@given(
    rate=st.sampled_from([8_000, 16_000, 22_050]),
    length=st.integers(600, 30_000),
    n_fft=st.sampled_from([64, 256, 511, 512]),
    hop=st.integers(1, 400),
    center=st.booleans(),
    seed=st.integers(0, 99),
)
def test_a_spectrogram_is_that_of_librosa(
    rate: int, length: int, n_fft: int, hop: int, center: bool, seed: int
) -> None:
    import librosa

    hop = max(hop, length // 500)
    field = Spectrogram(rate, length, n_fft=n_fft, hop=hop, center=center)
    sound = np.random.default_rng(seed).normal(0, 0.6, length)
    wanted = np.log(np.abs(librosa.stft(np.clip(sound, -1, 1), n_fft=n_fft, hop_length=hop, center=center)) + 1e-7)
    assert field.of(sound).shape == field.arrays()[""].shape == wanted.shape
    np.testing.assert_allclose(field.of(sound), wanted, atol=1e-4, rtol=0)


def test_a_density_is_that_of_scipy_by_default() -> None:
    from scipy import signal

    sound = np.random.default_rng(0).normal(0, 0.3, 48_000)
    field = Spectrogram(22_050, 48_000, spectrum="density")
    power = signal.spectrogram(np.clip(sound, -1, 1), 22_050, nperseg=512, noverlap=353)[2]
    np.testing.assert_allclose(field.of(sound), np.log(power + 1e-7), atol=1e-4)
    scaled = dataclasses.replace(field, standardise=True).of(sound)
    assert abs(scaled.mean()) < 1e-5 and abs(scaled.std() - 1) < 1e-5


def test_a_torch_user_gets_the_same_magnitudes() -> None:
    import torch

    sound = np.random.default_rng(0).normal(0, 0.1, 48_000)
    window = torch.hann_window(512, dtype=torch.float64)
    found = torch.stft(torch.from_numpy(sound), 512, 159, window=window, center=False, return_complex=True)
    np.testing.assert_allclose(Spectrogram(samples=48_000).of(sound), (found.abs() + 1e-7).log().numpy(), atol=1e-4)


def test_a_filterbank_is_kaldis(tmp_path: Path) -> None:
    """Against the formula written out: frames less their mean, pre-emphasis, Hann, power, triangles on the mel axis."""
    sound = tone(1.0, pitch=1000) + np.random.default_rng(0).normal(0, 0.01, 16_000)
    path = write_wav(tmp_path / "a.wav", sound)
    field = Filterbank(samples=16_000, frames=100, mean=0.0, deviation=0.5)
    found = field.read(File(path))[""].astype(np.float64)
    x = samples(File(path), 16_000, 16_000).astype(np.float64)
    x -= x.mean()
    frames = np.stack([x[160 * i : 160 * i + 400] for i in range(1 + (len(x) - 400) // 160)])
    frames -= frames.mean(1, keepdims=True)
    frames = np.concatenate([frames[:, :1] * (1 - 0.97), frames[:, 1:] - 0.97 * frames[:, :-1]], axis=1)
    power = np.abs(np.fft.rfft(frames * np.hanning(400), 512)) ** 2
    mel = lambda hz: 1127 * np.log1p(np.asarray(hz) / 700)  # noqa: E731
    edges = np.linspace(mel(20), mel(8000), 130)
    at = mel(np.arange(257) * 16_000 / 512)
    up = (at[:, None] - edges[:-2]) / (edges[1:-1] - edges[:-2])
    down = (edges[2:] - at[:, None]) / (edges[2:] - edges[1:-1])
    wanted = np.log(np.maximum(power @ np.clip(np.minimum(up, down), 0, None), 1.192092955078125e-07)).T
    assert found.shape == (128, 100) and wanted.shape == (128, 98)
    np.testing.assert_allclose(found[:, :98], wanted, atol=0.02)
    assert (found[:, 98:] == 0).all()


def test_a_short_recording_is_repeated_and_a_long_one_cut(tmp_path: Path) -> None:
    sound = np.random.default_rng(0).uniform(-0.9, 0.9, 30_000)
    short, long = write_wav(tmp_path / "s.wav", sound[:7000]), write_wav(tmp_path / "l.wav", sound)
    field = Spectrogram(samples=20_000)
    x = samples(File(short), 16_000, 20_000)
    assert len(x) == 7000
    np.testing.assert_array_equal(field.read(File(short))[""], field.of(np.tile(x, 3)[:20_000]).astype(np.float16))
    np.testing.assert_array_equal(
        field.read(File(long))[""], field.of(samples(File(long), 16_000, 20_000)).astype(np.float16)
    )
    zeros = dataclasses.replace(field, fill="zeros").read(File(short))[""]
    np.testing.assert_allclose(zeros[:, -1], np.log(1e-7), rtol=1e-3)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of what librosa imports
@pytest.mark.parametrize(("rate", "channels"), [(8_000, 1), (44_100, 2), (22_050, 6)])
def test_other_rates_and_channels_are_resampled_and_averaged_as_librosa_does(
    rate: int, channels: int, tmp_path: Path
) -> None:
    import librosa

    sound = np.stack([tone(0.7, rate, 300 + 50 * c) for c in range(channels)], axis=1)
    path = write_wav(tmp_path / "a.wav", sound, rate)
    wanted, _ = librosa.load(path, sr=16_000)
    found = samples(File(path), 16_000, 10**6)
    assert len(found) == len(wanted) == 11_200
    np.testing.assert_allclose(found, wanted, atol=1e-6)
    np.testing.assert_allclose(samples(File(path), 16_000, 4000), wanted[:4000], atol=1e-4)


def test_the_sound_of_a_video_is_heard(tmp_path: Path) -> None:
    path = write_video(tmp_path / "a.mp4", numbered(20), sound=tone(2.0))
    found = samples(File(path), 16_000, 10**6)
    assert 31_000 < len(found) < 34_000
    spectrum = np.abs(np.fft.rfft(found[4000:12_000]))
    assert spectrum.argmax() * 2 == 440


def test_what_is_wrong_with_a_recording_is_told_by_its_kind(tmp_path: Path) -> None:
    field = Spectrogram(samples=48_000)
    (tmp_path / "lfs.wav").write_text(LFS)
    (tmp_path / "empty.wav").write_bytes(b"")
    (tmp_path / "text.wav").write_text("no sound at all " * 50)
    whole = write_wav(tmp_path / "whole.wav", tone(1.0)).read_bytes()
    (tmp_path / "cut.wav").write_bytes(whole[:30])
    write_wav(tmp_path / "nothing.wav", np.zeros(0))
    write_wav(tmp_path / "silent.wav", np.zeros(16_000))
    write_wav(tmp_path / "short.wav", tone(0.02))
    write_video(tmp_path / "mute.mp4", numbered(5))
    os.mkfifo(tmp_path / "pipe.wav")
    kinds = {
        "none.wav": "missing",
        "lfs.wav": "lfs_pointer",
        "empty.wav": "empty",
        "text.wav": "broken",
        "cut.wav": "broken",
        "nothing.wav": "empty",
        "silent.wav": "silent",
        "short.wav": "short",
        "mute.mp4": "silent",
        "pipe.wav": "broken",
        "whole.wav/x.wav": "missing",
    }
    found = {name: fault(field, File(tmp_path / name)) for name in kinds}
    assert {name: f.kind for name, f in found.items()} == kinds
    assert {name for name, f in found.items() if f.arrays is not None} == {"silent.wav", "short.wav"}
    assert "git lfs pull" in found["lfs.wav"].message
    assert fault(field, Text("a")).kind == "value"


def test_a_silent_map_is_constant_and_finite_even_standardised(tmp_path: Path) -> None:
    kept = fault(
        Spectrogram(samples=16_000, standardise=True), File(write_wav(tmp_path / "a.wav", np.zeros(9000)))
    ).arrays
    assert kept is not None and (np.abs(kept[""]) < 1e-5).all()


def test_real_recordings_yield_spectrograms() -> None:
    folder = real("avdigits") / "recordings"
    for path in sorted(folder.glob("*.wav"))[::600]:
        found = Spectrogram(samples=48_000, standardise=True).read(File(path))[""]
        assert found.shape == (257, 299) and abs(float(found.astype(np.float32).mean())) < 0.01
