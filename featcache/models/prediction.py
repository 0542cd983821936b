"""`Prediction`: what a model predicts for one image; and many of them as text, CSV or JSON."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from featcache._utils.formatting import csv_row, json_safe, printable
from featcache._utils.results import NotebookResult, Result, as_records
from featcache.core.samples import SEPARATOR

Format = Literal["text", "csv", "json", "jsonl"]
_COLUMNS = ["path", "label", "probability", "error", "remark"]


@dataclass(frozen=True, repr=False)
class Prediction(Result, NotebookResult):
    """What a model predicts for one image.

    Attributes
    ----------
    path : str
        "" for an image that was not given as a file.
    label : str, optional
        The most probable class. If images have several labels: those whose probability is above their threshold
        (usually 0.5), as "a|b". None if the image could not be read; then `error` gives the reason.
    top : tuple of (str, float or None)
        Classes and their probabilities, the most probable first. The probability is None for heads without one.
    error : str, optional
        Why the image could not be read; with a label, why its file could not be moved or linked.
    several : bool
        Whether images can have several labels.
    moved_to : tuple of str, optional
        Where a `FileSorter` put the file. None if files are not sorted.
    remark : str, optional
        What is odd about the image, such as "nearly black" or "first of several pages".

    Examples
    --------
    >>> from featcache import Prediction
    >>> prediction = Prediction("photo.jpg", "ants", (("ants", 0.75), ("bees", 0.25)))
    >>> prediction.probability
    0.75
    """

    path: str
    label: str | None
    top: tuple[tuple[str, float | None], ...]
    error: str | None = None
    several: bool = False
    moved_to: tuple[str, ...] | None = None
    remark: str | None = None

    @property
    def probability(self) -> float | None:
        """The probability of the most probable class."""
        return self.top[0][1] if self.top else None

    def __str__(self) -> str:
        """One line: the path and the top classes; if images have several labels, first the labels."""
        if self.label is None:
            return f"{printable(self.path)}\tunreadable: {printable(self.error or '')}"
        labels = [self.label or "none"] if self.several else []
        classes = [name if probability is None else f"{name} {probability:.4f}" for name, probability in self.top]
        targets = [f"-> {target}" for target in self.moved_to or ()]
        notes = [*([self.error] if self.error else []), *([f"remark: {self.remark}"] if self.remark else [])]
        return "\t".join(map(printable, [self.path, *labels, *classes, *targets, *notes]))

    def _json_fields(self) -> dict[str, Any]:
        return {
            "path": self.path,
            "label": self.label,
            "probability": self.probability,
            "top": as_records(self.top, "label", "probability"),
            "error": self.error,
            "remark": self.remark,
            **({} if self.moved_to is None else {"moved_to": self.moved_to}),
        }


def format_predictions(
    predictions: Iterable[Prediction],
    kind: Format,
    moved: bool = False,
    summary: Callable[[Exception | None], Mapping[str, Any]] = lambda error: {},
) -> Iterator[str]:
    """Predictions as text, in pieces, as they arrive.

    Parameters
    ----------
    predictions : iterable of Prediction
    kind : {"text", "csv", "json", "jsonl"}
        "text" has a line for each, "json" is one object, "jsonl" has an object a line. JSON is ASCII. Bytes of a path
        that are not text become surrogates: write with errors="surrogateescape".
    moved : bool
        Whether CSV has the column `moved_to`. Several targets are written as "a|b". Default: False.
    summary : Callable[[Exception or None], dict]
        Further fields of the object of "json". It is called after the last prediction, or with the error that ended the
        predictions, which is raised after the object is complete. With "jsonl" they are a last line, only after an
        error.
    """
    if kind == "csv":
        yield csv_row([*_COLUMNS, "moved_to"] if moved else _COLUMNS)
    if kind == "json":
        yield '{"predictions": ['
    failure: Exception | None = None
    try:
        for number, prediction in enumerate(predictions):
            if kind == "text":
                yield f"{prediction}\n"
            elif kind == "csv":
                yield csv_row(
                    [*_csv_cells(prediction), *([SEPARATOR.join(prediction.moved_to or ())] if moved else [])]
                )
            else:
                text = json.dumps(json_safe(prediction.to_dict()))
                yield f"{text}\n" if kind == "jsonl" else f"{',' if number else ''}\n {text}"
    except Exception as error:
        failure = error
    if kind == "json":
        fields = json.dumps(json_safe(dict(summary(failure))))
        yield f"\n]{', ' if len(fields) > 2 else ''}{fields[1:]}\n"
    if failure and kind == "jsonl":
        yield f"{json.dumps(json_safe(dict(summary(failure))))}\n"
    if failure:
        raise failure


def _csv_cells(prediction: Prediction) -> list[str]:
    """The cells of `_COLUMNS`."""
    probability = "" if prediction.probability is None else f"{prediction.probability:.6f}"
    return [prediction.path, prediction.label or "", probability, prediction.error or "", prediction.remark or ""]
