"""`Manifest`: the samples of a data set, with labels, split and content hash. `read_manifest` reads it."""

from __future__ import annotations

import hashlib
import os
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from featcache._utils.progress_bar import ProgressOption, as_callback
from featcache.core.class_names import composed, name_notes
from featcache.core.data_summary import DataSummary, summarize
from featcache.core.samples import SPLITS, UNLABELED, Samples, join_groups
from featcache.data.file_types import describe_ignored
from featcache.data.leaks import EMPTY_SHA256, refuse_leaks
from featcache.data.modality import Modality
from featcache.data.record_labels import (
    assign_splits,
    check_labels,
    encode_labels,
    expected_layout,
    find_classes,
    label_notes,
    mark_unlabeled,
)
from featcache.data.sources.base import Source
from featcache.data.sources.registry import open_source
from featcache.errors import DataLayoutError, EmptyFolderError


@dataclass(frozen=True)
class Manifest:
    """The samples of a data set.

    Parameters
    ----------
    source : Source
        Where the bytes of the samples are read.
    samples : Samples
        Ids, labels, split, hashes and classes; train rows first, then val, test and unlabeled, each sorted by id.
    ignored : dict
        Number of files that were passed over, by reason.
    notes : tuple of str
        How the data was read, a line each: which column is the label, which images have none, ...
    label_column : str or None
        The column of the labels; None for data without columns.
    held_out_seed : int or None
        Seed with which val was held out of train; None if the data has a val split.

    Examples
    --------
    >>> from featcache import read_manifest
    >>> manifest = read_manifest("photos")
    >>> len(manifest.samples), manifest.samples.classes
    (16, ('ants', 'bees'))
    """

    source: Source
    samples: Samples
    ignored: dict[str, int]
    notes: tuple[str, ...] = ()
    label_column: str | None = None
    held_out_seed: int | None = None

    def summary(self, unreadable: Iterable[int] = ()) -> DataSummary:
        """Splits, classes and counts of the data, and warnings about them.

        Parameters
        ----------
        unreadable : iterable of int
            Rows that are not counted.

        Returns
        -------
        DataSummary
        """
        readable = np.ones(len(self.samples), bool)
        readable[list(unreadable)] = False
        summary = summarize(
            self.source.name,
            self.samples,
            held_out_seed=self.held_out_seed,
            readable=readable,
            modality=self.modality.name,
        )
        return replace(summary, notes=self.notes)

    @property
    def modality(self) -> Modality:
        """What the samples are: `IMAGES` or `TEXTS`."""
        return self.source.modality

    def conflicts(self) -> list[tuple[str, str]]:
        """Pairs of samples with equal content and different labels: one of the two labels is wrong.

        Images have equal content if their bytes are equal; texts also if they differ only in case, white space and
        Unicode form.

        Returns
        -------
        list of (str, str)
            Ids; of texts in columns, whose ids are hashes, their places.
        """
        labels, sha256 = self.samples.labels, self.samples.sha256
        has_label = self.samples.split != SPLITS.index(UNLABELED)
        pairs = [
            (a, b)
            for a, b in self.samples.copies()
            if has_label[a] and has_label[b] and sha256[a].tobytes() != EMPTY_SHA256
        ]
        ids = self.samples.ids
        names = ids if not self.source.has_text_column else [self.where(name) for name in ids]
        return [(names[a], names[b]) for a, b in pairs if np.any(labels[a] != labels[b])]

    def labeled(self, command: str) -> Manifest:
        """This manifest without samples that have no label, for a command that trains on labels.

        Parameters
        ----------
        command : str
            What the message calls the command.

        Raises
        ------
        DataLayoutError
            Train has fewer than two classes, or val is empty.
        """
        check_labels(self.source, self.samples, command)
        rows = np.flatnonzero(self.samples.split != SPLITS.index(UNLABELED))
        return self if len(rows) == len(self.samples) else replace(self, samples=self.samples.take(rows))

    def single_label(self, command: str) -> Manifest:
        """This manifest, for a command that takes one label an image.

        Parameters
        ----------
        command : str
            What the message calls the command.

        Raises
        ------
        DataLayoutError
            Images have several labels.
        """
        if self.samples.multilabel:
            raise DataLayoutError(
                f"{command} trains on one label {self.modality.one}, and {self.modality.plural} in {self.source.name} "
                "have several. Use finetune, or extract and fit-head, which train on several."
            )
        return self

    def unread(self) -> list[int]:
        """Rows of samples that could not be read when they were hashed: their hash is that of their id.

        Returns
        -------
        list of int
        """
        digests = (hashlib.sha256(os.fsencode(name)).digest() for name in self.samples.ids)
        return [row for row, digest in enumerate(digests) if self.samples.sha256[row].tobytes() == digest]

    def read(self, row: int) -> bytes:
        """The bytes of a sample; those of a text are UTF-8.

        Parameters
        ----------
        row : int
            Row of `samples`.

        Raises
        ------
        OSError, RemoteIOError
            See `Source.read`. Also OSError for a text that is empty or not UTF-8.
        """
        return self.source.read(self.samples.ids[row])

    def where(self, name: str) -> str:
        """Path of the sample with an id, or the id and the name of the data, for a message.

        Parameters
        ----------
        name : str
            The id.
        """
        return self.source.place(name)

    def path(self, row: int) -> Path | None:
        """Path of a sample on this machine's disks; None for a sample that is not a local file.

        Parameters
        ----------
        row : int
            Number of the sample in `samples`.
        """
        return self.source.local_path(self.samples.ids[row])


