"""`open_source`: where images lie, and how their bytes are read: folders, manifests, URLs, tar files, data sets."""

from __future__ import annotations

import hashlib
import os
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from featcache._utils import remote
from featcache._utils.progress_bar import Progress
from featcache._utils.regular_files import read_regular
from featcache.core.samples import SEPARATOR
from featcache.core.split_names import split_of
from featcache.data.file_listing import hash_all, hash_file
from featcache.data.hidden_labels import hide_unknown
from featcache.data.image_names import is_image_name
from featcache.data.sources.base import SampleListing, SampleRecord, scan_class_folders
from featcache.data.sources.file_tree import ListedTree, LocalTree
from featcache.data.sources.huggingface import HuggingFaceSource, find_image_tables, is_saved_dataset
from featcache.data.sources.table import has_labels, is_table, read_paths, read_table
from featcache.data.sources.tar import TarSource, is_shards
from featcache.errors import DataLayoutError, EmptyFolderError

_REQUESTS = 32
"""Files asked for at once from afar, where most of the time is spent waiting."""


class Source(Protocol):
    """Where images lie.

    name : what messages call it: as the user wrote it.
    """

    name: str

    def entries(self, ignored: Counter[str], progress: Progress | None = None) -> SampleListing:
        """The images, and what is known of them all; what is passed over is counted in `ignored`.

        Raises
        ------
        EmptyFolderError, DataLayoutError, RemoteIOError, MissingExtraError
        """

    def images(self, ignored: Counter[str]) -> list[str]:
        """The ids of all images, labelled or not; what is passed over is counted in `ignored`. Raises as `entries`."""

    def hash(self, names: list[str], progress: Progress | None = None) -> NDArray[np.uint8]:
        """SHA-256 of the bytes of images, shape (n, 32), uint8. One that cannot be read hashes as its id."""

    def read(self, name: str) -> bytes:
        """The bytes of an image. Raises OSError, with the reason; RemoteIOError where a connection is lost."""

    def part(self, names: Sequence[str]) -> Source:
        """What another machine needs to read these images."""

    def path(self, name: str) -> Path | None:
        """Where an image lies on this machine's disks; None for what is no file of its own there."""


class FolderSource:
    """Images in class folders, on the disk or at a URL; see `Source`.

    Parameters
    ----------
    root : a folder, or its URL.
    urls : of images that lie elsewhere. An id that is another URL is not opened: ids come from caches, too.
    """

    def __init__(self, root: str, urls: Iterable[str] = ()) -> None:
        self.name = self.root = root
        self._urls = frozenset(urls)

    def entries(self, ignored: Counter[str], progress: Progress | None = None) -> SampleListing:
        """See `Source`."""
        if not remote.is_url(self.root):
            return scan_class_folders(LocalTree(Path(self.root)), ignored)
        return scan_class_folders(ListedTree(self.root, remote.names(self.root)), ignored)

    def images(self, ignored: Counter[str]) -> list[str]:
        """See `Source`."""
        tree = (
            ListedTree(self.root, remote.names(self.root)) if remote.is_url(self.root) else LocalTree(Path(self.root))
        )
        return list(tree.images("", ignored))

    def hash(self, names: list[str], progress: Progress | None = None) -> NDArray[np.uint8]:
        """See `Source`."""
        far = remote.is_url(self.root) or any(remote.is_url(name) for name in names)
        return hash_all(self._digest, names, progress, _REQUESTS if far else None)

    def read(self, name: str) -> bytes:
        """See `Source`."""
        path = self.path(name)
        if path:
            return read_regular(path)
        if remote.is_url(name) and not self._has_url(name):
            raise FileNotFoundError(2, f"{self.name} does not list this URL, which is not opened", name)
        return remote.read(remote.join(self.root, name))

    def part(self, names: Sequence[str]) -> Source:
        """See `Source`."""
        urls = [name for name in names if remote.is_url(name) and self._has_url(name)]
        return FolderSource(self.root if remote.is_url(self.root) else os.path.abspath(self.root), urls)

    def _has_url(self, name: str) -> bool:
        """Whether this data names a URL as an image of it."""
        return name in self._urls

    def path(self, name: str) -> Path | None:
        """See `Source`."""
        return None if remote.is_url(self.root) or remote.is_url(name) else Path(self.root, name)

    def _digest(self, name: str) -> bytes:
        path = self.path(name)
        return hash_file(str(path)) if path else hashlib.sha256(self.read(name)).digest()


