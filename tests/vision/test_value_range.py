"""Images of more than 8 bits a channel: one range for the whole data set, found, stored and used everywhere."""

from __future__ import annotations

import io
import struct
import tracemalloc
import zlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from numpy.typing import NDArray
from PIL import Image

from commands import as_json, featcache_cli, refused
from featcache.backbones import load as backbone_loading
from featcache.cache.feature_cache import FeatureCache
from featcache.core.bit_depth import covering_range
from featcache.core.specs import ExtractSpec, ViewSpec
from featcache.data.manifest import Manifest, read_manifest
from featcache.errors import CacheMismatchError, MissingExtraError, SpecError
from featcache.extraction.extract import extract
from featcache.extraction.pipelines import image as image_pipeline
from featcache.extraction.update import repair, update
from featcache.finetuning.finetune import finetune
from featcache.heads.fit_head import fit_head
from featcache.models.classifier import Classifier
from featcache.vision import decode as images
from featcache.vision import value_range as valuerange
from featcache.vision.decode import decode, decode_and_check, value_extent
from featcache.vision.image_cache import ImageCache
from featcache.vision.loader import ViewLoader
from featcache.vision.memory_images import check_picture
from featcache.vision.value_range import choose_value_range, find_value_range
from toys import toy_answer, toy_backbone
from trainable import CONFIG, trainable_backbone

SMALL = ("--backbone", "mobilenet_v3_small", "--weights", "none", "--image-size", "32", "--workers", "2")
Scale = Callable[[NDArray[np.uint8]], NDArray[Any]]


def grey(seed: int, bright: bool) -> NDArray[np.uint8]:
    """Noise up to 250, of two classes."""
    noise = np.random.default_rng(seed).integers(0, 120, (14, 20))
    return (noise + 130 * bright).astype(np.uint8).clip(0, 250)


def write_images(root: Path, scale: Scale = lambda pixels: pixels, suffix: str = ".png") -> Path:
    """Grey images of two classes, stored as `scale` gives them; the largest value is reached in train."""
    for index, (folder, count) in enumerate({"train/dark": 4, "train/light": 4, "val/dark": 2, "val/light": 2}.items()):
        (root / folder).mkdir(parents=True)
        for number in range(count):
            pixels = grey(100 * index + number, "light" in folder)
            pixels[0, :2] = 0, 250
            path = root / folder / f"{number}{suffix}"
            if suffix == ".tif":
                tifffile.imwrite(path, scale(pixels), photometric="minisblack")
            else:
                Image.fromarray(scale(pixels)).save(path)
    return root


def in_16(factor: int) -> Scale:
    return lambda pixels: pixels.astype(np.uint16) * factor


@pytest.fixture
def deep(tmp_path: Path) -> Path:
    """12 bits of 16: values to 4,000."""
    return write_images(tmp_path / "deep", in_16(16))


def features(cache: FeatureCache, split: str) -> NDArray[np.float32]:
    return np.asarray(cache.features(split).x, np.float32)


def scaled(values: NDArray[Any], low: float, high: float) -> NDArray[np.uint8]:
    return np.rint(((values.astype(float) - low) * 255 / (high - low)).clip(0, 255)).astype(np.uint8)


def test_sixteen_bit_copies_of_eight_bit_images_have_the_same_features(tmp_path: Path) -> None:
    for name, scale in (("eight", lambda pixels: pixels), ("sixteen", in_16(1))):
        write_images(tmp_path / name, scale)
        result = extract(tmp_path / name, tmp_path / f"{name}.h5", backbone=toy_backbone(), views=0, dtype="float32")
        assert result.remarks == []
    eight, sixteen = (FeatureCache.open(tmp_path / f"{name}.h5") for name in ("eight", "sixteen"))
    assert (eight.spec.view.value_range, sixteen.spec.view.value_range) == (None, (0, 255))
    for split in ("train", "val"):
        np.testing.assert_array_equal(features(sixteen, split), features(eight, split))


