"""How good predictions of several labels an image are: pure functions of labels and probabilities."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from featcache.core.samples import Labels, is_multilabel
from featcache.core.thresholds import decide
from featcache.metrics.calibration import expected_calibration_error
from featcache.metrics.classification import Accuracy, evaluate
from featcache.metrics.significance import wilson_interval


@dataclass(frozen=True)
class LabelAccuracy:
    """How good predictions of several labels are for n images.

    accuracy : share of images with exactly the right labels, with its 95 % Wilson interval. mean_average_precision :
    mean of the labels' average precisions, which no threshold decides. macro_f1 : mean over the labels that some image
    has. micro_f1 : of all pairs of an image and a label. log_loss : mean of all pairs, in nats. calibration_error : of
    all pairs, see `expected_calibration_error`.

    Of each label: images : that have it. average_precision, recall : None where none has. class_precision : None
    where it is never predicted.
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

    def to_dict(self) -> dict[str, Any]:
        """JSON values."""
        fields = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        return {name: list(value) if isinstance(value, tuple) else value for name, value in fields.items()}

    def __str__(self) -> str:
        precision = "none" if self.mean_average_precision is None else f"{self.mean_average_precision:.4f}"
        return (
            f"mAP {precision}, all labels right {self.accuracy:.4f} "
            f"(95 % interval {self.accuracy_low:.4f} to {self.accuracy_high:.4f}, n = {self.n})"
        )

    def describe(self, most: int = 20) -> str:
        """The figures as text; the worst `most` labels of many."""
        width = max(5, *map(len, self.classes))
        known = [(value, row) for row, value in enumerate(self.average_precision) if value is not None]
        few = len(self.classes) <= most
        rows = list(range(len(self.classes))) if few else [row for _, row in sorted(known)[:most]]
        lines = [
            str(self),
            f"macro F1 {self.macro_f1:.4f}, micro F1 {self.micro_f1:.4f}, log-loss {self.log_loss:.4f}, "
            f"calibration error {self.calibration_error:.4f}",
            f"{'label' if few else f'the {most} worst labels':{width + 2}}  AP      recall  precision  images",
        ]
        for row in rows:
            shares = [_share(column[row]) for column in (self.average_precision, self.recall, self.class_precision)]
            lines.append(f"  {self.classes[row]:{width}}  {'  '.join(shares)}     {self.images[row]}")
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
    n, there = len(y), np.any(y, axis=0)
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
        mean_average_precision=float(average[there].mean()) if there.any() else None,
        macro_f1=float(f1[there].mean()) if there.any() else 0.0,
        micro_f1=float(f1_score(y, predicted, average="micro", zero_division=0)),
        log_loss=float(log_loss(y.ravel(), pairs, labels=[0, 1])),
        calibration_error=expected_calibration_error(pairs, y.ravel().astype(np.int64)),
        images=tuple(int(count) for count in images),
        average_precision=_where(average, there),
        recall=_where(recall, there),
        class_precision=_where(precision, np.any(predicted, axis=0)),
    )


def mean_average_precision(y: NDArray[Any], probabilities: NDArray[np.float64]) -> float | None:
    """Mean over the labels that some image has; both of shape (n, c). None where no image has any."""
    there = np.any(y, axis=0)
    return float(_average_precisions(y, probabilities)[there].mean()) if there.any() else None


def _average_precisions(y: NDArray[Any], probabilities: NDArray[np.float64]) -> NDArray[np.float64]:
    """Of each label, shape (c,); 0 where no image has it."""
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


def _where(values: NDArray[np.float64], known: Any) -> tuple[float | None, ...]:
    return tuple(float(value) if there else None for value, there in zip(values, known, strict=True))


def _share(value: float | None) -> str:
    return "none  " if value is None else f"{value:.4f}"
