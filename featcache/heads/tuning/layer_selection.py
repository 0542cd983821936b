"""`select_layers`: which layers a head uses, and how much each of them counts, by cross-validation."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from featcache._utils.formatting import brief, plural
from featcache._utils.progress_bar import Progress
from featcache._utils.results import Result
from featcache.cache.features import Features
from featcache.core.layer_names import STAGE_POOLS, parse_layer
from featcache.core.specs import PENULTIMATE
from featcache.heads.tuning.image_sample import sample_images
from featcache.heads.tuning.layer_comparison import LayerComparison, LayerWeights

WEIGHTS = (1 / 3, 1.0, 3.0)
"""Of the other layers, where the penultimate one has 1. A layer of weight 1 has a total variance of 1."""

FACTORS = (0.0, 1 / 3, 3.0)
"""By which the weight of a single layer is then changed; 0 leaves it out."""

_IMAGES = 500  # that the choice is made on


class LayerChoices(NamedTuple):
    """Layers and their weights to compare first. main : the number of the layer that is kept in any case."""

    candidates: tuple[LayerWeights, ...]
    main: int


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
    too_wide : int
        Layers that were left out because heads on so many features would take minutes, and gigabytes of memory.
    """

    candidates: tuple[LayerCandidate, ...]
    chosen: int
    images: int
    seconds: float
    skipped: int = 0
    too_wide: int = 0

    def __str__(self) -> str:
        chosen, first = self.candidates[self.chosen], self.candidates[0]
        where = f"{chosen.log_loss:.4f} of ridge or LDA on {self.images} held-out training samples"
        late = f" {self.skipped} other choices were not compared: the budget was spent." if self.skipped else ""
        if self.too_wide:
            late += f" {plural(self.too_wide, 'layer')} more would help, but take too long with so many samples."
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
    choices: LayerChoices | None = None,
    rows_of_image: int = 1,
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
    out if the log-loss stays within one standard error of the lowest one. At last, if the layers have more than 3,072
    features, and too many rows for a smaller space (`RowSpace`), those that help least for their width are left out.

    Parameters
    ----------
    features : Features
        The training images, with several layers.
    names : sequence of str
        Names of the layers.
    keep_all : bool
        Whether all layers must be used, so that only their weights are chosen.
    choices : LayerChoices, optional
        What is compared first. None: the penultimate layer, the stages and all layers.
    rows_of_image : int, default 1
        Views of an image that the head is then trained on.
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
    if choices is None:
        choices = _choices(names, keep_all)
    candidates, main = choices
    if len(candidates) == 1:
        return candidates[0], None
    factors = FACTORS[1:] if keep_all else FACTORS
    comparison = LayerComparison(
        features.take(sample_images(features.samples, _IMAGES, seed)),
        sorted({layer for candidate in candidates for layer in candidate.layers}),
        {"folds": folds, "seed": seed},
        class_weight,
        math.inf if budget_s is None else started + budget_s,
        progress,
    )
    comparison.compare(candidates)
    best = chosen = comparison.change_weights(comparison.simplest(), main, factors)
    if not keep_all and features.concatenated:
        chosen = comparison.narrow(best, main, features.concatenated.widths, len(features.samples) * rows_of_image)
    results = tuple(
        LayerCandidate(tuple(names[layer] for layer in candidate.layers), candidate.weights, result.log_loss,
                       result.accuracy)
        for candidate, result in comparison.results.items()
    )  # fmt: skip
    summary = LayerSelection(
        results,
        chosen=list(comparison.results).index(chosen),
        images=comparison.results[chosen].images,
        seconds=time.perf_counter() - started,
        skipped=comparison.skipped,
        too_wide=len(best.layers) - len(chosen.layers),
    )
    return chosen, summary


def _choices(names: Sequence[str], keep_all: bool) -> LayerChoices:
    """The fewest layers first."""
    everything = tuple(range(len(names)))
    if PENULTIMATE not in names:
        return LayerChoices((LayerWeights(everything, (1.0,) * len(names)),), 0)
    main = names.index(PENULTIMATE)
    stages = tuple(layer for layer in everything if parse_layer(names[layer])[1] in STAGE_POOLS)
    sets = [everything] if keep_all else list(dict.fromkeys([(main,), stages, everything]))
    candidates = (
        LayerWeights(layers, tuple(1.0 if layer == main else weight for layer in layers))
        for layers in sets
        for weight in (WEIGHTS if len(layers) > 1 else (1.0,))
    )
    return LayerChoices(tuple(candidates), main)
