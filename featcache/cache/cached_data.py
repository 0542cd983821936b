"""`CachedData`: the bytes of the samples of a cache, read from the data that it was made from."""

from __future__ import annotations

import hashlib
import os
from collections import Counter

from featcache.cache.feature_cache import FeatureCache
from featcache.cache.mismatch import check_source
from featcache.core.options import DataOptions, select
from featcache.data.sources.registry import open_source
from featcache.errors import RemoteIOError


class CachedData:
    """The data that a cache was made from. What is not that of the cache any more is not read.

    Parameters
    ----------
    cache : FeatureCache
    data : path
        What the cache was made from.

    Attributes
    ----------
    source : Source
    rows : dict of str to int
        Row of each id.
    changed : dict of str to str
        Ids of the texts that `start` could not read, with the reason.

    Raises
    ------
    EmptyFolderError, DataLayoutError
        The data does not exist, or has another layout.
    CacheMismatchError
        It holds samples of another modality, or the cache was made from arrays.
    """

    def __init__(self, cache: FeatureCache, data: str | os.PathLike[str]) -> None:
        cache.require_images("reading the samples of the cache")
        self.source = open_source(data, **select(DataOptions, cache.split_options))
        if self.source.has_text_column:
            self.source.entries(Counter())  # with labels, which number equal texts, and so decide the places
        check_source(cache.path, cache.spec, self.source)
        self._samples = cache.samples
        self._start = self.source.modality.start
        self.rows = {name: row for row, name in enumerate(cache.samples.ids)}
        self.changed: dict[str, str] = {}
        self._starts: dict[str, str] = {"": ""}

    def read(self, name: str) -> bytes:
        """The bytes of the sample with this id. Raises OSError if it cannot be read, or has other bytes now."""
        content = self.source.read(name)
        if hashlib.sha256(content).digest() != self._samples.sha256[self.rows[name]].tobytes():
            raise OSError("its bytes are not those of the cache")
        return content

    def place(self, name: str) -> str:
        """Where a text stands in a table; "" for a sample that is a file, and for a text that cannot be read."""
        is_there = self.source.has_text_column and bool(self.start(name))
        return self.source.place(name) if is_there else ""

    def start(self, name: str) -> str:
        """The beginning of a sample, see `Modality.start`; "" for none, and if it cannot be read. It is read once."""
        if name not in self._starts:
            try:
                content = self.read(name)
                self._starts[name] = self._start(content) if self._start else ""
            except RemoteIOError:
                raise
            except OSError as error:
                self.changed[name], self._starts[name] = error.strerror or str(error), ""
        return self._starts[name]
