"""What a file is by its first bytes, for the message about one that cannot be read. No torch, no numpy."""

from __future__ import annotations

import re

#: how a file begins (or holds at an offset) -> what it is, and what to do
_KNOWN: tuple[tuple[int, bytes, str], ...] = (
    (0, b"8BPS", "a Photoshop file: save it as PNG"),
    (0, b"%PDF", "a PDF: save its pages as PNG"),
    (0, b"%!PS", "a PostScript file: save it as PNG"),
    (0, b"\xff\x0a", "a JPEG XL picture: convert it to PNG"),
    (4, b"JXL \r\n", "a JPEG XL picture: convert it to PNG"),
    (4, b"jP  \r\n", "a JPEG 2000 picture: convert it to PNG"),
    (0, b"\xff\x4f\xff\x51", "a JPEG 2000 picture: convert it to PNG"),
    (0, b"\x00\x00\x01\x00", "an icon (ICO): convert it to PNG"),
    (0, b"SIMPLE  =", "a FITS file: save it as TIFF"),
    (0, b"\x89HDF", "an HDF5 file: save each sample as a file of its own"),
    (0, b"\x93NUMPY", "a numpy array: give it as kind vector, or save it as PNG"),
    (0, b"PK\x03\x04", "a zip archive or an office document: unpack it"),
    (0, b"\x1f\x8b", "packed with gzip: unpack it"),
    (0, b"BZh", "packed with bzip2: unpack it"),
    (0, b"\xfd7zXZ", "packed with xz: unpack it"),
    (0, b"Rar!", "a rar archive: unpack it"),
    (0, b"7z\xbc\xaf", "a 7z archive: unpack it"),
    (0, b"ID3", "an MP3 recording"),
    (0, b"fLaC", "a FLAC recording"),
    (0, b"OggS", "an Ogg recording or video"),
    (0, b"MThd", "a MIDI file, which holds notes and no sound: render it first"),
    (0, b"\x1aE\xdf\xa3", "a Matroska or WebM video"),
    (0, b"\x89PNG", "a PNG picture"),
    (0, b"\xff\xd8\xff", "a JPEG picture"),
    (0, b"GIF8", "a GIF picture"),
    (0, b"BM", "a BMP picture"),
    (8, b"WEBP", "a WebP picture"),
    (8, b"WAVE", "a WAV recording"),
    (8, b"AVI ", "an AVI video"),
)
#: brands of the box that begins HEIF, AVIF and MP4 files
_BRANDS = (
    (("heic", "heix", "heim", "heis", "hevc", "hevx", "mif1", "msf1"), "a HEIC picture: convert it to JPEG or PNG"),
    (
        ("avif", "avis"),
        "an AVIF picture: this version of Pillow does not read it; install a newer one, or convert it to PNG",
    ),
    (("crx ",), "a raw picture of a camera (CR3): develop it to JPEG or PNG"),
    (("M4A ", "M4B "), "an MPEG-4 recording"),
)


def named(start: bytes) -> str:
    """In words, what a file that begins so is; empty where nothing tells. start: at least 512 bytes where there are as many."""
    for at, mark, what in _KNOWN:
        if start[at : at + len(mark)] == mark:
            return what
    if start[4:8] == b"ftyp":
        brand = start[8:12].decode("latin-1")
        return next((what for brands, what in _BRANDS if brand in brands), "an MPEG-4 or QuickTime video")
    if start[128:132] == b"DICM":
        return "a DICOM file: save its pixels as PNG or TIFF with all bits, and give range"
    return _text(start)


def _text(start: bytes) -> str:
    text = start.decode("utf-8", "replace").lstrip("\ufeff \t\r\n").lower()
    if re.match(r"<!doctype html|<html|<head|<body", text):
        return "an HTML page, likely of a download that failed: download it again"
    if text.startswith("<svg") or (text.startswith(("<?xml", "<!doctype svg", "<!--")) and "<svg" in text):
        return "an SVG drawing: draw it as PNG"
    if text.startswith(("<?xml", "<")):
        return "XML, likely the answer to a download that failed"
    if text.startswith(("{", "[")):
        return "JSON, likely the answer to a download that failed"
    printable = sum(c.isprintable() or c in "\r\n\t" for c in text)
    return "a text file" if text and "\ufffd" not in text[:-1] and printable == len(text) else ""
