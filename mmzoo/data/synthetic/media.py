"""Small media files, encoded to the same bytes each time on one machine."""

from __future__ import annotations

import io
from collections.abc import Iterable, Mapping
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

#: MPEG-4 part 2 and Sorenson's H.263, which encode small frames several times faster than H.264
MPEG4 = {"qmin": "2", "qmax": "3"}
FLV = {"qmin": "2", "qmax": "2"}


def wav(path: Path, samples: np.ndarray, rate: int) -> None:
    """samples: (n,) in [-1, 1], written as 16-bit PCM."""
    import soundfile

    buffer = io.BytesIO()  # what libsndfile says of a full disk is no OSError
    soundfile.write(buffer, samples, rate, format="WAV", subtype="PCM_16")
    path.write_bytes(buffer.getvalue())


def jpeg(path: Path, luma: np.ndarray, tint: tuple[int, int] = (128, 128), quality: int = 95) -> None:
    """luma: (H, W) uint8; tint as in `video`."""
    from PIL import Image

    planes = np.stack([luma, *(np.full_like(luma, c) for c in tint)], axis=-1)
    Image.fromarray(planes, mode="YCbCr").save(path, format="JPEG", quality=quality)


def video(
    path: Path,
    frames: np.ndarray,
    *,
    codec: str,
    rate: int,
    options: Mapping[str, str] | None = None,
    order: Iterable[int] | None = None,
    tint: tuple[int, int] = (128, 128),
    sound: np.ndarray | None = None,
    sound_rate: int = 16_000,
) -> None:
    """frames: (T, H, W) uint8, the luma of each pixel; H and W even. order: which of them are shown one after the other
    (default: each once). tint: the two chroma values of every pixel, 128 for
    grey. sound: (n,) in [-1, 1], as an AAC track beside them. The container is that of the file's suffix.
    """
    import av
    from av.codec.context import Flags

    height, width = frames.shape[1:]
    chroma = np.repeat(np.array(tint, np.uint8), height * width // 4).reshape(-1, width)
    buffer = io.BytesIO()
    with av.open(buffer, "w", format=path.suffix[1:], options={"fflags": "+bitexact"}) as container:
        stream: Any = container.add_stream(codec, rate=rate, options=dict(options or {}))
        stream.height, stream.width, stream.pix_fmt = height, width, "yuv420p"
        stream.codec_context.thread_count = 1
        stream.codec_context.flags |= int(Flags.bitexact)
        track: Any = None
        if sound is not None:
            track = container.add_stream("aac", rate=sound_rate, layout="mono", options={"aac_coder": "fast"})
            track.bit_rate = 96_000
            track.codec_context.flags |= int(Flags.bitexact)
        pictures = [av.VideoFrame.from_ndarray(np.concatenate([luma, chroma]), format="yuv420p") for luma in frames]
        for pts, i in enumerate(range(len(frames)) if order is None else order):
            pictures[i].pts, pictures[i].time_base = pts, Fraction(1, rate)
            container.mux(stream.encode(pictures[i]))
        container.mux(stream.encode(None))
        if sound is not None:
            frame = av.AudioFrame.from_ndarray(sound[None].astype(np.float32), format="fltp", layout="mono")
            frame.sample_rate, frame.time_base, frame.pts = sound_rate, Fraction(1, sound_rate), 0
            container.mux(track.encode(frame))
            container.mux(track.encode(None))
    path.write_bytes(buffer.getvalue())
