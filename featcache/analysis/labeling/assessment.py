"""`assess`: how accurate a head on the labels of a cache is, and which labels are doubtful."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from featcache.analysis.doctor.doctor import MAX_IMAGES
from featcache.analysis.doctor.label_errors import check_labels
from featcache.analysis.doctor.samples.registry import sample_checks
from featcache.analysis.suggestions.uncertainty import fit_own_head
from featcache.cache.feature_cache import FeatureCache
from featcache.core.rng import content_words
from featcache.core.samples import UNLABELED
from featcache.errors import HeadError
from featcache.metrics.classification import Accuracy


class Doubt(NamedTuple):
    """A label that a head which has not seen it finds unlikely.

    row : of the cache. suggested : the most probable class. margin : its probability minus that of the label.
    is_wrong : whether the label is probably wrong, and not only not the most probable one; see `doctor`.
    """

    row: int
    label: str
    suggested: str
    margin: float
    is_wrong: bool


class Assessment(NamedTuple):
    """What the labels of a cache are worth so far.

    labels : how many samples have one. accuracy : of the default head in cross-validation; its `n` samples were held
    out in turn. None: `note` says why there is none. head : the name of the head. doubts : the most doubtful label
    first. doubts_note : what the doctor says about the labels, also why it did not check them.
    """

    labels: int
    accuracy: Accuracy | None
    head: str
    note: str
    doubts: tuple[Doubt, ...]
    doubts_note: str


def assess(cache: FeatureCache, seed: int = 0) -> Assessment:
    """Cross-validate the default head on train, and look for doubtful labels with the checks of the doctor.

    The features are the penultimate ones of the clean views, as in `suggest`; the doctor checks val and test, too.

    Parameters
    ----------
    cache : FeatureCache
        With the labels to assess, see `relabel`.
    seed : int, default 0
        Of the folds.
    """
    samples, noun = cache.samples, cache.spec.modality
    labels = len(samples) - len(samples.rows(UNLABELED))
    train = cache.features("train")
    distinct = np.unique(np.column_stack([train.y.astype(np.uint64), content_words(train.samples.split_keys)]), axis=0)[
        :, 0
    ]
    if np.count_nonzero(np.unique(distinct, return_counts=True)[1] > 1) < 2:
        note = f"The accuracy is estimated as soon as two classes have two different {noun}s each."
        return Assessment(labels, None, "", note, (), "")
    try:
        fitted = fit_own_head(train, seed)
    except HeadError as error:
        return Assessment(labels, None, "", f"The accuracy cannot be estimated yet: {error}", (), "")
    assert fitted.selection is not None
    accuracy = fitted.selection.chosen.accuracy
    assert isinstance(accuracy, Accuracy)
    return Assessment(labels, accuracy, fitted.name, "", *_find_doubts(cache, seed))


def _find_doubts(cache: FeatureCache, seed: int) -> tuple[tuple[Doubt, ...], str]:
    """The doubtful labels, and the summary of the check."""
    rows = {name: row for row, name in enumerate(cache.samples.ids)}
    held_out = [cache.features(split) for split in ("val", "test") if len(cache.readable_rows(split))]
    words = sample_checks(cache.spec.modality).words
    checks = check_labels(cache.features("train"), held_out, MAX_IMAGES, seed, words=words)
    (check,) = (check for check in checks if check.name == "labels")
    doubts = tuple(
        Doubt(rows[one.image], one.label, one.suggested, one.score or 0.0, issue in check.findings)
        for issue in (*check.findings, *check.rankings)
        for one in issue.images
    )
    if check.ran:
        return doubts, f"{check.summary}."
    reason = check.summary.removeprefix("not checked: ")
    return doubts, f"The doctor cannot tell yet which labels are wrong: {reason}, as far as these labels show."
