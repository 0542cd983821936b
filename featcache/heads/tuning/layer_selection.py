"""`select_layers`: which layers a head uses, and how much each of them counts, by cross-validation."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from featcache._utils.formatting import brief
from featcache._utils.progress_bar import Progress
from featcache._utils.results import Result
from featcache.cache.features import Features
from featcache.cache.lazy_arrays import safe_mean_variance
from featcache.core.layer_names import STAGE_POOLS, parse_layer
from featcache.core.progress import StepProgress
from featcache.core.rng import content_order, content_words
from featcache.core.samples import Samples
from featcache.core.specs import PENULTIMATE
from featcache.heads.solvers.closed_form import lda, ridge
from featcache.heads.tuning.path_selection import CVSelection, HeldOut
from featcache.heads.tuning.tuning_data import TuningData

WEIGHTS = (0.3, 1.0, 3.0)
"""Of the other layers, where the penultimate one has 1. A layer of weight 1 has a total variance of 1."""

_IMAGES, _LEAST = 500, 4  # that the choice is made on; images of each class, where there are so many classes
_ROUNDING = 1e-7  # of the kernel matrix, as a fraction of its largest value


class LayerWeights(NamedTuple):
    """Layers by their numbers, and their weights."""

    layers: tuple[int, ...]
    weights: tuple[float, ...]


@dataclass(frozen=True)
class LayerCandidate(Result):
    """Layers that were compared.

    Attributes
    ----------
    layers : tuple of str
        Names.
    weights : tuple of float
        Weight of each layer.
    log_loss : float
        Of held-out images, in nats.
    accuracy : float
        Of held-out images.
    """

    layers: tuple[str, ...]
    weights: tuple[float, ...]
    log_loss: float
    accuracy: float


@dataclass(frozen=True)
class LayerSelection(Result):
    """The result of a comparison of layers.

    Attributes
    ----------
    candidates : tuple of LayerCandidate
        In the order in which they were compared.
    chosen : int
        The number of the chosen one.
    images : int
        Training images that were held out in turn.
    seconds : float
        Time of the comparison.
    skipped : int
        Candidates that were not compared, as the budget was spent.
    """

    candidates: tuple[LayerCandidate, ...]
    chosen: int
    images: int
    seconds: float
    skipped: int = 0

    def __str__(self) -> str:
        chosen, first = self.candidates[self.chosen], self.candidates[0]
        where = f"{chosen.log_loss:.4f} of ridge or LDA on {self.images} held-out training images"
        late = f" {self.skipped} other choices were not compared: the budget was spent." if self.skipped else ""
        if len(chosen.layers) == 1:
            others = min(self.candidates[1:], key=lambda candidate: candidate.log_loss, default=chosen)
            return (
                f"layers: {chosen.layers[0]} alone\n  log-loss {where}. {len(others.layers)} layers "
                f"({others.log_loss:.4f}) are no better, or by no more than noise.{late}"
            )
        weight = next(w for name, w in zip(chosen.layers, chosen.weights, strict=True) if name != PENULTIMATE)
        text = f"layers: {brief(chosen.layers)}, with weight {weight:g} beside {PENULTIMATE}\n  log-loss {where}"
        if len(first.layers) == 1:
            text += f"; {PENULTIMATE} alone has {first.log_loss:.4f}"
        return f"{text}.{late}"


def select_layers(
    features: Features,
    names: Sequence[str],
    *,
    keep_all: bool,
    folds: int | None = None,
    seed: int = 0,
    budget_s: float | None = None,
    progress: Progress | None = None,
) -> tuple[LayerWeights, LayerSelection | None]:
    """Choose layers and their weights by the log-loss of closed-form heads on held-out training images.

    The heads are ridge and LDA, with several labels logistic regressions. They are fitted to clean views of 500 images
    or fewer, in the space of these images: a candidate is a weighted sum of kernel matrices, one of each layer.

    Of the layers whose log-loss is within one standard error of the lowest one, the fewest are chosen.

    Parameters
    ----------
    features : Features
        The training images, with several layers.
    names : sequence of str
        Names of the layers.
    keep_all : bool
        Whether all layers must be used, so that only their weights are chosen.
    folds, seed
        See `featcache.core.splitting.plan_folds`.
    budget_s : float, optional
        Seconds after which no further candidate is compared.
    progress : callable, optional
        Called for each candidate.

    Returns
    -------
    LayerWeights
    LayerSelection or None
        None if there is nothing to compare.
    """
    started = time.perf_counter()
    candidates = _candidates(names, keep_all)
    if len(candidates) == 1:
        return candidates[0], None
    rows = _sample(features.samples, seed)
    part = features.take(rows)
    kernels = _kernels(part, sorted({layer for candidate in candidates for layer in candidate.layers}))
    results: list[LayerCandidate] = []
    losses: list[NDArray[np.float64]] = []
    with StepProgress(progress, "compare layers", len(candidates)) as steps:
        for candidate in candidates:
            if results and budget_s is not None and time.perf_counter() - started > budget_s:
                break
            selection, held_out = _cross_validate(kernels, candidate, part.samples, folds, seed)
            losses.append(_losses(selection, held_out))
            results.append(
                LayerCandidate(
                    tuple(names[layer] for layer in candidate.layers),
                    candidate.weights,
                    float(losses[-1].mean()),
                    min(selection.trials, key=lambda trial: trial.log_loss).accuracy,
                )
            )
            steps.advance()
    chosen = _simplest(candidates[: len(losses)], losses)
    skipped = len(candidates) - len(losses)
    summary = LayerSelection(tuple(results), chosen, len(losses[0]), time.perf_counter() - started, skipped)
    return candidates[chosen], summary


def _candidates(names: Sequence[str], keep_all: bool) -> list[LayerWeights]:
    """The fewest layers first."""
    everything = tuple(range(len(names)))
    if PENULTIMATE not in names:
        return [LayerWeights(everything, (1.0,) * len(names))]
    main = names.index(PENULTIMATE)
    stages = tuple(layer for layer in everything if parse_layer(names[layer])[1] in STAGE_POOLS)
    sets = [everything] if keep_all else list(dict.fromkeys([(main,), stages, everything]))
    return [
        LayerWeights(layers, tuple(1.0 if layer == main else weight for layer in layers))
        for layers in sets
        for weight in (WEIGHTS if len(layers) > 1 else (1.0,))
    ]


def _sample(samples: Samples, seed: int) -> NDArray[np.int64]:
    """At most 500 training images or so, of each class as many, in the order of the rows.

    Each group gives one image, then each a second one, and so on; copies count as a group.
    """
    order = content_order(samples.split_keys, seed, "layers")
    _, group = np.unique(content_words(samples.split_keys), return_inverse=True)
    order = order[np.argsort(_ranks(group[order]), kind="stable")]
    if samples.multilabel:
        return np.sort(order[:_IMAGES])
    labels = samples.labels[order]
    classes = np.unique(labels)
    most = max(_LEAST, _IMAGES // len(classes))
    if len(classes) * _LEAST > _IMAGES:  # a part of the classes
        classes = classes[np.argsort([np.flatnonzero(labels == label)[0] for label in classes])][: _IMAGES // _LEAST]
    rows = [order[labels == label][:most] for label in classes]
    return np.sort(np.concatenate(rows))


def _ranks(groups: NDArray[np.int64]) -> NDArray[np.int64]:
    """How many of the values before have the same group, shape (n,)."""
    order = np.argsort(groups, kind="stable")
    first = np.searchsorted(groups[order], groups[order])  # where the group begins
    ranks = np.empty(len(groups), np.int64)
    ranks[order] = np.arange(len(groups)) - first
    return ranks


def _kernels(features: Features, layers: Sequence[int]) -> dict[int, NDArray[np.float64]]:
    """Inner products of the clean views minus their mean, (n, n), of each layer.

    The mean of the diagonal is 1, of a layer of constants 0.
    """
    kernels = {}
    for layer in layers:
        x = np.asarray(features.take_layers((layer,)).lazy_view(0), np.float64)
        n, d = x.shape
        mean = x.mean(axis=0)
        x -= mean
        kernel = x @ x.T
        kernels[layer] = kernel / (d * safe_mean_variance(float(np.trace(kernel)) / n / d, mean))
    return kernels


def _cross_validate(
    kernels: dict[int, NDArray[np.float64]],
    candidate: LayerWeights,
    samples: Samples,
    folds: int | None,
    seed: int,
) -> tuple[CVSelection, HeldOut]:
    """The best closed-form head on the layers of a candidate."""
    kernel = np.sum([kernels[n] * weight**2 for n, weight in zip(*candidate, strict=True)], axis=0)
    kernel[np.diag_indices_from(kernel)] += _ROUNDING * max(1.0, float(kernel.max()))
    x = np.linalg.cholesky(kernel)  # rows with these inner products
    data = TuningData(Features(x[:, None], samples), "clean", folds=folds, seed=seed)
    if data.multilabel:
        return data.select(data.logistic_path(Cs=data.c_path[1::3])), data.held_out
    selections = [data.select_closed_form(solve) for solve in (ridge, lda)]
    return min(selections, key=lambda selection: selection.log_loss[0]), data.held_out


def _losses(selection: CVSelection, held_out: HeldOut) -> NDArray[np.float64]:
    """The log-loss of each held-out image in nats, (m,); with several labels the mean over the labels."""
    rows = held_out.rows
    labels = held_out.labels[rows]
    probabilities = selection.probabilities(labels.ndim == 2)
    if labels.ndim == 2:
        right = np.where(labels, probabilities, 1 - probabilities)
        return np.asarray(-np.log(np.maximum(right, np.finfo(np.float64).tiny)).mean(axis=1))
    right = probabilities[np.arange(len(rows)), labels]
    return -np.log(np.maximum(right, np.finfo(np.float64).tiny))


def _simplest(candidates: Sequence[LayerWeights], losses: Sequence[NDArray[np.float64]]) -> int:
    """Of the best weights of each set of layers, the fewest layers that are as good as the best but for noise."""
    means = [float(loss.mean()) for loss in losses]
    best = int(np.argmin(means))
    for layers in dict.fromkeys(candidate.layers for candidate in candidates):
        number = min((n for n, item in enumerate(candidates) if item.layers == layers), key=lambda n: means[n])
        difference = losses[number] - losses[best]
        if difference.mean() <= difference.std() / np.sqrt(len(difference)):
            return number
    return best
