"""`Shards`: images in tar files, as WebDataset writes them, or tars of class folders."""

from __future__ import annotations

import glob
import hashlib
import json
import os
import re
import tarfile
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from featcache import remote
from featcache.entries import SPLIT_NAMES, Entry, scan
from featcache.errors import DataLayoutError, EmptyFolderError, first_line
from featcache.files import Progress
from featcache.images import is_image_name
from featcache.labels import SEPARATOR
from featcache.trees import Names

_BRACES = re.compile(r"\{(\d+)\.\.(\d+)\}")
_LABELS = (".cls", ".json")
_CHUNK = 1 << 20


class _Member(NamedTuple):
    """Where the bytes of a file lie in its tar."""

    shard: str
    offset: int
    size: int
    sha256: bytes


def is_shards(data: str) -> bool:
    """Whether this names tar files: one, a pattern of several, or a folder that holds them and no other folder."""
    if data.lower().endswith((".tar", ".tar.gz", ".tgz")):
        return True
    folder = Path(data)
    if remote.is_url(data) or not folder.is_dir():
        return False
    there = [path for path in folder.iterdir() if not path.name.startswith(".")]
    return any(path.suffix == ".tar" for path in there) and not any(path.is_dir() for path in there)


class Shards:
    """Images in tar files; see `Source`.

    Each tar is read once, from its beginning to its end, for the places and the hashes of its files; after that
    images are read from their places. The label of an image is what the file beside it says, with the same key:
    KEY.cls (a class's name or number) or KEY.json ("label" or "cls"); where there are none, it is the image's folder,
    as on a disk. The split is that of the tar's name (train-0001.tar), else that of the images' folders.

    Parameters
    ----------
    data : a tar file, or a pattern of several: train-{000..099}.tar, *.tar; on the disk also a folder of them.
    """

    def __init__(self, data: str) -> None:
        self.name = data
        self._members: dict[str, _Member] = {}

    def entries(self, ignored: Counter[str], progress: Progress | None = None) -> tuple[list[Entry], bool]:
        """See `Source`."""
        shards = self._expand()
        labels: dict[str, tuple[str, ...]] = {}
        with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
            for done, found in enumerate(pool.map(_index, shards), 1):
                for name, member, label in sorted(found, key=_cls_last):
                    self._add(name, member, label, labels)
                if progress:
                    progress("index", done, len(shards))
        return self._labelled(labels, ignored) if labels else (self._of_folders(ignored), False)

    def read(self, name: str) -> bytes:
        """See `Source`."""
        member = self._member(name)
        if remote.is_url(member.shard):
            return remote.read(member.shard, member.offset, member.offset + member.size)
        with open(member.shard, "rb", buffering=0) as file:
            return os.pread(file.fileno(), member.size, member.offset)

    def part(self, names: Sequence[str]) -> Shards:
        """See `Source`."""
        found = Shards(self.name)
        for name in names:
            place = self._member(name)
            at = place.shard if remote.is_url(place.shard) else os.path.abspath(place.shard)
            found._members[name] = place._replace(shard=at)
        return found

    def path(self, name: str) -> None:
        """See `Source`: none is a file of its own."""

    def hash(self, names: list[str], progress: Progress | None = None) -> NDArray[np.uint8]:
        """See `Source`: they were hashed when the tars were read."""
        return np.frombuffer(b"".join(self._members[name].sha256 for name in names), np.uint8).reshape(-1, 32)

    def _member(self, name: str) -> _Member:
        if not self._members:  # asked for an image before its images were asked for
            self.entries(Counter())
        try:
            return self._members[name]
        except KeyError:
            raise FileNotFoundError(2, "it is in none of the tar files", name) from None

    def _expand(self) -> list[str]:
        """The tar files, by path or URL, in order."""
        patterns = list(_braces(self.name))
        if Path(self.name).is_dir():
            patterns = [str(Path(glob.escape(self.name), "*.tar"))]
        find = remote.matches if remote.is_url(self.name) else glob.glob
        found = {name for one in patterns for name in (sorted(find(one)) if glob.has_magic(one) else [one])}
        if packed := sorted(name for name in found if not name.lower().endswith(".tar")):
            raise DataLayoutError(
                f"{packed[0]} is compressed, and images are read from places within it. Unpack it to a .tar; images "
                "are compressed already."
            )
        if not found:
            raise EmptyFolderError(f"{self.name} names no tar file.")
        return sorted(found)

    def _add(self, name: str, member: _Member, label: tuple[str, ...] | None, labels: dict[str, Any]) -> None:
        if label is not None:
            labels[_key(name)] = label
        elif name in self._members:
            raise DataLayoutError(
                f"{member.shard}: {name} is in {self._members[name].shard}, too. Images of one split need keys of "
                "their own."
            )
        else:
            self._members[name] = member

    def _of_folders(self, ignored: Counter[str]) -> list[Entry]:
        return list(scan(Names(self.name, self._members), ignored))

    def _labelled(self, labels: dict[str, tuple[str, ...]], ignored: Counter[str]) -> tuple[list[Entry], bool]:
        """With the labels that lie beside the images."""
        several = any(len(classes) > 1 for classes in labels.values())
        entries = []
        for name, member in self._members.items():
            if not is_image_name(Path(name)):
                ignored["not an image name"] += 1
                continue
            classes = labels.get(_key(name), ())
            if not (classes or several):
                raise DataLayoutError(
                    f"{member.shard}: {name} has no label. Expected it in a file beside it, {_key(name)}.cls or .json."
                )
            entries.append(Entry(name, classes, SPLIT_NAMES.get(name.partition("/")[0].lower())))
        return entries, several


