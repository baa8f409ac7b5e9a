"""Pictures: one array of uint8, whatever the file holds."""

from __future__ import annotations

import io
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

from mmzoo.data.fields.files import decoding, head
from mmzoo.data.fields.pixels import LEAST_LEVELS, Range, check_range, deep, stretched, to_8_bits
from mmzoo.data.sources.field import Array, Field, MediaFault
from mmzoo.data.sources.source import File, Media
from mmzoo.errors import BadValue

if TYPE_CHECKING:
    import numpy as np
    from PIL.Image import Image as Picture

#: pixels of the largest picture that is decoded (8192 x 8192); what claims more would take gigabytes
MOST_PIXELS = 1 << 26
#: bytes of a file that is read whole
LARGEST = 1 << 28
#: no format of Pillow's that starts another program or reads other files
FORMATS = ("JPEG", "PNG", "GIF", "WEBP", "BMP", "TIFF", "PPM", "AVIF")
#: EXIF orientation -> how the picture is turned upright
_TURNS = {
    2: "FLIP_LEFT_RIGHT",
    3: "ROTATE_180",
    4: "FLIP_TOP_BOTTOM",
    5: "TRANSPOSE",
    6: "ROTATE_270",
    7: "TRANSVERSE",
    8: "ROTATE_90",
}
#: chunks of a PNG that its pixels need
_PIXEL_CHUNKS = (b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND")
Fit = Literal["crop", "stretch", "clip"]


def open_picture(path: Path, channels: int, values: Range | None = None) -> tuple[Picture, str]:
    """The picture upright (EXIF orientation, where that can be read), as RGB or grey, and in words what of its content is
    lost in 8 bits. What is transparent lies on white.

    values: those that become black and white.

    Raises:
        MediaFault: It cannot be read.
    """
    start = head(path)
    with decoding("the picture", start):
        with _opened(path, start) as found:
            if found.width * found.height > MOST_PIXELS:
                raise MediaFault("broken", f"{found.width}x{found.height} pixels are more than {MOST_PIXELS}")
            found.load()
            flat, lost = eight_bits(_upright(found), channels, values)
        return flat, lost or _cut_colour(flat, start)


def eight_bits(picture: Picture, channels: int, values: Range | None) -> tuple[Picture, str]:
    """The picture as RGB or grey in 8 bits, and in words what is lost."""
    mode, lost = "RGB" if channels == 3 else "L", ""
    if deep(picture):
        picture, lost = to_8_bits(picture, values)
        return _flat(picture, mode), lost
    flat = _flat(picture, mode)
    return (flat if values is None else stretched(flat, values)), lost


def _opened(path: Path, start: bytes) -> Picture:
    """The picture as Pillow opens it. A PNG that is damaged beside its pixels is read without what is."""
    from PIL import Image as pil

    pil.init()
    formats = [f for f in FORMATS if f in pil.OPEN]
    try:
        return pil.open(path, formats=formats)
    except (ValueError, SyntaxError, OSError):
        if not start.startswith(b"\x89PNG") or path.stat().st_size > LARGEST:
            raise
        return pil.open(io.BytesIO(_pixel_chunks(path.read_bytes())), formats=["PNG"])


def _pixel_chunks(data: bytes) -> bytes:
    """A PNG with only what its pixels need: no text, no EXIF, no profile."""
    kept, at = [data[:8]], 8
    while at + 12 <= len(data):
        size = int.from_bytes(data[at : at + 4], "big")
        if data[at + 4 : at + 8] in _PIXEL_CHUNKS:
            kept.append(data[at : at + 12 + size])
        at += 12 + size
    return b"".join(kept)


def _upright(picture: Picture) -> Picture:
    from PIL import Image as pil

    try:
        turn = _TURNS.get(picture.getexif().get(0x0112, 1))
    except Exception:  # its metadata are damaged, the pixels are not
        return picture
    return picture if turn is None else picture.transpose(pil.Transpose[turn])


def _cut_colour(picture: Picture, start: bytes) -> str:
    """In words, that a PNG of 16-bit colours, of which Pillow reads the upper 8 bits, has its content in the lower ones."""
    if not (start.startswith(b"\x89PNG") and start[24:25] == b"\x10" and start[25:26] in (b"\x02", b"\x06")):
        return ""
    bands: Any = picture.getextrema() if picture.mode == "RGB" else (picture.getextrema(),)
    highest = max(int(most) for _, most in bands)
    if highest >= LEAST_LEVELS:
        return ""
    return f"16-bit colours that fill {highest + 1} of 256 levels: save them with 8 bits, or each channel as a grey picture"


def _flat(picture: Picture, mode: str) -> Picture:
    """To `mode`; what is transparent lies on white."""
    from PIL import Image as pil

    if picture.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in picture.info:
        picture = picture.convert("RGBA")
        white = pil.new("RGBA", picture.size, "white")
        picture = pil.alpha_composite(white, picture)
    return picture if picture.mode == mode else picture.convert(mode)


def fitted(picture: Picture, size: int, fit: Fit, dtype: str = "uint8") -> np.ndarray:
    """Brings a picture to (size, size, channels); see `Image` for what `fit` does."""
    import numpy as np
    from PIL import Image as pil

    if fit == "clip" and max(picture.size) * size**2 <= min(picture.size) * MOST_PIXELS:
        picture = _as_clip(picture, size)
    elif picture.size != (size, size):
        w, h = picture.size
        side = min(w, h)
        left, top = (w - side) / 2, (h - side) / 2
        box = (0, 0, w, h) if fit == "stretch" else (left, top, left + side, top + side)
        picture = picture.resize((size, size), pil.Resampling.BILINEAR, box=box)
    array = np.asarray(picture, dtype)
    return array if array.ndim == 3 else array[..., None]


def _as_clip(picture: Picture, size: int) -> Picture:
    """The middle square, after the shortest side was brought to `size` with bicubic interpolation and whole pixels."""
    from PIL import Image as pil

    w, h = (side * size // min(picture.size) for side in picture.size)
    picture = picture.resize((w, h), pil.Resampling.BICUBIC)
    left, top = (w - size) // 2, (h - size) // 2
    return picture.crop((left, top, left + size, top + size))


def check_form(size: int, channels: int, fit: str) -> None:
    """Raise BadValue for values that no picture can be stored with."""
    if not 1 <= size <= 4096:
        raise BadValue(f"size must be from 1 to 4096, not {size!r}.")
    if channels not in (1, 3):
        raise BadValue(f"channels must be 1 (grey) or 3 (RGB), not {channels!r}.")
    if fit not in get_args(Fit):
        raise BadValue(f"fit must be one of {', '.join(get_args(Fit))}, not {fit!r}.")


@dataclass(frozen=True)
class Image(Field):
    """One picture, (size, size, channels) uint8.

    fit: "crop" brings the shortest side to `size` and keeps the middle square; "stretch" brings both sides to `size`, as
    torchvision's Resize((size, size)) does, and keeps everything; "clip" brings the shortest side to `size` with bicubic
    interpolation and then cuts the middle square, as CLIP's image processor does. range: the values that become black and white; by default
    0 and 255 of 8 bits, 0 and 65535 of more. Pictures that lose their content by that are faults.
    """

    size: int = 256
    channels: int = 3
    fit: Fit = "crop"
    range: Range | None = None

    kind = "image"
    later = ("range",)

    def __post_init__(self) -> None:
        check_form(self.size, self.channels, self.fit)
        check_range(self.range)

    def arrays(self) -> Mapping[str, Array]:
        return {"": Array((self.size, self.size, self.channels), "uint8")}

    def read(self, media: Media) -> Mapping[str, np.ndarray]:
        if not isinstance(media, File):
            raise MediaFault("value", f"a picture is one file, not {type(media).__name__}")
        picture, lost = open_picture(media.path, self.channels, self.range)
        with decoding("the picture"):
            arrays = {"": fitted(picture, self.size, self.fit)}
        if lost:
            raise MediaFault("range", lost, arrays)
        return arrays
