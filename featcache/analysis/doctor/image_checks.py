"""What only the images tell: whether the network gives again what is stored, alone and in company, and whether it does
better than bare pixels and than itself on another scale.
"""

from __future__ import annotations

import os
from contextlib import closing
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from featcache.analysis.doctor.findings import Check, Issue, IssueExample, name_row
from featcache.analysis.doctor.label_errors import ENOUGH, SURE, gain, leave_out, lower
from featcache.backbones.backbone import Backbone
from featcache.cache.feature_cache import FeatureCache
from featcache.cache.features import Features
from featcache.data.manifest import Manifest
from featcache.data.sources.registry import open_source
from featcache.errors import EmptyFolderError, FeatcacheError, first_line
from featcache.vision.loader import ViewLoader

_TOLERANCE = {"fp32": 0.01, "fp16": 0.03, "bf16": 0.15}  # of a feature's length, engines and processors between them
_SIDE = 8  # of the pixels that a head is trained on
_EXPLAINED = 0.5  # of the uncertainty: features that explain as much are no worse for pixels that do, too
_SCALED, _GOOD, _BETTER = 96, 0.95, 0.05  # images; right, so that no scale need be tried; more right, to be named
_SCALES = {
    "mean 0.485,0.456,0.406 and std 0.229,0.224,0.225": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    "mean 0.5 and std 0.5": ((0.5,) * 3, (0.5,) * 3),
    "mean 0 and std 1": ((0.0,) * 3, (1.0,) * 3),
    "mean 0 and std 1/255": ((0.0,) * 3, (1 / 255,) * 3),
}

Pixels = NDArray[np.uint8]


def read_clean(
    cache: FeatureCache, data: str | os.PathLike[str], rows: NDArray[np.int64]
) -> tuple[NDArray[np.int64], Pixels, dict[int, str]]:
    """Clean views of some rows from the files that they were made from.

    Returns
    -------
    rows : those that could be read, (m,), in the order asked for. pixels : (m, s, s, 3). lost : reasons by row.

    Raises
    ------
    EmptyFolderError : none could.
    """
    with closing(ViewLoader(Manifest(open_source(data), cache.samples, {}), cache.spec.view)) as loader:
        batches = list(loader.batches(rows, range(1), 64))
        lost = dict(loader.skipped)
    if not batches:
        row, reason = next(iter(lost.items()))
        raise EmptyFolderError(
            f"none of {len(rows)} images of {cache.path} is in {data} as it was; {cache.samples.ids[row]}: {reason}. "
            "Give the folder or the CSV that the cache was made from."
        )
    return np.concatenate([one.rows for one in batches]), np.concatenate([one.inputs for one in batches]), lost


def check_network(
    cache: FeatureCache, layer: str, backbone: Backbone, rows: NDArray[np.int64], pixels: Pixels
) -> Check:
    """Whether the network gives the same features for an image alone, in one batch of all m, and in the cache; other
    sizes of a batch are not tried. It is run on the cache's scale, which `examine` compares with its own.

    layer : one. rows : (m,), of which pixels (m, s, s, 3) are the clean views.
    """
    found: list[Issue] = []
    spec = cache.spec
    same = (spec.mean, spec.std) == (backbone.mean, backbone.std)
    run = backbone if same else _rescaled(backbone, layer, spec.mean, spec.std)
    region = cache.layout.layers[layer].of(cache.layout.data)
    stored = np.asarray(region[rows, 0], np.float32)
    names = [name_row(cache.samples, int(row)) for row in rows]
    tolerance = _TOLERANCE.get(cache.spec.precision, 0.01)
    together = run.embed_layers(pixels)[layer]
    try:
        alone = np.concatenate([run.embed_layers(one[None])[layer] for one in pixels])
    except (ValueError, RuntimeError) as error:
        what = f"the network does not take one image alone: {first_line(error)}"
        return Check("network", what, (Issue("drift with batch", "error", what, _MODE),))
    drift, change = _apart(alone, together), _apart(together, stored, region.dtype)
    said = f"{len(rows)} images alone and in a batch differ by {drift.max():.2%}, from the cache by {change.max():.2%}"
    if drift.max() > tolerance:
        what = f"features of {int((drift > tolerance).sum())} of {len(rows)} images depend on the batch, by up to "
        worst = _named(names, drift, tolerance)
        found.append(Issue("drift with batch", "error", f"{what}{drift.max():.1%} of their length", _MODE, worst))
    if change.max() > tolerance:
        made = ", ".join(f"{name} {version}" for name, version in cache.provenance.get("versions", {}).items())
        what = f"the network gives other features than the cache holds for {int((change > tolerance).sum())} of "
        todo = (
            "The network was in train() mode, or weights, preprocessing or a library changed since"
            f"{f' (made with {made})' if made else ''}: extract again to another file."
        )
        worst = _named(names, change, tolerance)
        what = f"{what}{len(rows)} images, {change.max():.1%} of their length apart at most"
        found.append(Issue("other features", "error", what, todo, worst))
    return Check("network", said, tuple(found))


