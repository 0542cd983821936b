"""`Issue`, `Check` and `DoctorReport`: what `examine` looked at, what is wrong with it, and what to do."""

from __future__ import annotations

import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from featcache._utils.files import text_output
from featcache._utils.formatting import csv_row, json_safe, printable
from featcache._utils.notebook import NotebookResult
from featcache.core.samples import SPLITS, Samples, format_labels

Severity = Literal["note", "warning", "error"]
STATUS: dict[Severity, int] = {"note": 0, "warning": 3, "error": 4}
"""The exit status of the worst finding; 1 and 2 are those of errors of the program and of its use."""

_LISTED = 8  # images of a finding in text
_COLUMNS = ("severity", "finding", "image", "split", "label", "suggested", "other", "score")


@dataclass(frozen=True)
class IssueExample:
    """An image that a finding names.

    suggested : the label that it probably has, other : the image that it is alike; "" for none.
    score : of the finding's kind, the more suspicious images first.
    """

    image: str
    split: str
    label: str
    suggested: str = ""
    other: str = ""
    score: float | None = None

    def __str__(self) -> str:
        score = "" if self.score is None else f" ({self.score:.3g})"
        suggested = f", rather {self.suggested}" if self.suggested else ""
        other = f", like {printable(self.other)}" if self.other else ""
        return f"{printable(self.image)}: {self.label or 'none'}{suggested}{other}{score}"


@dataclass(frozen=True)
class Issue:
    """Something wrong. kind : a short name that stays the same. what : in words and figures. todo : what to do."""

    kind: str
    severity: Severity
    what: str
    todo: str
    images: tuple[IssueExample, ...] = ()


@dataclass(frozen=True)
class Check:
    """What was looked at. said : what was measured, or why it could not be, where it was not `looked` at.

    rankings : images to look at first. They claim nothing, so that they are in neither `findings` nor the status.
    """

    name: str
    said: str
    findings: tuple[Issue, ...] = ()
    looked: bool = True
    rankings: tuple[Issue, ...] = ()


@dataclass(frozen=True, repr=False)
class DoctorReport(NotebookResult):
    """What `examine` found. images : rows with features. seconds : all of it took."""

    path: Path
    layer: str
    images: int
    checks: tuple[Check, ...]
    seconds: float

    @property
    def findings(self) -> list[Issue]:
        """Of all checks, the worst first."""
        found = [finding for check in self.checks for finding in check.findings]
        return sorted(found, key=lambda finding: -list(STATUS).index(finding.severity))

    @property
    def rankings(self) -> list[Issue]:
        """Of all checks: images to look at first, where nothing is said to be wrong with them."""
        return [ranking for check in self.checks for ranking in check.rankings]

    @property
    def status(self) -> int:
        """The exit status: 0 sound but for notes, 3 warnings, 4 errors."""
        return max((STATUS[finding.severity] for finding in self.findings), default=0)

    def __str__(self) -> str:
        """For people: a line for each check, then each finding with what to do."""
        severities = [finding.severity for finding in self.findings]
        numbers = [(severities.count(one), one) for one in reversed(STATUS) if one in severities]
        counts = ", ".join(f"{count} {one}{'s' if count > 1 else ''}" for count, one in numbers)
        lines = [f"{self.path}, {self.layer}: {self.images} images, {self.seconds:.1f} s: {counts or 'sound'}"]
        for check in self.checks:
            worst = max((STATUS[finding.severity] for finding in check.findings), default=-1)
            mark = {-1: "ok" if check.looked else "-", 0: "note", 3: "WARNING", 4: "ERROR"}[worst]
            lines.append(f"{mark:8} {check.name:10} {check.said}")
        for finding in [*self.findings, *self.rankings]:
            title = "LOOK AT" if finding in self.rankings else finding.severity.upper()
            lines += ["", f"{title} {finding.kind}: {finding.what}", f"  -> {finding.todo}"]
            lines += [f"     {suspect}" for suspect in finding.images[:_LISTED]]
            if len(finding.images) > _LISTED:
                lines.append(f"     and {len(finding.images) - _LISTED} more: --list FILE.csv names them all")
        return "\n".join(lines)

    def to_dict(self) -> dict[str, Any]:
        """JSON values."""
        checks = [
            {"name": one.name, "looked": one.looked, "said": one.said, "kinds": [f.kind for f in one.findings]}
            for one in self.checks
        ]
        found: dict[str, Any] = json_safe(
            {
                "cache": str(self.path),
                "layer": self.layer,
                "images": self.images,
                "status": self.status,
                "seconds": {"wall": self.seconds},
                "checks": checks,
                "findings": [asdict(finding) for finding in self.findings],
                "rankings": [asdict(ranking) for ranking in self.rankings],
            }
        )
        return found

    def write_list(self, path: str | os.PathLike[str]) -> None:
        """All named images as CSV, a line for each of a finding or a ranking; whole or not at all."""
        with text_output(Path(path)) as file:
            file.write(csv_row(_COLUMNS))
            for finding in [*self.findings, *self.rankings]:
                for one in finding.images:
                    score = "" if one.score is None else f"{one.score:.6g}"
                    told = (one.image, one.split, one.label, one.suggested, one.other, score)
                    file.write(csv_row((finding.severity, finding.kind, *told)))


def name_row(
    samples: Samples, row: int, *, suggested: str = "", other: int | None = None, score: Any = None
) -> IssueExample:
    """A row of samples as a suspect; other : the row that it is alike."""
    return IssueExample(
        samples.ids[row],
        SPLITS[samples.split[row]],
        format_labels(samples.labels[[row]], samples.classes)[0],
        suggested,
        "" if other is None else samples.ids[other],
        None if score is None else float(score),
    )
