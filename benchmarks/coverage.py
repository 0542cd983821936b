"""Do sets of labels hold the true label as often as requested, and are samples of unknown classes refused?

    python benchmarks/coverage.py [--texts FOLDER] [--draws 5] [--work FOLDER]

The sets are those of `sets.py` below, and "glyphs" of `default_head.py`; with --texts each NAME.csv of the folder
(columns text and label), of which 2,000 texts are used. Each set is extracted once, by the default network without
augmented views. Each draw takes 40 samples a class (at most half of all) to train the default head on penultimate
features, and tests on all others.

- coverage: the share of test samples whose set holds the true label, for requested 0.9, 0.95 and 0.99, and the mean
  size of the sets. A draw misses if the coverage lies outside of the central 95 % interval of a beta-binomial
  distribution: that of new samples, given so many held-out ones. One draw in 20 misses by chance.
- unknown: one class after the other (of at most 8) is left out of training. The share of its samples that is refused,
  the share of test samples of the known classes that is refused (5 % is requested), and the area under the ROC curve of
  the novelty score (`featcache.heads.novelty`), and for comparison of the energy and the highest probability of the
  head, and of the similarity to the fifth nearest training sample. "said" is the area that `fit_head` states.

Writes results/coverage.json, and prints what misses.
"""

from __future__ import annotations

import argparse
import csv
import random
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import record
import sets
from default_head import GLYPHS, write_glyphs
from numpy.typing import NDArray
from scipy.stats import betabinom
from sklearn.metrics import roc_auc_score

from featcache import FeatureCache, extract, fit_head
from featcache.heads.held_out import FILE, HeldOutScores
from featcache.metrics.conformal import evaluate_sets, least_samples

CASES = ["digits", "ants and bees", "shapes", "colours", "gratings", "dots", "glyphs"]
REQUESTED = (0.9, 0.95, 0.99)
PER_CLASS, MAX_CLASSES, MAX_TEXTS, NEIGHBOUR = 40, 8, 2000, 5


def main() -> None:
    """Run all sets."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--texts", type=Path)
    parser.add_argument("--draws", type=int, default=5)
    parser.add_argument("--work", type=Path, help="Folder in which the caches are kept. [default: a temporary one]")
    options = parser.parse_args()
    measured, results = record.commit(), {}
    with tempfile.TemporaryDirectory() as name:
        work = options.work or Path(name)
        work.mkdir(parents=True, exist_ok=True)
        tables = sorted(options.texts.glob("*.csv")) if options.texts else []
        for case in [*CASES, *tables]:
            cache = open_pool(case, work)
            x, y = pool(cache)
            results[case.stem if isinstance(case, Path) else case] = {
                "classes": len(cache.samples.classes),
                "draws": [one_draw(x, y, draw) for draw in range(options.draws)],
                "unknown": leave_classes_out(x, y, options.draws),
            }
            record.write("coverage", {"sets": results, "misses": misses(results)}, measured)
    print("\n".join(misses(results)) or "no misses")


def open_pool(case: str | Path, work: Path) -> FeatureCache:
    """The cache of a set."""
    name = case.stem if isinstance(case, Path) else case
    path = work / f"{name}.h5"
    if not path.exists():
        data = write_texts(case, work) if isinstance(case, Path) else write_images(case, work)
        extract(data, path, views=0, allow_leak=True)
    return FeatureCache.open(path)


def write_images(case: str, work: Path) -> Path:
    """A folder of images, with a thousand or all that there are."""
    folder = work / case
    if case == "glyphs":
        GLYPHS.update(train=24, val=1, test=1)
        return folder if folder.exists() else write_glyphs(folder)
    sets.COUNTS.update(train=960, val=20, test=20)
    return sets.write_set(case, folder)


def write_texts(table: Path, work: Path) -> Path:
    """Some rows of a table, in random order."""
    with table.open(newline="", encoding="utf-8") as file:
        rows = [(row["text"], row["label"]) for row in csv.DictReader(file)]
    random.Random(0).shuffle(rows)
    path = work / table.name
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([("text", "label"), *rows[:MAX_TEXTS]])
    return path


def pool(cache: FeatureCache) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Penultimate features and classes of all samples."""
    parts = [cache.features(split) for split in ("train", "val", "test") if len(cache.samples.rows(split))]
    x = np.concatenate([np.asarray(part.x[:, 0], np.float32) for part in parts])
    return x, np.concatenate([part.y for part in parts])


