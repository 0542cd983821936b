"""`measure_rates`: how fast this machine does what an extraction and a fit consist of, each by itself."""

from __future__ import annotations

import hashlib
import os
import sys
import tempfile
import time
import tracemalloc
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from featcache._utils.environment import usable_cores
from featcache._utils.formatting import printable
from featcache._utils.progress_bar import ProgressOption, as_callback
from featcache.analysis.planning.capacity import Rates
from featcache.backbones.backbone import Backbone
from featcache.backbones.engines.base import EngineName, PendingFeatures
from featcache.backbones.load import load_backbone
from featcache.backbones.sources.registry import check_name
from featcache.cache.format.layout import size_needed, wanted_views
from featcache.cache.lazy_arrays import MAX_CACHED_BYTES, CenteredMatrix, LazyRows
from featcache.cache.writer import CacheWriter
from featcache.core.bit_depth import ValueRange
from featcache.core.samples import Samples
from featcache.core.specs import EMBEDDED, PENULTIMATE, Augment, ExtractSpec, StorageDtype
from featcache.data.file_listing import hash_all
from featcache.data.manifest import Manifest, read_manifest
from featcache.data.sources.tar import TarSource
from featcache.errors import EmptyFolderError, UnreadableImageError
from featcache.heads.solvers.softmax import CVSoftmaxProblem, loss_and_gradient
from featcache.vision.decode import MAX_PIXELS, decode
from featcache.vision.loader import read_image
from featcache.vision.value_range import describe_value_range, find_value_range

RAY_S = 1e-5
"""Seconds of the driver's thread an image, for what Ray does: up to 1e-5 (benchmarks/results/plan.json)."""

_READ, _VIEWS = 128, 16  # images, and views of each, at most
_WRITTEN, _DISTINCT, _LISTED = 4096, 512, 5000  # rows of a file; rows of a pass that differ; rows of a list
_NETWORK_S = 2.0  # of forward passes


def measure_rates(
    data: str | os.PathLike[str],
    *,
    backbone: str | Backbone = EMBEDDED,
    weights: str = "pretrained",
    views: int = 4,
    val_views: int = 0,
    augment: Augment = "tutorial",
    image_size: int | None = None,
    layers: Sequence[str] = (PENULTIMATE,),
    device: str = "auto",
    precision: str = "auto",
    engine: EngineName = "auto",
    dtype: StorageDtype = "float16",
    cores: int | None = None,
    given: Mapping[str, float] | None = None,
    label_column: str | None = None,
    skip_missing: bool = False,
    value_range: ValueRange | None = None,
    progress: ProgressOption = None,
    on_note: Callable[[str], None] | None = None,
) -> Rates:
    """Read, decode, compute, write and fit a little of each, with images of `data`, which stand for all others.

    They have been read just before: the disk's cache has them. What is given is not measured.

    Parameters
    ----------
    cores : of a worker; None takes those that this process may use. given : fields of `Rates`; where forward_s is one
        of them, it is a GPU's.
    on_note : called with what was understood of the data, and with how many images could not be read.
    The others : see `extract`; images of val that are in train, too, are allowed.

    Raises
    ------
    ImageError, BackboneError
    """
    progress = as_callback(progress)
    given = given or {}
    check_name(backbone)
    manifest = read_manifest(
        data, allow_leak=True, label_column=label_column, skip_missing=skip_missing, progress=progress
    )
    samples, note = manifest.samples, on_note or (lambda _: None)
    note(str(manifest.summary()))
    value_range = find_value_range(manifest) if value_range is None else value_range
    if value_range:
        note(describe_value_range(value_range))
    network = (
        backbone
        if isinstance(backbone, Backbone)
        else load_backbone(
            backbone,
            weights=weights,
            layers=layers,
            device=device,
            precision=precision,
            image_size=image_size,
            lazy=True,
        )
    )
    spec = network.extract_spec(
        image_size=image_size,
        augment=augment,
        seed=0,
        views=views,
        val_views=val_views,
        dtype=dtype,
        value_range=value_range,
    )
    per_image = float(wanted_views(spec, samples).mean())
    none = samples.take(np.arange(0))
    some = np.unique(np.linspace(0, len(samples) - 1, _READ).astype(np.int64))
    seen = _see(manifest, some, spec)
    if unread := len(some) - len(seen.rows):
        note(f"{unread} of {len(some)} images that were measured could not be read, for example {seen.unread}")
    tasks: dict[str, Callable[[], float]] = {
        "look_rate": lambda: _look_rate(manifest, seen),
        "forward_s": lambda: _forward_s(network, spec, engine, seen.pixels),
        "driver_s": lambda: RAY_S + per_image * _write_s(spec, network.dims),
        "row_s": lambda: _row_s(sum(network.dims.values()), len(samples.classes)),
    }
    measured = dict(given)
    for step, (name, task) in enumerate(tasks.items()):
        if progress:
            progress("measure", step, len(tasks))
        if name not in given:
            measured[name] = task()
    if progress:
        progress("measure", len(tasks), len(tasks))
    return Rates(
        image_bytes=seen.bytes,
        views=per_image,
        decode_s=seen.decode_s,
        view_s=seen.view_s,
        cores=cores or usable_cores(),
        on_gpu=network.device != "cpu" or "forward_s" in given,
        cache_bytes=(size_needed(spec, samples, network.dims) - size_needed(spec, none, network.dims)) / len(samples),
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


def _forward_s(network: Backbone, spec: ExtractSpec, engine: EngineName, pixels: NDArray[np.uint8]) -> float:
    """Of a view, in batches as `extract` makes them, once the network is warm."""
    network.select_engine(spec.view.image_size, engine, sys.maxsize)
    size, max_in_flight = network.batch_size, network.max_in_flight(spec.view.image_size)
    batch = np.resize(pixels, (size, *pixels.shape[1:]))
    network.embed_layers(batch)
    under_way: deque[PendingFeatures] = deque()
    started, done = time.perf_counter(), 0
    while time.perf_counter() - started < _NETWORK_S or not done:
        under_way.append(network.submit(batch))
        if (len(under_way) - 1) * size >= max_in_flight:
            under_way.popleft()()
            done += size
    while under_way:
        under_way.popleft()()
        done += size
    return (time.perf_counter() - started) / done


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
