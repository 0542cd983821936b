"""`FileTree`: what lies in folders, on the disk or in a plain list of names."""

from __future__ import annotations

import os
import posixpath
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Protocol

from featcache.data.file_listing import walk
from featcache.data.file_types import why_no_image
from featcache.data.image_names import is_image_name
from featcache.data.sources.foreign_folders import keep_data_folders


class FileTree(Protocol):
    """Folders of images. Places in it are relative POSIX paths; "" is its root.

    name : what messages call its root: a path or a URL.
    """

    name: str

    def folders(self, place: str, ignored: Counter[str]) -> list[str]:
        """Names of the folders in a folder, sorted; those that hold no data of the user are counted in `ignored`."""

    def images(self, place: str, ignored: Counter[str]) -> Iterator[str]:
        """Image files below a folder, as places in the tree; what is passed over is counted in `ignored`."""

    def files(self, place: str) -> Iterator[str]:
        """The names of the files in a folder, hidden ones too."""


class LocalTree:
    """A folder of this machine."""

    def __init__(self, root: Path) -> None:
        self.name, self._root = str(root), root

    def folders(self, place: str, ignored: Counter[str]) -> list[str]:
        """See `FileTree`."""
        root = self._root / place
        with os.scandir(root) as there:
            names = [entry.name for entry in there if entry.is_dir()]
        return keep_data_folders(names, lambda folder, name: os.path.lexists(root / folder / name), ignored)

    def images(self, place: str, ignored: Counter[str]) -> Iterator[str]:
        """See `FileTree`."""
        for path in walk(self._root / place, ignored):
            yield path.relative_to(self._root).as_posix()

    def files(self, place: str) -> Iterator[str]:
        """See `FileTree`."""
        with os.scandir(self._root / place) as there:
            yield from (entry.name for entry in there if not entry.is_dir())


class ListedTree:
    """The folders that relative POSIX paths speak of: those of an object store or of an archive."""

    def __init__(self, name: str, paths: Iterable[str]) -> None:
        self.name = name
        self._folders: dict[str, set[str]] = {"": set()}
        self._files: dict[str, list[str]] = {"": []}
        for path in paths:
            folder, file = posixpath.split(path)
            self._make(folder)
            self._files[folder].append(file)

    def _make(self, folder: str) -> None:
        made: list[str] = []
        while folder not in self._folders:
            self._folders[folder], self._files[folder] = set(), []
            made.append(folder)
            folder = posixpath.dirname(folder)
        for one in made:
            above, name = posixpath.split(one)
            self._folders[above].add(name)

    def folders(self, place: str, ignored: Counter[str]) -> list[str]:
        """See `FileTree`."""

        def holds(folder: str, name: str) -> bool:
            inside = posixpath.join(place, folder)
            return name in self._files[inside] or name in self._folders[inside]

        return keep_data_folders(list(self._folders[place]), holds, ignored)

    def images(self, place: str, ignored: Counter[str]) -> Iterator[str]:
        """See `FileTree`."""
        places = [place]  # a loop, as archives may be nested deeper than Python calls
        while places:
            place = places.pop()
            for name in sorted(self._files[place]):
                if name.startswith("."):
                    ignored["hidden"] += 1
                elif not is_image_name(Path(name)):
                    ignored[why_no_image(Path(name))] += 1
                else:
                    yield posixpath.join(place, name)
            places += [posixpath.join(place, folder) for folder in reversed(self.folders(place, ignored))]

    def files(self, place: str) -> Iterator[str]:
        """See `FileTree`."""
        return iter(self._files[place])
