"""Checks that need the images: whether the network reproduces the cached features, and beats plain pixels.

They also try other input scales.
"""

from __future__ import annotations

import os
from contextlib import closing
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from featcache._utils.formatting import plural
from featcache.analysis.doctor.findings import Check, Issue, IssueExample, Severity, name_row
from featcache.analysis.doctor.label_errors import ENOUGH, SIGNIFICANT_Z, HeldOutProbabilities, gain, leave_out, lower
from featcache.backbones.backbone import Backbone
from featcache.cache.feature_cache import FeatureCache
from featcache.cache.features import Features
from featcache.data.manifest import Manifest
from featcache.data.sources.registry import open_source
from featcache.errors import EmptyFolderError, FeatcacheError, first_line
from featcache.vision.loader import ViewLoader

_TOLERANCE = {"fp32": 0.01, "fp16": 0.03, "bf16": 0.15}  # of a feature's length, between engines and processors
_SIDE = 8  # the pixel head sees means of 8 x 8 squares
_EXPLAINED = 0.5  # of the uncertainty: features that explain as much are good even if pixels do as well
_SCALE_IMAGES = 96  # for trying other scales
_GOOD_ACCURACY = 0.95  # no other scale is tried above it
_BETTER = 0.05  # points of accuracy by which another scale must be better
_SCALES = {
    "mean 0.485,0.456,0.406 and std 0.229,0.224,0.225": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    "mean 0.5 and std 0.5": ((0.5,) * 3, (0.5,) * 3),
    "mean 0 and std 1": ((0.0,) * 3, (1.0,) * 3),
    "mean 0 and std 1/255": ((0.0,) * 3, (1 / 255,) * 3),
}
_EVAL_REMEDY = (
    "A layer depends on the batch, like BatchNorm in train() mode: call eval(), check that nothing reverts it, and "
    "extract again."
)

Pixels = NDArray[np.uint8]


def read_clean(
    cache: FeatureCache, data: str | os.PathLike[str], rows: NDArray[np.int64]
) -> tuple[NDArray[np.int64], Pixels, dict[int, str]]:
    """Read the clean views of rows from the files that the cache was made from.

    Returns
    -------
    rows : NDArray[np.int64]
        The readable rows (m,), in the given order.
    pixels : NDArray[np.uint8]
        Their views (m, s, s, 3).
    missing : dict of int to str
        Reasons by row.

    Raises
    ------
    EmptyFolderError
        No image could be read.
    """
    with closing(ViewLoader(Manifest(open_source(data), cache.samples, {}), cache.spec.image_view)) as loader:
        batches = list(loader.batches(rows, range(1), 64))
        missing = dict(loader.skipped)
    if not batches:
        row, reason = next(iter(missing.items()))
        raise EmptyFolderError(
            f"none of the {plural(len(rows), 'image')} of {cache.path} is in {data}; for example "
            f"{cache.samples.ids[row]}: {reason}. Give the folder or the CSV that the cache was made from."
        )
    return (
        np.concatenate([batch.rows for batch in batches]),
        np.concatenate([batch.inputs for batch in batches]),
        missing,
    )


