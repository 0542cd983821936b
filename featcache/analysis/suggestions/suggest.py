"""`suggest`: which samples without a label to label next."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from featcache._utils.blockwise import unit_rows
from featcache._utils.formatting import plural, printable
from featcache._utils.progress_bar import ProgressOption, as_callback
from featcache._utils.results import NotebookResult, Result
from featcache.analysis.suggestions.representatives import choose_representatives
from featcache.analysis.suggestions.uncertainty import Guess, guess_with, guess_with_own_head
from featcache.cache.feature_cache import FeatureCache
from featcache.cache.features import Features
from featcache.core.rng import content_order
from featcache.core.samples import SPLITS, UNLABELED
from featcache.errors import CacheIncompleteError, CacheMismatchError, SpecError

if TYPE_CHECKING:
    from featcache.data.manifest import Manifest

MAX_COMPARED = 8_000
"""Samples that are compared with each other; of more as many are drawn. Their similarities take 256 MB."""

_DOUBTFUL = 0.5  # the margin between two classes below which a reason names both


@dataclass(frozen=True, repr=False)
class Suggestion(Result, NotebookResult):
    """A sample to label.

    Attributes
    ----------
    path : str
        Its id in the cache: the path of a file, or a hash of a text in a table.
    reason : str
        Why it is suggested.
    resembling : int
        How many compared samples resemble it more than any other suggested or labeled sample, itself included.
    guess : Guess, optional
        The two most probable classes; None without a head.
    text : str, optional
        How a text begins, if `suggest` was given the data.
    """

    path: str
    reason: str
    resembling: int
    guess: Guess | None = None
    text: str | None = None

    @property
    def summary(self) -> str:
        """A few words for a figure: the two most probable classes, or how many samples it resembles."""
        if self.guess is None:
            return f"like {plural(self.resembling - 1, 'other')}" if self.resembling > 1 else "unlike the others"
        return (
            f"{self.guess.label} {self.guess.probability:.0%}, {self.guess.second} {self.guess.second_probability:.0%}"
        )

    def __str__(self) -> str:
        """One line: the sample and the reason."""
        return f"{printable(self.path if self.text is None else self.text)}\t{printable(self.reason)}"

    def _json_fields(self) -> dict[str, Any]:
        guess = self.guess
        return {
            "path": self.path,
            "reason": self.reason,
            "resembling": self.resembling,
            "predicted": guess and guess.label,
            "probability": guess and guess.probability,
            "second": guess and guess.second,
            "second_probability": guess and guess.second_probability,
            "text": self.text,
        }


@dataclass(frozen=True, repr=False)
class Suggestions(Result, NotebookResult):
    """What `suggest` returns.

    Attributes
    ----------
    cache : FeatureCache
    samples : tuple of Suggestion
        The samples to label, the most useful first.
    rule : str
        How they were chosen.
    labeled, unlabeled : int
        How many samples of the cache have a label, and how many have none.
    notes : tuple of str
        What the user should know, a line each.
    manifest : Manifest, optional
        The data, if it was given.
    """

    cache: FeatureCache
    samples: tuple[Suggestion, ...]
    rule: str
    labeled: int
    unlabeled: int
    notes: tuple[str, ...] = ()
    manifest: Manifest | None = None

    def write_table(self, path: str | os.PathLike[str]) -> None:
        """Write a table of all samples, the suggested ones first, in which a person fills in the column `label`.

        `update` takes the table as DATA. See `featcache.analysis.suggestions.label_table`.

        Parameters
        ----------
        path : path
            A name that ends in .csv.

        Raises
        ------
        SpecError
            `suggest` was not given the data, or the name has another ending.
        DataLayoutError
            The samples are neither local files nor texts of a table.
        """
        from featcache.analysis.suggestions.label_table import write_label_table

        if self.manifest is None:
            raise SpecError("a table of labels needs the data that the cache was made from: suggest(cache, data=...)")
        write_label_table(path, self)

    def __str__(self) -> str:
        """A line for each sample, and how they were chosen."""
        noun = self.cache.spec.modality
        line = (
            f"{len(self.samples)} of {plural(self.unlabeled, noun)} without a label, the most useful first. {self.rule}"
        )
        return "\n".join([*map(str, self.samples), line, *self.notes])

    def _json_fields(self) -> dict[str, Any]:
        return {
            "cache": str(self.cache.path),
            "labeled": self.labeled,
            "unlabeled": self.unlabeled,
            "rule": self.rule,
            "notes": self.notes,
            "suggestions": [sample.to_dict() for sample in self.samples],
        }


def suggest(
    cache: str | os.PathLike[str] | FeatureCache,
    n: int = 40,
    *,
    head: str | os.PathLike[str] | None = None,
    data: str | os.PathLike[str] | None = None,
    seed: int = 0,
    progress: ProgressOption = None,
) -> Suggestions:
    """Choose the samples without a label that are most worth a label.

    The samples are chosen one after another, so that each unlabeled sample resembles a labeled or chosen one (greedy
    facility location, see `featcache.analysis.suggestions.representatives`). They are typical and differ from each
    other, which is best while there are few labels (Hacohen, Dekel and Weinshall 2022, "Active learning on a budget:
    opposite strategies suit high and low budgets"). With a head, samples count the more the less it distinguishes their
    two most probable classes, so the chosen ones lie between classes and still differ (as in Citovsky et al. 2021,
    "Batch active learning at scale").

    Similarity is the cosine of the penultimate features of clean views, whose mean was subtracted. Of more than 8,000
    samples as many are drawn, by content and seed.

    Parameters
    ----------
    cache : path or FeatureCache
        A cache with samples without a label.
    n : int, default 40
        How many samples to suggest.
    head : path, optional
        The folder of a head that `fit_head` saved, which says how certain the class of a sample is. None: a head is
        fitted to the labeled samples as soon as there are enough of them, see `LEAST_LABELS`.
    data : path, optional
        What the cache was made from. With it `Suggestions.write_table` works, and texts have their words.
    seed : int, default 0
        Of the draw from many samples, and of the folds of the fitted head.
    progress : bool or callable, optional
        True draws a bar; a callable is called as progress(what, done, total).

    Returns
    -------
    Suggestions

    Raises
    ------
    CacheIncompleteError
        All samples have a label, or those without one could not be read.
    CacheMismatchError
        Samples have several labels, the head is for other features, or the data is not that of the cache.
    SpecError
        n is less than 1.
    HeadError
        The head cannot be loaded, or has no probabilities.

    Examples
    --------
    >>> import numpy as np
    >>> import featcache
    >>> x = np.repeat(np.eye(4), [50, 30, 15, 5], axis=0)
    >>> cache = featcache.FeatureCache.from_arrays(x, None)
    >>> suggestions = featcache.suggest(cache, 4)
    >>> [sample.resembling for sample in suggestions.samples]
    [50, 30, 15, 5]
    """
    if n < 1:
        raise SpecError(f"n is {n}; suggest at least one sample")
    callback = as_callback(progress)
    cache = FeatureCache.open(cache)
    manifest = None
    unlabeled = _unlabeled(cache)
    if data is not None:
        from featcache.analysis.suggestions.label_table import read_data

        manifest = read_data(cache, data, callback)
    pool, notes = _draw(unlabeled, seed, cache.spec.modality)
    known = _labeled(cache)
    guesses, rule = guess_with(head, cache, pool) if head is not None else guess_with_own_head(cache, pool, seed)
    weights = np.ones(len(pool.samples), np.float32)
    if guesses:
        weights = np.array([guess.doubt for guess in guesses], np.float32)
    x = np.asarray(pool.lazy_view(0)[:], np.float32)
    mean = x.mean(axis=0)
    chosen = choose_representatives(unit_rows(x - mean), weights, unit_rows(known - mean), min(n, len(x)), callback)
    samples = tuple(
        Suggestion(
            pool.samples.ids[row],
            _reason(count, guesses[row] if guesses else None, cache.spec.modality),
            count,
            guesses[row] if guesses else None,
            _text(manifest, pool.samples.ids[row]),
        )
        for row, count in zip(chosen.rows.tolist(), chosen.members.tolist(), strict=True)
    )
    if n > len(x):
        is_drawn = len(x) < len(unlabeled.samples)
        few = f"{n} are too many at once: those that were drawn are listed"
        notes.append(few if is_drawn else f"there are fewer than {n}: all are listed")
    return Suggestions(cache, samples, rule, len(known), len(unlabeled.samples), tuple(notes), manifest)


def _unlabeled(cache: FeatureCache) -> Features:
    """The samples without a label. Raises CacheIncompleteError without any, CacheMismatchError with several labels."""
    noun, samples = cache.spec.modality, cache.samples
    if not len(samples.rows(UNLABELED)):
        raise CacheIncompleteError(
            f"{cache.path} has no {noun}s without a label: all {len(samples)} have one. To have more suggested, add "
            f"{noun}s without a label to the data (a folder {UNLABELED} beside the class folders, or rows of a table "
            "with an empty label), and run `featcache update CACHE DATA`."
        )
    if samples.multilabel:
        raise CacheMismatchError(f"{cache.path} has {noun}s with several labels; suggest is for one label a {noun}.")
    features = cache.features(UNLABELED)
    if not len(features.samples):
        raise CacheIncompleteError(
            f"none of the {noun}s of {cache.path} without a label could be read: `featcache info`"
        )
    return features


def _draw(features: Features, seed: int, noun: str) -> tuple[Features, list[str]]:
    """At most `MAX_COMPARED` samples, in the order of their rows, and a note if not all are compared."""
    n = len(features.samples)
    if n <= MAX_COMPARED:
        return features, []
    rows = np.sort(content_order(features.samples.sha256, seed, "suggest")[:MAX_COMPARED])
    return features.take(rows), [f"{MAX_COMPARED} of {n} {noun}s without a label were drawn and compared (seed {seed})"]


def _labeled(cache: FeatureCache) -> NDArray[np.float32]:
    """Clean penultimate features of all labeled samples, (m, d)."""
    parts = [cache.features(split) for split in SPLITS if split != UNLABELED and len(cache.readable_rows(split))]
    d = cache.features(UNLABELED).x.shape[-1]
    return np.concatenate(
        [np.empty((0, d), np.float32), *(np.asarray(part.lazy_view(0)[:], np.float32) for part in parts)]
    )


def _reason(count: int, guess: Guess | None, noun: str) -> str:
    """Why a sample is suggested. count : see `Suggestion.resembling`."""
    others = count - 1
    like = f"like {plural(others, f'other {noun}')}" if others > 0 else "unlike the others"
    if guess is None:
        return f"typical: {like}" if others > 0 else like
    if guess.margin < _DOUBTFUL:
        return f"{guess.label} ({guess.probability:.0%}) or {guess.second} ({guess.second_probability:.0%}): {like}"
    return f"probably {guess.label} ({guess.probability:.0%}): {like}"


def _text(manifest: Manifest | None, name: str) -> str | None:
    if manifest is None:
        return None
    from featcache.analysis.suggestions.label_table import text_of

    return text_of(manifest, name)
