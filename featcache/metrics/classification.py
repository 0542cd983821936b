"""Accuracy of a classifier with its confidence interval: pure functions of labels and predictions."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from featcache._utils.results import Result
from featcache.metrics.calibration import expected_calibration_error
from featcache.metrics.significance import wilson_interval


def confusion_matrix(y: NDArray[np.int64], predicted: NDArray[np.int64], n_classes: int) -> NDArray[np.int64]:
    """Counts, shape (c, c), int64: row = true class, column = predicted class."""
    return np.bincount(y * n_classes + predicted, minlength=n_classes**2).reshape(n_classes, n_classes)


@dataclass(frozen=True)
class Accuracy(Result):
    """Quality of predictions for n images, over all and by class.

    Attributes
    ----------
    accuracy, accuracy_low, accuracy_high : float
        Fraction of right predictions, with its 95 % Wilson interval.
    n : int
        Images.
    classes : tuple of str
    balanced_accuracy, macro_f1 : float
        Means over the classes that have images.
    recall, class_precision : tuple of float or None
        By class; None for a class without images, or without predictions.
    confusion : tuple of tuple of int
        Counts; row = true class, column = predicted class.
    top5 : float, optional
        Fraction of images whose class is among the five most probable; None with five classes or fewer.
    log_loss : float, optional
        Mean, in nats. None without probabilities.
    calibration_error : float, optional
        See `expected_calibration_error`. None without probabilities.
    """

    accuracy: float
    accuracy_low: float
    accuracy_high: float
    n: int
    classes: tuple[str, ...]
    balanced_accuracy: float
    macro_f1: float
    recall: tuple[float | None, ...]
    class_precision: tuple[float | None, ...]
    confusion: tuple[tuple[int, ...], ...]
    top5: float | None = None
    log_loss: float | None = None
    calibration_error: float | None = None

    def __str__(self) -> str:
        return f"{self.accuracy:.4f} (95 % interval {self.accuracy_low:.4f} to {self.accuracy_high:.4f}, n = {self.n})"

    def describe(self, most: int = 20) -> str:
        """The figures and the confusion matrix as text; of more than `most` classes only the worst."""
        width = max(5, *map(len, self.classes))
        few = len(self.classes) <= most
        recall = [(value, row) for row, value in enumerate(self.recall) if value is not None]
        rows = range(len(self.classes)) if few else [row for _, row in sorted(recall)[:most]]
        lines = [f"accuracy {self}", self._others()]
        lines += [f"{'class' if few else f'the {most} worst classes':{width + 2}}  recall  precision"]
        for row in rows:
            value, precision, total = self.recall[row], self.class_precision[row], sum(self.confusion[row])
            figures = (
                "no samples"
                if value is None
                else f"{value:.4f}  {'none  ' if precision is None else f'{precision:.4f}'}     "
                f"({self.confusion[row][row]} of {total})"
            )
            lines.append(f"  {self.classes[row]:{width}}  {figures}")
        if few:
            cell = max(width, len(str(self.n)))
            lines.append("confusion (row: true class, column: predicted)")
            lines.append("  " + " " * width + "".join(f"  {name:>{cell}}" for name in self.classes))
            for name, counts in zip(self.classes, self.confusion, strict=True):
                lines.append(f"  {name:{width}}" + "".join(f"  {count:>{cell}}" for count in counts))
        return "\n".join(lines)

    def _others(self) -> str:
        figures = {
            "balanced": self.balanced_accuracy,
            "macro F1": self.macro_f1,
            "top 5": self.top5,
            "log-loss": self.log_loss,
            "calibration error": self.calibration_error,
        }
        return ", ".join(f"{name} {value:.4f}" for name, value in figures.items() if value is not None)


def evaluate(
    y: NDArray[np.int64],
    predicted: NDArray[np.int64],
    classes: tuple[str, ...],
    probabilities: NDArray[np.float64] | None = None,
) -> Accuracy:
    """Compare predictions with labels; both shape (n,), int64, indices into `classes`.

    probabilities : of the classes, shape (n, c).
    """
    confusion = confusion_matrix(y, predicted, len(classes))
    correct, n = int(np.trace(confusion)), len(y)
    totals, guesses, hits = confusion.sum(axis=1), confusion.sum(axis=0), np.diag(confusion)
    low, high = wilson_interval(correct, n)
    has_images = totals > 0
    f1 = 2 * hits / np.maximum(totals + guesses, 1)
    return Accuracy(
        accuracy=correct / n if n else 0.0,
        accuracy_low=low,
        accuracy_high=high,
        n=n,
        classes=classes,
        balanced_accuracy=float((hits[has_images] / totals[has_images]).mean()) if n else 0.0,
        macro_f1=float(f1[has_images].mean()) if n else 0.0,
        recall=_fractions(hits, totals),
        class_precision=_fractions(hits, guesses),
        confusion=tuple(tuple(int(count) for count in row) for row in confusion),
        **(_of_probabilities(y, probabilities) if probabilities is not None and n else {}),
    )


def _fractions(hits: NDArray[np.int64], totals: NDArray[np.int64]) -> tuple[float | None, ...]:
    return tuple(float(hit / total) if total else None for hit, total in zip(hits, totals, strict=True))


def _of_probabilities(y: NDArray[np.int64], probabilities: NDArray[np.float64]) -> dict[str, float | None]:
    from sklearn.metrics import (  # takes a second to import; `featcache info` does not need it
        log_loss,
        top_k_accuracy_score,
    )

    labels = np.arange(probabilities.shape[1])
    many = len(labels) > 5
    return {
        "top5": float(top_k_accuracy_score(y, probabilities, k=5, labels=labels)) if many else None,
        "log_loss": float(log_loss(y, probabilities, labels=labels)),
        "calibration_error": expected_calibration_error(probabilities, y),
    }
