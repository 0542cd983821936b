"""`Evaluation`: the result of `evaluate`."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from featcache._utils.formatting import plural, printable
from featcache._utils.results import NotebookResult, Result, as_records
from featcache.data.input_notes import SHOWN, input_notes, remark_notes
from featcache.metrics.classification import Accuracy
from featcache.metrics.multilabel import LabelAccuracy
from featcache.metrics.run_report import Report
from featcache.metrics.significance import wilson_interval


@dataclass(frozen=True, repr=False)
class Evaluation(Result, NotebookResult):
    """What `evaluate` returns: the metrics of a model on labelled images or texts.

    Attributes
    ----------
    model, data : str
        As they were given.
    report : Report
        `report.accuracy` holds the metrics, over the samples of classes that the model has.
    splits : dict of str to int
        The number of samples in each split of the data; "none" if it has no splits.
    left_out : dict of str to int
        The number of samples in splits that were not evaluated.
    unknown : dict of str to int
        The number of samples of each class, or with each label, that the model lacks.
    taken_for : dict of str to int
        The number of samples of unknown classes by the predicted class.
    unlabeled : int
        The number of samples without a label.
    skipped : list of (str, str)
        Unreadable samples and the reason of each.
    ignored : dict of str to int
        The number of ignored files by reason.
    own_val : dict
        The metrics on the model's own val samples, see `ModelCard.metrics`.
    notes : tuple of str
        How the data was read, such as which column is the label.
    path : Path, optional
        The folder of val.csv, run.json and unknown.csv.
    remarks : list of (str, str)
        Samples, and what is odd about each.
    remark_hint : str
        What to do about remarks on a range of values, see `SampleInputs.remark_hint`.
    modality : str
        What the samples are, "image" or "text".
    trained_on : int or None
        How many of the samples the model was trained on, by their content. 0 for models that did not save this; None if
        the samples could not be read again to find out.
    """

    model: str
    data: str
    report: Report
    splits: dict[str, int]
    left_out: dict[str, int]
    unknown: dict[str, int]
    taken_for: dict[str, int]
    unlabeled: int
    skipped: list[tuple[str, str]]
    ignored: dict[str, int]
    own_val: dict[str, Any]
    notes: tuple[str, ...] = ()
    path: Path | None = None
    remarks: list[tuple[str, str]] = field(default_factory=list)
    remark_hint: str = ""
    modality: str = "image"
    trained_on: int | None = 0

    @property
    def accuracy(self) -> Accuracy | LabelAccuracy:
        """The metrics."""
        if self.report.accuracy is None:
            raise AssertionError("an evaluation has metrics")
        return self.report.accuracy

    def __str__(self) -> str:
        lines = [*self.notes, f"{self.model} on {self.data}, {self._image_counts()}:", self.accuracy.describe()]
        if self.own_val.get("n"):
            lines.append(
                f"on its own {self.own_val['n']} val {self.modality}s it reached {self.own_val['accuracy']:.4f} "
                f"(95 % interval "
                f"{self.own_val['accuracy_low']:.4f} to {self.own_val['accuracy_high']:.4f})"
            )
        if self.trained_on:
            n = self.accuracy.n + sum(self.taken_for.values())
            lines.append(
                f"the model was trained on {self.trained_on} of these {plural(n, self.modality)} (by content), so the "
                "figures are too high"
            )
        if self.trained_on is None:
            lines.append(
                "the connection was lost before the check whether the model was trained on some of these: if so, the "
                "figures are too high"
            )
        lines += self._unknown_lines()
        if self.unlabeled:
            lines.append(f"{self.unlabeled} {self.modality}s have no label and are not counted")
        lines += input_notes(self.ignored, [], self.skipped[:SHOWN], self.modality)
        if len(self.skipped) > SHOWN:
            lines.append(f"and {len(self.skipped) - SHOWN} more skipped {self.modality}s")
        lines += remark_notes(self.remarks, self.remark_hint, self.modality)
        return "\n".join([*lines, *([f"saved in {self.path}"] if self.path else [])])

    def _json_fields(self) -> dict[str, Any]:
        return {
            **self.report.to_dict(),
            "model": self.model,
            "data": self.data,
            "splits": self.splits,
            "left_out": self.left_out,
            "unknown": self.unknown,
            "taken_for": self.taken_for,
            "unlabeled": self.unlabeled,
            "trained_on": self.trained_on,
            "skipped": as_records(self.skipped, "path", "reason"),
            "ignored": self.ignored,
            "remarks": as_records(self.remarks, "path", "remark"),
            "notes": self.notes,
            "path": self.path,
        }

    def _image_counts(self) -> str:
        splits = {name: count for name, count in self.splits.items() if name != "none"}
        evaluated = ", ".join(f"{count} {name}" for name, count in splits.items()) or f"{self.splits.get('none', 0)}"
        others = ", ".join(f"{count} {name}" for name, count in self.left_out.items())
        plural = f"{self.modality}s"
        return f"{evaluated} {plural}" + (f" ({others} {plural} left out: --split all includes them)" if others else "")

    def _unknown_lines(self) -> list[str]:
        if not self.unknown:
            return []
        classes = _format_counts(self.unknown)
        if isinstance(self.accuracy, LabelAccuracy):
            return [f"labels that the model does not know are not counted: {classes}"]
        measured, n_unknown = self.accuracy, sum(self.taken_for.values())
        total = measured.n + n_unknown
        correct = round(measured.accuracy * measured.n)
        low, high = wilson_interval(correct, total)
        return [
            f"{n_unknown} {self.modality}s of {len(self.unknown)} classes that the model does not know are not "
            f"counted: {classes}",
            f"it predicts {_format_counts(self.taken_for)} for them; counted as wrong, they make the accuracy "
            f"{correct / total:.4f} (95 % interval {low:.4f} to {high:.4f})",
        ]


def _format_counts(counts: dict[str, int]) -> str:
    texts = [f"{printable(name)} {count}" for name, count in list(counts.items())[:SHOWN]]
    return ", ".join(texts) + (f" and {len(counts) - SHOWN} more" if len(counts) > SHOWN else "")
