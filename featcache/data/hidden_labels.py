"""`is_unknown`: whether the label "-1" of a data set means that the label is not known."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from featcache.core.samples import UNLABELED
from featcache.data.modality import IMAGES, Modality
from featcache.data.sources.base import SampleListing, SampleRecord

_UNKNOWN = "-1"


def hide_unknown(listing: SampleListing, modality: Modality = IMAGES) -> SampleListing:
    """Move samples with the label -1 to the split "unlabeled", if `is_unknown`.

    listing : of the whole data set, because all its files and splits decide together.
    modality : what the samples are.
    """
    if listing.several:
        return listing
    is_hidden, notes = is_unknown(((entry.classes, entry.split) for entry in listing.entries), modality)
    entries = [_hide(entry) if is_hidden else entry for entry in listing.entries]
    return listing._replace(entries=entries, notes=(*listing.notes, *notes))


def is_unknown(
    labels: Iterable[tuple[tuple[str, ...], str | None]], modality: Modality = IMAGES
) -> tuple[bool, tuple[str, ...]]:
    """Whether the label -1 means that the label is not known.

    It does if the other labels are two or more numbers from 0 on, and no sample of an explicit train split has the
    label -1: data sets hide the labels of a test set in this way.

    Parameters
    ----------
    labels : iterable of (tuple of str, str or None)
        The classes and the split of each sample; None for data without splits.
    modality : Modality
        What the samples are.

    Returns
    -------
    (bool, tuple of str)
        The decision, and a line for people if the data allows another one.
    """
    names: set[str] = set()
    splits: dict[str | None, int] = {}
    for classes, split in labels:
        names.update(classes)
        if classes == (_UNKNOWN,):
            splits[split] = splits.get(split, 0) + 1
    others = names - {_UNKNOWN}
    if not splits or len(others) < 2 or not all(name.isdecimal() for name in others):
        return False, ()
    count = sum(splits.values())
    subject = f"label -1 ({modality.count(count)})"
    if "train" in splits:
        return False, (f"{subject} is taken for a class, as train has it; where a label is not known, leave it empty",)
    if None in splits:
        return True, (f"{subject} is taken for 'not known'; if it is a class, give it a name",)
    return True, ()


def _hide(entry: SampleRecord) -> SampleRecord:
    return replace(entry, classes=(), split=UNLABELED) if entry.classes == (_UNKNOWN,) else entry
