"""Recordings in the forms of corpora, with unfinished headers, and beyond full scale."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import pytest

from mmzoo.data.fields.audio import Spectrogram, samples
from mmzoo.data.sources.field import MediaFault
from mmzoo.data.sources.source import File
from mmzoo.errors import BadValue

soundfile = pytest.importorskip("soundfile")
RATE = 16_000
TONE = 0.3 * np.sin(2 * np.pi * 440 * np.arange(1600) / RATE)
FIELD = {"rate": RATE, "samples": 1600, "n_fft": 128, "hop": 64}


@pytest.mark.parametrize("form", ["NIST", "IRCAM", "VOC", "AIFF", "AU", "CAF", "W64", "RF64"])
def test_forms_that_libsndfile_or_ffmpeg_knows(tmp_path: Path, form: str) -> None:
    path = tmp_path / "x.wav"
    soundfile.write(path, TONE, RATE, format=form, subtype="PCM_16")
    found = samples(File(path), RATE, 1600)
    np.testing.assert_allclose(found, TONE[: len(found)], atol=1e-3)
    assert len(found) >= 1590


def test_a_header_that_still_says_zero_samples(tmp_path: Path) -> None:
    path = tmp_path / "x.wav"
    soundfile.write(path, TONE, RATE)
    data = bytearray(path.read_bytes())
    struct.pack_into("<I", data, 4, 0)
    struct.pack_into("<I", data, data.find(b"data") + 4, 0)
    path.write_bytes(data)
    np.testing.assert_allclose(samples(File(path), RATE, 1600), TONE, atol=1e-3)
    soundfile.write(path, TONE[:0], RATE)
    with pytest.raises(MediaFault, match="0 samples") as seen:
        samples(File(path), RATE, 1600)
    assert seen.value.kind == "empty"


def test_fractions_of_the_size_of_integers_are_told_and_range_scales_them(tmp_path: Path) -> None:
    path = tmp_path / "x.wav"
    soundfile.write(path, (TONE * 32768).astype(np.float32), RATE, subtype="FLOAT")
    with pytest.raises(MediaFault, match=r"samples up to 983\d.*`range:`.*32768") as seen:
        Spectrogram(**FIELD).read(File(path))  # type: ignore[arg-type]
    assert seen.value.kind == "range" and seen.value.arrays is not None
    scaled = Spectrogram(**FIELD, range=32768.0).read(File(path))[""]  # type: ignore[arg-type]
    soundfile.write(path, TONE.astype(np.float32), RATE, subtype="FLOAT")
    np.testing.assert_allclose(scaled, Spectrogram(**FIELD).read(File(path))[""], atol=0.02)  # type: ignore[arg-type]
    soundfile.write(path, (TONE * 3.4).astype(np.float32), RATE, subtype="FLOAT")  # a little too loud: no fault
    assert "range" not in Spectrogram().as_dict()
    with pytest.raises(BadValue, match="full scale"):
        Spectrogram(range=0.0)


def test_a_page_in_place_of_a_recording_is_named(tmp_path: Path) -> None:
    (tmp_path / "x.wav").write_bytes(b"<html><body>Too many requests</body></html>")
    with pytest.raises(MediaFault, match="an HTML page, likely of a download that failed"):
        samples(File(tmp_path / "x.wav"), RATE, 1600)
