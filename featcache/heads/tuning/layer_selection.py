"""`select_layers`: which layers a head uses, and how much each of them counts, by cross-validation."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from featcache._utils.formatting import brief
from featcache._utils.progress_bar import Progress
from featcache._utils.results import Result
from featcache.cache.features import Features
from featcache.cache.lazy_arrays import safe_mean_variance
from featcache.core.layer_names import STAGE_POOLS, parse_layer
from featcache.core.progress import StepProgress
from featcache.core.specs import PENULTIMATE
from featcache.heads.solvers.closed_form import Solve, lda, ridge
from featcache.heads.solvers.dual_ridge import DualRidge, Kernel
from featcache.heads.solvers.path import PathWeights
from featcache.heads.tuning.image_sample import sample_images
from featcache.heads.tuning.path_selection import CVSelection, HeldOut, select_on_path
from featcache.heads.tuning.strength_search import PENALTIES
from featcache.heads.tuning.tuning_data import TuningData

WEIGHTS = (1 / 3, 1.0, 3.0)
"""Of the other layers, where the penultimate one has 1. A layer of weight 1 has a total variance of 1."""

FACTORS = (0.0, 1 / 3, 3.0)
"""By which the weight of a single layer is then changed; 0 leaves it out."""

_IMAGES = 500  # that the choice is made on
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
        layers = [f"{name} x {weight:.2g}" for name, weight in zip(chosen.layers, chosen.weights, strict=True)]
        text = f"layers and their weights: {brief(layers)}\n  log-loss {where}"
        if len(first.layers) == 1:
            text += f"; {PENULTIMATE} alone has {first.log_loss:.4f}"
        return f"{text}.{late}"


def select_layers(
    features: Features,
    names: Sequence[str],
    *,
    keep_all: bool,
    class_weight: Any = None,
    folds: int | None = None,
    seed: int = 0,
    budget_s: float | None = None,
    progress: Progress | None = None,
) -> tuple[LayerWeights, LayerSelection | None]:
    """Choose layers and their weights by the log-loss of closed-form heads on held-out training images.

    The heads are ridge and LDA, with several labels ridge alone. They are fitted to clean views of 500 images or fewer,
    in the space of these images: a candidate is a weighted sum of kernel matrices, one of each layer.

    First, all layers besides the penultimate one have the same weight. Of the sets of layers whose log-loss is within
    one standard error of the lowest one, the fewest layers are chosen. Then the weight of each layer is changed in
    turn. A change is kept if it lowers the log-loss by more than one standard error of the difference; a layer is left
    out if the log-loss stays within one standard error of the lowest one.

    Parameters
    ----------
    features : Features
        The training images, with several layers.
    names : sequence of str
        Names of the layers.
    keep_all : bool
        Whether all layers must be used, so that only their weights are chosen.
    class_weight, folds, seed
        See `TuningData`.
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
    comparison = _Comparison(
        features.take(sample_images(features.samples, _IMAGES, seed)),
        sorted({layer for candidate in candidates for layer in candidate.layers}),
        {"class_weight": class_weight, "folds": folds, "seed": seed},
        math.inf if budget_s is None else started + budget_s,
        progress,
    )
    comparison.compare_all("compare layers", candidates)
    factors = FACTORS[1:] if keep_all else FACTORS
    chosen = comparison.change_weights(comparison.simplest(), names.index(PENULTIMATE), factors)
    results = tuple(
        LayerCandidate(tuple(names[layer] for layer in candidate.layers), candidate.weights, result.log_loss,
                       result.accuracy)
        for candidate, result in comparison.results.items()
    )  # fmt: skip
    number, images = list(comparison.results).index(chosen), len(comparison.results[chosen].losses)
    return chosen, LayerSelection(results, number, images, time.perf_counter() - started, comparison.skipped)


class _Result(NamedTuple):
    """Of a candidate. losses : weighted log-loss of each held-out image, (m,), with the weighted mean as their mean.

    solve : the better of ridge and LDA; None with several labels. strength : the best one of it.
    """

    losses: NDArray[np.float64]
    accuracy: float
    solve: Solve | None
    strength: float

    @property
    def log_loss(self) -> float:
        """In nats."""
        return float(self.losses.mean())


