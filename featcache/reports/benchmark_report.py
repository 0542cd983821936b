"""The report of a benchmark as text and files: verdict, table, remarks, and where the cache loses."""

from __future__ import annotations

import os
import statistics
from collections import Counter
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from featcache._utils.files import write_file
from featcache._utils.formatting import brief, human_bytes, human_duration, plural
from featcache._utils.locks import lock_folder
from featcache.analysis.benchmark.outcomes import COLD, WARM, Comparison, Outcome
from featcache.analysis.benchmark.routes import ROUTES
from featcache.analysis.benchmark.verdict import reach_verdict
from featcache.analysis.curves import Curve
from featcache.core.model_card import write_json
from featcache.core.specs import PENULTIMATE
from featcache.heads.registry import find_head
from featcache.reports.html import Table


def write_report(comparison: Comparison, folder: str | os.PathLike[str], name: str = "report") -> str:
    """Write the report of a benchmark into a folder.

    Parameters
    ----------
    comparison : Comparison
        What `benchmark` returned.
    folder : path
        Receives NAME.md, NAME.json, NAME.png, and NAME-views.png and NAME-labels.png if there are curves.
    name : str, default "report"

    Returns
    -------
    str
        A short table with remarks.
    """
    from featcache.reports.comparison_figure import plot_comparison
    from featcache.reports.plots import plot_curve
    from featcache.reports.style import save

    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    with lock_folder(folder):  # the files of two reports at once do not mix
        write_json(folder / f"{name}.json", comparison_values(comparison))
        write_file(folder / f"{name}.md", comparison_markdown(comparison, name).encode("utf-8", "surrogateescape"))
        save(partial(plot_comparison, comparison, reach_verdict(comparison).route), folder / f"{name}.png")
        for curve in comparison.curves:
            save(partial(plot_curve, curve), folder / f"{name}-{curve.over}.png")
    notes = "\n".join(f"- {line}" for line in remarks(comparison))
    files = f"{name}.md, {name}.json and {name}.png are in {folder}"
    return f"{comparison}\n\n{notes}\n\n{files}"


def comparison_values(comparison: Comparison) -> dict[str, Any]:
    """JSON values, the verdict first."""
    return {"verdict": reach_verdict(comparison).to_dict(), **comparison.to_dict()}


def comparison_markdown(comparison: Comparison, name: str) -> str:
    """The whole report in Markdown, with links to NAME.png, NAME-views.png and NAME-labels.png."""
    settings, machine, verdict = comparison.settings, comparison.machine, reach_verdict(comparison)
    recipe = ", ".join(f"{name} {value}" for name, value in settings["recipe"].items())
    images = ", ".join(f"{count} {split}" for split, count in settings["images"].items() if count)
    versions = ", ".join(f"{name} {version}" for name, version in comparison.versions.items())
    sections = [
        "# featcache benchmark",
        "## Verdict",
        verdict.text,
        *(["\n".join(f"- {note}" for note in verdict.notes)] if verdict.notes else []),
        "## What was run",
        f"{settings['data']}: {images} {comparison.modality}s; {settings['backbone']} (weights: "
        f"{settings['weights']}); "
        f"cached: {cached_views(settings)}, head {settings['head']}; live routes: a new view by "
        f"{settings['view_recipes']['live']} in each epoch, {recipe}. "
        f"{plural(comparison.repeats, 'repeat')} from seed {settings['seed']}: medians (lowest to highest).",
        comparison_table(comparison).markdown(),
        computation_table(comparison).markdown(),
        "\n".join(f"- {line}" for line in remarks(comparison)),
        "## Seconds by phase",
        phase_table(comparison).markdown(),
        "read, decode and view are sums over worker threads; they overlap with forward and train.",
        f"![accuracy against seconds]({name}.png)",
        *(_curve_section(curve, f"{name}-{curve.over}.png") for curve in comparison.curves),
        f"Machine: {machine['processor']}, {machine['cores']} cores, {machine['system']}. Versions: {versions}.",
    ]
    return "\n\n".join(sections) + "\n"


def cached_views(settings: Mapping[str, Any]) -> str:
    """The views of a training image that the cached routes extract."""
    views, recipe = settings["views"], settings["view_recipes"]["cached"]
    return f"the clean view and {views} by {recipe}" if views else "the clean view alone"