def _index(shard: str) -> list[tuple[str, _Member, tuple[str, ...] | None]]:
    """Name, place and hash of each file in a tar, and the classes that a file with a label says."""
    split = _split_of(shard)
    found = []
    try:
        with remote.opened(shard) if remote.is_url(shard) else open(shard, "rb") as file:
            for member, content, sha256 in _files(file):
                name = member.name.removeprefix("./")
                if split and not SPLIT_NAMES.get(name.partition("/")[0].lower()):
                    name = f"{split}/{name}"
                place = _Member(shard, member.offset_data, member.size, sha256)
                label = _classes(f"{shard}, {name}", content) if name.endswith(_LABELS) else None
                found.append((name, place, label))
    except FileNotFoundError as error:
        raise EmptyFolderError(f"{shard} does not exist.") from error
    except tarfile.TarError as error:
        raise DataLayoutError(f"{shard} is not a whole tar file: {first_line(error)}.") from error
    return found


def _files(file: IO[bytes]) -> Iterator[tuple[tarfile.TarInfo, bytes, bytes]]:
    """The regular files of a tar, with the bytes of labels and the hash of all; read from beginning to end."""
    with tarfile.open(fileobj=file, mode="r|") as tar:
        for member in tar:
            if not member.isreg() or member.name.rpartition("/")[2].startswith("."):
                continue
            hashed, content = hashlib.sha256(), b""
            stream: Any = tar.extractfile(member)
            while block := stream.read(_CHUNK):
                hashed.update(block)
                content += block if member.name.endswith(_LABELS) else b""
            yield member, content, hashed.digest()


def _split_of(shard: str) -> str | None:
    """The word in a tar's name that says the split."""
    words = re.split(r"[^a-z]+", shard.rpartition("/")[2].lower())
    return next((word for word in words if word in SPLIT_NAMES), None)


def _cls_last(found: tuple[str, _Member, tuple[str, ...] | None]) -> bool:
    """Where an image has both, its .cls is what counts."""
    return found[0].endswith(".cls")


def _key(name: str) -> str:
    """WebDataset's: the path up to the first dot of the file's name."""
    folder, slash, file = name.rpartition("/")
    return folder + slash + file.partition(".")[0]


def _classes(where: str, content: bytes) -> tuple[str, ...]:
    """The class names that a .cls or .json file says."""
    try:
        text = content.decode("utf-8").strip()
        found: Any = text
        if where.endswith(".json"):
            record = json.loads(text)
            found = next((record[field] for field in ("label", "cls") if field in record), None)
        several = found if isinstance(found, list) else str(found).split(SEPARATOR) if found not in (None, "") else []
        return tuple(str(one).strip() for one in several)
    except (UnicodeDecodeError, ValueError, TypeError) as error:
        raise DataLayoutError(f"{where} has no label that can be read: {first_line(error)}") from error


def _braces(pattern: str) -> Iterator[str]:
    """The names that {000..099} stands for."""
    found = _BRACES.search(pattern)
    if not found:
        yield pattern
        return
    first, last = found.groups()
    for number in range(int(first), int(last) + 1):
        yield from _braces(f"{pattern[: found.start()]}{number:0{len(first)}d}{pattern[found.end() :]}")
