"""`HeldOutScores`: what heads gave training samples that they were not trained on.

`fit_head` saves them beside the head. With them `predict` gives sets of labels that hold the true one as often as
requested, and refuses samples that are like none of the classes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from featcache._utils.files import check_readable
from featcache.core.samples import Labels
from featcache.core.tensor_files import add_metadata, tensor_metadata
from featcache.errors import HeadError
from featcache.heads.novelty import KNOWN, NoveltyFigures, NoveltyScore
from featcache.metrics.conformal import least_samples, lower_quantile

FILE = "held-out.safetensors"
"""Its name in the folder of a head."""

_ROUNDING = 1e-9  # of probabilities and scores: heads that vote give many samples the same score, which all count


class HeldOutNovelty(NamedTuple):
    """A novelty score, and what it gives to the held-out samples.

    score : fitted to all training samples. scores : of the m held-out samples, each by a score that was fitted without
    it, ascending. figures : how well unknown samples are told; not saved here, but in the report.
    """

    score: NoveltyScore
    scores: NDArray[np.float64]
    figures: NoveltyFigures | None = None

    @property
    def threshold(self) -> float:
        """The score below which a sample counts as unknown: one in 20 of the known classes is below it."""
        return lower_quantile(self.scores, KNOWN) - _ROUNDING * max(1.0, float(np.abs(self.scores).max()))


class HeldOutPredictions(NamedTuple):
    """What heads predicted of m training samples that they were not trained on.

    rows : of the samples in train, shape (m,). predicted : class indices, shape (m,); with several labels 0 or 1, shape
    (m, c). probabilities : shape (m, c).
    """

    rows: NDArray[np.int64]
    predicted: NDArray[np.int64]
    probabilities: NDArray[np.float64]

    def right(self, y: Labels) -> NDArray[np.bool_]:
        """Which of the samples, whose labels are `y`, have the right label, or all labels right; shape (m,)."""
        right = self.predicted == y
        return right if y.ndim == 1 else right.all(axis=1)

    def log_losses(self, y: Labels) -> NDArray[np.float64]:
        """The log-loss of each sample in nats, with several labels the mean over the labels; shape (m,)."""
        if y.ndim == 1:
            of_label = self.probabilities[np.arange(len(y)), y]
        else:
            of_label = np.where(y, self.probabilities, 1 - self.probabilities)
        losses = -np.log(np.maximum(of_label, np.finfo(np.float64).tiny))
        return losses if y.ndim == 1 else losses.mean(axis=1)


@dataclass(frozen=True)
class HeldOutScores:
    """Scores of the clean views of m training samples, each from a head fitted without it.

    Parameters
    ----------
    probability : ndarray, shape (m,), float64
        Of the true label, ascending.
    novelty : HeldOutNovelty, optional
        How much the samples are like the classes; None: samples of unknown classes cannot be told.
    """

    probability: NDArray[np.float64]
    novelty: HeldOutNovelty | None = None

    @classmethod
    def from_probabilities(
        cls, probabilities: NDArray[np.float64], y: NDArray[np.int64], novelty: HeldOutNovelty | None = None
    ) -> HeldOutScores:
        """From the probabilities of all classes, shape (m, c), and the indices of the true labels, shape (m,)."""
        return cls(np.sort(probabilities[np.arange(len(y)), y]), novelty)

    def scaled(self, scale: NDArray[np.float32]) -> HeldOutScores:
        """The same for features that are not yet multiplied by `scale`, shape (d,)."""
        novelty = self.novelty and self.novelty._replace(score=self.novelty.score.scaled(scale))
        return replace(self, novelty=novelty)

    def set_threshold(self, coverage: float) -> float:
        """The least probability of a label in a set; see `featcache.metrics.conformal`.

        Parameters
        ----------
        coverage : float
            How often a set must hold the true label, above 0 and below 1.

        Returns
        -------
        float
            0 if there are too few samples: then each set has all labels.

        Raises
        ------
        HeadError
        """
        if not 0 < coverage < 1:
            raise HeadError(f"coverage is {coverage}; it must be above 0 and below 1, such as 0.95")
        return max(0.0, lower_quantile(self.probability, coverage) - _ROUNDING)

    def check_enough(self, share: float, option: str) -> None:
        """Raise HeadError if there are too few samples for a quantile, such as of 0.95."""
        least = least_samples(share)
        if len(self.probability) < least:
            raise HeadError(
                f"{option} {share:g} needs {least} training samples or more, and this head has "
                f"{len(self.probability)}: label more, or request less"
            )

    def to_bytes(self) -> bytes:
        """The content of `FILE`."""
        from safetensors.numpy import save

        arrays = {"probability": self.probability}
        if self.novelty:
            arrays |= {"novelty": self.novelty.scores, **vars(self.novelty.score)}
        content = save({name: np.ascontiguousarray(array) for name, array in arrays.items()})
        return add_metadata(content, tensor_metadata("scores of held-out training samples", "np"))

    @classmethod
    def load(cls, folder: Path, path: Path) -> HeldOutScores:
        """Load the scores of a saved head.

        Parameters
        ----------
        folder : Path
            That of the head, for messages.
        path : Path
            Where `FILE` is now.

        Raises
        ------
        HeadError
            It has none, or a damaged file.
        """
        if not path.is_file():
            raise HeadError(
                f"{folder} has no {FILE}: the scores of held-out samples are written by heads that choose their "
                "settings (auto, linear, ridge, lda, centroid, knn), and with --cv by others that have probabilities "
                "of their own. Fit the head again."
            )
        check_readable(path)
        try:
            from safetensors.numpy import load

            arrays = load(path.read_bytes())
            scores = cls(arrays["probability"], _load_novelty(arrays))
            for values in (scores.probability, *([scores.novelty.scores] if scores.novelty else [])):
                if values.ndim != 1 or not len(values) or not np.all(np.diff(values) >= 0):
                    raise ValueError("its scores are not in ascending order")
        except Exception as error:  # safetensors has its own errors; the user can do the same about all
            raise HeadError(f"{path} is damaged: {error}. Fit the head again.") from error
        return scores


def _load_novelty(arrays: Mapping[str, NDArray[Any]]) -> HeldOutNovelty | None:
    """Raises KeyError or ValueError if some arrays are missing, or contradict each other."""
    if "novelty" not in arrays:
        return None
    score = NoveltyScore(arrays["coef"], arrays["intercept"], arrays["products"], arrays["priors"])
    score.check()
    return HeldOutNovelty(score, arrays["novelty"])
