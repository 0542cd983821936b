"""How well features fit a task, from the features alone: neighbourhood purity, H-score, LogME.

They rank features on one set of images. Across sets they are no scale: they depend on the classes and on n.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from featcache.core.rng import content_words
from featcache.errors import HeadError
from featcache.heads.solvers.knn import KS, knn_probabilities

NEIGHBOURS = 10

_TOL, _MOST_STEPS = 1e-6, 1000
_TINY = 1e-12  # of the largest variance: below it a direction, or what is left of the labels, is rounding


def purity(x: NDArray[Any], labels: NDArray[np.int64], sha256: NDArray[np.uint8]) -> float:
    """Share of an image's ten nearest by cosine that have its class, mean over the images, 0..1; copies are excluded.

    Where fewer than ten others are to be had, as many as `featcache.heads.solvers.knn` can look at; an image of a class
    with fewer others than that is pure where all of them are among its neighbours, and one without any does not count.

    Parameters
    ----------
    x : shape (n, d). labels : shape (n,), 0 or more. sha256 : shape (n, 32), uint8, of the images' bytes,
        or the keys of `Samples.split_keys`: rows with equal keys are no neighbours of each other.

    Raises
    ------
    HeadError : all of a class, or no two different images of any.
    """
    classes = _checked(labels)
    _, content = np.unique(content_words(sha256), return_inverse=True)
    _, pair, copies = np.unique(content * classes + labels, return_inverse=True, return_counts=True)
    others = np.bincount(labels)[labels] - copies[pair]
    rows = np.flatnonzero(others)
    found = knn_probabilities(x, labels, content, rows, classes) or {}
    ks = [k for k in KS if k <= NEIGHBOURS and k in found]
    if not ks:
        raise HeadError("no two different images share a class, so none has a neighbour of its own")
    k = max(ks)
    own = k * found[k][np.arange(len(rows)), labels[rows]]
    return float((own / np.minimum(k, others[rows])).mean())


def chance_purity(labels: NDArray[np.int64]) -> float:
    """The purity, about, of features that know nothing of the classes: the sum of their squared shares."""
    return float(np.square(np.bincount(labels) / len(labels)).sum())


def h_score(x: NDArray[Any], labels: NDArray[np.int64]) -> float:
    """The share of the features' variance that the classes explain, summed over whitened directions: 0 to c - 1.

    The H-score tr(cov(f)^-1 cov(E[f|y])) of Bao et al. 2019, "An information-theoretic approach to transferability in
    task transfer learning", with the covariance shrunk as of Ledoit and Wolf 2004, without which it says nothing where
    d is near n or above: Ibrahim et al. 2021, "Newer is not always better" (arXiv 2110.06893),
    (1 - a) tr(cov_a(f)^-1 cov(E[f|y])). Neither a rotation, a shift nor a scale of the features changes it.

    Parameters
    ----------
    x : shape (n, d). labels : shape (n,), 0 or more.

    Raises
    ------
    HeadError : all of a class.
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
    kept = np.square(s) > _TINY * np.square(s[0])
    return float(((1 - shrinkage) * between[kept] / shrunk[kept]).sum())


def log_me(x: NDArray[Any], labels: NDArray[np.int64]) -> float:
    """LogME: the log evidence, in nats an image, of a Bayesian linear model from features to classes; more is better.

    You et al. 2021, "LogME: practical assessment of pre-trained models for transfer learning" (arXiv 2102.11005): each
    class against the rest as a target of 0 and 1, weights ~ N(0, 1/alpha), noise ~ N(0, 1/beta), both set to what makes
    the evidence largest by the fixed point of You et al. 2022, "Ranking and tuning pre-trained models" (arXiv
    2110.10545), mean over classes. Neither a rotation nor a scale of the features changes it.

    Parameters
    ----------
    x : shape (n, d). labels : shape (n,), 0 or more.

    Raises
    ------
    HeadError : all of a class.
    """
    _checked(labels)
    x = np.asarray(x, np.float64)
    u, s, _ = np.linalg.svd(x, full_matrices=False)
    kept = np.square(s) > _TINY * np.square(s[0])
    u, variances = u[:, kept], np.square(s[kept])
    return float(np.mean([_evidence(u, variances, labels == label) for label in np.unique(labels)]))


def _evidence(u: NDArray[np.float64], variances: NDArray[np.float64], has: NDArray[np.bool_]) -> float:
    """Of one class, in nats an image. u : left singular vectors, (n, r). variances : squared singular values, (r,)."""
    n, r = u.shape
    y = has.astype(np.float64)
    along, most = np.square(u.T @ y), float(y @ y)
    beyond = max(most - float(along.sum()), _TINY * most)  # what no weights explain, kept from being nothing
    if not r:
        return _log_normal(n, n / most, 0.0)
    ratio = float(variances.mean())  # alpha / beta; from here the steps are the same at every scale
    for _ in range(_MOST_STEPS):
        shrunk = ratio / (ratio + variances)
        misfit = float((along * np.square(shrunk)).sum()) + beyond
        size = float((along * np.square(1 - shrunk) / variances).sum())
        alpha = float((1 - shrunk).sum()) / max(size, _TINY * most / variances[0])
        beta = (n - r + float(shrunk.sum())) / misfit
        before, ratio = ratio, float(np.clip(alpha / beta, _TINY * variances[0], variances[0] / _TINY))
        if abs(ratio - before) <= _TOL * before:
            break
    beta = n / (beyond + float((along * ratio / (ratio + variances)).sum()))  # the best at this ratio
    return _log_normal(n, beta, float(np.log1p(variances / ratio).sum()))


def _log_normal(n: int, beta: float, log_det: float) -> float:
    """An nth of the log density of N(0, K / beta) where beta suits the point best; log_det : that of K."""
    return (n * np.log(beta / (2 * np.pi)) - log_det - n) / (2 * n)


def _checked(labels: NDArray[np.int64]) -> int:
    """The number of classes, c, or HeadError."""
    if len(np.unique(labels)) < 2:
        raise HeadError("transferability is of two classes or more, and all images have one")
    return int(labels.max()) + 1
