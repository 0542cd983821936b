"""`FolderSource`: samples in class folders, on the disk or at a URL."""

from __future__ import annotations

import hashlib
import os
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from featcache._utils import remote
from featcache._utils.progress_bar import Progress
from featcache._utils.regular_files import read_regular
from featcache.data.content_hashes import hash_all, hash_file
from featcache.data.modality import IMAGES, TEXTS, Modality
from featcache.data.sources.base import SampleListing, Source, SourceOptions
from featcache.data.sources.class_folders import scan_class_folders
from featcache.data.sources.file_tree import FileTree, ListedTree, LocalTree
from featcache.data.sources.folder_modality import explain_no_images, modality_of
from featcache.data.sources.registry import SOURCES
from featcache.data.text_content import check_text
from featcache.errors import EmptyFolderError

_REMOTE_REQUESTS = 32
"""Remote files that are requested at the same time: most of the time is spent waiting."""


class FolderSource(Source):
    """Samples in class folders; see `Source`. Ids are paths relative to the folder.

    Parameters
    ----------
    root : str
        A folder, or its URL.
    modality : Modality or None
        Which files are samples; None finds out, see `modality_of`.
    urls : iterable of str
        Samples at other URLs. No other URL is opened, because ids also come from caches.
    """

    order = 50
    is_folder = True

    def __init__(self, root: str, modality: Modality | None = None, urls: Iterable[str] = ()) -> None:
        self.name = self.root = root
        self._modality, self._urls = modality, frozenset(urls)

    @classmethod
    def matches(cls, path: str, options: SourceOptions) -> bool:
        """See `Source`: any URL, and any folder."""
        return remote.is_url(path) or Path(path).is_dir()

    @classmethod
    def open(cls, path: str, options: SourceOptions) -> Source:
        """See `Source`."""
        return FolderSource(path if remote.is_url(path) else str(Path(path)), options.modality)

    @property
    def modality(self) -> Modality:
        """See `Source`."""
        return self._modality or self._tree().modality

    def entries(self, ignored: Counter[str], progress: Progress | None = None) -> SampleListing:
        """See `Source`."""
        tree = self._tree()
        try:
            return scan_class_folders(tree, ignored)
        except EmptyFolderError as error:
            if tree.modality is IMAGES:
                explain_no_images(tree, error)
            raise

    def sample_ids(self, ignored: Counter[str]) -> list[str]:
        """See `Source`."""
        return list(self._tree().samples("", ignored))

    def hash(self, names: list[str], progress: Progress | None = None) -> NDArray[np.uint8]:
        """See `Source`."""
        is_remote = remote.is_url(self.root) or any(remote.is_url(name) for name in names)
        return hash_all(self._digest, names, progress, _REMOTE_REQUESTS if is_remote else None)

    def read(self, name: str) -> bytes:
        """See `Source`."""
        content = self._read_bytes(name)
        return check_text(content) if self._is_text(name) else content

    def _read_bytes(self, name: str) -> bytes:
        path = self.local_path(name)
        if path:
            return read_regular(path)
        if remote.is_url(name) and not self._has_url(name):
            raise FileNotFoundError(2, f"{self.name} does not list this URL, which is not opened", name)
        return remote.read(remote.join(self.root, name))

    def subset(self, names: Sequence[str]) -> Source:
        """See `Source`."""
        urls = [name for name in names if remote.is_url(name) and self._has_url(name)]
        root = self.root if remote.is_url(self.root) else os.path.abspath(self.root)
        return FolderSource(root, self._modality, urls)

    def local_path(self, name: str) -> Path | None:
        """See `Source`."""
        return None if remote.is_url(self.root) or remote.is_url(name) else Path(self.root, name)

    def _tree(self) -> FileTree:
        tree: FileTree = (
            ListedTree(self.root, remote.names(self.root)) if remote.is_url(self.root) else LocalTree(Path(self.root))
        )
        self._modality = tree.modality = self._modality or modality_of(tree)
        return tree

    def _is_text(self, name: str) -> bool:
        """Whether a sample is a text; by its name before the samples were listed."""
        return TEXTS.accepts(Path(name)) if self._modality is None else self._modality is TEXTS

    def _has_url(self, name: str) -> bool:
        """Whether a URL is one of the samples."""
        return name in self._urls

    def _digest(self, name: str) -> bytes:
        path = None if self._is_text(name) else self.local_path(name)
        return hash_file(str(path)) if path else hashlib.sha256(self.read(name)).digest()


SOURCES.register("folder", FolderSource)
