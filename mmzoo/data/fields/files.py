"""What holds for every media file before a decoder sees it."""

from __future__ import annotations

import contextlib
import os
import re
import stat
import warnings
from collections.abc import Iterator
from pathlib import Path

from mmzoo.data.fields.formats import named
from mmzoo.data.sources.field import MediaFault

LFS = b"version https://git-lfs"
#: first bytes of a file that are looked at
START = 512
#: files of a folder of frames; everything else there (Thumbs.db, .DS_Store, lists) is passed over
PICTURES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff", ".avif", ".pgm", ".ppm")
#: FFmpeg's demuxers that read one media file; playlists and lists, which would open other files or addresses, are not among them
CONTAINERS = (
    "mov",
    "matroska",
    "webm",
    "avi",
    "flv",
    "mpeg",
    "mpegts",
    "mpegvideo",
    "asf",
    "ogg",
    "mp3",
    "wav",
    "flac",
    "aac",
    "ac3",
    "aiff",
    "au",
    "amr",
    "h264",
    "hevc",
    "m4v",
    "ivf",
    "rm",
    "3gp",
    "mp4",
    "w64",
    "caf",
    "gif",
    "mjpeg",
    "mxf",
    "yuv4mpegpipe",
    "apng",
    "dv",
    "nut",
    "obu",
    "av1",
    "vc1",
    "voc",
    "nistsphere",
    "ircam",
)


def head(path: Path, size: int = START) -> bytes:
    """The first bytes of a file that looks usable. Raises MediaFault (missing, empty, lfs_pointer, broken)."""
    try:
        mode = os.stat(path)
        if not stat.S_ISREG(mode.st_mode):  # opening a pipe would wait for ever
            raise MediaFault("broken", "not a regular file")
        if mode.st_size == 0:
            raise MediaFault("empty", "the file has 0 bytes")
        with open(path, "rb") as file:
            start = file.read(size)
    except (FileNotFoundError, NotADirectoryError):
        raise MediaFault("missing", "there is no such file") from None
    except (OSError, ValueError) as error:  # ValueError: a NUL in the name
        raise MediaFault("broken", f"cannot be opened: {error}") from None
    if start.startswith(LFS):
        raise MediaFault(
            "lfs_pointer", "holds a Git LFS pointer, not the media: run `git lfs pull` in the data's clone"
        )
    return start


def pictures(folder: Path) -> list[Path]:
    """The pictures of a folder, in the order of the numbers in their names (2.jpg before 10.jpg), whatever the order on
    disk. Raises MediaFault where there are none."""
    try:
        found = [p for p in folder.iterdir() if p.suffix.lower() in PICTURES and not p.name.startswith(".")]
    except (FileNotFoundError, NotADirectoryError):
        raise MediaFault("missing", "there is no such folder") from None
    except (OSError, ValueError) as error:
        raise MediaFault("broken", f"cannot be listed: {error}") from None
    if not found:
        raise MediaFault("empty", f"a folder without pictures ({', '.join(PICTURES)})")
    return sorted(found, key=lambda p: (_natural(p.stem), p.name))


def _natural(name: str) -> list[tuple[int, str]]:
    parts = re.split(r"([0-9]+)", name)
    return [(int(p), "") if i % 2 else (0, p) for i, p in enumerate(parts)]


@contextlib.contextmanager
def decoding(what: str, start: bytes = b"") -> Iterator[None]:
    """Whatever a decoder raises on the bytes of a stranger is a broken file; its warnings are no concern of the user's.

    start: how the file begins, which tells what it is.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    except (MediaFault, ImportError):
        raise
    except Exception as error:
        said = " ".join(str(error).split())[:200]
        kind = f"; the file is {found}" if (found := named(start)) else ""
        raise MediaFault("broken", f"{what} cannot be decoded ({type(error).__name__}: {said}){kind}") from None


def container_options() -> dict[str, str]:
    """What FFmpeg is told when it opens a file."""
    return {"format_whitelist": ",".join(CONTAINERS), "protocol_whitelist": "file"}
