"""Do labels that `suggest` chooses teach more than random ones?

    python benchmarks/labels.py [--texts FOLDER] [--draws 5] [--work FOLDER] [--sets digits,shapes]

The sets, and how they are extracted, are those of `coverage.py`. Each draw takes 65 % of a set, at random, as samples
without a label, and tests on the others. 20 of them get a label, then 40, 80 and 160 in all: those that `suggest`
names, each round with the labels of the rounds before, or random ones. The default head is trained on these labels, on
penultimate features; the figure is its accuracy on the test samples. "suggested, unlabeled" and "random, unlabeled" are
the same with `unlabeled=True`: the head also learns from the samples without a label if cross-validation says that it
helps; "yes" is how often it says so, and "wrong" how often the head is then less accurate on the test samples, of all
draws. The target is that n suggested labels, with or without, are worth 2 n random ones without, in the mean of the
draws. Seconds are those of one `suggest`, on a machine that may do other work.

Writes results/labels.json, and prints what misses.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import record
from coverage import CASES, Fitted, open_pool, pool
from numpy.typing import NDArray

from featcache import FeatureCache, fit_head, suggest

SIZES = (20, 40, 80, 160)
KINDS = ("suggested", "random")
POOL = 0.65  # the share of the samples that can be labeled


def main() -> None:
    """Run all sets."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--texts", type=Path)
    parser.add_argument("--draws", type=int, default=5)
    parser.add_argument("--work", type=Path, help="Folder in which the caches are kept. [default: a temporary one]")
    parser.add_argument("--sets", help="Only these sets of images, with commas between them. [default: all]")
    options = parser.parse_args()
    measured, results = record.commit(), dict[str, Any]()
    with tempfile.TemporaryDirectory() as name:
        work = options.work or Path(name)
        work.mkdir(parents=True, exist_ok=True)
        tables = sorted(options.texts.glob("*.csv")) if options.texts else []
        for case in [*(options.sets.split(",") if options.sets else CASES), *tables]:
            x, y = pool(open_pool(case, work))
            draws = [one_draw(x, y, draw) for draw in range(options.draws)]
            results[case.stem if isinstance(case, Path) else case] = {
                "classes": len(np.unique(y)), "pool": int(POOL * len(y)), "draws": options.draws,
                **{name: summary(name, [draw[name] for draw in draws]) for name in draws[0]},
            }  # fmt: skip
            record.write("labels", {"sizes": SIZES, "sets": results, "misses": misses(results)}, measured)
    print("\n".join(misses(results)) or "no misses")


def one_draw(x: NDArray[np.float32], y: NDArray[np.int64], draw: int) -> dict[str, list[float]]:
    """Accuracies with suggested and with random labels, for each size, and seconds of each round of `suggest`."""
    order = np.random.default_rng(draw).permutation(len(y))
    cut = int(POOL * len(y))
    train, test = order[:cut], order[cut:]
    rows: dict[str, list[int]] = {"suggested": [], "random": []}
    result: dict[str, list[float]] = {"suggest_s": []}
    for size in SIZES:
        labels = [int(y[train[row]]) if row in rows["suggested"] else None for row in range(cut)]
        cache = FeatureCache.from_arrays(x[train], labels)
        started = time.perf_counter()
        named = suggest(cache, min(size, cut) - len(rows["suggested"]), seed=draw)
        result["suggest_s"].append(time.perf_counter() - started)
        rows["suggested"] += [int(sample.path) for sample in named.samples]
        rows["random"] = list(range(min(size, cut)))
        for kind in KINDS:
            labeled = np.isin(np.arange(cut), rows[kind])
            plain = accuracy(x, y, train[labeled], test)
            other = self_trained(x, y, train[labeled], train[~labeled], test)
            for name, value in (
                (kind, plain), (f"{kind}, unlabeled", plain if other is None else other),
                (f"{kind}, yes", other is not None), (f"{kind}, wrong", other is not None and other < plain),
            ):  # fmt: skip
                result.setdefault(name, []).append(float(value))
    return result


def summary(name: str, draws: list[list[float]]) -> list[float]:
    """Of each size: how often in all draws, or the mean of the draws."""
    values = np.array(draws)
    return [*map(int, values.sum(axis=0))] if name.endswith(("yes", "wrong")) else values.mean(axis=0).round(4).tolist()


def accuracy(x: NDArray[np.float32], y: NDArray[np.int64], train: NDArray[np.int64], test: NDArray[np.int64]) -> float:
    """Of the default head with these labels; while each class has one sample at most, of a linear head with C=1."""
    classes, counts = np.unique(y[train], return_counts=True)
    if len(classes) < 2:  # nothing to fit
        return float(np.mean(y[test] == classes[0]))
    if counts.max() > 1:
        fitted = Fitted(x, y, train)
        return float(np.mean(fitted.classes[fitted.probabilities(x[test]).argmax(axis=1)] == y[test]))
    rows, split = np.r_[train, train], ["train"] * len(train) + ["val"] * len(train)  # a cache needs val
    cache = FeatureCache.from_arrays(x[rows], [f"{label:03d}" for label in y[rows]], split=split)
    estimator = fit_head(cache, head="linear", parameters={"C": 1.0}).estimator
    return float(np.mean(classes[estimator.predict(x[test])] == y[test]))


def self_trained(
    x: NDArray[np.float32],
    y: NDArray[np.int64],
    train: NDArray[np.int64],
    unlabeled: NDArray[np.int64],
    test: NDArray[np.int64],
) -> float | None:
    """Accuracy of the default head that also learned from samples without a label; None if it did not."""
    classes, counts = np.unique(y[train], return_counts=True)
    if len(classes) < 2 or counts.max() < 2 or not len(unlabeled):
        return None
    known = test[np.isin(y[test], classes)]  # val must have no other classes; it decides nothing
    labels = [f"{label:03d}" for label in y[train]] + [None] * len(unlabeled) + [f"{label:03d}" for label in y[known]]
    split = ["train"] * len(train) + ["unlabeled"] * len(unlabeled) + ["val"] * len(known)
    fit = fit_head(FeatureCache.from_arrays(x[np.r_[train, unlabeled, known]], labels, split=split), unlabeled=True)
    if not (fit.self_training and fit.self_training.used):
        return None
    return fit.accuracy.accuracy * len(known) / len(test)


def misses(results: dict[str, Any]) -> list[str]:
    """Sets, and the mean of all, on which n suggested labels are worth less than 2 n random ones, or than n."""
    kinds = ("suggested", "suggested, unlabeled", "random")
    rows = {name: {kind: result[kind] for kind in kinds} for name, result in results.items()}
    rows["mean of all"] = {kind: np.mean([row[kind] for row in rows.values()], axis=0).tolist() for kind in kinds}
    lines = []
    for name, row in rows.items():
        for kind in kinds[:2]:
            for reached, size, other in zip(row[kind], SIZES, row["random"], strict=True):
                if size != SIZES[-1] and reached < (twice := row["random"][SIZES.index(size) + 1]):
                    lines.append(f"{name}: {size} labels, {kind}, {reached:.3f}; {2 * size} random ones {twice:.3f}")
                if reached < other:
                    lines.append(f"{name}: {size} labels, {kind}, {reached:.3f}; as many random ones {other:.3f}")
    return lines


if __name__ == "__main__":
    main()