def check_pixels(train: Features, rows: NDArray[np.int64], pixels: Pixels, seed: int = 0) -> Check:
    """Whether features tell the classes apart better than the picture's pixels, the means of 8 by 8 squares.

    They stand in for the features of a network that has learnt nothing, which would have to run on all images.

    rows : places in train, (m,), of pixels (m, s, s, 3).
    """
    some = train.take(rows)
    bare = _small(pixels).reshape(len(rows), 1, -1)
    try:
        tuned, plain = (leave_out(Features(x, some.samples), seed) for x in (np.asarray(some.x)[:, :1], bare))
    except FeatcacheError as error:
        return Check("pixels", f"not compared with: {error}", looked=False)
    mine, labels, theirs = tuned.shares, tuned.y, plain.shares
    explained, _ = gain(mine, labels)
    less, sure = gain(mine, labels, theirs)
    right, bare_right = (float((p.argmax(axis=1) == labels).mean()) for p in (mine, theirs))
    said = f"a head on features is right on {right:.0%} of {len(labels)} images that it was not fitted to, one on the "
    said += f"bare picture (mean colours of 8 x 8 squares, in place of an untrained network) on {bare_right:.0%}; "
    said += f"the log-loss of features is {lower(less)}"
    if sure > SURE:
        return Check("pixels", said)
    if explained >= _EXPLAINED:
        todo = "Usual for small aligned pictures such as digits; for photos try another --backbone."
        return Check("pixels", said, (Issue("no better than pixels", "note", said, todo),))
    todo = (
        "The pretrained network is worth nothing here: look at the spec's mean, std, image_size and backbone "
        "(`featcache info`), that its weights are not none, and at the labels."
    )
    severity = "error" if len(labels) - np.bincount(labels).max() >= ENOUGH else "note"
    return Check("pixels", said, (Issue("no better than pixels", severity, said, todo),))  # type: ignore[arg-type]


def try_scales(
    cache: FeatureCache, layer: str, backbone: Backbone, train: Features, rows: NDArray[np.int64], pixels: Pixels
) -> Check:
    """Whether the network tells the classes apart better where its input has another usual scale.

    rows, pixels : as of `check_pixels`; up to 96 of the four largest classes are taken.
    """
    chosen = _of_few_classes(train.y[rows])
    pixels, some = pixels[chosen], train.take(rows[chosen])
    spec, samples = cache.spec, some.samples
    try:
        own_head = leave_out(Features(np.asarray(some.x)[:, :1], samples))
        mine, labels = own_head.shares, own_head.y
        own = float((mine.argmax(axis=1) == labels).mean())
        if own >= _GOOD:
            said = f"a head is right on {own:.0%} of {len(labels)} images that it was not fitted to"
            return Check("scales", f"{said}: other scales of the input were not tried")
        better = []
        for name, (mean, std) in _SCALES.items():
            if (mean, std) == (spec.mean, spec.std):
                continue
            other = _embed(_rescaled(backbone, layer, mean, std), layer, pixels)
            theirs = leave_out(Features(other[:, None], samples)).shares
            _, sure = gain(theirs, labels, mine)
            better.append((sure, name, float((theirs.argmax(axis=1) == labels).mean())))
    except FeatcacheError as error:
        return Check("scales", f"not tried: {error}", looked=False)
    sure, name, right = max(better)
    said = f"a head is right on {own:.0%} of {len(labels)} images that it was not fitted to; on the best of "
    said += f"{len(better)} other scales of the input, {name}, on {right:.0%}"
    if sure <= SURE or right < own + _BETTER:
        return Check("scales", said)
    todo = f"The weights expect {name}: extract again with a Backbone that has them (the cache has mean {spec.mean} "
    todo += f"and std {spec.std})."
    return Check("scales", said, (Issue("other scale is better", "warning", said, todo),))


_MODE = (
    "A layer works on the batch, as BatchNorm does in train() mode: call eval(), check that nothing undoes it, and "
    "extract again."
)


def _of_few_classes(y: NDArray[np.int64], classes: int = 4) -> NDArray[np.int64]:
    """Places of up to 96 images of the largest classes, evenly."""
    counts = np.bincount(y)
    chosen = np.argsort(-counts, kind="stable")[: min(classes, np.count_nonzero(counts))]
    return np.sort(np.concatenate([np.flatnonzero(y == label)[: _SCALED // len(chosen)] for label in chosen]))


def _rescaled(
    backbone: Backbone, layer: str, mean: tuple[float, float, float], std: tuple[float, float, float]
) -> Backbone:
    """The same network behind another normalisation."""
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


def _small(pixels: Pixels) -> NDArray[np.float32]:
    """Means of 8 by 8 squares, (m, 8, 8, 3); a side that is no multiple of 8 loses its last pixels."""
    m, side = pixels.shape[:2]
    if side < _SIDE:
        return np.asarray(pixels / 255, np.float32)
    step = side // _SIDE
    cut = pixels[:, : step * _SIDE, : step * _SIDE].reshape(m, _SIDE, step, _SIDE, step, 3)
    return np.asarray(cut.mean(axis=(2, 4)) / 255, np.float32)


def _apart(a: NDArray[np.float32], b: NDArray[np.float32], stored: np.dtype[Any] | None = None) -> NDArray[np.float64]:
    """How far rows are apart, over their length, or the usual one where a blank picture has hardly any.

    stored : dtype of which b was; what it has no bits for does not count.
    """
    least = float(np.finfo(stored).smallest_subnormal) * np.sqrt(b.shape[1]) if stored else 0.0
    length = np.linalg.norm(b, axis=1)
    usual = max(float(np.median(length)), float(np.finfo(np.float32).tiny))
    apart = np.maximum(np.linalg.norm(a - b, axis=1) - least, 0)
    return np.asarray(apart / np.maximum(length, usual), np.float64)


def _named(names: list[IssueExample], apart: NDArray[np.float64], tolerance: float) -> tuple[IssueExample, ...]:
    order = [place for place in np.argsort(-apart, kind="stable") if apart[place] > tolerance]
    return tuple(replace(names[place], score=float(apart[place])) for place in order)
