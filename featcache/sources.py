"""`open_source`: where images lie, and how their bytes are read: folders, manifests, URLs, tar files, data sets."""

from __future__ import annotations

import hashlib
import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from featcache import remote
from featcache.entries import Listing, scan
from featcache.errors import DataLayoutError, EmptyFolderError
from featcache.files import Progress, hash_all, hash_file
from featcache.huggingface import HuggingFace, is_saved_dataset
from featcache.images import is_image_name
from featcache.shards import Shards, is_shards
from featcache.tables import is_table, read_table
from featcache.trees import Disk, Names

_REQUESTS = 32
"""Files asked for at once from afar, where most of the time is spent waiting."""


class Source(Protocol):
    """Where images lie.

    name : what messages call it: as the user wrote it.
    """

    name: str

    def entries(self, ignored: Counter[str], progress: Progress | None = None) -> Listing:
        """The images, and what is known of them all; what is passed over is counted in `ignored`.

        Raises
        ------
        EmptyFolderError, DataLayoutError, DownloadError, MissingExtraError
        """

    def hash(self, names: list[str], progress: Progress | None = None) -> NDArray[np.uint8]:
        """SHA-256 of the bytes of images, shape (n, 32), uint8. One that cannot be read hashes as its id."""

    def read(self, name: str) -> bytes:
        """The bytes of an image. Raises OSError, with the reason; DownloadError where a connection is lost."""

    def part(self, names: Sequence[str]) -> Source:
        """What another machine needs to read these images."""

    def path(self, name: str) -> Path | None:
        """Where an image lies on this machine's disks; None for what is no file of its own there."""


class Folder:
    """Images in class folders, on the disk or at a URL; see `Source`."""

    def __init__(self, root: str) -> None:
        self.name = self.root = root

    def entries(self, ignored: Counter[str], progress: Progress | None = None) -> Listing:
        """See `Source`."""
        if not remote.is_url(self.root):
            return scan(Disk(Path(self.root)), ignored)
        return scan(Names(self.root, remote.names(self.root)), ignored)

    def hash(self, names: list[str], progress: Progress | None = None) -> NDArray[np.uint8]:
        """See `Source`."""
        far = remote.is_url(self.root) or any(remote.is_url(name) for name in names)
        return hash_all(self._digest, names, progress, _REQUESTS if far else None)

    def read(self, name: str) -> bytes:
        """See `Source`."""
        path = self.path(name)
        return path.read_bytes() if path else remote.read(remote.join(self.root, name))

    def part(self, names: Sequence[str]) -> Source:
        """See `Source`."""
        return self if remote.is_url(self.root) else Folder(os.path.abspath(self.root))

    def path(self, name: str) -> Path | None:
        """See `Source`."""
        return None if remote.is_url(self.root) or remote.is_url(name) else Path(self.root, name)

    def _digest(self, name: str) -> bytes:
        path = self.path(name)
        return hash_file(str(path)) if path else hashlib.sha256(self.read(name)).digest()


class Table(Folder):
    """Images that a manifest lists; see `Source`. Their paths are relative to its folder, or URLs."""

    def __init__(self, name: str) -> None:
        at = name.rpartition("/")[0] if remote.is_url(name) else str(Path(name).parent)
        super().__init__(at)
        self.name = name

    def entries(self, ignored: Counter[str], progress: Progress | None = None) -> Listing:
        """See `Source`."""
        content = remote.read(self.name) if remote.is_url(self.name) else Path(self.name).read_bytes()
        return read_table(self.name, content, self._as_id)

    def _as_id(self, name: str) -> str:
        """Paths become relative, so that an id says the same on every machine; those on this one must be there."""
        if remote.is_url(name):
            return remote.relative(name, self.root)
        if remote.is_url(self.root):
            return remote.relative(remote.join(self.root, name), self.root)
        place = Path(self.root, name)
        if not place.is_file():
            raise FileNotFoundError(f"there is no file {place}")
        return Path(os.path.relpath(place, self.root)).as_posix()


def names_images(data: str | os.PathLike[str]) -> bool:
    """Whether this names images and not a file of another kind, such as a cache."""
    name = os.fspath(data)
    there = is_table(name) or is_shards(name) or Path(name).is_dir()
    return there or (remote.is_url(name) and not name.lower().endswith((".h5", ".hdf5")))


def open_source(data: str | os.PathLike[str]) -> Source:
    """What this names, see `read_manifest`; nothing but its kind is looked at. Raises EmptyFolderError."""
    name = os.fspath(data)
    if is_shards(name):
        return Shards(name)
    if remote.is_url(name):
        return Table(name) if is_table(name) else Folder(name)
    path = Path(name)
    if path.is_dir():
        return HuggingFace(path) if is_saved_dataset(path) else Folder(str(path))
    if path.is_file():
        _refuse_single_file(path)
        return Table(str(path))
    raise EmptyFolderError(f"{path} does not exist. Give a folder of class folders, or a CSV manifest.")


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
