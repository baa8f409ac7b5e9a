"""Pictures that are not 8 bits deep, and pictures that are damaged beside their pixels."""

from __future__ import annotations

import io
import struct
from pathlib import Path

import numpy as np
import pytest
from PIL import Image as pil
from PIL import PngImagePlugin, features

from mmzoo.data.fields.image import Image
from mmzoo.data.fields.rebuilt import rebuilt
from mmzoo.data.fields.video import Frames
from mmzoo.data.sources.field import MediaFault
from mmzoo.data.sources.source import File
from mmzoo.errors import BadValue

SIDE = 12
RAMP = np.arange(SIDE * SIDE).reshape(SIDE, SIDE) / (SIDE * SIDE - 1)


def grey(path: Path, **values: object) -> np.ndarray:
    return Image(SIDE, 1, **values).read(File(path))[""][..., 0]  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("name", "array", "limits"),
    [
        ("float.tif", RAMP.astype(np.float32), (0.0, 1.0)),
        ("twelve.png", (RAMP * 4095).astype(np.uint16), (0, 4095)),
        ("twelve.tif", (RAMP * 4095).astype(np.uint16), (0, 4095)),
        ("depth.png", (500 + RAMP * 4500).astype(np.uint16), (500, 5000)),
        ("int.tif", (RAMP * 1_000_000).astype(np.int32), (0, 1_000_000)),
        ("signed.tif", (RAMP * 2000 - 1000).astype(np.int32), (-1000, 1000)),
        ("large.tif", (RAMP * 3e9).astype(np.float32), (0.0, 3e9)),
        ("flat.png", (30_000 + RAMP * 500).astype(np.uint16), (30_000, 30_500)),
    ],
)
def test_content_that_eight_bits_do_not_hold_is_told_and_range_keeps_it(
    tmp_path: Path, name: str, array: np.ndarray, limits: tuple[float, float]
) -> None:
    path = tmp_path / name
    pil.fromarray(array).save(path)
    with pytest.raises(MediaFault, match=r"range: \[LOW, HIGH\]") as seen:
        grey(path)
    assert seen.value.kind == "range" and seen.value.arrays is not None
    np.testing.assert_allclose(grey(path, range=limits), RAMP * 255, atol=1.5)


