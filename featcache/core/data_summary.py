"""`DataSummary`: a summary of labelled images, printed before the work starts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from featcache._utils.formatting import indefinite, plural, printable
from featcache._utils.results import Result
from featcache.core.class_names import nearest_note
from featcache.core.samples import LABELED_SPLITS, UNLABELED, Samples, count_images

SMALL_VAL = 30
"""With fewer val images, one image moves the accuracy by more than three points: too much to compare models."""

_NAMED_CLASSES = 8  # with more classes, the counts of a split are summarised


@dataclass(frozen=True)
class HeldOut:
    """How val was drawn from data without a val split.

    images : number of val samples. of : number of samples before the split. seed : of the split.
    """

    images: int
    of: int
    seed: int

    def __str__(self) -> str:
        """One line of text."""
        return f"no val split: held out {self.images} of {self.of} (seed {self.seed})"


@dataclass(frozen=True)
class DataSummary(Result):
    """Summary of labelled images: classes, splits and counts.

    name : name of the data or the cache.
    classes : names, sorted.
    images : split -> class -> number of images; an image with several labels counts for each of them.
    totals : split -> number of images; empty splits are left out.
    held_out : how val was drawn; None if the data has a val split.
    groups : number of groups, each within one split; 0 without groups.
    multilabel : whether an image can have several labels.
    notes : how the data was read, one line each, see `Manifest`.
    modality : what the samples are, "image" or "text".
    skipped : number of samples that could not be read; None if that is not known yet.
    digest : of the samples, see `Samples.digest`; "" if it was not computed.
    """

    name: str
    classes: tuple[str, ...]
    images: dict[str, dict[str, int]]
    totals: dict[str, int]
    held_out: HeldOut | None = None
    groups: int = 0
    multilabel: bool = False
    notes: tuple[str, ...] = ()
    modality: str = "image"
    skipped: int | None = None
    digest: str = ""

    @property
    def line(self) -> str:
        """The summary as one line."""
        several = f", several {indefinite(self.modality)}" if self.multilabel else ""
        n = len(self.classes)
        parts = [f"{printable(self.name)}: {plural(n, 'class', 'classes') if n else 'no class yet'}{several}"]
        parts.append(", ".join(self._split(split, total) for split, total in self.totals.items()))
        parts += [str(self.held_out)] if self.held_out else []
        parts += [f"{self.groups} groups, each kept in one split"] if self.groups else []
        return "; ".join(parts)

    @property
    def missing(self) -> str:
        """A message on classes without readable train images, with what to do; "" if there is no such class."""
        names = [name for name, count in self.images.get("train", {}).items() if not count]
        if not names:
            return ""
        trained = self.images["train"].keys() - set(names)
        it, more = "it" if len(names) == 1 else "them", len(names) - _NAMED_CLASSES
        named = ", ".join(map(printable, names[:_NAMED_CLASSES])) + (f" and {more} more" if more > 0 else "")
        return (
            f"train has no readable {self.modality}s of {named}: no head can choose {it}. Add {self.modality}s, or "
            f"leave {it} out.{''.join(nearest_note(name, trained) for name in names[:_NAMED_CLASSES])}"
        )

    @property
    def too_few_labels(self) -> str:
        """Why no head can be fitted while samples lack a label, with what to do; "" if one can, or if all have one."""
        if not self.totals.get(UNLABELED):
            return ""
        trained = [name for name, count in self.images.get("train", {}).items() if count]
        if not trained:
            reason = f"no training {self.modality} has a label yet"
        elif len(trained) == 1:
            reason = f"train has a single class so far: {printable(trained[0])}"
        elif not self.totals.get("val"):
            reason = f"val has no {self.modality} yet: no class has two that differ"
        else:
            return ""
        return (
            f"{reason}. To fit a head, label {self.modality}s of two classes or more in the data, at least two of "
            "each, and run `featcache update CACHE DATA`."
        )

    @property
    def small_val(self) -> str:
        """A message if val is too small to compare models; else ""."""
        val = self.totals.get("val", 0)
        if not 0 < val < SMALL_VAL:
            return ""
        return (
            f"val has {val} {self.modality}{'' if val == 1 else 's'}, too few to choose by: one {self.modality} is "
            f"{100 / val:.0f} points of accuracy. Add val {self.modality}s, or compare by cross-validation."
        )

    @property
    def warnings(self) -> list[str]:
        """What is wrong with the data, a message each."""
        return [text for text in (self.too_few_labels, self.small_val, self.missing) if text]

    def __str__(self) -> str:
        """The line, the notes and the warnings."""
        return "\n".join(filter(None, [self.line, *self.notes, *self.warnings]))

    def _json_fields(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "modality": self.modality,
            "understood": self.line,
            "classes": self.classes,
            "multilabel": self.multilabel,
            "images": self.totals,
            "images_by_class": self.images,
            "held_out": self.held_out,
            "groups": self.groups,
            "notes": self.notes,
            "warnings": self.warnings,
            **({} if self.skipped is None else {"skipped": self.skipped}),
            **({"digest": self.digest} if self.digest else {}),
        }

    def _split(self, split: str, total: int) -> str:
        """The counts of a split: in all, and of each class, or of the smallest and the largest class."""
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
    name: str,
    samples: Samples,
    *,
    held_out_seed: int | None = None,
    readable: NDArray[np.bool_] | None = None,
    modality: str = "image",
) -> DataSummary:
    """Summarise samples.

    Parameters
    ----------
    name : name of the data, for messages.
    held_out_seed : seed by which val was drawn; None if the data has a val split.
    readable : (n,), bool; the samples to count. None counts all.
    modality : what the samples are.
    """
    images: dict[str, dict[str, int]] = {}
    totals: dict[str, int] = {}
    for split in (*LABELED_SPLITS, UNLABELED):
        rows = samples.rows(split)
        if not len(rows):
            continue
        rows = rows if readable is None else rows[readable[rows]]
        totals[split] = len(rows)
        if split != UNLABELED:
            counts = count_images(samples.labels[rows], len(samples.classes))
            images[split] = dict(zip(samples.classes, map(int, counts), strict=True))
    held_out = None
    if held_out_seed is not None:
        drawn = totals.get("val", 0)
        held_out = HeldOut(drawn, drawn + totals.get("train", 0), held_out_seed)
    groups, several = samples.n_groups, samples.multilabel
    return DataSummary(name, samples.classes, images, totals, held_out, groups, several, modality=modality)
