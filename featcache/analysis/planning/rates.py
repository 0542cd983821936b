"""`measure_rates`: measure each step of an extraction and of a fit by itself on this machine."""

from __future__ import annotations

import csv
import hashlib
import os
import sys
import tempfile
import time
import tracemalloc
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Unpack

import numpy as np

from featcache._utils.deprecation import warn_renamed
from featcache._utils.environment import usable_cores
from featcache._utils.in_flight import InFlightQueue
from featcache._utils.monitor import Monitor
from featcache._utils.progress_bar import ProgressOption
from featcache.analysis.planning.capacity import RENAMED_RATES, Rates
from featcache.backbones.encoder import Encoder
from featcache.backbones.engines.base import PendingFeatures
from featcache.cache.format.layout import expected_views, size_needed
from featcache.cache.lazy_arrays import MAX_CACHED_BYTES, CenteredMatrix, LazyRows
from featcache.cache.writer import CacheWriter
from featcache.core.options import (
    DataOptions,
    DeviceOptions,
    EngineOptions,
    ExtractArguments,
    ExtractOptions,
    ViewCount,
    select,
    takes_options,
    with_defaults,
)
from featcache.core.samples import Samples
from featcache.core.specs import ExtractSpec
from featcache.data.content_hashes import hash_all
from featcache.data.manifest import Manifest, read_manifest
from featcache.data.sample_loader import Inputs, join_inputs
from featcache.data.sources.base import SampleRecord
from featcache.data.sources.tar import TarSource
from featcache.errors import EmptyFolderError
from featcache.extraction.input_costs import InputCosts
from featcache.extraction.pipelines.registry import check_backbone
from featcache.extraction.plan import ExtractionPlan
from featcache.extraction.request import ExtractionRequest
from featcache.heads.solvers.softmax import CVSoftmaxProblem, loss_and_gradient

RAY_S = 1e-5
"""Seconds per sample that Ray takes of the driver's thread: up to 1e-5 (benchmarks/results/plan.json)."""

_MAX_SAMPLES, _MAX_VIEWS = 128, 16  # measured samples, and views of each
_WRITTEN_ROWS, _DISTINCT_ROWS, _LISTED_ROWS = 4096, 512, 5000  # of a file; different ones of a pass; of a list
_LISTED_BYTES = 16_000_000  # of the texts of a list
_NETWORK_S, _MIN_BATCHES = 2.0, 3  # at least, of forward passes of the warm network


class RateOptions(ExtractOptions, ViewCount, DataOptions, DeviceOptions, EngineOptions, total=False):
    """Options of an extraction that change how fast its steps are."""


@takes_options(RateOptions)
def measure_rates(
    data: str | os.PathLike[str],
    *,
    backbone: str | Encoder | None = None,
    cores: int | None = None,
    provided: Mapping[str, float] | None = None,
    progress: ProgressOption = None,
    on_note: Callable[[str], None] | None = None,
    given: Mapping[str, float] | None = None,
    **options: Unpack[RateOptions],
) -> Rates:
    """Measure how fast this machine reads, decodes, computes, writes and fits, with a few samples of `data`.

    The samples are read twice; the second time they come from the disk cache of the operating system. Samples of val
    that are also in train are accepted.

    Parameters
    ----------
    data : str or path
        Labelled images or texts, see `read_manifest`. They stand for all samples to come.
    backbone : str, Backbone, TextEncoder or None, default None
        The frozen network, see `extract`.
    cores : int or None, default None
        Cores of a worker. None: those that this process may use.
    provided : mapping or None, default None
        Values of fields of `Rates`, which are then not measured. `forward_s` is that of a GPU.
    progress : callable, bool or None, default None
        Called as progress(step, done, total); True shows a bar.
    on_note : callable or None, default None
        Called with one line of text: how the data was read, and how many samples could not be read.
    given : mapping or None, default None
        Deprecated name of `provided`.
    {options}

    Returns
    -------
    Rates

    Raises
    ------
    ImageError
        The folder or the manifest is not valid, or none of the samples can be read.
    BackboneError
        The network or its weights cannot be loaded.

    Examples
    --------
    >>> from featcache import plan
    >>> rates = measure_rates("photos")  # doctest: +SKIP
    >>> print(plan(rates, samples=[10**7], workers=[1, 8]))  # doctest: +SKIP
    """
    if given is not None:
        warn_renamed("measure_rates(given=...)", "measure_rates(provided=...)", stacklevel=3)
        provided = {**given, **(provided or {})}
    monitor = Monitor(progress, on_note)
    provided = {RENAMED_RATES.get(name, name): value for name, value in (provided or {}).items()}
    check_backbone(backbone)
    manifest = read_manifest(data, **select(DataOptions, options), allow_leak=True, progress=monitor.progress)
    samples, modality = manifest.samples, manifest.modality
    monitor.note(str(manifest.summary()))
    arguments = with_defaults(ExtractArguments, options)
    plan = ExtractionRequest.for_data(manifest, None, backbone, arguments, monitor).load()
    network, spec = plan.backbone, plan.spec
    dims = dict(network.dims)
    views = float(expected_views(spec, samples).mean())
    header_bytes = size_needed(spec, samples.take(np.arange(0)), dims)
    rows = np.unique(np.linspace(0, len(samples) - 1, _MAX_SAMPLES).astype(np.int64)).tolist()
    costs = plan.measure_inputs(manifest, rows, range(1 + min(spec.views, _MAX_VIEWS)))
    if not len(costs.rows):
        raise EmptyFolderError(
            f"none of {modality.count(len(rows))} of {manifest.source.name} can be read: {costs.unread}"
        )
    if unread := len(rows) - len(costs.rows):
        monitor.note(
            f"{unread} of the {len(rows)} measured {modality.plural} cannot be read, for example {costs.unread}"
        )
    tasks: dict[str, Callable[[], float]] = {
        "hash_bytes_per_s": lambda: _hash_bytes_per_s(manifest, costs),
        "forward_s": lambda: _forward_s(plan, costs.inputs),
        "write_s_per_sample": lambda: RAY_S + views * _write_s(spec, dims),
        "solver_s_per_row": lambda: _solver_s_per_row(sum(dims.values()), max(2, len(samples.classes))),
    }
    values = dict(provided)
    for step, (name, task) in enumerate(tasks.items()):
        monitor.report("measure", step, len(tasks))
        if name not in provided:
            values[name] = task()
    monitor.report("measure", len(tasks), len(tasks))
    return Rates(
        modality=modality.name,
        takes_hashes=modality.takes_hashes,
        sample_bytes=costs.sample_bytes,
        views=views,
        decode_s=costs.decode_s,
        view_s=costs.view_s,
        cores=cores or usable_cores(),
        on_gpu=network.device_name != "cpu" or "forward_s" in provided,
        cache_bytes=(size_needed(spec, samples, dims) - header_bytes) / len(samples),
        memory_bytes=_list_memory_bytes(manifest, costs),
        provided=(*provided, *(["cores"] if cores not in (None, usable_cores()) else [])),
        **values,
    )


