"""TIFF files of every kind that tifffile writes: the right pixels, or a refusal that says what the file is."""

from __future__ import annotations

import io
import itertools
import struct
from typing import Any

import numpy as np
import pytest
import tifffile
from numpy.typing import NDArray
from PIL import Image

from featcache.core.bit_depth import ValueRange
from featcache.errors import UnreadableImageError
from featcache.vision.decode import decode
from featcache.vision.image_files import upright_size
from featcache.vision.tiff import pillow_reads

HEIGHT, WIDTH = 19, 30
RANGES: dict[str, ValueRange] = {
    "uint16": (0, 4095),
    "int16": (-1024, 3071),
    "uint32": (0, 3e9),
    "int32": (-100, 100_000),
    "uint64": (0, 1000),
    "float16": (-1, 1),
    "float32": (0, 1),
    "float64": (0, 1e-3),
}
LAYOUTS = [("minisblack", 1), ("miniswhite", 1), ("minisblack", 2), ("rgb", 3), ("rgb", 4)]
COMPRESSIONS = [None, "zlib", "lzw"]


def values_of(dtype: str, samples: int) -> NDArray[Any]:
    """Random values over the range, and some outside of it: shape (h, w, samples)."""
    random, kind = np.random.default_rng(0).random((HEIGHT, WIDTH, samples)), np.dtype(dtype)
    if kind == np.uint8:
        values = (random * 256).astype(kind)
        values[..., 3:] = 255
        values[..., 1:] = 255 if samples == 2 else values[..., 1:]
        return values
    low, high = RANGES[dtype]
    values = low + random * (high - low) * 1.1
    values = values.astype(kind)
    if samples in (2, 4):
        values[..., -1] = np.iinfo(kind).max if kind.kind in "iu" else 1  # opaque
    return values


def write(values: NDArray[Any], photometric: str, planar: str = "contig", **options: Any) -> bytes:
    samples = values.shape[2]
    if samples == 1:
        values, config = values[..., 0], None
    else:
        values, config = (np.moveaxis(values, 2, 0), "separate") if planar == "separate" else (values, "contig")
    buffer = io.BytesIO()
    extra = ["unassalpha"] if samples in (2, 4) and photometric != "separated" else None
    tifffile.imwrite(
        buffer, values, photometric=photometric, planarconfig=config, extrasamples=extra, rowsperstrip=7, **options
    )
    return buffer.getvalue()


def expected(values: NDArray[Any], photometric: str, value_range: ValueRange | None) -> NDArray[np.uint8]:
    """What two lines of numpy give; alpha is opaque everywhere."""
    colours = values[..., :3] if values.shape[2] > 2 else values[..., :1]
    if value_range:
        low, high = value_range
        eight = np.rint(((colours.astype(float) - low) * 255 / (high - low)).clip(0, 255)).astype(np.uint8)
    else:
        eight = colours if colours.dtype == np.uint8 else (colours >> 8).astype(np.uint8)
    return np.broadcast_to(255 - eight if photometric == "miniswhite" else eight, (HEIGHT, WIDTH, 3))


def layouts() -> list[tuple[str, int, str, str | None, str]]:
    every = itertools.product(LAYOUTS, ("contig", "separate"), COMPRESSIONS, "<>")
    return [(kind, n, planar, pack, order) for (kind, n), planar, pack, order in every if n > 1 or planar == "contig"]


@pytest.mark.parametrize("dtype", RANGES)
def test_values_of_every_type_are_scaled_by_the_range(dtype: str) -> None:
    pytest.importorskip("imagecodecs")
    for photometric, samples, planar, compression, order in layouts():
        values = values_of(dtype, samples)
        data = write(values, photometric, planar, compression=compression, byteorder=order)
        decoded = decode(data, value_range=RANGES[dtype])
        reference = expected(values, photometric, RANGES[dtype])
        what = f"{photometric} {samples} {planar} {compression} {order}"
        np.testing.assert_array_equal(decoded, reference, err_msg=what)


@pytest.mark.parametrize("dtype", ["uint8", "uint16"])
def test_without_a_range_all_bits_or_the_upper_byte_are_taken(dtype: str) -> None:
    pytest.importorskip("imagecodecs")
    for photometric, samples, planar, compression, order in layouts():
        values = values_of(dtype, samples) * (1 if dtype == "uint8" else 15)
        if samples in (2, 4):
            values[..., -1] = np.iinfo(values.dtype).max
        data = write(values, photometric, planar, compression=compression, byteorder=order, predictor=bool(compression))
        what = f"{photometric} {samples} {planar} {compression} {order}"
        np.testing.assert_array_equal(decode(data), expected(values, photometric, None), err_msg=what)


