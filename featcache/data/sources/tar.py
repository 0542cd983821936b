"""`TarSource`: samples in tar files, as WebDataset writes them, or in tar files of class folders."""

from __future__ import annotations

import errno
import glob
import os
import re
import shlex
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from threading import Event

import numpy as np
from numpy.typing import NDArray

from featcache._utils import remote
from featcache._utils.progress_bar import Progress
from featcache._utils.regular_files import MAX_IMAGE, open_regular, too_large
from featcache.core.samples import SEPARATOR, UNLABELED
from featcache.data.hidden_labels import hide_unknown
from featcache.data.modality import IMAGES, Modality
from featcache.data.sources.base import SPLIT_NAMES, SampleListing, SampleRecord, Source, SourceOptions
from featcache.data.sources.class_folders import scan_class_folders
from featcache.data.sources.file_tree import ListedTree
from featcache.data.sources.foreign_folders import is_litter
from featcache.data.sources.registry import SOURCES
from featcache.data.sources.tar_index import TarIndex, TarMember, index_tar
from featcache.data.sources.webdataset import (
    LABEL_ENDINGS,
    LabelFile,
    group_by_folder,
    label_by_key,
    pair_labels,
    read_label,
)
from featcache.errors import DataLayoutError, EmptyFolderError

_UNPACK = {
    **dict.fromkeys(
        (".tar.gz", ".tgz", ".tar.xz", ".txz", ".tar.bz2", ".tbz2", ".tar.zst"), "tar xf {file} -C {folder}"
    ),
    ".zip": "python -m zipfile -e {file} {folder}",
    ".7z": "7z x {file} -o{folder}",
    ".rar": "unrar x {file} {folder}/",
}
"""The command that unpacks an archive that samples cannot be read from, by the end of its name."""

_BRACES = re.compile(r"\{(\d+)\.\.(\d+)\}")