def _hash_bytes_per_s(manifest: Manifest, costs: InputCosts) -> float:
    """Bytes per second that as many threads as in `extract` read and hash."""
    source, names = manifest.source, [manifest.samples.ids[row] for row in costs.rows]
    started = time.perf_counter()
    if isinstance(source, TarSource):  # has hashed all members already
        hash_all(lambda name: hashlib.sha256(source.read(name)).digest(), names)
    else:
        manifest.modality.hash_content(source, [SampleRecord(name, (), None) for name in names], None)
    return costs.sample_bytes * len(names) / (time.perf_counter() - started)


def _forward_s(plan: ExtractionPlan, inputs: Inputs) -> float:
    """Seconds per view of the warm network, in batches as in `extract`: the median."""
    network = plan.backbone
    network.select_engine(plan.input_size, plan.runtime["engine"], sys.maxsize, "")
    size = network.batch_size
    batch = join_inputs(*[inputs] * -(-size // len(inputs)))[:size]
    queue: InFlightQueue[PendingFeatures] = InFlightQueue(network.max_in_flight)
    in_flight = max(1, -(-network.max_in_flight // size))  # batches, which can be finished at once
    warm_up, finished = in_flight + 1, [0.0]
    while len(finished) < warm_up + in_flight + _MIN_BATCHES or finished[-1] - finished[warm_up] < _NETWORK_S:
        queue.add(network.submit(batch), size)
        for features in queue.due():
            features()
            finished.append(time.perf_counter())
    for features in queue.drain():
        features()
    times = np.array(finished[warm_up:])
    return float(np.median(times[in_flight:] - times[:-in_flight])) / (in_flight * size)


def _write_s(spec: ExtractSpec, dims: Mapping[str, int]) -> float:
    """Seconds per view to write its features to a temporary file, checksums and marks included."""
    n = min(_WRITTEN_ROWS, max(64, 2**28 // (4 * sum(dims.values()))))
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


def _solver_s_per_row(d: int, classes: int) -> float:
    """Seconds per training row in one pass of the solver, for a data set that is too large for memory.

    The pass computes two problems: all rows, and four fifths of them (a fold of cross-validation).
    """
    n, outputs = MAX_CACHED_BYTES // (4 * d) + 1, 1 if classes == 2 else classes
    base = np.random.default_rng(0).normal(size=(_DISTINCT_ROWS, d)).astype(np.float16)
    weight, fold = np.ones(n), np.where(np.arange(n) % 5, -1, 0)
    problems = CVSoftmaxProblem(
        CenteredMatrix(LazyRows(base, np.arange(n) % _DISTINCT_ROWS), weight),
        np.arange(n) % classes,
        weight,
        fold,
        2,
        outputs,
    )
    theta, problem_ids = np.zeros((2, outputs, d + 1), np.float32), np.arange(2)
    started = time.perf_counter()
    loss_and_gradient(problems, theta, problem_ids, problems.class_weights().sum(axis=1), None)
    return (time.perf_counter() - started) / n


def _list_memory_bytes(manifest: Manifest, costs: InputCosts) -> float:
    """Peak bytes of memory per sample while this machine reads a list of them. An extraction needs less.

    It is a table with splits and hashes and names this long; or of texts, if the samples are the texts of a table.
    """
    header, row_of, n = "path,label,split,sha256", _row_of_path(manifest.samples), _LISTED_ROWS
    if manifest.source.has_text_column:
        texts = [manifest.read(row).decode() for row in costs.rows.tolist()]
        header, row_of = "text,label,split", lambda row: (f"{row} {texts[row % len(texts)]}",)
        n = max(1, min(n, int(_LISTED_BYTES / costs.sample_bytes)))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "list.csv")
        with path.open("w", encoding="utf-8", newline="") as file:
            table = csv.writer(file)
            table.writerow(header.split(","))
            for row in range(n):
                name, *further = row_of(row)
                table.writerow([name, "ab"[row % 2], "train" if row % 5 else "val", *further])
        tracemalloc.start()
        try:
            read_manifest(path)
            return tracemalloc.get_traced_memory()[1] / n
        finally:
            tracemalloc.stop()


def _row_of_path(samples: Samples) -> Callable[[int], tuple[str, ...]]:
    """The path and the hash of a row of a list."""
    length = round(sum(map(len, samples.ids)) / len(samples))
    return lambda row: (f"https://host/{row:0{length}d}", hashlib.sha256(row.to_bytes(8)).hexdigest())
