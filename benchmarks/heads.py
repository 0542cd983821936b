"""Compare linear heads with scikit-learn's LogisticRegression(lbfgs) at equal loss.

    python benchmarks/heads.py [--repeats 5] [--cases ...] [--path-repeats 1]

Features are float32 arrays in memory. Synthetic features are Gaussian clusters, one per class, of three kinds:

- "ill": standard deviations fall as 1 / i along rotated directions; values below zero are cut, as by a ReLU.
- "plain": equal standard deviations, also cut at zero. Like the features of networks, they are not centred.
- "well": equal standard deviations, not cut, and therefore centred. This is the easiest case.

"digits" are features of real images: 1,438 digits in 2 views from the embedded network. C gives a penalty of one
hundredth of the mean variance of a feature; a path has ten values from 10 to 3e-4.

Equal loss: of a list of tolerances, each solver gets the loosest one for which the objective, computed in float64, is
at most 1e-4 above the lowest known value. This tolerance is found once, for one C, before the clock runs, and also
used for the path; the gaps of the path are in the results. There is no path for the larger ill-conditioned problem,
because scikit-learn would take a quarter of an hour. The clock covers `fit` from the arrays, including all
preparation. The results are the median, the minimum and the maximum; ratios are computed within each repeat.
scikit-learn's path starts each C from the solution of the previous one (warm_start).

- labels: twenty labels per image, `OneVsRestHead` against one LogisticRegression per label, at the loosest tolerances
  with which every label is within 1e-4.
- ridge: fifty strengths of `featcache.heads.solvers.closed_form.RegularizedCovariances` against one, both from the
  centred rows.
- small (fewer than 5,000 rows): problems where scikit-learn may be faster.
- share_of_peak: floating-point operations of the iterations alone (4 n d c each) divided by the time of the fit,
  relative to the fastest numpy float32 matrix product (4096 x 4096) in the same run.

Writes results/heads.json.
"""

from __future__ import annotations

import argparse
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

from featcache import LinearHead, extract
from featcache.cache.lazy_arrays import CenteredMatrix
from featcache.heads.one_vs_rest import OneVsRestHead
from featcache.heads.solvers import closed_form
from featcache.heads.solvers.preconditioner import LowRankPreconditioner
from featcache.heads.solvers.softmax import CVSoftmaxProblem, solve_path
from featcache.vision.demo_datasets import write_digits

GAP = 1e-4
SIZES = {"20k-1280-10": (20_000, 1280, 10), "100k-512-100": (100_000, 512, 100)}
SMALL = {"100-16-2": (100, 16, 2), "500-64-3": (500, 64, 3), "2000-128-10": (2_000, 128, 10)}
LABELS = (5_000, 512, 20)
KINDS = {"well": (0.0, False), "plain": (0.0, True), "ill": (1.0, True)}  # decay of the deviations, cut at zero
PATH = np.logspace(1, -3.5, 10)
OURS, THEIRS = (1e-4, 3e-5, 1e-5, 1e-6, 1e-8), (1e-3, 1e-4, 1e-5, 1e-6)

Layer = tuple[np.ndarray, np.ndarray]


def clouds(n: int, d: int, c: int, decay: float, cut: bool) -> tuple[np.ndarray, np.ndarray]:
    """Gaussian clusters: features (n, d), float32, and labels (n,)."""
    rng = np.random.default_rng(0)
    widths = np.arange(1, d + 1, dtype=np.float32) ** -decay
    widths *= np.sqrt(d / np.square(widths).sum())
    y = rng.integers(0, c, n)
    x = rng.standard_normal((n, d), dtype=np.float32) * widths
    x += (rng.standard_normal((c, d), dtype=np.float32) * np.sqrt(widths) * 0.15)[y]
    if decay:
        x = x @ np.linalg.qr(rng.standard_normal((d, d)).astype(np.float32))[0]
    return (np.maximum(x + 0.3, 0) if cut else x), y


def digits() -> tuple[np.ndarray, np.ndarray]:
    """Features of real images, all views of the training images: (2876, 1280), float32."""
    with tempfile.TemporaryDirectory() as folder:
        data, path = write_digits(Path(folder) / "digits"), Path(folder) / "cache.h5"
        cache = extract(data, path, views=1, image_size=64, augment="crop").cache
        flat = cache.features("train").flatten()
        return np.asarray(flat.x, np.float32), np.asarray(flat.y)


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
    problems = CVSoftmaxProblem(CenteredMatrix(x, weight), y, weight, np.full(len(x), -1), 1, outputs)
    path = solve_path(problems, LowRankPreconditioner.from_rows(problems.x, weight), Cs, tol, 1000)
    return [(head.coef[0], head.intercept[0]) for head in path]


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
    """The loosest tolerance of the list with a gap of at most GAP."""
    return next((tol for tol in ladder if max(gaps(x, y, Cs, solve(x, y, Cs, tol), best)) <= GAP), ladder[-1])


