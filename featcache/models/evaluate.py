"""`evaluate`: how good a saved model is on labelled images that it was not fitted on."""

from __future__ import annotations

import os
import unicodedata
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, get_args

import numpy as np
from numpy.typing import NDArray

from featcache._utils.files import write_files
from featcache._utils.formatting import csv_row, printable
from featcache._utils.locks import lock_folder
from featcache._utils.notebook import NotebookResult
from featcache._utils.progress_bar import Progress, ProgressOption, as_callback
from featcache._utils.timing import PhaseTimer
from featcache.core.bit_depth import ValueRange, model_range_note
from featcache.core.model_card import REPORT, ModelCard, as_json, prepare_folder
from featcache.core.model_folder import CARD
from featcache.core.samples import SEPARATOR, SPLITS, UNLABELLED, Samples
from featcache.data.input_notes import SHOWN, input_notes, remark_notes
from featcache.data.sources.base import SampleListing, SampleRecord, Source
from featcache.data.sources.class_folders import preview
from featcache.data.sources.registry import open_source
from featcache.errors import DataLayoutError, EmptyFolderError, HeadError
from featcache.metrics.classification import Accuracy
from featcache.metrics.multilabel import LabelAccuracy, judge
from featcache.metrics.predictions import FILE, predictions_csv
from featcache.metrics.run_report import Report
from featcache.metrics.significance import wilson_interval
from featcache.models.classifier import Classifier
from featcache.models.inputs import images_of
from featcache.models.prediction import Prediction

if TYPE_CHECKING:
    from torch import nn

    from featcache.backbones.backbone import Backbone

EvaluatedSplit = Literal["auto", "train", "val", "test", "all"]
UNKNOWN = "unknown.csv"
"""Beside val.csv: what the model predicts of images whose class it does not know."""

_NAMED = SHOWN  # skipped images in text


@dataclass(frozen=True, repr=False)
class Evaluation(NotebookResult):
    """What `evaluate` returns.

    Attributes
    ----------
    model, data : str. As they were given.
    report : Report. `accuracy` holds the figures, over the images whose classes the model knows.
    splits : dict. Images by the split that the data gives them; "none" where it gives none.
    left_out : dict. Images of splits that were not evaluated.
    unknown : dict. Images by class that the model does not know; of several labels, by label.
    taken_for : dict. Images of unknown classes by the class that the model predicted.
    unlabelled : int. Images without a label.
    skipped : pairs (id, reason). Images that could not be read.
    ignored : dict. Files that were passed over, by reason.
    own_val : dict. What the model reached on its own val images, see `ModelCard.metrics`.
    notes : tuple of str. How the data was read: which column is the label, ...
    remarks : pairs (id, what is odd about the image).
    value_range : pair of numbers or None. The model's, see `ViewSpec`.
    path : Path or None. Folder of val.csv, run.json and unknown.csv.
    """

    model: str
    data: str
    report: Report
    splits: dict[str, int]
    left_out: dict[str, int]
    unknown: dict[str, int]
    taken_for: dict[str, int]
    unlabelled: int
    skipped: list[tuple[str, str]]
    ignored: dict[str, int]
    own_val: dict[str, Any]
    notes: tuple[str, ...] = ()
    path: Path | None = None
    remarks: list[tuple[str, str]] = field(default_factory=list)
    value_range: ValueRange | None = None

    @property
    def accuracy(self) -> Accuracy | LabelAccuracy:
        """The figures."""
        if self.report.accuracy is None:
            raise AssertionError("an evaluation has figures")
        return self.report.accuracy

    def __str__(self) -> str:
        """The figures, for people."""
        lines = [*self.notes, f"{self.model} on {self.data}, {self._what()}:", self.accuracy.describe()]
        if self.own_val.get("n"):
            lines.append(
                f"on its own {self.own_val['n']} val images it reached {self.own_val['accuracy']:.4f} (95 % interval "
                f"{self.own_val['accuracy_low']:.4f} to {self.own_val['accuracy_high']:.4f})"
            )
        lines += self._unknown_lines()
        if self.unlabelled:
            lines.append(f"{self.unlabelled} images have no label and are not in the figures")
        lines += input_notes(self.ignored, [], self.skipped[:_NAMED])
        if len(self.skipped) > _NAMED:
            lines.append(f"and {len(self.skipped) - _NAMED} more skipped images")
        lines += remark_notes(self.remarks, model_range_note(self.value_range))
        return "\n".join([*lines, *([f"saved in {self.path}"] if self.path else [])])

    def to_dict(self) -> dict[str, Any]:
        """JSON values."""
        return {
            **self.report.to_dict(),
            "model": self.model,
            "data": self.data,
            "splits": self.splits,
            "left_out": self.left_out,
            "unknown": self.unknown,
            "taken_for": self.taken_for,
            "unlabelled": self.unlabelled,
            "skipped": [{"path": name, "reason": reason} for name, reason in self.skipped],
            "ignored": self.ignored,
            "remarks": [{"path": name, "remark": remark} for name, remark in self.remarks],
            "notes": list(self.notes),
            "path": str(self.path) if self.path else None,
        }

    def _what(self) -> str:
        named = {name: count for name, count in self.splits.items() if name != "none"}
        chosen = ", ".join(f"{count} {name}" for name, count in named.items()) or f"{self.splits.get('none', 0)}"
        others = ", ".join(f"{count} {name}" for name, count in self.left_out.items())
        return f"{chosen} images" + (f" ({others} images left out: --split all takes them)" if others else "")

    def _unknown_lines(self) -> list[str]:
        if not self.unknown:
            return []
        named = _counts(self.unknown)
        if isinstance(self.accuracy, LabelAccuracy):
            return [f"labels that the model does not know are not in the figures: {named}"]
        found, n = self.accuracy, sum(self.taken_for.values())
        total = found.n + n
        right = round(found.accuracy * found.n)
        low, high = wilson_interval(right, total)
        return [
            f"{n} images of {len(self.unknown)} classes that the model does not know are not in the figures: {named}",
            f"it takes them for {_counts(self.taken_for)}; counted as wrong, they make the accuracy "
            f"{right / total:.4f} (95 % interval {low:.4f} to {high:.4f})",
        ]


