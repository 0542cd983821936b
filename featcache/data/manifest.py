"""`Manifest`: which images there are, their labels, their split and the hash of their bytes."""

from __future__ import annotations

import hashlib
import os
import posixpath
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from featcache._utils.progress_bar import Progress, ProgressOption, as_callback
from featcache.core.class_names import composed, name_notes, nearest_note
from featcache.core.data_summary import DataSummary, summarize
from featcache.core.options import SplitOptions, select
from featcache.core.samples import SPLITS, UNLABELLED, Labels, Samples, join_groups
from featcache.core.splitting import hold_out
from featcache.data.file_types import describe_ignored
from featcache.data.sources.base import SampleRecord
from featcache.data.sources.class_folders import preview
from featcache.data.sources.registry import FolderSource, Source, open_source
from featcache.data.sources.table import is_table
from featcache.errors import DataLayoutError, EmptyFolderError

_EMPTY = hashlib.sha256().digest()  # of files of no bytes: they are no images, wherever they lie


@dataclass(frozen=True)
class Manifest:
    """Labelled images.

    source : where their bytes are read.
    samples : ids, labels, split, hashes, classes; train rows first, then val, test and unlabelled, each sorted by id.
    ignored : how many files were passed over, by reason.
    notes : how the data was read, a line each: which column is the label, which images have none, ...
    label_column : the column that the labels come from; None where the data has no columns.
    held_out_seed : of the draw of val; None where the data has a val of its own.
    """

    source: Source
    samples: Samples
    ignored: dict[str, int]
    notes: tuple[str, ...] = ()
    label_column: str | None = None
    held_out_seed: int | None = None

    def summary(self, unreadable: Iterable[int] = ()) -> DataSummary:
        """What was understood of the data. unreadable : rows that are not counted."""
        readable = np.ones(len(self.samples), bool)
        readable[list(unreadable)] = False
        found = summarize(self.source.name, self.samples, held_out_seed=self.held_out_seed, readable=readable)
        if found.held_out and type(self.source) is not FolderSource:
            found = replace(found, held_out=replace(found.held_out, missing="val split"))
        return replace(found, notes=self.notes)

    def conflicts(self) -> list[tuple[str, str]]:
        """Pairs of images with equal bytes and different labels: one of the two labels is wrong."""
        labels, sha256 = self.samples.labels, self.samples.sha256
        known = self.samples.split != SPLITS.index(UNLABELLED)
        pairs = [(a, b) for a, b in self.samples.copies() if known[a] and known[b] and sha256[a].tobytes() != _EMPTY]
        return [(self.samples.ids[a], self.samples.ids[b]) for a, b in pairs if np.any(labels[a] != labels[b])]

    def single_label(self, command: str) -> Manifest:
        """The same. Raises DataLayoutError where images have several labels, which the command has no use for."""
        if self.samples.multilabel:
            raise DataLayoutError(
                f"{command} trains on one label an image, and images in {self.source.name} have several. Use "
                "finetune, or extract and fit-head, which train on several."
            )
        return self

    def unread(self) -> list[int]:
        """Rows whose bytes could not be read when they were to be hashed: they have the hash of their name."""
        names = (hashlib.sha256(os.fsencode(name)).digest() for name in self.samples.ids)
        return [row for row, digest in enumerate(names) if self.samples.sha256[row].tobytes() == digest]

    def read(self, row: int) -> bytes:
        """The bytes of image `row`, see `Source.read`."""
        return self.source.read(self.samples.ids[row])

    def where(self, name: str) -> str:
        """Where an image lies, for a message."""
        return str(self.source.path(name) or f"{name} of {self.source.name}")

    def path(self, row: int) -> Path | None:
        """Where image `row` lies on this machine's disks, if it is a file of its own there."""
        return self.source.path(self.samples.ids[row])


