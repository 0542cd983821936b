"""Figures of numbers: epochs, curves, confusion matrices, calibration. `style.save` writes them to files."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib import rcParams
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, PercentFormatter
from numpy.typing import NDArray

from featcache._utils.formatting import plural
from featcache.heads.novelty import KNOWN
from featcache.metrics.calibration import reliability
from featcache.metrics.significance import wilson_interval
from featcache.reports.style import BLUE, COLOURS, GREY, ORANGE, SKY, VERMILION, shorten

if TYPE_CHECKING:
    from featcache.analysis.curves import Curve
    from featcache.analysis.planning.capacity import CapacityPlan
    from featcache.heads.novelty import NoveltyFigures
    from featcache.metrics.conformal import SetFigures
    from featcache.training.loop import EpochMetrics

_SHADES = LinearSegmentedColormap.from_list(
    "shades", [f"{BLUE}00", f"{BLUE}ff"]
)  # from the paper, dark or light, to blue
_MAX_NAMES, _MAX_COUNTS = 40, 20  # classes of a confusion matrix that has room for their names, and for counts


def plot_history(history: Sequence[EpochMetrics]) -> Figure:
    """Loss and accuracy of each epoch on train and val; bars for a single epoch."""
    if len(history) == 1:
        return _plot_epoch(history[0])
    figure = Figure(figsize=(8, 3.2), layout="constrained")
    epochs = [epoch.epoch for epoch in history]
    best = max(history, key=lambda epoch: epoch.score)
    left, right = figure.subplots(1, 2)
    left.plot(epochs, [epoch.loss for epoch in history], "o-", color=ORANGE, label="train, augmented")
    left.plot(epochs, [epoch.val_loss for epoch in history], "o-", color=BLUE, label="val")
    left.set_ylabel("cross-entropy (nats)")
    right.plot(epochs, [epoch.accuracy for epoch in history], "o-", color=ORANGE, label="train, augmented")
    right.plot(epochs, [epoch.val_accuracy for epoch in history], "o-", color=BLUE, label="val")
    right.axvline(best.epoch, color=GREY, linestyle="--", label=f"best: epoch {best.epoch}")
    right.set_ylabel("accuracy")
    for axes in (left, right):
        axes.set_xlabel("epoch")
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.grid()
        axes.legend(fontsize="small")
    return figure


def _plot_epoch(epoch: EpochMetrics) -> Figure:
    """Loss and accuracy of one epoch as bars."""
    figure = Figure(figsize=(8, 1.9), layout="constrained")
    losses, accuracies = (epoch.loss, epoch.val_loss), (epoch.accuracy, epoch.val_accuracy)
    for axes, values, label in zip(
        figure.subplots(1, 2, sharey=True), (losses, accuracies), ("cross-entropy (nats)", "accuracy"), strict=True
    ):
        bars = axes.barh(["train, augmented", "val"], values, height=0.6, color=[ORANGE, BLUE])
        axes.bar_label(bars, fmt="%.3f", padding=3, fontsize="small")
        axes.set_xlabel(label)
        axes.set_xlim(0, 1.15 if label == "accuracy" else 1.2 * max([1e-9, *filter(math.isfinite, values)]))
        axes.grid(axis="x")
    axes.invert_yaxis()
    figure.suptitle("after one epoch", fontsize="medium")
    return figure


def plot_curve(curve: Curve) -> Figure:
    """Val accuracy, a dot per repeat, and seconds to fit a head, against labels or views."""
    figure = Figure(figsize=(8, 3.2), layout="constrained")
    left, right = figure.subplots(1, 2)
    labels = curve.over == "labels"
    x = [point.images if labels else point.views for point in curve.points]
    dots = [(count, value) for count, point in zip(x, curve.points, strict=True) for value in point.accuracies]
    left.fill_between(
        x,
        [point.interval[0] for point in curve.points],
        [point.interval[1] for point in curve.points],
        color=SKY,
        alpha=0.25,
        label=f"95 % interval (n = {curve.n})",
    )
    if len(dots) > len(x):
        left.plot(*zip(*dots, strict=True), ".", color=GREY, label="each draw of the labels")
    left.plot(x, [point.accuracy for point in curve.points], "o-", color=BLUE, label="median")
    left.set_ylabel("val accuracy")
    left.legend(fontsize="small", loc="lower right")
    right.plot(x, [point.seconds for point in curve.points], "o-", color=VERMILION)
    right.set_ylabel("seconds to tune and fit")
    right.set_ylim(bottom=0)
    for axes in (left, right):
        axes.set_xlabel("training samples (log scale)" if labels else "augmented views of each sample")
        if labels:
            axes.set_xscale("log")
            label_log_axis(axes)
            axes.set_xticks(x)
            axes.set_xticks([], minor=True)
        else:
            axes.xaxis.get_major_locator().set_params(integer=True)
        axes.grid()
    ends = curve.points[:1] + curve.points[1:][-1:]
    numbers = [str(number) for number in x[:1] + x[1:][-1:]]
    noun = ("label" if labels else "view") + ("" if numbers[-1:] == ["1"] else "s")
    accuracies = " to ".join(f"{point.accuracy:.3f}" for point in ends)
    figure.suptitle(f"{curve.head} head, {' to '.join(numbers)} {noun}: accuracy {accuracies}", fontsize="medium")
    return figure


def plot_capacity(plan: CapacityPlan) -> Figure:
    """Hours against workers, a line for each number of samples, and the workers that keep the driver busy."""
    figure = Figure(figsize=(8, 4), layout="constrained")
    axes = figure.subplots()
    planned = sorted({scenario.workers for scenario in plan.scenarios})
    workers = sorted({*planned, *np.geomspace(1, max(*planned, 2), 60).round().astype(int).tolist()})
    for number, samples in enumerate(sorted({scenario.samples for scenario in plan.scenarios})):
        line = plan.at([samples], workers)
        dots = [scenario for scenario in plan.scenarios if scenario.samples == samples]
        colour = COLOURS[number % len(COLOURS)]
        axes.plot([point.workers for point in line], [point.total_s / 3600 for point in line], color=colour)
        axes.plot([point.workers for point in dots], [point.total_s / 3600 for point in dots], "o", color=colour,
                  label=plural(samples, plan.rates.modality))  # fmt: skip
    if 1 < plan.rates.saturation_workers < workers[-1]:
        axes.axvline(plan.rates.saturation_workers, color=GREY, linestyle="--", label="more add no speed")
    axes.set_xscale("log")
    axes.set_yscale("log")
    label_log_axis(axes)
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.set_xlabel("workers (log scale)")
    axes.set_ylabel("hours (log scale)")
    axes.grid(which="major")
    axes.legend(fontsize="small")
    return figure


def plot_confusion(confusion: NDArray[np.int64], classes: Sequence[str]) -> Figure:
    """A confusion matrix: fractions of a row as shades, counts as numbers, and class names if there is room.

    confusion : (c, c), number of images; row = true class, column = predicted class. classes : c names.
    """
    c = len(classes)
    side = min(9.0, max(3.2, 1.6 + 0.45 * c))
    figure = Figure(figsize=(side + 1.2, side), layout="constrained")
    axes = figure.subplots()
    totals = confusion.sum(axis=1, keepdims=True)
    fractions = np.divide(confusion, totals, out=np.zeros(confusion.shape), where=totals > 0)
    shades = axes.imshow(fractions, cmap=_SHADES, vmin=0, vmax=1, interpolation="nearest")
    bar = figure.colorbar(shades, ax=axes, fraction=0.046, format=lambda value, _: f"{value:.0%}")
    bar.set_label("fraction of the true class")
    for (row, column), count in np.ndenumerate(confusion) if c <= _MAX_COUNTS else ():
        if count:
            number = axes.text(column, row, f"{count}", ha="center", va="center", fontsize="small")
            if fractions[row, column] > 0.5:
                number.set_color("white")
    ticks = range(c) if c <= _MAX_NAMES else ()
    names = [shorten(name, 18) for name in classes] if ticks else []
    vertical = c > 4 or max(map(len, names), default=0) > 8
    axes.set_xticks(ticks, names, rotation=90 if vertical else 0, fontsize="small")
    axes.set_yticks(ticks, names, fontsize="small")
    axes.set_xlabel("predicted class")
    axes.set_ylabel("true class")
    right, n = int(np.trace(confusion)), int(confusion.sum())
    axes.set_title(f"{right} of {n} right on val ({right / max(n, 1):.1%})", fontsize="medium")
    return figure


def plot_reliability(confidence: NDArray[np.float64], right: NDArray[np.bool_], bins: int = 15) -> Figure:
    """Accuracy against confidence, with 95 % intervals, and the number of images of each confidence.

    confidence : (n,), probability of the predicted class. right : (n,).
    """
    sums = reliability(confidence, right, bins)
    filled = sums[:, 0] > 0
    counts, mean, rate = sums[filled, 0], sums[filled, 1] / sums[filled, 0], sums[filled, 2] / sums[filled, 0]
    low, high = np.array([wilson_interval(int(hits), int(n)) for n, _, hits in sums[filled]]).T
    error = float(np.abs(sums[:, 1] - sums[:, 2]).sum() / max(1, len(right)))
    figure = Figure(figsize=(4.6, 5), layout="constrained")
    top, bottom = figure.subplots(2, 1, height_ratios=(3, 1), sharex=True)
    top.plot([0, 1], [0, 1], "--", color=GREY, label="perfect calibration")
    bars: Any = (rate - low, high - rate)
    top.errorbar(mean, rate, yerr=bars, fmt="o", ms=6, capsize=3, color=BLUE, label="val (95 % interval)")
    top.set_ylabel("accuracy")
    top.set_ylim(-0.03, 1.03)
    top.set_title(f"calibration error {error:.3f} (n = {len(right)})", fontsize="medium")
    top.legend(fontsize="small", loc="upper left")
    bottom.bar((np.flatnonzero(filled) + 0.5) / bins, counts, width=0.9 / bins, color=SKY)
    bottom.set_xlabel("probability of the predicted class")
    bottom.set_ylabel("samples")
    bottom.set_xlim(0, 1.02)  # the last point, at 1, is not clipped
    for axes in (top, bottom):
        axes.grid()
    return figure


def plot_coverage(figures: Sequence[SetFigures]) -> Figure:
    """How often sets of labels hold the true one against what was requested, with 95 % intervals, and their sizes."""
    requested = np.array([one.requested for one in figures])
    covered = np.array([one.coverage for one in figures])
    bars: Any = np.array([[one.coverage - one.low for one in figures], [one.high - one.coverage for one in figures]])
    figure = Figure(figsize=(4.6, 5), layout="constrained")
    top, bottom = figure.subplots(2, 1, height_ratios=(3, 2), sharex=True)
    ends = [float(requested.min()) - 0.02, 1.0]
    top.plot(ends, ends, "--", color=GREY, label="as requested")
    top.errorbar(requested, covered, yerr=bars, fmt="o", ms=6, capsize=3, color=BLUE, label="val (95 % interval)")
    top.set_ylabel("sets with the true label")
    top.set_title(f"sets of labels (n = {figures[0].n})", fontsize="medium")
    top.legend(fontsize="small", loc="upper left")
    bottom.plot(requested, [one.mean_size for one in figures], "o-", ms=5, color=ORANGE)
    bottom.set_ylabel("labels in a set")
    bottom.set_xlabel("requested coverage")
    for axes in (top, bottom):
        axes.grid()
    bottom.set_ylim(bottom=0)
    top.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    bottom.xaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    bottom.set_xticks(requested)
    return figure


def plot_novelty(figures: NoveltyFigures) -> Figure:
    """How many samples of an unknown class are refused, by how many of the known classes are."""
    figure = Figure(figsize=(4.6, 4.2), layout="constrained")
    axes = figure.subplots()
    known = np.linspace(0, 1, len(figures.curve))
    axes.plot([0, 1], [0, 1], "--", color=GREY, label="by chance")
    axes.plot(known, figures.curve, "o-", ms=4, color=BLUE, label=f"mean of {figures.classes} classes")
    axes.plot([1 - KNOWN], [figures.refused], "D", ms=8, color=ORANGE, label="predict --unknown")
    axes.set_xlabel("refused samples of the other classes")
    axes.set_ylabel("refused samples of the class that is left out")
    axes.set_title(f"samples of unknown classes (AUROC {figures.auroc:.2f})", fontsize="medium")
    axes.grid()
    axes.legend(fontsize="small", loc="lower right")
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter(PercentFormatter(1, decimals=0))
    return figure


def label_log_axis(axes: Axes) -> None:
    """Label a log axis with 10 instead of a power of ten; with numbers between powers if it spans about one power."""

    def between(value: float, _: object) -> str:
        low, high = axes.get_xlim()
        named = (
            "123456789" if high < 4 * low else "25" if high < 100 * low else ""
        )  # from two powers on, powers are enough
        return f"{value:g}" if f"{value:e}"[0] in named else ""

    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.xaxis.set_minor_formatter(FuncFormatter(between))
    # minor ticks are shorter: the padding aligns their numbers with those of major ticks
    pad = rcParams["xtick.major.size"] + rcParams["xtick.major.pad"] - rcParams["xtick.minor.size"]
    axes.tick_params(axis="x", which="minor", pad=pad)
