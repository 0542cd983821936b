"""Scores of how well features fit a task: neighbourhood purity, H-score, LogME.

They compare features on one data set. They do not compare data sets, because they depend on the classes and on n.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from featcache.core.rng import content_words
from featcache.errors import HeadError
from featcache.heads.solvers.knn import KS, knn_probabilities

NEIGHBOURS = 10

_TOLERANCE, _MAX_STEPS = 1e-6, 1000
_TINY = 1e-12  # relative to the largest variance: smaller directions and residuals are rounding


def purity(x: NDArray[Any], labels: NDArray[np.int64], sha256: NDArray[np.uint8]) -> float:
    """Fraction of an image's ten nearest neighbours, by cosine, that have its class; mean over the images, 0 to 1.

    Exact duplicates are not neighbours. If there are fewer than ten others, `featcache.heads.solvers.knn` uses fewer
    neighbours. An image whose class has fewer others is pure if all of them are among its neighbours; an image that is
    alone in its class does not count.

    Parameters
    ----------
    x : NDArray
        Features, (n, d).
    labels : NDArray[np.int64]
        (n,), 0 or more.
    sha256 : NDArray[np.uint8]
        Hashes of the images, or the keys of `Samples.split_keys`, (n, 32): rows with equal keys are not neighbours.

    Raises
    ------
    HeadError
        All images have one class, or no class has two different images.
    """
    classes = _checked(labels)
    _, content = np.unique(content_words(sha256), return_inverse=True)
    _, pair, copies = np.unique(content * classes + labels, return_inverse=True, return_counts=True)
    others = np.bincount(labels)[labels] - copies[pair]
    rows = np.flatnonzero(others)
    by_k = knn_probabilities(x, labels, content, rows, classes) or {}
    ks = [k for k in KS if k <= NEIGHBOURS and k in by_k]
    if not ks:
        raise HeadError("no class has two different images, so the purity of neighbourhoods is not defined")
    k = max(ks)
    same_class = k * by_k[k][np.arange(len(rows)), labels[rows]]
    return float((same_class / np.minimum(k, others[rows])).mean())


def chance_purity(labels: NDArray[np.int64]) -> float:
    """Approximate purity of features that are independent of the classes: the sum of the squared class frequencies."""
    return float(np.square(np.bincount(labels) / len(labels)).sum())


def h_score(x: NDArray[Any], labels: NDArray[np.int64]) -> float:
    """Fraction of the features' variance that the classes explain, summed over whitened directions: 0 to c - 1.

    The H-score tr(cov(f)^-1 cov(E[f|y])) of Bao et al. 2019, "An information-theoretic approach to transferability in
    task transfer learning", with the covariance shrunk as by Ledoit and Wolf 2004: (1 - a) tr(cov_a(f)^-1 cov(E[f|y])).
    Without shrinkage it is meaningless if d is near n or above (Ibrahim et al. 2021, "Newer is not always better",
    arXiv 2110.06893). It does not change with a rotation, shift or scale of the features.

    Parameters
    ----------
    x : NDArray
        Features, (n, d).
    labels : NDArray[np.int64]
        (n,), 0 or more.

    Raises
    ------
    HeadError
        All images have one class.
    """
    from sklearn.covariance import ledoit_wolf_shrinkage

    classes = _checked(labels)
    x = np.asarray(x, np.float64)
    x = x - x.mean(axis=0)
    n, d = x.shape
    total = float(np.square(x).sum()) / n
    if not total > 0:
        return 0.0
    shrinkage = float(ledoit_wolf_shrinkage(x, assume_centered=True))
    u, s, _ = np.linalg.svd(x, full_matrices=False)
    counts = np.bincount(labels, minlength=classes)
    sums = np.zeros((classes, len(s)))
    np.add.at(sums, labels, u * s)
    between = (np.square(sums) / np.maximum(counts, 1)[:, None]).sum(axis=0) / n  # of class means, by direction
    shrunk = (1 - shrinkage) * np.square(s) / n + shrinkage * total / d
    is_large = np.square(s) > _TINY * np.square(s[0])
    return float(((1 - shrinkage) * between[is_large] / shrunk[is_large]).sum())


def log_me(x: NDArray[Any], labels: NDArray[np.int64]) -> float:
    """LogME: log evidence, in nats per image, of a Bayesian linear model from features to classes; higher is better.

    You et al. 2021, "LogME: practical assessment of pre-trained models for transfer learning" (arXiv 2102.11005): each
    class against the rest as a target of 0 and 1, weights ~ N(0, 1/alpha), noise ~ N(0, 1/beta). The fixed point of
    You et al. 2022, "Ranking and tuning pre-trained models" (arXiv 2110.10545), maximizes the evidence; the result is
    the mean over classes. It does not change with a rotation or scale of the features.

    Parameters
    ----------
    x : NDArray
        Features, (n, d).
    labels : NDArray[np.int64]
        (n,), 0 or more.

    Raises
    ------
    HeadError
        All images have one class.
    """
    _checked(labels)
    x = np.asarray(x, np.float64)
    u, s, _ = np.linalg.svd(x, full_matrices=False)
    is_large = np.square(s) > _TINY * np.square(s[0])
    u, variances = u[:, is_large], np.square(s[is_large])
    return float(np.mean([_evidence(u, variances, labels == label) for label in np.unique(labels)]))


def _evidence(u: NDArray[np.float64], variances: NDArray[np.float64], has: NDArray[np.bool_]) -> float:
    """Evidence of a class in nats per image; u : left singular vectors (n, r), variances : squared singular values."""
    n, r = u.shape
    y = has.astype(np.float64)
    along, most = np.square(u.T @ y), float(y @ y)
    beyond = max(most - float(along.sum()), _TINY * most)  # the residual that no weights explain, above 0
    if not r:
        return _log_normal(n, n / most, 0.0)
    ratio = float(variances.mean())  # alpha / beta; from here on the scale does not matter
    for _ in range(_MAX_STEPS):
        shrunk = ratio / (ratio + variances)
        misfit = float((along * np.square(shrunk)).sum()) + beyond
        size = float((along * np.square(1 - shrunk) / variances).sum())
        alpha = float((1 - shrunk).sum()) / max(size, _TINY * most / variances[0])
        beta = (n - r + float(shrunk.sum())) / misfit
        before, ratio = ratio, float(np.clip(alpha / beta, _TINY * variances[0], variances[0] / _TINY))
        if abs(ratio - before) <= _TOLERANCE * before:
            break
    beta = n / (beyond + float((along * ratio / (ratio + variances)).sum()))  # the optimum at this ratio
    return _log_normal(n, beta, float(np.log1p(variances / ratio).sum()))


def _log_normal(n: int, beta: float, log_det: float) -> float:
    """1 / n of the log density of N(0, K / beta) at the optimal beta; log_det : log determinant of K."""
    return (n * np.log(beta / (2 * np.pi)) - log_det - n) / (2 * n)


def _checked(labels: NDArray[np.int64]) -> int:
    """The number of classes. Raises HeadError if there is only one."""
    if len(np.unique(labels)) < 2:
        raise HeadError("transferability needs two classes or more, and all images have the same class")
    return int(labels.max()) + 1