class _Comparison:
    """Candidates on the same held-out images.

    features : the images of the choice. layers : those of the candidates. options : of `TuningData`. end : the time
    after which nothing more is compared. results : of the candidates so far. skipped : how many came too late.
    """

    def __init__(
        self,
        features: Features,
        layers: Sequence[int],
        options: Mapping[str, Any],
        end: float,
        progress: Progress | None,
    ) -> None:
        self._samples, self._kernels = features.samples, _kernels(features, layers)
        self._options, self._end, self._progress = options, end, progress
        has_labels = self._samples.multilabel
        self._label_data = TuningData(features.take_layers(layers[:1]), "clean", **options) if has_labels else None
        self.results: dict[LayerWeights, _Result] = {}
        self.skipped = 0

    def compare_all(self, what: str, candidates: Sequence[LayerWeights]) -> None:
        """Compare candidates; `what` is the text of the progress."""
        with StepProgress(self._progress, what, len(candidates)) as steps:
            for candidate in candidates:
                self._compare(candidate)
                steps.advance()

    def simplest(self) -> LayerWeights:
        """Of the best weights of each set of layers, the fewest layers that are as good as the best but for noise."""
        best = min(self.results, key=self._log_loss)
        for layers in dict.fromkeys(candidate.layers for candidate in self.results):
            candidate = min((item for item in self.results if item.layers == layers), key=self._log_loss)
            if _is_alike(self.results[best], self.results[candidate]):
                return candidate
        return best

    def change_weights(self, chosen: LayerWeights, main: int, factors: Sequence[float]) -> LayerWeights:
        """Multiply the weight of one layer after the other, but for `main`, by factors; keep what is better.

        A layer is left out if that is no worse than the best so far but for noise.
        """
        others = [layer for layer in chosen.layers if layer != main]
        best = current = self.results[chosen]
        with StepProgress(self._progress, "weigh layers", len(others) * len(factors)) as steps:
            for layer in others:
                for candidate in [_multiply(chosen, layer, factor) for factor in factors]:
                    result = self._compare(candidate, current)
                    steps.advance()
                    if result is None:
                        continue
                    is_simpler = len(candidate.layers) < len(chosen.layers)
                    if _is_alike(best, result) if is_simpler else not _is_alike(result, current):
                        chosen, current = candidate, result
                        best = min(best, result, key=lambda item: item.log_loss)
                        if is_simpler:
                            break
        return chosen

    def _compare(self, candidate: LayerWeights, like: _Result | None = None) -> _Result | None:
        """The result of a candidate; None if the time is over.

        like : of a similar candidate, whose head and strength are taken.
        """
        if candidate in self.results:
            return self.results[candidate]
        if self.results and time.perf_counter() > self._end:
            self.skipped += 1
            return None
        kernel = np.sum([self._kernels[n] * weight**2 for n, weight in zip(*candidate, strict=True)], axis=0)
        kernel[np.diag_indices_from(kernel)] += _ROUNDING * max(1.0, float(kernel.max()))
        if self._label_data:
            selection, held_out, solve = (*_select_labels(self._label_data, kernel, like and like.strength), None)
        else:
            selection, held_out, solve = self._select_classes(kernel, like)
        best = min(selection.trials, key=lambda trial: trial.log_loss)
        self.results[candidate] = _Result(_losses(selection, held_out), best.accuracy, solve, best.value)
        return self.results[candidate]

    def _select_classes(self, kernel: NDArray[np.float64], like: _Result | None) -> tuple[CVSelection, HeldOut, Solve]:
        x = np.linalg.cholesky(kernel)  # rows with these inner products
        data = TuningData(Features(x[:, None], self._samples), "clean", **self._options)
        if like and like.solve:
            return data.select_closed_form(like.solve, only=like.strength), data.held_out, like.solve
        selections = {solve: data.select_closed_form(solve) for solve in (ridge, lda)}
        solve, selection = min(selections.items(), key=lambda item: item[1].log_loss[0])
        return selection, data.held_out, solve

    def _log_loss(self, candidate: LayerWeights) -> float:
        return self.results[candidate].log_loss


def _select_labels(
    data: TuningData, kernel: NDArray[np.float64], strength: float | None
) -> tuple[CVSelection, HeldOut]:
    """Ridge to targets of 1 and -1 for each label; `strength` is the only one to try; None: the best is chosen."""
    known = data.held_out
    model = DualRidge(2.0 * known.labels - 1, np.ones(len(kernel)), known.fold, data.folds)
    kernels = [Kernel(kernel, len(kernel))] * data.folds
    held_out = replace(known, logits=lambda weights: model.held_out(kernels, weights.value))
    nothing = np.zeros((data.folds, known.labels.shape[1], 0))
    strengths = PENALTIES[::2] if strength is None else (strength,)
    path = (PathWeights(value, nothing, nothing.sum(axis=2)) for value in strengths)
    return select_on_path(path, held_out), held_out


def _multiply(candidate: LayerWeights, layer: int, factor: float) -> LayerWeights:
    """The candidate with another weight of a layer, or without the layer if the factor is 0."""
    weights = {n: weight * (factor if n == layer else 1) for n, weight in zip(*candidate, strict=True)}
    weights = {n: weight for n, weight in weights.items() if weight}
    return LayerWeights(tuple(weights), tuple(weights.values()))


def _is_alike(best: _Result, other: _Result) -> bool:
    """Whether the log-loss of the other is higher by no more than one standard error of the difference."""
    difference = other.losses - best.losses
    return bool(difference.mean() <= difference.std() / np.sqrt(len(difference)))


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


def _losses(selection: CVSelection, held_out: HeldOut) -> NDArray[np.float64]:
    """See `_Result`; with several labels the mean over the labels."""
    rows = held_out.rows
    labels, weight = held_out.labels[rows], held_out.weight[rows]
    probabilities = selection.probabilities(labels.ndim == 2)
    if labels.ndim == 1:
        right = probabilities[np.arange(len(rows)), labels]
    else:
        right = np.where(labels, probabilities, 1 - probabilities)
    losses = -weight * np.log(np.maximum(right, np.finfo(np.float64).tiny)) * (len(rows) / weight.sum())
    return losses if losses.ndim == 1 else losses.sum(axis=1)
