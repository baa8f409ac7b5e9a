"""Pictures: one array of uint8, whatever the file holds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from mmzoo.data.fields.files import decoding, head
from mmzoo.data.sources.field import Array, Field, MediaFault
from mmzoo.data.sources.source import File, Media
from mmzoo.errors import BadValue

if TYPE_CHECKING:
    import numpy as np
    from PIL.Image import Image as Picture

#: pixels of the largest picture that is decoded (8192 x 8192); what claims more would take gigabytes
MOST_PIXELS = 1 << 26
#: no format of Pillow's that starts another program or reads other files
FORMATS = ("JPEG", "PNG", "GIF", "WEBP", "BMP", "TIFF", "PPM")
Fit = Literal["crop", "stretch"]


def open_picture(path: Path, channels: int) -> Picture:
    """The picture upright (EXIF orientation), as RGB or grey; what is transparent lies on white. Raises MediaFault."""
    head(path)
    with decoding("the picture"):
        from PIL import Image as pil
        from PIL import ImageOps

        with pil.open(path, formats=FORMATS) as found:
            if found.width * found.height > MOST_PIXELS:
                raise MediaFault("broken", f"{found.width}x{found.height} pixels are more than {MOST_PIXELS}")
            found.load()
            return _flat(ImageOps.exif_transpose(found), "RGB" if channels == 3 else "L")


def _flat(picture: Picture, mode: str) -> Picture:
    """To 8 bits in `mode`."""
    from PIL import Image as pil

    if picture.mode.startswith("I;16") or picture.mode == "I":  # convert() would cut at 255 instead of scaling
        import numpy as np

        picture = pil.fromarray((np.clip(np.asarray(picture, np.int64), 0, 65535) // 257).astype(np.uint8))
    if picture.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in picture.info:
        picture = picture.convert("RGBA")
        white = pil.new("RGBA", picture.size, "white")
        picture = pil.alpha_composite(white, picture)
    return picture if picture.mode == mode else picture.convert(mode)


def fitted(picture: Picture, size: int, fit: str, dtype: str = "uint8") -> np.ndarray:
    """(size, size, channels): the shortest side to `size` and the middle square, or both sides to `size`."""
    import numpy as np
    from PIL import Image as pil

    w, h = picture.size
    side = min(w, h)
    left, top = (w - side) / 2, (h - side) / 2
    box = (left, top, left + side, top + side) if fit == "crop" else (0, 0, w, h)
    if (w, h) != (size, size):
        picture = picture.resize((size, size), pil.Resampling.BILINEAR, box=box)
    array = np.asarray(picture, dtype)
    return array if array.ndim == 3 else array[..., None]


def check_form(size: int, channels: int, fit: str) -> None:
    """Raise BadValue for values that no picture can be stored with."""
    if not 1 <= size <= 4096:
        raise BadValue(f"size must be from 1 to 4096, not {size!r}.")
    if channels not in (1, 3):
        raise BadValue(f"channels must be 1 (grey) or 3 (RGB), not {channels!r}.")
    if fit not in ("crop", "stretch"):
        raise BadValue(f"fit must be crop or stretch, not {fit!r}.")


@dataclass(frozen=True)
class Image(Field):
    """One picture, (size, size, channels) uint8.

    fit: "crop" brings the shortest side to `size` and keeps the middle square; "stretch" brings both sides to `size`, as
    torchvision's Resize((size, size)) does, and keeps everything.
    """

    size: int = 256
    channels: int = 3
    fit: Fit = "crop"

    kind = "image"

    def __post_init__(self) -> None:
        check_form(self.size, self.channels, self.fit)

    def arrays(self) -> Mapping[str, Array]:
        return {"": Array((self.size, self.size, self.channels), "uint8")}

    def read(self, media: Media) -> Mapping[str, np.ndarray]:
        if not isinstance(media, File):
            raise MediaFault("value", f"a picture is one file, not {type(media).__name__}")
        picture = open_picture(media.path, self.channels)
        with decoding("the picture"):
            return {"": fitted(picture, self.size, self.fit)}
