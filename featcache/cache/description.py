"""What a cache holds, as JSON values and as text."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from featcache._utils.formatting import human_bytes, indefinite, printable
from featcache.cache.format.layout import CACHE
from featcache.cache.mismatch import short_value
from featcache.core.layer_names import describe_layers
from featcache.core.samples import SPLITS, UNLABELED, count_images
from featcache.core.specs import is_arrays
from featcache.data.input_notes import SHOWN

if TYPE_CHECKING:
    from featcache.cache.feature_cache import FeatureCache


def cache_to_dict(cache: FeatureCache) -> dict[str, Any]:
    """What the cache holds, as JSON values."""
    samples = cache.samples
    rows_of = {split: samples.rows(split) for split in SPLITS}
    if not len(rows_of[UNLABELED]):
        del rows_of[UNLABELED]
    counts = {
        split: {
            name: int(count)
            for name, count in zip(
                samples.classes, count_images(samples.labels[rows], len(samples.classes)), strict=True
            )
        }
        for split, rows in rows_of.items()
        if split != UNLABELED
    }
    return {
        "cache": str(cache.path),
        "complete": cache.complete,
        "images": len(samples),
        "extracted": int(np.count_nonzero(cache.done)),
        "classes": list(samples.classes),
        "multilabel": samples.multilabel,
        "images_by_split": {split: len(rows) for split, rows in rows_of.items()},
        "images_by_class": counts,
        "layers": cache.dims,
        "views": cache.spec.views,
        "views_made_on": views_made_on(cache),
        "extract_s_per_1000_views": seconds_per_1000(cache),
        "size_bytes": cache.size_bytes,
        "digest": cache.spec.digest(),
        "spec": cache.spec.flat(),
        "provenance": cache.provenance,
        "skipped": [{"path": name, "reason": reason} for name, reason in cache.skipped],
    }


def views_made_on(cache: FeatureCache) -> dict[str, int] | None:
    """How many of the stored views the device of the network made, and how many the CPU; None if this is not counted.

    Only an extraction on a device that makes views counts them.
    """
    location = cache.layout.on_device
    if location is None:
        return None
    on_device = int(np.minimum(location.view(cache.layout.data), cache.done).sum())
    return {"device": on_device, "cpu": int(cache.done.sum()) - on_device}


def seconds_per_1000(cache: FeatureCache) -> float | None:
    """Seconds of the extraction for 1,000 views, decoding included; None if they were not measured."""
    location = cache.layout.extract_s
    seconds = location.view(cache.layout.data) if location else np.zeros(len(cache.done))
    is_known = (seconds > 0) & (cache.done > 0)
    return float(1000 * seconds[is_known].sum() / cache.done[is_known].sum()) if is_known.any() else None


def describe_cache(cache: FeatureCache) -> str:
    """What the cache holds, for people."""
    samples, spec, noun = cache.samples, cache.spec.flat(), cache.spec.modality
    state = "complete" if cache.complete else f"NOT FINISHED, {np.count_nonzero(cache.done)} rows are there"
    state = f"DAMAGED: {cache.problem}" if cache.problem else state
    splits = ", ".join(f"{len(rows)} {split}" for split in SPLITS if len(rows := samples.rows(split)))
    names = ", ".join(map(printable, samples.classes[:8])) + (", ..." if len(samples.classes) > 8 else "")
    several = f", several {indefinite(noun)}" if samples.multilabel else ""
    lines = [
        f"{cache.path}: feature cache, format {CACHE.version}, {human_bytes(cache.size_bytes)}, {state}",
        f"{f'{noun}s':11} {len(samples)} ({splits}), {len(cache.skipped)} skipped",
        f"classes     {len(samples.classes)} ({names or 'none yet'}){several}",
        f"views       1 clean + {cache.spec.views} augmented of each training {noun}",
        f"layers      {describe_layers(cache.dims)}",
        f"digest      {cache.spec.digest()}",
    ]
    if (seconds := seconds_per_1000(cache)) is not None:
        lines.append(f"took        {seconds:.3g} s per 1,000 views")
    if made := views_made_on(cache):
        device = printable(str(cache.provenance.get("device", "device")))
        lines.insert(4, f"            {made['device']} were made on {device}, {made['cpu']} on the CPU")
    if samples.groups:
        lines.insert(3, f"groups      {samples.n_groups}, each kept in one split and one fold")
    hidden = {"views", "layers"} | ({*spec} - {"backbone", "dtype"} if is_arrays(cache.spec.backbone) else set())
    lines += [f"  {name:15} {printable(short_value(value))}" for name, value in spec.items() if name not in hidden]
    for name, value in cache.provenance.items():
        text = value.get("text") if isinstance(value, dict) else None  # of a trial, whose figures are in the JSON
        shown = "; ".join(map(str.strip, text.splitlines())) if isinstance(text, str) else short_value(value)
        lines.append(f"made by     {printable(name)}: {printable(shown)}")
    lines += [f"skipped     {printable(name)}: {printable(reason)}" for name, reason in cache.skipped[:SHOWN]]
    if len(cache.skipped) > SHOWN:
        lines.append(f"            and {len(cache.skipped) - SHOWN} more: --list FILE.csv names them all")
    return "\n".join(lines)
