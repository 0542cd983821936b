"""How good a classifier is, and how sure that is: pure functions of labels and predictions."""

from __future__ import annotations

from dataclasses import dataclass
from math import sqrt
from typing import Any

import numpy as np
from numpy.typing import NDArray

_Z95 = 1.959963984540054  # the 97.5 % quantile of the standard normal distribution


def wilson_interval(correct: int, n: int) -> tuple[float, float]:
    """95 % interval of a proportion (Wilson 1927). With n = 0 it is (0, 1): nothing is known."""
    if n == 0:
        return 0.0, 1.0
    p = correct / n
    centre = p + _Z95**2 / (2 * n)
    half = _Z95 * sqrt(p * (1 - p) / n + _Z95**2 / (4 * n * n))
    scale = 1 + _Z95**2 / n
    # Rounding must not push a bound past the proportion itself, which happens at 0 and 1.
    return max(0.0, min(p, (centre - half) / scale)), min(1.0, max(p, (centre + half) / scale))


def confusion_matrix(y: NDArray[np.int64], predicted: NDArray[np.int64], n_classes: int) -> NDArray[np.int64]:
    """Counts, shape (c, c), int64: row = true class, column = predicted class."""
    return np.bincount(y * n_classes + predicted, minlength=n_classes**2).reshape(n_classes, n_classes)


@dataclass(frozen=True)
class Accuracy:
    """Accuracy on n images with its 95 % Wilson interval, per-class recall and the confusion matrix.

    `recall` has None for a class without images in this split.
    """

    accuracy: float
    accuracy_low: float
    accuracy_high: float
    n: int
    classes: tuple[str, ...]
    recall: tuple[float | None, ...]
    confusion: tuple[tuple[int, ...], ...]

    def to_dict(self) -> dict[str, Any]:
        """JSON values."""
        return {
            "accuracy": self.accuracy,
            "accuracy_low": self.accuracy_low,
            "accuracy_high": self.accuracy_high,
            "n": self.n,
            "classes": list(self.classes),
            "recall": list(self.recall),
            "confusion": [list(row) for row in self.confusion],
        }

    def __str__(self) -> str:
        return f"{self.accuracy:.4f} (95 % interval {self.accuracy_low:.4f} to {self.accuracy_high:.4f}, n = {self.n})"


def evaluate(y: NDArray[np.int64], predicted: NDArray[np.int64], classes: tuple[str, ...]) -> Accuracy:
    """Compare predictions with labels; both shape (n,), int64, indices into `classes`."""
    confusion = confusion_matrix(y, predicted, len(classes))
    correct, n = int(np.trace(confusion)), len(y)
    totals = confusion.sum(axis=1)
    low, high = wilson_interval(correct, n)
    return Accuracy(
        correct / n if n else 0.0,
        low,
        high,
        n,
        classes,
        tuple(float(hit / total) if total else None for hit, total in zip(np.diag(confusion), totals, strict=True)),
        tuple(tuple(int(count) for count in row) for row in confusion),
    )


def describe(accuracy: Accuracy, most: int = 20) -> str:
    """Accuracy, recall of each class and the confusion matrix as text; the worst `most` classes of many."""
    width = max(map(len, accuracy.classes))
    few = len(accuracy.classes) <= most
    recall = [(value, row) for row, value in enumerate(accuracy.recall) if value is not None]
    rows = range(len(accuracy.classes)) if few else [row for _, row in sorted(recall)[:most]]
    lines = [f"accuracy {accuracy}", "recall by class" if few else f"recall, the {most} worst classes"]
    for row in rows:
        value, total = accuracy.recall[row], sum(accuracy.confusion[row])
        share = "no images" if value is None else f"{value:.4f}  ({accuracy.confusion[row][row]} of {total})"
        lines.append(f"  {accuracy.classes[row]:{width}}  {share}")
    if few:
        cell = max(width, len(str(accuracy.n)))
        lines.append("confusion (row: true class, column: predicted)")
        lines.append("  " + " " * width + "".join(f"  {name:>{cell}}" for name in accuracy.classes))
        for name, counts in zip(accuracy.classes, accuracy.confusion, strict=True):
            lines.append(f"  {name:{width}}" + "".join(f"  {count:>{cell}}" for count in counts))
    return "\n".join(lines)
