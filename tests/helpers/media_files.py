"""Small media files made on the spot, and where real ones lie."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from helpers.places import ROOT

SHARED = ROOT.parent / "shared" / "data"


def real(folder: str) -> Path:
    """Real files of a data set beside the source tree; the test is skipped where there are none."""
    if not (SHARED / folder).is_dir():
        pytest.skip(f"needs the real files in ../shared/data/{folder}, which are not part of mmzoo")
    return SHARED / folder


def tone(seconds: float, rate: int = 16_000, pitch: float = 440.0) -> np.ndarray:
    return 0.5 * np.sin(2 * np.pi * pitch * np.arange(round(seconds * rate)) / rate)


def write_wav(path: Path, sound: np.ndarray, rate: int = 16_000) -> Path:
    import soundfile

    soundfile.write(str(path), sound, rate, subtype="PCM_16")
    return path


def numbered(n: int, size: int = 32) -> np.ndarray:
    """(n, size, size): frame i is grey with the level 8 * i + 16."""
    return np.broadcast_to((8 * np.arange(n) + 16)[:, None, None], (n, size, size)).astype(np.uint8)


def write_video(
    path: Path, frames: np.ndarray, *, rate: int = 10, codec: str = "mpeg4", sound: np.ndarray | None = None
) -> Path:
    """frames: (T, H, W) grey. sound: at 16 kHz, as an mp2 track."""
    import av

    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=rate)
        stream.height, stream.width, stream.pix_fmt = *frames.shape[1:], "yuv420p"
        stream.bit_rate = 4_000_000
        track = None if sound is None else container.add_stream("mp2", rate=16_000, layout="mono")
        for frame in frames:
            picture = av.VideoFrame.from_ndarray(np.repeat(frame[..., None], 3, axis=2), format="rgb24")
            container.mux(stream.encode(picture))
        container.mux(stream.encode(None))
        if track is not None and sound is not None:
            wave = av.AudioFrame.from_ndarray((sound * 32767).astype(np.int16)[None], format="s16", layout="mono")
            wave.sample_rate = 16_000
            container.mux(track.encode(wave))
            container.mux(track.encode(None))
    return path


def write_picture(path: Path, level: int = 128, size: tuple[int, int] = (40, 30)) -> Path:
    from PIL import Image

    Image.new("RGB", size, (level, level, level)).save(path)
    return path
