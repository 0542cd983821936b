"""Test whether `featcache forecast` predicts if fine-tuning pays, on pairs of a data set and a network.

    python benchmarks/forecast.py [--work demo/forecast] [--part 0 2]

Each data set (benchmarks/sets.py) has three parts. The forecast uses the cached features of train and val. The head
is fitted on train. Fine-tuning trains on train and keeps its best epoch on val. Both are then scored on test, which
neither has used. Fine-tuning paid if it gained at least one point of accuracy on test with p < 0.05 in McNemar's
exact test. There are two fine-tuning recipes; the one with the better val accuracy counts. Each recipe runs with one
seed. Another seed can change the result by several points, so a single pair is less certain than its p-value
suggests.

The rule was committed before the first pair of the table ran and has not changed since: it was not fitted on any part
of the table. Two data sets, scratches and gratings, were made harder before that, because in a timing run all routes
classified them without errors. After the first results of two pairs (digits with both networks), the second recipe
was added, and ten of 31 planned pairs were dropped to save time.

The single scores are compared with the gain by Spearman's rank correlation, over all pairs and over pairs with
pretrained weights. mobilenet_v2 takes its weights from FEATCACHE_WEIGHTS; the photos are in FEATCACHE_ANTS_BEES.

Finished pairs are stored in --work. The same call continues after an interruption; --part I M divides the pairs among
processes. Writes results/forecast.json and the table results/forecast.md; --table writes only the table again. The
times come from a shared machine: they only give the order of magnitude of the cost of a forecast and of fine-tuning.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import record
import sets
from scipy.stats import spearmanr

import featcache
from featcache import FeatureCache, TrainConfig
from featcache.analysis.forecast.forecast import MIN_GAIN, TERMS, Record
from featcache.metrics.significance import paired_test

LITE, MOBILE = "efficientnet_lite0", "mobilenet_v2"
SOME = ("digits", "digits, 900 labels", "ants and bees", "scratches", "gratings", "dots")
PAIRS = [
    *((name, MOBILE, "imagenet") for name in SOME),
    *((name, LITE, "pretrained") for name in sets.SETS if name != "digits, 900 labels"),
    *((name, LITE, "none") for name in ("gratings", "colours")),
]
SIZE, VIEWS = 96, 2
RECIPES = {
    "sgd": TrainConfig(epochs=8, lr=0.01),
    "adamw": TrainConfig(epochs=8, lr=1e-3, optimizer="adamw", schedule="cosine", weight_decay=0.01),
}
SCORES = ("room", "gap", "doubling", "fit", "purity", "h_score", "log_me", "accuracy", "cv_accuracy")
SIGNIFICANT = 0.05


def measure(name: str, backbone: str, weights: str, work: Path) -> dict[str, Any]:
    """Measure one pair: the forecast, then the fine-tuning."""
    folder = work / _plain(f"{name} {backbone} {weights}")
    if (folder / "result.json").exists():
        return json.loads((folder / "result.json").read_text())
    data = sets.write_set(name, work / "sets" / _plain(name))
    path = {"imagenet": os.environ.get("FEATCACHE_WEIGHTS", "")}.get(weights, weights)
    augment = "tutorial" if name.startswith("ants") else "crop"
    shared = {"backbone": backbone, "weights": path, "image_size": SIZE, "augment": augment}
    live = {"precision": "auto", "image_cache": folder / "images.h5", "resume": True}
    started = time.perf_counter()
    featcache.extract(data, folder / "cache.h5", views=VIEWS, precision="fp32", **shared)
    extracted_s = time.perf_counter() - started
    prediction = featcache.forecast(folder / "cache.h5")
    (folder / "forecast.json").write_text(json.dumps(prediction.to_dict()))  # before anything is fine-tuned
    head = featcache.fit_head(folder / "cache.h5", folder / "head")
    test = FeatureCache.open(folder / "cache.h5").features("test")
    cached = head.estimator.predict(np.asarray(test.clean(), np.float32)) == test.y
    runs = {
        kind: featcache.finetune(data, folder / kind, config=recipe, **live, **shared)
        for kind, recipe in RECIPES.items()
    }
    best = max(runs, key=lambda kind: runs[kind].best.val_accuracy)
    predicted = featcache.Classifier.load(folder / best).predict([data / image for image in test.samples.ids], top=1)
    tuned = np.array([prediction.label for prediction in predicted]) == np.array(test.samples.classes)[test.y]
    compared = paired_test(tuned, cached)
    gain = float(tuned.mean() - cached.mean())
    result = {
        "set": name,
        "network": backbone,
        "weights": weights,
        "images": _counts(folder / "cache.h5"),
        "cached": float(cached.mean()),
        "tuned": float(tuned.mean()),
        "recipe": best,
        "val_accuracy": {kind: [epoch.val_accuracy for epoch in run.history] for kind, run in runs.items()},
        "gain": gain,
        "p": compared.p,
        "paid": bool(gain >= MIN_GAIN and compared.p < SIGNIFICANT),
        "said": prediction.pays,
        "forecast": {key: value for key, value in prediction.to_dict().items() if key != "record"},
        "seconds": {
            "extract": extracted_s,
            "forecast": prediction.seconds,
            "finetune": {kind: sum(epoch.seconds for epoch in run.history) for kind, run in runs.items()},
        },
    }
    (folder / "result.json").write_text(json.dumps(result))
    return result


def _plain(name: str) -> str:
    return name.replace(", ", "-").replace(" ", "-")


def _counts(cache: Path) -> dict[str, int]:
    samples = FeatureCache.open(cache).samples
    return {split: len(samples.rows(split)) for split in ("train", "val", "test")}


def count(pairs: list[dict[str, Any]]) -> Record:
    """Count right and wrong forecasts of each kind."""
    outcomes = [(pair["said"], pair["paid"]) for pair in pairs]
    return Record(*(outcomes.count(kind) for kind in ((True, True), (True, False), (False, True), (False, False))))


def correlations(pairs: list[dict[str, Any]]) -> dict[str, float]:
    """Spearman's rank correlation of each score with the gain."""
    gains = [pair["gain"] for pair in pairs]
    return {name: float(spearmanr([pair["forecast"][name] for pair in pairs], gains).statistic) for name in SCORES}


