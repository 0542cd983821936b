"""`DataSummary`: what was understood of the data, in a line, before the work starts."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from featcache._utils.formatting import printable
from featcache.core.samples import LABELLED_SPLITS, UNLABELLED, Samples, count_images

SMALL_VAL = 30
"""With fewer val images, one image moves the accuracy by more than three points: too much to choose by."""

_NAMED_CLASSES = 8  # with more, a split's counts are summarised


@dataclass(frozen=True)
class HeldOut:
    """How val was drawn where the data has none.

    images : how many became val. of : how many there were. seed : of the draw. missing : what the data lacks.
    """

    images: int
    of: int
    seed: int
    missing: str = "val folder"

    def __str__(self) -> str:
        """For people."""
        return f"no {self.missing}: held out {self.images} of {self.of} (seed {self.seed})"


@dataclass(frozen=True)
class DataSummary:
    """What was understood of labelled images.

    name : of the data, or of the cache.
    classes : names, sorted.
    images : split -> class -> images; of images with several labels, those that have the class.
    totals : split -> images, splits without images left out.
    held_out : how val was drawn; None where the data has a val split of its own.
    groups : how many groups of images splits keep together; 0 where none are named.
    multilabel : whether an image can have several labels.
    notes : how the data was read, a line each, see `Manifest`.
    """

    name: str
    classes: tuple[str, ...]
    images: dict[str, dict[str, int]]
    totals: dict[str, int]
    held_out: HeldOut | None = None
    groups: int = 0
    multilabel: bool = False
    notes: tuple[str, ...] = ()

    @property
    def line(self) -> str:
        """What was understood, as one line."""
        several = ", several an image" if self.multilabel else ""
        parts = [f"{printable(self.name)}: {len(self.classes)} classes{several}"]
        parts.append(", ".join(self._split(split, total) for split, total in self.totals.items()))
        parts += [str(self.held_out)] if self.held_out else []
        parts += [f"{self.groups} groups, each kept in one split"] if self.groups else []
        return "; ".join(parts)

    @property
    def missing(self) -> str:
        """Classes that have no image in train that could be read, with what to do; "" where each has some."""
        names = [name for name, count in self.images.get("train", {}).items() if not count]
        if not names:
            return ""
        it, more = "it" if len(names) == 1 else "them", len(names) - _NAMED_CLASSES
        named = ", ".join(map(printable, names[:_NAMED_CLASSES])) + (f" and {more} more" if more > 0 else "")
        return f"train has no readable images of {named}: no head can choose {it}. Add images, or leave {it} out."

    @property
    def small_val(self) -> str:
        """That val is too small to choose by; "" where it is not."""
        val = self.totals.get("val", 0)
        if not 0 < val < SMALL_VAL:
            return ""
        return (
            f"val has {val} image{'' if val == 1 else 's'}, too few to choose by: one image is {100 / val:.0f} points "
            "of accuracy. Add val images, or compare by cross-validation."
        )

    def __str__(self) -> str:
        """For people: the line, how the data was read, and what is wrong."""
        return "\n".join(filter(None, [self.line, *self.notes, self.small_val, self.missing]))

    def to_dict(self) -> dict[str, Any]:
        """JSON values."""
        return {
            "name": self.name,
            "understood": self.line,
            "classes": list(self.classes),
            "multilabel": self.multilabel,
            "images": self.totals,
            "images_by_class": self.images,
            "held_out": asdict(self.held_out) if self.held_out else None,
            "groups": self.groups,
            "notes": list(self.notes),
            "warnings": [text for text in (self.small_val, self.missing) if text],
        }

    def _split(self, split: str, total: int) -> str:
        """One split: its images, and those of each class, or the fewest and the most."""
        counts = self.images.get(split, {})
        if not counts:
            return f"{split} {total}"
        if len(counts) <= _NAMED_CLASSES:
            return f"{split} {total} ({', '.join(f'{printable(name)} {count}' for name, count in counts.items())})"
        few, many = min(counts, key=lambda name: counts[name]), max(counts, key=lambda name: counts[name])
        if counts[few] == counts[many]:
            return f"{split} {total} ({counts[few]} a class)"
        return f"{split} {total} ({printable(few)} {counts[few]} to {printable(many)} {counts[many]})"


def summarize(
    name: str, samples: Samples, *, held_out_seed: int | None = None, readable: NDArray[np.bool_] | None = None
) -> DataSummary:
    """What was understood of samples.

    Parameters
    ----------
    name : of the data, for messages.
    held_out_seed : of the draw of val; None where the data has a val of its own.
    readable : shape (n,); which samples to count. None counts all.
    """
    images: dict[str, dict[str, int]] = {}
    totals: dict[str, int] = {}
    for split in (*LABELLED_SPLITS, UNLABELLED):
        rows = samples.rows(split)
        if not len(rows):
            continue
        rows = rows if readable is None else rows[readable[rows]]
        totals[split] = len(rows)
        if split != UNLABELLED:
            counts = count_images(samples.labels[rows], len(samples.classes))
            images[split] = dict(zip(samples.classes, map(int, counts), strict=True))
    held_out = None
    if held_out_seed is not None:
        drawn = totals.get("val", 0)
        held_out = HeldOut(drawn, drawn + totals.get("train", 0), held_out_seed)
    return DataSummary(name, samples.classes, images, totals, held_out, samples.n_groups, samples.multilabel)
