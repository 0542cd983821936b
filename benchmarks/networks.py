"""Is a head on two caches as good as a head on the better one of them?

    python benchmarks/networks.py --weights mobilenet_v2.pth [--draws 5] [--work FOLDER] [--sets shapes,colours]

The sets are those of `sets.py`. The images of a set are extracted once by each of: the default network at its own size
("lite0"), the same at 112 pixels ("lite0-112"), and torchvision's mobilenet_v2 ("mobilenet"), with the layers "stages"
and no views. Each draw divides the images anew: 160 train, 80 val, the others test. `update` copies the features into
caches of the draw. Then `fit_head` fits the default head to each cache alone, and to two pairs of caches: two networks,
and two resolutions.

A pair misses if the mean test accuracy of its head over the draws lies below that of the better cache by more than half
a standard error: of that accuracy, on the test samples of one draw. `used` counts the draws in which the head uses both
caches. `gain` is the mean difference to the better cache, with the standard error over the draws, in points.

The clock of `seconds` covers one `fit_head` from open caches, with the comparison of the caches; the machine may do
other work, so these are no rates. `s_per_1000` are the seconds of the extraction that the caches record.

Writes results/networks.json, and prints what misses.
"""

from __future__ import annotations

import argparse
import csv
import shutil
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import record
from sets import write_set

from featcache import FeatureCache, extract, fit_head, update

CASES = ["shapes", "colours", "gratings", "dots", "scratches", "digits", "ants and bees"]
TRAIN, VAL = 160, 80
PAIRS = {"two networks": ("lite0", "mobilenet"), "two resolutions": ("lite0", "lite0-112")}


def main() -> None:
    """Run all sets."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", required=True, help="A state dict of torchvision's mobilenet_v2.")
    parser.add_argument("--draws", type=int, default=5)
    parser.add_argument("--work", type=Path, help="Folder in which the caches are kept. [default: a temporary one]")
    parser.add_argument("--sets", help="Only these sets, with commas between them. [default: all]")
    options = parser.parse_args()
    networks: dict[str, dict[str, Any]] = {
        "lite0": {},
        "lite0-112": {"image_size": 112},
        "mobilenet": {"backbone": "mobilenet_v2", "weights": options.weights},
    }
    measured, results = record.commit(), dict[str, Any]()
    with tempfile.TemporaryDirectory() as name:
        work = options.work or Path(name)
        work.mkdir(parents=True, exist_ok=True)
        for case in options.sets.split(",") if options.sets else CASES:
            caches = {network: pool(case, network, settings, work) for network, settings in networks.items()}
            draws = [one_draw(case, caches, draw, work) for draw in range(options.draws)]
            results[case] = summarize(draws, {network: cache.to_dict() for network, cache in caches.items()})
            record.write("networks", {"sets": results, "misses": misses(results)}, measured)
    print("\n".join(misses(results)) or "no misses")


def pool(case: str, network: str, settings: dict[str, Any], work: Path) -> FeatureCache:
    """The features of all images of a set."""
    images = write_set(case, work / case)
    return extract(images, work / f"{case} {network}.h5", layers="stages", views=0, workers=2, **settings).cache


def one_draw(case: str, caches: dict[str, FeatureCache], draw: int, work: Path) -> dict[str, dict[str, float]]:
    """Test accuracy and seconds of each cache alone and of each pair, with one division of the images."""
    ids, classes = caches["lite0"].samples.ids, caches["lite0"].samples.classes
    order = np.random.default_rng(draw).permutation(len(ids))
    table = work / case / f"draw-{draw}.csv"
    with table.open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["path", "label", "split"])
        for position, row in enumerate(order.tolist()):
            split = "train" if position < TRAIN else "val" if position < TRAIN + VAL else "test"
            rows.writerow([ids[row], classes[caches["lite0"].samples.labels[row]], split])
    drawn = {}
    for network, cache in caches.items():
        path = work / f"{case} {network} {draw}.h5"
        shutil.copyfile(cache.path, path)
        update(path, table, allow_leak=True)
        drawn[network] = FeatureCache.open(path)
    table.unlink()
    result = {network: _fit(cache) for network, cache in drawn.items()}
    for pair, names in PAIRS.items():
        result[pair] = _fit([drawn[name] for name in names])
    for cache in drawn.values():
        cache.path.unlink()
    return result


def _fit(caches: FeatureCache | list[FeatureCache]) -> dict[str, float]:
    fits: list[Any] = []
    seconds = record.seconds(lambda: fits.append(fit_head(caches, device="cpu")))
    test, comparison = fits[0].report.test, fits[0].cache_comparison
    figures = {"accuracy": test.accuracy, "n": test.n, "log_loss": test.log_loss, "seconds": seconds}
    return figures if comparison is None else {**figures, "used": len(comparison.chosen)}


def summarize(draws: list[dict[str, dict[str, float]]], caches: dict[str, Any]) -> dict[str, Any]:
    """The figures of a set."""
    accuracy = {name: [draw[name]["accuracy"] for draw in draws] for name in draws[0]}
    means = {name: float(np.mean(values)) for name, values in accuracy.items()}
    result: dict[str, Any] = {
        "draws": len(draws),
        "test": draws[0]["lite0"]["n"],
        "accuracy": {name: round(value, 4) for name, value in means.items()},
        "log_loss": {name: round(float(np.mean([draw[name]["log_loss"] for draw in draws])), 4) for name in draws[0]},
        "seconds": {name: record.spread([draw[name]["seconds"] for draw in draws]) for name in draws[0]},
        "s_per_1000": {name: cache["extract_s_per_1000_views"] for name, cache in caches.items()},
    }
    for pair, names in PAIRS.items():
        better = max(names, key=lambda name: means[name])
        difference = np.subtract(accuracy[pair], accuracy[better])
        error = max(np.sqrt(means[better] * (1 - means[better]) / result["test"]), 1 / result["test"])
        result[pair] = {
            "better": better,
            "used": sum(draw[pair]["used"] == 2 for draw in draws),
            "gain": round(100 * float(difference.mean()), 2),
            "gain_error": round(100 * float(difference.std(ddof=1) / np.sqrt(len(draws))), 2) if len(draws) > 1 else 0,
            "below_best": round(float(-difference.mean() / error), 2),
        }
    return result


def misses(results: dict[str, Any]) -> list[str]:
    """Pairs whose head is worse than the better cache by more than half a standard error."""
    return [
        f"{case}, {pair}: {result[pair]['gain']:+.2f} points against {result[pair]['better']} alone"
        for case, result in results.items()
        for pair in PAIRS
        if result[pair]["below_best"] > 0.5
    ]


if __name__ == "__main__":
    main()
