"""`guess_with`: the two most probable classes of samples without a label, by a saved head or by one that is fitted."""

from __future__ import annotations

import os
from typing import NamedTuple

import numpy as np

from featcache.cache.feature_cache import FeatureCache
from featcache.cache.features import Features
from featcache.core.rng import content_words
from featcache.core.samples import UNLABELED
from featcache.core.specs import PENULTIMATE
from featcache.errors import HeadError
from featcache.heads.fit import fit
from featcache.heads.predict import classify
from featcache.heads.training_data import FitOptions, Fitted, TrainingData
from featcache.models.feature_classifier import FeatureClassifier

LEAST_PER_CLASS = 4
"""Training samples a class, in the mean, from which a head is fitted to say how certain a class is."""

_HEAD = "auto"


class Guess(NamedTuple):
    """The two most probable classes of a sample, and their probabilities."""

    label: str
    probability: float
    second: str
    second_probability: float

    @property
    def margin(self) -> float:
        """The difference of the probabilities; 1: certain, 0: between both classes."""
        return self.probability - self.second_probability

    @property
    def doubt(self) -> float:
        """How much a sample counts: (1 - margin) squared."""
        return (1 - self.margin) ** 2


def guess_with(head: str | os.PathLike[str], cache: FeatureCache, pool: Features) -> tuple[list[Guess], str]:
    """The guesses of a saved head, and a sentence on it.

    Parameters
    ----------
    head : path
        Its folder.
    cache : FeatureCache
    pool : Features
        The samples without a label that are compared, some of those of the cache.

    Raises
    ------
    HeadError, CacheMismatchError
    """
    classifier = FeatureClassifier.load(head)
    wanted = set(pool.samples.ids)
    guesses: dict[str, Guess] = {}
    for prediction in classifier.stream(cache, split=UNLABELED, top=2):
        if prediction.path not in wanted:
            continue
        named = [(name, value) for name, value in prediction.top if value is not None]
        if len(named) < 2:
            raise HeadError(f"{head} has no probabilities, so it cannot say which samples lie between classes.")
        (label, first), (other, second) = named
        guesses[prediction.path] = Guess(label, first, other, second)
    rows = [guesses[name] for name in pool.samples.ids]
    return rows, f"They lie between the classes of {head} and are different from each other."


def fit_own_head(train: Features, seed: int) -> Fitted:
    """The default head on the penultimate features, fitted and cross-validated on these samples. Raises HeadError."""
    return fit(_HEAD, TrainingData(train, train, layers=(PENULTIMATE,)), FitOptions(seed=seed))


def guess_with_own_head(cache: FeatureCache, pool: Features, seed: int) -> tuple[list[Guess], str]:
    """The guesses of a head that is fitted to train and val, and a sentence on it; no guesses with too few labels.

    Parameters as of `guess_with`.

    seed : int
        Of its folds.
    """
    train = cache.features("train")
    classes = np.unique(train.y)
    n = len(np.unique(content_words(train.samples.split_keys)))  # cross-validation holds copies out together
    if len(classes) < 2 or n < LEAST_PER_CLASS * len(classes):
        return [], (
            f"They are typical and different from each other. From {LEAST_PER_CLASS * max(2, len(classes))} training "
            f"{cache.spec.modality}s of two classes or more on, those between classes come first (now {n or 'none'})."
        )
    fitted = fit_own_head(train, seed)
    probabilities = classify(fitted.estimator, pool.lazy_view(0), len(cache.samples.classes)).probabilities
    assert probabilities is not None
    names = cache.samples.classes
    order = np.argsort(-probabilities, axis=1, kind="stable")[:, :2]
    ranked = np.take_along_axis(probabilities, order, axis=1)
    rows = [Guess(names[a], p, names[b], q) for (a, b), (p, q) in zip(order.tolist(), ranked.tolist(), strict=True)]
    return (
        rows,
        f"They lie between classes, by the head {fitted.name} on {n} labels, and are different from each other.",
    )
