"""Summaries of the runs of gap.py: accuracy and seconds of each route, and which goals were reached."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter

from featcache.metrics.significance import paired_difference, wilson_interval
from featcache.reports.style import BLUE, GREEN, GREY, ORANGE, PURPLE, SKY, VERMILION

FULL = ("fine-tune",)
TUNED = (*FULL, "LP-FT")
TRAINED = (*TUNED, "from scratch")
"""Prefixes of the names of routes that train the network."""

DEFAULT = "default head"
"""What extract and fit-head give without options."""

OWN = "ImageNet's own rows"
"""Nothing is trained. The route only exists for ImageNet classes, so it does not count for any goal."""

PAIRS = (
    ("fine-tune", "LP-FT"),
    ("fine-tune, AdamW", "LP-FT"),
    ("fine-tune, clean views", "LP-FT, clean views"),
    ("fine-tune, last stage", "LP-FT, last stage"),
)
WITHIN, FRACTION = {"digits": -0.005}, {"digits": 20, "ants-bees": 15}
"""The goals: accepted loss in accuracy against fine-tuning, as a fraction, and how many times as fast."""

_ROUNDING = 1e-9


def summarise(runs: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """For each set and network: its routes over the seeds, and the goals."""
    keys = list(dict.fromkeys((run["set"], run["backbone"]) for run in runs))
    summary = []
    for name, backbone in keys:
        group = [run for run in runs if (run["set"], run["backbone"]) == (name, backbone)]
        names = dict.fromkeys(run["route"] for run in group)
        full, tuned = _best(group, FULL, whole=True), _best(group, TUNED)
        routes = {route: _route([run for run in group if run["route"] == route], group, full) for route in names}
        goals = [goal for best in dict.fromkeys((tuned, full)) for goal in _nearest(name, group, routes, best)]
        first = {layers: seconds for run in group for layers, seconds in run["first_s"].items()}
        goals += _lpft(group, routes)
        summary.append({"set": name, "backbone": backbone, "first_s": first, "routes": routes, "reached": goals})
    return summary


def _best(group: Sequence[dict[str, Any]], kinds: tuple[str, ...], whole: bool = False) -> str | None:
    """The most accurate route whose name begins with one of `kinds`. whole : only routes that train all layers."""
    names = dict.fromkeys(run["route"] for run in group if run["route"].startswith(kinds))
    names = {name: None for name in names if not (whole and name.endswith("last stage"))}
    mean = {name: statistics.mean(run["accuracy"] for run in group if run["route"] == name) for name in names}
    return max(mean, key=lambda name: mean[name], default=None)


def _route(runs: Sequence[dict[str, Any]], group: Sequence[dict[str, Any]], full: str | None) -> dict[str, Any]:
    """Mean accuracy and median seconds over the seeds. The speed relative to `full` compares runs of the same seed."""
    mean = statistics.mean(run["accuracy"] for run in runs)
    low, high = wilson_interval(round(mean * runs[0]["n"]), runs[0]["n"])
    folds = [run["cv_accuracy"] for run in runs if run.get("cv_accuracy") is not None]
    warm = [run["warm_s"] for run in runs if run["warm_s"] is not None]
    return {
        "accuracy": mean,
        "accuracies": [run["accuracy"] for run in runs],
        "low": low,
        "high": high,
        "n": runs[0]["n"],
        "cold_s": statistics.median(run["cold_s"] for run in runs),
        "warm_s": statistics.median(warm) if warm else None,
        "cv_accuracy": statistics.mean(folds) if folds else None,
        "times_as_fast": _times_as_fast(runs, group, full),
        "size_bytes": runs[0]["size_bytes"],
    }


def _times_as_fast(runs: Sequence[dict[str, Any]], group: Sequence[dict[str, Any]], other: str | None) -> float | None:
    """The median ratio over the seeds that both routes have."""
    other_s = {run["seed"]: run["cold_s"] for run in group if run["route"] == other}
    ratios = [other_s[run["seed"]] / run["cold_s"] for run in runs if run["seed"] in other_s]
    return statistics.median(ratios) if ratios else None


def _right(runs: Iterable[dict[str, Any]], images: Sequence[str]) -> np.ndarray[Any, Any]:
    """Whether each run classified each image correctly, shape (r, n)."""
    return np.array([[image not in wrong for image in images] for wrong in (set(run["wrong"]) for run in runs)])


def _pair(group: Sequence[dict[str, Any]], first: str, second: str) -> dict[str, float]:
    """Difference in accuracy of the second and the first route, over the seeds that both have."""
    first_runs, second_runs = ([run for run in group if run["route"] == route] for route in (first, second))
    seeds = {run["seed"] for run in first_runs} & {run["seed"] for run in second_runs}
    first_runs, second_runs = (
        [run for run in route_runs if run["seed"] in seeds] for route_runs in (first_runs, second_runs)
    )
    named = sorted({image for run in (*first_runs, *second_runs) for image in run["wrong"]})
    images = [*named, *("right in all" for _ in range(first_runs[0]["n"] - len(named)))]
    test = paired_difference(_right(first_runs, images), _right(second_runs, images))
    return {"difference": test.difference, "low": test.low, "high": test.high, "p": test.p}


def _nearest(
    name: str, group: Sequence[dict[str, Any]], routes: dict[str, Any], best: str | None
) -> list[dict[str, Any]]:
    """Compare cached routes that are fast enough with a fine-tuned network: the most accurate one, and the one that
    cross-validation on train selects."""
    if best is None:
        return [{"what": "cached routes against fine-tuning", "route": "nothing was fine-tuned", "reached": None}]
    factor = FRACTION.get(name, 15)
    speed = {
        route: _times_as_fast([run for run in group if run["route"] == route], group, best) or 0.0
        for route in routes
        if not route.startswith((*TRAINED, OWN))
    }
    what = f"at 1/{factor} of the time of {best}, and as accurate"
    if name in WITHIN:
        what += f" but for {-100 * WITHIN[name]:.1f} points"
    fast = [route for route in speed if speed[route] >= factor]
    if not fast:
        nearest = max(speed, key=lambda route: speed[route], default="none ran")
        return [{"what": what, "route": f"{nearest} ({speed.get(nearest, 0.0):.1f} x)", "reached": False}]
    choices = {"the best on val of those as fast": max(fast, key=lambda route: routes[route]["accuracy"])}
    if folds := [route for route in fast if routes[route]["cv_accuracy"] is not None]:
        choices["by cross-validation on train"] = max(folds, key=lambda route: routes[route]["cv_accuracy"])
    goals = []
    for chosen, candidate in choices.items():
        pair = _pair(group, best, candidate)
        near = pair["difference"] >= WITHIN.get(name, 0.0) - _ROUNDING
        goal = {"what": what, "route": candidate, "chosen": chosen, "times_as_fast": speed[candidate]}
        goals.append({**goal, **pair, "reached": near})
    return goals


def _lpft(group: Sequence[dict[str, Any]], routes: dict[str, Any]) -> list[dict[str, Any]]:
    """Compare LP-FT with fine-tuning for as many epochs on the same views."""
    goals = []
    for plain, lpft in PAIRS:
        if {plain, lpft} <= set(routes):
            pair = _pair(group, plain, lpft)
            reached = pair["difference"] >= -_ROUNDING
            goals.append(
                {"what": f"as accurate as {plain} in as many epochs", "route": lpft, **pair, "reached": reached}
            )
    return goals


def describe(summary: Sequence[dict[str, Any]]) -> str:
    """The summary as text; missed goals are marked."""
    lines = []
    for group in summary:
        first = ", ".join(f"{layers} {seconds:.1f} s" for layers, seconds in group["first_s"].items())
        lines += [
            "",
            f"{group['set']}, {group['backbone']} (the first extraction, which converts the network: {first})",
        ]
        for route, result in group["routes"].items():
            warm = f"{result['warm_s']:8.1f}" if result["warm_s"] is not None else "       -"
            fast = f"{result['times_as_fast']:6.1f} x" if result["times_as_fast"] else "       -"
            spread = (
                f"({min(result['accuracies']):.4f} to {max(result['accuracies']):.4f}, {len(result['accuracies'])})"
            )
            lines.append(
                f"  {route:28} {result['accuracy']:.4f} {spread:26} interval {result['low']:.3f} to "
                f"{result['high']:.3f}  cold {result['cold_s']:7.1f} s  warm {warm} s  {fast}"
            )
        for goal in group["reached"]:
            figures = ""
            if "difference" in goal:
                figures = (
                    f": {100 * goal['difference']:+.1f} points ({100 * goal['low']:+.1f} to {100 * goal['high']:+.1f}, "
                    f"p = {goal['p']:.2g})"
                )
            if "times_as_fast" in goal:
                figures += f", {goal['times_as_fast']:.1f} x, {goal['chosen']}"
            state = {True: "reached", False: "MISSED", None: "not judged"}[goal["reached"]]
            lines.append(f"  {state}: {goal['what']}: {goal['route']}{figures}")
    return "\n".join(lines)


def draw(summary: Sequence[dict[str, Any]]) -> Figure:
    """Accuracy against cold seconds on a log axis, one panel per set and network."""
    columns = 2 if len(summary) > 1 else 1
    rows = -(-len(summary) // columns)
    figure = Figure(figsize=(5.5 * columns, 3.6 * rows), layout="constrained")
    kinds = {
        "penultimate layer, K augmented views": (BLUE, "o"),
        "all stages": (GREEN, "s"),
        DEFAULT: (SKY, "P"),
        OWN: (ORANGE, "*"),
        "LP-FT": (PURPLE, "D"),
        "fine-tuning": (VERMILION, "^"),
        "from scratch": (GREY, "v"),
    }
    for axes, group in zip(np.ravel(figure.subplots(rows, columns)), summary, strict=False):
        for route, figures in group["routes"].items():
            colour, mark = kinds[_kind(route)]
            yerr = [[figures["accuracy"] - figures["low"]], [figures["high"] - figures["accuracy"]]]
            axes.errorbar(
                figures["cold_s"], figures["accuracy"], yerr=yerr, color=colour, marker=mark, ms=6, alpha=0.8, lw=1
            )
            if (label := _label(route)) is not None:
                axes.annotate(
                    label, (figures["cold_s"], figures["accuracy"]), (4, 4), textcoords="offset points", fontsize=7
                )
        axes.set_xscale("log")
        axes.margins(x=0.12)
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.xaxis.set_major_formatter("{x:g}")
        axes.xaxis.set_minor_formatter(NullFormatter())
        axes.set_ylim(max(0, min(figures["low"] for figures in group["routes"].values()) - 0.02), 1.005)
        axes.set_title(f"{group['set']}, {group['backbone']}", fontsize=9)
        axes.set_xlabel("seconds, extraction included, conversion not (log scale)", fontsize=8)
        axes.set_ylabel("val accuracy (95 % interval)", fontsize=8)
        axes.grid(which="both")
    shown = [figure.axes[0].plot([], [], mark, color=colour, label=kind)[0] for kind, (colour, mark) in kinds.items()]
    figure.legend(handles=shown, loc="outside lower center", ncols=3, fontsize=8)
    return figure


def _kind(route: str) -> str:
    if route.startswith("penultimate"):
        return "penultimate layer, K augmented views"
    if route.startswith("LP-FT"):
        return "LP-FT"
    if route.startswith("fine-tune"):
        return "fine-tuning"
    return route if route in ("from scratch", OWN, DEFAULT) else "all stages"


def _label(route: str) -> str | None:
    """The label beside a point, if its colour is not enough and there is space."""
    labels = {f"penultimate, K={views}": f"K={views}" for views in (0, 4, 16)}
    return {**labels, "LP-FT, last stage": "last stage", "fine-tune": "as the tutorials"}.get(route)
