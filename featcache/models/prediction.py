"""`Prediction`: what a model says of one picture; and many of them as text, CSV or JSON."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from featcache._utils.formatting import csv_row, json_safe, printable
from featcache._utils.notebook import NotebookResult
from featcache.core.samples import SEPARATOR

Format = Literal["text", "csv", "json", "jsonl"]
_COLUMNS = ["path", "label", "probability", "error", "remark"]


@dataclass(frozen=True, repr=False)
class Prediction(NotebookResult):
    """What a model says of one picture.

    path : "" for a picture that was not given as a file.
    label : the most probable class; of a model of several labels those that are more probable than their thresholds
        (0.5 as a rule), as "a|b". None where the picture could not be read; then `error` says why.
    top : pairs (class, probability), most probable first. The probability is None for heads without one.
    several : whether a picture can have several labels.
    moved_to : where a `Sorter` put the file; None where nothing is sorted. Beside a label, `error` says why it could
        not be put there.
    remark : what is odd about the pixels, such as "nearly black", or "first of several pages" of the file; None for
        nothing.
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
        """Of the most probable class."""
        return self.top[0][1] if self.top else None

    def __str__(self) -> str:
        """One line: path, class, probability, then the next classes; of several labels first those that it has."""
        if self.label is None:
            return f"{printable(self.path)}\tunreadable: {printable(self.error or '')}"
        shown = [label if share is None else f"{label} {share:.4f}" for label, share in self.top]
        named = [self.label or "none"] if self.several else []
        moved = [f"-> {place}" for place in self.moved_to or ()]
        more = [*([self.error] if self.error else []), *([f"remark: {self.remark}"] if self.remark else [])]
        return "\t".join(map(printable, [self.path, *named, *shown, *moved, *more]))

    def to_dict(self) -> dict[str, Any]:
        """JSON values; `moved_to` only where files are sorted."""
        return {
            "path": self.path,
            "label": self.label,
            "probability": self.probability,
            "top": [{"label": label, "probability": probability} for label, probability in self.top],
            "error": self.error,
            "remark": self.remark,
            **({} if self.moved_to is None else {"moved_to": list(self.moved_to)}),
        }


def format_predictions(
    predictions: Iterable[Prediction],
    kind: Format,
    moved: bool = False,
    summary: Callable[[Exception | None], Mapping[str, Any]] = lambda error: {},
) -> Iterator[str]:
    """Predictions as text, piece by piece as they come.

    Parameters
    ----------
    kind : "text", a line each; "csv"; "json", one object; "jsonl", an object a line. Bytes of a path that are no text
        are kept as surrogates: write with errors="surrogateescape". JSON is ASCII.
    moved : whether CSV has the column `moved_to`; several places are written as "a|b".
    summary : further fields of the object of "json", called after the last prediction, or with the error that ended
        them, which is raised once the object is whole. Of "jsonl" they are a last line, after an error alone.
    """
    if kind == "csv":
        yield csv_row([*_COLUMNS, "moved_to"] if moved else _COLUMNS)
    if kind == "json":
        yield '{"predictions": ['
    failure: Exception | None = None
    try:
        for number, one in enumerate(predictions):
            if kind == "text":
                yield f"{one}\n"
            elif kind == "csv":
                share = "" if one.probability is None else f"{one.probability:.6f}"
                places = [SEPARATOR.join(one.moved_to or ())] if moved else []
                yield csv_row([one.path, one.label or "", share, one.error or "", one.remark or "", *places])
            else:
                text = json.dumps(json_safe(one.to_dict()))
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
