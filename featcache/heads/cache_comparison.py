"""`CacheComparison`: which of several caches a head uses, and what each network is worth."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from featcache._utils.results import Result
from featcache.cache.features import Features
from featcache.core.rng import content_words
from featcache.heads.held_out import HeldOutPredictions
from featcache.metrics.classification import Accuracy
from featcache.metrics.multilabel import LabelAccuracy
from featcache.metrics.significance import PairedDifference, paired_difference


@dataclass(frozen=True)
class Gain(Result):
    """What one head is better than another on the same held-out training samples.

    Attributes
    ----------
    accuracy : PairedDifference
        Of the accuracies, with its 95 % interval.
    log_loss : float
        By which the log-loss is lower, in nats.
    log_loss_error : float
        The standard error of that difference; samples of one group, and copies, count as one.
    """

    accuracy: PairedDifference
    log_loss: float
    log_loss_error: float

    @classmethod
    def between(cls, train: Features, first: HeldOutPredictions, second: HeldOutPredictions) -> Gain:
        """Of the second over the first, on the samples of train that were held out for both."""
        _, in_first, in_second = np.intersect1d(first.rows, second.rows, return_indices=True)
        rows = first.rows[in_first]
        y, groups = train.y[rows], content_words(train.samples.split_keys[rows])
        pair = [HeldOutPredictions(rows, predictions.predicted[index], predictions.probabilities[index])
                for predictions, index in ((first, in_first), (second, in_second))]  # fmt: skip
        right = [predictions.right(y)[None] for predictions in pair]
        losses = pair[0].log_losses(y) - pair[1].log_losses(y)
        _, group = np.unique(groups, return_inverse=True)
        sums = np.bincount(group, losses) * (group.max() + 1) / len(losses)
        return cls(paired_difference(*right), float(losses.mean()), float(sums.std() / np.sqrt(len(sums))))

    @property
    def is_clear(self) -> bool:
        """Whether the log-loss is lower by more than one standard error, and the accuracy is not lower."""
        return self.log_loss > self.log_loss_error and self.accuracy.difference >= 0

    def __str__(self) -> str:
        accuracy = self.accuracy
        return (
            f"{100 * accuracy.difference:+.1f} points of accuracy (95 % interval {100 * accuracy.low:+.1f} to "
            f"{100 * accuracy.high:+.1f}) and {-self.log_loss:+.4f} of log-loss (standard error "
            f"{self.log_loss_error:.4f})"
        )


@dataclass(frozen=True)
class CacheCandidate(Result):
    """A head on one cache, or on several.

    Attributes
    ----------
    caches : tuple of str
        Their names; the last one is new, where others were chosen before.
    head : str
        Name of the head.
    layers : tuple of str
        The layers that it uses.
    accuracy : Accuracy or LabelAccuracy
        Cross-validated, on train.
    extract_s : float, optional
        Seconds that all networks took for 1,000 views, in the extraction of the caches. None: a cache does not say.
    gain : Gain, optional
        Over the caches without the last one; None for a single cache.
    """

    caches: tuple[str, ...]
    head: str
    layers: tuple[str, ...]
    accuracy: Accuracy | LabelAccuracy
    extract_s: float | None
    gain: Gain | None = None

    @property
    def name(self) -> str:
        """The caches as text."""
        return " + ".join(self.caches)


@dataclass(frozen=True)
class CacheComparison(Result):
    """The result of a comparison of caches.

    Attributes
    ----------
    candidates : tuple of CacheCandidate
        Each cache alone, then the best one with others.
    chosen : tuple of str
        The caches that the head uses.
    samples : int
        Training samples that were held out in turn.
    modality : str
        What the samples are, such as "image".
    is_given : bool
        Whether the user named the layers, so that all are used.
    """

    candidates: tuple[CacheCandidate, ...]
    chosen: tuple[str, ...]
    samples: int
    modality: str = "image"
    is_given: bool = False

    def __str__(self) -> str:
        width = max(len("caches"), *(len(candidate.name) for candidate in self.candidates))
        lines = [
            f"caches, by cross-validation on {self.samples} training samples:",
            f"  {'caches':{width}}  accuracy  95 % interval     log-loss  s per 1,000 views",
        ]
        for candidate in self.candidates:
            accuracy = candidate.accuracy
            loss = "none  " if accuracy.log_loss is None else f"{accuracy.log_loss:.4f}"
            seconds = "unknown" if candidate.extract_s is None else f"{candidate.extract_s:.1f}"
            interval = f"{accuracy.accuracy_low:.4f} to {accuracy.accuracy_high:.4f}"
            lines.append(f"  {candidate.name:{width}}  {accuracy.accuracy:.4f}    {interval}  {loss}    {seconds}")
        seconds_alone = {item.caches: item.extract_s for item in self.candidates}
        for candidate in self.candidates:
            if candidate.gain:
                added = candidate.caches[-1]
                added_s = seconds_alone[added,]
                price = "" if added_s is None else f" for {added_s:.1f} s per 1,000 views"
                is_worth = "worth it" if candidate.gain.is_clear else "not worth it"
                lines.append(f"{added} adds {candidate.gain}{price}: {is_worth}")
        lines.append(self._conclusion())
        return "\n".join(lines)

    def _conclusion(self) -> str:
        names = " and ".join(self.chosen)
        if self.is_given:
            return f"the head uses {names}, as the layers were named"
        if len(self.chosen) == 1:
            return f"chosen: {names} alone; the head needs one network"
        return f"chosen: {names}; the head needs {len(self.chosen)} networks"
