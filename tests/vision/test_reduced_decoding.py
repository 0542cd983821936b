"""JPEG files that are decoded at a part of their size: which, to which pixels, and by all that makes views."""

from __future__ import annotations

import io
import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from featcache.core.specs import ViewSpec
from featcache.data.manifest import Manifest, read_manifest
from featcache.errors import CacheMismatchError, SpecError, UnreadableImageError
from featcache.extraction.extract import extract
from featcache.models.inputs.image import prepare_images
from featcache.reports.sample_images import load_views
from featcache.vision.augment import make_views
from featcache.vision.decode import decode, decode_for
from featcache.vision.decoders import reduction
from featcache.vision.image_cache import ImageCache
from featcache.vision.loader import ViewLoader
from toys import toy_backbone

SPEC = ViewSpec(8, 10, augment="crop", decode_side=12)
ORIENTATION = 0x0112


def jpeg(pixels: NDArray[np.uint8], mode: str = "RGB", **options: Any) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).convert(mode).save(buffer, "JPEG", **options)
    return buffer.getvalue()


def noise(height: int, width: int) -> NDArray[np.uint8]:
    """With detail of several sizes."""
    rng = np.random.default_rng(height * 1000 + width)
    coarse = Image.fromarray(rng.integers(0, 256, (5, 5, 3), dtype=np.uint8)).resize((width, height))
    return (np.asarray(coarse) // 2 + rng.integers(0, 128, (height, width, 3))).astype(np.uint8)


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Four photos of 50 x 40 to 140 x 120 pixels, one of them turned, and a PNG."""
    rotated = Image.Exif()
    rotated[ORIENTATION] = 6
    for number, (height, width) in enumerate([(40, 50), (50, 90), (97, 103), (120, 140)]):
        path = tmp_path / "photos" / ("train" if number % 2 else "val") / ("ants" if number < 2 else "bees") / "a.jpg"
        path.parent.mkdir(parents=True)
        path.write_bytes(jpeg(noise(height, width), exif=rotated if number == 2 else Image.Exif()))
    Image.fromarray(noise(100, 110)).save(tmp_path / "photos/train/ants/b.png")
    return tmp_path / "photos"


@pytest.mark.parametrize(
    ("height", "width", "side", "by"),
    [
        (3000, 4000, None, 1),
        (3000, 4000, 768, 2),
        (3000, 4000, 750, 4),
        (4000, 3000, 750, 4),
        (2999, 4000, 750, 2),
        (3000, 4000, 375, 8),
        (3000, 4000, 10, 8),
        (400, 500, 256, 1),
    ],
)
def test_the_short_side_keeps_the_pixels_of_the_rule(height: int, width: int, side: int | None, by: int) -> None:
    assert reduction(height, width, side) == by


@pytest.mark.parametrize("by", [2, 4, 8])
def test_a_pixel_is_the_mean_of_a_block_without_detail(by: int) -> None:
    blocks = np.random.default_rng(by).integers(0, 256, (6, 9, 1), dtype=np.uint8).repeat(3, axis=2)
    image = blocks.repeat(8, axis=0).repeat(8, axis=1)
    found = decode(jpeg(image, quality=100, subsampling="4:4:4"), decode_side=48 // by)
    expected = blocks.repeat(8 // by, axis=0).repeat(8 // by, axis=1)
    assert found.shape == expected.shape
    assert np.abs(found.astype(int) - expected).max() <= 1


@given(
    width=st.integers(16, 150),
    height=st.integers(16, 150),
    side=st.integers(1, 40),
    options=st.fixed_dictionaries(
        {
            "quality": st.sampled_from([5, 75, 100]),
            "subsampling": st.sampled_from(["4:4:4", "4:2:2", "4:2:0"]),
            "progressive": st.booleans(),
        }
    ),
    mode=st.sampled_from(["RGB", "L", "CMYK"]),
    orientation=st.integers(0, 9),
)
@settings(deadline=None, max_examples=100)
def test_pillow_and_the_fast_decoder_give_the_same_pixels(
    width: int, height: int, side: int, options: dict[str, Any], mode: str, orientation: int
) -> None:
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    data = jpeg(noise(height, width), mode, exif=exif, **options)
    found = decode(data, decode_side=side)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "simplejpeg", None)
        np.testing.assert_array_equal(found, decode(data, decode_side=side))
    by = reduction(height, width, side)
    short, long = sorted((height, width))
    assert sorted(found.shape[:2]) == [-(-short // by), -(-long // by)]


def test_other_files_and_small_photos_are_decoded_in_full() -> None:
    buffer = io.BytesIO()
    Image.fromarray(noise(100, 120)).save(buffer, "PNG")
    for data in (buffer.getvalue(), jpeg(noise(23, 40))):
        np.testing.assert_array_equal(decode(data, decode_side=12), decode(data))


def test_the_limit_is_of_the_pixels_in_the_file() -> None:
    data = jpeg(noise(100, 100))
    assert decode(data, 10_000, decode_side=12).shape == (13, 13, 3)
    with pytest.raises(UnreadableImageError, match="100 x 100 pixels are more than the 9,999"):
        decode(data, 9_999, decode_side=12)


def test_a_view_is_not_made_from_fewer_pixels_than_it_has() -> None:
    with pytest.raises(SpecError, match="decode_side is 9; it must be at least resize_size, which is 10"):
        ViewSpec(8, 10, decode_side=9)


def expected_views(manifest: Manifest, row: int) -> NDArray[np.uint8]:
    image = decode(manifest.read(row), decode_side=12)
    return make_views(image, SPEC, manifest.samples.sha256[row].tobytes(), [0, 1])


def loaded(manifest: Manifest, row: int, images: ImageCache | None = None) -> NDArray[np.uint8]:
    with closing(ViewLoader(manifest, SPEC, workers=1, images=images)) as loader:
        (batch,) = loader.batches([row], [0, 1], 1)
    return np.asarray(batch.inputs)


def predicted(manifest: Manifest, row: int) -> NDArray[np.uint8]:
    return prepare_images(SPEC)(manifest.read(row))([0, 1]).views


def drawn(manifest: Manifest, row: int) -> NDArray[np.uint8]:
    return load_views(manifest.source, manifest.samples.ids[row], SPEC, range(2), side=8)


@pytest.mark.parametrize("route", [loaded, predicted, drawn])
def test_all_that_makes_views_decodes_alike(route: Callable[[Manifest, int], NDArray[np.uint8]], photos: Path) -> None:
    manifest = read_manifest(photos)
    sizes = set()
    for row in range(len(manifest.samples)):
        np.testing.assert_array_equal(route(manifest, row), expected_views(manifest, row))
        sizes.add(decode_for(manifest.read(row), SPEC).pixels.shape[:2])
    assert sizes == {(20, 25), (13, 23), (13, 13), (15, 18), (100, 110)}


def test_an_image_cache_keeps_the_reduced_pixels(photos: Path, tmp_path: Path) -> None:
    manifest, path = read_manifest(photos), tmp_path / "images.h5"
    with closing(ImageCache(path, manifest, 1000, decode_side=12)) as images:
        for row in range(len(manifest.samples)):
            np.testing.assert_array_equal(loaded(manifest, row, images), expected_views(manifest, row))
            kept = images.get(manifest.samples.sha256[row].tobytes())
            np.testing.assert_array_equal(kept, decode(manifest.read(row), decode_side=12))
    with closing(ImageCache(path, manifest, 1000, 97 * 103 - 1, decode_side=12)) as images:
        kept = [images.get(sha256.tobytes()) is not None for sha256 in manifest.samples.sha256]
    assert sorted(kept) == [False, False, False, True, True]  # the limit is of the pixels in the file
    with pytest.raises(CacheMismatchError, match="decoded with decode_side 12, you need None"):
        ImageCache(path, manifest, 1000)


def test_a_cache_says_so_and_is_another_one(photos: Path, tmp_path: Path) -> None:
    backbone, out, notes = toy_backbone(), tmp_path / "cache.h5", list[str]()
    cache = extract(photos, out, backbone=backbone, decode_side=12, on_note=notes.append).cache
    assert cache.spec.flat()["decode_side"] == 12
    assert "decode_side     12" in str(cache)
    assert any("1/2, 1/4 or 1/8" in note for note in notes)
    full = extract(photos, tmp_path / "full.h5", backbone=backbone).cache
    assert "decode_side" not in full.spec.flat()
    assert full.spec.differences(cache.spec) == [("decode_side", None, 12)]
    with pytest.raises(CacheMismatchError, match="decode_side"):
        extract(photos, out, backbone=backbone)
