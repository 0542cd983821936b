"""Tests and intervals: is a proportion, or a difference between two classifiers, more than noise?

Each of two ways to train may have been run from several seeds. The runs of one way share their images, so an image
counts by how many runs got it right. The spread between the runs widens the interval and raises p; a single run cannot
show it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import gcd, inf, sqrt

import numpy as np
from numpy.typing import NDArray

_Z95 = 1.959963984540054  # the 97.5 % quantile of the standard normal distribution


@dataclass(frozen=True)
class PairedDifference:
    """How much more accurate the second is than the first, on the same n images.

    p : two-sided, the chance of so large a difference were both equally good; of single runs that of McNemar's test.
    difference : of the mean accuracies, as a share; low, high : its 95 % interval, over images and, where a way has
    several runs, over seeds.
    """

    n: int
    difference: float
    low: float
    high: float
    p: float


def paired_difference(first: NDArray[np.bool_], second: NDArray[np.bool_]) -> PairedDifference:
    """Compare two ways over all their runs.

    Parameters
    ----------
    first, second : shape (r, n) and (s, n): whether each run got each image right; r and s are 1 or more, and so is n.

    The interval is that of Bonett and Price (2012, J. Educ. Behav. Stat. 37): Wald's, after adding an image that only
    the first and one that only the second gets right. It has a width where the two agree on every image, as it must:
    three images in n could still differ.

    Over several runs the variance of their accuracies, pooled over both ways, is added to that over images; the
    interval takes Student's t with Satterthwaite's degrees of freedom (1946, Biometrics Bull. 2), and p is never below
    that of the t test with them.
    """
    from scipy.stats import t as student  # half a second, for reports alone

    runs = len(first) * len(second)
    n = first.shape[1]
    steps = second.sum(axis=0) * len(first) - first.sum(axis=0) * len(second)  # in units of 1 / runs
    differences = np.append(steps / runs, [1.0, -1.0])
    centre = differences.mean()
    difference, p = float(steps.sum()) / runs / n, sign_flip_p(steps)
    images, seeds = float(differences.var()) / (n + 2), _between_seeds(first, second)
    freedom = (len(first) + len(second) - 2) * (1 + images / seeds) ** 2 if seeds else inf
    half = float(student.ppf(0.975, freedom)) * sqrt(images + seeds)
    if seeds:
        tossed = float(np.square(steps / runs).sum()) / n**2  # the variance of the difference, were signs a toss
        p = max(p, 2 * float(student.sf(abs(difference) / sqrt(tossed + seeds), freedom)))
    return PairedDifference(
        n=n,
        difference=difference,
        low=max(-1.0, float(centre) - half),
        high=min(1.0, float(centre) + half),
        p=p,
    )


def _between_seeds(first: NDArray[np.bool_], second: NDArray[np.bool_]) -> float:
    """The variance that the choice of seeds gives to the difference of the mean accuracies; 0 of single runs."""
    counts = [first.sum(axis=1), second.sum(axis=1)]
    freedom = sum(len(runs) - 1 for runs in counts)
    squares = sum(float(np.square(runs - runs.mean()).sum()) for runs in counts) / first.shape[1] ** 2
    return squares / freedom * sum(1 / len(runs) for runs in counts) if freedom else 0.0


def sign_flip_p(steps: NDArray[np.int64]) -> float:
    """Two-sided p of the sum of these differences, were the sign of each a toss: Fisher's permutation test, exact.

    steps : shape (n,), int64, differences in whole units. Where all are -1, 0 or 1 this is the exact McNemar test.

    The sum of those that fall on heads has a distribution that is a convolution; the Fourier transform of it is a
    product of cosines, so no drawing of signs is needed. Exact to about 1e-15.
    """
    sizes = np.abs(steps[steps != 0]).astype(np.int64)
    if not len(sizes) or not steps.sum():
        return 1.0
    common = gcd(*sizes.tolist())
    sizes //= common
    total, seen = int(sizes.sum()), abs(int(steps.sum())) // common
    angle = 2 * np.pi * np.arange(total + 1) / (total + 1)
    spectrum = np.exp(1j * angle * total / 2)
    for size, count in zip(*np.unique(sizes, return_counts=True), strict=True):
        spectrum *= np.cos(angle * size / 2) ** count
    chances = np.fft.fft(spectrum).real / (total + 1)
    tail = 2 * float(chances[: (total - seen) // 2 + 1].sum())
    return min(1.0, max(tail, 2.0 ** (1 - len(sizes))))  # what was seen, and its mirror, are two of all tosses


def holm(ps: Sequence[float]) -> list[float]:
    """p values of several tests, adjusted so that the chance of any false positive stays at the level (Holm 1979)."""
    adjusted, highest = [0.0] * len(ps), 0.0
    for rank, index in enumerate(sorted(range(len(ps)), key=lambda index: ps[index])):
        highest = max(highest, min(1.0, (len(ps) - rank) * ps[index]))
        adjusted[index] = highest
    return adjusted


def wilson_interval(correct: int, n: int) -> tuple[float, float]:
    """95 % confidence interval of a proportion (Wilson 1927); (0, 1) for n = 0."""
    if n == 0:
        return 0.0, 1.0
    p = correct / n
    centre = p + _Z95**2 / (2 * n)
    half = _Z95 * sqrt(p * (1 - p) / n + _Z95**2 / (4 * n * n))
    scale = 1 + _Z95**2 / n
    # Rounding must not push a bound past the proportion itself, which happens at 0 and 1.
    return max(0.0, min(p, (centre - half) / scale)), min(1.0, max(p, (centre + half) / scale))


@dataclass(frozen=True)
class PairedTest:
    """Two classifiers on the same n images.

    Attributes
    ----------
    n : int
        Images.
    only_first, only_second : int
        Images that only one of the two predicts right.
    p : float
        Of the exact two-sided McNemar test: the probability of such a split if both are equally good.
    """

    n: int
    only_first: int
    only_second: int
    p: float


def paired_test(first: NDArray[np.bool_], second: NDArray[np.bool_]) -> PairedTest:
    """The exact test of McNemar (1947). first, second : shape (n,), whether each classifier is right."""
    from scipy.special import bdtr

    a, b = int(np.sum(first & ~second)), int(np.sum(second & ~first))
    p = min(1.0, 2 * float(bdtr(min(a, b), a + b, 0.5))) if a + b else 1.0
    return PairedTest(len(first), a, b, p)
