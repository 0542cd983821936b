"""`estimate`: what an extraction will cost, measured on a few of its images."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Unpack

import numpy as np
from numpy.typing import NDArray

from featcache._utils.determinism import deterministic_on_request
from featcache._utils.formatting import human_bytes, human_duration, plural
from featcache._utils.in_flight import InFlightQueue
from featcache._utils.monitor import Monitor
from featcache._utils.progress_bar import ProgressOption
from featcache._utils.results import NotebookResult, Result, as_records
from featcache.backbones.encoder import Encoder
from featcache.backbones.engines.base import EAGER_BATCHES, PendingFeatures
from featcache.cache.feature_cache import FeatureCache
from featcache.cache.format.layout import expected_views, size_needed
from featcache.cache.mismatch import check_spec
from featcache.cache.paths import partial_path
from featcache.cache.reuse import match_rows
from featcache.core.options import ExtractArguments, manifest_keywords, takes_options
from featcache.core.specs import ExtractSpec
from featcache.data.input_notes import input_notes, remark_notes
from featcache.data.manifest import Manifest, read_manifest
from featcache.errors import BackboneError
from featcache.extraction.pipelines.registry import check_backbone
from featcache.extraction.plan import ExtractionPlan
from featcache.extraction.request import ExtractionRequest
from featcache.extraction.results import with_ids

if TYPE_CHECKING:
    from featcache.data.sample_loader import Inputs

_MEASURED_VIEWS, _MIN_BATCHES, _MAX_BATCH = 96, 3, 256  # at least; batches are of at most 256 views

_WARM_UP_S = 5.0  # at most, after the first batch


@dataclass(frozen=True, repr=False)
class Estimate(Result, NotebookResult):
    """Result of `estimate`: the work of an extraction and its cost.

    Attributes
    ----------
    images, views : int
        Images and views to run through the network.
    seconds : float
        Time for them, from `measured` views: reading, decoding and the network; without imports and without the
        conversion to another engine.
    measured : int
        Views that were measured.
    size_bytes : int
        Size of the finished cache.
    free_bytes : int
        Free space on its disk.
    note : str
        A note for the user on the network's engine; empty if there is none.
    ignored : dict
        Reason to number of files that are not images.
    conflicts : list of (str, str)
        Images with equal bytes and different labels.
    skipped, remarks : list of (str, str)
        Of the measured images: image and why it cannot be read; image and what is unusual about it.
    modality : str
        What the samples are, "image" or "text".
    """

    images: int
    views: int
    seconds: float
    measured: int
    size_bytes: int
    free_bytes: int
    note: str = ""
    ignored: dict[str, int] = field(default_factory=dict)
    conflicts: list[tuple[str, str]] = field(default_factory=list)
    skipped: list[tuple[str, str]] = field(default_factory=list)
    remarks: list[tuple[str, str]] = field(default_factory=list)
    modality: str = "image"

    def __str__(self) -> str:
        """Text for the terminal."""
        shortage = "" if self.size_bytes <= self.free_bytes else ": TOO LITTLE"
        lines = [
            f"{plural(self.images, self.modality)}, {self.views} views: about {human_duration(self.seconds)} "
            f"(measured on {self.measured} views)",
            f"{human_bytes(self.size_bytes)} on a disk with {human_bytes(self.free_bytes)} free{shortage}",
        ]
        lines += [self.note] if self.note else []
        modality = self.modality
        of_measured = [*input_notes({}, [], self.skipped, modality), *remark_notes(self.remarks, modality=modality)]
        lines += [
            *input_notes(self.ignored, self.conflicts, [], modality),
            *(f"measured {self.modality}s: {note}" for note in of_measured),
        ]
        return "\n".join(lines)

    def _json_fields(self) -> dict[str, Any]:
        fields = super()._json_fields()
        fields |= {
            "skipped": as_records(self.skipped, "path", "reason"),
            "remarks": as_records(self.remarks, "path", "remark"),
        }
        return {"estimated_s": fields.pop("seconds"), **fields}


@takes_options(ExtractArguments)
@deterministic_on_request(BackboneError)
def estimate(
    data: str | os.PathLike[str] | Manifest,
    out: str | os.PathLike[str],
    *,
    backbone: str | Encoder | None = None,
    progress: ProgressOption = None,
    on_note: Callable[[str], None] | None = None,
    **options: Unpack[ExtractArguments],
) -> Estimate:
    """Estimate the time and the size of `extract` with these arguments, without what `out` already holds.

    Nothing is written.

    Parameters
    ----------
    data : str, path or Manifest
        Labelled images, see `read_manifest`.
    out : str or path
        The cache that would be written.
    backbone : str, Backbone, TextEncoder or None, default None
        The frozen network, see `extract`.
    progress : callable, bool or None, default None
        Called as progress(step, done, total); True shows a bar.
    on_note : callable or None, default None
        Called with one line of text: how the data was read, and the range of pixel values.
    {options}

    Returns
    -------
    Estimate

    Raises
    ------
    ImageError
        The folder or the manifest is not valid.
    BackboneError
        The network or its weights cannot be loaded.
    CacheMismatchError
        `out` holds features of other settings or other images.

    Examples
    --------
    >>> import featcache
    >>> cost = featcache.estimate("photos", "cache.h5", backbone="timm/test_resnet", weights="none", views=4)
    >>> cost.images, cost.views
    (16, 64)
    """
    monitor, out = Monitor(progress, on_note), Path(out)
    check_backbone(backbone)
    manifest = read_manifest(data, **manifest_keywords(options), progress=monitor.progress)
    monitor.note(str(manifest.summary()))
    plan = ExtractionRequest.for_data(manifest, out, backbone, options, monitor).load()
    missing = _missing_views(out, plan.spec, manifest)
    cost = measure(out, manifest, plan.select_engine(int(missing.sum())), missing, monitor)
    return replace(cost, ignored=manifest.ignored, conflicts=manifest.conflicts())


def _missing_views(out: Path, spec: ExtractSpec, manifest: Manifest) -> NDArray[np.integer[Any]]:
    """Number of views of each row that `out`, or the unfinished cache of this name, lacks."""
    missing = expected_views(spec, manifest.samples)
    path = out if out.exists() else partial_path(out)
    if not path.exists():
        return missing
    cache = FeatureCache.open(path, partial=True)
    check_spec(path, cache.spec, spec, manifest.source.name)
    if cache.finished:
        cache.check_matches(spec, manifest.samples, manifest.source.name)
        return np.zeros_like(missing)
    return missing - match_rows(cache, manifest.samples, missing, np.empty(0, np.int64)).views


def measure(
    out: Path, manifest: Manifest, plan: ExtractionPlan, missing: NDArray[np.integer[Any]], monitor: Monitor
) -> Estimate:
    """Run a few images through the warm network, discard the features, and extrapolate by the median batch.

    Batches are under way as in `extract`, which reads and decodes while the network computes.

    Parameters
    ----------
    missing : ndarray, shape (n,)
        Number of views of each image to extract.
    """
    backbone = plan.backbone
    rows, views, devices = np.flatnonzero(missing), int(missing.sum()), len(backbone.devices)
    per_image = max(1, round(views / max(1, len(rows))))
    images_at_most = max(1, min(plan.batch_size, _MAX_BATCH) // per_image)
    ahead = -(-backbone.max_in_flight // (images_at_most * per_image))  # batches, which can be finished at once
    min_batches = 2 * ahead + _MIN_BATCHES if ahead else _MIN_BATCHES * devices
    images_per_batch = max(1, min(images_at_most, -(-len(rows) // min_batches)))
    n = min(len(rows), max(min_batches * images_per_batch, _MEASURED_VIEWS // per_image))
    chosen = rows[np.linspace(0, len(rows) - 1, n).astype(np.int64)]
    measured, times = 0, _FinishTimes(max(ahead, devices))
    queue: InFlightQueue[tuple[PendingFeatures, int]] = InFlightQueue(backbone.max_in_flight)

    def collect(features: PendingFeatures, size: int) -> None:
        nonlocal measured
        features()
        times.add(size)
        measured += size
        monitor.report("measure", measured, per_image * n)

    with closing(plan.open_loader(manifest)) as loader:
        for batch in loader.batches(chosen[:images_per_batch], range(per_image), images_per_batch):
            _warm_up(plan, batch.inputs, -(-len(rows) // images_per_batch))
        times.start()
        for batch in loader.batches(chosen, range(per_image), images_per_batch):
            queue.add((backbone.submit(batch.inputs), len(batch.inputs)), len(batch.inputs))
            for started in queue.due():
                collect(*started)
        times.end()
        for started in queue.drain():
            collect(*started)
    folder = next(path for path in (out.absolute().parent, *out.absolute().parents) if path.exists())
    return Estimate(
        images=len(rows),
        views=views,
        seconds=views * times.seconds_per_view(),
        measured=measured,
        size_bytes=size_needed(plan.spec, manifest.samples, dict(plan.backbone.dims)),
        free_bytes=shutil.disk_usage(folder).free,
        note=plan.note,
        skipped=with_ids(manifest.samples, loader.skipped),
        remarks=with_ids(manifest.samples, loader.remarks),
        modality=manifest.modality.name,
    )


def _warm_up(plan: ExtractionPlan, inputs: Inputs, batches: int) -> None:
    """Open the devices and prepare the network. On a GPU it runs until a CUDA graph computes, as most of the batches.

    A network for which this takes long gains little from a graph.
    """
    devices = plan.backbone.devices
    most = min(EAGER_BATCHES + 1, batches // len(devices)) if devices[0].startswith("cuda") else 1
    opened = None
    for _ in range(max(1, most)):
        for features in [plan.backbone.submit(inputs) for _ in devices]:
            features()
        opened = time.perf_counter() if opened is None else opened
        if time.perf_counter() - opened > _WARM_UP_S:
            return


class _FinishTimes:
    """When batches were finished while others were under way.

    Parameters
    ----------
    at_once : int
        Batches that can be finished at once.
    """

    def __init__(self, at_once: int) -> None:
        self._at_once = max(1, at_once)
        self._times: list[float] = []
        self._sizes: list[int] = []
        self._steady = 0

    def start(self) -> None:
        """The first batch is next."""
        self._times.append(time.perf_counter())

    def add(self, size: int) -> None:
        """A batch of this many views was finished."""
        self._times.append(time.perf_counter())
        self._sizes.append(size)

    def end(self) -> None:
        """No batch follows those under way, so the next ones are finished without the time to read new ones."""
        self._steady = len(self._sizes)

    def seconds_per_view(self) -> float:
        """The median over as many batches in turn as can be finished at once; of few batches, the mean."""
        times, sizes = np.array(self._times), np.array(self._sizes)
        first = 0 if self._steady == len(sizes) else 1  # the first batch fills the queue
        step = self._at_once
        if self._steady - first < step:
            return float((times[-1] - times[0]) / sizes.sum()) if len(sizes) else 0.0
        views = np.convolve(sizes[first : self._steady], np.ones(step, np.int64), "valid")
        seconds = times[first + step : self._steady + 1] - times[first : self._steady + 1 - step]
        return float(np.median(seconds / views))
