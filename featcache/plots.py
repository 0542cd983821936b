"""Pictures of results."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

if TYPE_CHECKING:
    from featcache.comparison import Comparison
    from featcache.curves import Curve
    from featcache.training import Epoch

_COLOURS = ("#0072b2", "#56b4e9", "#e69f00", "#d55e00", "#999999")  # Okabe and Ito: told apart by everyone


def plot_comparison(comparison: Comparison, path: str | os.PathLike[str]) -> Path:
    """Val accuracy, with its 95 % interval, against seconds on a log axis; one point a route."""
    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.subplots()
    for place, outcome in enumerate(comparison.outcomes):
        low, high = outcome.interval
        x, y = outcome.median_s, outcome.median_accuracy
        colour = _COLOURS[place % len(_COLOURS)]
        label = f"{outcome.route}: {y:.3f} in {x:.1f} s"
        axes.errorbar(x, y, yerr=[[y - low], [high - y]], fmt="o", ms=8, capsize=4, color=colour, label=label)
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.xaxis.set_minor_formatter(FuncFormatter(lambda value, _: ""))
    axes.set_xlabel("seconds from process start to saved model (log scale)")
    axes.set_ylabel("val accuracy (95 % interval)")
    axes.set_title(f"{comparison.settings['backbone']}, {comparison.settings['recipe']['epochs']} live epochs")
    axes.grid(alpha=0.3, which="both")
    axes.legend(loc="best", fontsize="small")
    return _save(figure, path)


def plot_history(history: list[Epoch], path: str | os.PathLike[str]) -> Path:
    """Loss and accuracy of each epoch, train and val."""
    figure = Figure(figsize=(8, 3.2), layout="constrained")
    epochs = [epoch.epoch for epoch in history]
    best = max(history, key=lambda epoch: epoch.val_accuracy)
    left, right = figure.subplots(1, 2)
    left.plot(epochs, [epoch.loss for epoch in history], "o-", color=_COLOURS[2], label="train, augmented")
    left.plot(epochs, [epoch.val_loss for epoch in history], "o-", color=_COLOURS[0], label="val")
    left.set_ylabel("cross-entropy (nats)")
    right.plot(epochs, [epoch.accuracy for epoch in history], "o-", color=_COLOURS[2], label="train, augmented")
    right.plot(epochs, [epoch.val_accuracy for epoch in history], "o-", color=_COLOURS[0], label="val")
    right.axvline(best.epoch, color="#999999", linestyle="--", label=f"kept: epoch {best.epoch}")
    right.set_ylabel("accuracy")
    for axes in (left, right):
        axes.set_xlabel("epoch")
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.grid(alpha=0.3)
        axes.legend(fontsize="small")
    return _save(figure, path)


def plot_curve(curve: Curve, path: str | os.PathLike[str]) -> Path:
    """Val accuracy, each repeat a dot, and seconds to fit one head, against labels or views."""
    figure = Figure(figsize=(8, 3.2), layout="constrained")
    left, right = figure.subplots(1, 2)
    labels = curve.over == "labels"
    x = [point.images if labels else point.views for point in curve.points]
    dots = [(place, value) for place, point in zip(x, curve.points, strict=True) for value in point.accuracies]
    left.fill_between(
        x,
        [point.interval[0] for point in curve.points],
        [point.interval[1] for point in curve.points],
        color=_COLOURS[1],
        alpha=0.25,
        label=f"95 % interval (n = {curve.n})",
    )
    if len(dots) > len(x):
        left.plot(*zip(*dots, strict=True), ".", color=_COLOURS[4], label="each draw of the labels")
    left.plot(x, [point.accuracy for point in curve.points], "o-", color=_COLOURS[0], label="median")
    left.set_ylabel("val accuracy")
    left.legend(fontsize="small", loc="lower right")
    right.plot(x, [point.seconds for point in curve.points], "o-", color=_COLOURS[3])
    right.set_ylabel("seconds to tune and fit")
    right.set_ylim(bottom=0)
    for axes in (left, right):
        axes.set_xlabel("training images (log scale)" if labels else "augmented views of each image")
        if labels:
            axes.set_xscale("log")
            axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
            axes.xaxis.set_minor_formatter(FuncFormatter(lambda value, _: ""))
            axes.set_xticks(x)
        else:
            axes.xaxis.get_major_locator().set_params(integer=True)
        axes.grid(alpha=0.3)
    figure.suptitle(f"{curve.head} head against {curve.over}", fontsize="medium")
    return _save(figure, path)


def _save(figure: Figure, path: str | os.PathLike[str]) -> Path:
    figure.savefig(path, dpi=120)
    return Path(path)
