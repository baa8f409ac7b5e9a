"""Clips: a fixed number of frames out of a video file or a folder of pictures."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from mmzoo.data.fields.files import container_options, decoding, head, pictures
from mmzoo.data.fields.image import Fit, check_form, eight_bits, fitted, open_picture
from mmzoo.data.fields.pixels import Range, check_range
from mmzoo.data.sources.field import Array, Field, MediaFault
from mmzoo.data.sources.source import File, Files, Media
from mmzoo.errors import BadValue, undefined

if TYPE_CHECKING:
    import numpy as np
    from PIL.Image import Image as Picture

#: limits on what is decoded, so that no file takes for ever: pixels of a frame, frames, and pixels altogether
MOST_PIXELS = 1 << 26
MOST_FRAMES = 100_000
MOST_DECODED = 100_000_000_000
#: what is made of one picture
Made = Callable[[Any], Any]


def centres(n: int, among: int) -> list[int]:
    """The middle of each of `n` equal segments of `among` frames; a frame repeats only where among < n."""
    return [min(among - 1, (2 * i + 1) * among // (2 * n)) for i in range(n)]


@dataclass(frozen=True)
class Frames(Field):
    """Frames of one clip in order of time, (frames, size, size, channels) uint8.

    pick: "centres" takes the middle of each of `frames` equal segments; "starts" the first of each, as OGM-GE does for
    Kinetics-Sounds and MLA everywhere; "first" takes the first frames of the clip, as the loaders of
    OGM-GE, PMR, LFM, AMSS and BSS end up doing (they draw indices and then load by position). every: "frame", or "second":
    only the first frame of each second exists, as after the peers' extraction at one frame a second. few: where there are
    fewer than `frames`, "fault" reports the clip as short, "repeat" lets frames repeat. A span [start, end) of a File counts
    in frames of the file (or pictures of the folder). Video is turned upright where the file says so. range: the values that
    become black and white, see Image.
    """

    frames: int = 10
    size: int = 256
    channels: int = 3
    fit: Fit = "crop"
    pick: Literal["centres", "starts", "first"] = "centres"
    every: Literal["frame", "second"] = "frame"
    few: Literal["fault", "repeat"] = "fault"
    range: Range | None = None

    kind = "video"
    later = ("range",)

    def __post_init__(self) -> None:
        check_form(self.size, self.channels, self.fit)
        check_range(self.range)
        if not 1 <= self.frames <= 4096:
            raise BadValue(f"frames must be from 1 to 4096, not {self.frames!r}.")
        for name, value, known in (
            ("pick", self.pick, ("centres", "starts", "first")),
            ("every", self.every, ("frame", "second")),
            ("few", self.few, ("fault", "repeat")),
        ):
            if value not in known:
                raise BadValue(f"{name} must be {' or '.join(known)}, not {value!r}.")

    def arrays(self) -> Mapping[str, Array]:
        return {"": Array((self.frames, self.size, self.size, self.channels), "uint8")}

    def read(self, media: Media) -> Mapping[str, np.ndarray]:
        import numpy as np

        clip = opened(media, self.channels, self.range)
        shown, found = fetched(clip, self.chosen, lambda picture: fitted(picture, self.size, self.fit))
        arrays = {"": np.stack([found[i] for i in shown])}
        if clip.lacks:
            raise MediaFault("short", clip.lacks, arrays)
        if clip.lost:
            raise MediaFault("range", clip.lost, arrays)
        if self.few == "fault" and (there := len(self._there(clip))) < self.frames:
            raise MediaFault("short", f"{there} frames where {self.frames} are asked for", arrays)
        return arrays

    def _there(self, clip: Clip) -> Sequence[int]:
        """The numbers of the frames to choose among, counted within the clip."""
        return range(len(clip))[:: max(1, int(clip.rate)) if self.every == "second" else 1]

    def chosen(self, clip: Clip) -> list[int]:
        """The numbers of the frames to show; they repeat where there are too few. Raises MediaFault where there are none."""
        there, n = self._there(clip), self.frames
        if not there:
            raise MediaFault("short", clip.lacks or "no frame at all")
        if self.pick == "first":
            return [there[min(i, len(there) - 1)] for i in range(n)]
        if self.pick == "starts":
            return [there[i * max(1, len(there) // n) % len(there)] for i in range(n)]
        return [there[i] for i in centres(n, len(there))]


class Clip:
    """Frames that can be counted and fetched by number. rate: frames a second. lacks: in words, what of the span that was
    asked for is not there. lost: in words, what of the content of a frame 8 bits do not hold."""

    rate: float = 1.0
    lacks: str = ""
    lost: str = ""

    def __len__(self) -> int:
        raise undefined(self, "__len__")

    def at(self, wanted: Sequence[int], made: Made) -> dict[int, Any]:
        """number -> `made(picture)` for each wanted frame. Raises MediaFault, or _Fewer once it knows its length better."""
        raise undefined(self, "at")


class _Fewer(Exception):
    """A video has fewer frames than its packets promise; its Clip has learnt how many."""


def opened(media: Media, channels: int, values: Range | None = None) -> Clip:
    """A video file or a span of it, a folder of pictures, or pictures one by one. Raises MediaFault."""
    if isinstance(media, Files):
        if not media.paths:
            raise MediaFault("empty", "a clip of no pictures")
        return _Pictures(media.paths, channels, values)
    if not isinstance(media, File):
        raise MediaFault("value", f"a clip is a file or several, not {type(media).__name__}")
    if media.path.is_dir():
        found = pictures(media.path)
        clip = _Pictures(found[media.start or 0 : media.end], channels, values)
        clip.lacks = _lacks(media, len(found))
        return clip
    start = head(media.path)
    # FFmpeg does not decode an animated WebP, and of a GIF without times (87a) the first frame only.
    if (start[:4] == b"RIFF" and start[8:12] == b"WEBP") or start[:6] == b"GIF87a":
        return _Animation(media, channels, values)
    return _Video(media, channels, values, start)


def listed(folder: Path) -> Media:
    """A folder of frames as what a data set lists: its pictures in order, or the folder itself where there are none."""
    try:
        return Files(tuple(pictures(folder)))
    except MediaFault:
        return File(folder)


def fetched(clip: Clip, pick: Callable[[Clip], list[int]], made: Made) -> tuple[list[int], dict[int, Any]]:
    """The numbers that `pick` chooses, and `made(picture)` by number. Raises MediaFault."""
    try:
        shown = pick(clip)
        return shown, clip.at(shown, made)
    except _Fewer:
        shown = pick(clip)
        return shown, clip.at(shown, made)


def _lacks(media: File, there: int) -> str:
    beyond = media.end is not None and media.end > there
    return f"{there} frames where the span goes to {media.end}" if beyond else ""


class _Pictures(Clip):
    """Pictures on disk. They are taken to be one second apart, as the peers' extraction leaves them."""

    def __init__(self, paths: Sequence[Path], channels: int, values: Range | None) -> None:
        self.paths, self.channels, self.values = paths, channels, values

    def __len__(self) -> int:
        return len(self.paths)

    def at(self, wanted: Sequence[int], made: Made) -> dict[int, Any]:
        found = {}
        for i in sorted(set(wanted)):
            try:
                picture, lost = open_picture(self.paths[i], self.channels, self.values)
                self.lost = self.lost or (lost and f"{self.paths[i].name}: {lost}")
                found[i] = made(picture)
            except MediaFault as fault:
                raise MediaFault(fault.kind, f"{self.paths[i].name}: {fault.message}") from None
        return found


