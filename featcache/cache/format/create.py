"""Create a container file with all its tables and reserved space for every row; HDF5 is used here only."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from featcache._utils.files import FULL, fsync_folder, locked_draft
from featcache._utils.formatting import human_bytes
from featcache._utils.locks import lock_folder
from featcache.cache.format.container import MIN_HEADER_BYTES, OWNER_BYTES, FormatSpec, write_header
from featcache.cache.format.layout import CACHE, encode, row_arrays, sparse_keys
from featcache.core.samples import LABELED_SPLITS, SPLITS, UNLABELED, Samples
from featcache.core.specs import ExtractSpec
from featcache.errors import CacheSpaceError

_TEXT = h5py.string_dtype("utf-8")

ReservedArray = tuple[tuple[int, ...], np.dtype[Any]]
"""Shape and dtype of an array that is written later."""


def create_atomically(path: Path, needed: int, write: Callable[[Path], None]) -> None:
    """Create a file as a draft, then give it its name. If another process was first, its file stays.

    Parameters
    ----------
    path : Path
        The file to create.
    needed : int
        Its approximate size, in bytes.
    write : callable
        Writes the draft whose name it gets, see `write_container`.

    Raises
    ------
    CacheSpaceError
        There is too little space on the disk.
    """
    free = shutil.disk_usage(path.parent).free
    if needed > free:
        raise _no_room(path, needed, free)
    with locked_draft(path) as (file, draft):
        _claim_space(path, file.fileno(), needed, needed)  # HDF5 ends the process if the disk is full
        write(draft)
        _claim_space(path, file.fileno(), draft.stat().st_size, needed)
        os.fsync(file.fileno())
        try:
            os.link(draft, path)
        except FileExistsError:  # another process was first; opening its file raises the error
            pass
        except OSError:  # a file system without hard links
            with lock_folder(path.parent):
                if not path.exists():
                    os.replace(draft, path)
    fsync_folder(path.parent)


def _claim_space(path: Path, descriptor: int, size: int, needed: int) -> None:
    """Allocate the blocks of the whole file now, if the file system can: later there may be no space."""
    if not hasattr(os, "posix_fallocate"):
        return
    try:
        os.posix_fallocate(descriptor, 0, size)
    except OSError as error:
        if error.errno in FULL:
            raise _no_room(path, needed, shutil.disk_usage(path.parent).free) from error


def _no_room(path: Path, needed: int, free: int) -> CacheSpaceError:
    return CacheSpaceError(
        f"{path} will have {human_bytes(needed)}; {human_bytes(free)} are free in {path.parent.resolve()}, or a limit "
        "on file sizes is lower. Free some space, choose another place, or ask for less, for example fewer --views."
    )


def write_cache(
    path: Path,
    spec: ExtractSpec,
    samples: Samples,
    dims: Mapping[str, int],
    provenance: Mapping[str, Any],
    optional: Collection[str] = (),
) -> None:
    """Write a cache file without rows: tables, header and reserved space for the rows. optional : see `row_arrays`."""
    attributes = {"spec": spec.to_json(), "digest": spec.digest(), "provenance": json.dumps(dict(provenance))}
    index = {"spec": spec.flat(), "provenance": dict(provenance), "ids": samples.ids, "classes": samples.classes}
    index |= {"groups": samples.groups} if samples.groups else {}
    index |= {"content_keys": sparse_keys(samples)} if samples.content_keys is not None else {}
    splits = SPLITS if len(samples.rows(UNLABELED)) else LABELED_SPLITS  # as in earlier files
    split_dtype = h5py.enum_dtype({name: code for code, name in enumerate(splits)}, basetype="u1")
    tables: dict[str, dict[str, Any]] = {
        "index": {"data": np.frombuffer(json.dumps(index).encode(), dtype=np.uint8)},
        "labels": {"data": samples.labels},
        "split": {"data": samples.split, "dtype": split_dtype},
        "sha256": {"data": samples.sha256},
        "ids": {"data": [encode(name) for name in samples.ids], "dtype": _TEXT},
        "classes": {"data": [encode(name) for name in samples.classes], "dtype": _TEXT},
    }
    if samples.groups:
        tables["groups"] = {"data": [encode(name) for name in samples.groups], "dtype": _TEXT}
    write_container(path, CACHE, attributes, tables, row_arrays(spec, len(samples), dims, optional))


def write_container(
    path: Path,
    kind: FormatSpec,
    attributes: Mapping[str, str],
    tables: Mapping[str, Mapping[str, Any]],
    reserved: Mapping[str, ReservedArray],
) -> None:
    """Write a container: attributes, tables (arguments of h5py's create_dataset) and reserved space for the rows."""
    header_bytes = MIN_HEADER_BYTES
    while header_bytes < 192 * (len(reserved) + 1) + OWNER_BYTES:
        header_bytes *= 2
    with h5py.File(path, "w", userblock_size=header_bytes, locking=False) as file:
        file.attrs.update(format=kind.magic.decode(), version=kind.version, **attributes)
        for name, table in tables.items():
            file.create_dataset(name, **table)
        for name, (shape, dtype) in reserved.items():
            _reserve(file, name, shape, dtype)
    with h5py.File(path, "r", locking=False) as file:
        arrays = {name: _location(file[name]) for name in (*kind.tables, *reserved)}
    with path.open("r+b", buffering=0) as raw:
        write_header(raw, kind, header_bytes, {"size": os.fstat(raw.fileno()).st_size, "arrays": arrays})


def _reserve(file: h5py.File, name: str, shape: tuple[int, ...], dtype: np.dtype[Any]) -> None:
    """Create a contiguous dataset whose bytes are allocated now and not filled."""
    plist = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    plist.set_layout(h5py.h5d.CONTIGUOUS)
    plist.set_alloc_time(h5py.h5d.ALLOC_TIME_EARLY)
    plist.set_fill_time(h5py.h5d.FILL_TIME_NEVER)
    group = file.require_group(os.path.dirname(name) or "/")
    kind = h5py.h5t.py_create(dtype, logical=True)
    h5py.h5d.create(group.id, os.path.basename(name).encode(), kind, h5py.h5s.create_simple(shape), plist)


def _location(dataset: h5py.Dataset) -> tuple[int, list[int], str]:
    return dataset.id.get_offset(), list(dataset.shape), dataset.dtype.newbyteorder("<").str
