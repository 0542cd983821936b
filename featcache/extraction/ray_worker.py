"""`ExtractionWorker`: extracts blocks of images on a node of a cluster. It does not import Ray."""

from __future__ import annotations

import platform
from collections.abc import Iterator
from contextlib import closing
from threading import Lock
from time import monotonic
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from featcache._utils.determinism import deterministic_algorithms
from featcache._utils.environment import keep_freed_memory
from featcache.data.manifest import Manifest
from featcache.errors import BackboneError, ClusterError
from featcache.extraction.extractor import Extracted, LocalExtractor, ViewCounts
from featcache.extraction.plan import ExtractorInfo
from featcache.extraction.request import ExtractionRequest

_CHUNK_S = 1.0  # of work in one message: a message costs the driver a millisecond, and is lost with its worker


class BlockReport(NamedTuple):
    """The last message on a block: row to reason of unreadable images, and row to remark of unusual ones."""

    skipped: dict[int, str]
    remarks: dict[int, str]


class ProbeImage(NamedTuple):
    """An image that the driver has read, to check that a worker reads the same.

    Parameters
    ----------
    manifest : Manifest
        Of this image alone.
    content : bytes
    """

    manifest: Manifest
    content: bytes


class ExtractionWorker:
    """Holds the network. Decodes one block of images while it computes another."""

    def __init__(self) -> None:
        keep_freed_memory()
        self._network_lock = Lock()

    def warm_up(self, request: ExtractionRequest, views: int, probe: ProbeImage | None) -> ExtractorInfo:
        """Load the network and convert it to its engine.

        Parameters
        ----------
        request : ExtractionRequest
        views : int
            Expected number of views on this worker.
        probe : ProbeImage or None

        Raises
        ------
        BackboneError
        ClusterError
            This node does not read the same images as the driver.
        """
        if probe:
            _check_same_image(probe)
        with deterministic_algorithms(request.options["deterministic"], BackboneError):
            self._plan = request.load().select_engine(views)
            self._plan.run_once()  # the first block is timed
            return self._plan.info()

    def extract(
        self, manifest: Manifest, expected_views: ViewCounts, views_done: ViewCounts
    ) -> Iterator[Extracted | BlockReport]:
        """Yield the features of all images of a manifest in chunks, in the storage type, and then a BlockReport.

        Parameters
        ----------
        expected_views, views_done : ndarray, shape (n,)
            Equal for all images.
        """
        with closing(LocalExtractor(manifest, self._plan)) as extractor:
            extractor.prepare(expected_views)  # decodes while the network computes the block before
            is_deterministic = bool(self._plan.runtime.get("deterministic"))
            with self._network_lock, deterministic_algorithms(is_deterministic, BackboneError):
                yield from self._chunks(extractor, expected_views, views_done)
                yield BlockReport(extractor.skipped, extractor.remarks)

    def _chunks(
        self, extractor: LocalExtractor, expected_views: ViewCounts, views_done: ViewCounts
    ) -> Iterator[Extracted]:
        """Batches joined to chunks of about `_CHUNK_S` seconds."""
        batches: list[Extracted] = []
        started = monotonic()
        for batch in extractor.extract(expected_views, views_done):
            batches.append(batch)
            if monotonic() - started >= _CHUNK_S:
                yield self._concatenate(batches)
                batches, started = [], monotonic()
        if batches:
            yield self._concatenate(batches)

    def _concatenate(self, batches: list[Extracted]) -> Extracted:
        """One chunk, in the storage type: float16 halves what is sent."""
        rows = np.concatenate([batch.rows for batch in batches])
        with np.errstate(over="ignore"):
            features: dict[str, NDArray[Any]] = {
                layer: np.concatenate([batch.features[layer] for batch in batches]).astype(self._plan.spec.dtype)
                for layer in batches[0].features
            }
        on_device = np.concatenate([batch.on_device for batch in batches])
        return Extracted(rows, features, batches[0].first_view, on_device)


def _check_same_image(probe: ProbeImage) -> None:
    """Raise ClusterError where this node does not read the bytes that the driver reads."""
    manifest, host = probe.manifest, platform.node()
    path = manifest.where(manifest.samples.ids[0])
    try:
        content = manifest.read(0)
    except OSError as error:
        raise ClusterError(
            f"{host} cannot read {path}: {error.strerror or error}. Put the data where all machines see it under "
            "one path, or give it by URL."
        ) from error
    if content != probe.content:
        raise ClusterError(f"{host} sees another file as {path} than this machine does.")
