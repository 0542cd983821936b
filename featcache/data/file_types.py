"""Kinds of files: extensions of images, why a file is not an image, and the kind of a file by its content."""

from __future__ import annotations

import re
import struct
from collections.abc import Mapping
from pathlib import PurePath

from featcache.errors import install_line

HEIC = frozenset({".heic", ".heif", ".hif"})
INSTALL_HEIC = install_line("heic")

# The extensions of torchvision.datasets.ImageFolder, and other extensions of the same formats.
ALWAYS = frozenset(
    {".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".gif", ".bmp", ".webp", ".tif", ".tiff"}
    | {".ppm", ".pgm", ".pbm", ".pnm"}
)
# Feature of Pillow -> extensions that it reads where it was built with it.
OPTIONAL = {"avif": {".avif"}, "jpg_2000": {".jp2", ".j2k", ".jpx", ".jpf", ".j2c"}}

_PNG = b"\x89PNG\r\n\x1a\n"
_TEXT_CHUNKS = (b"tEXt", b"zTXt", b"iTXt", b"iCCP")
_SHORT = 2**20  # bytes: Pillow's limit for one text

_PLACEHOLDER = re.compile(r"(image|photo|picture)[-_ ]?not[-_ ]?(found|available)", re.IGNORECASE)
_SUFFIX = re.compile(r"\.(?=[0-9]*[a-z])[a-z0-9]{1,6}")

_CAMERA_RAW = {".cr2", ".cr3", ".nef", ".arw", ".dng", ".orf", ".rw2", ".raf"}

_HEIF_BRANDS = (b"heic", b"heix", b"hevc", b"hevx", b"heim", b"heis", b"mif1", b"msf1")

HDF5 = (".h5", ".hdf5")
"""Ends of the names of caches and other HDF5 files."""
_HDF5_SIGNATURE = b"\x89HDF\r\n\x1a\n"
_CACHE = re.compile(rb"featcache(-images)? \d{1,4} \d{1,9}\n")  # the first line of a file that featcache wrote

_SIGNATURES = (
    (b"version https://git-lfs", "a git-lfs pointer in place of the image: run `git lfs pull`"),
    (b"\xff\x0a", "JPEG XL, which Pillow does not read: convert it to JPEG or PNG"),
    (b"\0\0\0\x0cJXL ", "JPEG XL, which Pillow does not read: convert it to JPEG or PNG"),
    (b"%!PS", "a PostScript program (EPS), which is not run: export it as PNG"),
    (b"\xc5\xd0\xd3\xc6", "a PostScript program (EPS), which is not run: export it as PNG"),
    (b"%PDF-", "a PDF document, not an image"),
    (b"PK\x03\x04", "a ZIP archive, not an image: unpack it"),
    (b"\x1f\x8b", "a gzip archive, not an image: unpack it"),
    (b"8BPS", "a Photoshop document that Pillow cannot read: export it as PNG"),
    (_HDF5_SIGNATURE, "an HDF5 file, not an image"),
    (b"\x93NUMPY", "a NumPy array, not an image"),
)


def is_placeholder(path: PurePath) -> bool:
    """Whether a name is that of a placeholder for a missing image, such as `imageNotFound.gif` in ants and bees."""
    return _PLACEHOLDER.fullmatch(path.stem) is not None


def why_no_image(path: PurePath) -> str:
    """Why a file with this name is passed over, with its extension: "not an image (.txt)"."""
    suffix = path.suffix.lower()
    if is_placeholder(path):
        return "placeholder of a missing image"
    if suffix in HEIC:
        return f"{suffix} photos, which need {INSTALL_HEIC}"
    if suffix == ".jxl" or suffix in _CAMERA_RAW or any(suffix in names for names in OPTIONAL.values()):
        return f"{suffix} pictures, which this installation does not read: convert them to JPEG or PNG"
    return f"not an image ({suffix})" if name_suffix(path) else "not an image"


def name_suffix(path: PurePath) -> str:
    """The extension of a name in lower case, with its dot; "" for what is not an extension, such as ".2024"."""
    suffix = path.suffix.lower()
    return suffix if _SUFFIX.fullmatch(suffix) else ""


def describe_ignored(ignored: Mapping[str, int]) -> str:
    """The counts of files that were passed over, to end a message: " (3 files: not an image (.txt))"; "" for none."""
    counts = (count_ignored(reason, count) for reason, count in ignored.items())
    return f" ({'; '.join(counts)})" if ignored else ""


def count_ignored(reason: str, count: int) -> str:
    """ "3 files: not an image (.txt)"; a reason of folders begins with "folders: "."""
    thing = "folder" if reason.startswith("folders: ") else "file"
    return f"{count} {thing}{'' if count == 1 else 's'}: {reason.removeprefix('folders: ')}"


def is_heif(data: bytes) -> bool:
    """Whether these bytes begin a HEIC or HEIF file."""
    return data[4:8] == b"ftyp" and data[8:12] in _HEIF_BRANDS


def is_hdf5(data: bytes) -> bool:
    """Whether these bytes, 32 or more, begin a cache or another HDF5 file."""
    return _CACHE.match(data) is not None or data.startswith(_HDF5_SIGNATURE)


def describe_content(data: bytes) -> str:
    """The kind of a file that Pillow cannot identify, as the reason why it is skipped."""
    if is_heif(data):
        return f"a HEIC photo: {INSTALL_HEIC}"
    if data[4:12] in (b"ftypavif", b"ftypavis"):
        return "an AVIF picture, which this Pillow does not read: convert it to JPEG or PNG"
    if data[4:8] == b"ftyp":
        return "a video or another file of that family, not an image"
    for signature, kind in _SIGNATURES:
        if data.startswith(signature):
            return kind
    if is_hdf5(data):
        return "a cache of featcache, not an image"
    start = data[:512].lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if start.startswith((b"<!doctype html", b"<html", b"<head", b"<body")):
        return "a web page (HTML), not an image: download the image again"
    if start.startswith(b"<svg") or (start.startswith(b"<?xml") and b"<svg" in start):
        return "an SVG drawing, which Pillow does not read: export it as PNG"
    if start.startswith((b"<?xml", b'{"', b"{\n")):
        return "a text in XML or JSON, perhaps a server's error: download the image again"
    return "not an image that Pillow can identify"


def without_texts(data: bytes) -> bytes | None:
    """A PNG file without its texts and colour profile, which Pillow refuses if they are large.

    Short XMP is kept, because it may hold the orientation. None if there is nothing to leave out.
    """
    if not data.startswith(_PNG):
        return None
    chunks, position = [_PNG], len(_PNG)
    while position + 12 <= len(data):
        length, name = struct.unpack(">I4s", data[position : position + 8])
        chunk = data[position : position + 12 + length]
        if name not in _TEXT_CHUNKS or (len(chunk) < _SHORT and chunk[8:].startswith(b"XML:com.adobe.xmp\0\0")):
            chunks.append(chunk)
        position += 12 + length
    shorter = b"".join(chunks)
    return shorter if len(shorter) < len(data) else None
