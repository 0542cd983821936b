"""The comparison as text: verdict, table, what it means, what the cache loses; and its files."""

from __future__ import annotations

import os
import statistics
from functools import partial
from pathlib import Path
from typing import Any

from featcache._utils.files import write_file
from featcache._utils.formatting import human_bytes, human_duration
from featcache._utils.locks import lock_folder
from featcache.analysis.benchmark.outcomes import COLD, STAGES_WARM, WARM, Comparison, Outcome
from featcache.analysis.benchmark.verdict import reach_verdict
from featcache.analysis.curves import Curve
from featcache.core.model_card import write_json
from featcache.reports.html import Table


def write_report(comparison: Comparison, folder: str | os.PathLike[str], name: str = "report") -> str:
    """Write NAME.md, NAME.json and NAME.png into a folder; returns a short table with remarks."""
    from featcache.reports.plots import plot_comparison, plot_curve
    from featcache.reports.style import save

    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    with lock_folder(folder):  # of two reports at once all files are those of one
        write_json(folder / f"{name}.json", comparison_values(comparison))
        write_file(folder / f"{name}.md", comparison_markdown(comparison, name).encode("utf-8", "surrogateescape"))
        save(partial(plot_comparison, comparison), folder / f"{name}.png")
        for curve in comparison.curves:
            save(partial(plot_curve, curve), folder / f"{name}-{curve.over}.png")
    remarked = "\n".join(f"- {line}" for line in remarks(comparison))
    files = f"{name}.md, {name}.json and {name}.png are in {folder}"
    return f"{comparison}\n\n{remarked}\n\n{files}"


def comparison_values(comparison: Comparison) -> dict[str, Any]:
    """JSON values, the verdict first."""
    return {"verdict": reach_verdict(comparison).to_dict(), **comparison.to_dict()}


def comparison_markdown(comparison: Comparison, name: str) -> str:
    """The whole report; its pictures are NAME.png, NAME-views.png and NAME-labels.png."""
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
        f"{settings['data']}: {images} images; {settings['backbone']} (weights: {settings['weights']}), augmentation "
        f"{settings['augment']}, {settings['views']} cached views, head {settings['head']}; live routes: {recipe}. "
        f"Computed: {computed(comparison)}. "
        f"{settings['repeats']} repeat(s) from seed {settings['seed']}: medians, (least to most).",
        comparison_table(comparison).markdown(),
        "\n".join(f"- {line}" for line in remarks(comparison)),
        "## Seconds by phase",
        phase_table(comparison).markdown(),
        "read, decode and view are summed over worker threads and overlap with forward and train.",
        f"![accuracy against seconds]({name}.png)",
        *(_curve_section(curve, f"{name}-{curve.over}.png") for curve in comparison.curves),
        f"Machine: {machine['processor']}, {machine['cores']} cores, {machine['system']}. Versions: {versions}.",
    ]
    return "\n\n".join(sections) + "\n"


def comparison_table(comparison: Comparison) -> Table:
    """One line a route."""
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
    """What the table means, losses included."""
    lines = [
        "Seconds run from the start of each route's process to its end: imports, reading, decoding, training and "
        "saving included. The cold cached head is two processes, extraction and fitting; the warm one fits alone."
    ]
    chosen = [found.route for found in comparison.outcomes if found.epoch_s or comparison.settings["head"] == "sgd"]
    if chosen:
        lines.append(
            f"Chosen by val is the best epoch of: {'; '.join(chosen)}. So their val accuracy is optimistic; "
            + ("test is the fair column." if comparison.outcomes[0].test_n else "the verdict takes their last.")
        )
    if comparison.spending:
        allowed, spent = (
            human_duration(value) for value in (comparison.spending.budget_s, comparison.spending.spent_s)
        )
        left_out = "; ".join(map(str, comparison.spending.left_out)) or "nothing"
        lines.append(f"Budget: {allowed}; spent: {spent}; left out: {left_out}.")
    skipped = sorted({name for found in comparison.outcomes for name in found.skipped})
    if skipped:
        lines.append(f"{len(skipped)} image(s) could not be read and are in no figure: {', '.join(skipped[:8])}.")
    if comparison.no_curves:
        lines.append(f"What more views and labels bring could not be told: {comparison.no_curves}")
    return lines + _losses(comparison)


def _losses(comparison: Comparison) -> list[str]:
    cold = comparison.outcome(COLD)
    if cold is None:
        return []
    lines = []
    for other in comparison.outcomes:
        if other.route in (COLD, WARM, STAGES_WARM):
            continue
        if other.median_s < cold.median_s:
            lines.append(f"The cached head loses: {other.route} is {cold.median_s - other.median_s:.1f} s faster.")
        if other.size_bytes < cold.size_bytes:
            lines.append(
                f"The cached head loses: it keeps {human_bytes(cold.size_bytes)} on disk, {other.route} "
                f"{human_bytes(other.size_bytes)}."
            )
        if other.peak_memory_bytes and cold.peak_memory_bytes and other.peak_memory_bytes < cold.peak_memory_bytes:
            lines.append(
                f"The cached head loses: it took {human_bytes(cold.peak_memory_bytes)} of memory, "
                f"{other.route} {human_bytes(other.peak_memory_bytes)}."
            )
    return lines


def curve_table(curve: Curve) -> Table:
    """What more views, or more labels, bring; one fit each, within a process that has imported all it needs."""
    header = ["labels", "images", "views", "val accuracy", "95 % interval", "seconds to tune and fit"]
    rows = []
    for point in curve.points:
        low, high = point.interval
        row = [f"{point.share:.0%}", f"{point.images}", f"{point.views}", _spread(list(point.accuracies), 4)]
        rows.append([*row, f"{low:.3f} to {high:.3f}", f"{point.seconds:.2f}"])
    return Table(header, rows)


def _curve_section(curve: Curve, picture: str) -> str:
    title = f"## What more {curve.over} bring ({curve.head} head, the same cache)"
    return f"{title}\n\n{curve_table(curve).markdown()}\n\n![accuracy and seconds against {curve.over}]({picture})"


def computed(comparison: Comparison) -> str:
    """Where and in what each network ran."""
    ran = [found for found in comparison.outcomes if found.precision]
    return "; ".join(f"{found.route} in {found.precision} on {found.device}" for found in ran)


def phase_table(comparison: Comparison) -> Table:
    """Seconds of each route, phase by phase."""
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
