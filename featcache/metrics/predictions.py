"""A model's predictions for the images of val and of test, kept beside it: what two models are compared by."""

from __future__ import annotations

import csv
from collections.abc import Container
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from featcache._utils.formatting import csv_row, plain_cell
from featcache._utils.regular_files import read_json
from featcache._utils.results import NotebookResult, Result
from featcache.core.model_card import REPORT
from featcache.core.model_folder import locate
from featcache.core.samples import SEPARATOR, Samples, format_labels
from featcache.errors import HeadError
from featcache.metrics.significance import PairedTest, paired_test

FILE, TEST, LAST = "val.csv", "test.csv", "last.csv"
"""Files beside a model: its predictions on val and on test, and, after training, those of the last epoch on val."""

_COLUMNS = ["label", "predicted", "probability"]  # after that of the sample, whose name is the modality


def predictions_csv(
    samples: Samples,
    predicted: NDArray[np.int64],
    probabilities: NDArray[np.float64] | None,
    modality: str = "image",
) -> bytes:
    """Content of val.csv: a row a sample; the probability is that of the predicted class, empty where there is none.

    Several labels are written as `a|b`, and so are their probabilities. modality : what the samples are, which is the
    name of the first column.
    """
    cells = [""] * len(samples)
    if probabilities is not None:
        named = ([row] if row.ndim == 0 else np.flatnonzero(row) for row in predicted)
        cells = [
            SEPARATOR.join(f"{row[label]:.6f}" for label in labels_of_row)
            for row, labels_of_row in zip(probabilities, named, strict=True)
        ]
    labels, guesses = (format_labels(values, samples.classes) for values in (samples.labels, predicted))
    text = "".join(map(csv_row, [[modality, *_COLUMNS], *zip(samples.ids, labels, guesses, cells, strict=True)]))
    return text.encode("utf-8", "surrogateescape")


def split_predictions_csv(
    samples: Samples,
    split: str,
    skipped: Container[int],
    labels: NDArray[Any],
    predicted: NDArray[np.int64],
    probabilities: NDArray[np.float64] | None = None,
    modality: str = "image",
) -> bytes | None:
    """`predictions_csv` of the images of a split that could be read; None where one came or went meanwhile.

    samples : of all splits. skipped : rows of them. labels, predicted, probabilities : of the images read, in order.
    """
    rows = np.array([row for row in samples.rows(split) if row not in skipped], dtype=np.int64)
    if not np.array_equal(samples.labels[rows], labels):
        return None
    return predictions_csv(samples.take(rows), predicted, probabilities, modality)


@dataclass(frozen=True, repr=False)
class HeadComparison(Result, NotebookResult):
    """Two models on the same val images; they differ significantly if `test.p` is below 0.05.

    optimistic : those that kept their best epoch of these very images.
    """

    first: str
    second: str
    right: tuple[int, int]
    test: PairedTest
    optimistic: tuple[str, ...] = ()

    def __str__(self) -> str:
        n, names = self.test.n, (self.first, self.second)
        width = max(map(len, names))
        lines = [
            f"{name:{width}}  {right / n:.4f}  ({right} of {n} right, {alone} of them alone)"
            for name, right, alone in zip(names, self.right, (self.test.only_first, self.test.only_second), strict=True)
        ]
        better = self.first if self.right[0] > self.right[1] else self.second
        verdict = f"{better} is better" if self.test.p < 0.05 else "the difference is not distinguishable from noise"
        chosen = [
            f"{name} kept its best epoch of these very samples: it looks better than it is" for name in self.optimistic
        ]
        return "\n".join([*lines, f"McNemar p = {self.test.p:.2g}: {verdict}", *chosen])

    def _json_fields(self) -> dict[str, Any]:
        return {
            "first": self.first,
            "second": self.second,
            "optimistic": self.optimistic,
            "accuracy": [right / self.test.n for right in self.right],
            **asdict(self.test),
        }


def compare_heads(first: str | Path, second: str | Path) -> HeadComparison:
    """Compare the val predictions of two models image by image (McNemar's exact test).

    Parameters
    ----------
    first : str or path
        A folder that `fit_head` or `finetune` wrote.
    second : str or path
        Another one. Both models were evaluated on the same val images.

    Returns
    -------
    HeadComparison
        How many images each model predicts right, the difference and its p-value.

    Raises
    ------
    HeadError
        A folder has no predictions, or they are of other images.

    Examples
    --------
    >>> import numpy as np
    >>> from featcache import FeatureCache, compare_heads, fit_head
    >>> y = np.arange(60) % 2
    >>> x = np.random.default_rng(0).normal(size=(60, 4)) + 3 * y[:, None]
    >>> cache = FeatureCache.from_arrays(x, y)
    >>> fits = [fit_head(cache, head, head=head) for head in ("linear", "ridge")]
    >>> compare_heads("linear", "ridge").test.n
    12
    """
    first_rows, second_rows = ({row.image: row for row in read_predictions(Path(folder))} for folder in (first, second))
    if {name: row.label for name, row in first_rows.items()} != {name: row.label for name, row in second_rows.items()}:
        common = len(first_rows.keys() & second_rows.keys())
        raise HeadError(
            f"{first} and {second} were evaluated on other samples or labels: {len(first_rows)} and "
            f"{len(second_rows)} val samples, {common} in common. Fit both on caches of the same data."
        )
    right = [np.array([rows[name].right for name in first_rows]) for rows in (first_rows, second_rows)]
    return HeadComparison(
        str(first),
        str(second),
        (int(right[0].sum()), int(right[1].sum())),
        paired_test(right[0], right[1]),
        tuple(str(folder) for folder in (first, second) if _chose_by_val(Path(folder))),
    )


def _chose_by_val(folder: Path) -> bool:
    """Whether the report has epochs, of which the best on val is kept."""
    try:
        return bool(read_json(folder / REPORT)["history"])
    except (OSError, ValueError, KeyError, TypeError):
        return False


class ValPrediction(NamedTuple):
    """One line of val.csv or test.csv; several labels as "a|b". probabilities : of the predicted labels, if any."""

    image: str
    label: str
    predicted: str
    probabilities: tuple[float, ...]

    @property
    def right(self) -> bool:
        """Whether exactly the right label, or labels, were predicted."""
        return self.label == self.predicted


def read_predictions(folder: Path, file: str = FILE) -> list[ValPrediction]:
    """The rows of `predictions_csv` beside a model. Raises HeadError where there is nothing, or something else."""
    path = locate(folder, file)
    if not path.is_file():
        raise HeadError(f"{folder} has no {file}. Give folders that `featcache fit-head -o` or `finetune -o` wrote.")
    try:
        with path.open(newline="", encoding="utf-8", errors="surrogateescape") as stream:
            rows = [list(map(plain_cell, row)) for row in csv.reader(stream)]
        if rows.pop(0)[1:] != _COLUMNS or not rows:
            raise ValueError
        return [
            ValPrediction(image, label, guess, tuple(float(text) for text in cell.split(SEPARATOR) if text))
            for image, label, guess, cell in rows
        ]
    except (ValueError, IndexError, csv.Error) as error:
        raise HeadError(
            f"{path} is damaged: it is not a table of sample, {', '.join(_COLUMNS)}. Fit the model again."
        ) from error