def check_network(
    cache: FeatureCache, layer: str, backbone: Backbone, rows: NDArray[np.int64], pixels: Pixels
) -> Check:
    """Whether the network gives the same features for a single image, in a batch, and in the cache.

    It runs on the input scale of the cache, which `doctor` compares with the network's scale elsewhere.

    rows : (m,), with the clean views pixels (m, s, s, 3).
    """
    spec = cache.spec
    same_scale = (spec.image_view.mean, spec.image_view.std) == (backbone.mean, backbone.std)
    network = backbone if same_scale else _rescaled(backbone, layer, spec.image_view.mean, spec.image_view.std)
    region = cache.layout.layers[layer].view(cache.layout.data)
    stored = np.asarray(region[rows, 0], np.float32)
    examples = [name_row(cache.samples, int(row)) for row in rows]
    tolerance = _TOLERANCE.get(cache.spec.precision, 0.01)
    in_batch = network.embed_layers(pixels)[layer]
    try:
        single = np.concatenate([network.embed_layers(image[None])[layer] for image in pixels])
    except (ValueError, RuntimeError) as error:
        what = f"the network does not accept a single image: {first_line(error)}"
        return Check("network", what, (Issue("drift with batch", "error", what, _EVAL_REMEDY),))
    drift = _relative_distance(single, in_batch)
    change = _relative_distance(in_batch, stored, region.dtype)
    n = len(rows)
    issues: list[Issue] = []
    if drift.max() > tolerance:
        depends = "depends" if (count := int((drift > tolerance).sum())) == 1 else "depend"
        what = f"the features of {count} of {plural(n, 'image')} {depends} on the batch, by up to {drift.max():.1%}"
        issues.append(Issue("drift with batch", "error", what, _EVAL_REMEDY, _worst(examples, drift, tolerance)))
    if change.max() > tolerance:
        versions = ", ".join(f"{name} {version}" for name, version in cache.provenance.get("versions", {}).items())
        what = (
            f"the network gives other features than the cache has for {int((change > tolerance).sum())} of "
            f"{plural(n, 'image')}; they differ by up to {change.max():.1%}"
        )
        remedy = (
            "The network was in train() mode, or the weights, the preprocessing or a library have changed"
            f"{f' (the cache was made with {versions})' if versions else ''}: extract again to another file."
        )
        issues.append(Issue("other features", "error", what, remedy, _worst(examples, change, tolerance)))
    summary = (
        f"features of {plural(n, 'image')} differ by at most {drift.max():.2%} between single images and a batch, and "
        f"by {change.max():.2%} from the cache"
    )
    return Check("network", summary, tuple(issues))


def check_pixels(train: Features, rows: NDArray[np.int64], pixels: Pixels, seed: int = 0) -> Check:
    """Whether features separate the classes better than the pixels, averaged over 8 x 8 squares.

    The pixels stand for the features of an untrained network, which would have to run on all images.

    rows : indices in train, (m,), of pixels (m, s, s, 3).
    """
    chosen = train.take(rows)
    averages = _average_pixels(pixels).reshape(len(rows), 1, -1)
    try:
        by_features, by_pixels = (
            leave_out(Features(x, chosen.samples), seed) for x in (np.asarray(chosen.x)[:, :1], averages)
        )
    except FeatcacheError as error:
        return Check("pixels", f"not compared: {error}", ran=False)
    labels = by_features.y
    explained, _ = gain(by_features.probabilities, labels)
    less, z = gain(by_features.probabilities, labels, by_pixels.probabilities)
    summary = (
        f"a head on features is right on {_accuracy(by_features):.0%} of {plural(len(labels), 'image')} that it was "
        f"not fitted to, a head on plain pixels (mean colours of 8 x 8 squares, instead of an untrained network) on "
        f"{_accuracy(by_pixels):.0%}; the log-loss of features is {lower(less)}"
    )
    if z > SIGNIFICANT_Z:
        return Check("pixels", summary)
    if explained >= _EXPLAINED:
        remedy = "Usual for small aligned images such as digits. For photos try another --backbone."
        return Check("pixels", summary, (Issue("no better than pixels", "note", summary, remedy),))
    remedy = (
        "The pretrained network does not help on this data: check the mean, std, image_size and backbone of the cache "
        "(`featcache info`), that its weights are not none, and the labels."
    )
    severity: Severity = "error" if len(labels) - np.bincount(labels).max() >= ENOUGH else "note"
    return Check("pixels", summary, (Issue("no better than pixels", severity, summary, remedy),))