def table(pairs: list[dict[str, Any]]) -> str:
    """One line per pair, wrong forecasts first."""
    lines = ["       set                  network                      cached   tuned    gain      p  said     paid"]
    for pair in sorted(pairs, key=lambda pair: (pair["said"] == pair["paid"], -abs(pair["gain"]))):
        missed = "MISSED" if pair["said"] != pair["paid"] else ""
        network = f"{pair['network']} {pair['weights']}"
        figures = f"{pair['cached']:.4f}  {pair['tuned']:.4f}  {pair['gain']:+.3f}  {pair['p']:.3f}"
        answer, paid = "pays" if pair["said"] else "does not", "yes" if pair["paid"] else "no"
        lines.append(f"{missed:6} {pair['set']:20} {network:28} {figures}  {answer:8} {paid}")
    return "\n".join(lines)


def page(figures: dict[str, Any]) -> str:
    """The table of all pairs as Markdown, with the record and its terms."""
    record_ = Record(*(figures["record"][name] for name in Record._fields))
    head = ("set", "backbone", "weights", "predicted", "happened", "gain", "p")
    lines = [
        "# Does `featcache forecast` know whether fine-tuning pays?",
        "",
        f"{record_} {TERMS}. Written by benchmarks/forecast.py from forecast.json, commit "
        f"{figures['versions']['commit']}.",
        "",
        f"| {' | '.join(head)} |",
        f"|{'---|' * len(head)}",
    ]
    for pair in sorted(figures["pairs"], key=lambda pair: -pair["gain"]):
        answers = ["pays" if pair[key] else "does not pay" for key in ("said", "paid")]
        answers[1] += "" if pair["said"] == pair["paid"] else " (missed)"
        cells = (pair["set"], pair["network"], pair["weights"], *answers, f"{100 * pair['gain']:+.1f} points")
        lines.append(f"| {' | '.join(cells)} | {pair['p']:.3f} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    """Parse options, measure, write the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, default=Path("demo/forecast"), help="folder for finished pairs")
    parser.add_argument("--part", type=int, nargs=2, help="I M: only every Mth pair from the Ith; write no results")
    parser.add_argument("--table", action="store_true", help="measure nothing: write forecast.md from forecast.json")
    options = parser.parse_args()
    results = record.RESULTS / "forecast.json"
    if options.table:
        results.with_suffix(".md").write_text(page(json.loads(results.read_text())))
        return
    measured = record.commit()
    options.work.mkdir(parents=True, exist_ok=True)
    pairs = []
    for pair in PAIRS[options.part[0] :: options.part[1]] if options.part else PAIRS:
        pairs.append(measure(*pair, options.work))
        print(table(pairs[-1:]).splitlines()[1], file=sys.stderr, flush=True)
    if options.part:
        return
    print(table(pairs), file=sys.stderr)
    counted = count(pairs)
    pretrained = [pair for pair in pairs if pair["weights"] != "none"]
    print(f"{counted} {TERMS}.", file=sys.stderr)
    figures = {
        "record": {**counted._asdict(), "pairs": counted.pairs, "right": counted.right},
        "rank correlation with the gain": correlations(pairs),
        "rank correlation with the gain, pretrained": correlations(pretrained),
        "recipes": {kind: asdict(recipe) for kind, recipe in RECIPES.items()},
        "image_size": SIZE,
        "views": VIEWS,
        "pairs": pairs,
    }
    record.write("forecast", figures, measured)
    results.with_suffix(".md").write_text(page(json.loads(results.read_text())))


if __name__ == "__main__":
    main()
