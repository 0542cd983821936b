"""`evaluate`: the metrics of a saved model on labelled samples that it was not fitted on."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, get_args

from featcache._utils.files import write_files
from featcache._utils.locks import lock_folder
from featcache._utils.progress_bar import Progress, ProgressOption, as_callback
from featcache._utils.timing import PhaseTimer
from featcache.core.model_card import REPORT, as_json, prepare_folder
from featcache.core.model_folder import CARD
from featcache.core.samples import SPLITS, UNLABELED
from featcache.core.training_samples import count_known, read_training_samples
from featcache.data.sources.base import SampleListing, SampleRecord, Source
from featcache.data.sources.class_folders import preview
from featcache.data.sources.registry import open_source
from featcache.errors import DataLayoutError, EmptyFolderError, HeadError, RemoteIOError
from featcache.metrics.multilabel import judge
from featcache.metrics.predictions import FILE, predictions_csv
from featcache.metrics.run_report import Report
from featcache.models.classifier import Classifier
from featcache.models.evaluation import Evaluation
from featcache.models.evaluation_tables import PredictionTable, unknown_csv
from featcache.models.inputs.names import samples_of
from featcache.models.prediction import Prediction

if TYPE_CHECKING:
    from torch import nn

    from featcache.backbones.encoder import Encoder

EvaluatedSplit = Literal["auto", "train", "val", "test", "all"]
UNKNOWN = "unknown.csv"
"""Beside val.csv: predictions of samples of classes that the model lacks."""


class _Selection(NamedTuple):
    """The entries to evaluate, and the numbers of the others."""

    entries: list[SampleRecord]
    left_out: dict[str, int]
    unlabeled: int


def evaluate(
    model: str | os.PathLike[str] | Classifier,
    data: str | os.PathLike[str],
    out: str | os.PathLike[str] | None = None,
    *,
    split: EvaluatedSplit = "auto",
    label_column: str | None = None,
    text_column: str | None = None,
    skip_missing: bool = False,
    tta: int | None = None,
    batch_size: int | None = None,
    weights: str | None = None,
    device: str = "auto",
    backbone: Encoder | nn.Module | None = None,
    progress: ProgressOption = None,
) -> Evaluation:
    """Predict labelled images or texts with a saved model and compare the predictions with the labels.

    Parameters
    ----------
    model : path or Classifier
        A folder that `fit_head` or `finetune` wrote; or a Classifier, which has its own weights and device.
    data : path or URL
        Labelled images or texts as `extract` takes them, see `read_manifest`. They need no train split and not all
        classes.
    out : path, optional
        A folder for val.csv (the predictions, which `compare_heads` and `show` read), run.json (the metrics), and
        unknown.csv if there are samples of classes that the model lacks. Default: write nothing.
    split : {"auto", "train", "val", "test", "all"}
        Which samples to evaluate. "auto": all except train if the data has splits, else all. Default: "auto".
    label_column : str, optional
        See `read_manifest`.
    text_column : str, optional
        See `read_manifest`.
    skip_missing : bool
        See `read_manifest`. Default: False.
    tta : int, optional
        How many augmented views of each sample are averaged with the clean view. Default: as many as the metrics of the
        head were averaged over.
    batch_size : int, optional
        How many views are in one batch, see `Classifier.stream`.
    weights : str, optional
        Where the backbone's weights are now, if they were moved.
    device : str
        "auto", "cpu", "cuda", "cuda:1", "cuda:all" or "mps". Default: "auto".
    backbone : Backbone, TextEncoder or torch.nn.Module, optional
        The network, if it is your own, see `Classifier.load`.
    progress : bool or Callable[[str, int, int], None], optional
        True shows a bar. A function is called with the phase, and how much of it is done and in total.

    Returns
    -------
    Evaluation
        The metrics count the samples of classes that the model has. Others are counted by class.

    Raises
    ------
    HeadError, BackboneError
        The model cannot be loaded, or `out` holds a model.
    EmptyFolderError
        There is no sample to evaluate.
    DataLayoutError
        The samples have several labels but the model predicts one, they have no class in common, or the model predicts
        samples of another modality.

    Examples
    --------
    >>> from featcache import evaluate, extract, fit_head
    >>> cache = extract("photos", "photos.h5", backbone="timm/test_resnet", weights="none", image_size=32, views=0)
    >>> fitted = fit_head("photos.h5", "head", head="ridge")
    >>> evaluate("head", "photos").accuracy.n
    16
    """
    progress = as_callback(progress)
    timer = PhaseTimer()
    if out is not None:
        if (Path(out) / CARD).exists():
            raise HeadError(f"{out} holds a model, and its metrics would be replaced. Give another folder.")
        prepare_folder(Path(out), "head")
    with timer.phase("read"):
        source = open_source(data, label_column=label_column, skip_missing=skip_missing, text_column=text_column)
        ignored = Counter[str]()
        listing = source.entries(ignored, progress)
        selection = _select(source, listing, split)
    with timer.phase("start"):
        views = len(selection.entries) * (1 + (tta or 0))
        classifier = (
            model
            if isinstance(model, Classifier)
            else Classifier.load(model, weights=weights, device=device, views=views, backbone=backbone)
        )
    card = classifier.card
    classifier.inputs.check_source(source)
    if any(len(entry.classes) > 1 for entry in selection.entries) and not card.multilabel:
        raise DataLayoutError(
            f"{source.modality.plural} of {source.name} have several labels, and {model} predicts one label "
            f"{source.modality.one}."
        )
    table = PredictionTable(card, len(selection.entries))
    _check_common_classes(source, selection.entries, card.classes, table)
    skipped: list[tuple[str, str]] = []
    remarks: list[tuple[str, str]] = []
    unknown: list[tuple[SampleRecord, Prediction]] = []
    with timer.phase("predict"):
        predictions = _predict(classifier, source, selection.entries, tta, batch_size, progress)
        for entry, prediction in zip(selection.entries, predictions, strict=True):
            if prediction.remark:
                remarks.append((entry.id, prediction.remark))
            if prediction.label is None:
                skipped.append((entry.id, prediction.error or ""))
            elif card.multilabel or table.knows(entry.classes[0]):
                table.add(entry, prediction)
            else:
                unknown.append((entry, replace(prediction, top=prediction.top[:1])))
    if not table.entries:
        reason = f"; {skipped[0][0]}: {skipped[0][1]}" if skipped else ""
        raise EmptyFolderError(
            f"no {source.modality.name} of {source.name} with a class of the model could be read{reason}."
        )
    samples, predicted, probabilities = table.arrays()
    accuracy = judge(samples.labels, predicted, probabilities, card.classes)
    folder = Path(out) if out is not None else None
    readable = [*table.entries, *(entry for entry, _ in unknown)]
    unknown_names = Counter(name for entry in readable for name in set(entry.classes) if not table.knows(name))
    evaluation = Evaluation(
        model=str(model) if not isinstance(model, Classifier) else card.head,
        data=source.name,
        report=Report("evaluate", timer.seconds(), len(table.entries), accuracy, spec_digest=card.spec.digest()),
        splits=dict(Counter(entry.split or "none" for entry in table.entries)),
        left_out=selection.left_out,
        unknown=dict(unknown_names.most_common()),
        taken_for=dict(Counter(prediction.label or "" for _, prediction in unknown).most_common()),
        unlabeled=selection.unlabeled,
        skipped=skipped,
        ignored=dict(ignored),
        own_val=card.metrics,
        notes=listing.notes,
        path=folder,
        remarks=remarks,
        remark_hint=classifier.inputs.remark_hint(),
        modality=source.modality.name,
        trained_on=_count_trained_on(Path(classifier.name), source, readable),
    )
    if folder is not None:
        content = predictions_csv(samples, predicted, probabilities, source.modality.name)
        files = {FILE: content, REPORT: as_json(evaluation.to_dict())}
        if unknown:
            files[UNKNOWN] = unknown_csv(unknown)
        with lock_folder(folder):  # two evaluations at once cannot mix their files
            write_files({folder / name: content for name, content in files.items()})
            if not unknown:
                (folder / UNKNOWN).unlink(missing_ok=True)  # of an earlier evaluation
    return evaluation


def _count_trained_on(folder: Path, source: Source, entries: Sequence[SampleRecord]) -> int | None:
    """How many of the samples the model in a folder was trained on; 0 if it did not save that.

    None if the connection to the samples was lost: the metrics are there by now.
    """
    known = read_training_samples(folder)
    try:
        return 0 if known is None else count_known(known, source.hash([entry.id for entry in entries]))
    except RemoteIOError:
        return None


def _select(source: Source, listing: SampleListing, split: EvaluatedSplit) -> _Selection:
    """The labelled entries of the requested split."""
    name, modality = source.name, source.modality
    if split not in get_args(EvaluatedSplit):
        raise DataLayoutError(f"split is {split!r}; it must be one of {', '.join(get_args(EvaluatedSplit))}")
    labelled = [entry for entry in listing.entries if entry.split != UNLABELED and (listing.several or entry.classes)]
    splits = {entry.split for entry in labelled}
    requested: set[Any] = {split}
    if split in ("auto", "all"):
        requested = {"val", "test"} if split == "auto" and splits & {"val", "test"} else splits
    if labelled and splits == {None} and split in SPLITS:
        raise DataLayoutError(f"{name} has no splits, so --split {split} selects no {modality.name}. Drop it.")
    selected = [entry for entry in labelled if entry.split in requested]
    if not selected:
        where = "" if split in ("auto", "all") else f" in {split}"
        raise EmptyFolderError(f"{name} has no labelled {modality.plural}{where}.")
    left_out = Counter(entry.split or "none" for entry in labelled if entry.split not in requested)
    return _Selection(selected, dict(left_out), len(listing.entries) - len(labelled))


def _check_common_classes(
    source: Source, entries: Sequence[SampleRecord], model_classes: Sequence[str], table: PredictionTable
) -> None:
    """Raise DataLayoutError if the data and the model have no class in common."""
    classes = {label for entry in entries for label in entry.classes}
    if not any(map(table.knows, classes)):
        raise DataLayoutError(
            f"{source.name} and the model have no class in common: the {source.modality.plural} have the classes "
            f"{preview(classes)}, the model has {preview(model_classes)}. Name the class folders, or the labels, as in "
            f"the model."
        )


def _predict(
    classifier: Classifier,
    source: Source,
    entries: Sequence[SampleRecord],
    tta: int | None,
    batch_size: int | None,
    progress: Progress | None,
) -> Iterator[Prediction]:
    samples = samples_of(source, [entry.id for entry in entries])
    stream = classifier.stream(samples, top=len(classifier.classes), tta=tta, batch_size=batch_size)
    try:
        for done, prediction in enumerate(stream, 1):
            yield prediction
            if progress:
                progress("evaluate", done, len(entries))
    finally:
        stream.close()
