"""`Estimate`: what an extraction will cost, measured on a few of its images."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from featcache._utils.formatting import human_bytes, human_duration
from featcache._utils.progress_bar import Progress, ProgressOption, as_callback
from featcache._utils.results import NotebookResult
from featcache.backbones.backbone import Backbone
from featcache.backbones.engines.base import EngineName
from featcache.backbones.load import load_backbone
from featcache.backbones.sources.registry import check_name
from featcache.cache.feature_cache import FeatureCache
from featcache.cache.format.layout import expected_views, size_needed
from featcache.cache.mismatch import check_spec
from featcache.cache.paths import partial_path
from featcache.cache.reuse import engine_of_unfinished, match_rows
from featcache.core.bit_depth import ValueRange
from featcache.core.specs import EMBEDDED, MAX_PIXELS, PENULTIMATE, Augment, ExtractSpec, StorageDtype
from featcache.data.input_notes import input_notes, remark_notes
from featcache.data.manifest import Manifest, read_manifest
from featcache.extraction.extract import named
from featcache.vision.loader import ViewLoader
from featcache.vision.value_range import choose_value_range, describe_value_range

_MEASURED_VIEWS = 96


@dataclass(frozen=True, repr=False)
class Estimate(NotebookResult):
    """What is to be done and what it will cost.

    images, views : to run through the network. seconds : for them, measured on `measured` views (reading, decoding,
    network; not imports, not a conversion to another engine). size_bytes : of the file. free_bytes : on its disk.
    note : what the user should know of the network's engine.
    ignored : files that were passed over, by reason. conflicts : pairs of images with equal bytes and different labels.
    skipped, remarks : pairs (image, text) of the images measured on: why one cannot be read, what is odd about it.
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

    def __str__(self) -> str:
        """For people."""
        room = "" if self.size_bytes <= self.free_bytes else ": TOO LITTLE"
        lines = [
            f"{self.images} images, {self.views} views: about {human_duration(self.seconds)} "
            f"(measured on {self.measured} views)",
            f"{human_bytes(self.size_bytes)} on a disk with {human_bytes(self.free_bytes)} free{room}",
        ]
        lines += [self.note] if self.note else []
        seen = [*input_notes({}, [], self.skipped), *remark_notes(self.remarks)]
        lines += [*input_notes(self.ignored, self.conflicts, []), *(f"measured images: {note}" for note in seen)]
        return "\n".join(lines)

    def to_dict(self) -> dict[str, Any]:
        """JSON values."""
        fields = asdict(self)
        fields["conflicts"] = [list(pair) for pair in self.conflicts]
        fields["skipped"] = [{"path": name, "reason": reason} for name, reason in self.skipped]
        fields["remarks"] = [{"path": name, "remark": remark} for name, remark in self.remarks]
        return {"estimated_s": fields.pop("seconds"), **fields}


def estimate(
    data: str | os.PathLike[str] | Manifest,
    out: str | os.PathLike[str],
    *,
    backbone: str | Backbone = EMBEDDED,
    weights: str = "pretrained",
    views: int = 4,
    val_views: int = 0,
    augment: Augment = "tutorial",
    image_size: int | None = None,
    batch_size: int | None = None,
    workers: int | None = None,
    device: str = "auto",
    precision: str = "auto",
    dtype: StorageDtype = "float16",
    seed: int = 0,
    layers: Sequence[str] = (PENULTIMATE,),
    engine: EngineName = "auto",
    val_fraction: float = 0.2,
    split_seed: int = 0,
    allow_leak: bool = False,
    label_column: str | None = None,
    skip_missing: bool = False,
    max_pixels: int = MAX_PIXELS,
    value_range: ValueRange | None = None,
    progress: ProgressOption = None,
    on_note: Callable[[str], None] | None = None,
) -> Estimate:
    """What `extract` with these arguments would cost, less what is there already; nothing is written.

    on_note : called with what was understood of the data, and with the range of values, as `extract` does.

    Raises
    ------
    ImageError, BackboneError
    """
    progress = as_callback(progress)
    check_name(backbone)
    manifest = read_manifest(
        data,
        val_fraction=val_fraction,
        seed=split_seed,
        allow_leak=allow_leak,
        label_column=label_column,
        skip_missing=skip_missing,
        progress=progress,
    )
    if on_note:
        on_note(str(manifest.summary()))
    own = isinstance(backbone, str)
    if isinstance(backbone, str):
        backbone = load_backbone(
            backbone,
            weights=weights,
            layers=layers,
            device=device,
            precision=precision,
            seed=seed,
            image_size=image_size,
            lazy=True,
        )
    value_range = choose_value_range(value_range, out, manifest, max_pixels)
    if value_range and on_note:
        on_note(describe_value_range(value_range))
    spec = backbone.extract_spec(
        image_size=image_size,
        augment=augment,
        seed=seed,
        views=views,
        dtype=dtype,
        val_views=val_views,
        value_range=value_range,
    )
    missing = expected_views(spec, manifest.samples)
    there = Path(out) if Path(out).exists() else partial_path(out)
    if there.exists():
        cache = FeatureCache.open(there, partial=True)
        check_spec(there, cache.spec, spec, manifest.source.name)
        if cache.finished:
            cache.check_matches(spec, manifest.samples, manifest.source.name)
            missing = np.zeros_like(missing)
        else:
            missing = missing - match_rows(cache, manifest.samples, missing, np.empty(0, np.int64)).views
    if own:
        backbone.select_engine(image_size=spec.view.image_size, engine=engine, views=int(missing.sum()),
                            like=engine_of_unfinished(Path(out)))  # fmt: skip
    cost = measure(Path(out), manifest, backbone, spec, missing, batch_size, workers, max_pixels, progress)
    return replace(cost, ignored=manifest.ignored, conflicts=manifest.conflicts())


def measure(
    out: Path,
    manifest: Manifest,
    backbone: Backbone,
    spec: ExtractSpec,
    missing: NDArray[np.integer[Any]],
    batch_size: int | None,
    workers: int | None,
    max_pixels: int = MAX_PIXELS,
    progress: Progress | None = None,
) -> Estimate:
    """Run a few images, throw their features away, and multiply.

    Parameters
    ----------
    missing : shape (n,). How many views of each image are to be extracted.
    """
    rows, views = np.flatnonzero(missing), int(missing.sum())
    per_image = max(1, round(views / max(1, len(rows))))
    some = rows[:: max(1, len(rows) * per_image // _MEASURED_VIEWS)] if len(rows) else rows
    images = max(1, (batch_size or backbone.batch_size) // per_image)
    started, measured, first = time.perf_counter(), 0, 0
    with closing(ViewLoader(manifest, spec.view, workers=workers, max_pixels=max_pixels)) as loader:
        for batch in loader.batches(some, range(per_image), images):
            backbone.embed_layers(batch.inputs)
            measured += len(batch.rows) * per_image
            if progress:
                progress("measure", measured, per_image * len(some))
            if not first and len(some) > 2 * images:  # the first pass prepares the network
                started, first = time.perf_counter(), measured
    per_view = (time.perf_counter() - started) / max(1, measured - first)
    folder = next(place for place in (out.absolute().parent, *out.absolute().parents) if place.exists())
    return Estimate(
        images=len(rows),
        views=views,
        seconds=views * per_view,
        measured=measured - first,
        size_bytes=size_needed(spec, manifest.samples, backbone.dims),
        free_bytes=shutil.disk_usage(folder).free,
        note=backbone.note,
        skipped=named(manifest, loader.skipped),
        remarks=named(manifest, loader.remarks),
    )
