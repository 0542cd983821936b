"""How good a classifier is, and how sure that is: pure functions of labels and predictions."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from featcache.metrics.calibration import expected_calibration_error
from featcache.metrics.significance import wilson_interval


def confusion_matrix(y: NDArray[np.int64], predicted: NDArray[np.int64], n_classes: int) -> NDArray[np.int64]:
    """Counts, shape (c, c), int64: row = true class, column = predicted class."""
    return np.bincount(y * n_classes + predicted, minlength=n_classes**2).reshape(n_classes, n_classes)


@dataclass(frozen=True)
class Accuracy:
    """How good predictions for n images are: accuracy with its 95 % Wilson interval, and per class.

    balanced_accuracy, macro_f1 : means over the classes that have images. recall, class_precision : None for a class
    without images, or without predictions. top5 : share of images with the true class among the five most probable.
    log_loss : mean, in nats. calibration_error : see `expected_calibration_error`. The last three need probabilities;
    top5 needs more than five classes, too.
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

    def to_dict(self) -> dict[str, Any]:
        """JSON values."""
        fields = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        lists = {name: list(fields[name]) for name in ("classes", "recall", "class_precision")}
        return {**fields, **lists, "confusion": [list(row) for row in self.confusion]}

    def __str__(self) -> str:
        return f"{self.accuracy:.4f} (95 % interval {self.accuracy_low:.4f} to {self.accuracy_high:.4f}, n = {self.n})"

    def describe(self, most: int = 20) -> str:
        """The figures and the confusion matrix as text; the worst `most` classes of many."""
        width = max(5, *map(len, self.classes))
        few = len(self.classes) <= most
        recall = [(value, row) for row, value in enumerate(self.recall) if value is not None]
        rows = range(len(self.classes)) if few else [row for _, row in sorted(recall)[:most]]
        lines = [f"accuracy {self}", self._others()]
        lines += [f"{'class' if few else f'the {most} worst classes':{width + 2}}  recall  precision"]
        for row in rows:
            value, precision, total = self.recall[row], self.class_precision[row], sum(self.confusion[row])
            share = (
                "no images"
                if value is None
                else f"{value:.4f}  {'none  ' if precision is None else f'{precision:.4f}'}     "
                f"({self.confusion[row][row]} of {total})"
            )
            lines.append(f"  {self.classes[row]:{width}}  {share}")
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
    there = totals > 0
    f1 = 2 * hits / np.maximum(totals + guesses, 1)
    return Accuracy(
        accuracy=correct / n if n else 0.0,
        accuracy_low=low,
        accuracy_high=high,
        n=n,
        classes=classes,
        balanced_accuracy=float((hits[there] / totals[there]).mean()) if n else 0.0,
        macro_f1=float(f1[there].mean()) if n else 0.0,
        recall=_shares(hits, totals),
        class_precision=_shares(hits, guesses),
        confusion=tuple(tuple(int(count) for count in row) for row in confusion),
        **(_of_probabilities(y, probabilities) if probabilities is not None and n else {}),
    )


def _shares(hits: NDArray[np.int64], totals: NDArray[np.int64]) -> tuple[float | None, ...]:
    return tuple(float(hit / total) if total else None for hit, total in zip(hits, totals, strict=True))


def _of_probabilities(y: NDArray[np.int64], probabilities: NDArray[np.float64]) -> dict[str, float | None]:
    from sklearn.metrics import log_loss, top_k_accuracy_score  # a second, which `info` does not wait for

    labels = np.arange(probabilities.shape[1])
    many = len(labels) > 5
    return {
        "top5": float(top_k_accuracy_score(y, probabilities, k=5, labels=labels)) if many else None,
        "log_loss": float(log_loss(y, probabilities, labels=labels)),
        "calibration_error": expected_calibration_error(probabilities, y),
    }
