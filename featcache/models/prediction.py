"""`Prediction`: what a model predicts for one image or text; and many of them as text, CSV or JSON."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from featcache._utils.formatting import csv_row, json_safe, printable
from featcache._utils.notebook_html import table
from featcache._utils.results import NotebookResult, Result, as_records
from featcache.core.samples import SEPARATOR

Format = Literal["text", "csv", "json", "jsonl"]
OptionalColumn = Literal["text", "moved_to", "label_set", "unknown"]
_COLUMNS = ["path", "label", "probability", "error", "remark"]


@dataclass(frozen=True, repr=False)
class Prediction(Result, NotebookResult):
    """What a model predicts for one image or text.

    Attributes
    ----------
    path : str
        The file, or the place of a text in a table, such as "reviews.csv, line 7"; "" for a sample in memory.
    label : str, optional
        The most probable class. If samples have several labels: those whose probability is above their threshold
        (usually 0.5), as "a|b". None if the sample could not be read, then `error` gives the reason; or if it is
        unknown.
    top : tuple of (str, float or None)
        Classes and their probabilities, the most probable first. The probability is None for heads without one.
    error : str, optional
        Why the sample could not be read; with a label, why its file could not be moved or linked.
    several : bool
        Whether samples can have several labels.
    moved_to : tuple of str, optional
        Where a `FileSorter` put the file. None if files are not sorted.
    remark : str, optional
        What is odd about the sample, such as "nearly black" or "first of several pages".
    text : str, optional
        The beginning of a text, as one line. None for images.
    label_set : tuple of str, optional
        The labels that together hold the true one as often as requested, the most probable first; it can be empty.
        None without a requested coverage.
    is_unknown : bool, optional
        Whether the sample is like none of the classes, and was refused. None if this was not requested.

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
    text: str | None = None
    label_set: tuple[str, ...] | None = None
    is_unknown: bool | None = None

    @property
    def probability(self) -> float | None:
        """The probability of the most probable class."""
        return self.top[0][1] if self.top else None

    def __str__(self) -> str:
        """One line: the path and the top classes; if samples have several labels, first the labels; a text is last."""
        if self.label is None and not self.is_unknown:
            return f"{printable(self.path)}\tunreadable: {printable(self.error or '')}"
        labels = [self.label or "none"] if self.several else ["unknown"] if self.is_unknown else []
        labels += [] if self.label_set is None else [f"{{{', '.join(self.label_set)}}}"]
        classes = [name if probability is None else f"{name} {probability:.4f}" for name, probability in self.top]
        targets = [f"-> {target}" for target in self.moved_to or ()]
        notes = [*([self.error] if self.error else []), *([f"remark: {self.remark}"] if self.remark else [])]
        text = [] if self.text is None else [self.text]
        path = [] if text and not self.path else [self.path]
        return "\t".join(map(printable, [*path, *labels, *classes, *targets, *notes, *text]))

    def _json_fields(self) -> dict[str, Any]:
        return {
            "path": self.path,
            "label": self.label,
            "probability": self.probability,
            "top": as_records(self.top, "label", "probability"),
            "error": self.error,
            "remark": self.remark,
            **({} if self.text is None else {"text": self.text}),
            **({} if self.moved_to is None else {"moved_to": self.moved_to}),
            **({} if self.label_set is None else {"label_set": self.label_set}),
            **({} if self.is_unknown is None else {"unknown": self.is_unknown}),
        }


class Predictions(list[Prediction]):
    """A list of predictions, which a notebook shows as a table."""

    def _repr_html_(self) -> str:
        return table(("path", "text", "label", "probability", "other classes", "set", "remark"), map(_html_cells, self))


def _html_cells(prediction: Prediction) -> list[str]:
    """The cells of a row of `Predictions`."""
    classes = [name if value is None else f"{name} {value:.4f}" for name, value in prediction.top]
    label = "unknown" if prediction.is_unknown else prediction.label or ""
    return [
        printable(prediction.path),
        printable(prediction.text or ""),
        label,
        "" if prediction.probability is None or prediction.several else f"{prediction.probability:.4f}",
        ", ".join(classes if prediction.several or prediction.is_unknown else classes[1:]),
        "" if prediction.label_set is None else f"{{{', '.join(prediction.label_set)}}}",
        printable(prediction.error or prediction.remark or ""),
    ]


def format_predictions(
    predictions: Iterable[Prediction],
    kind: Format,
    columns: Sequence[OptionalColumn] = (),
    summary: Callable[[Exception | None], Mapping[str, Any]] = lambda error: {},
) -> Iterator[str]:
    """Predictions as text, in pieces, as they arrive.

    Parameters
    ----------
    predictions : iterable of Prediction
    kind : {"text", "csv", "json", "jsonl"}
        "text" has a line for each, "json" is one object, "jsonl" has an object a line. JSON is ASCII. Bytes of a path
        that are not text become surrogates: write with errors="surrogateescape".
    columns : sequence of {"text", "moved_to", "label_set", "unknown"}
        Further columns of CSV. Several values of `moved_to` and `label_set` are written as "a|b". Default: none.
    summary : Callable[[Exception or None], dict]
        Further fields of the object of "json". It is called after the last prediction, or with the error that ended the
        predictions, which is raised after the object is complete. With "jsonl" they are a last line, only after an
        error.
    """
    if kind == "csv":
        yield csv_row([*_COLUMNS, *columns])
    if kind == "json":
        yield '{"predictions": ['
    failure: Exception | None = None
    try:
        for number, prediction in enumerate(predictions):
            if kind == "text":
                yield f"{prediction}\n"
            elif kind == "csv":
                yield csv_row(_csv_cells(prediction, columns))
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


def _csv_cells(prediction: Prediction, columns: Sequence[OptionalColumn]) -> list[str]:
    """The cells of `_COLUMNS`, and then of further columns."""
    probability = "" if prediction.probability is None else f"{prediction.probability:.6f}"
    cells = [prediction.path, prediction.label or "", probability, prediction.error or "", prediction.remark or ""]
    further = {
        "text": prediction.text or "",
        "moved_to": SEPARATOR.join(prediction.moved_to or ()),
        "label_set": SEPARATOR.join(prediction.label_set or ()),
        "unknown": "yes" if prediction.is_unknown else "",
    }
    return [*cells, *(further[column] for column in columns)]
