"""`ExtractionWorker`: what extracts on a machine of a cluster. It knows nothing of what brings it there."""

from __future__ import annotations

import platform
from collections.abc import Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass
from threading import Lock
from time import monotonic
from typing import Any

import numpy as np
from numpy.typing import NDArray

from featcache._utils.environment import keep_freed_memory
from featcache.backbones.backbone import Backbone
from featcache.backbones.engines.base import EngineName
from featcache.backbones.load import load_backbone
from featcache.core.specs import MAX_PIXELS, ExtractSpec
from featcache.data.manifest import Manifest
from featcache.errors import ClusterError
from featcache.extraction.extractor import Extracted, Listed, LocalExtractor, Views, describe

_PIECE_S = 1.0  # of work that travels at once: each piece costs the driver a millisecond, and may be lost


@dataclass(frozen=True)
class WorkerConfig:
    """What every machine is asked for.

    backbone : a Backbone, or the arguments of `load_backbone`. spec : those of `Backbone.extract_spec`.
    The others : as in `LocalExtractor`.
    """

    backbone: Backbone | Mapping[str, Any]
    spec: Mapping[str, Any]
    engine: EngineName = "auto"
    batch_size: int | None = None
    workers: int | None = None
    max_pixels: int = MAX_PIXELS
    like: str = ""


@dataclass(frozen=True)
class WorkerInfo:
    """What a machine would do: its spec must be that of the others.

    host : its name. provenance : see `Extractor.describe`; the others : see `Extractor`.
    """

    host: str
    spec: ExtractSpec
    dims: dict[str, int]
    provenance: dict[str, Any]
    device_name: str
    precision: str
    note: str


class ExtractionWorker:
    """Has the network, and is given blocks of images: one is decoded while another is computed."""

    def __init__(self) -> None:
        keep_freed_memory()
        self._turn = Lock()  # at the network

    def prepare(self, order: WorkerConfig, views: int, known: tuple[Manifest, bytes] | None) -> WorkerInfo:
        """Load the network and make it fast.

        Parameters
        ----------
        views : how many this machine will probably make. known : an image, alone in a manifest, and its bytes:
            this machine must see it, too.

        Raises
        ------
        BackboneError. ClusterError : the images are not to be seen from here.
        """
        host = platform.node()
        if known:
            _look(*known, host)
        self._order = order
        given = order.backbone
        self._backbone = given if isinstance(given, Backbone) else load_backbone(**given, lazy=True)
        self._spec = self._backbone.extract_spec(**order.spec)
        if not isinstance(given, Backbone):
            self._backbone.select_engine(self._spec.view.image_size, order.engine, views, order.like)
        self._rehearse()
        one = self._backbone
        return WorkerInfo(host, self._spec, one.dims, describe(one), one.device_name, one.precision, one.note)

    def _rehearse(self) -> None:
        """Load now what is loaded when it is first needed: the first block is timed, and others may be under way."""
        from featcache.vision.augment import make_views  # needs PyTorch

        side = self._spec.view.image_size
        self._backbone.embed(make_views(np.zeros((side, side, 3), np.uint8), self._spec.view, b"", (0, 1)))

    def extract(self, manifest: Manifest, wanted: Views, done: Views) -> Iterator[Extracted | Listed]:
        """Features of all images of a manifest, in pieces, as they are stored; at last those that are skipped or odd.

        wanted, done : shape (n,), each the same for all images.
        """
        order = self._order
        extractor = LocalExtractor(
            manifest,
            self._backbone,
            self._spec,
            engine=None,
            batch_size=order.batch_size,
            workers=order.workers,
            max_pixels=order.max_pixels,
        )
        with closing(extractor):
            extractor.begin(wanted)  # decodes while the network is busy with the block before
            with self._turn:
                yield from self._pieces(extractor, wanted, done)
                yield Listed(extractor.skipped, extractor.remarks)

    def _pieces(self, extractor: LocalExtractor, wanted: Views, done: Views) -> Iterator[Extracted]:
        pieces: list[Extracted] = []
        started = monotonic()
        for piece in extractor.extract(wanted, done):
            pieces.append(piece)
            if monotonic() - started >= _PIECE_S:
                yield self._joined(pieces)
                pieces, started = [], monotonic()
        if pieces:
            yield self._joined(pieces)

    def _joined(self, pieces: list[Extracted]) -> Extracted:
        """One piece, in the numbers that are stored: half of what would travel."""
        rows = np.concatenate([one.rows for one in pieces])
        with np.errstate(over="ignore"):
            features: dict[str, NDArray[Any]] = {
                layer: np.concatenate([one.features[layer] for one in pieces]).astype(self._spec.dtype)
                for layer in pieces[0].features
            }
        return Extracted(rows, features, pieces[0].first_view)


def _look(manifest: Manifest, content: bytes, host: str) -> None:
    try:
        found = manifest.read(0)
    except OSError as error:
        raise ClusterError(
            f"{host} cannot read {manifest.where(manifest.samples.ids[0])}: {error.strerror or error}. Put the images "
            "where all machines see them under one path, or give them by URL."
        ) from error
    if found != content:
        raise ClusterError(
            f"{host} sees another file as {manifest.where(manifest.samples.ids[0])} than this machine does."
        )
