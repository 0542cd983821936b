"""Compare TF-IDF, cached heads and fine-tuning on texts by the number of labels. Writes results/text_routes.json.

    python benchmarks/text_routes.py FOLDER [--labels 8,64,512] [--draws 1] [--test 500] [--finetune-to 64]

FOLDER holds a file NAME.csv for each set, with the columns text and label; it is not part of this repository. Of each
set, --test texts are drawn once and evaluated as val, which no route uses before. From the others, each draw takes the
given number of labels a class. All routes get the same texts:

- tfidf: words and pairs of words, and 2 to 5 characters, with logistic regression (the route of `benchmark`);
- cached: extraction by the embedded encoder without options, and the default head, which chooses head and layers;
- last layer: the same cache, and a linear head on the penultimate features;
- finetune: the encoder end to end, with the default settings, scored at its last epoch.

The clock of a route runs in this process, imports excluded, from the file to the accuracy; that of a head includes its
extraction. Intervals are Wilson's, and those of the paired difference from TF-IDF on the same texts. The cases in which
the cached head is less accurate than TF-IDF or slower are printed.
"""

from __future__ import annotations

import argparse
import csv
import random
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import record

from featcache import extract, finetune, fit_head
from featcache._utils.threads import idle_cores
from featcache.analysis.benchmark.tfidf import fit_tfidf
from featcache.metrics.predictions import FILE, LAST, read_predictions
from featcache.metrics.significance import paired_difference, wilson_interval

Rows = list[tuple[str, str]]


def main() -> None:
    """Run all sets, label counts and draws."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--labels", default="8,64,512")
    parser.add_argument("--draws", type=int, default=1)
    parser.add_argument("--test", type=int, default=500)
    parser.add_argument("--finetune-to", type=int, default=64, help="the most labels a class that are fine-tuned on")
    options = parser.parse_args()
    measured, results = record.commit(), []
    for path in sorted(options.folder.glob("*.csv")):
        with path.open(newline="", encoding="utf-8") as file:
            rows = [(row["text"], row["label"]) for row in csv.DictReader(file)]
        random.Random(0).shuffle(rows)
        for labels in map(int, options.labels.split(",")):
            for draw in range(options.draws):
                train = draw_labels(rows[options.test :], labels, draw)
                figures = compare(rows[: options.test], train, labels <= options.finetune_to)
                results.append({"set": path.stem, "labels": labels, "draw": draw, "train": len(train), **figures})
                record.write("text_routes", {"results": results, "losses": losses(results)}, measured)
    for line in losses(results):
        print(line)


def draw_labels(rows: Rows, labels: int, draw: int) -> Rows:
    """The first texts of each class in the order of a draw."""
    order = random.Random(draw).sample(rows, len(rows))
    of_class = {label: [row for row in order if row[1] == label][:labels] for label in sorted({row[1] for row in rows})}
    return [row for chosen in of_class.values() for row in chosen]


def compare(test: Rows, train: Rows, trains_encoder: bool) -> dict[str, Any]:
    """Accuracy, interval, seconds and paired difference from TF-IDF of each route."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        with (folder / "texts.csv").open("w", newline="", encoding="utf-8") as file:
            split = [*((*row, "train") for row in train), *((*row, "val") for row in test)]
            csv.writer(file).writerows([("text", "label", "split"), *split])
        data = folder / "texts.csv"
        extraction = record.seconds(lambda: extract(data, folder / "cache.h5", allow_leak=True))
        cache = folder / "cache.h5"
        runs: dict[str, tuple[Callable[[], Any], str, float]] = {
            "tfidf": (lambda: fit_tfidf(data, folder / "tfidf", allow_leak=True), FILE, 0.0),
            "cached": (lambda: fit_head(cache, folder / "cached"), FILE, extraction),
            "last layer": (
                lambda: fit_head(cache, folder / "last layer", head="linear", layer="penultimate"), FILE, extraction
            ),
        }  # fmt: skip
        if trains_encoder:
            runs["finetune"] = (lambda: finetune(data, folder / "finetune", allow_leak=True), LAST, 0.0)
        figures, right = {}, {}
        for route, (run, file_name, before_s) in runs.items():
            started = time.perf_counter()
            run()
            seconds = before_s + time.perf_counter() - started
            answers = {row.image: row.right for row in read_predictions(folder / route, file_name)}
            right[route] = np.array([[answers[image] for image in sorted(answers)]])
            accuracy, n = float(right[route].mean()), right[route].shape[1]
            gain = paired_difference(right["tfidf"], right[route])
            figures[route] = {
                "accuracy": accuracy,
                "interval": wilson_interval(round(accuracy * n), n),
                "seconds": round(seconds, 1),
                "gain_over_tfidf": gain.difference,
                "gain_interval": (gain.low, gain.high),
                "p": gain.p,
            }
    return {"test": n, "idle_cores": idle_cores(), "routes": figures}


def losses(results: list[dict[str, Any]]) -> list[str]:
    """Where the cached head loses."""
    lines = []
    for result in results:
        name, routes = f"{result['set']}, {result['labels']} labels a class", result["routes"]
        cached = routes["cached"]
        for route in ("tfidf", "last layer", "finetune"):
            if route in routes and routes[route]["accuracy"] > cached["accuracy"]:
                lines.append(
                    f"{name}: {route} has {routes[route]['accuracy']:.3f}, the cached head {cached['accuracy']:.3f}"
                )
            if route in routes and routes[route]["seconds"] < cached["seconds"]:
                lines.append(
                    f"{name}: {route} took {routes[route]['seconds']} s, the cached head {cached['seconds']} s"
                )
    return lines


if __name__ == "__main__":
    main()
