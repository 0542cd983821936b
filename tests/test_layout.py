"""The file: whatever is wrong with it is a CacheError at once, before HDF5 reads what is not as it was written."""

from __future__ import annotations

import json
import re
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

from caches import DIMS, PROVENANCE, SAMPLES, SPEC, finished
from featcache import layout
from featcache.cache import FeatureCache
from featcache.errors import CacheError, CacheVersionError, HeadError, NotACacheError
from featcache.fitting import fit_head
from featcache.verification import verify

Change = Callable[[h5py.File], None]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    finished(tmp_path / "photos.h5")
    return tmp_path / "photos.h5"


def tamper(path: Path, change: Change) -> None:
    """Change the HDF5 inside and seal it again, as somebody with bad intentions would."""
    header = layout.read(path).header_bytes
    with h5py.File(path, "r+") as file:
        change(file)
        places = {}
        for name in ("features/penultimate", "done", "crc32", "skipped"):
            found = file.get(name)
            if isinstance(found, h5py.Dataset) and found.id.get_offset() is not None:
                places[name] = (found.id.get_offset(), found.nbytes)
    with path.open("r+b") as raw:
        size = path.stat().st_size
        body = {"size": size, "rows": places, "sha256": layout._seal(raw, header, size, places)}
        raw.seek(0)
        raw.write(f"featcache 1 {header}\n{json.dumps(body)}\n".encode().ljust(header, b"\0"))


def refusal(path: Path) -> str:
    with pytest.raises(CacheError) as error:
        FeatureCache.open(path)
    assert str(error.value).startswith(f"{path} ")
    return str(error.value)


def test_size_is_known_beforehand(path: Path) -> None:
    assert abs(layout.size_needed(SPEC, SAMPLES, DIMS) - path.stat().st_size) < 100_000


def test_the_seal_of_an_untouched_file_holds(path: Path) -> None:
    tamper(path, lambda file: None)
    assert FeatureCache.open(path).complete


@pytest.mark.parametrize("content", [b"", b"path,label\n", b"\x89HDF\r\n\x1a\n", bytes(4096), b"featcach"])
def test_a_file_of_another_kind_is_not_a_cache(path: Path, content: bytes) -> None:
    path.write_bytes(content)
    assert refusal(path) == f"{path} is not a feature cache: it does not begin with 'featcache'."


def test_a_folder_is_not_a_cache(tmp_path: Path) -> None:
    assert refusal(tmp_path) == f"{tmp_path} is a folder, not a feature cache."


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


def replace(name: str, data: Any, **options: Any) -> Change:
    def change(file: h5py.File) -> None:
        del file[name]
        file.create_dataset(name, data=data, **options)

    return change


def attribute(name: str, value: Any) -> Change:
    return lambda file: file.attrs.__setitem__(name, value)


def link(name: str, target: Any) -> Change:
    def change(file: h5py.File) -> None:
        del file[name]
        file[name] = target

    return change


def gigantic(name: str, shape: tuple[int, ...], dtype: Any) -> Change:
    """A dataset of a trillion rows, none of them stored."""

    def change(file: h5py.File) -> None:
        del file[name]
        file.create_dataset(name, shape=shape, dtype=dtype, chunks=(1, *shape[1:]))

    return change


def external(file: h5py.File) -> None:
    del file["labels"]
    file.create_dataset("labels", shape=(10,), dtype="i8", external=[("/etc/passwd", 0, 80)])


def virtual(file: h5py.File) -> None:
    del file["features/penultimate"]
    source = h5py.VirtualSource("/tmp/other.h5", "x", shape=(10, 3, 4))
    there = h5py.VirtualLayout(shape=(10, 3, 4), dtype="f2")
    there[:] = source
    file.create_virtual_dataset("features/penultimate", there)


DAMAGE: dict[str, tuple[Change, str]] = {
    "spec is not JSON": (attribute("spec", "{"), "Expecting property name"),
    "spec is JSON of another kind": (attribute("spec", '"text"'), ""),
    "spec lacks a field": (attribute("spec", "{}"), "not an extraction spec"),
    "spec of another seed": (
        attribute("spec", SPEC.to_json().replace('"seed":0', '"seed":1')),
        "its spec does not have its digest",
    ),
    "digest is another": (attribute("digest", "0" * 64), "its spec does not have its digest"),
    "provenance is not JSON": (attribute("provenance", "x"), "Expecting value"),
    "no spec": (lambda file: file.attrs.__delitem__("spec"), ""),
    "no labels": (lambda file: file.__delitem__("labels"), "it holds classes, crc32, done, features/penultimate"),
    "a layer too many": (lambda file: file["features"].create_dataset("x", data=[1]), "it holds"),
    "no features": (lambda file: file.__delitem__("features"), ""),
    "labels too short": (replace("labels", np.zeros(3, np.int64)), "type"),
    "labels are floats": (replace("labels", np.zeros(10)), "/labels has shape (10,) and type float64"),
    "labels without a class": (replace("labels", np.full(10, 7)), "a label lies outside of its classes"),
    "splits without a name": (replace("split", np.full(10, 7, np.uint8)), "a split lies outside of train, val"),
    "done too long": (replace("done", np.zeros(11, np.uint16)), "done has shape (11,)"),
    "ids are numbers": (replace("ids", np.arange(10)), "/ids is no list of texts"),
    "ids are twice the same": (replace("ids", ["a"] * 10), "its ids are not one a row"),
    "ids of fewer rows": (replace("ids", ["a", "b"]), "its ids are not one a row"),
    "features of another rank": (replace("features/penultimate", np.zeros((10, 4), np.float16)), "features"),
    "features of fewer rows": (replace("features/penultimate", np.zeros((9, 3, 4), np.float16)), "shape (9, 3, 4)"),
    "features of fewer views": (replace("features/penultimate", np.zeros((10, 2, 4), np.float16)), "shape (10, 2, 4)"),
    "features of another type": (replace("features/penultimate", np.zeros((10, 3, 4))), "type float64"),
    "features in chunks": (
        replace("features/penultimate", np.zeros((10, 3, 4), np.float16), chunks=(1, 3, 4)),
        "does not lie in one piece",
    ),
    "gigantic features": (gigantic("features/penultimate", (10**12, 3, 4), "f2"), "does not lie in one piece"),
    "gigantic labels": (gigantic("labels", (10**12,), "i8"), "does not lie in one piece"),
    "a link to another file": (link("labels", h5py.ExternalLink("/etc/passwd", "x")), "labels leads to another file"),
    "a soft link": (link("labels", h5py.SoftLink("/done")), "labels leads to another file"),
    "features are a link": (link("features", h5py.ExternalLink("/tmp/x.h5", "features")), ""),
    "bytes of another file": (external, "labels does not lie in one piece"),
    "a virtual dataset": (virtual, "does not lie in one piece"),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_file_with_bad_intentions_is_refused(path: Path, damage: str) -> None:
    change, said = DAMAGE[damage]
    tamper(path, change)
    started = time.perf_counter()
    assert said in refusal(path)
    assert time.perf_counter() - started < 1


@pytest.mark.parametrize("change", [attribute("spec", SPEC.to_json()), replace("labels", np.ones(10, np.int64))])
def test_a_change_without_the_seal_is_found_before_hdf5_reads_it(path: Path, change: Change) -> None:
    with h5py.File(path, "r+") as file:
        change(file)
    assert re.search(r"tables do not have their hash|bytes, \d+ were written", refusal(path))


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
