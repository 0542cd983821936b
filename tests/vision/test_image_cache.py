"""Decoded images: kept once, right to the byte, at any moment."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from torchvision.transforms import v2

from featcache.cache.format import create
from featcache.cache.format.container import FormatSpec
from featcache.core.specs import ViewSpec
from featcache.data.manifest import Manifest, read_manifest
from featcache.errors import CacheError, CacheMismatchError, CacheSpaceError, NotACacheError
from featcache.finetuning.finetune import finetune
from featcache.vision import image_cache, loader
from featcache.vision import image_cache as imagecache
from featcache.vision.decode import decode, decode_for
from featcache.vision.image_cache import ImageCache
from featcache.vision.image_files import upright_size
from featcache.vision.image_remarks import REMARKS
from featcache.vision.loader import ViewLoader
from featcache.vision.views.geometry import reduced_size, shrink
from trainable import CONFIG, trainable_backbone

SIDE = 12


@pytest.fixture
def manifest(split_folder: Path) -> Manifest:
    return read_manifest(split_folder)


def decoded(manifest: Manifest, row: int) -> np.ndarray:
    return decode(manifest.path(row).read_bytes())


def hash_of(manifest: Manifest, row: int) -> bytes:
    return manifest.samples.sha256[row].tobytes()


def filled(path: Path, manifest: Manifest, side: int = SIDE) -> ImageCache:
    cache = ImageCache(path, manifest, side)
    for row in range(len(manifest.samples)):
        cache.keep(hash_of(manifest, row), decoded(manifest, row))
    return cache


@pytest.mark.parametrize("side", [5, 14, 100])
def test_what_was_kept_comes_back_shrunk_as_torchvision_does(manifest: Manifest, tmp_path: Path, side: int) -> None:
    filled(tmp_path / "a.h5", manifest, side).close()
    again = ImageCache(tmp_path / "a.h5", manifest, side)
    for row in range(len(manifest.samples)):
        expected = decoded(manifest, row)
        if side < min(expected.shape[:2]):
            tensor = v2.Resize(side, antialias=True)(v2.functional.to_image(expected))
            expected = tensor.permute(1, 2, 0).numpy()
        pixels = again.get(hash_of(manifest, row))
        assert pixels is not None
        np.testing.assert_array_equal(pixels, expected)
    again.close()


def test_nothing_is_there_before_it_was_kept(manifest: Manifest, tmp_path: Path) -> None:
    cache = ImageCache(tmp_path / "a.h5", manifest, SIDE)
    assert cache.get(hash_of(manifest, 3)) is None
    cache.keep(hash_of(manifest, 3), decoded(manifest, 3))
    assert cache.get(hash_of(manifest, 3)) is not None
    assert cache.get(hash_of(manifest, 4)) is None
    cache.close()


def test_plain_h5py_reads_it(manifest: Manifest, tmp_path: Path) -> None:
    filled(tmp_path / "a.h5", manifest, 100).close()
    with h5py.File(tmp_path / "a.h5") as file:
        assert file.attrs["format"] == "featcache-images"
        row = [sha.tobytes() for sha in file["sha256"][:]].index(hash_of(manifest, 5))
        start, height, width, pixels = file["places"][row]
        assert pixels == 20 * 14
        stored = file["pixels"][start : start + height * width * 3].reshape(height, width, 3)
        np.testing.assert_array_equal(stored, decoded(manifest, 5))
        assert (file["done"][:] == 1).all()


@given(where=st.floats(0, 1, exclude_max=True), bit=st.integers(0, 7))
@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_flipped_bit_gives_no_wrong_pixel(manifest: Manifest, tmp_path: Path, where: float, bit: int) -> None:
    path = tmp_path / "a.h5"
    if not path.exists():
        filled(path, manifest).close()
    whole = path.read_bytes()
    data = bytearray(whole)
    data[int(where * len(data))] ^= 1 << bit
    path.write_bytes(data)
    try:
        cache = ImageCache(path, manifest, SIDE)
    except CacheError:
        return
    finally:
        path.write_bytes(whole)
    missing = 0
    for row in range(len(manifest.samples)):
        pixels = cache.get(hash_of(manifest, row))
        missing += pixels is None
        if pixels is not None:
            np.testing.assert_array_equal(pixels, shrink(decoded(manifest, row), SIDE))
    cache.close()
    assert missing <= 1


def test_a_damaged_image_is_decoded_and_kept_again(manifest: Manifest, tmp_path: Path) -> None:
    path = tmp_path / "a.h5"
    filled(path, manifest).close()
    with h5py.File(path) as file:
        offset = file["pixels"].id.get_offset()
    with path.open("r+b") as raw:
        raw.seek(offset)
        byte = raw.read(1)[0]
        raw.seek(offset)
        raw.write(bytes([byte ^ 1]))
    cache = ImageCache(path, manifest, SIDE)
    lost = [row for row in range(len(manifest.samples)) if cache.get(hash_of(manifest, row)) is None]
    assert len(lost) == 1
    cache.keep(hash_of(manifest, lost[0]), decoded(manifest, lost[0]))
    np.testing.assert_array_equal(cache.get(hash_of(manifest, lost[0])), shrink(decoded(manifest, lost[0]), SIDE))
    cache.close()


def test_other_images_or_another_side_are_refused_with_the_cure(
    manifest: Manifest, tmp_path: Path, make_folder: Callable[..., Path]
) -> None:
    path = tmp_path / "a.h5"
    ImageCache(path, manifest, SIDE).close()
    with pytest.raises(CacheMismatchError, match=r"at most 12 pixels \(short side\), you need 13\. Remove it, or give"):
        ImageCache(path, manifest, SIDE + 1)
    manifest.path(0).write_bytes(manifest.path(1).read_bytes())
    Image.new("RGB", (9, 9)).save(manifest.path(2))
    changed = read_manifest(manifest.source.name, allow_leak=True)
    with pytest.raises(CacheMismatchError, match=r"other images: 1 of 18 have no room in it\. Remove it, or give"):
        ImageCache(path, changed, SIDE)


@pytest.mark.parametrize("content", [b"", b"featcache 1 512\n", b"text", bytes(2000)])
def test_what_is_no_image_cache_is_refused(manifest: Manifest, tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "a.h5"
    path.write_bytes(content)
    with pytest.raises(NotACacheError, match="is not an image cache: it does not begin with 'featcache-images'"):
        ImageCache(path, manifest, SIDE)
    assert path.read_bytes() == content


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda places: places.__setitem__((3, 0), -1), "an image has no valid size"),
        (lambda places: places.__setitem__((3, 1), 10**6), "an image does not lie whole in the file"),
        (lambda places: places.__setitem__((3, 0), 2**62), "an image does not lie whole in the file"),
    ],
)
def test_images_outside_of_the_file_are_refused(
    change: Callable[..., None], reason: str, manifest: Manifest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a seal that holds: whoever wrote such a file meant it."""
    write = create.write_container

    def forge(path: Path, kind: FormatSpec, attributes: Any, tables: Any, rooms: Any) -> None:
        change(tables["places"]["data"])
        write(path, kind, attributes, tables, rooms)

    monkeypatch.setattr(image_cache, "write_container", forge)
    with pytest.raises(NotACacheError, match=f"is a damaged image cache: {reason}\\. Remove it and run the same"):
        ImageCache(tmp_path / "a.h5", manifest, SIDE)