class _Chosen(NamedTuple):
    """Entries to evaluate, and what is left out."""

    entries: list[SampleRecord]
    left_out: dict[str, int]
    unlabelled: int


def evaluate(
    model: str | os.PathLike[str] | Classifier,
    data: str | os.PathLike[str],
    out: str | os.PathLike[str] | None = None,
    *,
    split: EvaluatedSplit = "auto",
    label_column: str | None = None,
    skip_missing: bool = False,
    tta: int | None = None,
    batch_size: int | None = None,
    weights: str | None = None,
    device: str = "auto",
    backbone: Backbone | nn.Module | None = None,
    progress: ProgressOption = None,
) -> Evaluation:
    """Predict labelled images with a saved model and compare the predictions with the labels.

    Parameters
    ----------
    model : folder that `fit_head` or `finetune` wrote, or a Classifier; weights and device are then its own.
    data : labelled images as `extract` takes them, see `read_manifest`; they need no train split and not all
        classes.
    out : folder for val.csv (the predictions, as beside a model: `compare_heads` and `show` read them), run.json (the
        figures), and unknown.csv where there are images of classes that the model does not know. None writes nothing.
    split : which images: "train", "val", "test", "all". "auto" takes all where the data has no splits, else all that
        are not train.
    label_column, skip_missing : see `read_manifest`.
    tta : int, optional. Augmented views of each image that are averaged with the clean one; None takes as many as the
        head's figures were averaged over.
    batch_size : views in one forward pass; None takes 32, on a GPU 256.
    weights : where the backbone's weights lie now, if they have moved. device : "auto", "cpu", "cuda:1".
    backbone : the network, where it is your own, see `Classifier.load`.
    progress : called as progress("evaluate", done, total).

    Returns
    -------
    Evaluation : the figures are those of images whose classes the model knows; others are counted by class.

    Raises
    ------
    HeadError, BackboneError : the model cannot be loaded, or `out` holds one.
    EmptyFolderError : no image to evaluate on.
    DataLayoutError : images with several labels and a model of one, or no class in common.

    Examples
    --------
    >>> result = evaluate("head", "new-photos")  # doctest: +SKIP
    >>> result.accuracy.accuracy  # doctest: +SKIP
    """
    progress = as_callback(progress)
    watch = PhaseTimer()
    if out is not None:
        if (Path(out) / CARD).exists():
            raise HeadError(f"{out} holds a model, whose own figures would be replaced. Give another folder.")
        prepare_folder(Path(out), "head")
    with watch.phase("read"):
        source, ignored = open_source(data, label_column=label_column, skip_missing=skip_missing), Counter[str]()
        listing = source.entries(ignored, progress)
        chosen = _choose(source.name, listing, split)
    with watch.phase("start"):
        views = len(chosen.entries) * (1 + (tta or 0))
        classifier = (
            model
            if isinstance(model, Classifier)
            else Classifier.load(model, weights=weights, device=device, views=views, backbone=backbone)
        )
    card = classifier.card
    if any(len(entry.classes) > 1 for entry in chosen.entries) and not card.multilabel:
        raise DataLayoutError(f"images of {source.name} have several labels, and {model} gives one label an image.")
    known_names = {_plain(name): place for place, name in enumerate(card.classes)}
    _refuse_strangers(source.name, chosen.entries, card, known_names)
    tables = _Tables(card, known_names, len(chosen.entries))
    skipped: list[tuple[str, str]] = []
    remarks: list[tuple[str, str]] = []
    strangers: list[tuple[SampleRecord, Prediction]] = []
    with watch.phase("predict"):
        for entry, one in zip(
            chosen.entries, _predict(classifier, source, chosen.entries, tta, batch_size, progress), strict=True
        ):
            if one.remark:
                remarks.append((entry.id, one.remark))
            if one.label is None:
                skipped.append((entry.id, one.error or ""))
            elif card.multilabel or _plain(entry.classes[0]) in known_names:
                tables.add(entry, one)
            else:
                strangers.append((entry, replace(one, top=one.top[:1])))
    known = tables.entries
    if not known:
        reason = f"; {skipped[0][0]}: {skipped[0][1]}" if skipped else ""
        raise EmptyFolderError(f"no image of {source.name} with a class of the model could be read{reason}.")
    samples, predicted, probabilities = tables.arrays()
    accuracy = judge(samples.labels, predicted, probabilities, card.classes)
    folder = Path(out) if out is not None else None
    report = Report("evaluate", watch.seconds(), len(known), accuracy, spec_digest=card.spec.digest())
    read = [*known, *(entry for entry, _ in strangers)]
    names = Counter(name for entry in read for name in set(entry.classes) if _plain(name) not in known_names)
    found = Evaluation(
        model=str(model) if not isinstance(model, Classifier) else card.head,
        data=source.name,
        report=report,
        splits=dict(Counter(entry.split or "none" for entry in known)),
        left_out=chosen.left_out,
        unknown=dict(names.most_common()),
        taken_for=dict(Counter(one.label or "" for _, one in strangers).most_common()),
        unlabelled=chosen.unlabelled,
        skipped=skipped,
        ignored=dict(ignored),
        own_val=card.metrics,
        notes=listing.notes,
        path=folder,
        remarks=remarks,
        value_range=card.spec.view.value_range,
    )
    if folder is not None:
        files = {FILE: predictions_csv(samples, predicted, probabilities), REPORT: as_json(found.to_dict())}
        if strangers:
            files[UNKNOWN] = _unknown_csv(strangers)
        with lock_folder(folder):  # two evaluations at once: the files are all of one
            write_files({folder / name: content for name, content in files.items()})
            if not strangers:
                (folder / UNKNOWN).unlink(missing_ok=True)  # of an earlier evaluation
    return found


