"""`ManifestSource`: samples that a table lists, with their labels: CSV, JSON lines or Parquet."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable
from functools import partial
from pathlib import Path

from featcache._utils import remote
from featcache._utils.progress_bar import Progress
from featcache.data.hidden_labels import hide_unknown
from featcache.data.modality import IMAGES, TEXTS, Modality
from featcache.data.sources.base import SampleListing, Source, SourceOptions, missing_error
from featcache.data.sources.folder import FolderSource
from featcache.data.sources.registry import SOURCES
from featcache.data.sources.table import is_table, read_paths, read_table
from featcache.errors import DataLayoutError


class ManifestSource(FolderSource):
    """Samples that a table lists; see `Source`. Their paths are relative to the table's folder, or URLs.

    They are texts if all paths are those of texts.

    Parameters
    ----------
    name : str
        The table, or its URL.
    options : SourceOptions
        How the table is read.
    """

    order = 30
    has_columns = True
    is_folder = False

    def __init__(self, name: str, options: SourceOptions) -> None:
        folder = name.rpartition("/")[0] if remote.is_url(name) else str(Path(name).parent)
        super().__init__(folder, options.modality)
        self.name, self._options = name, options
        self._was_read = False  # whether `_urls` has the URLs of the table
        self._lists_texts = False

    @classmethod
    def matches(cls, path: str, options: SourceOptions) -> bool:
        """See `Source`: by the end of the name."""
        return is_table(path) and (remote.is_url(path) or not os.path.isdir(path))

    @classmethod
    def open(cls, path: str, options: SourceOptions) -> Source:
        """See `Source`. Raises EmptyFolderError for a table that does not exist."""
        if not remote.is_url(path) and not Path(path).is_file():
            raise missing_error(path)
        return ManifestSource(path, options)

    def entries(self, ignored: Counter[str], progress: Progress | None = None) -> SampleListing:
        """See `Source`."""
        listing = self._read_table(self.name, self._content(), self.root)
        return hide_unknown(listing, self.modality)

    @property
    def modality(self) -> Modality:
        """See `Source`."""
        if not self._was_read:
            self._read_urls()
        return self._options.modality or (TEXTS if self._lists_texts else IMAGES)

    def sample_ids(self, ignored: Counter[str]) -> list[str]:
        """See `Source`. The table needs no labels."""
        return self._read_paths(self.name, self._content(), self.root)

    def _content(self) -> bytes:
        return remote.read(self.name) if remote.is_url(self.name) else Path(self.name).read_bytes()

    def _read_table(self, name: str, content: bytes, folder: str) -> SampleListing:
        """Read one table, whose paths are relative to a folder."""
        listing = read_table(
            name,
            content,
            partial(self._resolve, folder),
            label_column=self._options.label_column,
            skip_missing=self._options.skip_missing,
        )
        self._add_urls(entry.id for entry in listing.entries)
        return listing

    def _read_paths(self, name: str, content: bytes, folder: str) -> list[str]:
        """Read the ids of one table, whose paths are relative to a folder."""
        ids = read_paths(name, content, partial(self._resolve, folder))
        self._add_urls(ids)
        return ids

    def _add_urls(self, ids: Iterable[str]) -> None:
        names = list(ids)
        self._urls |= frozenset(filter(remote.is_url, names))
        are_texts = bool(names) and all(TEXTS.accepts(Path(name)) for name in names)
        self._lists_texts = are_texts and (self._lists_texts or not self._was_read)
        self._was_read = True
        self._modality = self.modality

    def _has_url(self, name: str) -> bool:
        """See `FolderSource`: the URLs that the table lists."""
        if not self._was_read:  # a sample is read before the samples were listed
            self._read_urls()
        return name in self._urls

    def _read_urls(self) -> None:
        self._read_paths(self.name, self._content(), self.root)

    def _resolve(self, folder: str, path: str) -> tuple[str, bool]:
        """The id of a path in the table, and whether its file exists. Ids are relative to the root: see `Resolve`."""
        if remote.is_url(path):
            if remote.check_url(path) == "file" and remote.is_url(self.root) and remote.check_url(self.root) != "file":
                raise DataLayoutError(f"{self.name}, which comes from afar, names a file of this machine: {path}")
            return remote.relative(path, self.root), True
        if remote.is_url(self.root):
            return remote.relative(remote.join(self.root, path), self.root), True
        file = Path(folder, path)
        try:
            exists = file.is_file()
        except (OSError, ValueError):  # too long for a path, or NUL in it
            exists = False
        if not exists and "\\" in path and (windows_file := Path(folder, path.replace("\\", "/"))).is_file():
            file, exists = windows_file, True
        return Path(os.path.relpath(file, self.root)).as_posix(), exists


SOURCES.register("table", ManifestSource)
