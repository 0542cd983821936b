"""`JoinedCache`: caches of the same samples from several networks, or resolutions, read as one cache."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Collection, Iterable, Mapping, Sequence
from copy import copy
from dataclasses import replace
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from featcache._utils.formatting import split_names
from featcache.cache.feature_cache import FeatureCache
from featcache.cache.features import Features
from featcache.cache.lazy_arrays import ConcatenatedFeatures, LazyRows
from featcache.cache.mismatch import short_value
from featcache.cache.opening import check_rows
from featcache.cache.sample_matches import SampleMatches, match_samples
from featcache.core.data_summary import DataSummary, summarize
from featcache.core.layer_names import cache_names, join_layer, split_layer
from featcache.core.samples import Samples
from featcache.core.specs import AUGMENTED_FIELDS, PENULTIMATE, STORAGE_FIELDS, ExtractSpec
from featcache.errors import CacheIncompleteError, CacheMismatchError, NotACacheError


class JoinedCache:
    """Caches of the same samples, read as one cache whose layers are those of all.

    Samples are matched by their bytes, in any order. Samples that a cache lacks, or could not read, are left out.
    Layers are named CACHE/LAYER, such as "small/penultimate"; a name without a cache selects that layer of each.

    Parameters
    ----------
    caches : mapping of str to FeatureCache
        Two or more caches by their names.

    Attributes
    ----------
    caches : dict of str to FeatureCache
        The caches.
    samples : Samples
        The n samples that all caches have, in the order of the first one.
    done : ndarray, shape (n,), uint16
        Views of each sample that can be joined, 0 if a cache could not read it.
    skipped : list of (str, str)
        Id and reason of the samples that a cache could not read.
    notes : tuple of str
        What was left out, a line each.

    Raises
    ------
    CacheMismatchError
        The caches have no sample in common, other labels or splits, or the same features.
    """

    def __init__(self, caches: Mapping[str, FeatureCache]) -> None:
        self.caches = dict(caches)
        self._check_specs()
        self._matches: SampleMatches = match_samples(list(self.caches.values()))
        self.samples: Samples = self.first.samples.take(self._matches.rows[0])
        self._count_views()
        self.skipped = self._find_skipped()
        self.notes = (*self._matches.notes, *self._describe_views())

    @classmethod
    def open(cls, caches: Sequence[str | os.PathLike[str] | FeatureCache]) -> JoinedCache:
        """Open caches. Each is named after its file. Raises CacheError."""
        opened = [FeatureCache.open(cache) for cache in caches]
        return cls(dict(zip(cache_names([cache.path for cache in opened]), opened, strict=True)))

    def select(self, names: Collection[str]) -> JoinedCache:
        """Some of the caches, or one, with the same samples: those that all caches have."""
        cache = copy(self)
        cache.caches = {name: each for name, each in self.caches.items() if name in names}
        numbers = [list(self.caches).index(name) for name in cache.caches]
        cache._matches = replace(self._matches, rows=tuple(self._matches.rows[number] for number in numbers))
        cache.__dict__.pop("dims", None)
        cache._count_views()
        cache.done[self.done == 0] = 0
        return cache

    @property
    def first(self) -> FeatureCache:
        """The first of the caches."""
        return next(iter(self.caches.values()))

    @property
    def path(self) -> str:
        """The paths of the caches, for messages."""
        return " + ".join(str(cache.path) for cache in self.caches.values())

    @property
    def spec(self) -> ExtractSpec:
        """That of the first cache, for what all have in common, such as the modality."""
        return self.first.spec

    @property
    def provenance(self) -> dict[str, Any]:
        """That of the first cache."""
        return self.first.provenance

    @property
    def digest(self) -> str:
        """SHA-256 of the digests of the caches."""
        digests = (cache.spec.digest() for cache in self.caches.values())
        return hashlib.sha256("".join(digests).encode()).hexdigest()

    @cached_property
    def dims(self) -> dict[str, int]:
        """Width d of each layer."""
        return {
            join_layer(name, layer): width for name, cache in self.caches.items() for layer, width in cache.dims.items()
        }

    def layers(self, requested: str) -> tuple[str, ...]:
        """The layers that a text selects, cache by cache. Raises CacheIncompleteError.

        A text names layers of a cache ("small/penultimate"), of each cache ("penultimate"), or sets ("stages", "all",
        "small/all"), joined by commas.
        """
        chosen: list[str] = []
        for text in split_names(requested):
            name, layer = split_layer(text)
            if name in self.caches:
                chosen += (join_layer(name, each) for each in self.caches[name].layers(layer))
            else:
                chosen += self._layers_of_each(text)
        if not chosen:
            raise CacheIncompleteError(f"{requested!r} names no layer; there are {', '.join(self.dims)}")
        order = list(self.dims)
        return tuple(sorted(dict.fromkeys(chosen), key=order.index))

    def _layers_of_each(self, layer: str) -> Iterable[str]:
        found: list[str] = []
        for name, cache in self.caches.items():
            try:
                found += (join_layer(name, each) for each in cache.layers(layer))
            except CacheIncompleteError:
                continue
        if not found:
            raise CacheIncompleteError(f"no cache has a layer {layer!r}; there are {', '.join(self.dims)}")
        return found

    def features(
        self, split: str = "train", layer: str = PENULTIMATE, *, images: slice = slice(None), check: bool = True
    ) -> Features:
        """The features of one split, see `FeatureCache.features`. x is a `LazyRows`."""
        names, rows = self.layers(layer), self.readable_rows(split)
        views = int(self.done[rows].min()) if len(rows) else 1
        rows = rows[images]
        if check:
            for cache, own_rows in self._pairs():
                check_rows(cache, np.sort(own_rows[rows]), split)
        parts = tuple(self._layer(name, views) for name in names)
        return Features(LazyRows(parts[0] if len(parts) == 1 else ConcatenatedFeatures(parts), rows),
                        self.samples.take(rows))  # fmt: skip

    def readable_rows(self, split: str) -> NDArray[np.int64]:
        """See `FeatureCache.readable_rows`."""
        rows = self.samples.rows(split)
        return rows[self.done[rows] > 0]

    def summary(self) -> DataSummary:
        """The data that all caches were made from, see `FeatureCache.summary`."""
        return summarize(self.path, self.samples, readable=self.done > 0, modality=self.spec.modality)

    def _layer(self, name: str, views: int) -> NDArray[Any] | LazyRows:
        cache_name, layer = split_layer(name)
        cache = self.caches[cache_name]
        x = cache.layout.layers[layer].view(cache.layout.data)[:, :views]
        rows = self._matches.rows[list(self.caches).index(cache_name)]
        return x if np.array_equal(rows, np.arange(len(x))) else LazyRows(x, rows)

    def _pairs(self) -> Iterable[tuple[FeatureCache, NDArray[np.int64]]]:
        """Each cache, and its rows of the samples."""
        return zip(self.caches.values(), self._matches.rows, strict=True)

    def _count_views(self) -> None:
        self._shares_views = all(self.first.spec.view.shows_same(cache.spec.view) for cache in self.caches.values())
        done = np.min([cache.done[rows] for cache, rows in self._pairs()], axis=0)
        self.done: NDArray[np.uint16] = done if self._shares_views else np.minimum(done, 1)

    def _find_skipped(self) -> list[tuple[str, str]]:
        reasons: dict[str, str] = {}
        for cache, rows in self._pairs():
            own = dict(cache.skipped)
            for row in np.flatnonzero(cache.done[rows] == 0).tolist():
                reasons.setdefault(self.samples.ids[row], own[cache.samples.ids[rows[row]]])
        return [(name, reasons[name]) for name in self.samples.ids if name in reasons]

    def _describe_views(self) -> list[str]:
        most = min(cache.spec.views for cache in self.caches.values())
        fewer = [name for name, cache in self.caches.items() if cache.spec.views > most]
        if not most:
            return [f"augmented views of {', '.join(fewer)} are not used: the other caches have none"] if fewer else []
        if not self._shares_views:
            return [
                "augmented views are not used: those of the caches do not show the same crops. Extract with the same "
                "--augment and --seed to use them"
            ]
        return [f"{most} augmented views are used, as many as all caches have"] if fewer else []

    def _check_specs(self) -> None:
        """Raise CacheMismatchError for caches of several modalities, and for two with the same features."""
        caches = list(self.caches.values())
        for number, cache in enumerate(caches):
            for other in caches[:number]:
                if cache.spec.modality != other.spec.modality:
                    raise CacheMismatchError(
                        f"{other.path} holds features of {other.spec.modality}s, and {cache.path} of "
                        f"{cache.spec.modality}s. Give caches of the same samples."
                    )
                if all(name in STORAGE_FIELDS | AUGMENTED_FIELDS for name, *_ in cache.spec.differences(other.spec)):
                    raise CacheMismatchError(
                        f"{other.path} and {cache.path} hold features of the same network "
                        f"({cache.spec.backbone}, weights {short_value(cache.spec.weights_sha256)}) with the same "
                        "settings, so together they say no more than one. Give one of them."
                    )


Caches = str | os.PathLike[str] | FeatureCache | Sequence[str | os.PathLike[str] | FeatureCache]
"""One cache, or several of the same samples."""


def open_caches(caches: Caches) -> FeatureCache | JoinedCache:
    """Open a cache, or several as one. Raises CacheError."""
    listed = list_caches(caches)
    return JoinedCache.open(listed) if len(listed) > 1 else FeatureCache.open(listed[0])


def name_caches(caches: Caches) -> str:
    """The caches as the user named them, as text."""
    return " + ".join(str(cache.path if isinstance(cache, FeatureCache) else cache) for cache in list_caches(caches))


def list_caches(caches: Caches) -> Sequence[str | os.PathLike[str] | FeatureCache]:
    """One cache or several as a list. Raises NotACacheError for none."""
    if isinstance(caches, (str, os.PathLike, FeatureCache)):
        return [caches]
    if not caches:
        raise NotACacheError("no cache was given. Name one, or several of the same samples.")
    return caches
