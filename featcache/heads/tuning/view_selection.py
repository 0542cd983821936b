"""`select_views`: which augmented views lower the log-loss, by cross-validation on training images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.special import stdtrit

from featcache._utils.progress_bar import Progress
from featcache._utils.results import Result
from featcache.cache.features import Features
from featcache.core.progress import StepProgress
from featcache.core.rng import content_words
from featcache.heads.layer_scaling import weigh_layers
from featcache.heads.solvers.closed_form import lda, ridge
from featcache.heads.tuning.layer_comparison import LayerWeights
from featcache.heads.tuning.layer_selection import select_layers
from featcache.heads.tuning.tuning_data import TuningData

COUNTS = (1, 2, 4)
"""Numbers of augmented views that are compared."""

_CONFIDENCE = 0.95  # of all intervals together


class Gain(NamedTuple):
    """A mean difference to the clean views, with an interval that holds for all choices together (Bonferroni)."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class ViewCandidate(Result):
    """Views that were compared with none.

    Attributes
    ----------
    recipe : str
        The view recipe.
    views : int
        Augmented views of each image.
    accuracy, log_loss : float
        Of the clean views of held-out images; the log-loss is in nats. The copies of an image, and the images of a
        group, count as one.
    accuracy_gain : Gain
        How much higher the accuracy is than without views.
    log_loss_gain : Gain
        How much lower the log-loss is than without views.
    """

    recipe: str
    views: int
    accuracy: float
    log_loss: float
    accuracy_gain: Gain
    log_loss_gain: Gain

    @property
    def is_better(self) -> bool:
        """Whether the log-loss falls by more than noise, and the accuracy does not fall."""
        return self.log_loss_gain.low > 0 and self.accuracy_gain.value >= 0


@dataclass(frozen=True)
class ViewSelection(Result):
    """The result of a comparison of views.

    Attributes
    ----------
    candidates : tuple of ViewCandidate
        In the order in which they were compared.
    chosen : ViewCandidate, optional
        None if no views are better than none.
    images : int
        Training images that were held out in turn.
    groups : int
        How many they are if the copies of an image, and the images of a group, count as one.
    accuracy, log_loss : float
        Of these images without augmented views.
    """

    candidates: tuple[ViewCandidate, ...]
    chosen: ViewCandidate | None
    images: int
    groups: int
    accuracy: float
    log_loss: float

    @property
    def best(self) -> ViewCandidate:
        """The candidate with the lowest log-loss, whether it is better than none or not."""
        return min(self.candidates, key=lambda candidate: candidate.log_loss)


class _Scores(NamedTuple):
    """Of each held-out group: the accuracy, and the log-loss in nats, (g,) each. `images` are all images of them."""

    right: NDArray[np.float64]
    losses: NDArray[np.float64]
    images: int