def race(
    x: np.ndarray, y: np.ndarray, Cs: list[float], repeats: int, tols: tuple[float, float] | None = None
) -> dict[str, Any]:
    """Time both solvers. tols : tolerances of featcache and scikit-learn; None searches for them."""
    tight = ours(x, y, Cs, 1e-10)
    best = [objective(x, y, layer, C) for C, layer in zip(Cs, tight, strict=True)]
    our_tol, their_tol = tols or (loosest(ours, OURS, x, y, Cs, best), loosest(theirs, THEIRS, x, y, Cs, best))
    times, left = [], ([], [])
    for _ in range(repeats):
        pair = []
        for solve, tol, path_gaps in ((ours, our_tol, left[0]), (theirs, their_tol, left[1])):
            layers: list[Layer] = []
            pair.append(record.seconds(lambda solve=solve, tol=tol, layers=layers: layers.extend(solve(x, y, Cs, tol))))
            path_gaps.extend(gaps(x, y, Cs, layers, best))
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
    """Floating-point operations per second of numpy's float32 matrix product."""
    a = np.ones((4096, 4096), np.float32)
    return 2 * 4096**3 / min(record.seconds(lambda: a @ a) for _ in range(5))


def share_of_peak(x: np.ndarray, y: np.ndarray, C: float, tol: float, repeats: int) -> list[float]:
    n, d = x.shape
    shares = []
    for _ in range(repeats):
        head = LinearHead(C=C, tol=tol)
        took = record.seconds(lambda head=head: head.fit(x, y))
        shares.append(4 * n * d * len(head.coef_) * head.n_iter_ / took / peak_flops())
    return record.spread(shares)


def labels(repeats: int) -> dict[str, Any]:
    n, d, c = LABELS
    x, _ = clouds(n, d, 10, 1.0, True)
    rng = np.random.default_rng(1)
    logits = (x - x.mean(axis=0)) @ rng.standard_normal((d, c)).astype(np.float32)
    logits = logits / logits.std(axis=0) * 2 - np.linspace(0, 4, c)
    y = (logits + rng.logistic(size=(n, c)) > 0).astype(np.uint8)
    (C,) = strengths(x, [0.01])

    def together(tol: float) -> list[Layer]:
        head = OneVsRestHead(C, tol=tol).fit(x, y)
        return [(head.coef_[label : label + 1], head.intercept_[label : label + 1]) for label in range(c)]

    def apart(tol: float) -> list[Layer]:
        heads = (LogisticRegression(C=C, tol=tol, max_iter=5000).fit(x, y[:, label]) for label in range(c))
        return [(head.coef_.astype(np.float64), head.intercept_.astype(np.float64)) for head in heads]

    least = [objective(x, y[:, label].astype(int), layer, C) for label, layer in enumerate(together(1e-10))]

    def worst(layers: list[Layer]) -> float:
        values = [objective(x, y[:, label].astype(int), layer, C) for label, layer in enumerate(layers)]
        return max(value / best - 1 for value, best in zip(values, least, strict=True))

    our_tol = next(tol for tol in OURS if worst(together(tol)) <= GAP)
    their_tol = next(tol for tol in THEIRS if worst(apart(tol)) <= GAP)
    times = [
        (record.seconds(lambda: together(our_tol)), record.seconds(lambda: apart(their_tol))) for _ in range(repeats)
    ]
    return {
        "featcache_s": record.spread([a for a, _ in times]),
        "sklearn_s": record.spread([b for _, b in times]),
        "ratio": record.spread([b / a for a, b in times]),
        "featcache_tol": our_tol,
        "sklearn_tol": their_tol,
    }


def ridge(repeats: int) -> dict[str, Any]:
    n, d, c = SIZES["20k-1280-10"]
    x, y = clouds(n, d, c, 1.0, True)
    weight, fold = np.ones(n), np.full(n, -1)

    def fit(number: int) -> None:
        rows = CenteredMatrix(x, weight)
        statistics = closed_form.accumulate(rows, y, weight, fold, 1, c)
        covariances = closed_form.RegularizedCovariances(statistics, rows.mean)
        for strength in np.logspace(4, -6, number).tolist():
            covariances.refit(closed_form.ridge, strength)

    times = [(record.seconds(lambda: fit(1)), record.seconds(lambda: fit(50))) for _ in range(repeats)]
    return {
        "one_s": record.spread([a for a, _ in times]),
        "fifty_s": record.spread([b for _, b in times]),
        "ratio": record.spread([b / a for a, b in times]),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--path-repeats", type=int, default=1, help="repeats of the paths of ten, which take minutes")
    parser.add_argument("--cases", nargs="*", default=[*SIZES, *SMALL, "digits", "labels", "ridge"])
    options = parser.parse_args()
    measured = record.commit()
    warnings.simplefilter("ignore", ConvergenceWarning)
    figures: dict[str, Any] = {}

    def run(name: str, x: np.ndarray, y: np.ndarray, path: bool) -> None:
        (C,) = strengths(x, [0.01])
        results = {"one": race(x, y, [C], options.repeats)}
        results["one"]["share_of_peak"] = share_of_peak(x, y, C, results["one"]["featcache_tol"], options.repeats)
        if path and options.path_repeats:
            tols = (results["one"]["featcache_tol"], results["one"]["sklearn_tol"])
            results["path of ten"] = race(x, y, strengths(x, PATH.tolist()), options.path_repeats, tols)
        figures[name] = results
        print(name, results, file=sys.stderr, flush=True)

    for name, (n, d, c) in {**SIZES, **SMALL}.items():
        for kind, (decay, cut) in KINDS.items():
            if name in options.cases:
                slow = kind == "ill" and c == 100  # a path would take scikit-learn a quarter of an hour
                run(f"{name} {kind}", *clouds(n, d, c, decay, cut), path=name in SIZES and not slow)
    if "digits" in options.cases:
        run("digits", *digits(), path=False)
    for name, job in (("labels", labels), ("ridge", ridge)):
        if name in options.cases:
            figures[name] = job(options.repeats)
    record.write("heads", figures, measured)


if __name__ == "__main__":
    main()