class TarSource(Source):
    """Samples in tar files; see `Source`.

    Each tar file is read once, from its beginning to its end, for the places and the hashes of its files; after that
    samples are read from their places. The label of a sample is in the file beside it with the same key: KEY.cls (a
    class's name or number) or KEY.json ("label" or "cls"), see `pair_labels`. Without such files the label is the
    sample's folder, as on a disk. A "group" in KEY.json keeps samples together in splits and folds. Links count as
    files if their target is a file of the same tar; links to folders are not followed. The split is a word in the tar's
    name (train-0001.tar), else in the samples' folders.

    Parameters
    ----------
    data : str
        A tar file, or a pattern of several: train-{000..099}.tar, *.tar; on the disk also a folder of tar files.
    modality : Modality
        Which files are samples.
    """

    order = 10

    def __init__(self, data: str, modality: Modality = IMAGES) -> None:
        self.name, self._modality = data, modality
        self._members: dict[str, TarMember] = {}

    @classmethod
    def matches(cls, path: str, options: SourceOptions) -> bool:
        """See `Source`: tar files, a pattern of such, or a folder that holds some and no other folder."""
        if path.lower().endswith((".tar", *_UNPACK)):
            return True
        folder = Path(path)
        if remote.is_url(path) or not folder.is_dir():
            return False
        contents = [path for path in folder.iterdir() if not path.name.startswith(".")]
        return any(path.suffix == ".tar" for path in contents) and not any(path.is_dir() for path in contents)

    @classmethod
    def open(cls, path: str, options: SourceOptions) -> Source:
        """See `Source`."""
        return TarSource(path, options.modality or IMAGES)

    def entries(self, ignored: Counter[str], progress: Progress | None = None) -> SampleListing:
        """See `Source`."""
        labels = self._index(ignored, progress)
        if any(label.classes for label in labels.values()):
            return self._with_label_files(labels, ignored)
        listing = scan_class_folders(self._tree(), ignored)
        return listing._replace(entries=list(group_by_folder(listing.entries, labels, ignored)))

    def sample_ids(self, ignored: Counter[str]) -> list[str]:
        """See `Source`."""
        self._index(ignored)
        return list(self._tree().samples("", ignored))

    def _tree(self) -> ListedTree:
        return ListedTree(self.name, self._members, self._modality)

    def _index(self, ignored: Counter[str], progress: Progress | None = None) -> dict[str, LabelFile]:
        """Read the tar files for the places of their members. Returns the label files, by name."""
        shards = self._expand()
        labels: dict[str, LabelFile] = {}
        self._members = {}
        stop = Event()
        index_shard = partial(index_tar, content_of=LABEL_ENDINGS, stopped=stop.is_set)
        with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
            try:
                for done, (shard, index) in enumerate(zip(shards, pool.map(index_shard, shards), strict=True), 1):
                    self._add(shard, index, labels, ignored)
                    ignored.update(index.ignored)
                    if progress:
                        progress("index", done, len(shards))
            finally:
                stop.set()  # after an error or a signal, do not wait for the other tar files
        return labels

    def read(self, name: str) -> bytes:
        """See `Source`."""
        member = self._member(name)
        if member.size > MAX_IMAGE:
            raise OSError(errno.EFBIG, too_large(member.size, MAX_IMAGE), name)
        if remote.is_url(member.shard):
            return remote.read(member.shard, member.offset, member.offset + member.size)
        with open_regular(member.shard) as file:
            return os.pread(file.fileno(), member.size, member.offset)

    def subset(self, names: Sequence[str]) -> Source:
        """See `Source`. The tar files are not read again."""
        source = TarSource(self.name, self._modality)
        for name in names:
            member = self._member(name)
            shard = member.shard if remote.is_url(member.shard) else os.path.abspath(member.shard)
            source._members[name] = member._replace(shard=shard)
        return source

    def hash(self, names: list[str], progress: Progress | None = None) -> NDArray[np.uint8]:
        """See `Source`. The samples were hashed when the tar files were read."""
        return np.frombuffer(b"".join(self._members[name].sha256 for name in names), np.uint8).reshape(-1, 32)

    def _member(self, name: str) -> TarMember:
        if not self._members:  # a sample is read before the samples were listed
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
        shards = {
            shard for pattern in patterns for shard in (sorted(find(pattern)) if glob.has_magic(pattern) else [pattern])
        }
        if packed := sorted(shard for shard in shards if not shard.lower().endswith(".tar")):
            raise DataLayoutError(
                f"{packed[0]} is compressed, and images are read from places within a file. Unpack it and give the "
                f"folder: {_how_to_unpack(packed[0])}"
            )
        if not shards:
            raise EmptyFolderError(f"{self.name} names no tar file.")
        return sorted(shards)

    def _add(self, shard: str, index: TarIndex, labels: dict[str, LabelFile], ignored: Counter[str]) -> None:
        """Add the members of one tar file, under names that begin with the split."""
        split = _split_of(shard)
        for name_in_tar, member in index.members:
            has_split = SPLIT_NAMES.get(name_in_tar.partition("/")[0].lower())
            name = name_in_tar if has_split or not split else f"{split}/{name_in_tar}"
            if not name.endswith(LABEL_ENDINGS):
                if name in self._members:
                    raise DataLayoutError(
                        f"{shard}: {name} is in {self._members[name].shard}, too. Images of one split need keys of "
                        "their own."
                    )
                self._members[name] = member
            elif is_litter(name):
                ignored["label files in folders that are hidden or of systems"] += 1
            elif (content := index.contents.get(member.offset)) is not None:
                label = read_label(f"{shard}, {name}", content)
                if labels.setdefault(name, label) != label:
                    raise DataLayoutError(
                        f"{shard}: {name} names two labels, {_spell(labels[name])} and {_spell(label)}. Images of one "
                        "split need keys of their own."
                    )

    def _with_label_files(self, labels: dict[str, LabelFile], ignored: Counter[str]) -> SampleListing:
        """The samples, with the labels in the files beside them."""
        several = any(label.several for label in labels.values())
        by_key = label_by_key(labels, ignored)
        samples = self._tree().samples("", ignored)
        entries = []
        for name, key in pair_labels(self.name, samples, by_key, ignored).items():
            split = SPLIT_NAMES.get(name.partition("/")[0].lower())
            if key is None and not several and split != UNLABELED:
                stem = name.rpartition(".")[0]
                raise DataLayoutError(
                    f"{self._members[name].shard}: {name} has no label. Expected it in a file beside it, {stem}.cls or "
                    ".json."
                )
            classes, group = (by_key[key].classes, by_key[key].group) if key else ((), "")
            entries.append(SampleRecord(name, classes, split if classes or several else UNLABELED, group=group))
        return hide_unknown(SampleListing(entries, several))


def _how_to_unpack(archive: str) -> str:
    """The shell command that unpacks an archive."""
    name = archive.rpartition("/")[2]
    end = max((end for end in _UNPACK if name.lower().endswith(end)), key=len, default="")
    folder = name[: len(name) - len(end)] or "photos"
    file, target = shlex.quote(name if remote.is_url(archive) else archive), shlex.quote(folder)
    command = _UNPACK.get(end, "tar xf {file} -C {folder}").format(file=file, folder=target)
    return f"mkdir {target} && {command}"


def _spell(label: LabelFile) -> str:
    return repr(SEPARATOR.join(label.classes))


def _split_of(shard: str) -> str | None:
    """The split by a word in the name of a tar file; None if it has none."""
    words = re.split(r"[^a-z]+", shard.rpartition("/")[2].lower())
    return next((word for word in words if word in SPLIT_NAMES), None)


def _braces(pattern: str) -> Iterator[str]:
    """The names that a pattern with {000..099} expands to."""
    match = _BRACES.search(pattern)
    if not match:
        yield pattern
        return
    first, last = match.groups()
    for number in range(int(first), int(last) + 1):
        yield from _braces(f"{pattern[: match.start()]}{number:0{len(first)}d}{pattern[match.end() :]}")


SOURCES.register("tar", TarSource)
