"""The pictures of `featcache show` and of the reports: what they need is read at once, drawn when they are saved."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from featcache._utils.regular_files import read_json
from featcache.analysis.curves import Curve
from featcache.analysis.doctor.findings import Issue, IssueExample
from featcache.cache.feature_cache import FeatureCache
from featcache.core.model_card import CHECKPOINT, REPORT, ModelCard
from featcache.core.rng import content_order
from featcache.core.samples import Samples, format_labels, strata
from featcache.core.specs import PENULTIMATE, ViewSpec
from featcache.data.sources.base import Source
from featcache.data.sources.registry import open_source
from featcache.errors import HeadError, PictureError, UnreadableImageError
from featcache.metrics.predictions import ValPrediction, read_predictions
from featcache.reports.image_grids import (
    GridImage,
    PredictionImage,
    Thumbnail,
    plot_findings,
    plot_map,
    plot_predictions,
    plot_views,
)
from featcache.reports.plots import plot_confusion, plot_curve, plot_history, plot_reliability
from featcache.reports.projection import NAMES, Method, misplaced, project, spread_out
from featcache.reports.style import DrawFigure
from featcache.vision.decode import decode

_Path = str | os.PathLike[str]

_SIDE, _THUMB = 160, 64  # pixels of a picture in a gallery, and on a map
_MOST_VIEWS = 8
_UNSEEN = ("skipped", "other images")  # findings of images that cannot be drawn
_MISTAKES = 0.75  # of a gallery, at most: right predictions are to be seen, too


def views_picture(cache: _Path | FeatureCache, data: _Path, images: int = 4, seed: int = 0) -> DrawFigure:
    """What the cache has seen of some training images: the clean view and up to eight augmented ones.

    Parameters
    ----------
    data : the folder, or the CSV, that the cache was made from. images : how many, of all classes in turn.

    Raises
    ------
    CacheError. PictureError : no image, or one that is not there, or not the one that the cache has seen.
    """
    cache = cache if isinstance(cache, FeatureCache) else FeatureCache.open(cache)
    cache.require_images("a picture of views")
    numbers = range(1 + min(cache.spec.views, _MOST_VIEWS))
    rows = cache.samples.rows("train")
    rows = _in_turn(cache.samples, rows[cache.done[rows] > 0], images, seed)
    if not len(rows):
        raise PictureError(f"{cache.path} has no readable train images")
    source = open_source(data)
    views = [_read(source, cache.samples, int(row), cache.spec.view, numbers) for row in rows]
    labels = format_labels(cache.samples.labels[rows], cache.samples.classes)
    return partial(plot_views, views, labels, cache.spec.view.augment)


def predictions_picture(model: _Path, data: _Path, images: int = 24) -> DrawFigure:
    """Val images with what the model takes them for: mistakes first, the surest ones at the front, then the least
    sure of those that are right.

    Parameters
    ----------
    model : a folder of `fit_head` or `finetune`. data : the folder, or the CSV, that it was evaluated on.

    Raises
    ------
    HeadError : no model. PictureError : an image is not there, or cannot be read.
    """
    card, rows = ModelCard.read(Path(model)), read_predictions(Path(model))
    wrong = sorted((row for row in rows if not row.right), key=_confidence, reverse=True)
    right = sorted((row for row in rows if row.right), key=_confidence)
    some = wrong[: max(images - len(right), round(images * _MISTAKES))]
    some += right[: images - len(some)]
    source = open_source(_folder_of(data, rows[0].image))
    shown = [
        PredictionImage(
            _load(source, row.image, card.spec.view, range(1), None, _SIDE)[0],
            row.label,
            row.predicted,
            _confidence(row) if row.probabilities else None,
        )
        for row in some
    ]
    mistakes = sum(not row.right for row in some)
    said = f"{mistakes} of {len(wrong)} mistakes, the surest first" if wrong else "no mistakes"
    return partial(plot_predictions, shown, f"{said}; {len(rows)} val images")


def _folder_of(data: _Path, image: str) -> _Path:
    """The data folder that an image's id belongs to: the parent of `data`, where that is the folder of its split."""
    folder = Path(data)
    if folder.is_dir() and not (folder / image).exists() and (folder.parent / image).exists():
        return folder.parent
    return data


