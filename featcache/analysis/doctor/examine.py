"""`doctor`: what is wrong with a cache and its images, and what to do about it."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from featcache._utils.progress_bar import ProgressOption, as_callback
from featcache._utils.timing import PhaseTimer
from featcache.analysis.doctor.duplicates import K, check_alike, find_copies, find_shared_groups
from featcache.analysis.doctor.feature_checks import (
    check_values,
    check_views,
    compare_views,
    effective_rank,
    find_non_finite,
    measure_spread,
    non_finite_check,
)
from featcache.analysis.doctor.findings import Check, DoctorReport, Issue, Severity, name_row
from featcache.analysis.doctor.label_errors import check_labels
from featcache.backbones.backbone import Backbone
from featcache.backbones.load import preprocessing_of
from featcache.cache.feature_cache import FeatureCache
from featcache.cache.features import Features
from featcache.core.progress import StepProgress
from featcache.core.rng import content_order
from featcache.core.samples import LABELLED_SPLITS, SPLITS, UNLABELLED, Samples, count_images, strata
from featcache.core.specs import PENULTIMATE, is_arrays, no_network
from featcache.errors import BackboneError, CacheIncompleteError, CacheMismatchError
from featcache.heads.layer_scaling import standardize_layers

if TYPE_CHECKING:
    from torch import nn

MOST_IMAGES = 50_000  # that are compared with each other, by lot: of 8,000 it takes 2 s on a core
_MOST_BYTES = 2**29
_STEPS = 6  # images, input, values, views, likeness, labels
_PROBE_STEPS = 5  # pictures read, pixels, the network loaded and run, other scales
_RANKED, _VIEWED, _RUN, _COMPARED = 2000, 400, 12, 400  # images that a check takes


class _Seen(NamedTuple):
    """The images that are looked at: rows of the cache (n,), their clean features (n, d), float32, and samples."""

    rows: NDArray[np.int64]
    x: NDArray[np.float32]
    samples: Samples


def doctor(
    cache: str | os.PathLike[str] | FeatureCache,
    data: str | os.PathLike[str] | None = None,
    *,
    layer: str = PENULTIMATE,
    backbone: Backbone | nn.Module | None = None,
    weights: str | None = None,
    device: str = "auto",
    seed: int = 0,
    progress: ProgressOption = None,
) -> DoctorReport:
    """Look for faults in the features of a cache, in its labels and splits, and, with `data`, in how it was made.

    Parameters
    ----------
    data : the folder, or the CSV, that the cache was made from: some images go through the network again.
    layer : one, several joined by commas, or a set, see `featcache.core.layer_names`. Several are made equally wide, as
        for heads; of them the network is asked for the penultimate one, or the first where that is not among them.
    backbone : the `Backbone` or the module that made it, where that cannot be loaded by its name. weights : where the
        network's weights lie now, if they have moved. device : of the network.
    seed : of the folds, and of the lot where there are more than 50,000 images.
    progress : called as progress("examine", done, total) after each part: six, and five more with `data`.

    Raises
    ------
    CacheError. EmptyFolderError : `data` is not what the cache was made from.
    """
    watch = PhaseTimer()
    cache = cache if isinstance(cache, FeatureCache) else FeatureCache.open(cache)
    if data is not None:
        cache.require_images("a look at the images")
    parts = {split: cache.features(split, layer) for split in LABELLED_SPLITS}
    parts = {split: features for split, features in parts.items() if len(features.samples)}
    if "train" not in parts:
        raise CacheIncompleteError(f"{cache.path} has no readable train images")
    with StepProgress(as_callback(progress), "examine", _STEPS + (_PROBE_STEPS if data is not None else 0)) as steps:
        images, checks = _check_all(cache, parts, data, layer, backbone, weights, device, seed, steps)
    return DoctorReport(cache.path, layer, images, tuple(checks), watch.seconds()["wall"])


def _check_all(
    cache: FeatureCache, parts: dict[str, Features], data: Any, layer: str, backbone: Any, weights: str | None,
    device: str, seed: int, steps: StepProgress,
) -> tuple[int, list[Check]]:  # fmt: skip
    """How many images have features, and all checks."""
    train, checks = parts["train"], list[Check]()

    def add(*found: Check) -> None:
        checks.extend(found)
        steps.advance()

    add(_check_images(cache))
    add(_check_preprocessing(cache, backbone if isinstance(backbone, Backbone) else None, weights))
    rows = np.concatenate([np.flatnonzero((cache.samples.split == SPLITS.index(s)) & (cache.done > 0)) for s in parts])
    lost = find_non_finite(features.x for features in parts.values())
    if len(lost):
        add(non_finite_check(tuple(name_row(cache.samples, int(rows[place])) for place in lost)))
        return len(rows), checks
    widths = train.joined.widths if train.joined else ()
    spread = measure_spread((features.lazy_view(0) for features in parts.values()), widths)
    if widths:
        scale = standardize_layers(train, keep_still=False)
        parts = {split: features.scaled(scale) for split, features in parts.items()}
        train = parts["train"]
    seen = _look(cache, parts, rows, seed)
    some = seen.samples.rows("train")[:: max(1, len(seen.rows) // _RANKED)]
    rank = effective_rank(seen.x[some], strata(seen.samples.labels[some]))
    values = check_values(spread, rank)
    add(values)
    collapsed = any(finding.kind == "collapse" for finding in values.findings)
    add(_check_views(cache, train, collapsed, seed))
    add(*check_alike(seen.x, seen.samples, len(rows), collapsed))
    add(*check_labels(train, [parts[split] for split in parts if split != "train"], MOST_IMAGES, seed))
    if data is not None:
        checks += _probe(cache, data, layer, train, backbone, weights, device, seed, steps)
    return len(rows), checks


def _look(cache: FeatureCache, parts: dict[str, Features], rows: NDArray[np.int64], seed: int) -> _Seen:
    """All images, or as many as are compared with each other."""
    width = next(iter(parts.values())).x.shape[2]
    most = max(2 * K, min(MOST_IMAGES, _MOST_BYTES // (4 * width)))
    places = np.sort(content_order(cache.samples.sha256[rows], seed, "examine")[:most])
    blocks, start = [], 0
    for features in parts.values():
        n = len(features.samples)
        here = places[(places >= start) & (places < start + n)] - start
        blocks.append(np.asarray(features.lazy_view(0)[here], np.float32))
        start += n
    return _Seen(rows[places], np.concatenate(blocks), cache.samples.take(rows[places]))


def _check_images(cache: FeatureCache) -> Check:
    """Copies, and numbers: what needs no feature."""
    samples = cache.samples
    readable = {split: cache.readable_rows(split) for split in LABELLED_SPLITS}
    counts = {split: count_images(samples.labels[rows], len(samples.classes)) for split, rows in readable.items()}
    is_there = (cache.done > 0) & (samples.split != SPLITS.index(UNLABELLED))
    copies = [(a, b) for a, b in samples.copies() if is_there[a] and is_there[b]]
    found = find_copies(samples, copies) + find_shared_groups(samples)
    if cache.skipped:
        reasons = sorted({reason for _, reason in cache.skipped})
        what = f"{len(cache.skipped)} images were skipped: {'; '.join(reasons[:3])}"
        images = tuple(name_row(samples, samples.ids.index(name)) for name, _ in cache.skipped)
        found.append(Issue("skipped", "note", what, "Mend or remove them, then `featcache update`.", images))
    train = counts["train"]
    fewest = int(train[train > 0].min(initial=train.max()))
    if fewest * 20 < train.max():
        rare, common = samples.classes[train.tolist().index(fewest)], samples.classes[int(train.argmax())]
        what = f"{common} has {train.max()} images in train, {rare} {fewest}"
        todo = "Fit with -p class_weight=balanced, and look at the recall of each class, not at accuracy alone."
        found.append(Issue("imbalance", "note", what, todo))
    told: tuple[tuple[str, Severity, str], ...] = (
        ("train", "warning", "No head can ever name them: put some there, or leave the class out."),
        ("val", "note", "Their recall cannot be known: put some there."),
    )
    for split, severity, todo in told:
        empty = [name for name, count in zip(samples.classes, counts[split], strict=True) if not count]
        if empty and len(samples.rows(split)):
            what = f"{split} has no readable images of {', '.join(empty[:8])}"
            found.append(Issue(f"missing in {split}", severity, what, todo))
    parts = ", ".join(f"{len(rows)} {split}" for split, rows in readable.items() if len(rows))
    said = f"{parts}, {len(samples.classes)} classes of {train.min()} to {train.max()} train images, "
    said += f"{len(copies)} copies"
    return Check("images", said, tuple(found))


def _check_preprocessing(cache: FeatureCache, backbone: Any, weights: str | None) -> Check:
    """Whether the cache was made with the mean, deviation and interpolation that belong to the network's weights."""
    spec = cache.spec
    names = ("mean", "std", "interpolation")
    if backbone is not None:
        own = {name: getattr(backbone, name) for name in names}
    else:
        own = preprocessing_of(spec, weights or cache.provenance.get("weights", "pretrained")) or {}
    if not own:
        reason = (
            no_network(spec.backbone)
            if is_arrays(spec.backbone)
            else (f"what {spec.backbone} was trained on is not known")
        )
        return Check("input", f"not looked at: {reason}", looked=False)
    stored: dict[str, Any] = {"mean": spec.mean, "std": spec.std, "interpolation": spec.view.interpolation}
    own = {name: own[name] if name == "interpolation" else tuple(own[name]) for name in names}
    wrong = [name for name in names if stored[name] != own[name]]
    if not wrong:
        return Check("input", f"{', '.join(names)} are those of {spec.backbone}")
    what = "; ".join(f"{name} {stored[name]}, {spec.backbone} has {own[name]}" for name in wrong)
    what = f"the cache was made with {what}"
    severity: Severity = "warning" if wrong == ["interpolation"] else "error"
    todo = f"Extract again with the network's own preprocessing: featcache extract DATA --backbone {spec.backbone}."
    return Check("input", what, (Issue("input scale", severity, what, todo),))