def read_manifest(
    data: str | os.PathLike[str] | Manifest,
    *,
    val_fraction: float = 0.2,
    seed: int = 0,
    allow_leak: bool = False,
    label_column: str | None = None,
    skip_missing: bool = False,
    progress: ProgressOption = None,
) -> Manifest:
    """Find the images of a folder, of a manifest, of tar files or of a saved data set.

    Parameters
    ----------
    data : one of
        - a folder with `train/<class>/*` and `val/<class>/*` (`valid`, `validation` too), perhaps `test/`;
        - a folder with `<class>/*`;
        - a CSV, JSON lines or Parquet file with the columns `path`, `label` and perhaps `split` and `sha256`; paths are
          relative to its folder, or URLs; where a label is `a|b`, images have several, and one with an empty label has
          none, else that is not known; with `sha256` (hexadecimal) of their bytes, images need not be read before they
          are extracted; images with an equal `group` (a patient, a burst, an object) stay together in splits and folds;
        - any of these by URL: `s3://`, `gs://`, `https://`;
        - tar files, see `Shards`;
        - data of Hugging Face: a folder that `datasets` saved, Parquet files with images in them, or a folder or
          pattern of such, see `HuggingFace`; a folder with `metadata.csv`, see `MetadataFolder`;
        - a Manifest, which is given back as it is.
    val_fraction : share of the images that is held out as val where the data has no val of its own:
        stratified by class, drawn with `seed`; files with equal bytes, and those of a group, stay on one side.
    allow_leak : take images whose bytes, or whose group, are in train and in val or test as well.
    label_column : the column of the labels, of data with columns; None takes `label`, else the only one of `labels`,
        `class` and `target`, else the only column of class labels.
    skip_missing : images that a manifest lists and whose files are missing are skipped with a reason, instead of
        being an error.

    Raises
    ------
    EmptyFolderError, DataLayoutError, RemoteIOError, MissingExtraError
    """
    progress = as_callback(progress)
    if isinstance(data, Manifest):
        return data
    source = open_source(data, label_column=label_column, skip_missing=skip_missing)
    ignored: Counter[str] = Counter()
    listing = source.entries(ignored, progress)
    entries, several = listing.entries, listing.several
    if not entries:
        raise EmptyFolderError(f"{source.name} holds no images{describe_ignored(ignored)}. {_expected(source.name)}")
    entries.sort(key=lambda entry: entry.id)
    merged = composed({name for entry in entries for name in entry.classes})
    if merged:
        entries = [replace(entry, classes=tuple(merged.get(name, name) for name in entry.classes)) for entry in entries]
    classes = _classes(source.name, entries)
    sha256 = _hashes(source, entries, progress)
    labels = _labels(entries, classes, several)
    groups = tuple(entry.group for entry in entries) if any(entry.group for entry in entries) else ()
    split = _split(entries, labels, join_groups(sha256, groups), val_fraction, seed)
    is_drawn = all(entry.split != "val" for entry in entries)
    order = np.argsort(split, kind="stable")
    samples = Samples(tuple(entry.id for entry in entries), labels, split, sha256, classes, groups).take(order)
    if not allow_leak:
        _refuse_leaks(source.name, samples)
    notes = (*listing.notes, *name_notes(classes, merged), *_unlabelled_note(samples))
    return Manifest(source, samples, dict(ignored), notes, listing.label_column, seed if is_drawn else None)


def manifest_keywords(options: Mapping[str, Any]) -> dict[str, Any]:
    """Keywords of `read_manifest` from `SplitOptions`, or from the provenance of a cache; other names are left out."""
    keywords: dict[str, Any] = {**select(SplitOptions, options)}
    if "split_seed" in keywords:
        keywords["seed"] = keywords.pop("split_seed")
    return keywords


def _hashes(source: Source, entries: list[SampleRecord], progress: Progress | None) -> NDArray[np.uint8]:
    """As the entries say; of those that do not, the source reads the bytes."""
    unknown = [row for row, entry in enumerate(entries) if not entry.sha256]
    hashed = source.hash([entries[row].id for row in unknown], progress)
    if len(unknown) == len(entries):
        return hashed
    found = np.frombuffer(b"".join(entry.sha256 or bytes(32) for entry in entries), np.uint8).reshape(-1, 32).copy()
    found[unknown] = hashed
    return found


def _expected(source: str) -> str:
    if is_table(source):
        return "Expected a row for each image: path,label[,split][,sha256]."
    return f"Expected {posixpath.join(source, '<class>', '*.jpg')} or {posixpath.join(source, 'train/<class>/*.jpg')}."