def test_sixteen_bits_that_are_filled_need_no_range(tmp_path: Path) -> None:
    path = tmp_path / "full.png"
    pil.fromarray((RAMP * 65535).astype(np.uint16)).save(path)
    np.testing.assert_array_equal(grey(path), (RAMP * 65535).astype(np.int64) // 257)
    pil.fromarray(np.full((SIDE, SIDE), 700, np.uint16)).save(path)
    assert grey(path).max() == 2  # one value all over: nothing is lost
    bright = tmp_path / "bright.png"
    pil.fromarray((RAMP * 100).astype(np.uint8)).save(bright)
    np.testing.assert_allclose(grey(bright, range=(0, 100)), RAMP * 255, atol=3)


def test_a_range_that_cuts_content_off_is_told(tmp_path: Path) -> None:
    path = tmp_path / "x.tif"
    pil.fromarray((RAMP * 10).astype(np.float32)).save(path)
    with pytest.raises(MediaFault, match=r"90 % of the pixels are outside 0 to 1"):
        grey(path, range=(0.0, 1.0))
    for given in ((1.0, 0.0), (0.0,), "wide", 3, (0.0, True)):
        with pytest.raises(BadValue, match="LOW, HIGH"):
            Image(SIDE, 1, range=given)  # type: ignore[arg-type]


def test_deep_frames_of_a_clip(tmp_path: Path) -> None:
    for i in range(4):
        pil.fromarray((RAMP * 4095).astype(np.uint16)).save(tmp_path / f"{i}.png")
    with pytest.raises(MediaFault, match=r"1\.png: whole numbers from 0 to 4095") as seen:
        Frames(2, SIDE, 1).read(File(tmp_path))
    assert seen.value.kind == "range"
    found = Frames(2, SIDE, 1, range=(0, 4095)).read(File(tmp_path))[""]
    np.testing.assert_allclose(found[0, ..., 0], RAMP * 255, atol=1.5)


def test_stores_without_a_range_stay_what_they_are() -> None:
    assert "range" not in Image().as_dict() and Image(range=(0, 1)).as_dict()["range"] == (0, 1)
    values = {**Image(range=(0.0, 1.0)).as_dict(), "range": [0.0, 1.0]}
    assert rebuilt(values) == Image(range=(0.0, 1.0))


def test_sixteen_bit_colours_in_the_lower_bits_are_told(tmp_path: Path) -> None:
    cv2 = pytest.importorskip("cv2")
    path = tmp_path / "colour.png"
    cv2.imwrite(str(path), np.stack([(RAMP * 4095).astype(np.uint16)] * 3, -1))
    with pytest.raises(MediaFault, match="16-bit colours that fill 16 of 256 levels"):
        Image(SIDE).read(File(path))
    cv2.imwrite(str(path), np.stack([(RAMP * 65535).astype(np.uint16)] * 3, -1))
    assert Image(SIDE).read(File(path))[""].max() == 255


# ---------------------------------------------------------------------- damaged beside the pixels
def picture() -> pil.Image:
    """White in its upper left quarter, so that it shows how it is turned."""
    array = np.zeros((SIDE, SIDE, 3), np.uint8)
    array[: SIDE // 2, : SIDE // 2] = 255
    return pil.fromarray(array)


def with_exif(path: Path, payload: bytes) -> None:
    buffer = io.BytesIO()
    picture().save(buffer, "JPEG", quality=95)
    data = buffer.getvalue()
    path.write_bytes(data[:2] + b"\xff\xe1" + struct.pack(">H", len(payload) + 2) + payload + data[2:])


def oriented(orientation: int) -> bytes:
    """EXIF with an orientation and a resolution of -1/0."""
    entries = [
        (0x112, 3, 1, struct.pack("<HH", orientation, 0)),
        (0x11A, 10, 1, struct.pack("<I", 62)),
        (0x128, 3, 1, struct.pack("<HH", 2, 0)),
    ]
    body = b"II*\0\x08\0\0\0" + struct.pack("<H", 3)
    body += b"".join(struct.pack("<HHI", *e[:3]) + e[3] for e in entries) + struct.pack("<I", 0)
    return b"Exif\0\0" + body.ljust(62, b"\0") + struct.pack("<ii", -1, 0)


def corner(path: Path) -> tuple[bool, ...]:
    """Which of the four quarters is white."""
    found = grey(path)
    half = SIDE // 2
    return tuple(
        bool(q.mean() > 128)
        for q in (found[:half, :half], found[:half, half:], found[half:, :half], found[half:, half:])
    )


def test_a_jpeg_with_odd_exif_is_turned_upright_all_the_same(tmp_path: Path) -> None:
    for orientation, quarter in ((1, 0), (3, 3), (6, 1), (8, 2), (99, 0)):
        with_exif(tmp_path / "x.jpg", oriented(orientation))
        assert corner(tmp_path / "x.jpg").index(True) == quarter
    with_exif(tmp_path / "x.jpg", b"Exif\0\0garbage")
    assert corner(tmp_path / "x.jpg")[0]


def test_a_png_that_is_damaged_beside_its_pixels(tmp_path: Path) -> None:
    path = tmp_path / "x.png"
    picture().save(path, exif=b"\x00\x08\x00\x02\x01\x12\x00\x03zzzz")
    assert corner(path)[0]
    for long in (3_000_000, 100_000_000):
        info = PngImagePlugin.PngInfo()
        info.add_text("parameters", "x" * long, zip=True)
        picture().save(path, pnginfo=info)
        assert corner(path)[0]
    info = PngImagePlugin.PngInfo()
    info.add_text("workflow", "x" * 100)
    picture().save(path, pnginfo=info)
    data = bytearray(path.read_bytes())
    data[data.index(b"workflow") + 20] ^= 1  # its checksum does not fit any more
    path.write_bytes(data)
    assert corner(path)[0]


@pytest.mark.skipif(not features.check("avif"), reason="this Pillow does not read AVIF")
def test_avif(tmp_path: Path) -> None:
    picture().save(tmp_path / "x.avif", quality=95)
    assert corner(tmp_path / "x.avif")[0]


def test_a_gif_without_times_is_a_clip(tmp_path: Path) -> None:
    frames = [pil.fromarray(np.full((SIDE, SIDE, 3), 40 * i, np.uint8)) for i in range(6)]
    frames[0].save(tmp_path / "x.gif", save_all=True, append_images=frames[1:])
    assert (tmp_path / "x.gif").read_bytes()[:6] == b"GIF87a"
    found = Frames(3, SIDE).read(File(tmp_path / "x.gif"))[""]
    assert len({int(f.mean()) for f in found}) == 3


def test_an_animated_webp_is_a_clip(tmp_path: Path) -> None:
    frames = [pil.fromarray(np.full((SIDE, SIDE, 3), 60 * i, np.uint8)) for i in range(4)]
    frames[0].save(tmp_path / "x.webp", save_all=True, append_images=frames[1:], duration=100, lossless=True)
    found = Frames(4, SIDE).read(File(tmp_path / "x.webp"))[""]
    assert [int(f.mean()) for f in found] == [0, 60, 120, 180]
    span = Frames(2, SIDE).read(File(tmp_path / "x.webp", 2, 4))[""]
    assert [int(f.mean()) for f in span] == [120, 180]
    frames[0].save(tmp_path / "x.png", save_all=True, append_images=frames[1:], duration=100)
    assert len(Frames(4, SIDE).read(File(tmp_path / "x.png"))[""]) == 4


# ---------------------------------------------------------------------- files of other kinds
@pytest.mark.parametrize(
    ("start", "part"),
    [
        (b"\0\0\0\x18ftypheic\0\0\0\0mif1heic", "HEIC picture: convert it"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "SVG drawing"),
        (b"<?xml version='1.0'?>\n<!-- made --><svg/>", "SVG drawing"),
        (b"<!DOCTYPE html><html>404</html>", "an HTML page, likely of a download that failed"),
        (b'{"error": "not found"}', "JSON, likely the answer"),
        (b"%PDF-1.7", "a PDF"),
        (b"\0" * 128 + b"DICM", "a DICOM file"),
        (b"PK\x03\x04", "a zip archive"),
        (b"404 not found", "a text file"),
        (b"RIFF\x24\0\0\0WAVEfmt ", "a WAV recording"),
    ],
)
def test_what_a_file_is_instead_is_named(tmp_path: Path, start: bytes, part: str) -> None:
    (tmp_path / "x.jpg").write_bytes(start)
    with pytest.raises(MediaFault, match="cannot be decoded") as seen:
        grey(tmp_path / "x.jpg")
    assert seen.value.kind == "broken" and part in seen.value.message