class ManifestSource(FolderSource):
    """Images that a manifest lists; see `Source`. Their paths are relative to its folder, or URLs.

    Parameters
    ----------
    label_column, skip_missing : see `read_table`.
    """

    def __init__(self, name: str, label_column: str | None = None, skip_missing: bool = False) -> None:
        at = name.rpartition("/")[0] if remote.is_url(name) else str(Path(name).parent)
        super().__init__(at)
        self.name, self._label_column, self._skip_missing = name, label_column, skip_missing
        self._was_read = False  # the table, for the URLs in it

    def entries(self, ignored: Counter[str], progress: Progress | None = None) -> SampleListing:
        """See `Source`."""
        return hide_unknown(self._read(self.name, self._content(), self.root))

    def images(self, ignored: Counter[str]) -> list[str]:
        """See `Source`: the table needs no labels."""
        return self._paths(self.name, self._content(), self.root)

    def _content(self) -> bytes:
        return remote.read(self.name) if remote.is_url(self.name) else Path(self.name).read_bytes()

    def _paths(self, name: str, content: bytes, folder: str) -> list[str]:
        found = read_paths(name, content, partial(self._resolve, folder))
        self._note_urls(found)
        return found

    def _note_urls(self, names: Iterable[str]) -> None:
        self._urls |= frozenset(filter(remote.is_url, names))
        self._was_read = True

    def _has_url(self, name: str) -> bool:
        """See `FolderSource`: those that the table lists."""
        if not self._was_read:  # asked for an image before its images were asked for
            self._read_paths()
        return name in self._urls

    def _read_paths(self) -> None:
        self._paths(self.name, self._content(), self.root)

    def _read(self, name: str, content: bytes, folder: str) -> SampleListing:
        resolve = partial(self._resolve, folder)
        found = read_table(name, content, resolve, label_column=self._label_column, skip_missing=self._skip_missing)
        self._note_urls(entry.id for entry in found.entries)
        return found

    def _resolve(self, folder: str, name: str) -> tuple[str, bool]:
        """Paths become relative to the root, so that an id says the same on every machine; and whether it is there."""
        if remote.is_url(name):
            if remote.check_url(name) == "file" and remote.is_url(self.root) and remote.check_url(self.root) != "file":
                raise DataLayoutError(f"{self.name}, which comes from afar, names a file of this machine: {name}")
            return remote.relative(name, self.root), True
        if remote.is_url(self.root):
            return remote.relative(remote.join(self.root, name), self.root), True
        place = Path(folder, name)
        try:
            is_there = place.is_file()
        except (OSError, ValueError):  # too long for a path, or NUL in it
            is_there = False
        if not is_there and "\\" in name and (windows := Path(folder, name.replace("\\", "/"))).is_file():
            place, is_there = windows, True
        return Path(os.path.relpath(place, self.root)).as_posix(), is_there


class MetadataSource(ManifestSource):
    """A folder with metadata.csv or metadata.jsonl, its own or one in each split's folder; see `Source`.

    As Hugging Face's "imagefolder": columns `file_name`, relative to the file's folder, and a label.
    """

    def __init__(
        self, folder: Path, files: Sequence[Path], label_column: str | None = None, skip_missing: bool = False
    ) -> None:
        super().__init__(str(folder / "metadata"), label_column, skip_missing)
        self.name, self._files = str(folder), files

    def images(self, ignored: Counter[str]) -> list[str]:
        """See `Source`: those that the files do not list, too."""
        return list(LocalTree(Path(self.root)).images("", ignored))

    def _read_paths(self) -> None:
        for file in self._files:
            self._paths(str(file), file.read_bytes(), str(file.parent))

    def entries(self, ignored: Counter[str], progress: Progress | None = None) -> SampleListing:
        """See `Source`."""
        entries: dict[str, SampleRecord] = {}
        listed_in: dict[str, Path] = {}
        notes: list[str] = []
        several, label_column, repeated = False, None, 0
        for file in self._files:
            found = self._read(str(file), file.read_bytes(), str(file.parent))
            for one in found.entries:
                entry = replace(one, split=one.split or _split_of(one.id))
                first = entries.setdefault(entry.id, entry)
                if replace(first, sha256=None) != replace(entry, sha256=None):
                    raise DataLayoutError(
                        f"{listed_in[entry.id]} and {file} both list {entry.id}: {_spell(first)}, and {_spell(entry)}. "
                        "Correct one, or remove one of the files."
                    )
                repeated += entry.id in listed_in
                listed_in.setdefault(entry.id, file)
            several |= found.several
            label_column = found.label_column
            notes += [f"labels from {file.name}"] if not notes else []
            notes += [note for note in found.notes if note not in notes]
        notes += [f"images that several metadata files list, counted once: {repeated}"] if repeated else []
        images = LocalTree(Path(self.root)).images("", Counter())
        if others := sum(name not in entries for name in images):
            ignored[f"images that {self._files[0].name} does not list"] += others
        return hide_unknown(SampleListing(list(entries.values()), several, tuple(notes), label_column))


