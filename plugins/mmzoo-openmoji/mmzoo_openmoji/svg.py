"""Emoji rendered from their SVG files."""

from __future__ import annotations

import io
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal
from xml.etree import ElementTree

from mmzoo.data.sources.field import Array, Field, MediaFault
from mmzoo.data.sources.source import File, Media

if TYPE_CHECKING:
    import numpy as np

_NAMESPACE = "http://www.w3.org/2000/svg"
#: no file of the set is nearly as large
MOST_BYTES = 1 << 20


@dataclass(frozen=True)
class Drawing(Field):
    """A drawing on white, (size, size, channels) uint8.

    Args:
        size: height and width in pixels.
        part: "colour" is the whole drawing in RGB; "line" its black outlines in grey: the groups of the file whose id
            begins with `line`.
    """

    size: int = 64
    part: Literal["colour", "line"] = "colour"

    kind = "image"

    @property
    def channels(self) -> int:
        return 3 if self.part == "colour" else 1

    def arrays(self) -> Mapping[str, Array]:
        return {"": Array((self.size, self.size, self.channels), "uint8")}

    def read(self, media: Media) -> Mapping[str, np.ndarray]:
        import numpy as np
        import resvg_py
        from PIL import Image

        if not isinstance(media, File):
            raise MediaFault("value", f"a drawing is one file, not {type(media).__name__}")
        try:
            data = media.path.read_bytes()
        except FileNotFoundError:
            raise MediaFault("missing", f"{media.path.name} is not there") from None
        except OSError as error:
            raise MediaFault("broken", f"{media.path.name} cannot be read: {error.strerror}") from None
        if not data or len(data) > MOST_BYTES:
            raise MediaFault("empty" if not data else "broken", f"{media.path.name} has {len(data)} bytes")
        text = _of_part(data, self.part)
        try:
            png = resvg_py.svg_to_bytes(
                svg_string=text, width=self.size, height=self.size, background="#ffffff", skip_system_fonts=True
            )
            picture = Image.open(io.BytesIO(bytes(png))).convert("RGB" if self.part == "colour" else "L")
        except (ValueError, OSError, RuntimeError) as error:
            raise MediaFault("broken", f"{media.path.name} cannot be drawn: {error}") from None
        array = np.asarray(picture, np.uint8).reshape(self.size, self.size, self.channels)
        if int(array.min()) == 255:
            raise MediaFault("empty", f"nothing is drawn in {media.path.name}")
        return {"": array}


def _of_part(data: bytes, part: str) -> str:
    """The text of an SVG file, of "line" with all other drawn groups left out. Raises MediaFault."""
    if b"<!ENTITY" in data:
        raise MediaFault("broken", "it defines its own entities")
    try:
        root = ElementTree.fromstring(data)
    except ElementTree.ParseError as error:
        raise MediaFault("broken", f"it is no SVG: {error}") from None
    if root.tag not in ("svg", f"{{{_NAMESPACE}}}svg"):
        raise MediaFault("broken", f"it is no SVG but <{root.tag}>")
    if part == "line":
        for child in [c for c in root if c.tag.endswith("}g") and not c.get("id", "").startswith("line")]:
            root.remove(child)
    ElementTree.register_namespace("", _NAMESPACE)
    return ElementTree.tostring(root, encoding="unicode")
