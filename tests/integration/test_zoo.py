"""Files as they are found: each is read rightly, or skipped with its reason, or passed over; none hangs or crashes."""

from __future__ import annotations

import io
import os
import unicodedata
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageCms

from commands import refused, write_folder
from featcache.cache.feature_cache import FeatureCache
from featcache.data.file_listing import find_samples
from featcache.data.manifest import read_manifest
from featcache.errors import DataLayoutError, EmptyFolderError, UnreadableImageError
from featcache.extraction.extract import extract
from featcache.extraction.results import Extraction
from featcache.vision.decode import decode
from toys import random_image, toy_answer, toy_backbone

RED, GREEN, BLUE = (200, 30, 20), (10, 180, 40), (20, 40, 190)


def quarters() -> Image.Image:
    """Four colours, so that every orientation shows: 40 x 20."""
    pixels = np.zeros((20, 40, 3), np.uint8)
    pixels[:10, :20], pixels[:10, 20:], pixels[10:, :20], pixels[10:, 20:] = RED, GREEN, BLUE, (250, 250, 250)
    return Image.fromarray(pixels)


def packed(image: Image.Image, kind: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def close(found: NDArray[np.uint8], expected: Image.Image, within: int = 12) -> None:
    wanted = np.asarray(expected.convert("RGB")).astype(int)
    assert found.shape == wanted.shape
    assert np.abs(found.astype(int) - wanted).mean() < within


@pytest.mark.parametrize("orientation", range(1, 9))
def test_all_eight_orientations_come_upright(orientation: int) -> None:
    back = {
        1: None,
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_90,
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_270,
    }[orientation]
    stored = quarters() if back is None else quarters().transpose(back)
    exif = Image.Exif()
    exif[0x0112] = orientation
    close(decode(packed(stored, "JPEG", exif=exif, quality=95)), quarters())


def lab() -> bytes:
    profiles = [ImageCms.createProfile(name) for name in ("sRGB", "LAB")]
    return packed(ImageCms.profileToProfile(quarters(), *profiles, outputMode="LAB"), "TIFF")


def palette_with_transparency() -> bytes:
    image = quarters().quantize(8)
    image.info["transparency"] = image.getpixel((0, 0))  # what was red shows the white below
    return packed(image, "PNG", transparency=image.getpixel((0, 0)))


def white_corner() -> Image.Image:
    image = quarters()
    image.paste((255, 255, 255), (0, 0, 20, 10))
    return image


def sixteen_bits() -> bytes:
    grey = np.asarray(quarters().convert("L")).astype(np.uint16) * 257
    return packed(Image.fromarray(grey), "PNG")


def frames(kind: str) -> bytes:
    return packed(quarters(), kind, save_all=True, append_images=[quarters().rotate(180)], duration=100)


def broken_exif() -> bytes:
    return packed(quarters(), "JPEG", exif=b"Exif\0\0II*\0\xff\xff\xff\xff", quality=95)


KINDS: dict[str, tuple[Callable[[], bytes], Callable[[], Image.Image]]] = {
    "a PNG named .jpg": (lambda: packed(quarters(), "PNG"), quarters),
    "a WebP named .png": (lambda: packed(quarters(), "WEBP", quality=95), quarters),
    "a JPEG in CMYK": (lambda: packed(quarters().convert("CMYK"), "JPEG", quality=95), quarters),
    "a TIFF in LAB": (lab, quarters),
    "a 16-bit grey": (sixteen_bits, lambda: quarters().convert("L")),
    "a palette with transparency": (palette_with_transparency, white_corner),
    "an animated GIF": (lambda: frames("GIF"), quarters),
    "an animated WebP": (lambda: frames("WEBP"), quarters),
    "an MPO": (lambda: frames("MPO"), quarters),
    "a broken EXIF": (broken_exif, quarters),
    "a single pixel": (lambda: packed(Image.new("RGB", (1, 1), RED), "PNG"), lambda: Image.new("RGB", (1, 1), RED)),
}


@pytest.mark.parametrize("kind", KINDS)
def test_it_is_read_rightly(kind: str) -> None:
    data, expected = KINDS[kind]
    close(decode(data()), expected())


def extracted(data: Path, **options: object) -> Extraction:
    return extract(
        data, data.parent / f"{len(os.listdir(data.parent))}.h5", backbone=toy_backbone(), views=1, **options
    )


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return write_folder(tmp_path / "data", {"train/ants": 2, "train/bees": 2, "val/ants": 1, "val/bees": 1})


@pytest.mark.parametrize("size", [(20_000, 10), (10, 20_000), (1, 1)])
def test_extreme_shapes_have_features(size: tuple[int, int], data: Path) -> None:
    Image.new("RGB", size, RED).save(data / "val/ants/000.png")
    x = extracted(data).cache.features("val").x
    np.testing.assert_allclose(x[0, 0], toy_answer(np.full((1, 8, 8, 3), RED, np.uint8))[0], rtol=1e-2)


def truncated(kind: str) -> bytes:
    whole = packed(random_image(1, 64, 64), kind)
    return whole[: len(whole) // 2]


BROKEN: dict[str, tuple[str, bytes, str]] = {
    "a truncated JPEG": ("x.jpg", truncated("JPEG"), "image file is truncated"),
    "a truncated PNG": ("x.png", truncated("PNG"), "image file is truncated"),
    "an empty JPEG": ("x.jpg", b"", "the file is empty (0 bytes)"),
    "an empty PNG": ("x.png", b"", "the file is empty (0 bytes)"),
    "a text named .jpg": ("x.jpg", b"I am a text.\n", "not an image that Pillow can identify"),
    "a bomb": ("x.png", packed(Image.new("1", (16_000, 16_000)), "PNG"), "decompression bomb"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_it_is_skipped_with_its_reason_and_strict_refuses_it(case: str, data: Path) -> None:
    name, content, reason = BROKEN[case]
    (data / "train/ants" / name).write_bytes(content)
    result = extracted(data)
    ((skipped, said),) = result.skipped
    assert skipped == f"train/ants/{name}"
    assert reason in said
    assert FeatureCache.open(result.cache.path).skipped == result.skipped
    assert f"skipped train/ants/{name}: " in str(result)
    with pytest.raises(UnreadableImageError, match="Fix or delete it, or extract without --strict"):
        extracted(data, strict=True)


def test_the_limit_on_pixels_is_an_option(data: Path) -> None:
    Image.new("RGB", (30, 20), RED).save(data / "train/ants/large.png")
    assert extracted(data, max_pixels=600).skipped == []
    assert extracted(data, max_pixels=599).skipped == [
        ("train/ants/large.png", "30 x 20 pixels are more than the 599 of --max-pixels")
    ]


def test_more_pixels_than_pillow_allows_are_read_on_demand(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", Image.MAX_IMAGE_PIXELS)
    Image.new("1", (16_000, 16_000)).save(data / "train/ants/large.png")
    assert extracted(data, max_pixels=300_000_000).skipped == []


NAMES = [
    "with space.png",
    "new\nline.png",
    unicodedata.normalize("NFC", "grün.png"),
    unicodedata.normalize("NFD", "grün.png"),
    "x" * 251 + ".png",
    "蟻🐝.png",
    "'quoted\".png",
    "-o.png",
]


def test_names_of_every_kind(data: Path) -> None:
    for number, name in enumerate(NAMES):
        random_image(50 + number).save(data / "train/bees" / name)
    cache = extracted(data).cache
    assert {f"train/bees/{name}" for name in NAMES} <= set(cache.samples.ids)
    assert cache.skipped == []


def test_what_is_no_image_is_passed_over(data: Path) -> None:
    ants = data / "train/ants"
    for name in (".DS_Store", "Thumbs.db", "._000.png"):
        (ants / name).write_bytes(b"junk")
    (ants / "folder.jpg").mkdir()
    os.mkfifo(ants / "pipe.jpg")  # opening it would wait for ever
    (ants / "loop.jpg").symlink_to(ants / "loop.jpg")
    (ants / "up").symlink_to(data)
    manifest = read_manifest(data)
    assert len(manifest.samples) == 6
    assert manifest.ignored == {"hidden": 2, "not an image (.db)": 1, "not a regular file": 2}


def test_a_pipe_is_not_waited_for_in_predict(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.jpg")
    with pytest.raises(EmptyFolderError, match=r"pipe\.jpg names no image"):
        find_samples([str(tmp_path / "pipe.jpg")])


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_file_that_may_not_be_read_is_skipped(data: Path) -> None:
    (data / "train/ants/000.png").chmod(0)
    assert extracted(data).skipped == [("train/ants/000.png", "Permission denied")]


def test_an_empty_class_is_named(data: Path) -> None:
    (data / "train/wasps").mkdir()
    with pytest.raises(EmptyFolderError, match=r"wasps holds no images\. Put images into it, or remove the folder\.$"):
        read_manifest(data)


def test_five_thousand_classes(tmp_path: Path) -> None:
    source = packed(random_image(0, 8, 8), "BMP")
    for number in range(5000):
        folder = tmp_path / "data" / f"class {number:04d}"
        folder.mkdir(parents=True)
        for copy in range(2):
            (folder / f"{copy}.bmp").write_bytes(source + bytes([copy]) + number.to_bytes(4, "big"))
    samples = read_manifest(tmp_path / "data").samples
    assert len(samples.classes) == 5000
    assert np.bincount(samples.labels[samples.rows("train")]).tolist() == [1] * 5000


def test_one_image_with_two_labels_is_named_as_a_conflict(data: Path) -> None:
    (data / "train/bees/copy.png").write_bytes((data / "train/ants/000.png").read_bytes())
    assert read_manifest(data).conflicts() == [("train/ants/000.png", "train/bees/copy.png")]
    result = extracted(data)
    assert "conflict: train/ants/000.png and train/bees/copy.png are one image with two labels" in str(result)
    assert result.to_dict()["conflicts"] == [["train/ants/000.png", "train/bees/copy.png"]]


def test_an_image_of_val_in_train_is_a_leak(data: Path, tmp_path: Path) -> None:
    (data / "val/ants/copy.png").write_bytes((data / "train/ants/001.png").read_bytes())
    with pytest.raises(DataLayoutError) as error:
        read_manifest(data)
    assert str(error.value) == (
        f"{data}: 1 images of val or test are in train, too: val/ants/copy.png is train/ants/001.png. The accuracy "
        f"on them is too high. Remove the copies, or continue with --allow-leak."
    )
    assert "--allow-leak" in refused("finetune", data, "-o", tmp_path / "run")
    cache = extracted(data, allow_leak=True).cache
    assert len(cache.samples) == 7
    assert cache.provenance["allow_leak"] is True


def test_copies_within_a_split_are_no_leak(data: Path) -> None:
    (data / "train/ants/copy.png").write_bytes((data / "train/ants/001.png").read_bytes())
    assert len(read_manifest(data).samples) == 7
    assert read_manifest(data).conflicts() == []
