"""Compare the time of `doctor` with that of one head and one pass over the features.

    python benchmarks/doctor.py [--repeats 3] [--cases 5k-81,20k-200]

Synthetic features of 1,280 dimensions (float16): Gaussian clusters whose variance falls along rotated directions, cut
at zero as by a ReLU. Two percent of the labels are wrong, and 20 images are near duplicates of others. A fifth is val.

- head_s: `fit_head` with LDA on the penultimate layer, from the cache.
- pass_s: read all features once, convert them to float32, and multiply them with one vector.
- doctor_s: `doctor` without images.
- ratio: doctor_s / (head_s + pass_s), within each repeat.

All times are seconds of CPU time of the process, over all threads, so that other processes count less. The results are
the median, the minimum and the maximum. `found` counts the planted wrong labels that are reported or ranked, the
planted duplicates, and the images that are reported and were not planted.

Writes results/doctor.json.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import record

from featcache import FeatureCache, doctor, fit_head

D = 1280
CASES = {
    "40-2": (40, 2),
    "240-2": (240, 2),
    "5k-81": (5_000, 81),
    "20k-200": (20_000, 200),
    "100k-1000": (100_000, 1000),
}
WRONG, DUPLICATES = 0.02, 20


def plant(n: int, c: int) -> tuple[np.ndarray, np.ndarray, set[str], set[frozenset[str]]]:
    """Features (n, d), labels (n,), and the images with a wrong label and the pairs of duplicates."""
    rng = np.random.default_rng(0)
    widths = np.arange(1, D + 1, dtype=np.float32) ** -0.5
    widths *= np.sqrt(D / np.square(widths).sum())
    y = rng.permutation(np.arange(n) % c)
    x = rng.standard_normal((n, D), dtype=np.float32) * widths
    x += (rng.standard_normal((c, D), dtype=np.float32) * widths * 0.6)[y]
    rotation = np.linalg.qr(rng.standard_normal((D, D)).astype(np.float32))[0]
    for start in range(0, n, 10_000):
        x[start : start + 10_000] = np.maximum(x[start : start + 10_000] @ rotation + 0.3, 0)
    wrong = rng.choice(n, round(WRONG * n), replace=False)
    y[wrong] = (y[wrong] + rng.integers(1, c, len(wrong))) % c
    pairs = rng.choice(n, (min(DUPLICATES, n // 20), 2), replace=False)
    x[pairs[:, 1]] = x[pairs[:, 0]] * (1 + 0.03 * rng.standard_normal((len(pairs), D), dtype=np.float32))
    return x.astype(np.float16), y, {str(row) for row in wrong}, {frozenset(map(str, pair)) for pair in pairs.tolist()}


def cpu_seconds(job: Callable[[], Any]) -> tuple[float, Any]:
    started = time.process_time()
    result = job()
    return time.process_time() - started, result


def one_pass(cache: FeatureCache) -> None:
    for split in ("train", "val"):
        x = cache.features(split).x
        for start in range(0, len(x), 4096):
            np.asarray(x[start : start + 4096, 0], np.float32) @ np.ones((D, 1), np.float32)


def measure(n: int, c: int, repeats: int) -> dict[str, Any]:
    x, y, wrong, pairs = plant(n, c)
    cache = FeatureCache.from_arrays(x, y, ids=[str(row) for row in range(n)])
    times = []
    for _ in range(repeats):
        pass_s, _ = cpu_seconds(lambda: one_pass(cache))
        head_s, _ = cpu_seconds(lambda: fit_head(cache, head="lda", layer="penultimate"))
        doctor_s, report = cpu_seconds(lambda: doctor(cache))
        times.append((head_s, pass_s, doctor_s))
    issues = [*report.findings, *report.rankings]
    labels = {example.image for issue in issues for example in issue.images if example.suggested}
    alike = {frozenset((e.image, e.other)) for issue in issues for e in issue.images if e.other}
    return {
        "head_s": record.spread([head for head, _, _ in times]),
        "pass_s": record.spread([once for _, once, _ in times]),
        "doctor_s": record.spread([whole for _, _, whole in times]),
        "ratio": record.spread([whole / (head + once) for head, once, whole in times]),
        "found": {
            "wrong_labels": [len(labels & wrong), len(wrong)],
            "duplicates": [len(alike & pairs), len(pairs)],
            "other_labels": len(labels - wrong),
            "other_pairs": len(alike - pairs),
        },
        "limits": {check.name: check.limits for check in report.checks if check.limits},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--cases", default=",".join(CASES))
    options = parser.parse_args()
    measured = record.commit()
    figures = {case: measure(*CASES[case], options.repeats) for case in options.cases.split(",")}
    record.write("doctor", figures, measured)


if __name__ == "__main__":
    main()