def test_eight_bits_are_not_scaled() -> None:
    values = values_of("uint8", 3)
    np.testing.assert_array_equal(decode(write(values, "rgb"), value_range=(0, 100)), values)


@pytest.mark.parametrize("samples", [1, 3])
def test_bits_in_the_other_order_are_turned(samples: int) -> None:
    for dtype in ("uint8", "uint16"):
        values = values_of(dtype, samples)
        turned = np.packbits(np.unpackbits(values.view(np.uint8)), bitorder="little").view(dtype).reshape(values.shape)
        data = write(turned, "minisblack" if samples == 1 else "rgb", extratags=[(65000, "H", 1, 2, True)])
        data = data.replace(struct.pack("<HHI", 65000, 3, 1), struct.pack("<HHI", 266, 3, 1))
        value_range = RANGES.get(dtype)
        np.testing.assert_array_equal(
            decode(data, value_range=value_range), expected(values, "rgb", value_range), err_msg=dtype
        )


def test_one_bit_and_palettes_stay_with_pillow() -> None:
    bits = np.random.default_rng(0).integers(0, 2, (HEIGHT, WIDTH, 1)).astype(bool)
    for photometric in ("minisblack", "miniswhite"):
        grey = (bits != (photometric == "miniswhite")) * np.uint8(255)
        np.testing.assert_array_equal(
            decode(write(bits, photometric)), np.broadcast_to(grey, (HEIGHT, WIDTH, 3)), err_msg=photometric
        )
    image = Image.fromarray(values_of("uint8", 3)).quantize(16)
    buffer = io.BytesIO()
    image.save(buffer, "TIFF")
    np.testing.assert_array_equal(decode(buffer.getvalue()), np.asarray(image.convert("RGB")))


def test_cmyk_and_ycbcr_are_converted_as_pillow_converts_them() -> None:
    ink = np.random.default_rng(0).integers(0, 256, (HEIGHT, WIDTH, 4), np.uint8)
    reference = np.asarray(Image.fromarray(ink, "CMYK").convert("RGB"))
    for planar in ("contig", "separate"):
        np.testing.assert_array_equal(decode(write(ink, "separated", planar)), reference, err_msg=planar)
    deep = write(ink.astype(np.uint16) << 8, "separated")
    np.testing.assert_array_equal(decode(deep, value_range=(0, 4095)), reference)
    image = Image.fromarray(np.kron(values_of("uint8", 3)[:2, :2], np.ones((16, 16, 1), np.uint8)))
    buffer = io.BytesIO()
    image.save(buffer, "TIFF", compression="jpeg", quality=95)
    assert np.abs(decode(buffer.getvalue()).astype(int) - np.asarray(image)).mean() < 8


UNCERTAIN = {
    "two channels of grey": lambda: write(values_of("uint8", 1)[..., [0, 0]], "minisblack", "separate").replace(
        struct.pack("<HHI", 338, 3, 1), struct.pack("<HHI", 65000, 3, 1)
    ),
    "three channels of grey": lambda: write(values_of("uint16", 3), "minisblack"),
    "YCbCr that is not JPEG": lambda: write(values_of("uint8", 3), "ycbcr", "separate", compression="zlib"),
    "CIELAB of 16 bits": lambda: write(values_of("uint16", 3), "cielab"),
    "CIELAB in planes": lambda: write(values_of("uint8", 3), "cielab", "separate"),
    "CMYK of 16 bits in planes": lambda: write(values_of("uint16", 4), "separated", "separate"),
    "complex numbers": lambda: write(values_of("float32", 1).astype(np.complex64), "minisblack"),
}


@pytest.mark.parametrize("what", UNCERTAIN)
def test_what_is_not_certain_is_refused_by_name(what: str) -> None:
    with pytest.raises(UnreadableImageError, match=r"a TIFF of .* whose colours are not certain: save it as") as caught:
        decode(UNCERTAIN[what](), value_range=(0, 4095))
    assert len(str(caught.value)) <= 120


