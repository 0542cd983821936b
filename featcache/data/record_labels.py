"""Classes, labels and splits of the records that a source gives."""

from __future__ import annotations

import posixpath
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from featcache.core.class_names import nearest_note
from featcache.core.samples import SEPARATOR, SPLITS, UNLABELED, Labels, Samples, count_images
from featcache.core.splitting import hold_out
from featcache.data.modality import Modality
from featcache.data.sources.base import SampleRecord, Source
from featcache.data.sources.class_folders import preview
from featcache.data.sources.table import is_table
from featcache.errors import DataLayoutError


def expected_layout(data: Source) -> str:
    """A sentence with the layout that featcache reads."""
    source, modality = data.name, data.modality
    if is_table(source):
        columns = "text,label[,split][,group]" if data.has_text_column else "path,label[,split][,sha256]"
        return f"Expected a row for each {modality.name}: {columns}."
    folders = (posixpath.join(source, folder, modality.example) for folder in ("<class>", "train/<class>"))
    return f"Expected {' or '.join(folders)}."


def mark_unlabeled(
    entries: list[SampleRecord], several: bool, modality: Modality
) -> tuple[list[SampleRecord], list[str]]:
    """The records, with the split "unlabeled" for those without a label, and without a label in that split.

    Parameters
    ----------
    entries : list of SampleRecord
    several : bool
        Whether a sample can have several labels; then no class means none of the labels.
    modality : Modality
        What the samples are, for the note.

    Returns
    -------
    (list of SampleRecord, list of str)
        The records, and a note on labels that are not used.
    """
    unused = [entry for entry in entries if entry.split == UNLABELED and entry.classes]
    marked = [
        replace(entry, split=UNLABELED, classes=())
        if entry.split == UNLABELED or not (several or entry.classes)
        else entry
        for entry in entries
    ]
    if not unused:
        return marked, []
    first = unused[0]
    subject = f"{modality.count(len(unused))} of the split {UNLABELED} {'has' if len(unused) == 1 else 'have'} a label"
    example = f"for example {first.id}: {SEPARATOR.join(first.classes)}"
    return marked, [f"{subject}, which is not used ({example}); to use it, remove the split"]


def find_classes(data: Source, entries: Sequence[SampleRecord]) -> tuple[str, ...]:
    """The class names of the labeled samples, sorted; none if no sample has a label yet.

    While samples lack a label, a class may have none in train, and there may be only one class.

    Raises
    ------
    DataLayoutError
        Train has no class or only one, or another split has a class that train lacks.
    """
    source, modality = data.name, data.modality
    labeled = [entry for entry in entries if entry.split != UNLABELED]
    names = {name for entry in labeled for name in entry.classes}
    if len(labeled) < len(entries):
        return tuple(sorted(names))
    trained = {name for entry in labeled if entry.split in (None, "train") for name in entry.classes}
    if not trained and any(entry.split in (None, "train") for entry in labeled):
        raise DataLayoutError(f"{source}: no training {modality.name} has a label.")
    if not trained:
        raise DataLayoutError(f"{source} has no training {modality.plural}: every split is val or test.")
    for entry in labeled:
        for name in sorted(set(entry.classes) - trained):
            raise DataLayoutError(
                f"{source}: class {name!r} is in {entry.split} ({entry.id}) but not in train. "
                f"Train has {preview(trained)}. Add training {modality.plural} for it, or remove it."
                f"{nearest_note(name, trained)}"
            )
    if len(trained) < 2:
        hint = f" If its {modality.plural} have no label yet, name the folder {UNLABELED}."
        is_one_folder = data.is_folder and not data.has_columns and all(entry.split is None for entry in entries)
        raise _too_few_classes(data, trained, hint if is_one_folder else "")
    return tuple(sorted(trained))


def check_labels(data: Source, samples: Samples, command: str) -> None:
    """Raise DataLayoutError unless train has two classes or more, and val is not empty.

    Parameters
    ----------
    data : Source
        Of the samples.
    samples : Samples
    command : str
        The command that needs labels, for messages.
    """
    rows, plural = samples.rows("train"), data.modality.plural
    counts = count_images(samples.labels[rows], len(samples.classes))
    trained = [name for name, count in zip(samples.classes, counts, strict=True) if count]
    if len(samples.rows(UNLABELED)) == len(samples):
        raise DataLayoutError(
            f"{data.name}: no {data.modality.name} has a label, and {command} needs labels. {expected_layout(data)}"
        )
    if len(trained) < 2:
        raise _too_few_classes(data, trained)
    if not len(samples.rows("val")):
        raise DataLayoutError(
            f"{data.name}: every class has a single distinct {data.modality.name} in train, so nothing can be held out "
            f"for val. Label more {plural}."
        )


def _too_few_classes(data: Source, names: Sequence[str] | set[str], hint: str = "") -> DataLayoutError:
    found = f"only one class ({preview(names)}) was found" if names else f"no training {data.modality.name} has a label"
    return DataLayoutError(f"{data.name}: {found}; a classifier needs two or more. {expected_layout(data)}{hint}")


def encode_labels(entries: Sequence[SampleRecord], classes: tuple[str, ...], several: bool) -> Labels:
    """The labels of records, see `Labels`.

    several : whether a sample can have several labels.
    """
    number = {name: index for index, name in enumerate(classes)}
    if not several:
        labels = (-1 if entry.split == UNLABELED else number[entry.classes[0]] for entry in entries)
        return np.fromiter(labels, np.int64, len(entries))
    several_labels = np.zeros((len(entries), len(classes)), np.uint8)
    for row, entry in zip(several_labels, entries, strict=True):
        row[[number[name] for name in entry.classes]] = 1
    return several_labels


def assign_splits(
    entries: Sequence[SampleRecord],
    labels: Labels,
    keys: NDArray[np.uint8],
    val_fraction: float,
    seed: int,
) -> NDArray[np.uint8]:
    """The split of each sample: that of the data; val is held out of train if the data has none.

    While samples lack a label, val stays empty if no class has two samples that can be separated.

    Parameters
    ----------
    labels, keys, val_fraction, seed : see `hold_out`.
    """
    names = [entry.split for entry in entries]
    labeled = {split for split in names if split != UNLABELED}
    if None in labeled and len(labeled) > 1:
        row = names.index(None)
        raise DataLayoutError(f"{entries[row].id} has no split while others have one. Fill in the column.")
    split = np.array([SPLITS.index(name or "train") for name in names], dtype=np.uint8)
    if SPLITS.index("val") in split:
        return split
    if not 0 < val_fraction < 1:
        raise DataLayoutError(
            f"val_fraction is {val_fraction}; it must lie between 0 and 1, as this data has no val split"
        )
    train = np.flatnonzero(split == SPLITS.index("train"))
    held = hold_out(labels[train], keys[train], val_fraction, seed, may_be_empty=UNLABELED in names)
    split[train[held]] = SPLITS.index("val")
    return split


def label_notes(samples: Samples, modality: Modality) -> list[str]:
    """Notes on the samples without a label, and on those with none of several labels."""
    count, n = len(samples.rows(UNLABELED)), len(samples)
    notes = []
    if count:
        subject = f"{count} of {n} {modality.plural} have no label"
        notes.append(f"{subject}: kept in the split {UNLABELED}, not trained on or scored")
    if samples.multilabel:
        is_labeled = samples.split != SPLITS.index(UNLABELED)
        if empty := int(np.count_nonzero(~samples.labels[is_labeled].any(axis=1))):
            notes.append(
                f"{empty} of {n} {modality.plural} have none of the labels; one that is not labeled yet has the split "
                f"{UNLABELED}"
            )
    return notes