class _Animation(Clip):
    """An animated picture, read by Pillow."""

    def __init__(self, media: File, channels: int, values: Range | None) -> None:
        self.media, self.channels, self.values, self.first = media, channels, values, media.start or 0
        with decoding("the animation"), self._opened() as picture:
            if picture.width * picture.height > MOST_PIXELS:
                raise MediaFault("broken", f"frames of {picture.width}x{picture.height} pixels")
            self.total = min(getattr(picture, "n_frames", 1), MOST_FRAMES)
            picture.load()
            self.rate = 1000 / (picture.info.get("duration") or 1000)
        self.lacks = _lacks(media, self.total)

    def _opened(self) -> Picture:
        from PIL import Image as pil

        return pil.open(self.media.path, formats=["WEBP", "GIF"])

    def __len__(self) -> int:
        last = self.total if self.media.end is None else min(self.total, self.media.end)
        return max(0, last - self.first)

    def at(self, wanted: Sequence[int], made: Made) -> dict[int, Any]:
        found = {}
        with decoding("the animation"), self._opened() as picture:
            for i in sorted(set(wanted)):
                picture.seek(self.first + i)
                found[i] = made(eight_bits(picture.copy(), self.channels, self.values)[0])
        return found


class _Video(Clip):
    """A video file, decoded from its beginning: seeking is inexact in many containers."""

    def __init__(self, media: File, channels: int, values: Range | None, start: bytes) -> None:
        self.media, self.channels, self.values, self.first = media, channels, values, media.start or 0
        self.start = start
        with decoding("the video", start):
            self.total, self.rate = self._count()
        self.lacks = _lacks(media, self.total)

    def __len__(self) -> int:
        last = self.total if self.media.end is None else min(self.total, self.media.end)
        return max(0, last - self.first)

    def _count(self) -> tuple[int, float]:
        """Number of coded frames, which the header of many files does not tell, and frames a second."""
        with _stream(self.media.path) as (container, stream):
            pixels = stream.codec_context.width * stream.codec_context.height
            if not 0 < pixels <= MOST_PIXELS:
                raise MediaFault("broken", f"frames of {pixels} pixels; at most {MOST_PIXELS} are read")
            count = 0
            for packet in container.demux(stream):
                count += packet.size > 0
                if count > MOST_FRAMES or count * pixels > MOST_DECODED:
                    raise MediaFault(
                        "broken", f"more than {count - 1} frames of {pixels} pixels are too much for a clip"
                    )
            return count, float(stream.average_rate or stream.guessed_rate or 1)

    def at(self, wanted: Sequence[int], made: Made) -> dict[int, Any]:
        need, found, seen = {self.first + i for i in wanted}, {}, 0
        with decoding("the video", self.start), _stream(self.media.path) as (container, stream):
            for seen, frame in enumerate(self._frames(container, stream), 1):
                if seen - 1 in need:
                    picture, lost = _upright(frame, self.channels, self.values)
                    self.lost = self.lost or lost
                    found[seen - 1 - self.first] = made(picture)
                    if len(found) == len(need):
                        return found
        if not seen:
            raise MediaFault("broken", "no frame of the video can be decoded")
        self.total, self.lacks = seen, _lacks(self.media, seen)
        raise _Fewer

    def _frames(self, container: Any, stream: Any) -> Iterator[Any]:
        """All frames. Raises MediaFault where more than a tenth of the packets are damaged."""
        import av

        damaged = 0
        for packet in container.demux(stream):
            try:
                frames = packet.decode()
            except av.error.FFmpegError as error:  # players skip a damaged packet
                damaged += 1
                if damaged * 10 > self.total:
                    raise MediaFault("broken", f"{damaged} of {self.total} packets are damaged ({error})") from None
                continue
            for frame in frames:
                if frame.width * frame.height > MOST_PIXELS:
                    raise MediaFault("broken", f"a frame of {frame.width}x{frame.height} pixels")
                yield frame


@contextlib.contextmanager
def _stream(path: Path) -> Iterator[tuple[Any, Any]]:
    import av

    with av.open(str(path), options=container_options()) as container:
        if not container.streams.video:
            raise MediaFault("broken", "the file has no video stream")
        stream = container.streams.video[0]
        stream.codec_context.thread_count = 1  # preparing runs a process a core
        stream.codec_context.options = {"max_pixels": str(MOST_PIXELS)}
        yield container, stream


def _upright(frame: Any, channels: int, values: Range | None) -> tuple[Picture, str]:
    """A frame as it is looked at, as RGB or grey, and in words what 8 bits do not hold of it."""
    from PIL import Image as pil

    grey16 = frame.format.name.startswith("gray16")
    picture: Picture = pil.fromarray(frame.to_ndarray()) if grey16 else frame.to_image()
    turns = {90: pil.Transpose.ROTATE_90, 180: pil.Transpose.ROTATE_180, 270: pil.Transpose.ROTATE_270}
    turn = turns.get(round(frame.rotation) % 360)
    picture = picture if turn is None else picture.transpose(turn)
    return eight_bits(picture, channels, values)
