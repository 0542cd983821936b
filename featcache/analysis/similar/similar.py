"""`similar`: the samples of a cache that are the most similar to given images or texts. All of them are compared."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from featcache._utils.progress_bar import ProgressOption, as_callback
from featcache._utils.timing import PhaseTimer
from featcache.analysis.similar.result import Neighbor, Query, SimilarSamples
from featcache.cache.cached_data import CachedData
from featcache.cache.feature_cache import FeatureCache
from featcache.cache.nearest import nearest_rows
from featcache.cache.rows import ALL, iter_features, select_splits
from featcache.core.rng import content_words
from featcache.core.samples import SPLITS, Samples, format_labels
from featcache.core.specs import PENULTIMATE, is_arrays
from featcache.data.modality import IMAGES
from featcache.errors import DataLayoutError
from featcache.extraction.request import load_cache_backbone
from featcache.models.inputs.registry import inputs_of
from featcache.models.sample_stream import ReadSample, stream_samples

if TYPE_CHECKING:
    from torch import nn

    from featcache.backbones.backbone import Backbone
    from featcache.backbones.text_encoder import TextEncoder

_MOST_PICTURES = 24  # queries whose clean view is kept for a figure


class _Read(NamedTuple):
    """A query, the hash of its bytes, and its features of each layer; these are empty if it could not be read."""

    query: Query
    sha256: bytes = b""
    features: Sequence[NDArray[np.float32]] = ()


def similar(
    cache: str | os.PathLike[str] | FeatureCache,
    samples: Any,
    data: str | os.PathLike[str] | None = None,
    *,
    n: int = 5,
    split: str = ALL,
    layer: str = PENULTIMATE,
    text_column: str | None = None,
    weights: str | None = None,
    backbone: Backbone | TextEncoder | nn.Module | None = None,
    device: str = "auto",
    progress: ProgressOption = None,
) -> SimilarSamples:
    """Find the samples of a cache that are the most similar to given images or texts.

    The queries run through the network of the cache, with its preprocessing and precision. Their features are compared
    with the clean features of all samples, by the cosine in float32, a block of rows at a time. So the result is exact,
    and the cache may be larger than memory. Samples with the bytes of a query are left out of its neighbors.

    Parameters
    ----------
    cache : path or FeatureCache
        The cache.
    samples : one or several images or texts
        As of `Classifier.predict`. For a cache that was made from arrays: features, shape (q, d) or (d,).
    data : path, optional
        The texts that the cache was made from. The neighbors then get the beginnings of their texts.
    n : int, default 5
        How many neighbors each query gets.
    split : {"all", "train", "val", "test", "unlabeled"}, default "all"
        Whose samples can be neighbors.
    layer : str, default "penultimate"
        One layer, several joined by commas, or a set; see `featcache.core.layer_names`. The similarity of several
        layers is the mean of their cosines.
    text_column : str, optional
        The column of the texts in a table of queries. Default: `text`.
    weights : str, optional
        Where the weights of the network are now, if they were moved.
    backbone : Backbone, TextEncoder or torch.nn.Module, optional
        The network that made the cache, if it cannot be loaded by its name.
    device : str, default "auto"
        Where the network runs.
    progress : callable, bool or None
        Called as progress("compare", rows, all rows). True shows a bar.

    Returns
    -------
    SimilarSamples
        Its `queries` have the neighbors. An unreadable query has an error.

    Raises
    ------
    CacheMismatchError
        The weights of the network are not those of the cache.
    CacheError
        The cache cannot be read, or lacks the layer or samples of the split.
    BackboneError
        The network or its weights cannot be loaded.
    DataLayoutError
        An object is no sample of the cache's modality.

    Examples
    --------
    >>> import featcache
    >>> extraction = featcache.extract("photos", "cache.h5", backbone="timm/test_resnet", weights="none", views=0)
    >>> result = featcache.similar("cache.h5", "photos/ants/000.png", n=3)
    >>> result.queries[0].left_out, len(result.queries[0].neighbors)
    (('ants/000.png',), 3)
    """
    timer = PhaseTimer()
    if n < 1:
        raise DataLayoutError(f"n is {n}; each query needs 1 neighbor or more.")
    cache = FeatureCache.open(cache)
    layers, splits = cache.layers(layer), select_splits(cache, split)
    texts = None if data is None or is_arrays(cache.spec.backbone) else CachedData(cache, data)
    texts = texts if texts and texts.source.modality.start else None
    if is_arrays(cache.spec.backbone):
        read = list(_read_arrays(cache, samples))
    else:
        read = list(_read_samples(cache, samples, layers, text_column, weights, backbone, device))
    readable = [one for one in read if one.sha256]
    x = [np.stack([one.features[number] for one in readable]) for number in range(len(layers))] if readable else []
    if is_arrays(cache.spec.backbone):
        left_out = _equal_rows(cache, [one.features[0] for one in readable])
    else:
        left_out = _same_content(cache.samples, [one.sha256 for one in readable])
    queries = [one.query for one in read]
    compared = 0
    if readable:
        nearest = nearest_rows(cache, x, n, splits, layer, left_out, as_callback(progress))
        compared = nearest.compared
        found = iter(zip(nearest.row, nearest.cosine, left_out, strict=True))
        queries = [_with_neighbors(cache, one.query, *next(found), texts) if one.sha256 else one.query for one in read]
    return SimilarSamples(
        cache=cache.path,
        split=split,
        layer=layer,
        compared=compared,
        queries=tuple(queries),
        modality=cache.spec.modality,
        changed=texts.changed if texts else {},
        seconds=timer.seconds()["wall"],
    )


def _same_content(samples: Samples, hashes: Sequence[bytes]) -> list[NDArray[np.int64]]:
    """For each hash the rows with these bytes, and the copies of these rows, see `Samples.contents`."""
    words = content_words(np.frombuffer(b"".join(hashes), np.uint8).reshape(-1, 32)).tolist()
    own, contents = content_words(samples.sha256), content_words(samples.contents)
    inside = np.isin(own, words)
    content_of = dict(zip(own[inside].tolist(), contents[inside].tolist(), strict=True))
    rows_of: dict[int, list[int]] = defaultdict(list)
    for row in np.flatnonzero(np.isin(contents, list(content_of.values()))).tolist():
        rows_of[int(contents[row])].append(row)
    return [np.array(rows_of[content_of[word]] if word in content_of else [], np.int64) for word in words]


def _with_neighbors(
    cache: FeatureCache,
    query: Query,
    rows: NDArray[np.int64],
    cosine: NDArray[np.float32],
    left_out: NDArray[np.int64],
    texts: CachedData | None,
) -> Query:
    """The query with its neighbors; rows : -1 for none."""
    samples, rows = cache.samples, rows[rows >= 0]
    labels = format_labels(samples.labels[rows], samples.classes)
    neighbors = [
        Neighbor(
            samples.ids[row],
            label,
            SPLITS[samples.split[row]],
            float(np.clip(value, -1, 1)),
            texts.start(samples.ids[row]) if texts else None,
        )
        for row, label, value in zip(rows.tolist(), labels, cosine, strict=False)
    ]
    return replace(query, neighbors=tuple(neighbors), left_out=tuple(samples.ids[row] for row in left_out))


def _read_samples(
    cache: FeatureCache, samples: Any, layers: tuple[str, ...], text_column: str | None, weights: str | None,
    backbone: Any, device: str,
) -> Iterator[_Read]:  # fmt: skip
    """The features of images or texts, by the network of the cache."""
    spec = cache.spec
    encoder = load_cache_backbone(cache, weights, device, backbone)
    if backbone is None:
        engine = str(cache.provenance.get("engine", ""))
        encoder.select_engine(spec.view.input_size, engine="auto", views=0, like=engine)
    numbers, is_image = [encoder.layers.index(layer) for layer in layers], spec.modality == IMAGES.name
    inputs, shown = inputs_of(spec), 0

    def finish(batch: list[ReadSample], features: list[NDArray[np.float32]] | None) -> list[_Read]:
        nonlocal shown
        read, row = [], 0
        for path, result in batch:
            if isinstance(result, OSError):
                read.append(_Read(Query(path, error=result.strerror or str(result))))
            elif features is not None:
                picture = np.asarray(result.views)[0] if is_image and shown < _MOST_PICTURES else None
                query = Query(path, text=result.text, picture=picture)
                read.append(_Read(query, result.sha256, [features[number][row] for number in numbers]))
                row, shown = row + 1, shown + 1
        return read

    return stream_samples(
        inputs.each(samples, text_column),
        inputs.prepare_for(encoder),
        encoder.submit,
        finish,
        encoder,
        name=inputs.modality.name,
    )


def _read_arrays(cache: FeatureCache, samples: Any) -> Iterator[_Read]:
    """Features of the user."""
    x, (width,) = np.asarray(samples), cache.dims.values()
    x = x[None] if x.ndim == 1 else x
    if x.ndim != 2 or x.shape[1] != width or x.dtype.kind not in "fiu":
        raise DataLayoutError(
            f"{cache.path} was made from arrays: give features of shape (q, {width}), not of shape {np.shape(samples)} "
            f"and type {x.dtype}."
        )
    if not np.isfinite(x).all():
        raise DataLayoutError(f"row {np.flatnonzero(~np.isfinite(x).all(axis=1))[0]} has features that are not finite.")
    for number, row in enumerate(x):
        yield _Read(Query(f"row {number}"), row.tobytes(), [row.astype(np.float32)])


def _equal_rows(cache: FeatureCache, vectors: Sequence[NDArray[np.float32]]) -> list[NDArray[np.int64]]:
    """The rows of a cache of arrays whose clean view is a vector as it is stored, for each vector."""
    found: list[list[NDArray[np.int64]]] = [[] for _ in vectors]
    stored = [vector.astype(cache.spec.dtype) for vector in vectors]
    for split in select_splits(cache, ALL):
        for rows, features in iter_features(cache, split, PENULTIMATE, 1):
            clean = np.asarray(features.lazy_view(0)).astype(cache.spec.dtype)
            readable = rows[cache.done[rows] > 0]
            for equal, vector in zip(found, stored, strict=True):
                equal.append(readable[np.all(clean == vector, axis=1)])
    return [np.concatenate([np.zeros(0, np.int64), *equal]) for equal in found]
