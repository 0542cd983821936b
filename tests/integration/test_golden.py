"""The file format, read with plain h5py. docs/file-format.md specifies the same."""

from __future__ import annotations

import gzip
import hashlib
import json
import zlib
from pathlib import Path

import h5py
import numpy as np
import pytest

from featcache.cache.feature_cache import FeatureCache
from featcache.extraction.extract import extract
from toys import toy_backbone

IDS = [
    *(f"train/{name}/{number:03d}.png" for name, count in (("ants", 7), ("bees", 6)) for number in range(count)),
    *(f"val/{name}/{number:03d}.png" for name, count in (("ants", 3), ("bees", 2)) for number in range(count)),
]


@pytest.fixture
def golden(split_folder: Path, tmp_path: Path) -> h5py.File:
    """18 images, the second one broken, K = 2, d = 3."""
    (split_folder / IDS[1]).write_bytes(b"")
    extract(split_folder, tmp_path / "golden.h5", backbone=toy_backbone(), views=2, augment="tutorial", seed=11)
    return h5py.File(tmp_path / "golden.h5", "r")


def test_the_file_holds_these_datasets_and_no_other(golden: h5py.File) -> None:
    found = {}
    golden.visititems(
        lambda name, item: (
            found.update({name: (item.dtype.kind, item.dtype.itemsize, item.shape)})
            if isinstance(item, h5py.Dataset)
            else None
        )
    )
    text = ("O", 8)
    assert found == {
        "features/penultimate": ("f", 2, (18, 3, 3)),
        "done": ("u", 2, (18,)),
        "crc32": ("u", 4, (18,)),
        "skipped": ("S", 120, (18,)),
        "extract_s": ("f", 4, (18,)),
        "labels": ("i", 8, (18,)),
        "split": ("u", 1, (18,)),
        "sha256": ("u", 1, (18, 32)),
        "ids": (*text, (18,)),
        "classes": (*text, (2,)),
        "index": ("u", 1, golden["index"].shape),
    }


def test_the_header_says_where_the_rows_lie_and_seals_the_rest(golden: h5py.File) -> None:
    raw = Path(golden.filename).read_bytes()
    first, second, seal, rest = raw.split(b"\n", 3)
    assert first == b"featcache 1 2048"
    assert golden.userblock_size == 2048
    body = json.loads(second)
    assert set(body) == {"size", "arrays"}
    assert body["size"] == len(raw)
    rows = ("features/penultimate", "done", "crc32", "skipped", "extract_s")
    types = {"index": "|u1", "labels": "<i8", "split": "|u1", "sha256": "|u1", "features/penultimate": "<f2",
             "done": "<u2", "crc32": "<u4", "skipped": "|S120", "extract_s": "<f4"}  # fmt: skip
    assert body["arrays"] == {
        name: [golden[name].id.get_offset(), list(golden[name].shape), kind] for name, kind in types.items()
    }
    assert set(rest[: 2048 - len(first) - len(second) - len(seal) - 3]) == {0}
    digest, start = hashlib.sha256(first + b"\n" + second + b"\n"), 2048
    for offset, length in sorted((body["arrays"][name][0], golden[name].nbytes) for name in rows):
        digest.update(raw[start:offset])
        start = offset + length
    digest.update(raw[start:])
    assert seal == digest.hexdigest().encode()


def test_the_index_repeats_the_texts_for_readers_without_hdf5(golden: h5py.File) -> None:
    index = json.loads(golden["index"][:].tobytes())
    assert set(index) == {"spec", "provenance", "ids", "classes"}
    assert index["ids"] == golden["ids"].asstr()[:].tolist()
    assert index["classes"] == golden["classes"].asstr()[:].tolist()
    assert index["spec"] == json.loads(golden.attrs["spec"])
    assert index["provenance"] == json.loads(golden.attrs["provenance"])


def test_every_row_has_its_checksum(golden: h5py.File) -> None:
    x, done, skipped = (golden[name][:] for name in ("features/penultimate", "done", "skipped"))
    for row in range(18):
        data = (
            x[row].astype("<f2").tobytes() + done[row].astype("<u2").tobytes() + bytes(skipped[row]).ljust(120, b"\0")
        )
        assert golden["crc32"][row] == zlib.crc32(data)


def test_features_and_done_lie_contiguous_from_the_start(golden: h5py.File) -> None:
    for name in ("features/penultimate", "done", "crc32", "skipped"):
        plist = golden[name].id.get_create_plist()
        assert plist.get_layout() == h5py.h5d.CONTIGUOUS
        assert plist.get_alloc_time() == h5py.h5d.ALLOC_TIME_EARLY
        assert golden[name].id.get_offset() is not None
    dataset = golden["features/penultimate"]
    raw = Path(golden.filename).read_bytes()[dataset.id.get_offset() :][: 18 * 3 * 3 * 2]
    np.testing.assert_array_equal(np.frombuffer(raw, "<f2").reshape(18, 3, 3), dataset[:])


def test_numbers_are_little_endian(golden: h5py.File) -> None:
    assert [golden[name].id.get_type().get_order() for name in ("features/penultimate", "done", "labels")] == [
        h5py.h5t.ORDER_LE
    ] * 3