def confusion_picture(model: _Path) -> DrawFigure:
    """The confusion matrix of a model on val. Raises HeadError; PictureError where images have several labels."""
    card = _single_label(model, "A confusion matrix")
    try:
        found = np.array(card.metrics.get("confusion", ()))
    except ValueError:  # rows of different lengths
        found = np.array(())
    if found.shape != (len(card.classes),) * 2 or found.dtype.kind != "i":
        raise HeadError(f"{model} is damaged: its model.json has no confusion matrix. Fit it again.")
    return partial(plot_confusion, found.astype(np.int64), card.classes)


def reliability_picture(model: _Path) -> DrawFigure:
    """How often a model is right that says so, on val. Raises HeadError; PictureError without probabilities."""
    _single_label(model, "A reliability diagram")
    rows = read_predictions(Path(model))
    if not all(row.probabilities for row in rows):
        raise PictureError(f"{model} gives no probabilities: {_cure_of_silence(Path(model))}.")
    confidence = np.array([row.probabilities[0] for row in rows])
    return partial(plot_reliability, confidence, np.array([row.right for row in rows]))


def _cure_of_silence(model: Path) -> str:
    if (model / CHECKPOINT).exists():
        return "it was trained before featcache kept those of a run: train it again in another folder"
    return "fit it with --calibrate, or take another head"


def history_picture(model: _Path) -> DrawFigure:
    """Loss and accuracy by epoch. Raises PictureError where the model was not trained in epochs."""
    from featcache.training.loop import EpochMetrics  # of PyTorch, which the other pictures do not wait for

    epochs = _json(Path(model) / REPORT).get("history")
    if not epochs:
        raise PictureError(
            f"{model} was not trained in epochs: give a run of `featcache finetune` or a head of `fit-head --head sgd`."
        )
    try:
        return partial(plot_history, [EpochMetrics.from_dict(epoch) for epoch in epochs])
    except TypeError as error:
        raise PictureError(f"{Path(model) / REPORT} is damaged: its history is none.") from error


def curve_picture(report: _Path, over: str | None = None) -> DrawFigure:
    """A curve of a file that `featcache curve --json` or `featcache benchmark` wrote.

    Parameters
    ----------
    over : "views" or "labels"; None takes the first that is there.

    Raises
    ------
    PictureError : there is none.
    """
    found = _json(Path(report))
    try:
        curves = [Curve.from_dict(curve) for curve in found.get("curves", [found])]
    except (KeyError, TypeError) as error:
        raise PictureError(
            f"{report} holds no curve: give what `featcache curve --json` printed, or a benchmark's report.json."
        ) from error
    chosen = [curve for curve in curves if over in (None, curve.over) and curve.points]
    if not chosen:
        raise PictureError(f"{report} has no curve over {over or 'views or labels'}.")
    return partial(plot_curve, chosen[0])


def map_picture(
    cache: _Path | FeatureCache,
    data: _Path | None = None,
    *,
    method: Method = "pca",
    split: str = "val",
    images: int = 2000,
    thumbnails: int = 12,
    layer: str = PENULTIMATE,
    seed: int = 0,
) -> DrawFigure:
    """Clean features on a plane, coloured by class; with `data` small pictures of those that lie among other classes.

    Parameters
    ----------
    data : the folder, or the CSV, that the cache was made from. method : see `project`. images : at most, of all
        classes in turn. thumbnails : at most, see `misplaced`.

    Raises
    ------
    CacheError, MissingExtraError. PictureError : too few images, or one that is not there or not the one that was seen.
    """
    cache = cache if isinstance(cache, FeatureCache) else FeatureCache.open(cache)
    features = cache.features(split, layer)
    some = np.sort(_in_turn(features.samples, np.arange(len(features.samples)), images, seed))
    samples, x = features.samples.take(some), np.asarray(features.take(some).lazy_view(0)[:])
    labels = format_labels(samples.labels, samples.classes)
    points = project(x, method, seed)
    pictures = []
    if data is not None:
        cache.require_images("a map with small pictures")
        source = open_source(data)
        _, kinds = np.unique(labels, return_inverse=True)
        for row in spread_out(points, misplaced(x, kinds, len(x)), thumbnails):
            pictures.append(Thumbnail(row, _read(source, samples, row, cache.spec.view, range(1), _THUMB)[0]))
    title = f"{'' if layer == PENULTIMATE else layer + ': '}features of {len(some)} {split} images"
    return partial(plot_map, points, labels, NAMES[method], title, pictures)