def try_scales(
    cache: FeatureCache, layer: str, backbone: Backbone, train: Features, rows: NDArray[np.int64], pixels: Pixels
) -> Check:
    """Whether the network separates the classes better with another common input scale.

    rows, pixels : as in `check_pixels`; up to 96 of the four largest classes are used.
    """
    indices = _of_few_classes(train.y[rows])
    pixels, chosen = pixels[indices], train.take(rows[indices])
    spec, samples = cache.spec, chosen.samples
    try:
        cached = leave_out(Features(np.asarray(chosen.x)[:, :1], samples))
        labels, accuracy = cached.y, _accuracy(cached)
        summary = f"a head is right on {accuracy:.0%} of {plural(len(labels), 'image')} that it was not fitted to"
        if accuracy >= _GOOD_ACCURACY:
            return Check("scales", f"{summary}: other input scales were not tried")
        trials = []
        for name, (mean, std) in _SCALES.items():
            if (mean, std) == (spec.image_view.mean, spec.image_view.std):
                continue
            features = _embed(_rescaled(backbone, layer, mean, std), layer, pixels)
            rescaled = leave_out(Features(features[:, None], samples))
            _, z = gain(rescaled.probabilities, labels, cached.probabilities)
            trials.append((z, name, _accuracy(rescaled)))
    except FeatcacheError as error:
        return Check("scales", f"not tried: {error}", ran=False)
    z, name, best = max(trials)
    summary = f"{summary}; the best of {len(trials)} other input scales, {name}, gives {best:.0%}"
    if z <= SIGNIFICANT_Z or best < accuracy + _BETTER:
        return Check("scales", summary)
    remedy = (
        f"The weights expect {name}: extract again with a Backbone that has them (the cache has mean "
        f"{spec.image_view.mean} and std {spec.image_view.std})."
    )
    return Check("scales", summary, (Issue("other scale is better", "warning", summary, remedy),))


def _accuracy(held_out: HeldOutProbabilities) -> float:
    return float((held_out.probabilities.argmax(axis=1) == held_out.y).mean())


def _of_few_classes(y: NDArray[np.int64], classes: int = 4) -> NDArray[np.int64]:
    """Indices of up to 96 images of the largest classes, evenly."""
    counts = np.bincount(y)
    largest = np.argsort(-counts, kind="stable")[: min(classes, np.count_nonzero(counts))]
    each = _SCALE_IMAGES // len(largest)
    return np.sort(np.concatenate([np.flatnonzero(y == label)[:each] for label in largest]))


def _rescaled(
    backbone: Backbone, layer: str, mean: tuple[float, float, float], std: tuple[float, float, float]
) -> Backbone:
    """The same network with another normalization."""
    return Backbone(
        backbone.module,
        name=backbone.name,
        weights=backbone.weights,
        image_size=backbone.image_size,
        resize_size=backbone.resize_size,
        mean=mean,
        std=std,
        layers=(layer,),
        device=backbone.device,
        precision=backbone.precision,
    )


def _embed(backbone: Backbone, layer: str, pixels: Pixels) -> NDArray[np.float32]:
    step = backbone.batch_size
    return np.concatenate(
        [backbone.embed_layers(pixels[start : start + step])[layer] for start in range(0, len(pixels), step)]
    )


def _average_pixels(pixels: Pixels) -> NDArray[np.float32]:
    """Means of 8 x 8 squares, (m, 8, 8, 3); pixels beyond a multiple of 8 are dropped."""
    m, side = pixels.shape[:2]
    if side < _SIDE:
        return np.asarray(pixels / 255, np.float32)
    step = side // _SIDE
    squares = pixels[:, : step * _SIDE, : step * _SIDE].reshape(m, _SIDE, step, _SIDE, step, 3)
    return np.asarray(squares.mean(axis=(2, 4)) / 255, np.float32)


def _relative_distance(
    a: NDArray[np.float32], b: NDArray[np.float32], stored: np.dtype[Any] | None = None
) -> NDArray[np.float64]:
    """Distance of rows, divided by their length, or by the median length if that is larger (blank pictures).

    stored : dtype in which b was stored; differences that it cannot represent do not count.
    """
    rounding = float(np.finfo(stored).smallest_subnormal) * np.sqrt(b.shape[1]) if stored else 0.0
    length = np.linalg.norm(b, axis=1)
    median = max(float(np.median(length)), float(np.finfo(np.float32).tiny))
    distance = np.maximum(np.linalg.norm(a - b, axis=1) - rounding, 0)
    return np.asarray(distance / np.maximum(length, median), np.float64)


def _worst(examples: list[IssueExample], distance: NDArray[np.float64], tolerance: float) -> tuple[IssueExample, ...]:
    """The images beyond the tolerance, the worst first."""
    order = [row for row in np.argsort(-distance, kind="stable") if distance[row] > tolerance]
    return tuple(replace(examples[row], score=float(distance[row])) for row in order)
