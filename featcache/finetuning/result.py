"""`FineTune`: the result of `finetune`."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from featcache._utils.results import NotebookResult, Result, as_records
from featcache.core.data_summary import DataSummary
from featcache.data.input_notes import input_notes, list_inputs, write_list
from featcache.metrics.classification import Accuracy
from featcache.metrics.multilabel import LabelAccuracy
from featcache.metrics.run_report import Report
from featcache.training.loop import EpochMetrics


@dataclass(frozen=True, repr=False)
class FineTune(Result, NotebookResult):
    """What `finetune` returns: a fine-tuned model in a folder, and its metrics.

    Attributes
    ----------
    path : Path
        The folder of the run. It holds the weights of the best val epoch, or with `wise_ft` their average with the
        initial weights.
    history : list of EpochMetrics
        The metrics of each epoch.
    skipped : list of (str, str)
        Unreadable images and the reason of each.
    report : Report
        Times, device and metrics of the saved model.
    init_head : str, optional
        The fitted head that the run began with.
    start : Accuracy or LabelAccuracy, optional
        On val with that head, before the first step.
    wise_ft : float, optional
        The fraction of the fine-tuned weights in the average that was saved.
    tuned : Accuracy or LabelAccuracy, optional
        On val, of the best epoch, if an average was saved instead.
    notes : tuple of str
        Notes for the user, a line each.
    data : DataSummary, optional
        Number of images, classes and splits.
    """

    path: Path
    history: list[EpochMetrics]
    skipped: list[tuple[str, str]]
    report: Report
    init_head: str | None = None
    start: Accuracy | LabelAccuracy | None = None
    wise_ft: float | None = None
    tuned: Accuracy | LabelAccuracy | None = None
    notes: tuple[str, ...] = ()
    data: DataSummary | None = None

    def write_list(self, path: str | os.PathLike[str]) -> None:
        """Write all skipped images as CSV with the columns kind, image, other and reason. The file is never partial."""
        write_list(path, list_inputs([], self.skipped, {}))

    @property
    def best(self) -> EpochMetrics:
        """The epoch with the highest val accuracy; with several labels, the highest mean average precision."""
        return max(self.history, key=lambda epoch: epoch.score)

    @property
    def data_share(self) -> float:
        """The fraction of this call's training and evaluation time that was spent waiting for images, 0 to 1.

        On a GPU, time in which it computes or copies does not count.
        """
        seconds = self.report.seconds
        return seconds.get("data", 0.0) / max(1e-9, seconds.get("train", 0.0) + seconds.get("evaluate", 0.0))

    def __str__(self) -> str:
        lines = input_notes({}, [], self.skipped)
        lines += [self.data.missing] if self.data and self.data.missing else []
        if self.start:
            lines.append(f"initial head {self.init_head}: val {_format_accuracy(self.start)}")
        lines.append(
            f"{len(self.history)} epochs in {sum(epoch.seconds for epoch in self.history):.1f} s; "
            f"best val {_format_accuracy(self.tuned or self.report.accuracy)} in epoch {self.best.epoch}"
        )
        if self.start and self.best.score < _score(self.start):
            lines.append("this is below the initial head: use that head, or lower --lr")
        if self.wise_ft is not None:
            lines.append(
                f"saved {self.wise_ft:g} of these weights plus {1 - self.wise_ft:g} of the initial ones (WiSE-FT): "
                f"val {_format_accuracy(self.report.accuracy)}"
            )
        lines += [self._computed] if self.report.precision else []
        lines.append(
            f"waiting for {self.data.modality if self.data else 'image'}s took {self.data_share:.0%} of the time"
        )
        if self.report.test:
            lines.append(f"test {_format_accuracy(self.report.test)}")
        return "\n".join([*lines, *self.notes, f"saved in {self.path}"])

    @property
    def _computed(self) -> str:
        """How the network computed."""
        report = self.report
        tf32, compiled = ("yes" if value else "no" for value in (report.tf32, report.compiled))
        return f"computed in {report.precision} on {report.device}; TF32: {tf32}; torch.compile: {compiled}"

    def _json_fields(self) -> dict[str, Any]:
        return {
            **self.report.to_dict(),
            "path": self.path,
            "best_epoch": self.best.epoch,
            "data_share": self.data_share,
            "start": {"head": self.init_head, **self.start.to_dict()} if self.start else None,
            "wise_ft": self.wise_ft,
            "tuned": self.tuned,
            "data": self.data,
            "history": self.history,
            "skipped": as_records(self.skipped, "path", "reason"),
            "notes": self.notes,
        }


def _format_accuracy(accuracy: Accuracy | LabelAccuracy | None) -> str:
    """ "accuracy 0.9 (...)"; with several labels "mAP 0.9, all labels right ..."."""
    return f"{'' if isinstance(accuracy, LabelAccuracy) else 'accuracy '}{accuracy}"


def _score(accuracy: Accuracy | LabelAccuracy) -> float:
    """As `EpochMetrics.score`."""
    precision = accuracy.mean_average_precision if isinstance(accuracy, LabelAccuracy) else None
    return accuracy.accuracy if precision is None else precision
