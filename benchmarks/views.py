"""Measure what augmented views bring, and what they cost: benchmarks/results/views.json.

    nice python benchmarks/views.py [--sets ...] [--seeds 0,1,2] [--work FOLDER]

The sets are those of `sets.py` but "coins", and the letters of `default_head.py`: most are drawn, and for each it is
known what determines the class; ants and bees, and digits, are photographed or written. A seed draws a set, or its
split, again. Each set is extracted with the embedded network at 96 pixels, with 4 views by each recipe. The default
head (`fit_head` without options: layers, head and strength by cross-validation on train) is fitted to the clean views,
and to 1, 2 and 4 views, and is tested on the clean views of test.

A gain is the accuracy, or the fall of the log-loss, against the head on the clean views of the same images. Its
standard error comes from the differences by image; those of one image in several seeds are averaged first. The gain
over all sets is the mean of their gains, with the standard error of that mean.

The cost is the processor time of an extraction with K views divided by that of one without, with the decoding; it does
not depend on how busy the machine is. The network is loaded and converted before.

The figures of a set and a seed are kept in --work, so that an interrupted run continues.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
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

from featcache import FeatureCache, extract
from featcache.heads.fit import default_layer, fit
from featcache.heads.predict import classify
from featcache.heads.training_data import FitOptions, TrainingData

CASES = [*(name for name in SETS if name != "coins"), "glyphs"]
RECIPES = ("tutorial", "crop", "gentle", "gentle-flip")
COUNTS = (1, 2, 4)
SIDE = 96

Run = dict[str, dict[str, Any]]
"""Of a set and a seed: for each choice the correct images and the log-losses of test, and the cost."""


def fit_and_test(cache: FeatureCache, views: int) -> dict[str, Any]:
    """Correct predictions and log-loss of each test image, in the order of the images."""
    data = TrainingData.read(cache, default_layer("auto", None, cache.spec.layers, None), with_test=True)
    data = replace(data, train=data.train.with_views(views), keep_layers=False)
    fitted = fit("auto", data, FitOptions())
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
    run: Run = {}
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
        summary: dict[str, float] = {}
        for kind in ("accuracy", "log_loss"):
            values: NDArray[np.float64] = np.array([figure[kind] for figure in figures])
            errors = np.array([figure[f"{kind}_se"] for figure in figures])
            summary |= _digits(**{kind: values.mean(), f"{kind}_se": values.std(ddof=1) / np.sqrt(len(values))})
            summary |= {f"{kind}_better": int((values > 2 * errors).sum())}
            summary |= {f"{kind}_worse": int((values < -2 * errors).sum())}
        result[name] = summary
    return result


def _digits(**figures: float) -> dict[str, float]:
    return {name: float(f"{value:.3g}") for name, value in figures.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sets", nargs="*", default=CASES, choices=CASES)
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--work", type=Path, default=Path("views-work"), help="folder for figures of sets and seeds")
    options = parser.parse_args()
    measured = record.commit()
    options.work.mkdir(exist_ok=True)
    runs: dict[str, list[Run]] = {}
    for seed in map(int, options.seeds.split(",")):
        for name in options.sets:
            stored = options.work / f"{name}-{seed}.json"
            if not stored.exists():
                with tempfile.TemporaryDirectory() as folder:
                    run = measure(name, seed, Path(folder))
                stored.write_text(json.dumps(run))
            runs.setdefault(name, []).append(json.loads(stored.read_text()))
            best = {choice: round(float(np.mean(value["correct"])), 3) for choice, value in runs[name][-1].items()
                    if "correct" in value}  # fmt: skip
            print(name, seed, best, file=sys.stderr, flush=True)
    by_set = {
        name: {
            **of_set[0]["train"],
            "seeds": len(of_set),
            "accuracy": float(f"{np.mean([run['clean']['correct'] for run in of_set]):.4g}"),
            "log_loss": float(f"{np.mean([run['clean']['losses'] for run in of_set]):.4g}"),
            "gains": gains(of_set),
        }
        for name, of_set in runs.items()
    }
    costs = [run[f"{recipe} {COUNTS[-1]}"]["cost"] for of_set in runs.values() for run in of_set for recipe in RECIPES]
    figures = {"sets": by_set, "all_sets": over_sets(by_set), f"cost_of_{COUNTS[-1]}_views": record.spread(costs)}
    record.write("views", figures, measured)


if __name__ == "__main__":
    main()
