"""`write_trial_page`: the report of `try_out`."""

from __future__ import annotations

import os
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from featcache._utils.formatting import plural, printable
from featcache.reports.html import Section, Table, without_folders, write_page
from featcache.reports.pages.sections import add_figure, head_section, origin_section, result_section
from featcache.reports.samples.registry import sample_report

if TYPE_CHECKING:
    from featcache.reports.trial import Trial

_LISTED = 24  # samples of a table
_MARGIN_NOTE = (
    "margin: the probability of the suggested label minus that of the given label, 0 to 1, by heads that were not "
    "fitted to the {sample}. The higher it is, the more likely the given label is wrong."
)


def write_trial_page(path: str | os.PathLike[str], trial: Trial) -> Path:
    """Write the report of `try_out` as one HTML file: result, labels to check, unreadable files, next commands."""
    fit, cache = trial.fit, trial.extraction.cache
    if fit.path is None:
        raise AssertionError("try_out saves its head")
    result, portable = result_section(fit), trial.without_folders()
    result.lines = portable.summary()
    sections = [
        result,
        _labels_section(trial),
        *_unreadable_section(trial.extraction.skipped, cache.spec.modality),
        Section("Next commands", code="\n".join(portable.next_commands())),
        head_section(fit.path, cache, trial.data),
        origin_section(cache, fit.report.machine, fit.report.versions),
        Section("Commands", code=portable.own_command()),
    ]
    return write_page(path, f"featcache: {fit.name} head on {cache.spec.backbone}", sections)


def _labels_section(trial: Trial) -> Section:
    """Labels that are probably wrong, and those to check next: a table and their figure."""
    examples, cache = [*trial.doubtful, *trial.least_likely], trial.extraction.cache
    lines = [without_folders(line, [trial.data]).removesuffix(":") for line in trial.labels()]
    section = Section("Labels to check", [line for line in lines if not line.startswith(" ")])  # those are in the table
    if not examples:
        return section
    header, listed = [cache.spec.modality, "label", "suggested", "margin"], examples[:_LISTED]
    rows = [[each.text or each.image, each.label, each.suggested, f"{each.score or 0:.2f}"] for each in listed]
    if any(each.place for each in listed):
        header.append("place")
        rows = [[*row, without_folders(each.place, [trial.data])] for row, each in zip(rows, listed, strict=True)]
    section.tables = [Table(header, [list(map(printable, row)) for row in rows])]
    section.notes = [_MARGIN_NOTE.format(sample=cache.spec.modality)]
    if len(examples) > len(listed):
        section.notes.append(f"and {len(examples) - len(listed)} more: featcache doctor lists them")
    labels = [issue for issue in trial.diagnosis.findings if issue.kind == "wrong labels"]
    add = partial(add_figure, section, local=[cache.path, trial.data])
    sample_report(cache.spec.modality).add_issues(add, cache, labels, trial.diagnosis.rankings, trial.data, _LISTED)
    return section


def _unreadable_section(skipped: Sequence[tuple[str, str]], modality: str) -> list[Section]:
    """A section of the unreadable files or texts, if there are any."""
    if not skipped:
        return []
    rows = [list(map(printable, row)) for row in skipped[:_LISTED]]
    notes = [f"and {len(skipped) - len(rows)} more"] if len(skipped) > len(rows) else []
    line = f"{plural(len(skipped), modality)} cannot be read and {'is' if len(skipped) == 1 else 'are'} not included"
    return [Section("Unreadable files", [line], tables=[Table([modality, "reason"], rows)], notes=notes)]
