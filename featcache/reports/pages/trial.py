"""`write_trial_page`: the report of `try_out`."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from featcache._utils.formatting import plural, printable
from featcache.errors import PictureError
from featcache.reports import cache_figures
from featcache.reports.html import Section, Table, write_page
from featcache.reports.pages.sections import add_figure, head_section, origin_section, result_section
from featcache.reports.style import DrawFigure

if TYPE_CHECKING:
    from featcache.reports.try_out import Trial

_LISTED = 24  # images of a table
_MARGIN_NOTE = (
    "margin: the probability of the suggested label minus that of the given label, 0 to 1, by heads that were not "
    "fitted to the image. The higher it is, the more likely the given label is wrong."
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
        *_unreadable_section(trial.extraction.skipped),
        Section("Next commands", code="\n".join(portable.next_commands())),
        head_section(fit.path, cache, trial.data),
        origin_section(cache, fit.report.machine, fit.report.versions),
        Section("Commands", code=portable.own_command()),
    ]
    return write_page(path, f"featcache: {fit.name} head on {cache.spec.backbone}", sections)


def _labels_section(trial: Trial) -> Section:
    """Labels that are probably wrong, and those to check next: a table and their images."""
    images = [*trial.doubtful, *trial.least_likely]
    lines = [line.removesuffix(":") for line in trial.labels() if not line.startswith(" ")]  # without the listed images
    section = Section("Labels to check", lines)
    if not images:
        return section
    cells = ([image.image, image.label, image.suggested, f"{image.score or 0:.2f}"] for image in images[:_LISTED])
    rows = [list(map(printable, row)) for row in cells]
    section.tables = [Table(["image", "label", "suggested", "margin"], rows)]
    section.notes = [_MARGIN_NOTE]
    if len(images) > len(rows):
        section.notes.append(f"and {len(images) - len(rows)} more: featcache doctor lists them")
    labels = [issue for issue in trial.diagnosis.findings if issue.kind == "wrong labels"]
    cache, rankings = trial.extraction.cache, trial.diagnosis.rankings

    def make() -> DrawFigure:
        figure = cache_figures.issues_figure(cache, labels, trial.data, _LISTED, rankings)
        if figure is None:
            raise PictureError("Their files are missing or have changed.")
        return figure

    add_figure(section, make, "Labels that may be wrong", [cache.path, trial.data])
    return section


def _unreadable_section(skipped: Sequence[tuple[str, str]]) -> list[Section]:
    """A section of the unreadable files, if there are any."""
    if not skipped:
        return []
    rows = [list(map(printable, row)) for row in skipped[:_LISTED]]
    notes = [f"and {len(skipped) - len(rows)} more"] if len(skipped) > len(rows) else []
    line = f"{plural(len(skipped), 'image')} cannot be read and {'is' if len(skipped) == 1 else 'are'} not included"
    return [Section("Unreadable files", [line], tables=[Table(["image", "reason"], rows)], notes=notes)]