def _check_views(cache: FeatureCache, train: Features, collapsed: bool, seed: int) -> Check:
    if collapsed:
        return Check("views", "not compared: the features are all alike", looked=False)
    if not train.views:
        return Check("views", "train has no augmented views", looked=False)
    if len(train.samples) < 2:
        return Check("views", "one image has nothing to be compared with", looked=False)
    some = np.sort(content_order(train.samples.sha256, seed, "examine")[:_VIEWED])
    found = compare_views(np.asarray(train.take(some).x[:, :9]), cache.spec.precision)
    return check_views(found, len(some), min(train.views, 8), cache.spec.view.augment)


def _probe(
    cache: FeatureCache, data: Any, layer: str, train: Features, backbone: Any, weights: str | None, device: str,
    seed: int, steps: StepProgress,
) -> list[Check]:  # fmt: skip
    """What the images and the network tell, see `featcache.analysis.doctor.image_checks`."""
    from featcache.analysis.doctor.image_checks import check_network, check_pixels, read_clean, try_scales
    from featcache.extraction.plan import load_cache_backbone

    rows = cache.samples.rows("train")
    rows = rows[cache.done[rows] > 0]
    place = {int(row): number for number, row in enumerate(rows)}
    order = rows[content_order(cache.samples.sha256[rows], seed, "examine")]
    rows, pixels, lost = read_clean(cache, data, order[:_COMPARED])
    at = np.array([place[int(row)] for row in rows], np.int64)
    steps.advance()
    checks = []
    if lost:
        named = tuple(name_row(cache.samples, row) for row in lost)
        what = (
            f"{len(lost)} of {len(lost) + len(rows)} images are not in {data} as they were: {next(iter(lost.values()))}"
        )
        checks.append(Check("files", what, (Issue("other images", "warning", what, "See `featcache diff`.", named),)))
    one_label = not cache.samples.multilabel
    pixel_check = check_pixels(train, at, pixels, seed) if one_label else None
    checks += [pixel_check] if pixel_check else []
    steps.advance()
    try:
        if not isinstance(backbone, Backbone):
            backbone = load_cache_backbone(cache, weights, device, backbone)
    except BackboneError as error:
        return [*checks, Check("network", f"not run again: {error}", looked=False)]
    except CacheMismatchError as error:
        todo = "Give the right file with --weights, or extract again."
        return [*checks, Check("network", str(error), (Issue("other weights", "error", str(error), todo),))]
    steps.advance()
    names = cache.layers(layer)
    one = PENULTIMATE if PENULTIMATE in names else names[0]
    checks.append(check_network(cache, one, backbone, rows[:_RUN], pixels[:_RUN]))
    steps.advance()
    if one_label:
        alone = train if len(names) == 1 else cache.features("train", one)
        checks.append(try_scales(cache, one, backbone, alone, at, pixels))
    return checks