def _classes(source: str, entries: list[SampleRecord]) -> tuple[str, ...]:
    """The class names of the training images, checked against the other splits."""
    if all(entry.split == UNLABELLED for entry in entries):
        raise DataLayoutError(f"{source}: no image has a label.")
    trained = {name for entry in entries if entry.split in (None, "train") for name in entry.classes}
    if not trained and any(entry.split in (None, "train") for entry in entries):
        raise DataLayoutError(f"{source}: no training image has a label.")
    if not trained:
        raise DataLayoutError(f"{source} has no training images: every split is val or test.")
    for entry in entries:
        for name in sorted(set(entry.classes) - trained):
            raise DataLayoutError(
                f"{source}: class {name!r} is in {entry.split} ({entry.id}) but not in train. "
                f"Train has {preview(trained)}. Add training images for it, or remove it.{nearest_note(name, trained)}"
            )
    if len(trained) < 2:
        raise DataLayoutError(
            f"{source}: only one class ({preview(trained)}) was found; a classifier needs two or more. "
            f"{_expected(source)}"
        )
    return tuple(sorted(trained))


def _labels(entries: list[SampleRecord], classes: tuple[str, ...], several: bool) -> Labels:
    number = {name: place for place, name in enumerate(classes)}
    if not several:
        labels = (-1 if entry.split == UNLABELLED else number[entry.classes[0]] for entry in entries)
        return np.fromiter(labels, np.int64, len(entries))
    several_labels = np.zeros((len(entries), len(classes)), np.uint8)
    for row, entry in zip(several_labels, entries, strict=True):
        row[[number[name] for name in entry.classes]] = 1
    return several_labels


def _unlabelled_note(samples: Samples) -> list[str]:
    """What becomes of the images without a label."""
    count = len(samples.rows(UNLABELLED))
    of = f"{count} of {len(samples)} images have no label (-1, null or empty)"
    return [f"{of}: split {UNLABELLED}, extracted for prediction, not trained on or scored"] if count else []


def _refuse_leaks(source: str, samples: Samples) -> None:
    """Train rows come first, so a copy outside of train has its first in train."""
    train = SPLITS.index("train")
    leaks = [
        (a, b)
        for a, b in samples.copies()
        if samples.split[a] == train
        and samples.split[b] not in (train, SPLITS.index(UNLABELLED))
        and samples.sha256[a].tobytes() != _EMPTY
    ]
    if leaks:
        pairs = "; ".join(f"{samples.ids[b]} is {samples.ids[a]}" for a, b in leaks[:5])
        raise DataLayoutError(
            f"{source}: {len(leaks)} images of val or test are in train, too: {pairs}. The accuracy on them says "
            "nothing. Remove the copies, or go on with --allow-leak."
        )
    if shared := samples.shared_groups():
        where = (f"{samples.ids[a]} in train, {samples.ids[b]} in {SPLITS[samples.split[b]]}" for _, a, b in shared[:5])
        pairs = "; ".join(f"{name} ({place})" for (name, _, _), place in zip(shared, where, strict=False))
        raise DataLayoutError(
            f"{source}: {len(shared)} group{'s are' if len(shared) > 1 else ' is'} in train and in val or test, too: "
            f"{pairs}. Images of a group are alike, so the accuracy on them is too high. Keep each group in one split, "
            "or go on with --allow-leak."
        )


def _split(
    entries: list[SampleRecord],
    labels: Labels,
    keys: NDArray[np.uint8],
    val_fraction: float,
    seed: int,
) -> NDArray[np.uint8]:
    """The split of each image: as the folders or the manifest say, else drawn."""
    given = [entry.split for entry in entries]
    labelled = {split for split in given if split != UNLABELLED}
    if None in labelled and len(labelled) > 1:
        row = given.index(None)
        raise DataLayoutError(f"{entries[row].id} has no split while others have one. Fill in the column.")
    split = np.array([SPLITS.index(name or "train") for name in given], dtype=np.uint8)
    if SPLITS.index("val") in split:
        return split
    if not 0 < val_fraction < 1:
        raise DataLayoutError(
            f"val_fraction is {val_fraction}; it must lie between 0 and 1, as this data has no val split"
        )
    train = np.flatnonzero(split == SPLITS.index("train"))
    split[train[hold_out(labels[train], keys[train], val_fraction, seed)]] = SPLITS.index("val")
    return split
