"""Test what `curve` says about more labels, on the pairs of a data set and a network of fine_tuning.py.

    python benchmarks/label_curve.py [--work demo/fine-tuning]

The curve sees an eighth, a quarter and half of the training images, three draws of each. Its `gain_from_doubling` is
compared with the gain in val accuracy that the head with all training images has over the median of the draws of half
of them. The curve also says whether the head underfits: if it predicts train wrongly more than half as often as
val, by more than noise, it says that another network may help more than labels. The gains of both groups of pairs are
compared.

The head is linear, on the penultimate layer. Val has 80 to 300 images, so one standard error of a gain is
about two points. It uses the caches of fine_tuning.py in --work, and extracts those that are missing. Writes
results/label_curve.json.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from statistics import median
from typing import Any

import fine_tuning
import record

from featcache import curve

FRACTIONS = (0.125, 0.25, 0.5)


def measure(pair: dict[str, Any], work: Path) -> dict[str, Any]:
    """The expected and the real gain from the second half of the labels."""
    cache = fine_tuning.extract_clean(pair, work)
    half, full = (
        curve(cache, head="linear", layer="penultimate", fractions=fractions, repeats=3)
        for fractions in (FRACTIONS, (1.0,))
    )
    before, after = half.points[-1].accuracy, full.points[-1].accuracy
    return {
        **{name: pair[name] for name in ("set", "network", "weights")},
        "points": [(point.images, point.accuracy, point.train_accuracy) for point in half.points],
        "expected": half.gain_from_doubling,
        "gain": after - before,
        "underfits": "it underfits" in str(half),
    }


def main() -> None:
    """Parse options, measure, write the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, default=Path("demo/fine-tuning"), help="folder of fine_tuning.py")
    options, measured = parser.parse_args(), record.commit()
    pairs = []
    for pair in json.loads((record.RESULTS / "fine_tuning.json").read_text())["pairs"]:
        pairs.append(measure(pair, options.work))
        print(pairs[-1], file=sys.stderr, flush=True)
    known = [pair for pair in pairs if pair["expected"] is not None]
    misses = [(abs(pair["expected"] - pair["gain"]), abs(pair["gain"])) for pair in known]
    gains = {kind: [pair["gain"] for pair in pairs if pair["underfits"] == (kind == "underfits")]
             for kind in ("underfits", "others")}  # fmt: skip
    figures = {
        "median error, points": 100 * median(miss for miss, _ in misses),
        "largest error, points": 100 * max(miss for miss, _ in misses),
        "median error of no gain, points": 100 * median(gain for _, gain in misses),
        "closer than no gain": sum(miss < gain for miss, gain in misses),
        "farther than no gain": sum(miss > gain for miss, gain in misses),
        "pairs that underfit": len(gains["underfits"]),
        "median gain, points": {kind: 100 * median(values) for kind, values in gains.items() if values},
        "pairs": pairs,
    }
    record.write("label_curve", figures, measured)


if __name__ == "__main__":
    main()
