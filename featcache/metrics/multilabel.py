"""Quality of predictions of several labels an image: pure functions of labels and probabilities."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from featcache._utils.results import Result
from featcache.core.samples import Labels, is_multilabel
from featcache.core.thresholds import decide
from featcache.metrics.calibration import expected_calibration_error
from featcache.metrics.classification import Accuracy, evaluate
from featcache.metrics.significance import wilson_interval


@dataclass(frozen=True)
class LabelAccuracy(Result):
    """Quality of predictions of several labels for n images.

    Attributes
    ----------
    accuracy, accuracy_low, accuracy_high : float
        Fraction of images with exactly the right labels, with its 95 % Wilson interval.
    n : int
        Images.
    classes : tuple of str
        The labels.
    mean_average_precision : float, optional
        Mean of the average precisions of the labels; it depends on no threshold.
    macro_f1 : float
        Mean over the labels that occur.
    micro_f1, log_loss, calibration_error : float
        Over all pairs of an image and a label; log-loss in nats, see `expected_calibration_error`.
    images : tuple of int
        Images of each label.
    average_precision, recall : tuple of float or None
        By label; None for a label without images.
    class_precision : tuple of float or None
        By label; None for a label that is never predicted.
    """

    accuracy: float
    accuracy_low: float
    accuracy_high: float
    n: int
    classes: tuple[str, ...]
    mean_average_precision: float | None
    macro_f1: float
    micro_f1: float
    log_loss: float
    calibration_error: float
    images: tuple[int, ...]
    average_precision: tuple[float | None, ...]
    recall: tuple[float | None, ...]
    class_precision: tuple[float | None, ...]

    def __str__(self) -> str:
        precision = "none" if self.mean_average_precision is None else f"{self.mean_average_precision:.4f}"
        return (
            f"mAP {precision}, all labels right {self.accuracy:.4f} "
            f"(95 % interval {self.accuracy_low:.4f} to {self.accuracy_high:.4f}, n = {self.n})"
        )

    def describe(self, most: int = 20) -> str:
        """The figures as text; of more than `most` labels only the worst."""
        width = max(5, *map(len, self.classes))
        ranked = [(value, row) for row, value in enumerate(self.average_precision) if value is not None]
        few = len(self.classes) <= most
        rows = list(range(len(self.classes))) if few else [row for _, row in sorted(ranked)[:most]]
        lines = [
            str(self),
            f"macro F1 {self.macro_f1:.4f}, micro F1 {self.micro_f1:.4f}, log-loss {self.log_loss:.4f}, "
            f"calibration error {self.calibration_error:.4f}",
            f"{'label' if few else f'the {most} worst labels':{width + 2}}  AP      recall  precision  samples",
        ]
        for row in rows:
            figures = [
                _format_fraction(column[row]) for column in (self.average_precision, self.recall, self.class_precision)
            ]
            lines.append(f"  {self.classes[row]:{width}}  {'  '.join(figures)}     {self.images[row]}")
        return "\n".join(lines)


def evaluate_labels(
    y: NDArray[np.uint8],
    probabilities: NDArray[np.float64],
    classes: tuple[str, ...],
    predicted: NDArray[np.int64] | None = None,
) -> LabelAccuracy:
    """Compare labels, 0 or 1, with their probabilities, and with the labels that were predicted.

    Parameters
    ----------
    y, probabilities : ndarray, shape (n, c), n 1 or more
    predicted : ndarray, shape (n, c), 0 or 1, optional
        None predicts each label whose probability is above 0.5.

    Returns
    -------
    LabelAccuracy
    """
    from sklearn.metrics import f1_score, log_loss, precision_recall_fscore_support

    predicted = (decide(probabilities) if predicted is None else predicted).astype(np.uint8)
    n, occurs = len(y), np.any(y, axis=0)
    right = int((predicted == y).all(axis=1).sum())
    low, high = wilson_interval(right, n)
    precision, recall, f1, images = precision_recall_fscore_support(y, predicted, average=None, zero_division=0)
    average = _average_precisions(y, probabilities)
    pairs = np.column_stack([1 - probabilities.ravel(), probabilities.ravel()])
    return LabelAccuracy(
        accuracy=right / n,
        accuracy_low=low,
        accuracy_high=high,
        n=n,
        classes=classes,
        mean_average_precision=float(average[occurs].mean()) if occurs.any() else None,
        macro_f1=float(f1[occurs].mean()) if occurs.any() else 0.0,
        micro_f1=float(f1_score(y, predicted, average="micro", zero_division=0)),
        log_loss=float(log_loss(y.ravel(), pairs, labels=[0, 1])),
        calibration_error=expected_calibration_error(pairs, y.ravel().astype(np.int64)),
        images=tuple(int(count) for count in images),
        average_precision=_where(average, occurs),
        recall=_where(recall, occurs),
        class_precision=_where(precision, np.any(predicted, axis=0)),
    )


def mean_average_precision(y: NDArray[Any], probabilities: NDArray[np.float64]) -> float | None:
    """Mean over the labels that occur; both arguments of shape (n, c). None if no label occurs."""
    occurs = np.any(y, axis=0)
    return float(_average_precisions(y, probabilities)[occurs].mean()) if occurs.any() else None


def _average_precisions(y: NDArray[Any], probabilities: NDArray[np.float64]) -> NDArray[np.float64]:
    """Average precision of each label, shape (c,); 0 for a label without images."""
    from sklearn.metrics import average_precision_score

    average = np.zeros(y.shape[1])
    for label in np.flatnonzero(np.any(y, axis=0)):
        average[label] = average_precision_score(y[:, label], probabilities[:, label])
    return average


def judge(
    labels: Labels, predicted: NDArray[np.int64], probabilities: NDArray[np.float64] | None, classes: tuple[str, ...]
) -> Accuracy | LabelAccuracy:
    """`evaluate_labels` for images with several labels, else `evaluate`."""
    if is_multilabel(labels) and probabilities is not None:
        return evaluate_labels(labels, probabilities, classes, predicted)
    return evaluate(labels, predicted, classes, probabilities)


def _where(values: NDArray[np.float64], defined: Any) -> tuple[float | None, ...]:
    """The values; None where one is not defined."""
    return tuple(float(value) if is_defined else None for value, is_defined in zip(values, defined, strict=True))


def _format_fraction(value: float | None) -> str:
    return "none  " if value is None else f"{value:.4f}"
