"""Measure what augmented views bring, and what they cost: benchmarks/results/views.json.

    nice python benchmarks/views.py [--sets ...] [--seeds 0,1,2] [--work FOLDER] [--report]

The sets are those of `sets.py` but "coins" and 900 digits, and the letters of `default_head.py`. Most are drawn, and
for each it is known what determines the class; ants and bees are photos, digits are written by hand. A seed draws a
set, or its split, again. Each set is extracted with the embedded network at 96 pixels, with 4 views by each recipe. The
default head (`fit_head` without options: layers, head and strength by cross-validation on train) is fitted to the clean
views, and to 1, 2 and 4 views, and is tested on the clean views of test.

A gain is the accuracy, or the fall of the log-loss, against the head on the clean views of the same images. Its
standard error comes from the differences by image; those of one image in several seeds are averaged first. The gain
over all sets is the mean of their gains, with the standard error of that mean.

The cost is the processor time of an extraction with K views divided by that of one without, with the decoding; it does
not depend on how busy the machine is. It includes val and test, which have no views, and loading the network.

The trial of `extract --views auto` is run on the same caches, on at most 400 training images. The gain on test of what
it chooses, 0 if it chooses none, is that of the default head; its cost is the processor time of the comparison, without
that of the views.

The figures of a set and a seed, and the caches, are kept in --work, so that an interrupted run continues. --report
measures no further sets and seeds.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import time
from collections import defaultdict
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import record
from default_head import write_glyphs
from numpy.typing import NDArray
from sets import SETS, write_set

from featcache import FeatureCache, ViewSpec, extract
from featcache.analysis.views.trial import MAX_IMAGES
from featcache.heads.fit import default_layer, fit
from featcache.heads.predict import classify
from featcache.heads.training_data import FitOptions, TrainingData
from featcache.heads.tuning.image_sample import sample_images
from featcache.heads.tuning.view_selection import ViewSelection, select_views

CASES = [*(name for name in SETS if name not in ("coins", "digits, 900 labels")), "glyphs"]
RECIPES = ("tutorial", "crop", "gentle", "gentle-flip")
COUNTS = (1, 2, 4)
SIDE = 96
BUDGET_S = 600.0
"""Of a fit: no head is left out, on a busy machine either."""

Run = dict[str, dict[str, Any]]
"""Of a set and a seed: for each choice the correct images and the log-losses of test, and the cost."""


def fit_and_test(cache: FeatureCache, views: int) -> dict[str, Any]:
    """Correct predictions and log-loss of each test image, in the order of the images."""
    data = TrainingData.read(cache, default_layer("auto", None, cache.spec.layers, None), with_test=True)
    data = replace(data, train=data.train.with_views(views), keep_layers=False)
    fitted = fit("auto", data, FitOptions(budget_s=BUDGET_S))
    data = data.take_layers([data.layers.index(name) for name in fitted.layers])
    assert data.test is not None
    y, classes = data.test.y, len(data.test.samples.classes)
    predictions = classify(fitted.estimator, data.test.lazy_view(0), classes)
    assert predictions.probabilities is not None
    losses = -np.log(predictions.probabilities[np.arange(len(y)), y].clip(1e-15))
    return {"correct": (predictions.predicted == y).astype(int).tolist(), "losses": losses.round(5).tolist()}


def measure(name: str, seed: int, folder: Path) -> Run:
    """All choices on one set."""
    images = write_glyphs(folder / "images", seed) if name == "glyphs" else write_set(name, folder / "images", seed)
    extract(images, folder / "first.h5", views=0, image_size=SIDE)  # converts the network
    run: Run = {"commit": {"of": record.commit()}}
    clean_s = _processor_s(lambda: extract(images, folder / "clean.h5", views=0, image_size=SIDE))
    clean = FeatureCache.open(folder / "clean.h5")
    run["clean"] = fit_and_test(clean, 0)
    run["test"] = {"sha256": [bytes(row).hex()[:16] for row in clean.features("test").samples.sha256]}
    run["train"] = {"images": len(clean.features("train").samples), "classes": len(clean.samples.classes)}
    for recipe in RECIPES:
        path = folder / f"{recipe}.h5"
        seconds = _processor_s(lambda: extract(images, path, views=COUNTS[-1], augment=recipe, image_size=SIDE))  # noqa: B023
        for views in COUNTS:
            run[f"{recipe} {views}"] = fit_and_test(FeatureCache.open(path), views)
        run[f"{recipe} {COUNTS[-1]}"]["cost"] = round(seconds / clean_s, 2)
    return run


def run_trial(folder: Path) -> dict[str, Any]:
    """What the trial chooses on the caches of a set."""
    features, layers = {}, ()
    for recipe in ViewSpec.recipes.trial:
        cache = FeatureCache.open(folder / f"{recipe}.h5")
        train, layers = cache.features("train", "stages"), cache.layers("stages")
        features[recipe] = train.take(sample_images(train.samples, MAX_IMAGES, 0))
    selections: list[ViewSelection] = []
    seconds = _processor_s(lambda: selections.append(select_views(features, layers)))
    best, chosen = selections[0].best, selections[0].chosen
    return {
        "chosen": f"{chosen.recipe} {chosen.views}" if chosen else None,
        "accuracy_gain": _digits(**(chosen or best).accuracy_gain._asdict()),
        "log_loss_gain": _digits(**(chosen or best).log_loss_gain._asdict()),
        "processor_s": float(f"{seconds:.3g}"),
    }


def trial_gains(runs: list[Run], trials: list[dict[str, Any]]) -> dict[str, Any]:
    """What the choices of the trials bring on test, the mean over the seeds."""
    choices = [trial["chosen"] or "clean" for trial in trials]
    pairs = list(zip(runs, choices, strict=True))
    correct = [np.mean(run[choice]["correct"]) - np.mean(run["clean"]["correct"]) for run, choice in pairs]
    losses = [np.mean(run["clean"]["losses"]) - np.mean(run[choice]["losses"]) for run, choice in pairs]
    return {"trials": trials, "test": _digits(accuracy=float(np.mean(correct)), log_loss=float(np.mean(losses)))}


def _processor_s(job: Any) -> float:
    started = time.process_time()
    job()
    return time.process_time() - started


def gains(runs: list[Run]) -> dict[str, dict[str, float]]:
    """Of each choice against clean, over the seeds of a set: see the docstring of this module."""
    result = {}
    names = [f"{recipe} {views}" for recipe in RECIPES for views in COUNTS]
    for name in names:
        by_image: dict[str, list[list[float]]] = defaultdict(list)
        for run in runs:
            pairs = zip(
                run["test"]["sha256"],
                np.subtract(run[name]["correct"], run["clean"]["correct"]).tolist(),
                np.subtract(run["clean"]["losses"], run[name]["losses"]).tolist(),
                strict=True,
            )
            for image, correct, loss in pairs:
                by_image[image].append([correct, loss])
        means = np.array([np.mean(values, axis=0) for values in by_image.values()])
        mean, error = means.mean(axis=0), means.std(axis=0) / np.sqrt(len(means))
        result[name] = _digits(accuracy=mean[0], accuracy_se=error[0], log_loss=mean[1], log_loss_se=error[1])
    return result


def over_sets(by_set: dict[str, Any]) -> dict[str, Any]:
    """The mean gain of each choice over the sets, and in how many sets it is above or below two standard errors."""
    result = {}
    for name in next(iter(by_set.values()))["gains"]:
        figures = [entry["gains"][name] for entry in by_set.values()]
        summary = _mean_of_sets(figures)
        for kind in ("accuracy", "log_loss"):
            values: NDArray[np.float64] = np.array([figure[kind] for figure in figures])
            errors = np.array([figure[f"{kind}_se"] for figure in figures])
            summary |= {f"{kind}_better": int((values > 2 * errors).sum())}
            summary |= {f"{kind}_worse": int((values < -2 * errors).sum())}
        result[name] = summary
    return result


def _mean_of_sets(figures: list[dict[str, float]]) -> dict[str, float]:
    """Mean gain over the sets, and its standard error."""
    summary: dict[str, float] = {}
    for kind in ("accuracy", "log_loss"):
        values: NDArray[np.float64] = np.array([figure[kind] for figure in figures])
        summary |= _digits(**{kind: values.mean(), f"{kind}_se": values.std(ddof=1) / np.sqrt(len(values))})
    return summary


def _digits(**figures: float) -> dict[str, float]:
    return {name: float(f"{value:.3g}") for name, value in figures.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sets", nargs="*", default=CASES, choices=CASES)
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--work", type=Path, default=Path("views-work"), help="folder for caches and figures")
    parser.add_argument("--report", action="store_true", help="measure no further sets and seeds")
    options = parser.parse_args()
    measured = record.commit()
    options.work.mkdir(exist_ok=True)
    runs: dict[str, list[Run]] = {}
    trials: dict[str, list[dict[str, Any]]] = {}
    for seed in map(int, options.seeds.split(",")):
        for name in options.sets:
            folder, stored = options.work / f"{name}-{seed}", options.work / f"{name}-{seed}.json"
            if not stored.exists():
                if options.report:
                    continue
                shutil.rmtree(folder, ignore_errors=True)
                folder.mkdir()
                stored.write_text(json.dumps(measure(name, seed, folder)))
            runs.setdefault(name, []).append(json.loads(stored.read_text()))
            tried = folder / "trial.json"
            if not tried.exists():
                tried.write_text(json.dumps(run_trial(folder)))
            trials.setdefault(name, []).append(json.loads(tried.read_text()))
            print(name, seed, trials[name][-1], file=sys.stderr, flush=True)
    by_set = {
        name: {
            **of_set[0]["train"],
            "seeds": len(of_set),
            "accuracy": float(f"{np.mean([run['clean']['correct'] for run in of_set]):.4g}"),
            "log_loss": float(f"{np.mean([run['clean']['losses'] for run in of_set]):.4g}"),
            "gains": gains(of_set),
            "auto": trial_gains(of_set, trials[name]),
        }
        for name, of_set in runs.items()
    }
    costs = [run[f"{recipe} {COUNTS[-1]}"]["cost"] for of_set in runs.values() for run in of_set for recipe in RECIPES]
    figures = {
        "sets": by_set,
        "all_sets": over_sets(by_set),
        "auto": _mean_of_sets([entry["auto"]["test"] for entry in by_set.values()]),
        f"cost_of_{COUNTS[-1]}_views": record.spread(costs),
        "commits_of_heads": sorted({run["commit"]["of"] for of_set in runs.values() for run in of_set}),
    }
    record.write("views", figures, measured)


if __name__ == "__main__":
    main()