def findings_picture(
    cache: _Path | FeatureCache,
    findings: Sequence[Issue],
    data: _Path,
    images: int = 36,
    rankings: Sequence[Issue] = (),
) -> DrawFigure | None:
    """The images that findings of `examine` name, the first ones of each; of pairs both.

    Those that are not there any more, or changed since, are passed over and counted in the title. None where nothing is
    left to draw.

    Parameters
    ----------
    data : the folder, or the CSV, that the cache was made from. images : at most, shared evenly among the findings.
    rankings : drawn as findings are, after them, but not counted as such.

    Raises
    ------
    CacheError.
    """
    cache = cache if isinstance(cache, FeatureCache) else FeatureCache.open(cache)
    cache.require_images("a picture of images")
    named = [finding for finding in findings if finding.images and finding.kind not in _UNSEEN]
    drawn = [*named, *rankings]
    rows = {name: row for row, name in enumerate(cache.samples.ids)}
    source = open_source(data)
    each, sections, lost = max(2, images // max(1, len(drawn))), [], 0
    for finding in drawn:
        shown: list[GridImage] = []
        for one in finding.images:
            if len(shown) + 1 + bool(one.other) > each:
                break
            places = [rows[name] for name in (one.other, one.image) if name]
            try:
                pixels = [_read(source, cache.samples, row, cache.spec.view, range(1))[0] for row in places]
            except PictureError:
                lost += 1
                continue
            told = (_told(one, cache.samples, row) for row in places)
            shown += [GridImage(picture, *texts) for picture, texts in zip(pixels, told, strict=True)]
        if shown:
            sections.append((f"{finding.kind}: {finding.what}", shown))
    if not sections:
        return None
    title = f"{len(named)} findings in {cache.path.name}"
    if lost:
        title += f"; {lost} left out, whose pictures are gone or changed"
    return partial(plot_findings, sections, title)


def _told(one: IssueExample, samples: Samples, row: int) -> tuple[str, str]:
    """What stands above and below the picture of a row."""
    (label,) = format_labels(samples.labels[[row]], samples.classes)
    if one.suggested:
        return f"is {label}", f"rather {one.suggested}"
    return label or "none", samples.ids[row]


def _in_turn(samples: Samples, rows: NDArray[np.int64], most: int, seed: int) -> NDArray[np.int64]:
    """Some of the rows, by lot, one of each class in turn."""
    rows = rows[content_order(samples.sha256[rows], seed, "show")]
    kinds = strata(samples.labels[rows])
    order = np.argsort(kinds, kind="stable")
    turn = np.empty(len(rows), np.int64)
    turn[order] = np.arange(len(rows)) - np.searchsorted(kinds[order], kinds[order])
    return rows[np.argsort(turn, kind="stable")[:most]]


def _confidence(row: ValPrediction) -> float:
    """Of several labels that of the one it is least sure of."""
    return min(row.probabilities, default=0.0)


def _single_label(model: _Path, what: str) -> ModelCard:
    card = ModelCard.read(Path(model))
    if card.multilabel:
        raise PictureError(f"{what} is of one label an image; the images of {model} have several.")
    return card


def _json(path: Path) -> dict[str, Any]:
    try:
        return dict(read_json(path))
    except FileNotFoundError as error:
        raise PictureError(f"{path} does not exist.") from error
    except (ValueError, TypeError) as error:
        raise PictureError(f"{path} is not JSON that featcache wrote: {error}") from error


def _read(
    source: Source, samples: Samples, row: int, spec: ViewSpec, numbers: range, side: int = _SIDE
) -> NDArray[np.uint8]:
    return _load(source, samples.ids[row], spec, numbers, samples.sha256[row].tobytes(), side)


def _load(
    source: Source, name: str, spec: ViewSpec, numbers: range, expected: bytes | None, side: int
) -> NDArray[np.uint8]:
    """Views of an image, made small: (len(numbers), s, s, 3). expected : hash of the file that is meant."""
    from featcache.vision.augment import make_views
    from featcache.vision.views.geometry import shrink  # of PyTorch, which the other pictures do not wait for

    where = source.local_path(name) or f"{name} of {source.name}"
    try:
        content = source.read(name)
        found = hashlib.sha256(content).digest()
        if expected not in (None, found):
            raise PictureError(f"{where} is not the image that the cache was made from. See `featcache diff`.")
        pixels = decode(content, value_range=spec.value_range)
        return np.stack([shrink(view, side) for view in make_views(pixels, spec, found, numbers)])
    except UnreadableImageError as error:
        raise PictureError(f"{where} cannot be read: {error}") from error
    except FileNotFoundError as error:
        raise PictureError(
            f"{where} does not exist. Give the folder or the CSV that the images were taken from."
        ) from error
    except OSError as error:
        raise PictureError(f"{where} cannot be read: {error.strerror or error}") from error