@pytest.mark.parametrize("dtype", ["int8", "float32"])
def test_a_type_that_does_not_say_what_is_white_needs_a_range(dtype: str) -> None:
    values = np.linspace(-1, 1, HEIGHT * WIDTH).reshape(HEIGHT, WIDTH, 1)
    values = (values * 100).astype(dtype) if dtype == "int8" else values.astype(dtype)
    data, kind = write(values, "minisblack"), "signed 8-bit" if dtype == "int8" else "floating-point"
    with pytest.raises(UnreadableImageError, match=f"^{kind} pixels have no defined white: give --value-range LOW"):
        decode(data)
    value_range = (-100.0, 100.0) if dtype == "int8" else (-1.0, 1.0)
    np.testing.assert_array_equal(decode(data, value_range=value_range), expected(values, "minisblack", value_range))


def test_values_that_are_no_numbers_are_black() -> None:
    values = np.array([[[np.nan], [np.inf], [-np.inf], [0.5]]], np.float32)
    assert decode(write(values, "minisblack"), value_range=(0, 1))[0, :, 0].tolist() == [0, 255, 0, 128]


def test_a_compression_that_needs_a_package_names_it(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("imagecodecs")
    data = write(values_of("uint16", 3), "rgb", compression="lzw")
    np.testing.assert_array_equal(decode(data), values_of("uint16", 3) >> 8)  # Pillow knows the upper byte

    def absent(*_args: object, **_options: object) -> None:
        raise ValueError("<COMPRESSION.LZW: 5> requires the 'imagecodecs' package")

    monkeypatch.setattr(tifffile.TiffPage, "asarray", absent)
    with pytest.raises(UnreadableImageError, match=r'16-bit TIFF with LZW compression: pip install -e "\.\[tiff\]"'):
        decode(data, value_range=(0, 4095))


@pytest.mark.parametrize("orientation", [1, 3, 6, 8])
def test_the_orientation_is_applied(orientation: int) -> None:
    values = values_of("uint16", 3)
    data = write(values, "rgb", "separate", extratags=[(274, "H", 1, orientation, True)])
    turned = np.rot90(expected(values, "rgb", (0, 4095)), {1: 0, 3: 2, 6: -1, 8: 1}[orientation])
    np.testing.assert_array_equal(decode(data, value_range=(0, 4095)), turned)
    assert upright_size(data) == turned.shape[:2]


def test_too_many_pixels_are_refused_before_they_are_read() -> None:
    data = write(values_of("float64", 3), "rgb")  # which Pillow does not open
    with pytest.raises(UnreadableImageError, match="30 x 19 pixels are more than the 500 of --max-pixels"):
        decode(data, 500, (0, 1))


def test_damaged_files_never_crash() -> None:
    data = write(values_of("uint16", 3), "rgb", "separate", compression="zlib")
    for position in range(0, len(data), 7):
        damaged = bytearray(data)
        damaged[position] ^= 0xFF
        for content in (bytes(damaged), data[:position]):
            try:
                pixels = decode(content, 10_000, (0, 4095))
            except UnreadableImageError:
                continue
            assert pixels.shape[2:] == (3,)


def test_the_list_of_what_pillow_reads_starts_from_the_defaults_of_the_format() -> None:
    assert pillow_reads({})  # one bit, white is zero
    assert not pillow_reads({258: (16, 16, 16), 262: 2, 277: 3, 284: 2})
    assert not pillow_reads({258: (8, 16, 8), 262: 2, 277: 3})


@pytest.mark.parametrize(
    ("tag", "value", "missing"), [(257, 1_000_019, "142,857 of 142,860 strips"), (278, 1, "16 of 19 strips")]
)
def test_rows_that_are_not_there_are_no_black_ones(tag: int, value: int, missing: str) -> None:
    """Pillow takes strips that are missing for zeros, a million rows of them from a file of two kilobytes."""
    values = values_of("float32", 1)
    data = write(values, "minisblack")
    with Image.open(io.BytesIO(data)) as image:
        assert (image.tag_v2[257], image.tag_v2[278], len(image.tag_v2[273])) == (HEIGHT, 7, 3)
    for kind in (3, 4):  # a short or a long number
        entry = struct.pack("<HHI", tag, kind, 1)
        if (position := data.find(entry)) >= 0:
            broken = data[:position] + struct.pack("<HHII", tag, 4, 1, value) + data[position + 12 :]
    with pytest.raises(UnreadableImageError, match=f"it is damaged: {missing} are missing"):
        decode(broken, value_range=(0, 1))
