from __future__ import annotations

import io
import struct
import sys
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image, features
from torchvision.datasets.folder import IMG_EXTENSIONS

from featcache.data.image_names import image_extensions, is_image_name
from featcache.errors import UnreadableImageError
from featcache.vision.decode import decode
from featcache.vision.image_files import write_png

ORIENTATION_TAG = 0x0112
UPRIGHT: dict[int, Callable[[NDArray[np.uint8]], NDArray[np.uint8]]] = {
    1: lambda stored: stored,
    2: lambda stored: stored[:, ::-1],
    3: lambda stored: stored[::-1, ::-1],
    4: lambda stored: stored[::-1],
    5: lambda stored: stored.swapaxes(0, 1),
    6: lambda stored: np.rot90(stored, -1),
    7: lambda stored: np.rot90(stored, 2).swapaxes(0, 1),
    8: lambda stored: np.rot90(stored, 1),
}
WHITE, RED, BLUE = (255, 255, 255), (255, 0, 0), (0, 0, 255)


def encode(image: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def png(width: int, height: int, depth: int, colour: int, rows: bytes) -> bytes:
    """A PNG file by hand, for what Pillow does not write."""

    def chunk(name: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))

    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def noise(mode: str = "RGB") -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (32, 48, 3), dtype=np.uint8)).convert(mode)


def reason(data: bytes) -> str:
    with pytest.raises(UnreadableImageError) as caught:
        decode(data)
    return str(caught.value)


def test_extensions_are_those_of_torchvision_and_what_pillow_reads_besides() -> None:
    assert {*IMG_EXTENSIONS, ".gif", ".jfif"} <= image_extensions()
    assert (".avif" in image_extensions()) == features.check("avif")
    assert (".jp2" in image_extensions()) == features.check("jpg_2000")
    assert ".txt" not in image_extensions()


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("a.JPG", True),
        ("b.tar.jpeg", True),
        ("c.GIF", True),
        (".jpg", False),
        ("jpg", False),
        ("d.jpg.txt", False),
    ],
)
def test_a_name_says_whether_it_is_an_image(name: str, expected: bool) -> None:
    assert is_image_name(Path("folder.png") / name) is expected


@pytest.mark.parametrize("kind", ["PNG", "BMP", "PPM", "TIFF"])
def test_lossless_rgb_keeps_every_pixel(kind: str) -> None:
    pixels = decode(encode(noise(), kind))
    assert pixels.dtype == np.uint8
    np.testing.assert_array_equal(pixels, np.asarray(noise()))


@pytest.mark.parametrize("orientation", UPRIGHT)
@pytest.mark.parametrize("kind", ["PNG", "JPEG", "TIFF"])
def test_exif_orientation_is_applied(orientation: int, kind: str) -> None:
    stored = np.kron(np.array([[0, 50, 100], [150, 200, 250]]), np.ones((16, 16))).astype(np.uint8)
    exif = Image.Exif()
    exif[ORIENTATION_TAG] = orientation
    pixels = decode(encode(Image.fromarray(stored), kind, exif=exif))
    expected = np.repeat(UPRIGHT[orientation](stored)[..., None], 3, axis=2)
    assert pixels.shape == expected.shape
    np.testing.assert_allclose(pixels.astype(int), expected, atol=2 if kind == "JPEG" else 0)


@pytest.mark.parametrize("exif", [b"Exif\x00\x00garbage", b"Exif\x00\x00II*\x00\xff\xff\xff\xff", b"\x00"])
def test_broken_exif_loses_no_pixels(exif: bytes) -> None:
    np.testing.assert_array_equal(decode(encode(noise(), exif=exif)), np.asarray(noise()))


def test_grey_becomes_three_equal_channels() -> None:
    grey = Image.fromarray(np.array([[0, 7, 255]], dtype=np.uint8))
    assert decode(encode(grey)).tolist() == [[[0] * 3, [7] * 3, [255] * 3]]
    assert decode(encode(grey.convert("1", dither=Image.Dither.NONE))).tolist() == [[[0] * 3, [0] * 3, [255] * 3]]


def palette(transparency: int | bytes | None = None) -> bytes:
    image = Image.new("P", (3, 1))
    image.putpalette([9, 9, 9, *RED, *BLUE])
    image.putdata([1, 2, 0])
    return encode(image) if transparency is None else encode(image, transparency=transparency)


def test_palette_colours_are_looked_up() -> None:
    assert decode(palette()).tolist() == [[[*RED], [*BLUE], [9, 9, 9]]]


