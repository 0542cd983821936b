"""Whether the label "-1" of a data set stands for a label that is not known."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from featcache.core.samples import UNLABELLED
from featcache.data.sources.base import SampleListing, SampleRecord

_UNKNOWN = "-1"


def hide_unknown(listing: SampleListing) -> SampleListing:
    """Move images whose label is an unknown -1 to the split "unlabelled"; the decision is `is_unknown`'s.

    listing : of the whole data set, so that all its files and splits are decided together.
    """
    if listing.several:
        return listing
    hides, notes = is_unknown((entry.classes, entry.split) for entry in listing.entries)
    entries = [_hide(entry) if hides else entry for entry in listing.entries]
    return listing._replace(entries=entries, notes=(*listing.notes, *notes))


def is_unknown(labels: Iterable[tuple[tuple[str, ...], str | None]]) -> tuple[bool, tuple[str, ...]]:
    """Whether -1 stands for a label that is not known.

    It does where the other labels are two or more numbers from 0 on, and no image of an explicit train split has the
    label -1: this is how data sets hide the labels of a test set.

    Parameters
    ----------
    labels : the classes and the split of each image; None for a split that nothing says.

    Returns
    -------
    The decision, and a line for people where the data leaves room for another one.
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
    of = f"label -1 ({count} image{'s' if count > 1 else ''})"
    if "train" in splits:
        return False, (f"{of} is taken for a class, as train has it; where a label is not known, leave it empty",)
    if None in splits:
        return True, (f"{of} is taken for 'not known'; if it is a class, give it a name",)
    return True, ()


def _hide(entry: SampleRecord) -> SampleRecord:
    return replace(entry, classes=(), split=UNLABELLED) if entry.classes == (_UNKNOWN,) else entry