def test_split_is_an_enum(golden: h5py.File) -> None:
    assert h5py.check_enum_dtype(golden["split"].dtype) == {"train": 0, "val": 1, "test": 2}
    assert golden["split"][:].tolist() == [0] * 13 + [1] * 5


def test_text_is_utf8(golden: h5py.File) -> None:
    for name in ("ids", "classes"):
        assert h5py.check_string_dtype(golden[name].dtype) == ("utf-8", None)
    assert golden["ids"].asstr()[:].tolist() == IDS
    assert golden["classes"].asstr()[:].tolist() == ["ants", "bees"]
    assert golden["skipped"][:].tolist() == [b"", b"the file is empty (0 bytes)"] + [b""] * 16


def test_tables_hold_labels_hashes_and_views_done(golden: h5py.File, split_folder: Path) -> None:
    assert golden["labels"][:].tolist() == [0] * 7 + [1] * 6 + [0] * 3 + [1] * 2
    assert golden["done"][:].tolist() == [3, 0] + [3] * 11 + [1] * 5
    hashes = [hashlib.sha256((split_folder / name).read_bytes()).digest() for name in IDS]
    assert [bytes(row) for row in golden["sha256"][:]] == hashes
    x = golden["features/penultimate"][:]
    assert np.isnan(x[1]).all()
    assert np.isfinite(x[golden["done"][:] == 3]).all()
    assert (x[13:, 1:] == 0).all()


def test_the_attributes(golden: h5py.File) -> None:
    assert set(golden.attrs) == {"format", "version", "spec", "digest", "provenance"}
    assert golden.attrs["format"] == "featcache"
    assert golden.attrs["version"] == 1
    spec = golden.attrs["spec"]
    assert golden.attrs["digest"] == hashlib.sha256(spec.encode()).hexdigest()
    assert json.loads(spec) == {
        "augment": "tutorial",
        "backbone": "toy",
        "dtype": "float16",
        "image_size": 8,
        "interpolation": "bilinear",
        "layers": ["penultimate"],
        "mean": [0.5, 0.25, 0.75],
        "precision": "fp32",
        "resize_size": 10,
        "seed": 11,
        "std": [0.5, 1.0, 0.25],
        "views": 2,
        "weights_sha256": toy_backbone().weights_sha256,
    }
    assert spec == json.dumps(json.loads(spec), sort_keys=True, separators=(",", ":"))
    assert set(json.loads(golden.attrs["provenance"])) == {
        "weights", "device", "engine", "versions", "host", "date", "val_fraction", "split_seed", "allow_leak"
    }  # fmt: skip


def test_the_float32_file_holds_float32(split_folder: Path, tmp_path: Path) -> None:
    extract(split_folder, tmp_path / "a.h5", backbone=toy_backbone(), views=0, dtype="float32")
    with h5py.File(tmp_path / "a.h5") as file:
        assert file["features/penultimate"].dtype == np.dtype("<f4")
        assert file["features/penultimate"].shape == (18, 1, 3)


def test_unlabeled_images_are_the_fourth_split(split_folder: Path, tmp_path: Path) -> None:
    flat = split_folder / "train/ants"
    extract(flat, tmp_path / "a.h5", backbone=toy_backbone(), views=2)
    with h5py.File(tmp_path / "a.h5") as file:
        assert file.attrs["version"] == 1
        assert h5py.check_enum_dtype(file["split"].dtype) == {"train": 0, "val": 1, "test": 2, "unlabeled": 3}
        assert file["split"][:].tolist() == [3] * 7
        assert file["labels"][:].tolist() == [-1] * 7
        assert file["done"][:].tolist() == [1] * 7
        assert file["classes"].shape == (0,)
        assert json.loads(file["index"][:].tobytes())["classes"] == []


def test_a_cache_of_the_split_unlabelled_opens(tmp_path: Path) -> None:
    """Written by the version that spelled the split "unlabelled", with K = 1."""
    path = tmp_path / "before.h5"
    path.write_bytes(gzip.decompress((Path(__file__).parents[1] / "golden/unlabeled-1.h5.gz").read_bytes()))
    cache = FeatureCache.open(path)
    assert cache.samples.digest() == "8211ad24c98bc3131677e6667d58c05dd230b38ffcae2de9d34d219d646cf7d2"
    assert cache.done.tolist() == [2] * 4 + [1] * 4
    features = cache.features("unlabeled")
    assert features.samples.ids == ("x/006.png", "x/007.png")
    assert features.y.tolist() == [-1, -1]
    assert features.clean().tolist() == [
        [0.07135009765625, 0.62890625, -1.806640625],
        [0.09368896484375, 0.57666015625, -1.96484375],
    ]


def test_a_cache_of_before_groups_opens(tmp_path: Path) -> None:
    """Written by the version before the column `group`, from the images of the fixture `golden`."""
    path = tmp_path / "before.h5"
    path.write_bytes(gzip.decompress((Path(__file__).parents[1] / "golden/cache-1.h5.gz").read_bytes()))
    cache = FeatureCache.open(path)
    assert list(cache.samples.ids) == IDS
    assert cache.samples.groups == ()
    assert cache.samples.digest() == "a6f7934c9c3f6a6b22fbf1b65eddba47ad347382f263dd2cd2c88be051a774ed"
    assert cache.done.tolist() == [3, 0] + [3] * 11 + [1] * 5
    assert cache.features("train").x.shape == (12, 3, 3)
