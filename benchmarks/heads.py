"""Linear heads against scikit-learn's LogisticRegression(lbfgs), at an equal loss.

    python benchmarks/heads.py [--repeats 5] [--cases ...] [--path-repeats 1]

Features are float32 in memory, made with a known difficulty: clouds of Gaussians, one a class, with the deviation of
direction i falling as 1 / i, rotated, then cut at zero as after a ReLU and not centred ("ill"), or with equal
deviations and neither ("well"). C is that of a penalty of a hundredth of a feature's mean variance (a path: ten of them
from 10 to 3e-4). Equal loss: of a ladder of tolerances, the loosest with which the objective, worked out in float64,
lies at most 1e-4 above the least that is known; it is found once, before the clock runs, for one strength, and taken
for its path, too: the gaps that it leaves there are in the results (no path for the larger ill one, on which
scikit-learn would spend a quarter of an hour). The clock covers `fit` from the arrays, with everything that it works
out of them. Ratios are medians of the ratios within a repeat, brackets the least and the most. scikit-learn's path fits
each C from the one before (warm_start).

- ridge: fifty strengths of `featcache.closed.Spectra.ridge` against one, both from the centred rows.
- small: problems where scikit-learn may win.
- ants_bees: `featcache fit-head` from process start to saved head (FEATCACHE_ANTS_BEES; the cache is made before)
  against `python -c "import sklearn.linear_model"`.
- memory: peak resident memory of a process that fits a head on a memory-mapped float16 file, less that of one that
  does all but fitting, over the bytes of the features; kept in memory (float32) and streamed.
- peak: floating-point operations of the iterations alone (4 n d c each) over the time of the fit, against the best of
  numpy's float32 matrix product (4096 x 4096) in the same run.

Writes results/heads.json.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import record
from scipy.special import logsumexp
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression

from featcache import LinearHead
from featcache.blocks import Centred
from featcache.closed import Spectra, gather
from featcache.softmax import Problems, solve_path
from featcache.spectrum import Spectrum

GAP = 1e-4
SIZES = {"20k-1280-10": (20_000, 1280, 10), "100k-512-100": (100_000, 512, 100)}
SMALL = {"100-16-2": (100, 16, 2), "500-64-3": (500, 64, 3), "2000-128-10": (2_000, 128, 10)}
PATH = np.logspace(1, -3.5, 10)
OURS, THEIRS = (1e-4, 3e-5, 1e-5, 1e-6, 1e-8), (1e-3, 1e-4, 1e-5, 1e-6)

Layer = tuple[np.ndarray, np.ndarray]


def clouds(n: int, d: int, c: int, decay: float) -> tuple[np.ndarray, np.ndarray]:
    """Features (n, d), float32, and labels (n,)."""
    rng = np.random.default_rng(0)
    widths = np.arange(1, d + 1, dtype=np.float32) ** -decay
    widths *= np.sqrt(d / np.square(widths).sum())
    y = rng.integers(0, c, n)
    x = rng.standard_normal((n, d), dtype=np.float32) * widths
    x += (rng.standard_normal((c, d), dtype=np.float32) * np.sqrt(widths) * 0.15)[y]
    if decay:
        x = x @ np.linalg.qr(rng.standard_normal((d, d)).astype(np.float32))[0]
        x = np.maximum(x + 0.3, 0)
    return x, y


def objective(x: np.ndarray, y: np.ndarray, layer: Layer, C: float) -> float:
    """C * sum of losses + ||coef||^2 / 2."""
    coef, intercept = layer
    loss = 0.0
    for start in range(0, len(x), 4096):
        logits = x[start : start + 4096].astype(np.float64) @ coef.T + intercept
        if len(coef) == 1:
            logits = np.hstack([np.zeros_like(logits), logits])
        loss += float((logsumexp(logits, axis=1) - logits[np.arange(len(logits)), y[start : start + 4096]]).sum())
    return C * loss + float((coef**2).sum()) / 2


def ours(x: np.ndarray, y: np.ndarray, Cs: list[float], tol: float) -> list[Layer]:
    if len(Cs) == 1:
        head = LinearHead(C=Cs[0], tol=tol).fit(x, y)
        return [(head.coef_, head.intercept_)]
    weight = np.ones(len(x))
    outputs = 1 if y.max() == 1 else int(y.max()) + 1
    problems = Problems(Centred(x, weight), y, weight, np.full(len(x), -1), 1, outputs)
    path = solve_path(problems, Spectrum.of(problems.x, weight), Cs, tol, 1000)
    return [(one.coef[0], one.intercept[0]) for one in path]


def theirs(x: np.ndarray, y: np.ndarray, Cs: list[float], tol: float) -> list[Layer]:
    head = LogisticRegression(tol=tol, max_iter=5000, warm_start=len(Cs) > 1)
    layers = []
    for C in Cs:
        head.set_params(C=C).fit(x, y)
        layers.append((head.coef_.astype(np.float64), head.intercept_.astype(np.float64)))
    return layers


Solve = Callable[[np.ndarray, np.ndarray, list[float], float], list[Layer]]


def gaps(x: np.ndarray, y: np.ndarray, Cs: list[float], layers: list[Layer], best: list[float]) -> list[float]:
    return [objective(x, y, layer, C) / least - 1 for C, layer, least in zip(Cs, layers, best, strict=True)]


def loosest(solve: Solve, ladder: tuple[float, ...], x: np.ndarray, y: np.ndarray, Cs: list[float],
            best: list[float]) -> float:  # fmt: skip
    """The tolerance of the ladder that leaves no more than GAP."""
    return next((tol for tol in ladder if max(gaps(x, y, Cs, solve(x, y, Cs, tol), best)) <= GAP), ladder[-1])


def race(
    x: np.ndarray, y: np.ndarray, Cs: list[float], repeats: int, tols: tuple[float, float] | None = None
) -> dict[str, Any]:
    """tols : ours and theirs; None finds them."""
    tight = ours(x, y, Cs, 1e-10)
    best = [objective(x, y, layer, C) for C, layer in zip(Cs, tight, strict=True)]
    our_tol, their_tol = tols or (loosest(ours, OURS, x, y, Cs, best), loosest(theirs, THEIRS, x, y, Cs, best))
    times, left = [], ([], [])
    for _ in range(repeats):
        pair = []
        for solve, tol, mine in ((ours, our_tol, left[0]), (theirs, their_tol, left[1])):
            layers: list[Layer] = []
            pair.append(record.seconds(lambda solve=solve, tol=tol, layers=layers: layers.extend(solve(x, y, Cs, tol))))
            mine.extend(gaps(x, y, Cs, layers, best))
        times.append(pair)
    return {
        "featcache_s": record.spread([a for a, _ in times]),
        "sklearn_s": record.spread([b for _, b in times]),
        "ratio": record.spread([b / a for a, b in times]),
        "featcache_largest_gap": max(left[0]),
        "sklearn_largest_gap": max(left[1]),
        "featcache_tol": our_tol,
        "sklearn_tol": their_tol,
        "repeats": repeats,
    }


def strengths(x: np.ndarray, relative: list[float]) -> list[float]:
    variance = float(x.var(axis=0, dtype=np.float64).mean())
    return [1 / (strength * variance * len(x)) for strength in relative]


def peak_flops() -> float:
    """Floating-point operations a second of numpy's float32 matrix product."""
    a = np.ones((4096, 4096), np.float32)
    return 2 * 4096**3 / min(record.seconds(lambda: a @ a) for _ in range(5))