def _choose(name: str, listing: SampleListing, split: EvaluatedSplit) -> _Chosen:
    """The labelled entries of the requested split."""
    if split not in get_args(EvaluatedSplit):
        raise DataLayoutError(f"split is {split!r}; it must be one of {', '.join(get_args(EvaluatedSplit))}")
    known = [entry for entry in listing.entries if entry.split != UNLABELLED]
    labelled = [entry for entry in known if listing.several or entry.classes]
    splits = {entry.split for entry in labelled}
    wanted: set[Any] = {split}
    if split in ("auto", "all"):
        wanted = {"val", "test"} if split == "auto" and splits & {"val", "test"} else splits
    if labelled and splits == {None} and split in SPLITS:
        raise DataLayoutError(f"{name} has no splits, so --split {split} names no image. Leave it out.")
    chosen = [entry for entry in labelled if entry.split in wanted]
    if not chosen:
        raise EmptyFolderError(f"{name} has no labelled images{'' if split in ('auto', 'all') else f' in {split}'}.")
    left_out = Counter(entry.split or "none" for entry in labelled if entry.split not in wanted)
    return _Chosen(chosen, dict(left_out), len(listing.entries) - len(labelled))


def _refuse_strangers(name: str, entries: Sequence[SampleRecord], card: ModelCard, known: dict[str, int]) -> None:
    """Raise DataLayoutError where the data and the model have no class in common."""
    classes = {one for entry in entries for one in entry.classes}
    if not any(_plain(one) in known for one in classes):
        raise DataLayoutError(
            f"{name} and the model have no class in common: the images are of {preview(classes)}, the model knows "
            f"{preview(card.classes)}. Name the class folders, or the labels, as the model does."
        )