def select_views(
    features: Mapping[str, Features],
    layers: Sequence[str],
    *,
    counts: Sequence[int] = COUNTS,
    seed: int = 0,
    progress: Progress | None = None,
) -> ViewSelection:
    """Compare heads on augmented views with heads on clean views, on the clean views of held-out training images.

    The heads are the better one of ridge and LDA, with several labels logistic regressions. Their layers are chosen on
    the clean views. All heads have the same folds; all views of an image, and its copies, are held out together.

    Views are better than none if they lower the log-loss by more than noise: its interval, which holds for all choices
    together, excludes 0; and if the accuracy does not fall. Of these views, the fewest are chosen whose log-loss is
    within one standard error of the lowest one. The intervals take Student's t over groups: the scores of the copies of
    an image, and of the images of a group, are averaged first, as they are not independent.

    Parameters
    ----------
    features : mapping
        View recipe to the features of the same images; view 0 is the clean one.
    layers : sequence of str
        Names of their layers.
    counts : sequence of int, default (1, 2, 4)
        Numbers of augmented views, ascending.
    seed : int, default 0
        Of the folds.
    progress : callable, optional
        Called for each choice.

    Returns
    -------
    ViewSelection

    Raises
    ------
    HeadError
        There is one class only, or no image can be held out.
    """
    clean = next(iter(features.values())).with_views(0)
    chosen_layers = select_layers(clean, layers, keep_all=False, seed=seed)[0] if len(layers) > 1 else None
    choices = [(recipe, views) for recipe in features for views in counts]
    with StepProgress(progress, "compare views", 1 + len(choices)) as steps:
        without = _cross_validate(clean, chosen_layers, clean, seed)
        t = float(stdtrit(len(without.losses) - 1, 1 - (1 - _CONFIDENCE) / 2 / len(choices)))
        steps.advance()
        candidates, losses = [], []
        for recipe, views in choices:
            scores = _cross_validate(features[recipe].with_views(views), chosen_layers, clean, seed)
            losses.append(scores.losses)
            candidates.append(
                ViewCandidate(
                    recipe,
                    views,
                    float(scores.right.mean()),
                    float(scores.losses.mean()),
                    _gain(scores.right - without.right, t),
                    _gain(without.losses - scores.losses, t),
                )
            )
            steps.advance()
    return ViewSelection(
        tuple(candidates),
        _fewest(candidates, losses),
        without.images,
        len(without.losses),
        float(without.right.mean()),
        float(without.losses.mean()),
    )


def _cross_validate(features: Features, layers: LayerWeights | None, clean: Features, seed: int) -> _Scores:
    """Scores of the better one of ridge and LDA. The clean views give the scale of each layer."""
    if layers is not None:
        features, clean = features.take_layers(layers.layers), clean.take_layers(layers.layers)
        if len(layers.layers) > 1:
            features = features.scaled(weigh_layers(clean, layers.weights))
    data = TuningData(features, "all", seed=seed)
    if data.multilabel:
        selection = data.select(data.logistic_path(Cs=data.c_path[1::3]))
    else:
        selection = min(map(data.select_closed_form, (ridge, lda)), key=lambda found: found.log_loss[0])
    labels = data.held_out.labels[data.held_out.rows]
    probabilities = selection.probabilities(data.multilabel)
    if data.multilabel:
        true = np.where(labels, probabilities, 1 - probabilities)
        right = np.all((probabilities > 0.5) == labels.astype(bool), axis=1)
    else:
        true = probabilities[np.arange(len(labels)), labels][:, None]
        right = probabilities.argmax(axis=1) == labels
    losses = -np.log(np.maximum(true, np.finfo(np.float64).tiny)).mean(axis=1)
    _, groups, sizes = np.unique(
        content_words(features.samples.split_keys[data.held_out.rows]), return_inverse=True, return_counts=True
    )
    return _Scores(np.bincount(groups, right) / sizes, np.bincount(groups, losses) / sizes, len(groups))


def _gain(differences: NDArray[np.float64], t: float) -> Gain:
    """Their mean, plus and minus t standard errors."""
    mean, error = float(differences.mean()), _standard_error(differences)
    return Gain(mean, mean - t * error, mean + t * error)


def _standard_error(values: NDArray[np.float64]) -> float:
    return float(values.std(ddof=1) / np.sqrt(len(values)))


def _fewest(candidates: Sequence[ViewCandidate], losses: Sequence[NDArray[np.float64]]) -> ViewCandidate | None:
    """Of those better than none, the fewest views whose log-loss is within one standard error of the lowest one."""
    better = [number for number, candidate in enumerate(candidates) if candidate.is_better]
    if not better:
        return None
    best = min(better, key=lambda number: candidates[number].log_loss)
    for number in sorted(better, key=lambda number: (candidates[number].views, candidates[number].log_loss)):
        difference = losses[number] - losses[best]
        if difference.mean() <= _standard_error(difference):
            return candidates[number]
    return candidates[best]
