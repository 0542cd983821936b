"""`LayerComparison`: choices of layers and weights, compared on the same held-out images."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from featcache._utils.progress_bar import Progress
from featcache.cache.features import Features
from featcache.cache.lazy_arrays import safe_mean_variance
from featcache.core.progress import StepProgress
from featcache.core.rng import content_words
from featcache.core.samples import Samples
from featcache.heads.class_weights import weights_by_index
from featcache.heads.solvers.closed_form import MAX_WIDTH, Solve, lda, ridge
from featcache.heads.solvers.dual_ridge import DualRidge, Kernel
from featcache.heads.solvers.path import PathWeights
from featcache.heads.solvers.row_space import is_smaller
from featcache.heads.tuning.path_selection import CVSelection, HeldOut, select_on_path
from featcache.heads.tuning.strength_search import PENALTIES
from featcache.heads.tuning.tuning_data import TuningData

_ROUNDING = 1e-7  # of the kernel matrix, as a fraction of its largest value


class LayerWeights(NamedTuple):
    """Layers by their numbers, and their weights."""

    layers: tuple[int, ...]
    weights: tuple[float, ...]


class LayerResult(NamedTuple):
    """Of a candidate. losses : of each group of held-out images, (g,); their mean is the weighted log-loss.

    images : that were held out. solve : the better of ridge and LDA; None with several labels. strength : the best one.
    """

    losses: NDArray[np.float64]
    images: int
    accuracy: float
    solve: Solve | None
    strength: float

    @property
    def log_loss(self) -> float:
        """In nats."""
        return float(self.losses.mean())


class LayerComparison:
    """Candidates on the same held-out images.

    features : the images of the choice. layers : those of the candidates. options : of `TuningData`. end : the time
    after which nothing more is compared. results : of the candidates so far. skipped : how many came too late.
    """

    def __init__(
        self,
        features: Features,
        layers: Sequence[int],
        options: Mapping[str, Any],
        class_weight: Any,
        end: float,
        progress: Progress | None,
    ) -> None:
        self._samples, self._kernels = features.samples, _kernels(features, layers)
        class_weight = weights_by_index(class_weight, features.samples.classes)
        if isinstance(class_weight, Mapping) and not features.samples.multilabel:  # the sample may lack classes
            class_weight = {label: class_weight[label] for label in np.unique(features.y) if label in class_weight}
        self._options, self._end, self._progress = {**options, "class_weight": class_weight}, end, progress
        has_labels = self._samples.multilabel
        self._label_data = (
            TuningData(features.take_layers(layers[:1]), "clean", **self._options) if has_labels else None
        )
        self.results: dict[LayerWeights, LayerResult] = {}
        self.skipped = 0

    def compare(self, candidates: Sequence[LayerWeights]) -> None:
        """Compare candidates."""
        with StepProgress(self._progress, "compare layers", len(candidates)) as steps:
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

    def narrow(self, chosen: LayerWeights, main: int, widths: Sequence[int], rows: int) -> LayerWeights:
        """Leave layers out, but for `main`, until heads can be fitted to so many rows in time."""

        def fits(candidate: LayerWeights) -> bool:
            width = sum(widths[layer] for layer in candidate.layers)
            return width <= MAX_WIDTH or len(candidate.layers) == 1 or is_smaller(rows, width)

        if fits(chosen):
            return chosen
        current = self.results[chosen]
        loss = {}
        for layer in (layer for layer in chosen.layers if layer != main):
            result = self._compare(_multiply(chosen, layer, 0), current)
            loss[layer] = (result.log_loss - current.log_loss if result else 0.0) / widths[layer]
        for layer in sorted(loss, key=lambda layer: (loss[layer], -widths[layer])):
            chosen = _multiply(chosen, layer, 0)
            if fits(chosen):
                break
        self._compare(chosen, current, is_needed=True)
        return chosen

    def _compare(
        self, candidate: LayerWeights, like: LayerResult | None = None, is_needed: bool = False
    ) -> LayerResult | None:
        """The result of a candidate; None if the time is over, unless it is needed.

        like : of a similar candidate, whose head and strength are taken.
        """
        if candidate in self.results:
            return self.results[candidate]
        if self.results and time.perf_counter() > self._end and not is_needed:
            self.skipped += 1
            return None
        kernel = np.sum([self._kernels[n] * weight**2 for n, weight in zip(*candidate, strict=True)], axis=0)
        kernel[np.diag_indices_from(kernel)] += _ROUNDING * max(1.0, float(kernel.max()))
        if self._label_data:
            selection, held_out, solve = (*_select_labels(self._label_data, kernel, like and like.strength), None)
        else:
            selection, held_out, solve = self._select_classes(kernel, like)
        best = min(selection.trials, key=lambda trial: trial.log_loss)
        losses = _losses(selection, held_out, self._samples)
        self.results[candidate] = LayerResult(losses, len(held_out.rows), best.accuracy, solve, best.value)
        return self.results[candidate]

    def _select_classes(
        self, kernel: NDArray[np.float64], like: LayerResult | None
    ) -> tuple[CVSelection, HeldOut, Solve]:
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


def _is_alike(best: LayerResult, other: LayerResult) -> bool:
    """Whether the log-loss of the other is higher by no more than one standard error of the difference."""
    difference = other.losses - best.losses
    return bool(difference.mean() <= difference.std() / np.sqrt(len(difference)))


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


def _losses(selection: CVSelection, held_out: HeldOut, samples: Samples) -> NDArray[np.float64]:
    """See `LayerResult`; with several labels the mean over the labels. Copies are a group."""
    rows = held_out.rows
    labels, weight = held_out.labels[rows], held_out.weight[rows]
    probabilities = selection.probabilities(labels.ndim == 2)
    if labels.ndim == 1:
        right = probabilities[np.arange(len(rows)), labels]
    else:
        right = np.where(labels, probabilities, 1 - probabilities)
    losses = -weight * np.log(np.maximum(right, np.finfo(np.float64).tiny)) / weight.sum()
    if losses.ndim == 2:
        losses = losses.sum(axis=1)
    _, group = np.unique(content_words(samples.split_keys[rows]), return_inverse=True)
    sums: NDArray[np.float64] = np.bincount(group, losses).astype(np.float64)
    return sums * len(sums)
