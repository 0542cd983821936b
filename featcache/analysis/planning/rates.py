"""`measure_rates`: how fast this machine does what an extraction and a fit consist of, each by itself."""

from __future__ import annotations

import hashlib
import os
import sys
import tempfile
import time
import tracemalloc
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple, Unpack

import numpy as np
from numpy.typing import NDArray

from featcache._utils.environment import usable_cores
from featcache._utils.formatting import printable
from featcache._utils.in_flight import InFlightQueue
from featcache._utils.monitor import Monitor
from featcache._utils.progress_bar import ProgressOption
from featcache.analysis.planning.capacity import Rates
from featcache.backbones.backbone import Backbone
from featcache.backbones.engines.base import PendingFeatures
from featcache.backbones.sources.registry import check_name
from featcache.cache.format.layout import size_needed, wanted_views
from featcache.cache.lazy_arrays import MAX_CACHED_BYTES, CenteredMatrix, LazyRows
from featcache.cache.writer import CacheWriter
from featcache.core.options import (
    DataOptions,
    DeviceOptions,
    EngineOptions,
    ExtractArguments,
    ExtractOptions,
    select,
    takes_options,
    with_defaults,
)
from featcache.core.samples import Samples
from featcache.core.specs import EMBEDDED, MAX_PIXELS, ExtractSpec
from featcache.data.file_listing import hash_all
from featcache.data.manifest import Manifest, read_manifest
from featcache.data.sources.tar import TarSource
from featcache.errors import EmptyFolderError, UnreadableImageError
from featcache.extraction.plan import ExtractionPlan, ExtractionRequest
from featcache.heads.solvers.softmax import CVSoftmaxProblem, loss_and_gradient
from featcache.vision.decode import decode
from featcache.vision.loader import read_image
from featcache.vision.value_range import describe_value_range, find_value_range

RAY_S = 1e-5
"""Seconds of the driver's thread an image, for what Ray does: up to 1e-5 (benchmarks/results/plan.json)."""

_READ, _VIEWS = 128, 16  # images, and views of each, at most
_WRITTEN, _DISTINCT, _LISTED = 4096, 512, 5000  # rows of a file; rows of a pass that differ; rows of a list
_NETWORK_S = 2.0  # of forward passes


class RateOptions(ExtractOptions, DataOptions, DeviceOptions, EngineOptions, total=False):
    """Options of an extraction that change how fast its steps are."""


