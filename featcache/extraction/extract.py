"""`extract`: run the frozen network once over every image and view, into a cache."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any, Unpack

import numpy as np

from featcache._utils.determinism import deterministic_on_request
from featcache._utils.environment import check_writable
from featcache._utils.formatting import human_bytes
from featcache._utils.monitor import Monitor
from featcache._utils.progress_bar import ProgressOption
from featcache.backbones.devices import unused_gpus_note
from featcache.backbones.encoder import Encoder
from featcache.cache.feature_cache import FeatureCache
from featcache.cache.format.layout import EXTRACT_S, ON_DEVICE, expected_views, size_needed
from featcache.cache.paths import on_disk
from featcache.cache.reuse import check_loss, import_stashed, keep_unread, stash_partial
from featcache.cache.writer import CacheWriter
from featcache.core.hub_names import HUB_DATASET, hub_dataset
from featcache.core.layer_names import grid_side, parse_layer
from featcache.core.options import (
    DataOptions,
    ExtractArguments,
    SplitOptions,
    fields_of,
    manifest_keywords,
    takes_options,
)
from featcache.core.ray_cluster import Cluster
from featcache.data.manifest import Manifest, read_manifest
from featcache.errors import BackboneError
from featcache.extraction.extractor import Extractor, LocalExtractor, ViewCounts
from featcache.extraction.fill import fill_cache, reject_unreadable
from featcache.extraction.pipelines.registry import check_backbone
from featcache.extraction.ray_coordinator import RayExtractor
from featcache.extraction.request import ExtractionRequest
from featcache.extraction.results import Extraction, unread_note, with_ids
from featcache.metrics.run_report import Report


@takes_options(ExtractArguments)
@deterministic_on_request(BackboneError)
def extract(
    data: str | os.PathLike[str] | Manifest,
    out: str | os.PathLike[str],
    *,
    backbone: str | Encoder | None = None,
    strict: bool = False,
    cluster: Cluster | None = None,
    progress: ProgressOption = None,
    on_note: Callable[[str], None] | None = None,
    **options: Unpack[ExtractArguments],
) -> Extraction:
    """Extract the features of all images of `data` into the cache `out`.

    A training image gets the clean view and `views` augmented ones, any other image the clean view and `val_views`
    augmented ones. Images may have no label, see `read_manifest`; `update` fills labels in. An interrupted call resumes
    when it is repeated. A complete cache that fits is left unchanged.

    Parameters
    ----------
    data : str, path or Manifest
        Images with or without labels, see `read_manifest`.
    out : str or path
        The cache file to write.
    backbone : str, Backbone, TextEncoder or None, default None
        The frozen network: a name, see `load_backbone` and, for texts, `load_text_encoder`; or a network, which brings
        its own weights, layers, device, precision and engine. None: 'efficientnet_lite0', for texts 'all-minilm-l6-v2'.
    strict : bool, default False
        Stop at the first unreadable image instead of skipping and listing it.
    cluster : Cluster or None, default None
        Nodes of a Ray cluster that extract. `device` and `workers` then hold for each node. A worker without GPUs
        computes on its cores. None: this machine.
    progress : callable, bool or None, default None
        Called as progress(step, done, total); True shows a bar.
    on_note : callable or None, default None
        Called with one line of text: how the data was read, how large a cache of grids will be, why a worker failed.
    {options}

    Returns
    -------
    Extraction
        The cache, the images that were skipped, and the seconds by phase.

    Raises
    ------
    ImageError
        No image can be read, or one cannot be read with `strict`; the folder or the manifest is not valid.
    BackboneError
        The network or its weights cannot be loaded.
    CacheMismatchError
        `out` holds features of other settings or other images.
    CacheBusyError
        Another process writes `out`.
    ClusterError
        The cluster has no suitable node.

    Examples
    --------
    The folder `photos` holds sixteen images, four of which become val. The network is small and has random weights, so
    that the example takes no time; without `backbone` and `weights` it is the embedded one.

    >>> import featcache
    >>> extraction = featcache.extract("photos", "cache.h5", backbone="timm/test_resnet", weights="none", views=4)
    >>> extraction.cache.features("train").x.shape
    (12, 5, 96)
    """
    monitor = Monitor(progress, on_note)
    out = on_disk(out)
    check_writable(out)
    check_backbone(backbone)
    with monitor.phase("hash"):
        manifest = read_manifest(data, **manifest_keywords(options), progress=monitor.progress)
    monitor.note(str(manifest.summary()))
    if cluster and options["device"] == "auto" and not cluster.gpus_per_worker:
        options["device"] = "cpu"  # Ray shows the GPUs of a node to all of its workers
    extractor: Extractor
    with monitor.phase("start"):
        request = ExtractionRequest.for_data(manifest, out, backbone, options, monitor)
        if cluster:
            extractor = RayExtractor(manifest, request, cluster, monitor)
        else:
            extractor = LocalExtractor(manifest, request.load(), monitor.timer)
            is_named = backbone is None or isinstance(backbone, str)
            monitor.note(unused_gpus_note(options["device"]) if is_named else "")
    with closing(extractor):
        if out.exists():
            cache, views_extracted = _check_existing(out, extractor, strict, monitor)
        else:
            cache, views_extracted = _write(out, extractor, _split_record(manifest, options), strict, monitor)
        info, remarks = extractor.info, with_ids(manifest.samples, extractor.remarks)
    report = Report(
        method="extract",
        seconds=monitor.seconds(),
        images=int(np.count_nonzero(views_extracted)),
        size_bytes=cache.size_bytes,
        spec_digest=cache.spec.digest(),
        seed=options["seed"],
        device=info.device_name,
        precision=info.precision,
        tf32=info.tf32,
        compiled=info.provenance["engine"] == "compiled",
    )
    return Extraction(
        cache=cache,
        extracted=report.images,
        shown=int(views_extracted.sum()),
        skipped=cache.skipped,
        ignored=manifest.ignored,
        conflicts=manifest.conflicts(),
        report=report,
        note=info.note,
        data_notes=manifest.notes,
        remarks=remarks,
        data_name=manifest.source.name,
    )


def _check_existing(out: Path, extractor: Extractor, strict: bool, monitor: Monitor) -> tuple[FeatureCache, ViewCounts]:
    """The finished cache `out`, and no extracted views. Raises CacheMismatchError where `out` is another cache."""
    cache = FeatureCache.open(out)
    manifest, unread = keep_unread(cache, extractor.manifest)
    monitor.note(unread_note(unread, cache.spec.modality))
    cache.check_matches(extractor.info.spec, manifest.samples, manifest.source.name)
    if strict:
        reject_unreadable(manifest, cache.skipped)
    return cache, np.zeros(len(manifest.samples), np.int64)


def _write(
    out: Path, extractor: Extractor, split_record: dict[str, Any], strict: bool, monitor: Monitor
) -> tuple[FeatureCache, ViewCounts]:
    """Extract into a new cache, or into one that an interrupted call has begun.

    Returns
    -------
    FeatureCache
    ndarray, shape (n,)
        Number of views of each row that this call extracted.
    """
    out.parent.mkdir(parents=True, exist_ok=True)
    samples, info = extractor.manifest.samples, extractor.info
    spec, dims = info.spec, info.dims
    grids = [layer for layer in spec.layers if grid_side(parse_layer(layer)[1]) > 2]
    if grids:
        size = human_bytes(size_needed(spec, samples, dims))
        monitor.note(f"{out} will take about {size}: grids keep every place ({', '.join(grids)})")
    extractor.prepare(expected_views(spec, samples))
    info = extractor.info  # complete now
    provenance = {**info.provenance, **split_record}
    optional = (EXTRACT_S, ON_DEVICE) if info.counts_device_views else (EXTRACT_S,)
    check_loss(out, spec, samples)
    stashed = stash_partial(out, spec, samples)
    with CacheWriter(out, spec, samples, dims, provenance, monitor.progress, True, optional) as writer:
        for note in import_stashed(writer, stashed, samples):
            monitor.note(note)
        views_before = writer.done
        skipped = fill_cache(writer, extractor, monitor, strict)
        with monitor.phase("stop"):
            extractor.close()  # cancels decoding that was begun ahead and is not needed
        cache = writer.finish(skipped)
    return cache, cache.done - views_before


def _split_record(manifest: Manifest, options: ExtractArguments) -> dict[str, Any]:
    """How the samples were split, and their data set, for the provenance: of `DataOptions` only what was set."""
    used = {**options, "label_column": manifest.label_column}
    optional = fields_of(DataOptions)
    names = [name for name in fields_of(SplitOptions) if name not in optional or used[name]]
    record = {name: used[name] for name in sorted(names, key=lambda name: name in optional)}
    repository = hub_dataset(manifest.source.name)
    record |= {HUB_DATASET: repository} if repository else {}
    return record if manifest.held_out_seed is None else {**record, "val_is_held_out": True}