def _spell(entry: SampleRecord) -> str:
    """The label, the split and the group of an image."""
    label = SEPARATOR.join(entry.classes)
    known = {"label": label, "split": entry.split, "group": entry.group}
    return ", ".join(f"{name} {value}" for name, value in known.items() if value) or "no label"


def _split_of(name: str) -> str | None:
    """The split that the first folder of an id stands for."""
    return split_of(name.partition("/")[0])


def find_metadata(folder: Path, label_column: str | None = None) -> list[Path]:
    """The metadata files of a folder of images and labels: its own, or those of its splits' folders."""
    folders = [folder, *(path for path in sorted(folder.iterdir()) if split_of(path.name))]
    files = [path / name for path in folders for name in ("metadata.csv", "metadata.jsonl")]
    return [file for file in files if file.is_file() and has_labels(str(file), file.read_bytes(), label_column)]


def names_images(data: str | os.PathLike[str]) -> bool:
    """Whether this names images and not a file of another kind, such as a cache."""
    name = os.fspath(data)
    there = is_table(name) or is_shards(name) or Path(name).is_dir()
    return there or (remote.is_url(name) and not name.lower().endswith((".h5", ".hdf5")))


def open_source(data: str | os.PathLike[str], *, label_column: str | None = None, skip_missing: bool = False) -> Source:
    """What this names, see `read_manifest`; nothing but its kind is looked at.

    Raises
    ------
    EmptyFolderError. DataLayoutError : columns are asked for, and there are none.
    """
    name, path = os.fspath(data), Path(data)
    is_url = remote.is_url(name)
    if not is_shards(name):
        if not is_url and (files := find_image_tables(name)):
            return HuggingFaceSource(name, files, label_column)
        if is_table(name) and (is_url or path.is_file()):
            return ManifestSource(name, label_column, skip_missing)
        if not is_url and path.is_dir():
            if is_saved_dataset(path):
                return HuggingFaceSource(name, (), label_column)
            if metadata := find_metadata(path, label_column):
                return MetadataSource(path, metadata, label_column, skip_missing)
        elif not is_url and path.is_file():
            _refuse_single_file(path)
            return ManifestSource(name, label_column, skip_missing)
        elif not is_url:
            raise EmptyFolderError(f"{path} does not exist. Give a folder of class folders, or a CSV manifest.")
    if label_column is not None or skip_missing:
        raise DataLayoutError(
            f"{name} has no columns: --label-column and --skip-missing are for CSV, Parquet and Hugging Face's data."
        )
    return TarSource(name) if is_shards(name) else FolderSource(name if is_url else str(path))


def _refuse_single_file(path: Path) -> None:
    """Raise DataLayoutError for a file that is no list of images: a picture, or a cache."""
    if is_image_name(path):
        raise DataLayoutError(
            f"{path} is a single picture. Give the folder that holds a folder of pictures for each class. To classify "
            f"a picture: featcache predict HEAD {path}"
        )
    if path.suffix.lower() in (".h5", ".hdf5"):
        raise DataLayoutError(
            f"{path} is a cache or another HDF5 file. Give the images: a folder, a CSV, or tar files. What a cache "
            f"holds: featcache info {path}"
        )