@takes_options(RateOptions)
def measure_rates(
    data: str | os.PathLike[str],
    *,
    backbone: str | Backbone = EMBEDDED,
    cores: int | None = None,
    given: Mapping[str, float] | None = None,
    progress: ProgressOption = None,
    on_note: Callable[[str], None] | None = None,
    **options: Unpack[RateOptions],
) -> Rates:
    """Measure how fast this machine reads, decodes, computes, writes and fits, with a few images of `data`.

    The images are read twice; the second time they come from the disk cache of the operating system. Images of val
    that are also in train are accepted.

    Parameters
    ----------
    data : str or path
        Labelled images, see `read_manifest`. They stand for all images to come.
    backbone : str or Backbone, default 'efficientnet_lite0'
        The frozen network, see `extract`.
    cores : int or None, default None
        Cores of a worker. None: those that this process may use.
    given : mapping or None, default None
        Fields of `Rates` that are not measured. Where `forward_s` is given, it is that of a GPU.
    progress : callable, bool or None, default None
        Called as progress(step, done, total); True shows a bar.
    on_note : callable or None, default None
        Called with one line of text: how the data was read, and how many images could not be read.
    {options}

    Returns
    -------
    Rates

    Raises
    ------
    ImageError
        The folder or the manifest is not valid, or none of the images can be read.
    BackboneError
        The network or its weights cannot be loaded.

    Examples
    --------
    >>> import featcache
    >>> rates = featcache.measure_rates("photos")  # doctest: +SKIP
    >>> plan = featcache.plan_capacity(rates, images=[10**7], workers=[1, 8])  # doctest: +SKIP
    """
    monitor, given = Monitor(progress, on_note), given or {}
    check_name(backbone)
    manifest = read_manifest(data, **select(DataOptions, options), allow_leak=True, progress=monitor.progress)
    samples = manifest.samples
    monitor.note(str(manifest.summary()))
    if options["value_range"] is None:
        options["value_range"] = find_value_range(manifest)
    monitor.note(describe_value_range(options["value_range"]))
    plan = ExtractionRequest(backbone, with_defaults(ExtractArguments, options)).load()
    network, spec = plan.backbone, plan.spec
    per_image = float(wanted_views(spec, samples).mean())
    header_bytes = size_needed(spec, samples.take(np.arange(0)), network.dims)
    rows = np.unique(np.linspace(0, len(samples) - 1, _READ).astype(np.int64))
    seen = _see(manifest, rows, spec)
    if unread := len(rows) - len(seen.rows):
        monitor.note(f"{unread} of {len(rows)} images that were measured could not be read, for example {seen.unread}")
    tasks: dict[str, Callable[[], float]] = {
        "look_rate": lambda: _look_rate(manifest, seen),
        "forward_s": lambda: _forward_s(plan, seen.pixels),
        "driver_s": lambda: RAY_S + per_image * _write_s(spec, network.dims),
        "row_s": lambda: _row_s(sum(network.dims.values()), len(samples.classes)),
    }
    measured = dict(given)
    for step, (name, task) in enumerate(tasks.items()):
        monitor.report("measure", step, len(tasks))
        if name not in given:
            measured[name] = task()
    monitor.report("measure", len(tasks), len(tasks))
    return Rates(
        image_bytes=seen.bytes,
        views=per_image,
        decode_s=seen.decode_s,
        view_s=seen.view_s,
        cores=cores or usable_cores(),
        on_gpu=network.device != "cpu" or "forward_s" in given,
        cache_bytes=(size_needed(spec, samples, network.dims) - header_bytes) / len(samples),
        memory_bytes=_memory(samples),
        given=(*given, *(["cores"] if cores not in (None, usable_cores()) else [])),
        **measured,
    )


class _Seen(NamedTuple):
    """Of some images: those that could be read; bytes of a file, core-seconds of decoding one and of making a view;
    views, (v, s, s, 3); an image that could not be read, and why.
    """

    rows: NDArray[np.int64]
    bytes: float
    decode_s: float
    view_s: float
    pixels: NDArray[np.uint8]
    unread: str = ""


def _see(manifest: Manifest, rows: NDArray[np.int64], spec: ExtractSpec) -> _Seen:
    """Raises EmptyFolderError where none can be read."""
    from featcache.vision.augment import make_views  # needs PyTorch

    read, sizes, decoding, viewing, pixels = [], [], [], [], []
    numbers, reason, unread = range(1 + min(spec.views, _VIEWS)), "", ""
    for row in rows.tolist():
        expected = manifest.samples.sha256[row].tobytes()
        try:
            content = read_image(manifest, row, expected)
            started = time.perf_counter()
            image = decode(content, MAX_PIXELS, spec.view.value_range)
        except UnreadableImageError as error:
            reason = str(error)
            unread = unread or f"{printable(manifest.samples.ids[row])}: {reason}"
            continue
        decoded = time.perf_counter()
        pixels.append(make_views(image, spec.view, expected, numbers))
        decoding.append(decoded - started)
        viewing.append((time.perf_counter() - decoded) / len(numbers))
        sizes.append(len(content))
        read.append(row)
    if not sizes:
        raise EmptyFolderError(f"none of {len(rows)} images of {manifest.source.name} could be read: {reason}")
    skip = int(len(sizes) > 1)  # the first one loads what decodes and resizes
    return _Seen(
        np.array(read),
        float(np.mean(sizes)),
        float(np.mean(decoding[skip:])),
        float(np.mean(viewing[skip:])),
        np.concatenate(pixels),
        unread,
    )


