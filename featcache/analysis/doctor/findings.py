"""`Issue`, `Check` and `DoctorReport`: the checks of `doctor`, the problems, and their remedies."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from featcache._utils.deprecation import renamed_fields
from featcache._utils.files import text_output
from featcache._utils.formatting import csv_row, plural, printable
from featcache._utils.notebook_html import folded, paragraph, table, text_block
from featcache._utils.results import NotebookResult, Result
from featcache.core.samples import SPLITS, Samples, format_labels

Severity = Literal["note", "warning", "error"]
STATUS: dict[Severity, int] = {"note": 0, "warning": 3, "error": 4}
"""The exit status by the worst issue; 1 and 2 are those of errors of the program and of its use."""

_LISTED = 8  # images of an issue in text
_COLUMNS = ("severity", "finding", "image", "split", "label", "suggested", "other", "score")
_TEXT_COLUMNS = ("place", "text", "other_text")


@dataclass(frozen=True)
class IssueExample:
    """An image of an issue.

    Attributes
    ----------
    image, split, label : str
    suggested : str
        The label that the image probably has; "" for none.
    other : str
        The image that it resembles; "" for none.
    score : float or None
        How suspicious the image is; its meaning depends on the kind of the issue: cosine of duplicates, probability
        margin of labels, robust z of outliers, relative difference of features.
    text, other_text : str
        The beginnings of the two texts, if the samples are texts and `doctor` got the data; "" otherwise.
    place : str
        Where a text of a table is, such as "reviews.csv, line 3": its id is a hash. "" without the data, and for files.
    """

    image: str
    split: str
    label: str
    suggested: str = ""
    other: str = ""
    score: float | None = None
    text: str = ""
    other_text: str = ""
    place: str = ""

    @property
    def name(self) -> str:
        """What the sample is called: its place, or its id."""
        return self.place or self.image

    def __str__(self) -> str:
        score = "" if self.score is None else f" ({self.score:.3g})"
        suggested = f", probably {self.suggested}" if self.suggested else ""
        other = f", like {printable(self.other)}" if self.other else ""
        texts = "".join(f"\n       {printable(text)}" for text in (self.text, self.other_text) if text)
        return f"{printable(self.name)}: {self.label or 'none'}{suggested}{other}{score}{texts}"


@renamed_fields(todo="remedy")
@dataclass(frozen=True)
class Issue(Result):
    """A problem that `doctor` found.

    Attributes
    ----------
    kind : str
        A short name that does not change between versions.
    severity : "note", "warning" or "error"
    what : str
        The problem in words and figures.
    remedy : str
        What to do about it.
    images : tuple of IssueExample
        The affected images, the most suspicious ones first.
    """

    kind: str
    severity: Severity
    what: str
    remedy: str
    images: tuple[IssueExample, ...] = ()

    def _json_fields(self) -> dict[str, Any]:
        fields = super()._json_fields()
        images, remedy = fields.pop("images"), fields.pop("remedy")
        return {**fields, "todo": remedy, "images": images}


@renamed_fields(said="summary", looked="ran")
@dataclass(frozen=True)
class Check(Result):
    """A check of `doctor`.

    Attributes
    ----------
    name : str
    summary : str
        What was measured, or why the check did not run.
    findings : tuple of Issue
    ran : bool
        Whether the check could run.
    rankings : tuple of Issue
        Images to check first. They are not problems: neither `DoctorReport.findings` nor the exit status contain them.
    limits : str
        Which images were checked, if not all, and what was approximate; "" for neither.
    """

    name: str
    summary: str
    findings: tuple[Issue, ...] = ()
    ran: bool = True
    rankings: tuple[Issue, ...] = ()
    limits: str = ""

    def _json_fields(self) -> dict[str, Any]:
        kinds = [finding.kind for finding in self.findings]
        return {"name": self.name, "looked": self.ran, "said": self.summary, "kinds": kinds, "limits": self.limits}


@dataclass(frozen=True, repr=False)
class DoctorReport(Result, NotebookResult):
    """What `doctor` returns. `str()` names the checks without a problem, then each issue with its remedy.

    Attributes
    ----------
    path : Path
        The cache.
    layer : str
    images : int
        Images with features.
    checks : tuple of Check
    seconds : float
        Time of all checks.
    modality : str
        What the samples are, "image" or "text".
    """

    path: Path
    layer: str
    images: int
    checks: tuple[Check, ...]
    seconds: float
    modality: str = "image"

    @property
    def findings(self) -> list[Issue]:
        """The issues of all checks, the worst first."""
        findings = [finding for check in self.checks for finding in check.findings]
        return sorted(findings, key=lambda finding: -list(STATUS).index(finding.severity))

    @property
    def rankings(self) -> list[Issue]:
        """The rankings of all checks: images to check first, without a claim that they are wrong."""
        return [ranking for check in self.checks for ranking in check.rankings]

    @property
    def status(self) -> int:
        """The exit status: 0 = no warnings (there may be notes), 3 = warnings, 4 = errors."""
        return max((STATUS[finding.severity] for finding in self.findings), default=0)

    def __str__(self) -> str:
        return self.to_text()

    def to_text(self, verbose: bool = False) -> str:
        """The report in words.

        Parameters
        ----------
        verbose : bool, default False
            Add a line for each check with what it measured.

        Returns
        -------
        str
        """
        lines = [self._headline()]
        lines += self._check_lines() if verbose else self._short_lines()
        for finding in [*self.findings, *self.rankings]:
            title = "CHECK" if finding in self.rankings else finding.severity.upper()
            lines += ["", f"{title} {finding.kind}: {finding.what}", f"  -> {finding.remedy}"]
            lines += [f"     {example}" for example in finding.images[:_LISTED]]
            if len(finding.images) > _LISTED:
                lines.append(
                    f"     and {len(finding.images) - _LISTED} more: --list FILE.csv lists all {self.modality}s"
                )
        return "\n".join(lines)

    def _repr_html_(self) -> str:
        """The issues as a table, and all of the text."""
        rows = [
            ("to check" if issue in self.rankings else issue.severity, issue.kind, issue.what, issue.remedy)
            for issue in [*self.findings, *self.rankings]
        ]
        issues = table(("severity", "issue", "what", "what to do"), rows) if rows else ""
        lines = [self._headline(), *self._short_lines()]
        return "".join(
            [*map(paragraph, lines), issues, folded("all images and figures", text_block(self.to_text(True)))]
        )

    def _headline(self) -> str:
        """The cache, how much was checked, and how many issues of each severity there are."""
        severities = [finding.severity for finding in self.findings]
        counts = ", ".join(
            plural(severities.count(severity), severity) for severity in reversed(STATUS) if severity in severities
        )
        images = plural(self.images, self.modality)
        return f"{self.path}, {self.layer}: {images}, {self.seconds:.1f} s: {counts or 'no issues'}"

    def _check_lines(self) -> list[str]:
        """A line for each check with its figures."""
        lines = []
        for check in self.checks:
            worst = max((STATUS[finding.severity] for finding in check.findings), default=-1)
            mark = {-1: "ok" if check.ran else "-", 0: "note", 3: "WARNING", 4: "ERROR"}[worst]
            limits = f" ({check.limits})" if check.limits else ""
            lines.append(f"{mark:8} {check.name:10} {check.summary}{limits}")
        return lines

    def _short_lines(self) -> list[str]:
        """The checks without a problem in one line, then those that did not run, and what is limited."""
        lines = []
        sound = [check.name for check in self.checks if check.ran and not check.findings]
        if sound:
            lines.append(f"no problem found: {', '.join(sound)}")
        reasons: dict[str, list[str]] = {}
        for check in self.checks:
            if not check.ran:
                reasons.setdefault(check.summary.removeprefix("not checked: "), []).append(check.name)
            if check.limits:
                reasons.setdefault(check.limits, []).append(check.name)
        skipped = {check.name for check in self.checks if not check.ran}
        for reason, names in reasons.items():
            title = "not checked" if names[0] in skipped else "limited"
            lines.append(f"{title}: {', '.join(names)} ({reason})")
        return lines

    def _json_fields(self) -> dict[str, Any]:
        return {
            "cache": self.path,
            "layer": self.layer,
            "images": self.images,
            "status": self.status,
            "seconds": {"wall": self.seconds},
            "checks": self.checks,
            "findings": self.findings,
            "rankings": self.rankings,
        }

    def write_list(self, path: str | os.PathLike[str]) -> None:
        """Write all samples of the issues and rankings to a CSV file, one per line, atomically.

        Texts have further columns if `doctor` got the data: their places, and how they begin.
        """
        with text_output(Path(path)) as file:
            findings = [*self.findings, *self.rankings]
            texts = any(example.text for finding in findings for example in finding.images)
            file.write(csv_row(_COLUMNS + _TEXT_COLUMNS if texts else _COLUMNS))
            for finding in findings:
                for example in finding.images:
                    score = "" if example.score is None else f"{example.score:.6g}"
                    cells = (example.image, example.split, example.label, example.suggested, example.other, score)
                    further = (example.place, example.text, example.other_text) if texts else ()
                    file.write(csv_row((finding.severity, finding.kind, *cells, *further)))


def name_row(
    samples: Samples, row: int, *, suggested: str = "", other: int | None = None, score: Any = None
) -> IssueExample:
    """The image of a row; other : the row that it resembles."""
    return IssueExample(
        samples.ids[row],
        SPLITS[samples.split[row]],
        format_labels(samples.labels[[row]], samples.classes)[0],
        suggested,
        "" if other is None else samples.ids[other],
        None if score is None else float(score),
    )