def share_of_peak(x: np.ndarray, y: np.ndarray, C: float, tol: float, repeats: int) -> list[float]:
    n, d = x.shape
    shares = []
    for _ in range(repeats):
        head = LinearHead(C=C, tol=tol)
        took = record.seconds(lambda head=head: head.fit(x, y))
        shares.append(4 * n * d * (int(y.max()) + 1) * head.n_iter_ / took / peak_flops())
    return record.spread(shares)


def ridge(repeats: int) -> dict[str, Any]:
    n, d, c = SIZES["20k-1280-10"]
    x, y = clouds(n, d, c, 1.0)
    weight, fold = np.ones(n), np.full(n, -1)

    def fit(number: int) -> None:
        rows = Centred(x, weight)
        spectra = Spectra(gather(rows, y, weight, fold, 1, c), rows.mean)
        for _ in spectra.ridge(np.logspace(4, -6, number).tolist()):
            pass

    times = [(record.seconds(lambda: fit(1)), record.seconds(lambda: fit(50))) for _ in range(repeats)]
    return {
        "one_s": record.spread([a for a, _ in times]),
        "fifty_s": record.spread([b for _, b in times]),
        "ratio": record.spread([b / a for a, b in times]),
    }


def ants_bees(folder: Path, repeats: int) -> dict[str, Any] | None:
    data = os.environ.get("FEATCACHE_ANTS_BEES")
    if not data:
        return None
    found: dict[str, Any] = {}
    for views in (0, 8):
        cache = folder / f"ants-bees-{views}.h5"
        tool = [sys.executable, "-m", "featcache_cli.main"]
        subprocess.run([*tool, "extract", data, "-o", cache, "--views", str(views)], check=True, capture_output=True)
        fit = [*tool, "fit-head", cache, "-o", folder / "head"]
        bare = [sys.executable, "-c", "import sklearn.linear_model"]
        times = []
        for _ in range(repeats + 1):  # the first warms the disk's cache and is not counted
            times.append(tuple(
                record.seconds(lambda line=line: subprocess.run(line, check=True, capture_output=True))
                for line in (fit, bare)
            ))  # fmt: skip
        times = times[1:]
        found[f"views {views}"] = {
            "fit_head_s": record.spread([a for a, _ in times]),
            "import_s": record.spread([b for _, b in times]),
            "ratio": record.spread([a / b for a, b in times]),
        }
    return found