def comparison_table(comparison: Comparison) -> Table:
    """A row per route."""
    test = any(outcome.test_n for outcome in comparison.outcomes)
    header = ["route", "val accuracy", "95 % interval", *(["test accuracy"] if test else [])]
    header += ["seconds", "core-seconds", "cold cache is", "warm cache is", "views/s", "peak memory"]
    gpu = any(outcome.peak_gpu_memory_bytes for outcome in comparison.outcomes)
    header += [*(["GPU memory"] if gpu else []), "on disk"]
    cold, warm = comparison.outcome(COLD), comparison.outcome(WARM)
    rows = []
    for outcome in comparison.outcomes:
        low, high = outcome.interval
        row = [outcome.route, _spread(outcome.accuracy, 4), f"{low:.3f} to {high:.3f}"]
        row += [_spread(outcome.test_accuracy, 4)] if test else []
        row += [
            _spread(outcome.wall_s, 1),
            _spread(outcome.cpu_s, 1),
            _ratio(outcome, cold),
            _ratio(outcome, warm),
            f"{outcome.shown / outcome.median_s:.0f}" if outcome.shown else "-",
            human_bytes(outcome.peak_memory_bytes) if outcome.peak_memory_bytes else "-",
        ]
        row += [human_bytes(outcome.peak_gpu_memory_bytes or 0)] if gpu else []
        row += [human_bytes(outcome.size_bytes)]
        rows.append(row)
    return Table(header, rows)


def remarks(comparison: Comparison) -> list[str]:
    """How to read the table, and where the cached head loses."""
    lines = [
        "Seconds run from the start of each route's process to its end, including imports, reading, decoding, training "
        "and saving. The cold cached head has two processes, extraction and fit; the warm one is the fit alone."
    ]
    precisions = {outcome.precision: outcome.route for outcome in comparison.outcomes if outcome.precision}
    if len(precisions) > 1:
        lines.append(
            f"The networks compute in different precisions ({', '.join(precisions)}), so a part of the difference in "
            "seconds is not the cache's. --precision is that of the extraction, --train-precision that of live routes."
        )
    lines += _fitted_heads(comparison)
    head_selects = find_head(comparison.settings["head"]).selects_on_val
    if selected := [outcome.route for outcome in comparison.outcomes if outcome.epoch_s or head_selects]:
        fair = "compare the test column" if comparison.outcomes[0].test_n else "the verdict uses their last epoch"
        routes = "; ".join(selected)
        lines.append(f"The val accuracy of {routes} is that of the best epoch on val and optimistic: {fair}.")
    if usage := comparison.spending:
        allowed, spent = human_duration(usage.budget_s), human_duration(usage.spent_s)
        lines.append(f"Budget: {allowed}; spent: {spent}; skipped: {'; '.join(map(str, usage.skipped)) or 'nothing'}.")
    unreadable = sorted({name for outcome in comparison.outcomes for name in outcome.skipped})
    if unreadable:
        are = "is" if len(unreadable) == 1 else "are"
        lines.append(
            f"{plural(len(unreadable), comparison.modality)} cannot be read and {are} excluded: {brief(unreadable)}."
        )
    if comparison.no_curves:
        missing = "are no curves over views and labels" if comparison.settings["views"] else "is no curve over labels"
        lines.append(f"There {missing}: {comparison.no_curves}")
    return lines + _losses(comparison)


def _fitted_heads(comparison: Comparison) -> list[str]:
    """Which heads were fitted to which layers, and how they differ from the layer that is trained live."""
    cached, frozen, lpft = (comparison.outcome(route) for route in (COLD, ROUTES["frozen"], ROUTES["lpft"]))
    lines = []
    if cached and cached.heads:
        lines.append(f"The cached head is {_describe_heads(cached)}.")
        if frozen and (differences := _differences(cached, comparison.settings)):
            lines.append(f"{frozen.route}, {differences}: the two routes differ by more than the cache.")
    if lpft and lpft.heads and not (cached and cached.heads == lpft.heads):
        start = _describe_heads(lpft)
        lines.append(f"LP-FT starts from {start}, as a network continues from a linear layer on {PENULTIMATE} alone.")
    return lines


