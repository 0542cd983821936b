"""`FileTree`: files in nested folders, on the disk or in a plain list of names."""

from __future__ import annotations

import os
import posixpath
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Protocol

from featcache.data.file_listing import walk
from featcache.data.modality import IMAGES, Modality
from featcache.data.sources.foreign_folders import keep_data_folders


class FileTree(Protocol):
    """Nested folders of samples. Folders are relative POSIX paths; "" is the root.

    Attributes
    ----------
    name : str
        What messages call the root: a path or a URL.
    modality : Modality
        Which files are samples.
    """

    name: str
    modality: Modality

    def subfolders(self, folder: str, ignored: Counter[str]) -> list[str]:
        """Names of the folders in a folder, sorted; those that hold no data of the user are counted in `ignored`."""

    def samples(self, folder: str, ignored: Counter[str]) -> Iterator[str]:
        """Paths of the samples below a folder; other files are counted in `ignored`, by reason."""

    def files(self, folder: str) -> Iterator[str]:
        """Names of the files in a folder, hidden ones too."""


class LocalTree:
    """A folder of this machine; see `FileTree`."""

    def __init__(self, root: Path, modality: Modality = IMAGES) -> None:
        self.name, self.modality, self._root = str(root), modality, root

    def subfolders(self, folder: str, ignored: Counter[str]) -> list[str]:
        """See `FileTree`."""
        path = self._root / folder
        with os.scandir(path) as entries:
            names = [entry.name for entry in entries if entry.is_dir()]
        return keep_data_folders(names, lambda subfolder, name: os.path.lexists(path / subfolder / name), ignored)

    def samples(self, folder: str, ignored: Counter[str]) -> Iterator[str]:
        """See `FileTree`."""
        for path in walk(self._root / folder, ignored, self.modality):
            yield path.relative_to(self._root).as_posix()

    def files(self, folder: str) -> Iterator[str]:
        """See `FileTree`."""
        with os.scandir(self._root / folder) as entries:
            yield from (entry.name for entry in entries if not entry.is_dir())


class ListedTree:
    """The folders in a list of relative POSIX paths, of an object store or an archive; see `FileTree`."""

    def __init__(self, name: str, paths: Iterable[str], modality: Modality = IMAGES) -> None:
        self.name, self.modality = name, modality
        self._subfolders: dict[str, set[str]] = {"": set()}
        self._files: dict[str, list[str]] = {"": []}
        for path in paths:
            folder, file = posixpath.split(path)
            self._add_folder(folder)
            self._files[folder].append(file)

    def _add_folder(self, folder: str) -> None:
        """Add a folder, and those above it."""
        added: list[str] = []
        while folder not in self._subfolders:
            self._subfolders[folder], self._files[folder] = set(), []
            added.append(folder)
            folder = posixpath.dirname(folder)
        for path in added:
            parent, name = posixpath.split(path)
            self._subfolders[parent].add(name)

    def subfolders(self, folder: str, ignored: Counter[str]) -> list[str]:
        """See `FileTree`."""

        def holds(subfolder: str, name: str) -> bool:
            path = posixpath.join(folder, subfolder)
            return name in self._files[path] or name in self._subfolders[path]

        return keep_data_folders(list(self._subfolders[folder]), holds, ignored)

    def samples(self, folder: str, ignored: Counter[str]) -> Iterator[str]:
        """See `FileTree`."""
        folders = [folder]  # a loop, because archives may be nested deeper than Python's recursion limit
        while folders:
            folder = folders.pop()
            for name in sorted(self._files[folder]):
                if name.startswith("."):
                    ignored["hidden"] += 1
                elif not self.modality.accepts(Path(name)):
                    ignored[self.modality.why_not(Path(name))] += 1
                else:
                    yield posixpath.join(folder, name)
            folders += [posixpath.join(folder, name) for name in reversed(self.subfolders(folder, ignored))]

    def files(self, folder: str) -> Iterator[str]:
        """See `FileTree`."""
        return iter(self._files[folder])
