"""`LocalExtractor`: from images to features, on this machine."""

from __future__ import annotations

import platform
import time
from collections import deque
from collections.abc import Iterator
from itertools import islice
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from featcache._utils.environment import package_versions
from featcache._utils.timing import PhaseTimer
from featcache.backbones.encoder import Encoder
from featcache.backbones.engines.base import EngineName, PendingFeatures
from featcache.core.specs import MAX_PIXELS, ExtractSpec
from featcache.data.manifest import Manifest
from featcache.data.sample_loader import Batch, SampleLoader
from featcache.vision.loader import ViewLoader

Views = NDArray[np.integer[Any]]
"""How many views each row has or shall have, shape (n,)."""


class Extracted(NamedTuple):
    """Features of some images.

    rows : shape (b,), int64. features : of each layer (b, v, d), float32: views first_view, first_view + 1, ...
    """

    rows: NDArray[np.int64]
    features: dict[str, NDArray[np.float32]]
    first_view: int


class Listed(NamedTuple):
    """Rows that could not be read, with the reason, and rows that are odd, with what is odd about them."""

    skipped: dict[int, str]
    remarks: dict[int, str]


class Extractor(Protocol):
    """Makes features of the images of a manifest.

    spec : all that decides a feature. dims : width d of each layer. skipped : row -> reason, of the images that could
    not be read. remarks : row -> what is odd about an image. device_name, precision, note : see `Backbone`.
    """

    spec: ExtractSpec
    dims: dict[str, int]
    skipped: dict[int, str]
    remarks: dict[int, str]

    @property
    def device_name(self) -> str: ...
    @property
    def precision(self) -> str: ...
    @property
    def note(self) -> str: ...

    def begin(self, wanted: Views) -> None:
        """Prepare for so many views of each row."""

    def describe(self) -> dict[str, Any]:
        """Where, when and with what features are made: shown, not compared. Complete after `begin`."""

    def extract(self, wanted: Views, done: Views) -> Iterator[Extracted]:
        """The views that are wanted and not done. Raises RemoteIOError where a connection is lost."""

    def close(self) -> None:
        """Give back what it holds."""


class LocalExtractor:
    """On this machine; see `Extractor`.

    Parameters
    ----------
    engine, like : see `Backbone.select_engine`; engine None leaves the backbone as it is.
    batch_size : views in one forward pass.
    workers, max_pixels, watch : see `ViewLoader`.
    """

    def __init__(
        self,
        manifest: Manifest,
        backbone: Encoder,
        spec: ExtractSpec,
        *,
        engine: EngineName | None = "auto",
        like: str = "",
        batch_size: int | None = None,
        workers: int | None = None,
        max_pixels: int = MAX_PIXELS,
        watch: PhaseTimer | None = None,
    ) -> None:
        self.spec, self.dims = spec, dict(backbone.dims)
        self._backbone, self._engine, self._like, self._batch_size = backbone, engine, like, batch_size
        self._watch = watch or PhaseTimer()
        self._loader: SampleLoader = ViewLoader(
            manifest, spec.view, workers=workers, max_pixels=max_pixels, watch=self._watch
        )
        self.skipped, self.remarks = self._loader.skipped, self._loader.remarks

    @property
    def device_name(self) -> str:
        """See `Backbone`."""
        return self._backbone.device_name

    @property
    def precision(self) -> str:
        """See `Backbone`."""
        return self._backbone.precision

    @property
    def note(self) -> str:
        """See `Backbone`."""
        return self._backbone.note

    def begin(self, wanted: Views) -> None:
        """See `Extractor`. Images are decoded while the network is converted."""
        for rows, numbers in islice(like_each_other(wanted, np.zeros_like(wanted)), 1):
            self._loader.start(rows, numbers)
        if self._engine:
            with self._watch.phase("convert"):
                self._backbone.select_engine(self.spec.view.image_size, self._engine, int(wanted.sum()), self._like)

    def describe(self) -> dict[str, Any]:
        """See `Extractor`."""
        return describe(self._backbone)

    def extract(self, wanted: Views, done: Views) -> Iterator[Extracted]:
        """See `Extractor`. The network has more to do already when features come."""
        under_way: deque[tuple[Batch, PendingFeatures, int]] = deque()
        backbone = self._backbone
        batch_size = self._batch_size or backbone.batch_size
        max_in_flight = backbone.max_in_flight
        for rows, numbers in like_each_other(wanted, done):
            for batch in self._loader.batches(rows, numbers, max(1, batch_size // len(numbers))):
                with self._watch.phase("forward"):
                    features = backbone.submit(batch.inputs)
                under_way.append((batch, features, numbers[0]))
                while under_way and sum(len(later.inputs) for later, *_ in islice(under_way, 1, None)) >= max_in_flight:
                    yield self._taken(*under_way.popleft())
        while under_way:
            yield self._taken(*under_way.popleft())

    def close(self) -> None:
        """See `Extractor`. What was begun and is not needed is not decoded."""
        self._loader.close()

    def _taken(self, batch: Batch, features: PendingFeatures, first_view: int) -> Extracted:
        with self._watch.phase("forward"):
            flat = dict(zip(self._backbone.layers, features(), strict=True))
        b = len(batch.rows)
        views = {layer: values.reshape(b, len(values) // b, -1) for layer, values in flat.items()}
        return Extracted(batch.rows, views, first_view)


def describe(backbone: Encoder) -> dict[str, Any]:
    """Where, when and with what features are made."""
    return {
        "weights": backbone.weights,
        "device": backbone.device_name,
        "engine": backbone.engine,
        "versions": package_versions(),
        "host": platform.node(),
        "date": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
    }


def like_each_other(wanted: Views, done: Views) -> Iterator[tuple[NDArray[np.int64], range]]:
    """The rows that lack views, in groups that lack the same ones."""
    rows = np.flatnonzero(done < wanted)
    lacks = np.stack([done[rows], wanted[rows]], axis=1)
    for first, last in np.unique(lacks, axis=0)[::-1].tolist():
        yield rows[np.all(lacks == (first, last), axis=1)], range(first, last)