def _differences(cached: Outcome, settings: Mapping[str, Any]) -> str:
    """In what the frozen network differs from the cached head, besides the cache; empty if in nothing."""
    head, recipes = "", settings["view_recipes"]
    if not any(find_head(head.name).epochs for head in cached.heads):
        head = f"trains another head, a linear layer on {PENULTIMATE} by gradient descent"
    views = ""
    if recipes["cached"] != recipes["live"]:
        views = f"trains on a new view by {recipes['live']} in each epoch, the cached head on {cached_views(settings)}"
    return ", and ".join(text for text in (head, views) if text)


def _describe_heads(outcome: Outcome) -> str:
    """The fitted heads of all repeats: "lda on penultimate, blocks.0 and 3 more (2 repeats); ridge on ..."."""
    counts = Counter(outcome.heads)
    repeats = {head: f" ({plural(count, 'repeat')})" if len(counts) > 1 else "" for head, count in counts.items()}
    return "; ".join(f"{head}{repeats[head]}" for head in counts)


def _losses(comparison: Comparison) -> list[str]:
    """In what other routes are better than the cached head."""
    cold = comparison.outcome(COLD)
    if cold is None:
        return []
    lines = []
    for other in comparison.outcomes:
        if other.route in (COLD, WARM):
            continue
        if other.median_s < cold.median_s:
            lines.append(f"The cached head loses: {other.route} is {cold.median_s - other.median_s:.1f} s faster.")
        if other.size_bytes < cold.size_bytes:
            lines.append(
                f"The cached head loses: it needs {human_bytes(cold.size_bytes)} on disk, {other.route} "
                f"{human_bytes(other.size_bytes)}."
            )
        if other.peak_memory_bytes and cold.peak_memory_bytes and other.peak_memory_bytes < cold.peak_memory_bytes:
            lines.append(
                f"The cached head loses: it needs {human_bytes(cold.peak_memory_bytes)} of memory, {other.route} "
                f"{human_bytes(other.peak_memory_bytes)}."
            )
    return lines


def curve_table(curve: Curve) -> Table:
    """A row per point of a curve. The seconds do not include imports."""
    header = ["labels", "samples", "views", "val accuracy", "95 % interval", "seconds to tune and fit"]
    rows = []
    for point in curve.points:
        low, high = point.interval
        row = [f"{point.share:.0%}", f"{point.images}", f"{point.views}", _spread(list(point.accuracies), 4)]
        rows.append([*row, f"{low:.3f} to {high:.3f}", f"{point.seconds:.2f}"])
    return Table(header, rows)


def _curve_section(curve: Curve, image: str) -> str:
    title = f"## Effect of more {curve.over} ({curve.head} head, the same cache)"
    return f"{title}\n\n{curve_table(curve).markdown()}\n\n![accuracy and seconds against {curve.over}]({image})"


def computation_table(comparison: Comparison) -> Table:
    """How the network of each route computed. TF32: whether what is left in float32 may use it."""
    words = {None: "-", False: "no", True: "yes"}
    rows = [
        [outcome.route, outcome.device or "-", outcome.precision or "-", words[outcome.tf32], words[outcome.compiled]]
        for outcome in comparison.outcomes
    ]
    return Table(["route", "device", "precision", "TF32", "torch.compile"], rows)


def phase_table(comparison: Comparison) -> Table:
    """Seconds of each route by phase."""
    names = sorted({name for outcome in comparison.outcomes for name in outcome.seconds})
    rows = [
        [outcome.route, *(f"{outcome.seconds[name]:.1f}" if name in outcome.seconds else "-" for name in names)]
        for outcome in comparison.outcomes
    ]
    return Table(["route", *names], rows)


def _ratio(outcome: Outcome, cache: Outcome | None) -> str:
    if cache is None or outcome is cache:
        return "-"
    ratio = outcome.median_s / cache.median_s
    return f"{ratio:.1f} x faster" if ratio >= 1 else f"{1 / ratio:.1f} x slower"


def _spread(values: list[float], digits: int) -> str:
    if not values:
        return "-"
    text = f"{statistics.median(values):.{digits}f}"
    return text if len(values) == 1 else f"{text} ({min(values):.{digits}f} to {max(values):.{digits}f})"
