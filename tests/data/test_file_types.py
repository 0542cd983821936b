"""Names and contents that are no images, or no images that Pillow alone reads: each is named for what it is."""

from __future__ import annotations

import io
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, PngImagePlugin, features

from commands import write_folder
from featcache.data.file_listing import find_samples
from featcache.data.file_types import why_no_image
from featcache.data.image_names import image_extensions, is_image_name
from featcache.data.manifest import read_manifest
from featcache.errors import EmptyFolderError, UnreadableImageError
from featcache.vision.decode import decode
from featcache.vision.image_files import upright_size

RED = (200, 30, 20)


def packed(kind: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (12, 8), RED).save(buffer, kind, **options)
    return buffer.getvalue()


def without_pillow_heif(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("featcache.data.image_names.find_spec", lambda name: None)
    image_extensions.cache_clear()


@pytest.fixture
def no_heic(monkeypatch: pytest.MonkeyPatch) -> object:
    without_pillow_heif(monkeypatch)
    yield
    monkeypatch.undo()
    image_extensions.cache_clear()


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("notes.TXT", "not an image (.txt)"),
        ("README", "not an image"),
        ("part.0001", "not an image"),
        ("IMG_1.HEIC", '.heic photos, which need pip install -e ".[heic]" in the clone'),
        ("x.jxl", ".jxl pictures, which this installation does not read: convert them to JPEG or PNG"),
        ("x.CR2", ".cr2 pictures, which this installation does not read: convert them to JPEG or PNG"),
        ("imageNotFound.gif", "placeholder of a missing image"),
    ],
)
def test_a_name_that_is_passed_over_has_its_reason(name: str, reason: str) -> None:
    assert why_no_image(Path(name)) == reason


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "git lfs pull"),
        (b"\xef\xbb\xbf\n <!DOCTYPE html><title>404</title>", "a web page (HTML), not an image"),
        (b"<html>404</html>", "a web page (HTML), not an image"),
        (b'<?xml version="1.0"?>\n<Error><Code>AccessDenied</Code></Error>', "a server's error"),
        (b'{"message": "rate limit exceeded"}', "a server's error"),
        (b'<svg xmlns="http://www.w3.org/2000/svg"/>', "an SVG drawing"),
        (b"\xff\x0a\xfa\x1f", "JPEG XL"),
        (b"%PDF-1.7\n", "a PDF document"),
        (b"PK\x03\x04....", "a ZIP archive"),
        (b"\0\0\0\x18ftypisom", "a video"),
    ],
)
def test_a_file_that_is_no_image_is_called_what_it_is(data: bytes, reason: str) -> None:
    with pytest.raises(UnreadableImageError) as caught:
        decode(data)
    assert reason in str(caught.value)
    assert len(str(caught.value)) <= 120  # has room in a cache


def test_a_heic_photo_named_jpg_says_what_reads_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("featcache.vision.image_files._register_heif", lambda: False)
    with pytest.raises(UnreadableImageError, match=r'^a HEIC photo: pip install -e "\.\[heic\]" in the clone$'):
        decode(b"\0\0\0\x18ftypheic" + bytes(40))


def test_a_heic_photo_is_read_where_the_extra_is_there_by_any_name() -> None:
    heif = pytest.importorskip("pillow_heif")
    buffer = io.BytesIO()
    heif.from_pillow(Image.new("RGB", (64, 32), RED)).save(buffer, quality=90)
    pixels = decode(buffer.getvalue())
    assert pixels.shape == (32, 64, 3)
    assert np.abs(pixels.astype(int) - RED).max() < 8
    assert upright_size(buffer.getvalue()) == (32, 64)
    assert is_image_name(Path("IMG_0001.HEIC"))


@pytest.mark.parametrize(
    ("kind", "name", "feature"),
    [
        ("JPEG", "x.jfif", "jpg"),
        ("GIF", "x.gif", "zlib"),
        ("AVIF", "x.avif", "avif"),
        ("JPEG2000", "x.jp2", "jpg_2000"),
    ],
)
def test_what_the_installed_pillow_reads_is_an_image(kind: str, name: str, feature: str) -> None:
    if not features.check(feature):
        pytest.skip(f"this Pillow has no {feature}")
    assert is_image_name(Path(name))
    assert np.abs(decode(packed(kind)).astype(int) - RED).max() < 12


def test_a_folder_of_photos_that_are_not_read_says_which_and_how_many(tmp_path: Path, no_heic: None) -> None:
    data = write_folder(tmp_path / "data", {"train/ants": 2, "train/bees": 2})
    for number in range(3):
        (data / f"train/ants/{number}.heic").write_bytes(b"x")
    assert read_manifest(data).ignored == {'.heic photos, which need pip install -e ".[heic]" in the clone': 3}
    for image in (data / "train/ants").glob("*.png"):
        image.unlink()
    expected = (
        r'ants holds no images \(3 files: \.heic photos, which need pip install -e "\.\[heic\]" in the clone\)\. Put'
    )
    with pytest.raises(EmptyFolderError, match=expected):
        read_manifest(data)
    with pytest.raises(EmptyFolderError, match=r"without images \(3 files: \.heic photos"):
        find_samples([str(data / "train/ants")])
    with pytest.raises(EmptyFolderError, match=r"without images \(3 files: \.heic photos"):
        find_samples([str(data / "train/ants/*")])


def chunk(name: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))


LARGE = {
    "a long text": chunk(b"zTXt", b"Comment\0\0" + zlib.compress(bytes(3_000_000))),
    "a long XMP": chunk(b"iTXt", b"XML:com.adobe.xmp\0\1\0\0\0" + zlib.compress(bytes(3_000_000))),
    "many texts": b"".join(chunk(b"iTXt", b"a%d\0\1\0\0\0" % i + zlib.compress(bytes(999_999))) for i in range(70)),
    "a large ICC profile": chunk(b"iCCP", b"sRGB\0\0" + zlib.compress(bytes(3_000_000))),
}


@pytest.mark.parametrize("where", ["before the pixels", "after them"])
@pytest.mark.parametrize("what", LARGE)
def test_a_png_is_read_whatever_the_size_of_its_texts_and_profile(what: str, where: str) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    data = packed("PNG", exif=exif)
    position = data.index(b"IDAT" if where == "before the pixels" else b"IEND") - 4
    large = data[:position] + LARGE[what] + data[position:]
    assert upright_size(large) == (12, 8)
    pixels = decode(large)
    assert pixels.shape == (12, 8, 3)  # turned as its EXIF says
    np.testing.assert_array_equal(pixels, np.broadcast_to(RED, (12, 8, 3)))


def test_the_limit_of_pillow_is_what_is_worked_around() -> None:
    data = packed("PNG")
    large = data[:33] + LARGE["a long text"] + data[33:]
    with pytest.raises(ValueError, match="too large"):
        Image.open(io.BytesIO(large))
    assert PngImagePlugin.MAX_TEXT_CHUNK == 2**20  # and nothing of the process was changed


def test_a_truncated_png_with_a_large_text_stays_unreadable() -> None:
    data = packed("PNG")
    with pytest.raises(UnreadableImageError):
        decode(data[:33] + LARGE["a long text"][:1000])