def test_the_range_is_found_told_stored_and_shown(deep: Path, tmp_path: Path) -> None:
    notes: list[str] = []
    result = extract(deep, tmp_path / "c.h5", backbone=toy_backbone(), views=1, dtype="float32", on_note=notes.append)
    assert notes[1:] == [  # after the line on the data
        "images of more than 8 bits a channel: values 0:4095 become black to white (--value-range sets others)"
    ]
    assert result.to_dict()["value_range"] == [0, 4095]
    assert "value_range     0.0,4095.0" in str(FeatureCache.open(tmp_path / "c.h5"))
    pixels = np.stack([scaled(np.asarray(Image.open(path)), 0, 4095) for path in sorted((deep / "val").rglob("*.png"))])
    clean = result.cache.features("val").clean()
    answers = toy_answer(pixels[..., None].repeat(3, 3))  # of whole images; the network sees their middle
    np.testing.assert_allclose(np.asarray(clean), answers, atol=0.2)


@pytest.mark.parametrize(
    ("scale", "suffix", "expected"),
    [
        (in_16(1), ".png", (0, 255)),
        (in_16(4), ".png", (0, 1023)),
        (in_16(16), ".tif", (0, 4095)),
        (in_16(256), ".tif", (0, 65535)),
        (lambda pixels: pixels.astype(np.int16) * 16 - 1000, ".tif", (-1024, 4095)),
        (lambda pixels: pixels.astype(np.int32) * 400, ".tif", (0, 131071)),
        (lambda pixels: pixels.astype(np.float32), ".tif", None),
        (lambda pixels: pixels, ".png", None),
        (lambda pixels: pixels, ".tif", None),
    ],
)
def test_the_range_is_of_whole_bits(
    scale: Scale, suffix: str, expected: tuple[float, float] | None, tmp_path: Path
) -> None:
    assert find_value_range(read_manifest(write_images(tmp_path / "data", scale, suffix))) == expected


def test_a_range_covers_what_was_found() -> None:
    assert covering_range(0, 4096) == (0, 8191)
    assert covering_range(7, 7) == (0, 255)
    assert covering_range(-1025, 0) == (-2048, 255)