def read_manifest(
    data: str | os.PathLike[str] | Manifest,
    *,
    val_fraction: float = 0.2,
    seed: int = 0,
    allow_leak: bool = False,
    label_column: str | None = None,
    skip_missing: bool = False,
    progress: ProgressOption = None,
    text_column: str | None = None,
) -> Manifest:
    """List the samples of a data set, with labels, splits and content hashes.

    Parameters
    ----------
    data : str, path-like or Manifest
        One of:

        - a folder with `train/<class>/*` and `val/<class>/*` (`valid`, `validation` too), perhaps `test/`;
        - a folder with `<class>/*`;
        - either, with a folder `unlabeled` in it, or a folder of samples without class folders: these samples, and
          those beside `<class>`, have no label;
        - a folder with `metadata.csv` or `metadata.jsonl`, with the columns `file_name` and a label;
        - a CSV, JSON lines or Parquet file with the columns `path`, `label` and perhaps `split`, `sha256` and
          `group`. Paths are relative to its folder, or URLs. A label `a|b` stands for two labels. A sample has no label
          if the cell is empty or null, or its split is `unlabeled`. If other samples have several labels, an empty cell
          or list means none of the labels, and null that they are not known. With `sha256` (hexadecimal) of their
          bytes, images are not read before they are extracted. Images with an equal `group` (a patient, a burst, an
          object) stay together in splits and folds;
        - tar files, with labels as in WebDataset or class folders, see `TarSource`;
        - data of Hugging Face: a folder that `datasets` saved, or Parquet files with images in them, see
          `HuggingFaceSource`;
        - texts: a CSV, TSV, JSON lines or Parquet file, or data of Hugging Face, with the columns `text`, `label` and
          perhaps `split` and `group`, and no `path`; or any of the folders above with `.txt` files in UTF-8. Ids of
          rows come from their content. Copies are texts that are equal but for case, white space and Unicode form;
        - any folder, table or tar file by URL: `s3://`, `gs://`, `https://`;
        - data of a kind that another package adds, see `featcache.data.sources.base`;
        - a Manifest, which is returned unchanged.
    val_fraction : float
        Fraction of the train samples that is held out as val if the data has no val split, between 0 and 1. The draw is
        stratified by class; samples with equal bytes, and those of a group, stay on one side. Default 0.2.
    seed : int
        Of that draw. Default 0.
    allow_leak : bool
        Accept samples whose bytes, or whose group, are in train and in val or test as well. Default False: they are an
        error.
    label_column : str or None
        The column of the labels, for data with columns. None, the default, takes `label`, else the only one of
        `labels`, `class` and `target`, else the only column of class labels.
    skip_missing : bool
        Skip samples that a table lists and whose files are missing, with a reason. Default False: they are an error.
    progress : callable, bool or None
        Called with a phase, and with how much of it is done, of how much; True shows a bar. Default None.
    text_column : str or None
        The column of the texts, for texts in columns; or several with commas between them, which the separator of the
        encoder joins. None, the default, takes `text`.

    Returns
    -------
    Manifest
        Samples without a label are in the split "unlabeled".

    Raises
    ------
    EmptyFolderError
        The data does not exist or has no samples.
    DataLayoutError
        The layout is ambiguous, samples leak from train into another split, or a table is damaged. If all samples have
        a label, also: a class is not in train, or there are fewer than two classes. See `Manifest.labeled`.
    RemoteIOError
        A connection is lost.
    MissingExtraError
        The format needs a package that is not installed.

    Examples
    --------
    The folder `photos` holds the folders `ants` and `bees`, with eight images each.

    >>> from featcache import read_manifest
    >>> manifest = read_manifest("photos", val_fraction=0.4)
    >>> len(manifest.samples.rows("train")), len(manifest.samples.rows("val"))
    (10, 6)
    """
    progress = as_callback(progress)
    if isinstance(data, Manifest):
        return data
    source = open_source(data, label_column=label_column, skip_missing=skip_missing, text_column=text_column)
    ignored: Counter[str] = Counter()
    listing = source.entries(ignored, progress)
    entries = listing.entries
    if not entries:
        raise EmptyFolderError(
            f"{source.name} holds no {source.modality.plural}{describe_ignored(ignored)}. {expected_layout(source)}"
        )
    entries.sort(key=lambda entry: entry.id)
    merged = composed({name for entry in entries for name in entry.classes})
    if merged:
        entries = [replace(entry, classes=tuple(merged.get(name, name) for name in entry.classes)) for entry in entries]
    several = listing.several and any(entry.classes for entry in entries if entry.split != UNLABELED)
    entries, notes = mark_unlabeled(entries, several, source.modality)
    classes = find_classes(source, entries)
    hashes = source.modality.hash_content(source, entries, progress)
    labels = encode_labels(entries, classes, several)
    groups = tuple(entry.group for entry in entries) if any(entry.group for entry in entries) else ()
    split = assign_splits(entries, labels, join_groups(hashes.keys, groups), val_fraction, seed)
    is_drawn = SPLITS.index("val") in split and all(entry.split != "val" for entry in entries)
    order = np.argsort(split, kind="stable")
    ids = tuple(entry.id for entry in entries)
    samples = Samples(ids, labels, split, hashes.sha256, classes, groups, hashes.content_keys).take(order)
    if not allow_leak:
        refuse_leaks(source, samples)
    notes = [*listing.notes, *name_notes(classes, merged), *notes, *label_notes(samples, source.modality)]
    notes += hashes.notes
    return Manifest(source, samples, dict(ignored), tuple(notes), listing.label_column, seed if is_drawn else None)
