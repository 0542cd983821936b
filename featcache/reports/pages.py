"""The HTML reports of a head and of a benchmark: tables, pictures, where all of it comes from, and how to repeat it."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from featcache._utils.formatting import printable
from featcache._utils.remote import display_name
from featcache.analysis.benchmark.outcomes import Comparison
from featcache.analysis.benchmark.routes import CACHED, ROUTES
from featcache.analysis.benchmark.verdict import reach_verdict
from featcache.cache.feature_cache import FeatureCache
from featcache.core.bit_depth import format_range
from featcache.core.model_card import ModelCard
from featcache.errors import FeatcacheError, PictureError
from featcache.heads.fit_head import HeadFit
from featcache.reports import show as pictures
from featcache.reports.benchmark_report import comparison_table, computed, curve_table, phase_table, remarks
from featcache.reports.commands import extract_command, format_command
from featcache.reports.html import Figure, Section, Table, write_page
from featcache.reports.plots import plot_comparison, plot_curve
from featcache.reports.style import DrawFigure

if TYPE_CHECKING:
    from featcache.reports.try_out import Trial

_HIDDEN = (
    "host",
    "weights",
    "val_fraction",
    "split_seed",
    "allow_leak",
    "label_column",
    "skip_missing",
)  # of this machine, or in the command
_LISTED = 24  # images of a list


def write_head_page(
    path: str | os.PathLike[str],
    fit: HeadFit,
    cache: str | os.PathLike[str],
    settings: Mapping[str, Any],
    data: str | os.PathLike[str] | None = None,
) -> Path:
    """The report of a saved head as one HTML file.

    Parameters
    ----------
    settings : of `featcache fit-head`, by the names of its options. data : the folder, or the CSV, that the cache was
        made from; without it the report has no photos.
    """
    if fit.path is None:
        raise PictureError("the report is drawn from a saved head: fit it with `out`.")
    opened = FeatureCache.open(cache)
    name = Path(cache).name
    commands = [_extraction(opened, data, name), format_command("fit-head", [name], {**settings, "out": fit.path.name})]
    looked_at = _pictures(fit.path, opened, data)
    if fit.history:
        _draw(looked_at, partial(pictures.history_picture, fit.path), "Loss and accuracy by epoch", [fit.path])
    sections = [
        _result(fit),
        looked_at,
        _origin(opened, fit.report.machine, fit.report.versions),
        Section("To repeat it", code="\n".join(commands)),
    ]
    return write_page(path, f"featcache: {fit.name} head on {opened.spec.backbone}", sections)


def _result(fit: HeadFit) -> Section:
    return Section("Result", code=str(replace(fit, path=None)))  # pages travel: they do not tell where it lies


def write_trial_page(path: str | os.PathLike[str], trial: Trial) -> Path:
    """The report of `try_out` as one HTML file: its head, labels to look at, unreadable files, what to type next."""
    fit, cache = trial.fit, trial.extraction.cache
    if fit.path is None:
        raise AssertionError("try_out saves its head")
    result, told = _result(fit), trial.travelling()
    result.lines = told.summary()
    looked_at = _pictures(fit.path, cache, trial.data)
    sections = [
        result,
        _labels(trial),
        *_unread(trial.extraction.skipped),
        Section("What to type next", code="\n".join(told.next_commands())),
        looked_at,
        _origin(cache, fit.report.machine, fit.report.versions),
        Section("To repeat it", code=told.own_command()),
    ]
    return write_page(path, f"featcache: {fit.name} head on {cache.spec.backbone}", sections)


def _labels(trial: Trial) -> Section:
    """The labels that may be wrong, and those to look at next: their pictures, and their names in a table."""
    images = [*trial.doubtful, *trial.least_likely]
    said = [line.removesuffix(":") for line in trial.labels() if not line.startswith(" ")]  # the others are its list
    section = Section("Labels to look at", said)
    if not images:
        return section
    told = ([one.image, one.label, one.suggested, f"{one.score or 0:.2f}"] for one in images[:_LISTED])
    rows = [list(map(printable, row)) for row in told]
    section.tables = [Table(["image", "label", "rather", "score"], rows)]
    if len(images) > len(rows):
        section.notes = [f"and {len(images) - len(rows)} more, which featcache doctor names"]
    labels = [one for one in trial.diagnosis.findings if one.kind == "wrong labels"]
    cache, rankings = trial.extraction.cache, trial.diagnosis.rankings

    def make() -> DrawFigure:
        drawn = pictures.findings_picture(cache, labels, trial.data, _LISTED, rankings)
        if drawn is None:
            raise PictureError("their pictures are gone or changed")
        return drawn

    _draw(section, make, "Labels that may be wrong, and the least likely of the others", [cache.path, trial.data])
    return section


def _unread(skipped: Sequence[tuple[str, str]]) -> list[Section]:
    """A section of files that could not be read, where there are any."""
    if not skipped:
        return []
    rows = [list(map(printable, row)) for row in skipped[:_LISTED]]
    more = [f"and {len(skipped) - len(rows)} more"] if len(skipped) > len(rows) else []
    said = f"Images that could not be read, and are in no figure: {len(skipped)}"
    return [Section("Unreadable files", [said], tables=[Table(["image", "why"], rows)], notes=more)]


def write_benchmark_page(
    path: str | os.PathLike[str],
    comparison: Comparison,
    out: str | os.PathLike[str],
    data: str | os.PathLike[str] | None = None,
) -> Path:
    """The report of a comparison as one HTML file.

    Parameters
    ----------
    out : the folder that `compare` worked in; its heads, runs and cache are drawn where they are still there.
    data : the folder, or the CSV, that was compared on; without it the report has no photos.
    """
    settings, work, verdict = comparison.settings, Path(out) / "work", reach_verdict(comparison)
    images = ", ".join(f"{count} {split}" for split, count in settings["images"].items() if count)
    overview = Section(
        "Result",
        [
            f"{settings['data']}: {images} images; {settings['repeats']} repeat(s) from seed {settings['seed']}",
            f"Computed: {computed(comparison)}",
        ],
        tables=[comparison_table(comparison)],
        figures=[Figure(partial(plot_comparison, comparison), "Val accuracy against seconds")],
        notes=remarks(comparison),
    )
    phases = Section("Seconds by phase", tables=[phase_table(comparison)])
    phases.notes.append("read, decode and view are summed over threads and overlap with forward and train.")
    sections = [Section("Verdict", [verdict.text], notes=list(verdict.notes)), overview, phases]
    for curve in comparison.curves:
        caption = f"Accuracy and seconds against {curve.over}"
        title = f"What more {curve.over} bring"
        figures = [Figure(partial(plot_curve, curve), caption)]
        sections.append(Section(title, tables=[curve_table(curve)], figures=figures))
    histories = _histories(work, settings["seed"])
    sections += [histories] if histories.figures else []
    cached = work / f"cached-{settings['seed']}"
    if (cached / "cache.h5").exists():
        try:
            cache = FeatureCache.open(cached / "cache.h5")
            sections.append(_pictures(cached / "head", cache, data))
            sections.append(_origin(cache, comparison.machine, comparison.versions))
        except FeatcacheError as error:
            overview.notes.append(f"The cache could not be looked at: {_travelling(error, [cached / 'cache.h5'])}")
    sections.append(Section("To repeat it", code=_benchmark_command(comparison)))
    return write_page(path, f"featcache: benchmark of {settings['data']}", sections)


def _pictures(head: Path, cache: FeatureCache, data: str | os.PathLike[str] | None) -> Section:
    section = Section("The head, looked at")
    draw = partial(_draw, section, local=[head, cache.path, *([] if data is None else [data])])
    draw(lambda: pictures.confusion_picture(head), "Which classes are taken for which")
    draw(lambda: pictures.reliability_picture(head), "Whether its probabilities can be trusted")
    plane, layer = "The features of val on a plane", ModelCard.read(head).layer
    among = f"{plane}, with images among other classes"
    if data is None or not draw(lambda: pictures.map_picture(cache, data, layer=layer), among):
        draw(lambda: pictures.map_picture(cache, layer=layer), plane)
    if data is not None:
        draw(lambda: pictures.predictions_picture(head, data), "Right and wrong predictions of val images")
        draw(lambda: pictures.views_picture(cache, data), "What the cache has seen of training images")
    return section


def _histories(work: Path, seed: int) -> Section:
    section = Section("Learning curves")
    for route in (name for name in ROUTES if name not in CACHED):
        run = work / f"{route}-{seed}" / "run"
        if run.is_dir():
            _draw(section, partial(pictures.history_picture, run), ROUTES[route], [run])
    return section


def _draw(
    section: Section, make: Callable[[], DrawFigure], caption: str, local: Sequence[str | os.PathLike[str]]
) -> bool:
    """Add a picture, or say why there is none: a report is not lost for a photo that was moved. Whether there is one.

    local : paths that the reason may tell of.
    """
    try:
        section.figures.append(Figure(make(), caption))
        return True
    except FeatcacheError as error:
        section.notes.append(f"{caption}: left out. {_travelling(error, local)}")
        return False


def _travelling(error: FeatcacheError, local: Sequence[str | os.PathLike[str]]) -> str:
    """The message, without where these absolute paths lie on this machine."""
    reason = str(error)
    for path in filter(os.path.isabs, local):
        reason = reason.replace(f"{Path(path).parent}{os.sep}", "")
    return reason


def _origin(cache: FeatureCache, machine: Mapping[str, Any], versions: Mapping[str, str]) -> Section:
    fields = {name: value for name, value in cache.provenance.items() if name not in _HIDDEN and name != "versions"}
    fields |= {"digest": cache.spec.digest(), **cache.spec.flat()}
    fields |= {"machine": f"{machine['processor']}, {machine['cores']} cores, {machine['system']}"}
    fields |= {"versions": ", ".join(f"{name} {version}" for name, version in versions.items())}
    rows = [
        [name, ", ".join(map(str, value)) if isinstance(value, list) else str(value)] for name, value in fields.items()
    ]
    return Section("Where the features come from", tables=[Table(["field", "value"], rows)])


def _extraction(cache: FeatureCache, data: str | os.PathLike[str] | None, out: str) -> str:
    name = "DATA" if data is None else display_name(data)
    return extract_command(cache.spec, cache.provenance, name, out)


def _benchmark_command(comparison: Comparison) -> str:
    settings = comparison.settings
    kept = ("routes", "budget_s", "backbone", "weights", "views", "head", "augment", "image_size", "precision",
            "train_precision", "repeats", "seed", "workers", "device", "val_fraction", "allow_leak",
            "label_column", "skip_missing")  # fmt: skip
    recipe = {name: settings["recipe"].get(name) for name in ("epochs", "batch_size", "lr")}
    options = {name: settings.get(name) for name in kept}
    options["value_range"] = format_range(settings["value_range"]) if settings.get("value_range") else None
    return format_command("benchmark", [settings["data"]], {"out": "report", **recipe, **options})