def test_a_transparent_palette_entry_becomes_white() -> None:
    assert decode(palette(2)).tolist() == [[[*RED], [*WHITE], [9, 9, 9]]]
    assert decode(palette(bytes([255, 51, 0]))).tolist() == [[[255, 204, 204], [*WHITE], [9, 9, 9]]]


@pytest.mark.parametrize("alpha", [0, 51, 204, 255])
def test_alpha_is_laid_on_white(alpha: int) -> None:
    rest = 255 - alpha
    colour = decode(encode(Image.new("RGBA", (1, 1), (255, 0, 100, alpha))))[0, 0].astype(int)
    np.testing.assert_allclose(colour, [255, rest, (100 * alpha + 255 * rest) / 255], atol=0.5)
    grey = decode(encode(Image.new("LA", (1, 1), (100, alpha))))[0, 0].astype(int)
    np.testing.assert_allclose(grey, [(100 * alpha + 255 * rest) / 255] * 3, atol=0.5)


def test_a_transparent_grey_value_becomes_white() -> None:
    grey = Image.fromarray(np.array([[10, 20]], dtype=np.uint8))
    assert decode(encode(grey, transparency=10)).tolist() == [[[*WHITE], [20] * 3]]


def test_a_transparent_colour_becomes_white() -> None:
    image = Image.fromarray(np.array([[RED, BLUE]], dtype=np.uint8))
    assert decode(encode(image, transparency=RED)).tolist() == [[[*WHITE], [*BLUE]]]


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "PPM"])
def test_16_bit_grey_keeps_its_upper_8_bits(kind: str) -> None:
    values = np.array([[0, 255, 256, 0x1234, 0x80FF, 65535]], dtype=np.uint16)
    pixels = decode(encode(Image.fromarray(values), kind))
    assert pixels.tolist() == [[[value] * 3 for value in (0, 0, 1, 0x12, 0x80, 255)]]


def test_16_bit_colour_keeps_its_upper_8_bits() -> None:
    row = b"\0" + struct.pack(">6H", 0x0100, 0x1234, 0xFFFF, 0x00FF, 0x80FF, 0xABCD)
    assert decode(png(2, 1, 16, 2, row)).tolist() == [[[0x01, 0x12, 0xFF], [0x00, 0x80, 0xAB]]]


@pytest.mark.parametrize(
    ("ink", "colour"),
    [
        ((0, 0, 0, 0), WHITE),
        ((0, 255, 255, 0), RED),
        ((255, 255, 0, 0), BLUE),
        ((0, 0, 0, 255), (0, 0, 0)),
        ((0, 100, 200, 50), (205, 125, 44)),  # (255 - ink) (255 - black) / 255
    ],
)
def test_cmyk_jpeg_is_not_inverted(ink: tuple[int, ...], colour: tuple[int, ...]) -> None:
    pixels = decode(encode(Image.new("CMYK", (16, 16), ink), "JPEG", quality=100))
    np.testing.assert_allclose(pixels.astype(int), np.broadcast_to(colour, (16, 16, 3)), atol=2)


@pytest.mark.parametrize(("kind", "options"), [("GIF", {}), ("PNG", {}), ("WEBP", {"lossless": True}), ("TIFF", {})])
def test_an_animation_gives_its_first_frame(kind: str, options: dict[str, object]) -> None:
    frames = [Image.new("RGB", (4, 4), colour) for colour in (RED, BLUE)]
    data = encode(frames[0], kind, save_all=True, append_images=frames[1:], **options)
    np.testing.assert_array_equal(decode(data), np.broadcast_to(RED, (4, 4, 3)))


def test_an_empty_file_is_called_empty() -> None:
    assert reason(b"") == "the file is empty (0 bytes)"


