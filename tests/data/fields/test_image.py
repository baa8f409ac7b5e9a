"""Pictures, and every fault by its kind."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.field_faults import fault
from PIL import Image as pil

from mmzoo.data.fields.image import Image
from mmzoo.data.loading.transforms import Pixels
from mmzoo.data.sources.source import File
from mmzoo.encoders.pretrained import clip_pixels

LFS = "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 132\n"


def test_a_picture_is_cropped_in_the_middle_or_stretched(tmp_path: Path) -> None:
    picture = pil.new("RGB", (90, 30), "black")
    picture.paste((255, 255, 255), (30, 0, 60, 30))
    picture.save(tmp_path / "a.png")
    assert (Image(30).read(File(tmp_path / "a.png"))[""] == 255).all()
    stretched = Image(30, fit="stretch", channels=1).read(File(tmp_path / "a.png"))[""]
    assert stretched.shape == (30, 30, 1) and stretched[:, 15].min() > 250 and stretched[:, :5].max() < 5


def test_pictures_of_all_kinds_become_upright_rgb(tmp_path: Path) -> None:
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


@pytest.mark.parametrize("size", [(300, 200), (201, 333), (224, 224), (97, 64), (1000, 231)])
def test_clip_pixels_equal_those_of_its_own_processor(tmp_path: Path, size: tuple[int, int]) -> None:
    """From the file to the input of the model: stored pixels, ImageNet's scale off, CLIP's scale on."""
    from transformers import CLIPImageProcessorPil

    noise = np.random.default_rng(0).integers(0, 256, (*size[::-1], 3), dtype=np.uint8)
    pil.fromarray(noise).save(tmp_path / "a.png")
    stored = Image(224, fit="clip").read(File(tmp_path / "a.png"))[""]
    loaded = Pixels(stored.shape, frames=None, size=None, crop=False, flip=False)(
        torch.from_numpy(stored.copy())[None], None
    )
    theirs = CLIPImageProcessorPil()(pil.fromarray(noise), return_tensors="pt")["pixel_values"]
    torch.testing.assert_close(clip_pixels(loaded), theirs, atol=1e-5, rtol=0)


def test_clip_pixels_of_a_thin_picture_take_no_memory(tmp_path: Path) -> None:
    pil.new("L", (30_000, 1), 7).save(tmp_path / "line.png")
    assert (Image(224, 1, fit="clip").read(File(tmp_path / "line.png"))[""] == 7).all()