def draw_rows(y: NDArray[np.int64], draw: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Rows to train on and to test on."""
    order = np.random.default_rng(draw).permutation(len(y))
    n = min(PER_CLASS * len(np.unique(y)), len(y) // 2)
    return order[:n], order[n:]


class Fitted:
    """A head on some rows, and the scores of its held-out samples."""

    def __init__(self, x: NDArray[np.float32], y: NDArray[np.int64], train: NDArray[np.int64]) -> None:
        self.classes = np.unique(y[train])
        names = [f"{label:03d}" for label in y[train]]
        split = ["train" if row < len(train) else "val" for row in range(len(train) + len(self.classes))]
        val = [train[y[train] == label][0] for label in self.classes]  # a cache needs some
        rows = np.concatenate([train, val])
        cache = FeatureCache.from_arrays(x[rows], [*names, *(f"{label:03d}" for label in self.classes)], split=split)
        with tempfile.TemporaryDirectory() as folder:
            fit = fit_head(cache, folder)
            self._estimator, self.said = fit.estimator, fit.novelty.auroc if fit.novelty else np.nan
            self.scores = HeldOutScores.load(Path(folder), Path(folder) / FILE)

    def probabilities(self, x: NDArray[np.float32]) -> NDArray[np.float64]:
        """Of new samples, (n, c)."""
        return np.asarray(self._estimator.predict_proba(x), np.float64)


def one_draw(x: NDArray[np.float32], y: NDArray[np.int64], draw: int) -> dict[str, Any]:
    """Coverage on new samples of the classes that were trained on."""
    train, test = draw_rows(y, draw)
    fitted = Fitted(x, y, train)
    test = test[np.isin(y[test], fitted.classes)]
    probabilities, of_true = fitted.probabilities(x[test]), np.searchsorted(fitted.classes, y[test])
    m, n = len(fitted.scores.probability), len(test)
    accuracy = float(np.mean(probabilities.argmax(axis=1) == of_true))
    coverage = []
    for requested in REQUESTED:
        if m < least_samples(requested):
            continue
        figures = evaluate_sets(probabilities >= fitted.scores.set_threshold(requested), of_true, requested)
        rank = int(np.floor((m + 1) * (1 - requested) + 1e-9))
        low, high = (float(value) / n for value in betabinom(n, m + 1 - rank, rank).interval(0.95))
        coverage.append({
            "requested": requested, "coverage": round(figures.coverage, 4), "low": round(low, 4),
            "high": round(high, 4), "size": round(figures.mean_size, 3), "empty": round(figures.empty, 4),
        })  # fmt: skip
    return {"train": len(train), "held_out": m, "test": n, "accuracy": round(accuracy, 4), "coverage": coverage}


def leave_classes_out(x: NDArray[np.float32], y: NDArray[np.int64], draws: int) -> dict[str, Any] | None:
    """Means over left-out classes and draws; None for two classes, of which one would remain."""
    classes = np.unique(y)
    if len(classes) == 2:
        return None
    rows = []
    for draw in range(draws):
        for left_out in np.random.default_rng(draw).permutation(classes)[: max(1, MAX_CLASSES // draws)]:
            train, test = draw_rows(y, draw)
            fitted = Fitted(x, y, train[y[train] != left_out])
            known, unknown = test[np.isin(y[test], fitted.classes)], np.flatnonzero(y == left_out)
            of_known, of_unknown = fitted.probabilities(x[known]), fitted.probabilities(x[unknown])
            novelty = fitted.scores.novelty
            assert novelty is not None
            score = novelty.score.score_samples
            near = x[train[y[train] != left_out]]
            rows.append({
                "refused_unknown": float(np.mean(score(x[unknown]) < novelty.threshold)),
                "refused_known": float(np.mean(score(x[known]) < novelty.threshold)),
                "auroc_novelty": area(score(x[known]), score(x[unknown])),
                "said": fitted.said,
                "auroc_energy": area(energies(of_known), energies(of_unknown)),
                "auroc_probability": area(of_known.max(axis=1), of_unknown.max(axis=1)),
                "auroc_neighbour": area(similarity(x[known], near), similarity(x[unknown], near)),
            })  # fmt: skip
    return {"fits": len(rows), **{name: round(float(np.mean([row[name] for row in rows])), 4) for name in rows[0]}}


def energies(probabilities: NDArray[np.float64]) -> NDArray[np.float64]:
    """The negative free energy of logits with a mean of 0 (Liu et al. 2020)."""
    return np.asarray(-np.log(np.maximum(probabilities, 1e-12)).mean(axis=1))


def area(known: NDArray[np.floating], unknown: NDArray[np.floating]) -> float:
    """The area under the ROC curve of a score that is high for known samples."""
    return float(roc_auc_score(np.r_[np.ones(len(known)), np.zeros(len(unknown))], np.r_[known, unknown]))


def similarity(x: NDArray[np.float32], train: NDArray[np.float32]) -> NDArray[np.float32]:
    """The cosine to the fifth nearest training sample."""
    a, b = (rows / np.linalg.norm(rows, axis=1, keepdims=True) for rows in (x, train))
    return np.asarray(np.sort(a @ b.T, axis=1)[:, -NEIGHBOUR])


def misses(results: dict[str, Any]) -> list[str]:
    """Draws outside of their interval, and sets on which the novelty score is not the best of unknown samples."""
    lines = []
    for name, result in results.items():
        for draw, figures in enumerate(result["draws"]):
            lines += [
                f"{name}, draw {draw}: {row['requested']:.0%} requested, {row['coverage']:.1%} covered "
                f"(interval {row['low']:.1%} to {row['high']:.1%})"
                for row in figures["coverage"]
                if not row["low"] <= row["coverage"] <= row["high"]
            ]
        unknown = result["unknown"]
        scores = {key: value for key, value in (unknown or {}).items() if key.startswith("auroc")}
        best = max(scores, key=lambda key: scores[key], default="auroc_novelty")
        if best != "auroc_novelty":
            lines.append(f"{name}: {best} is {scores[best]:.3f}, the novelty score {scores['auroc_novelty']:.3f}")
    return lines


if __name__ == "__main__":
    main()
