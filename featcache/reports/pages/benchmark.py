"""`write_benchmark_page`: the report of a benchmark."""

from __future__ import annotations

import os
from functools import partial
from pathlib import Path

from featcache._utils.formatting import plural
from featcache.analysis.benchmark.outcomes import Comparison
from featcache.analysis.benchmark.routes import ROUTES, TRAINED, BenchmarkOptions
from featcache.analysis.benchmark.verdict import reach_verdict
from featcache.cache.feature_cache import FeatureCache
from featcache.core.options import fields_of
from featcache.errors import FeatcacheError
from featcache.reports import model_figures
from featcache.reports.benchmark_report import (
    cached_views,
    comparison_table,
    computation_table,
    curve_table,
    phase_table,
    remarks,
)
from featcache.reports.commands import format_command
from featcache.reports.comparison_figure import plot_comparison
from featcache.reports.html import Figure, Section, without_folders, write_page
from featcache.reports.pages.sections import add_figure, head_section, origin_section
from featcache.reports.plots import plot_curve

_OPTIONS = ("routes", "budget_s", "backbone", "head", "train_precision", "repeats", *fields_of(BenchmarkOptions))


def write_benchmark_page(
    path: str | os.PathLike[str],
    comparison: Comparison,
    out: str | os.PathLike[str],
    data: str | os.PathLike[str] | None = None,
) -> Path:
    """Write the report of a benchmark as one HTML file.

    Parameters
    ----------
    path : path
        The file to write.
    comparison : Comparison
        What `benchmark` returned.
    out : path
        The folder of the benchmark. The page shows its heads, runs and cache if they still exist.
    data : path, optional
        The images of the benchmark. Without them the page has no images.

    Returns
    -------
    Path
        The written file.
    """
    settings, work, verdict = comparison.settings, Path(out) / "work", reach_verdict(comparison)
    overview = _overview(comparison)
    sections = [Section("Verdict", [verdict.text], notes=list(verdict.notes)), overview, _phases(comparison)]
    for curve in comparison.curves:
        figure = Figure(partial(plot_curve, curve), f"Accuracy and seconds against {curve.over}")
        sections.append(Section(f"Effect of more {curve.over}", tables=[curve_table(curve)], figures=[figure]))
    histories = _histories(work, settings["seed"])
    sections += [histories] if histories.figures else []
    cached = work / f"cached-{settings['seed']}"
    if (cached / "cache.h5").exists():
        try:
            cache = FeatureCache.open(cached / "cache.h5")
            sections.append(head_section(cached / "head", cache, data))
            sections.append(origin_section(cache, comparison.machine, comparison.versions))
        except FeatcacheError as error:
            overview.notes.append(f"The cache cannot be read: {without_folders(error, [cached / 'cache.h5'])}")
    sections.append(Section("Commands", code=_command(comparison)))
    return write_page(path, f"featcache: benchmark of {settings['data']}", sections)


def _overview(comparison: Comparison) -> Section:
    settings = comparison.settings
    images = ", ".join(f"{count} {split}" for split, count in settings["images"].items() if count)
    repeats = f"{plural(comparison.repeats, 'repeat')} from seed {settings['seed']}"
    return Section(
        "Result",
        [
            f"{settings['data']}: {images} {comparison.modality}s; {repeats}",
            f"Views of a training {comparison.modality}: cached: {cached_views(settings)}; live routes: a new one by "
            f"{settings['view_recipes']['live']} in each epoch",
        ],
        tables=[comparison_table(comparison), computation_table(comparison)],
        figures=[
            Figure(
                partial(plot_comparison, comparison, reach_verdict(comparison).route), "Val accuracy against seconds"
            )
        ],
        notes=remarks(comparison),
    )


def _phases(comparison: Comparison) -> Section:
    note = "read, decode and view are sums over threads; they overlap with forward and train."
    return Section("Seconds by phase", tables=[phase_table(comparison)], notes=[note])


def _histories(work: Path, seed: int) -> Section:
    """The learning curves of the live routes that still exist."""
    section = Section("Learning curves")
    for route in TRAINED:
        run = work / f"{route}-{seed}" / "run"
        if run.is_dir():
            add_figure(section, partial(model_figures.history_figure, run), ROUTES[route], [run])
    return section


def _command(comparison: Comparison) -> str:
    """The command that repeats the benchmark."""
    settings = comparison.settings
    recipe = {name: settings["recipe"].get(name) for name in ("epochs", "batch_size", "lr")}
    options = {name: settings.get(name) for name in _OPTIONS}
    return format_command("benchmark", [settings["data"]], {"out": "report", **recipe, **options})