def test_images_of_val_and_jpegs_are_not_looked_at(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = write_images(tmp_path / "data", suffix=".jpg")
    Image.fromarray(np.full((9, 9), 60_000, np.uint16)).save(data / "val/dark/deep.png")

    def read(*_: object) -> bytes:
        raise AssertionError("an image was read")

    manifest = read_manifest(data)
    monkeypatch.setattr(Manifest, "read", read)
    assert find_value_range(manifest) is None


@pytest.mark.parametrize("suffix", [".png", ".tif"])
def test_the_header_says_that_eight_bits_need_no_range(
    suffix: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No pixels are decoded; a JPEG may be named .png, too."""
    manifest = read_manifest(write_images(tmp_path / "data", suffix=suffix))
    Image.new("RGB", (9, 9)).save(tmp_path / "data/train/dark" / f"0{suffix}", "JPEG")

    def read(*_: object, **_settings: object) -> None:
        raise AssertionError("pixels were decoded")

    monkeypatch.setattr(images, "_read", read)
    assert find_value_range(manifest) is None


def test_sixteen_bit_colours_that_only_a_package_reads_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Pillow knows their upper byte, which is dark: the features would depend on what is installed."""
    for class_name in ("ants", "bees"):
        (tmp_path / "data" / class_name).mkdir(parents=True)
        for number in range(3):
            values = np.full((14, 20, 3), 900 + number, np.uint16)
            path = tmp_path / "data" / class_name / f"{number}.tif"
            tifffile.imwrite(path, values + 5 * (class_name == "bees"), photometric="rgb", compression="zlib")
    manifest = read_manifest(tmp_path / "data")
    assert find_value_range(manifest) == (0, 1023)

    def absent(*_args: object, **_options: object) -> None:
        raise ValueError("<COMPRESSION.LZW: 5> requires the 'imagecodecs' package")

    monkeypatch.setattr(tifffile.TiffPage, "asarray", absent)
    with pytest.raises(MissingExtraError, match=r"^4 of 4 .*only the upper 8 can be read.*\.\[tiff\]"):
        find_value_range(manifest)


def test_a_large_set_is_sampled_and_what_exceeds_the_range_is_told(
    deep: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(valuerange, "EXAMINED", 3)
    Image.fromarray(np.full((9, 9), 5000, np.uint16) + np.arange(9, dtype=np.uint16)).save(deep / "train/dark/1.png")
    result = extract(deep, tmp_path / "c.h5", backbone=toy_backbone(), views=0)
    assert result.cache.spec.view.value_range == (0, 4095)
    line = "1 image is clipped by the value range (for example train/dark/1.png): see --value-range"
    assert str(result).splitlines()[-1] == line


def test_black_and_plain_images_are_counted(tmp_path: Path) -> None:
    data = write_images(tmp_path / "data")
    for number in range(3):
        Image.fromarray(grey(number, False) // 12).save(data / f"train/dark/black{number}.png")
    Image.new("RGB", (9, 9), (255, 0, 0)).save(data / "val/light/red.png")
    result = extract(data, tmp_path / "c.h5", backbone=toy_backbone(), views=1)
    assert str(result).splitlines()[-2:] == [
        "3 images are nearly black (for example train/dark/black0.png): see --value-range",
        "1 image is of one colour (for example val/light/red.png)",
    ]
    assert result.to_dict()["remarks"][-1] == {"path": "val/light/red.png", "remark": "of one colour"}


def test_a_range_that_is_given_is_taken(deep: Path, tmp_path: Path) -> None:
    result = extract(deep, tmp_path / "c.h5", backbone=toy_backbone(), views=0, value_range=(1000, 2000))
    assert result.cache.spec.view.value_range == (1000, 2000)
    with pytest.raises(CacheMismatchError, match="value_range"):
        extract(deep, tmp_path / "c.h5", backbone=toy_backbone(), views=0, value_range=(0, 2000))


def test_floats_need_a_range_and_then_are_read(tmp_path: Path) -> None:
    data = write_images(tmp_path / "data", lambda pixels: (pixels / 255).astype(np.float32), ".tif")
    eight = write_images(tmp_path / "eight", suffix=".tif")
    extraction = extract(data, tmp_path / "a.h5", backbone=toy_backbone(), views=0, value_range=(0, 1), dtype="float32")
    expected = extract(eight, tmp_path / "b.h5", backbone=toy_backbone(), views=0, dtype="float32")
    np.testing.assert_allclose(features(extraction.cache, "val"), features(expected.cache, "val"), atol=1e-5)


def without_range(monkeypatch: pytest.MonkeyPatch) -> None:
    """As versions did that knew of no range."""
    monkeypatch.setattr(image_pipeline, "choose_value_range", lambda *_: None)


@pytest.fixture
def toy_network(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backbone_loading, "load_backbone", lambda *_, **__: toy_backbone())


def test_a_cache_of_before_keeps_its_rule(
    deep: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, toy_network: None
) -> None:
    with monkeypatch.context() as patch:
        without_range(patch)
        old = extract(deep, tmp_path / "c.h5", backbone=toy_backbone(), views=0, dtype="float32").cache
    assert "value_range" not in old.spec.to_json()
    before = features(old, "train")
    again = extract(deep, tmp_path / "c.h5", backbone=toy_backbone(), views=0, dtype="float32")
    assert again.extracted == 0
    source = deep / "train/dark/0.png"
    Image.fromarray(np.asarray(Image.open(source))[::-1]).save(deep / "train/dark/flipped.png")
    result = update(tmp_path / "c.h5", deep)
    row = result.cache.samples.ids.index("train/dark/flipped.png")
    assert result.remarks == [("train/dark/flipped.png", "nearly black")]
    old_row = features(result.cache, "train")[result.cache.samples.ids.index("train/dark/0.png")]
    np.testing.assert_allclose(features(result.cache, "train")[row], old_row, atol=1e-2)
    assert np.abs(before).max() < 10


def test_an_update_and_a_repair_take_the_range_of_the_cache(deep: Path, tmp_path: Path, toy_network: None) -> None:
    cache = extract(deep, tmp_path / "c.h5", backbone=toy_backbone(), views=1, dtype="float32").cache
    before, region = features(cache, "train"), cache.layout.layers["penultimate"]
    Image.fromarray(np.full((9, 9), 60_000, np.uint16)).save(deep / "val/light/bright.png")  # no reason for another
    result = update(tmp_path / "c.h5", deep)
    assert (result.extracted, result.cache.spec) == (1, cache.spec)
    assert result.remarks == [("val/light/bright.png", "clipped by the value range")]
    assert "1 image is clipped by the value range" in str(result)
    region = result.cache.layout.layers["penultimate"]
    with (tmp_path / "c.h5").open("r+b") as file:
        file.seek(region.offset)
        file.write(bytes(4))
    assert repair(tmp_path / "c.h5", deep).extracted == 1
    np.testing.assert_array_equal(features(FeatureCache.open(tmp_path / "c.h5"), "train"), before)


def test_a_run_that_was_stopped_goes_on_with_its_range(deep: Path, tmp_path: Path) -> None:
    def stop(what: str, *_: object) -> None:
        if what == "extract":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        extract(deep, tmp_path / "c.h5", backbone=toy_backbone(), views=0, batch_size=1, progress=stop)
    Image.fromarray(np.full((9, 9), 60_000, np.uint16)).save(deep / "train/light/bright.png")
    result = extract(deep, tmp_path / "c.h5", backbone=toy_backbone(), views=0)
    assert result.cache.spec.view.value_range == (0, 4095)
    assert choose_value_range((0, 9), tmp_path / "c.h5", read_manifest(deep)) == (0, 9)


def test_predictions_use_the_range_of_the_head(deep: Path, tmp_path: Path) -> None:
    def as_file(values: NDArray[Any]) -> Path:
        path = tmp_path / f"{values.dtype}.png"
        Image.fromarray(values).save(path)
        return path

    network: dict[str, Any] = {"backbone": "mobilenet_v3_small", "weights": "none", "image_size": 32, "device": "cpu"}
    cache = extract(
        deep, tmp_path / "c.h5", views=0, dtype="float32", precision="fp32", engine="pytorch", **network
    ).cache
    fit_head(cache, tmp_path / "head")
    classifier = Classifier.load(tmp_path / "head", device="cpu")
    values = grey(5, True).astype(np.uint16) * 16
    eight = scaled(values, 0, 4095)
    answers = classifier.predict([as_file(values), as_file(eight), Image.fromarray(values), eight])
    probabilities = np.array([[dict(answer.top)[name] for name in classifier.classes] for answer in answers])
    np.testing.assert_allclose(probabilities, np.broadcast_to(probabilities[1], probabilities.shape), atol=1e-5)


def test_live_training_sees_the_pixels_of_the_cache_with_an_image_cache_too(deep: Path, tmp_path: Path) -> None:
    run = finetune(
        deep, tmp_path / "run", backbone=trainable_backbone(), config=CONFIG, workers=2, image_cache=tmp_path / "i.h5"
    )
    assert "values 0:4095 become black to white" in str(run)
    manifest, spec = read_manifest(deep), ViewSpec(8, 10, value_range=(0, 4095))
    image_cache = ImageCache(tmp_path / "i.h5", manifest, ImageCache_side(tmp_path / "i.h5"), value_range=(0, 4095))
    try:
        rows = np.arange(len(manifest.samples))
        by_file, by_cache = (
            np.concatenate(
                [batch.inputs for batch in ViewLoader(manifest, spec, images=images).batches(rows, [0, 1], 4)]
            )
            for images in (None, image_cache)
        )
    finally:
        image_cache.close()
    np.testing.assert_array_equal(by_file, by_cache)
    assert by_file.max() > 200
    with pytest.raises(CacheMismatchError, match=r"scaled by the value range 0:4095, you need no range\. Remove it"):
        ImageCache(tmp_path / "i.h5", manifest, ImageCache_side(tmp_path / "i.h5"))


def ImageCache_side(path: Path) -> int:  # noqa: N802
    from featcache.cache.format.container import open_container
    from featcache.vision.image_cache import IMAGES

    with open_container(path, IMAGES) as arrays:
        return int(arrays.index()["side"])


def png16(colour: int, values: NDArray[np.uint16], orientation: int = 1) -> bytes:
    """A PNG file of 16-bit samples by hand, which Pillow does not write; values (h, w, samples)."""

    def chunk(name: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))

    height, width = values.shape[:2]
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    exif = Image.Exif()
    exif[0x0112] = orientation
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 16, colour, 0, 0, 0))
    body = chunk(b"eXIf", exif.tobytes().removeprefix(b"Exif\0\0")) + chunk(b"IDAT", zlib.compress(rows))
    return b"\x89PNG\r\n\x1a\n" + head + body + chunk(b"IEND", b"")


@pytest.mark.parametrize(("colour", "samples"), [(0, 1), (2, 3), (4, 2), (6, 4)])
@pytest.mark.parametrize("orientation", [1, 6])
def test_sixteen_bit_pngs_of_every_colour_use_all_their_bits(colour: int, samples: int, orientation: int) -> None:
    values = np.random.default_rng(0).integers(0, 5000, (5, 7, samples), np.uint16)
    if samples in (2, 4):
        values[..., -1] = 65535
    data = png16(colour, values, orientation)
    eight = scaled(values[..., :3] if samples > 2 else values[..., :1], 0, 4095)
    expected = np.rot90(np.broadcast_to(eight, (5, 7, 3)), -1 if orientation == 6 else 0)
    decoded = decode_and_check(data, value_range=(0, 4095))
    np.testing.assert_array_equal(decoded.pixels, expected)
    assert decoded.remark == "clipped by the value range"
    extent = values[..., : 3 if samples > 2 else 1]
    assert value_extent(data) == (extent.min(), extent.max())


def test_transparency_of_sixteen_bits_is_laid_on_white() -> None:
    values = np.array([[[4095, 0, 0, 65535], [4095, 0, 0, 0], [0, 0, 0, 32896]]], np.uint16)
    pixels = decode(png16(6, values), value_range=(0, 4095))
    assert pixels.tolist() == [[[255, 0, 0], [255, 255, 255], [127, 127, 127]]]


def test_pillow_images_in_memory_are_scaled_as_files() -> None:
    values = np.arange(0, 4095, 65, dtype=np.uint16).reshape(7, 9)
    pixels = check_picture(Image.fromarray(values), "it", value_range=(0, 4095)).pixels
    np.testing.assert_array_equal(pixels[..., 0], scaled(values, 0, 4095))


@pytest.mark.parametrize("value_range", [None, (0.0, 4095.0)])
@pytest.mark.parametrize(("kind", "dtype"), [("PNG", np.uint16), ("TIFF", np.int32)])
def test_memory_of_a_large_image_is_bounded(kind: str, dtype: type, value_range: tuple[float, float] | None) -> None:
    buffer = io.BytesIO()
    Image.fromarray(np.full((1500, 2000), 1000, dtype)).save(buffer, kind)
    data = buffer.getvalue()
    tracemalloc.start()
    try:
        decode(data, value_range=value_range)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak / 3e6 < 14  # bytes a pixel, 32-bit values and the strip that is converted included


def test_the_digest_covers_the_range_and_leaves_older_ones_as_they_were() -> None:
    spec = ExtractSpec("toy", "ab" * 32, ViewSpec(mean=(0.5,) * 3, std=(0.25,) * 3), views=3)
    ranged = replace(spec, view=replace(spec.view, value_range=(0, 4095)))
    assert "value_range" not in spec.to_json()
    assert ranged.digest() != spec.digest()
    assert ExtractSpec.from_json(ranged.to_json()) == ranged
    assert spec.differences(ranged) == [("value_range", None, [0, 4095])]
    with pytest.raises(SpecError, match="value_range is 5 to 5; the low value must be below the high one"):
        ViewSpec(value_range=(5, 5))
    with pytest.raises(SpecError, match="it must be two numbers, low and high"):
        ExtractSpec.from_json(ranged.to_json().replace("[0.0,4095.0]", "[1]"))


def test_the_command_line_takes_a_range(deep: Path, tmp_path: Path) -> None:
    result = featcache_cli("extract", deep, "-o", tmp_path / "a.h5", "--views", 0, *SMALL)
    assert "images of more than 8 bits a channel: values 0:4095 become black to white" in result.output
    summary = as_json("extract", deep, "-o", tmp_path / "b.h5", "--views", 0, "--value-range", "-100:9000", *SMALL)
    assert summary["value_range"] == [-100, 9000]
    text = refused("extract", deep, "-o", tmp_path / "c.h5", "--value-range", "0-4095", status=2)
    assert "'0-4095' is not a range such as 0:4095 or -1024:3071" in text