_FIT = """
import sys
import numpy as np
from featcache import LinearHead, blocks
from featcache.report import peak_memory_bytes
blocks.KEPT_BYTES = int(sys.argv[2])
x = np.load(sys.argv[1], mmap_mode="r")
y = np.arange(len(x)) % 10
if sys.argv[3] == "fit":
    LinearHead(max_iter=20, tol=1e-4).fit(x, y)
print(peak_memory_bytes())
"""


def memory(folder: Path) -> dict[str, Any]:
    """The pages of the file itself count, too: the system keeps them while there is room."""
    x, _ = clouds(*SIZES["20k-1280-10"], 1.0)
    path = folder / "features.npy"
    np.save(path, x.astype(np.float16))

    def peak(kept: int, what: str) -> int:
        line = [sys.executable, "-W", "ignore", "-c", _FIT, str(path), str(kept), what]
        return int(subprocess.run(line, check=True, capture_output=True, text=True).stdout)

    bytes_ = x.size * 2
    return {
        "feature_bytes": bytes_,
        "kept_over_features": (peak(2**29, "fit") - peak(2**29, "load")) / bytes_,
        "streamed_over_features": (peak(0, "fit") - peak(0, "load")) / bytes_,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--path-repeats", type=int, default=1, help="of the paths of ten, which take minutes")
    parser.add_argument("--cases", nargs="*", default=[*SIZES, *SMALL, "ridge", "ants_bees", "memory"])
    options = parser.parse_args()
    measured = record.commit()
    warnings.simplefilter("ignore", ConvergenceWarning)
    figures: dict[str, Any] = {}
    for name, (n, d, c) in {**SIZES, **SMALL}.items():
        for kind, decay in (("well", 0.0), ("ill", 1.0)):
            if name not in options.cases:
                continue
            x, y = clouds(n, d, c, decay)
            (C,) = strengths(x, [0.01])
            found = {"one": race(x, y, [C], options.repeats)}
            found["one"]["share_of_peak"] = share_of_peak(x, y, C, found["one"]["featcache_tol"], options.repeats)
            if name in SIZES and not (decay and c == 100):
                tols = (found["one"]["featcache_tol"], found["one"]["sklearn_tol"])
                found["path of ten"] = race(x, y, strengths(x, PATH.tolist()), options.path_repeats, tols)
            figures[f"{name} {kind}"] = found
            print(f"{name} {kind}", found, file=sys.stderr, flush=True)
    with tempfile.TemporaryDirectory() as folder:
        if "ridge" in options.cases:
            figures["ridge"] = ridge(options.repeats)
        if "ants_bees" in options.cases:
            figures["ants_bees"] = ants_bees(Path(folder), options.repeats)
        if "memory" in options.cases:
            figures["memory"] = memory(Path(folder))
    record.write("heads", figures, measured)


if __name__ == "__main__":
    main()