def _predict(
    classifier: Classifier,
    source: Source,
    entries: Sequence[SampleRecord],
    tta: int | None,
    batch_size: int | None,
    progress: Progress | None,
) -> Iterator[Prediction]:
    images = images_of(source, [entry.id for entry in entries])
    stream = classifier.stream(images, top=len(classifier.classes), tta=tta, batch_size=batch_size)
    try:
        for done, prediction in enumerate(stream, 1):
            yield prediction
            if progress:
                progress("evaluate", done, len(entries))
    finally:
        stream.close()


class _Tables:
    """Labels, predictions and probabilities, filled as the predictions come, which are not kept.

    known : the number of each class of the model, by its plain name.
    n : how many images there may be.
    """

    def __init__(self, card: ModelCard, known: dict[str, int], n: int) -> None:
        self.entries: list[SampleRecord] = []
        self._card, self._known, c = card, known, len(card.classes)
        self._place = {name: number for number, name in enumerate(card.classes)}
        shape = (n, c) if card.multilabel else (n,)
        self._labels = np.zeros(shape, np.uint8 if card.multilabel else np.int64)
        self._predicted = np.zeros(shape, np.int64)
        self._probabilities: NDArray[np.float64] | None = np.zeros((n, c))

    def add(self, entry: SampleRecord, one: Prediction) -> None:
        """Take over the label of an image that the model knows, and what the model predicted."""
        row, known, place = len(self.entries), self._known, self._place
        self.entries.append(entry)
        if self._card.multilabel:
            self._labels[row, [known[_plain(name)] for name in entry.classes if _plain(name) in known]] = 1
            self._predicted[row, [place[name] for name in (one.label or "").split(SEPARATOR) if name]] = 1
        else:
            self._labels[row], self._predicted[row] = known[_plain(entry.classes[0])], place[one.label or ""]
        shares = np.array([share for _, share in one.top], np.float64)  # None becomes NaN
        if np.isnan(shares).any():
            self._probabilities = None
        if self._probabilities is not None:
            self._probabilities[row, [place[name] for name, _ in one.top]] = shares

    def arrays(self) -> tuple[Samples, NDArray[np.int64], NDArray[np.float64] | None]:
        """The samples, the predicted labels, and the probabilities (n, c), None for heads that have none."""
        n = len(self.entries)
        split = np.array([SPLITS.index(entry.split or "val") for entry in self.entries], np.uint8)
        ids = tuple(entry.id for entry in self.entries)
        samples = Samples(ids, self._labels[:n], split, np.zeros((n, 32), np.uint8), self._card.classes)
        return samples, self._predicted[:n], None if self._probabilities is None else self._probabilities[:n]


def _unknown_csv(pairs: Sequence[tuple[SampleRecord, Prediction]]) -> bytes:
    """unknown.csv: as val.csv, of images whose class the model does not know."""
    rows = [["image", "label", "predicted", "probability"]]
    for entry, one in pairs:
        share = "" if one.probability is None else f"{one.probability:.6f}"
        rows.append([entry.id, SEPARATOR.join(entry.classes), one.label or "", share])
    return "".join(map(csv_row, rows)).encode("utf-8", "surrogateescape")


def _plain(name: str) -> str:
    """A class name by which two spellings of the same characters are equal (Unicode's NFC)."""
    return unicodedata.normalize("NFC", name)


def _counts(counts: dict[str, int]) -> str:
    named = [f"{printable(name)} {count}" for name, count in list(counts.items())[:_NAMED]]
    return ", ".join(named) + (f" and {len(counts) - _NAMED} more" if len(counts) > _NAMED else "")