@pytest.mark.parametrize("data", [b"this is text, named photo.jpg", b"\x00", b"GIF"])
def test_what_is_no_image_is_called_that(data: bytes) -> None:
    assert reason(data) == "not an image that Pillow can identify"


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        ("JPEG", "image file is truncated"),
        ("PNG", "image file is truncated"),
        ("BMP", "image file is truncated"),
        ("PPM", "image file is truncated"),
        ("TIFF", "image file is truncated"),
        ("WEBP", "could not create decoder object"),
    ],
)
def test_a_truncated_file_is_unreadable_never_half_grey(kind: str, text: str) -> None:
    data = encode(noise(), kind)
    for length in (len(data) // 2, len(data) * 9 // 10):
        assert reason(data[:length]).startswith(text)


def test_the_cause_of_an_unreadable_image_is_kept() -> None:
    with pytest.raises(OSError, match="not an image") as caught:
        decode(b"text")
    assert isinstance(caught.value.__cause__, Image.UnidentifiedImageError)


def test_floating_point_pixels_are_refused_with_the_cure() -> None:
    data = encode(Image.fromarray(np.ones((2, 2), dtype=np.float32)), "TIFF")
    assert reason(data) == "floating-point pixels have no defined white: give --value-range LOW:HIGH"


def test_a_decompression_bomb_is_unreadable() -> None:
    assert reason(png(14_000, 14_000, 8, 2, b"")) == (
        "DecompressionBombError: Image size (196000000 pixels) exceeds limit of 178956970 pixels, "
        "could be decompression bomb DOS attack."
    )


@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
@settings(deadline=None)
@given(where=st.floats(0, 1, exclude_max=True), byte=st.integers(0, 255))
def test_a_damaged_file_gives_pixels_or_unreadable_image_error(kind: str, where: float, byte: int) -> None:
    data = bytearray(encode(noise(), kind))
    data[int(where * len(data))] = byte
    try:
        pixels = decode(bytes(data))
    except UnreadableImageError:
        return
    assert pixels.shape[2:] == (3,)
    assert pixels.dtype == np.uint8


@given(
    width=st.integers(1, 70),
    height=st.integers(1, 70),
    options=st.fixed_dictionaries(
        {
            "quality": st.sampled_from([5, 75, 100]),
            "subsampling": st.sampled_from(["4:4:4", "4:2:2", "4:2:0"]),
            "progressive": st.booleans(),
            "restart_marker_blocks": st.sampled_from([0, 3]),
        }
    ),
    mode=st.sampled_from(["RGB", "L", "CMYK"]),
    orientation=st.integers(0, 9),
    damage=st.none() | st.tuples(st.floats(0, 1, exclude_max=True), st.integers(0, 255)),
)
@settings(deadline=None, max_examples=200)
def test_the_fast_jpeg_decoder_gives_pillows_pixels(
    width: int, height: int, options: dict[str, Any], mode: str, orientation: int, damage: tuple[float, int] | None
) -> None:
    exif = Image.Exif()
    exif[ORIENTATION_TAG] = orientation
    data = bytearray(encode(noise(mode).resize((width, height)), "JPEG", exif=exif, **options))
    if damage:
        data[int(damage[0] * len(data))] = damage[1]
    assert outcome(bytes(data)) == pillows_outcome(bytes(data))


def outcome(data: bytes) -> tuple[tuple[int, ...], bytes] | str:
    try:
        pixels = decode(data)
    except UnreadableImageError as error:
        return str(error)
    return pixels.shape, pixels.tobytes()


def pillows_outcome(data: bytes) -> tuple[tuple[int, ...], bytes] | str:
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "simplejpeg", None)
        return outcome(data)


def test_the_fast_jpeg_decoder_gives_pillows_pixels_of_photos(ants_bees: Path) -> None:
    for path in sorted(ants_bees.rglob("*.jpg"))[::7]:
        data = path.read_bytes()
        assert outcome(data) == pillows_outcome(data), path


def test_most_jpegs_go_through_the_fast_decoder(monkeypatch: pytest.MonkeyPatch) -> None:
    simplejpeg = pytest.importorskip("simplejpeg")
    seen = []
    decode_jpeg = simplejpeg.decode_jpeg
    monkeypatch.setattr(simplejpeg, "decode_jpeg", lambda data, **how: seen.append(how) or decode_jpeg(data, **how))
    decode(encode(noise(), "JPEG"))
    decode(encode(noise("L"), "JPEG"))
    assert len(seen) == 2


def test_a_jpeg_of_another_size_than_its_first_header_says_is_left_to_pillow() -> None:
    data = encode(noise(), "JPEG")
    start = data.index(b"\xff\xc0")
    frame = data[start : start + 2 + int.from_bytes(data[start + 2 : start + 4], "big")]
    small = frame[:5] + struct.pack(">HH", 8, 8) + frame[9:]
    lying = data[:start] + small + data[start:]
    assert outcome(lying) == pillows_outcome(lying)


def test_what_write_png_wrote_decode_reads(tmp_path: Path) -> None:
    pixels = np.asarray(noise())
    write_png(pixels, tmp_path / "colour.png")
    write_png(pixels[..., 1], tmp_path / "grey.png")
    np.testing.assert_array_equal(decode((tmp_path / "colour.png").read_bytes()), pixels)
    np.testing.assert_array_equal(decode((tmp_path / "grey.png").read_bytes()), pixels[..., [1, 1, 1]])
