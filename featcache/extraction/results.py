"""`Extraction` and `Update`: what `extract`, `update` and `repair` return."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from featcache._utils.formatting import human_bytes, indefinite, printable
from featcache._utils.results import NotebookResult, Result, as_records
from featcache.cache.feature_cache import FeatureCache
from featcache.cache.reuse import Loss
from featcache.core.data_summary import DataSummary
from featcache.core.samples import SPLITS, UNLABELED, Samples
from featcache.data.input_notes import input_notes, list_inputs, remark_notes, write_list
from featcache.metrics.run_report import Report

if TYPE_CHECKING:
    from featcache.extraction.estimate import Estimate


@dataclass(frozen=True, repr=False)
class Extraction(Result, NotebookResult):
    """Result of `extract`.

    Attributes
    ----------
    cache : FeatureCache
        The finished cache.
    extracted : int
        Images that this call ran through the network; 0 where the cache was complete.
    shown : int
        Views of these images.
    skipped : list of (str, str)
        Image and reason, for images that could not be read.
    ignored : dict
        Reason to number of files that are not images.
    conflicts : list of (str, str)
        Images with equal bytes and different labels.
    report : Report
        Seconds by phase, size, device and versions.
    note : str
        A note for the user on the network's engine; empty if there is none.
    data_notes : tuple of str
        How the data was read.
    remarks : list of (str, str)
        Image and what is unusual about it, for images that this call extracted.
    data_name : str
        Name of the data, for messages.
    view_trial : mapping or None
        The outcome of the trial that chose the views, with its `text` and all figures; None without one.
    """

    cache: FeatureCache
    extracted: int
    shown: int
    skipped: list[tuple[str, str]]
    ignored: dict[str, int]
    conflicts: list[tuple[str, str]]
    report: Report
    note: str = ""
    data_notes: tuple[str, ...] = ()
    remarks: list[tuple[str, str]] = field(default_factory=list)
    data_name: str = ""
    view_trial: Mapping[str, Any] | None = None

    @property
    def data(self) -> DataSummary:
        """Classes, splits and counts of the readable images."""
        return replace(self.cache.summary(), name=self.data_name or str(self.cache.path), notes=self.data_notes)

    def write_list(self, path: str | os.PathLike[str]) -> None:
        """Write all skipped images, conflicts and remarks to a CSV file: kind, image, other, reason."""
        write_list(path, list_inputs(self.conflicts, self.skipped, {}, self.remarks))

    def __str__(self) -> str:
        """Text for the terminal."""
        seconds, cache = self.report.seconds, self.cache
        views, samples = int(cache.done.sum()), f"{cache.spec.modality}s"
        lines = [f"{cache.path}: {len(cache.samples)} {samples}, {views} views, {human_bytes(cache.size_bytes)}"]
        if self.extracted:
            used = seconds["wall"] - seconds.get("trial", 0.0)
            lines.append(
                f"extracted {self.extracted} {samples} ({self.shown} views) in {used:.1f} s: "
                f"{self.extracted / used:.0f} {samples}/s, {self.shown / used:.0f} views/s"
            )
        else:
            lines.append("nothing to extract: the cache was complete")
        lines += [self.note] if self.note else []
        if self.view_trial:
            lines += map(printable, str(self.view_trial.get("text")).splitlines())
            lines += [f"  the views took {seconds['views']:.1f} s"] if cache.spec.views and "views" in seconds else []
        if cache.samples.multilabel:
            is_known = cache.samples.split != SPLITS.index(UNLABELED)
            without = int(np.count_nonzero(~cache.samples.labels[is_known].any(axis=1)))
            lines.append(f"{indefinite(cache.spec.modality)} can have several labels; {without} {samples} have none")
        modality = cache.spec.modality
        lines += input_notes(self.ignored, self.conflicts, self.skipped, modality)
        lines += remark_notes(self.remarks, modality=modality)
        return "\n".join([*lines, *filter(None, [self.data.too_few_labels, self.data.missing])])

    def _json_fields(self) -> dict[str, Any]:
        return {
            **self.report.to_dict(),
            "cache": self.cache.path,
            "extracted": self.extracted,
            "shown": self.shown,
            "skipped": as_records(self.skipped, "path", "reason"),
            "ignored": self.ignored,
            "conflicts": self.conflicts,
            "note": self.note,
            "value_range": self.cache.spec.flat().get("value_range"),
            "remarks": as_records(self.remarks, "path", "remark"),
            "data": self.data,
            **({"view_trial": self.view_trial} if self.view_trial else {}),
        }


@dataclass(frozen=True, repr=False)
class Update(Result, NotebookResult):
    """Result of `update` and `repair`.

    Attributes
    ----------
    path : Path
        The cache.
    damaged : list of str
        Images whose row did not match its checksum.
    problem : str
        Why the old cache's bookkeeping was inconsistent; else empty.
    views : (int, int)
        Number of augmented views (K) before and after.
    recipes : (str, str)
        Recipe of the augmented views before and after.
    carried : int
        Images whose features are copied from the old cache.
    skipped, ignored, conflicts, note, remarks
        See `Extraction`.
    changes : dict
        Kind of change to images, see `Samples.changes`.
    extracted : int
        Images that went, or would go, through the network.
    shown : int
        Views of these images.
    cache : FeatureCache or None
        The new cache; None in a dry run and where nothing has changed.
    estimate : Estimate or None
        Cost of what a dry run would extract.
    seconds : dict
        Seconds by phase, and `wall`.
    modality : str
        What the samples are, "image" or "text".
    data : DataSummary or None
        Classes, splits and counts of the images; None for `repair`.
    unread : list of str
        Images that cannot be read now and keep their features.
    loss : Loss
        Images whose features are dropped.
    """

    path: Path
    damaged: list[str]
    problem: str
    views: tuple[int, int]
    recipes: tuple[str, str]
    carried: int
    skipped: list[tuple[str, str]]
    changes: dict[str, list[str]] = field(default_factory=dict)
    ignored: dict[str, int] = field(default_factory=dict)
    conflicts: list[tuple[str, str]] = field(default_factory=list)
    extracted: int = 0
    shown: int = 0
    cache: FeatureCache | None = None
    estimate: Estimate | None = None
    seconds: dict[str, float] = field(default_factory=dict)
    note: str = ""
    remarks: list[tuple[str, str]] = field(default_factory=list)
    data: DataSummary | None = None
    unread: list[str] = field(default_factory=list)
    loss: Loss = field(default_factory=lambda: Loss(0, 0))
    modality: str = "image"

    def write_list(self, path: str | os.PathLike[str]) -> None:
        """Write all changed, damaged and skipped images and conflicts to a CSV file: kind, image, other, reason."""
        changes = {**self.changes, **({"damaged": self.damaged} if self.damaged else {})}
        write_list(path, list_inputs(self.conflicts, self.skipped, changes, self.remarks))

    @property
    def nothing(self) -> bool:
        """Whether the cache was up to date."""
        changed = self.changes or self.damaged or self.problem
        return not changed and self.views[0] == self.views[1] and self.recipes[0] == self.recipes[1]

    def __str__(self) -> str:
        """Text for the terminal."""
        if self.nothing:
            return "\n".join([f"{self.path} is up to date", *self._notes()])
        lines = [f"{len(names)} {kind} (for example {printable(names[0])})" for kind, names in self.changes.items()]
        lines += [f"{len(self.damaged)} damaged (for example {printable(self.damaged[0])})"] if self.damaged else []
        lines += [f"damaged: {self.problem}"] if self.problem else []
        lines += [f"views: {self.views[0]} before, {self.views[1]} now"] if self.views[0] != self.views[1] else []
        before, now = self.recipes
        change = f"{before} before, {now} now" if self.views[0] else now
        lines += [f"augmentation: {change}"] if before != now else []
        will, samples = "would be " if self.cache is None else "", f"{self.modality}s"
        lines.append(
            f"{self.carried} {samples} {will}carried over, {self.extracted} {will}extracted ({self.shown} views)"
        )
        lines += [str(self.estimate)] if self.estimate else [self.note] if self.note else []
        lines += [*self._notes(), *remark_notes(self.remarks, modality=self.modality)]
        if self.cache:
            lines.append(f"{self.path}: {len(self.cache.samples)} {samples}, {human_bytes(self.cache.size_bytes)}")
        return "\n".join(lines)

    def _notes(self) -> list[str]:
        """Lines on images that are not used."""
        notes = [f"{self.loss}, would be dropped: this needs --yes"] if not self.cache and self.loss.is_large else []
        notes += [unread_note(self.unread, self.modality)] if self.unread else []
        notes += input_notes(self.ignored, self.conflicts, self.skipped, self.modality)
        summary = self.cache.summary() if self.cache else None
        return [*notes, *filter(None, [summary.too_few_labels, summary.missing] if summary else [])]

    def _json_fields(self) -> dict[str, Any]:
        return {
            "cache": self.path,
            "changes": self.changes,
            "damaged": self.damaged,
            "problem": self.problem,
            "views": self.views,
            "recipes": self.recipes,
            "carried": self.carried,
            "extracted": self.extracted,
            "shown": self.shown,
            "dry_run": self.cache is None and not self.nothing,
            "ignored": self.ignored,
            "conflicts": self.conflicts,
            "estimate": self.estimate,
            "skipped": as_records(self.skipped, "path", "reason"),
            "unread": self.unread,
            "dropped": self.loss.lost,
            "seconds": self.seconds,
            "note": self.note,
            "remarks": as_records(self.remarks, "path", "remark"),
            "data": self.data,
        }


def with_ids(samples: Samples, texts: Mapping[int, str]) -> list[tuple[str, str]]:
    """Pairs (id, text) from row to text, in the order of the rows."""
    return [(samples.ids[row], text) for row, text in sorted(texts.items())]


def unread_note(ids: Sequence[str], modality: str = "image") -> str:
    """The note on samples whose features are kept although their files cannot be read; empty for none."""
    if not ids:
        return ""
    return f"{len(ids)} {modality}s cannot be read now (for example {printable(ids[0])}): their features are kept"