def _look_rate(manifest: Manifest, seen: _Seen) -> float:
    """Bytes a second that are read and hashed, by as many threads as `extract` takes."""
    source, names = manifest.source, [manifest.samples.ids[row] for row in seen.rows]
    started = time.perf_counter()
    if isinstance(source, TarSource):  # knows the hashes: all of the tars were read just now
        hash_all(lambda name: hashlib.sha256(source.read(name)).digest(), names)
    else:
        source.hash(names)
    return seen.bytes * len(names) / (time.perf_counter() - started)


def _forward_s(plan: ExtractionPlan, pixels: NDArray[np.uint8]) -> float:
    """Seconds of a view, in batches as `extract` makes them, after a first pass."""
    network, image_size = plan.backbone, plan.spec.view.image_size
    network.select_engine(image_size, plan.runtime["engine"], sys.maxsize)
    size = network.batch_size
    batch = np.resize(pixels, (size, *pixels.shape[1:]))
    network.embed_layers(batch)
    queue: InFlightQueue[PendingFeatures] = InFlightQueue(network.max_in_flight(image_size))
    started, views = time.perf_counter(), 0
    while time.perf_counter() - started < _NETWORK_S or not views:
        queue.add(network.submit(batch), size)
        for features in queue.due():
            features()
            views += size
    for features in queue.drain():
        features()
        views += size
    return (time.perf_counter() - started) / views


def _write_s(spec: ExtractSpec, dims: Mapping[str, int]) -> float:
    """Of a view's features, to a file in the folder for temporary ones, checksums and marks included."""
    n = min(_WRITTEN, max(64, 2**28 // (4 * sum(dims.values()))))
    hashes = np.random.default_rng(0).integers(0, 256, (n, 32), dtype=np.uint8)
    samples = Samples(
        tuple(f"{row:08d}" for row in range(n)), np.arange(n) % 2, np.ones(n, np.uint8), hashes, ("a", "b")
    )
    features = {layer: np.ones((64, 1, d), np.float32) for layer, d in dims.items()}
    with tempfile.TemporaryDirectory() as folder, CacheWriter(Path(folder, "w.h5"), spec, samples, dims, {}) as writer:
        started = time.perf_counter()
        for first in range(0, n - 63, 64):
            writer.write(np.arange(first, first + 64), features, 0)
        return (time.perf_counter() - started) / (n - n % 64)


def _row_s(d: int, classes: int) -> float:
    """Of a training row of a set too large for memory, in a pass for a head of all of it and one of four fifths."""
    n, outputs = MAX_CACHED_BYTES // (4 * d) + 1, 1 if classes == 2 else classes
    base = np.random.default_rng(0).normal(size=(_DISTINCT, d)).astype(np.float16)
    weight, fold = np.ones(n), np.where(np.arange(n) % 5, -1, 0)
    problems = CVSoftmaxProblem(
        CenteredMatrix(LazyRows(base, np.arange(n) % _DISTINCT), weight),
        np.arange(n) % classes,
        weight,
        fold,
        2,
        outputs,
    )
    theta, which = np.zeros((2, outputs, d + 1), np.float32), np.arange(2)
    started = time.perf_counter()
    loss_and_gradient(problems, theta, which, problems.shares().sum(axis=1), None)
    return (time.perf_counter() - started) / n


def _memory(samples: Samples) -> float:
    """Bytes an image of this machine, at most, while it reads a list of images with splits and hashes: what it
    takes for names as long as these. What an extraction needs is less.
    """
    length = round(sum(map(len, samples.ids)) / len(samples))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "list.csv")
        with path.open("w", encoding="ascii") as file:
            file.write("path,label,split,sha256\n")
            for row in range(_LISTED):
                digest = hashlib.sha256(row.to_bytes(8)).hexdigest()
                file.write(f"https://host/{row:0{length}d},{'ab'[row % 2]},{'train' if row % 5 else 'val'},{digest}\n")
        tracemalloc.start()
        try:
            read_manifest(path)
            return tracemalloc.get_traced_memory()[1] / _LISTED
        finally:
            tracemalloc.stop()
