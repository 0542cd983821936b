"""The file: whatever is wrong with it is a CacheError at once, before HDF5 reads what is not as it was written."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from caches import PROVENANCE, SPEC, finished
from featcache.cache.feature_cache import FeatureCache
from featcache.cache.format import layout
from featcache.cache.format.container import write_header
from featcache.cache.format.layout import CACHE
from featcache.cache.verify import verify
from featcache.cache.writer import CacheWriter
from featcache.core.samples import Samples
from featcache.errors import CacheError, CacheVersionError, HeadError, NotACacheError
from featcache.heads.fit_head import fit_head

Change = Callable[[dict[str, Any], dict[str, Any]], None]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    finished(tmp_path / "photos.h5")
    return tmp_path / "photos.h5"


def tamper(path: Path, change: Change) -> None:
    """Change the places of the arrays or the index, and seal again, as somebody with bad intentions would."""
    raw = path.read_bytes()
    first, second, _ = raw.split(b"\n", 2)
    header, body = int(first.split()[2]), json.loads(second)
    arrays = body["arrays"]
    offset, (length,), _ = arrays["index"]
    index = json.loads(raw[offset : offset + length])
    blob = json.dumps(index).encode()
    change(arrays, index)
    if json.dumps(index).encode() != blob:  # it no longer fits: at the end there is room
        blob = json.dumps(index).encode()
        arrays["index"] = [len(raw), [len(blob)], "|u1"]
        raw += blob
    path.write_bytes(raw)
    body = {"size": len(raw), "arrays": arrays}
    with path.open("r+b") as file:
        file.write(f"featcache 1 {header}\n{json.dumps(body)}\n\n".encode().ljust(header, b"\0"))
        with suppress(ValueError, EOFError, OSError):  # the places make no sense, so there is nothing to seal
            write_header(file, CACHE, header, body)


def refusal(path: Path) -> str:
    with pytest.raises(CacheError) as error:
        FeatureCache.open(path)
    assert str(error.value).startswith(f"{path} ")
    return str(error.value)


NAMES = {
    "plain": lambda row: f"train/ants/{row:06d}.jpg",
    "not UTF-8": lambda row: "\udcff" * 40 + f"{row:06d}.jpg",
    "accents": lambda row: f"ä/{row}/" + "é" * 60,
}


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("classes", [2, 5000])
def test_size_is_known_beforehand(name: str, classes: int, tmp_path: Path) -> None:
    n = 20_000
    samples = Samples(
        tuple(map(NAMES[name], range(n))),
        np.arange(n) % classes,
        np.zeros(n, np.uint8),
        np.random.default_rng(0).integers(0, 256, (n, 32), dtype=np.uint8),
        tuple(f"{'class' * 40}{number:05d}" for number in range(classes)),
    )
    with CacheWriter(tmp_path / "a.h5", SPEC, samples, {"penultimate": 100}, PROVENANCE):
        size = (tmp_path / "a.h5.partial").stat().st_size
    assert abs(layout.size_needed(SPEC, samples, {"penultimate": 100}) - size) < 0.01 * size + 100_000
    assert size > 12_000_000


def test_the_seal_of_an_untouched_file_holds(path: Path) -> None:
    tamper(path, lambda arrays, index: None)
    assert FeatureCache.open(path).complete


@pytest.mark.parametrize("content", [b"", b"path,label\n", b"\x89HDF\r\n\x1a\n", bytes(4096), b"featcach"])
def test_a_file_of_another_kind_is_not_a_cache(path: Path, content: bytes) -> None:
    path.write_bytes(content)
    assert refusal(path) == f"{path} is not a feature cache: it does not begin with 'featcache'."


def test_a_folder_is_not_a_cache(tmp_path: Path) -> None:
    assert refusal(tmp_path) == (
        f"{tmp_path} is a folder, not a feature cache. A folder of images or texts becomes one with `featcache extract "
        f"{tmp_path} -o cache.h5`."
    )


def test_other_peoples_hdf5_is_not_a_cache(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "other.h5", "w") as file:
        file["x"] = np.zeros(3)
    assert "does not begin with 'featcache'" in refusal(tmp_path / "other.h5")


@pytest.mark.parametrize("version", ["0", "2", "99"])
def test_another_version_is_refused(path: Path, version: str) -> None:
    path.write_bytes(path.read_bytes().replace(b"featcache 1 ", f"featcache {version} ".encode(), 1))
    with pytest.raises(CacheVersionError) as error:
        FeatureCache.open(path)
    assert str(error.value) == (
        f"{path} has format version {version}; this featcache reads version 1. "
        "Use the featcache that wrote it, or extract again."
    )


@pytest.mark.parametrize("share", [0.0, 0.01, 0.1, 0.5, 0.9, 0.999])
def test_a_truncated_cache_is_refused(path: Path, share: float) -> None:
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * share)])
    with pytest.raises(NotACacheError):
        FeatureCache.open(path)


def test_a_longer_cache_is_refused(path: Path) -> None:
    size = path.stat().st_size
    with path.open("ab") as file:
        file.write(b"\0")
    assert f"it has {size + 1} bytes, {size} were written" in refusal(path)


def place(name: str, part: int, value: Any) -> Change:
    """Another offset (0), shape (1) or type (2) of an array."""
    return lambda arrays, index: arrays[name].__setitem__(part, value)


def entry(name: str, value: Any) -> Change:
    return lambda arrays, index: index.__setitem__(name, value)


DAMAGE: dict[str, tuple[Change, str]] = {
    "no spec": (lambda arrays, index: index.pop("spec"), "KeyError: 'spec'"),
    "spec lacks a field": (lambda arrays, index: index["spec"].pop("seed"), "not an extraction spec"),
    "spec with a strange value": (lambda arrays, index: index["spec"].update(augment="magic"), "augment is 'magic'"),
    "provenance is a number": (entry("provenance", 3), "TypeError"),
    "an id twice": (entry("ids", ["a"] * 10), "its ids are not one for each row"),
    "fewer ids": (entry("ids", ["a", "b"]), " has shape (10,)"),
    "ids are a number": (entry("ids", 10), "TypeError"),
    "weights are a number": (lambda arrays, index: index["provenance"].update(weights=5), "its weights is 5"),
    "val_fraction is text": (lambda arrays, index: index["provenance"].update(val_fraction="x"), "its val_fraction is"),
    "a gigantic view": (lambda arrays, index: index["spec"].update(image_size=10**7, resize_size=10**7), "<= 4096"),
    "features without width": (place("features/penultimate", 1, [10, 3, 0]), "a layer has no features"),
    "fewer classes": (entry("classes", ["ants"]), "a label is not one of its classes"),
    "no labels": (lambda arrays, index: arrays.pop("labels"), "KeyError: 'labels'"),
    "a layer too many": (lambda arrays, index: arrays.update({"features/x": [2048, [1], "<f2"]}), ""),
    "no layer": (lambda arrays, index: arrays.pop("features/penultimate"), ""),
    "labels too short": (place("labels", 1, [3]), "labels has shape (3,)"),
    "labels of another type": (place("labels", 2, "<u4"), "labels has shape (10,) and type uint32"),
    "features of another rank": (place("features/penultimate", 1, [10, 12]), "features/penultimate has shape"),
    "features of fewer rows": (place("features/penultimate", 1, [9, 3, 4]), "features/penultimate has shape"),
    "features of fewer views": (place("features/penultimate", 1, [10, 2, 4]), "features/penultimate has shape"),
    "features of another type": (place("features/penultimate", 2, "<f4"), ""),
    "Python objects": (place("features/penultimate", 2, "|O"), "an array has no valid location"),
    "gigantic features": (place("features/penultimate", 1, [10**12, 3, 4]), "its header contradicts itself"),
    "gigantic labels": (place("labels", 1, [10**12]), "an array extends beyond the file"),
    "more than gigantic": (place("labels", 1, [10**30]), "an array has no valid location"),
    "before the file": (place("labels", 0, -8), "an array has no valid location"),
    "in the header": (place("labels", 0, 8), "an array extends beyond the file"),
    "behind the file": (place("labels", 0, 10**9), "an array extends beyond the file"),
    "half a byte": (place("labels", 0, 4096.5), "an array has no valid location"),
    "no numbers": (place("labels", 0, "here"), "an array has no valid location"),
    "rows upon rows": (
        lambda arrays, index: arrays["done"].__setitem__(0, arrays["crc32"][0] + 4),
        "its header contradicts itself",
    ),
}


def test_gigabytes_of_nothing_are_not_hashed(path: Path) -> None:
    raw = path.read_bytes()
    first, second, _ = raw.split(b"\n", 2)
    body = {**json.loads(second), "size": 12 * 2**30}
    text = first + b"\n" + json.dumps(body).encode() + b"\n" + b"0" * 64 + b"\n"
    path.write_bytes(text.ljust(int(first.split()[2]), b"\0") + raw[int(first.split()[2]) :])
    os.truncate(path, body["size"])
    started = time.perf_counter()
    assert "too many of its bytes belong to no row" in refusal(path)
    assert time.perf_counter() - started < 1


def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.h5")
    assert refusal(tmp_path / "a.h5") == f"{tmp_path / 'a.h5'} is not a feature cache: it is not a regular file."


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_file_with_bad_intentions_is_refused(path: Path, damage: str) -> None:
    change, said = DAMAGE[damage]
    tamper(path, change)
    started = time.perf_counter()
    assert said in refusal(path)
    assert time.perf_counter() - started < 1


def test_a_change_without_the_seal_is_found(path: Path) -> None:
    with h5py.File(path, "r+") as file:
        file["labels"][0] = 1 - file["labels"][0]
    assert refusal(path) == (
        f"{path} is a damaged feature cache: its tables do not match their hash. Remove it and extract again."
    )


def test_the_structure_that_hdf5_would_follow_is_never_followed(path: Path) -> None:
    """A link that leads out of the file, sealed: what is read lies where the header says."""
    expected = FeatureCache.open(path).samples.labels
    raw = path.read_bytes()
    with h5py.File(path, "r+") as file:
        file["extra"] = h5py.ExternalLink("/etc/passwd", "x")
    raw = path.read_bytes()
    first, second, _ = raw.split(b"\n", 2)
    with path.open("r+b") as sealed:
        body = {"size": len(raw), "arrays": json.loads(second)["arrays"]}
        write_header(sealed, CACHE, int(first.split()[2]), body)
    np.testing.assert_array_equal(FeatureCache.open(path).samples.labels, expected)


@settings(deadline=None, max_examples=300)
@given(st.data())
def test_every_flipped_bit_is_found(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    """In header and tables on opening, in rows by `verify`."""
    path = tmp_path_factory.getbasetemp() / "flipped.h5"
    if not path.exists():
        finished(path, {2: "broken"})
    whole = path.read_bytes()
    flips = data.draw(st.sets(st.integers(0, 8 * len(whole) - 1), min_size=1, max_size=3))
    damaged = bytearray(whole)
    for bit in flips:
        damaged[bit // 8] ^= 1 << bit % 8
    path.write_bytes(damaged)
    try:
        assert not verify(path).ok
    except CacheError:
        pass
    finally:
        path.write_bytes(whole)


@settings(deadline=None, max_examples=100)
@given(st.data())
def test_random_bytes_never_hang_or_crash(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    path = tmp_path_factory.getbasetemp() / "random.h5"
    finished(path) if not path.exists() else None
    whole = path.read_bytes()
    start = data.draw(st.integers(0, len(whole)))
    path.write_bytes(
        whole[:start] + data.draw(st.binary(max_size=200)) + whole[start + data.draw(st.integers(0, 200)) :]
    )
    for attempt in (FeatureCache.open, verify, fit_head):
        with suppress(CacheError, HeadError):  # rows of garbage may be infinite: HeadError
            attempt(path)
    path.write_bytes(whole)


def test_provenance_is_kept(path: Path) -> None:
    assert layout.read(path).provenance == PROVENANCE
