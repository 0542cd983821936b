"""`LocalExtractor`: from images to features, on this machine."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from featcache._utils.in_flight import InFlightQueue
from featcache._utils.timing import PhaseTimer
from featcache.backbones.engines.base import PendingFeatures
from featcache.data.manifest import Manifest
from featcache.data.sample_loader import Inputs
from featcache.extraction.plan import ExtractionPlan, ExtractorInfo

ViewCounts = NDArray[np.integer[Any]]
"""Number of views of each row, shape (n,)."""


class Extracted(NamedTuple):
    """Features of a batch of images.

    Parameters
    ----------
    rows : ndarray, shape (b,), int64
    features : dict
        Layer to ndarray, shape (b, v, d): views first_view, first_view + 1, ...
    first_view : int
    on_device : ndarray, shape (b,), uint16
        Number of these views that a device made, not the CPU.
    """

    rows: NDArray[np.int64]
    features: dict[str, NDArray[np.float32]]
    first_view: int
    on_device: NDArray[np.uint16]


class Extractor(Protocol):
    """Computes features of the images of a manifest.

    Attributes
    ----------
    manifest : Manifest
    skipped : dict
        Row to reason, for images that could not be read.
    remarks : dict
        Row to remark, for images that are unusual.
    """

    manifest: Manifest
    skipped: dict[int, str]
    remarks: dict[int, str]

    @property
    def info(self) -> ExtractorInfo:
        """What it computes, and where. Complete after `prepare`."""

    def prepare(self, expected_views: ViewCounts) -> None:
        """Prepare for this number of views of each row."""

    def extract(self, expected_views: ViewCounts, views_done: ViewCounts) -> Iterator[Extracted]:
        """The views that are expected and not done. Raises RemoteIOError where a connection is lost."""

    def close(self) -> None:
        """Release threads and workers."""


class LocalExtractor:
    """Extracts on this machine; see `Extractor`."""

    def __init__(self, manifest: Manifest, plan: ExtractionPlan, timer: PhaseTimer | None = None) -> None:
        self.manifest, self._plan = manifest, plan
        self._timer = timer or PhaseTimer()
        self._loader = plan.open_loader(manifest, self._timer)
        self.skipped, self.remarks = self._loader.skipped, self._loader.remarks

    @property
    def info(self) -> ExtractorInfo:
        """See `Extractor`."""
        return self._plan.info()

    def prepare(self, expected_views: ViewCounts) -> None:
        """See `Extractor`. Threads decode images while the network is converted."""
        for rows, views in islice(group_by_views(expected_views, np.zeros_like(expected_views)), 1):
            self._loader.start(rows, views)
        if not self._plan.engine_selected:
            with self._timer.phase("convert"):
                self._plan = self._plan.select_engine(int(expected_views.sum()))
        if self._plan.makes_views_on_device:
            with self._timer.phase("convert"):
                self._plan.prepare()

    def extract(self, expected_views: ViewCounts, views_done: ViewCounts) -> Iterator[Extracted]:
        """See `Extractor`. When features are yielded, the network already has more pixels."""
        backbone, batch_size = self._plan.backbone, self._plan.batch_size
        queue: InFlightQueue[tuple[NDArray[np.int64], PendingFeatures, int, NDArray[np.bool_]]]
        queue = InFlightQueue(backbone.max_in_flight)
        for rows, views in group_by_views(expected_views, views_done):
            for batch in self._loader.batches(rows, views, max(1, batch_size // len(views))):
                with self._timer.phase("forward"):
                    features = backbone.submit(batch.inputs)
                queue.add((batch.rows, features, views[0], _on_device(batch.inputs)), len(batch.inputs))
                del batch  # with the decoded images of its views
                for started in queue.due():
                    yield self._collect(*started)
        for started in queue.drain():
            yield self._collect(*started)

    def close(self) -> None:
        """See `Extractor`. Images that were begun and are not needed are not decoded."""
        self._loader.close()

    def _collect(
        self, rows: NDArray[np.int64], features: PendingFeatures, first_view: int, on_device: NDArray[np.bool_]
    ) -> Extracted:
        """Wait for the features of a batch. on_device : see `DeviceInputs`."""
        with self._timer.phase("forward"):
            flat = dict(zip(self._plan.backbone.layers, features(), strict=True))
        b = len(rows)
        views = {layer: values.reshape(b, len(values) // b, -1) for layer, values in flat.items()}
        return Extracted(rows, views, first_view, on_device.reshape(b, -1).sum(axis=1, dtype=np.uint16))


def _on_device(inputs: Inputs) -> NDArray[np.bool_]:
    """See `DeviceInputs`. An array was made by the CPU."""
    return np.zeros(len(inputs), np.bool_) if isinstance(inputs, np.ndarray) else inputs.on_device


def group_by_views(expected_views: ViewCounts, views_done: ViewCounts) -> Iterator[tuple[NDArray[np.int64], range]]:
    """The rows that lack views, in groups that lack the same ones."""
    rows = np.flatnonzero(views_done < expected_views)
    missing = np.stack([views_done[rows], expected_views[rows]], axis=1)
    for first, last in np.unique(missing, axis=0)[::-1].tolist():
        yield rows[np.all(missing == (first, last), axis=1)], range(first, last)
