"""Figures of a model: predictions, confusion matrix, calibration, training history; and of a curve in a file.

Each function reads what the figure needs and returns a function that draws it.
"""

from __future__ import annotations

import os
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from featcache._utils.regular_files import read_json
from featcache.analysis.curves import Curve
from featcache.core.model_card import CHECKPOINT, REPORT, ModelCard
from featcache.data.sources.registry import open_source
from featcache.errors import HeadError, PictureError
from featcache.heads.novelty import NoveltyFigures
from featcache.metrics.conformal import SetFigures
from featcache.metrics.predictions import read_predictions
from featcache.reports.chosen_predictions import choose_predictions
from featcache.reports.plots import (
    plot_confusion,
    plot_coverage,
    plot_curve,
    plot_history,
    plot_novelty,
    plot_reliability,
)
from featcache.reports.samples.registry import sample_report
from featcache.reports.style import DrawFigure

_Path = str | os.PathLike[str]


def predictions_figure(model: _Path, data: _Path, images: int = 24, text_column: str | None = None) -> DrawFigure:
    """Val images or texts with their predictions, mistakes first; see `featcache.plot_predictions`."""
    card, rows = ModelCard.read(Path(model)), read_predictions(Path(model))
    modality = card.spec.modality
    chosen, title = choose_predictions(rows, images, modality)
    source = open_source(_data_folder(data, rows[0].image), text_column=text_column)
    return sample_report(modality).predictions_figure(card, chosen, source, title)


def _data_folder(data: _Path, image: str) -> _Path:
    """The folder that the image's id is relative to: the parent of `data` if that is the folder of its split."""
    folder = Path(data)
    if folder.is_dir() and not (folder / image).exists() and (folder.parent / image).exists():
        return folder.parent
    return data


def confusion_figure(model: _Path) -> DrawFigure:
    """The confusion matrix of a model on val; see `featcache.plot_confusion`."""
    card = _single_label(model, "A confusion matrix")
    try:
        confusion = np.array(card.metrics.get("confusion", ()))
    except ValueError:  # rows of different lengths
        confusion = np.array(())
    if confusion.shape != (len(card.classes),) * 2 or confusion.dtype.kind != "i":
        raise HeadError(f"{model} is damaged: its model.json has no confusion matrix. Fit it again.")
    return partial(plot_confusion, confusion.astype(np.int64), card.classes)


def reliability_figure(model: _Path) -> DrawFigure:
    """The calibration of a model on val; see `featcache.plot_reliability`."""
    _single_label(model, "A reliability diagram")
    rows = read_predictions(Path(model))
    if not all(row.probabilities for row in rows):
        remedy = "fit it with --calibrate, or use another head"
        if (Path(model) / CHECKPOINT).exists():
            remedy = "an older version trained it without saving them: train it again in another folder"
        raise PictureError(f"{model} has no probabilities: {remedy}.")
    confidence = np.array([row.probabilities[0] for row in rows])
    return partial(plot_reliability, confidence, np.array([row.right for row in rows]))


def coverage_figure(model: _Path) -> DrawFigure:
    """How often sets of labels hold the true one on val, by the requested coverage, and how large they are."""
    if not has_sets(model):
        raise PictureError(f"{model} has no figures of sets of labels: it has no scores of held-out samples, or few.")
    path = Path(model) / REPORT
    try:
        return partial(plot_coverage, [SetFigures(**one) for one in _read(path)["sets"]])
    except TypeError as error:
        raise PictureError(f"{path} is damaged: its sets are invalid.") from error


def has_sets(model: _Path) -> bool:
    """Whether the report of a model can be read, and has figures of sets of labels."""
    try:
        return bool(_read(Path(model) / REPORT).get("sets"))
    except PictureError:
        return False


def novelty_figure(model: _Path) -> DrawFigure:
    """How many samples of an unknown class are refused, by how many of the known classes are."""
    figures = _read(Path(model) / REPORT).get("novelty")
    if not figures:
        raise PictureError(f"{model} has no figures of unknown samples: they take three classes or more.")
    try:
        return partial(plot_novelty, NoveltyFigures(**{**figures, "curve": tuple(figures["curve"])}))
    except (KeyError, TypeError) as error:
        raise PictureError(f"{Path(model) / REPORT} is damaged: its novelty is invalid.") from error


def has_novelty(model: _Path) -> bool:
    """Whether the report of a model can be read, and has figures of unknown samples."""
    try:
        return bool(_read(Path(model) / REPORT).get("novelty"))
    except PictureError:
        return False


def history_figure(model: _Path) -> DrawFigure:
    """Loss and accuracy by epoch; see `featcache.plot_history`."""
    from featcache.training.loop import EpochMetrics  # needs PyTorch, which the other figures do not

    epochs = _read(Path(model) / REPORT).get("history")
    if not epochs:
        raise PictureError(
            f"{model} was not trained in epochs: give a run of `featcache finetune` or a head of `fit-head --head sgd`."
        )
    try:
        return partial(plot_history, [EpochMetrics.from_dict(epoch) for epoch in epochs])
    except TypeError as error:
        raise PictureError(f"{Path(model) / REPORT} is damaged: its history is invalid.") from error


def curve_figure(report: _Path, over: str | None = None) -> DrawFigure:
    """A curve of a file that `featcache curve --json` or `featcache benchmark` wrote; see `featcache.plot_curve`."""
    values = _read(Path(report))
    try:
        curves = [Curve.from_dict(curve) for curve in values.get("curves", [values])]
    except (KeyError, TypeError) as error:
        raise PictureError(
            f"{report} has no curve: give the output of `featcache curve --json`, or the report.json of a benchmark."
        ) from error
    curves = [curve for curve in curves if over in (None, curve.over) and curve.points]
    if not curves:
        raise PictureError(f"{report} has no curve over {over or 'views or labels'}.")
    return partial(plot_curve, curves[0])


def _single_label(model: _Path, what: str) -> ModelCard:
    card = ModelCard.read(Path(model))
    if card.multilabel:
        raise PictureError(f"{what} needs one label per sample; those of {model} have several.")
    return card


def _read(path: Path) -> dict[str, Any]:
    try:
        return dict(read_json(path))
    except FileNotFoundError as error:
        raise PictureError(f"{path} does not exist.") from error
    except (ValueError, TypeError) as error:
        raise PictureError(f"{path} is not JSON that featcache wrote: {error}") from error
