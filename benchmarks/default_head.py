"""Compare `fit-head` at its defaults with scikit-learn.

    python benchmarks/default_head.py [--repeats 5] [--sets ...] [--sizes 2000x10 16000x200]

The sets are those of `sets.py`, and "glyphs": letters and digits of the fonts of matplotlib, in 40 classes with 12
training images each. Each is extracted at the defaults, with the embedded network. Then the following fits take turns,
in one process, from open arrays or an open cache to the fitted classifier:

- default: `fit_head(cache)`. It chooses layers, weights, head and strength by cross-validation.
- single: `fit_head` with one head on one choice of layers: linear, ridge or lda, on the penultimate layer, on the means
  of the stages, or on all layers. The best of the nine by test log-loss is what the default is compared with.
- default on last, on stages: the same as default, on a cache of these layers alone.
- logistic: scikit-learn's LogisticRegression, fitted once at its defaults on standardized penultimate features.
- logistic-cv: LogisticRegressionCV on the same features with 5 folds and 10 strengths (not on --sizes).
- ridge-cv: RidgeClassifierCV on the same features, 16 strengths.

The clock covers the fit, with all preparation; for the default also the check of the checksums and the evaluation of
val and test. The results are medians, minima and maxima; ratios are computed within each repeat. Accuracy and log-loss
are those of test. RidgeClassifierCV has no probabilities. The share of a standard error by which the default's accuracy
lies below that of the best single choice is `below_best`; less than 0 is better.

--sizes N x CLASSES are synthetic features of 1,280 dimensions, in clusters, of one layer.

Writes results/default_head.json.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import record
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont
from sets import SETS, write_set
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression, LogisticRegressionCV, RidgeClassifierCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from featcache import FeatureCache, extract, fit_head
from featcache.vision.image_files import write_png

CHARACTERS = "ABCDEFGHJKLMNPQRSTUVXYZabdefghkmnqrt2345"
GLYPHS = {"train": 12, "val": 4, "test": 10}
WIDTH = 1280
CASES = ["ants and bees", "digits", "digits, 900 labels", "digits, pale", "gratings", "dots", "shapes", "colours",
         "pairs", "scratches", "glyphs"]  # fmt: skip

Job = tuple[Callable[[], Any], Callable[[], dict[str, Any]]]
"""A fit, and a function that gives the scores of the last fit."""


def write_glyphs(folder: Path, seed: int = 0) -> Path:
    """Letters of any colour, size and slight tilt, under noise."""
    import matplotlib

    rng = np.random.default_rng(seed)
    fonts = sorted((Path(matplotlib.get_data_path()) / "fonts" / "ttf").glob("DejaVu*.ttf"))
    for split, count in GLYPHS.items():
        for number, character in enumerate(CHARACTERS):
            target = folder / split / f"{number:02d}-{ord(character)}"
            target.mkdir(parents=True)
            for image in range(count):
                canvas = Image.new("RGB", (96, 96), tuple(rng.integers(0, 255, 3).tolist()))
                font = ImageFont.truetype(str(fonts[int(rng.integers(len(fonts)))]), int(rng.integers(36, 70)))
                corner = (int(rng.integers(10, 34)), int(rng.integers(2, 20)))
                colour = tuple(rng.integers(0, 255, 3).tolist())
                ImageDraw.Draw(canvas).text(corner, character, font=font, fill=colour)
                pixels = np.asarray(canvas.rotate(float(rng.uniform(-15, 15))), float)
                noisy = (pixels + rng.normal(0, 20, pixels.shape)).clip(0, 255).astype(np.uint8)
                write_png(noisy, target / f"{image:03d}.png")
    return folder


def clusters(n: int, classes: int) -> FeatureCache:
    """A cache in memory: clusters in 64 of 1,280 dimensions, cut at zero as by a ReLU."""
    rng = np.random.default_rng(0)
    basis = rng.standard_normal((64, WIDTH)).astype(np.float32) / 8
    centers = rng.standard_normal((classes, 64)).astype(np.float32)
    held = max(1000, 4 * classes)
    y = np.concatenate([np.arange(size) % classes for size in (n, held // 2, held // 2)])
    latent = centers[y] + 1.2 * rng.standard_normal((len(y), 64)).astype(np.float32)
    x = np.maximum(latent @ basis + rng.standard_normal((len(y), WIDTH), dtype=np.float32) + 0.3, 0)
    split = np.repeat(["train", "val", "test"], [n, held // 2, held // 2])
    return FeatureCache.from_arrays(x, [f"class {label:04d}" for label in y], split=split.tolist())


def scores(probabilities: NDArray[Any] | None, predicted: NDArray[Any], y: NDArray[Any]) -> dict[str, float]:
    """Accuracy, and log-loss if there are probabilities."""
    result = {"accuracy": float((predicted == y).mean())}
    if probabilities is not None:
        true = probabilities[np.arange(len(y)), y].clip(1e-15)
        result["log_loss"] = float(-np.log(true).mean())
    return {name: float(f"{value:.4g}") for name, value in result.items()}


def of_sklearn(cache: FeatureCache, make: Callable[[], Any]) -> Job:
    """A fit, and the scores of the last one."""
    train, test = cache.features("train"), cache.features("test")
    x, y = np.asarray(train.clean(), np.float32), train.y
    model = make_pipeline(StandardScaler(), make())

    def score() -> dict[str, float]:
        held = np.asarray(test.clean(), np.float32)
        has_probabilities = hasattr(model, "predict_proba")
        return scores(model.predict_proba(held) if has_probabilities else None, model.predict(held), test.y)

    return lambda: model.fit(x, y), score


def of_featcache(cache: FeatureCache, **options: Any) -> Job:
    """A fit, and the scores of the last one."""
    fits: list[Any] = []

    def score() -> dict[str, Any]:
        test = fits[-1].report.test
        figures = {"accuracy": test.accuracy, "log_loss": test.log_loss}
        chosen = {"head": fits[-1].name, "layers": len(fits[-1].layers)}
        return {**{name: float(f"{value:.4g}") for name, value in figures.items()}, **chosen}

    return lambda: fits.append(fit_head(cache, device="cpu", **options)), score


def compare(cache: FeatureCache, repeats: int, others: Mapping[str, FeatureCache] | None = None) -> dict[str, Any]:
    """Measure the fits. others : caches of the same images with fewer layers; None for synthetic features."""
    jobs = {
        "default": of_featcache(cache),
        "logistic": of_sklearn(cache, LogisticRegression),
        "ridge-cv": of_sklearn(cache, lambda: RidgeClassifierCV(np.logspace(-3, 6, 16))),
    }
    if others:
        options = {"scoring": "accuracy", "use_legacy_attributes": False, "l1_ratios": (0.0,)}
        jobs["logistic-cv"] = of_sklearn(cache, lambda: LogisticRegressionCV(Cs=10, cv=5, **options))
    times: dict[str, list[float]] = {name: [] for name in jobs}
    for _ in range(repeats):
        for name, (fit, _score) in jobs.items():
            times[name].append(record.seconds(fit))
    results: dict[str, Any] = {
        name: {"seconds": record.spread(times[name]), **score()} for name, (_fit, score) in jobs.items()
    }
    for name in jobs:
        ratios = [own / other for own, other in zip(times["default"], times[name], strict=True)]
        results[name]["default_takes"] = record.spread(ratios)
    if others:
        singles = {}
        for head in ("linear", "ridge", "lda"):
            for layer in ("penultimate", "stages", "all"):
                fit, score = of_featcache(cache, head=head, layer=layer)
                fit()
                singles[f"{head} on {layer}"] = score()
        best = min(singles, key=lambda name: singles[name]["log_loss"])
        accuracy = results["default"]["accuracy"]
        n = len(cache.features("test").samples)
        error = max(np.sqrt(accuracy * (1 - accuracy) / n), 1 / n)
        results["single"], results["best_single"] = singles, best
        results["below_best"] = round((singles[best]["accuracy"] - accuracy) / float(error), 2)
        for layers, other in others.items():
            fit, score = of_featcache(other)
            fit()
            results[f"default on {layers}"] = score()
    return results


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--sets", nargs="*", default=CASES, choices=[*SETS, "glyphs"])
    parser.add_argument("--sizes", nargs="*", default=["2000x10", "16000x200"])
    options = parser.parse_args()
    measured = record.commit()
    warnings.simplefilter("ignore", ConvergenceWarning)
    figures: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as name:
        for case in options.sets:
            folder = Path(name) / case
            images = write_glyphs(folder) if case == "glyphs" else write_set(case, folder)
            cache = extract(images, Path(name) / f"{case}.h5").cache
            others = {
                layers: extract(images, Path(name) / f"{case} {layers}.h5", layers=layers).cache
                for layers in ("last", "stages")
            }
            figures[case] = {"train": len(cache.features("train").samples), **compare(cache, options.repeats, others)}
            print(case, figures[case], file=sys.stderr, flush=True)
    for size in options.sizes:
        n, classes = map(int, size.split("x"))
        repeats = options.repeats if n < 10_000 else 1
        figures[size] = compare(clusters(n, classes), repeats)
        print(size, figures[size], file=sys.stderr, flush=True)
    record.write("default_head", figures, measured)


if __name__ == "__main__":
    main()
