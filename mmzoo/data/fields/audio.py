"""Recordings: spectrograms of a fixed number of samples."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from mmzoo.data.fields.files import container_options, decoding, head
from mmzoo.data.sources.field import Array, Field, MediaFault
from mmzoo.data.sources.source import File, Media
from mmzoo.errors import BadValue, undefined

if TYPE_CHECKING:
    import numpy as np

#: a recording whose loudest sample is below this is silent
SILENT = 1e-4
#: how IRCAM files begin
_IRCAM = (
    b"\x64\xa3\x01\x00",
    b"\x64\xa3\x02\x00",
    b"\x64\xa3\x03\x00",
    b"\x64\xa3\x04\x00",
    b"\x00\x01\xa3\x64",
    b"\x00\x02\xa3\x64",
    b"\x00\x03\xa3\x64",
    b"\x00\x04\xa3\x64",
)
#: the part of the samples that may lie beyond full scale, and how far the loudest may
MOST_CLIPPED, FARTHEST = 0.01, 8.0
#: rates beyond these are those of a damaged header
RATES = (1_000, 768_000)


#: media, and how many samples are wanted at the file's own rate -> the samples and that rate
Reader = Callable[[File, Callable[[int], int]], tuple["np.ndarray", int]]


def samples(media: Media, rate: int, most: int) -> np.ndarray:
    """(n,) float32, the first `most` samples at `rate` Hz, channels averaged; n is smaller where the recording is.

    wav, flac, ogg, aiff, NIST SPHERE, VOC and IRCAM are read by libsndfile, everything else (also the sound of a video file)
    by FFmpeg; what the one cannot read, or finds empty, the other tries. Resampled
    by soxr's high-quality filter, which librosa.load uses too. Reads no more than it needs, whatever the file's header claims.
    Raises MediaFault.
    """
    import numpy as np

    if not isinstance(media, File):
        raise MediaFault("value", f"a recording is one file, not {type(media).__name__}")
    start = head(media.path)
    with decoding("the recording", start):
        readers = (_sndfile, _ffmpeg) if _is_plain(start) else (_ffmpeg, _sndfile)
        sound, given = _first_read(readers, media, lambda own: 1 + (most * own) // rate + own)
        if not np.isfinite(sound).all():
            raise MediaFault("broken", "the recording holds samples that are not finite")
        if len(sound) and given != rate:
            import soxr

            whole = -(-len(sound) * rate // given)
            sound = soxr.resample(sound, given, rate, quality="HQ")[:whole]
            sound = np.pad(sound, (0, whole - len(sound)))  # soxr may give one sample less
    if not len(sound):
        raise MediaFault("empty", "the recording holds 0 samples")
    return np.ascontiguousarray(sound[:most], np.float32)


def _is_plain(start: bytes) -> bool:
    riff = start[:4] in (b"RIFF", b"RIFX", b"RF64") and start[8:12] == b"WAVE"
    ircam = start[:4] in _IRCAM
    return riff or ircam or start.startswith((b"fLaC", b"OggS", b"FORM", b"NIST_1A", b"Creative Voice File"))


def _first_read(readers: Sequence[Reader], media: File, wanted: Callable[[int], int]) -> tuple[np.ndarray, int]:
    """What the first reader gives, or the second where the first fails or finds no sample at all: a recorder that was
    stopped leaves a header that promises none. Raises as the first does where neither can."""
    first: Exception | None = None
    empty: tuple[np.ndarray, int] | None = None
    for read in readers:
        try:
            found = read(media, wanted)
            if len(found[0]):
                return found
            empty = empty or found
        except ImportError:
            raise
        except Exception as error:
            first = first or error
    if empty is not None and (first is None or media.start is None):
        return empty
    assert first is not None
    raise first


def _sndfile(media: File, wanted: Callable[[int], int]) -> tuple[np.ndarray, int]:
    import numpy as np
    import soundfile

    with soundfile.SoundFile(str(media.path)) as file:
        _check_rate(file.samplerate)
        first, last = media.start or 0, media.end if media.end is not None else file.frames
        if first:
            file.seek(min(first, file.frames))
        count = max(0, min(last - first, wanted(file.samplerate)))
        blocks = file.blocks(blocksize=1 << 16, frames=count, dtype="float32", always_2d=True) if count else ()
        parts = [b.mean(axis=1) for b in blocks]  # block by block: a thousand channels need no thousandfold memory
        return (np.concatenate(parts) if parts else np.zeros(0, np.float32)), file.samplerate


def _ffmpeg(media: File, wanted: Callable[[int], int]) -> tuple[np.ndarray, int]:
    import av
    import numpy as np

    with av.open(str(media.path), options=container_options()) as container:
        if not container.streams.audio:
            raise MediaFault("silent", "the file has no audio stream")
        stream = container.streams.audio[0]
        rate = int(stream.rate or 0)
        _check_rate(rate)
        first = media.start or 0
        most = wanted(rate) if media.end is None else min(wanted(rate), max(0, media.end - first))
        resampler = av.AudioResampler(format="fltp", layout=None, rate=None)
        parts, have = [], 0
        for packet in container.demux(stream):
            try:
                frames = packet.decode()
            except av.error.FFmpegError:  # players skip a damaged packet
                continue
            for frame in frames:
                for even in resampler.resample(frame):
                    parts.append(even.to_ndarray().mean(axis=0, dtype=np.float32))
                    have += len(parts[-1])
            if have >= first + most:
                break
    sound = np.concatenate(parts) if parts else np.zeros(0, np.float32)
    return sound[first : first + most], rate


def _check_rate(rate: int) -> None:
    if not RATES[0] <= rate <= RATES[1]:
        raise MediaFault("broken", f"a sampling rate of {rate} Hz cannot be")


def _fitted(sound: np.ndarray, length: int, fill: str) -> np.ndarray:
    """Exactly `length` samples: cut, or repeated from the beginning, or followed by silence."""
    import numpy as np

    if len(sound) >= length:
        return sound[:length]
    return np.resize(sound, length) if fill == "repeat" else np.pad(sound, (0, length - len(sound)))


@dataclass(frozen=True)
class Sound(Field):
    """What the fields of a recording have in common; not a field itself.

    rate: Hz. samples: how many are used, from the beginning. fill: a shorter recording is repeated from its beginning
    ("repeat": np.tile and cut, as all the audio-visual code in this field does) or followed by zeros. least: seconds;
    what is shorter counts as too short. range: the value of full scale, 1 unless a file of fractions holds larger ones.
    """

    rate: int = 16_000
    samples: int = 160_000
    fill: Literal["repeat", "zeros"] = "repeat"
    least: float = 0.05
    range: float = 1.0

    later = ("range",)

    def __post_init__(self) -> None:
        if not RATES[0] <= self.rate <= RATES[1]:
            raise BadValue(f"rate must be from {RATES[0]} to {RATES[1]} Hz, not {self.rate!r}.")
        if not 1 <= self.samples <= 1 << 26:
            raise BadValue(f"samples must be from 1 to {1 << 26}, not {self.samples!r}.")
        if (
            isinstance(self.range, bool)
            or not isinstance(self.range, (int, float))
            or not 0 < self.range < float("inf")
        ):
            raise BadValue(f"range must be a number above 0, the value of full scale, not {self.range!r}.")
        if self.fill not in ("repeat", "zeros"):
            raise BadValue(f"fill must be repeat or zeros, not {self.fill!r}.")

    def of(self, sound: np.ndarray) -> np.ndarray:
        """What is stored of `samples` samples, as float32."""
        raise undefined(self, "of")

    def read(self, media: Media) -> Mapping[str, np.ndarray]:
        import numpy as np

        found = samples(media, self.rate, self.samples)
        found = found if self.range == 1 else found / np.float32(self.range)
        with np.errstate(over="ignore"):
            arrays = {"": self.of(_fitted(found, self.samples, self.fill)).astype(np.float16)}
        if len(found) < self.least * self.rate:
            raise MediaFault("short", f"{len(found) / self.rate:.3f} s of sound, less than {self.least} s", arrays)
        if float(np.abs(found).max()) < SILENT:
            raise MediaFault("silent", f"no sample is louder than {SILENT}", arrays)
        if lost := _clipped(found):
            raise MediaFault("range", lost, arrays)
        return arrays


def _clipped(sound: np.ndarray) -> str:
    """In words, that a recording lies beyond full scale; empty where it does not, or hardly."""
    import numpy as np

    peak, outside = float(np.abs(sound).max()), float((np.abs(sound) > 1).mean())
    if peak <= FARTHEST and outside <= MOST_CLIPPED:
        return ""
    return (
        f"samples up to {peak:.4g}, {100 * outside:.0f} % of them beyond full scale, where they are cut off: give `range:`, the "
        "value of full scale (32768 for samples of the size of 16-bit numbers)"
    )


@dataclass(frozen=True)
class Spectrogram(Sound):
    """Logarithm of a short-time spectrum, (n_fft // 2 + 1, frames) float16.

    The samples are clipped to [-1, 1]; frames of n_fft samples every `hop`; center pads n_fft // 2 zeros on both sides,
    as librosa does by default. spectrum: "magnitude" is abs(librosa.stft(x)) with its Hann window; "density" is what
    scipy.signal.spectrogram gives by default (Tukey window of 0.25, mean of a frame removed, power per Hz). Then
    log(x + floor), and with standardise (x - mean) / (deviation + 1e-9) over the whole map of an item.
    """

    n_fft: int = 512
    hop: int = 159
    center: bool = False
    spectrum: Literal["magnitude", "density"] = "magnitude"
    floor: float = 1e-7
    standardise: bool = False

    kind = "spectrogram"

    def __post_init__(self) -> None:
        super().__post_init__()
        if not (2 <= self.n_fft <= self.samples and self.hop >= 1):
            raise BadValue(
                f"n_fft must be from 2 to the {self.samples} samples and hop from 1, not {self.n_fft!r} and {self.hop!r}."
            )
        if self.spectrum not in ("magnitude", "density"):
            raise BadValue(f"spectrum must be magnitude or density, not {self.spectrum!r}.")
        if not self.floor > 0:
            raise BadValue(f"floor must be above 0 (it is added before the logarithm), not {self.floor!r}.")

    @property
    def frames(self) -> int:
        used = self.samples + (self.n_fft // 2 * 2 if self.center else 0)
        return 1 + (used - self.n_fft) // self.hop

    def arrays(self) -> Mapping[str, Array]:
        return {"": Array((self.n_fft // 2 + 1, self.frames), "float16")}

    def of(self, sound: np.ndarray) -> np.ndarray:
        """The spectrogram (F, T) float32 of `samples` samples."""
        import numpy as np

        x = np.clip(sound, -1.0, 1.0)
        if self.center:
            x = np.pad(x, self.n_fft // 2)
        frames = np.lib.stride_tricks.sliding_window_view(x, self.n_fft)[:: self.hop]
        if self.spectrum == "magnitude":
            value = np.abs(np.fft.rfft(frames * _hann(self.n_fft)))
        else:
            window = _tukey(self.n_fft)
            value = np.abs(np.fft.rfft((frames - frames.mean(axis=1, keepdims=True)) * window)) ** 2
            value /= self.rate * (window**2).sum()
            value[:, 1 : -1 if self.n_fft % 2 == 0 else None] *= 2  # one side carries both, but for 0 Hz and Nyquist
        value = np.log(value.T + self.floor)
        if self.standardise:
            value = (value - value.mean()) / (value.std() + 1e-9)
        return value.astype(np.float32)


@functools.cache
def _hann(n: int) -> np.ndarray:
    """Periodic, as librosa and torch.hann_window have it."""
    import numpy as np

    return 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(n) / n)


@functools.cache
def _tukey(n: int, share: float = 0.25) -> np.ndarray:
    """Periodic Tukey window: flat but for a cosine over `share` of its length."""
    import numpy as np

    at = np.arange(n) / n
    edge = np.minimum(at, 1 - at)
    return np.where(edge < share / 2, 0.5 - 0.5 * np.cos(2 * np.pi * edge / share), 1.0)


@dataclass(frozen=True)
class Filterbank(Sound):
    """Kaldi's logarithmic mel filterbank as the audio spectrogram transformers use it, (bins, frames) float16.

    25 ms Hann frames every 10 ms of the recording less its mean, pre-emphasis 0.97, no dither; cut, or padded with zeros,
    to `frames`; then (x - mean) / (2 * deviation). Computed by transformers.audio_utils, which needs no torchaudio.
    """

    bins: int = 128
    frames: int = 1024
    mean: float = -4.503877
    deviation: float = 5.141276

    kind = "spectrogram"

    def arrays(self) -> Mapping[str, Array]:
        return {"": Array((self.bins, self.frames), "float16")}

    def of(self, sound: np.ndarray) -> np.ndarray:
        import numpy as np
        from transformers.audio_utils import mel_filter_bank, spectrogram

        length, step = self.rate * 25 // 1000, self.rate // 100
        fft = 1 << (length - 1).bit_length()
        window = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(length) / (length - 1))
        with decoding("the recording"):
            filters = mel_filter_bank(
                num_frequency_bins=fft // 2 + 1,
                num_mel_filters=self.bins,
                min_frequency=20,
                max_frequency=self.rate // 2,
                sampling_rate=self.rate,
                norm=None,
                mel_scale="kaldi",
                triangularize_in_mel_space=True,
            )
            value = spectrogram(
                sound - sound.mean(),
                window,
                frame_length=length,
                hop_length=step,
                fft_length=fft,
                power=2.0,
                center=False,
                preemphasis=0.97,
                mel_filters=filters,
                log_mel="log",
                mel_floor=1.192092955078125e-07,
                remove_dc_offset=True,
            )[:, : self.frames]
        value = np.pad(value, ((0, 0), (0, self.frames - value.shape[1])))
        return ((value - self.mean) / (2 * self.deviation)).astype(np.float32)