def test_a_full_disk_leaves_no_file(manifest: Manifest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(create.os, "posix_fallocate", full)
    with pytest.raises(CacheSpaceError, match="Free some space"):
        ImageCache(tmp_path / "cache" / "a.h5", manifest, SIDE)
    assert os.listdir(tmp_path / "cache") == []


@given(st.integers(1, 3000), st.integers(1, 3000), st.integers(1, 600))
def test_the_reduced_size_keeps_the_short_side(height: int, width: int, side: int) -> None:
    h, w = reduced_size(height, width, side)
    assert min(h, w) == min(side, height, width)
    assert h <= height
    assert w <= width


@pytest.mark.parametrize("orientation", range(1, 9))
def test_the_size_is_that_of_the_upright_image(orientation: int, tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = tmp_path / "a.jpg"
    Image.new("RGB", (30, 20)).save(path, exif=exif)
    assert upright_size(path) == decode(path.read_bytes()).shape[:2]
    path.write_bytes(b"broken")
    assert upright_size(path) is None


def test_the_loader_decodes_each_image_once(
    manifest: Manifest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    manifest.path(4).write_bytes(manifest.path(4).read_bytes()[:60])
    manifest = read_manifest(manifest.source.name)
    count = []
    monkeypatch.setattr(loader, "decode_for", lambda *arguments: count.append(1) or decode_for(*arguments))
    spec = ViewSpec(8, 10, seed=4)
    plain = ViewLoader(manifest, spec, workers=2)
    expected = np.concatenate([batch.inputs for batch in plain.batches(range(18), [0, 1], 4)])
    plain.close()
    assert len(count) == 18
    for _ in range(2):
        cache = ImageCache(tmp_path / "a.h5", manifest, 100)
        cached = ViewLoader(manifest, spec, workers=2, images=cache)
        for _ in range(2):
            views = np.concatenate([batch.inputs for batch in cached.batches(range(18), [0, 1], 4)])
            np.testing.assert_array_equal(views, expected)
        assert list(cached.skipped) == [4]
        cached.close()
        cache.close()
    assert len(count) == 18 + 18 + 3  # the broken one is tried in each pass


def test_fine_tuning_with_kept_images_gives_the_same_result(split_folder: Path, tmp_path: Path) -> None:
    options = {"backbone": trainable_backbone(), "config": CONFIG, "seed": 3}
    plain = finetune(split_folder, tmp_path / "plain", **options)
    for name in ("first", "second"):
        cached = finetune(split_folder, tmp_path / name, image_cache=tmp_path / "images.h5", **options)
        assert [epoch.loss for epoch in cached.history] == [epoch.loss for epoch in plain.history]
        assert ("decode" in cached.report.seconds) == (name == "first")


def test_what_is_odd_about_a_kept_image_is_said_again(split_folder: Path, tmp_path: Path) -> None:
    Image.new("RGB", (20, 14)).save(split_folder / "train/ants/black.png")
    frames = [Image.fromarray(np.full((14, 20), grey, np.uint8)) for grey in (2, 9)]
    frames[0].putpixel((0, 0), 3)
    frames[0].save(split_folder / "train/bees/pages.tiff", save_all=True, append_images=frames[1:])
    options = {"backbone": trainable_backbone(), "config": CONFIG, "image_cache": tmp_path / "images.h5"}
    first, second = (finetune(split_folder, tmp_path / name, **options) for name in ("first", "second"))
    assert "decode" not in second.report.seconds
    assert first.notes == second.notes
    for line in ("is of one colour", "is nearly black", "has several pages; the first is used"):
        assert any(line in note for note in second.notes), second.notes


@pytest.mark.parametrize("remark", ["", *REMARKS, "; ".join((REMARKS[1], REMARKS[5]))])
def test_remarks_are_kept(remark: str, manifest: Manifest, tmp_path: Path) -> None:
    key = hash_of(manifest, 3)
    for _ in range(2):
        cache = ImageCache(tmp_path / "a.h5", manifest, SIDE)
        cache.keep(key, decoded(manifest, 3), remark)
        cache.close()
        cache = ImageCache(tmp_path / "a.h5", manifest, SIDE)
        assert cache.get(key) is not None
        assert (cache.remark(key), cache.remark(hash_of(manifest, 4))) == (remark, "")
        cache.close()


def test_images_of_more_pixels_than_are_allowed_are_not_served(manifest: Manifest, tmp_path: Path) -> None:
    filled(tmp_path / "a.h5", manifest).close()
    for allowed in (20 * 14 - 1, 20 * 14):
        cache = ImageCache(tmp_path / "a.h5", manifest, SIDE, allowed)
        assert (cache.get(hash_of(manifest, 0)) is None) == (allowed < 20 * 14)
        cache.close()


def test_more_than_2_gb_have_room(manifest: Manifest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(imagecache, "upright_size", lambda _: (9000, 9000))
    monkeypatch.setattr(create.os, "posix_fallocate", lambda *_: None)  # a sparse file does
    cache = ImageCache(tmp_path / "a.h5", manifest, 9000)
    assert cache.path.stat().st_size > 18 * 9000 * 9000 * 3
    assert cache.get(hash_of(manifest, 17)) is None
    cache.close()


def test_the_draft_of_a_killed_process_is_swept_away(manifest: Manifest, tmp_path: Path) -> None:
    (tmp_path / "a.h5.99-0123abcd.draft").write_bytes(b"draft")
    ImageCache(tmp_path / "a.h5", manifest, SIDE).close()
    assert [path.name for path in tmp_path.glob("a.h5*")] == ["a.h5"]


def test_a_full_disk_in_the_middle_is_told(manifest: Manifest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache = ImageCache(tmp_path / "a.h5", manifest, SIDE)

    class Full:
        def seek(self, _: int) -> None:
            pass

        def write(self, _: object) -> int:
            raise OSError(errno.ENOSPC, "No space left on device")

    cache.close()
    monkeypatch.setattr(cache, "_file", Full())
    with pytest.raises(CacheSpaceError, match="cannot be written: No space left on device"):
        cache.keep(hash_of(manifest, 1), decoded(manifest, 1))
    assert cache.get(hash_of(manifest, 1)) is None
