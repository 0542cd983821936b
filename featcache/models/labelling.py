"""`Labelling`: from probabilities to the labels of predictions, with sets of labels and samples of no known class."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from featcache.cache.lazy_arrays import LazyRows
from featcache.core.model_card import ModelCard
from featcache.core.model_folder import locate, reading
from featcache.core.samples import format_labels
from featcache.errors import HeadError
from featcache.heads.held_out import FILE, HeldOutScores
from featcache.heads.novelty import KNOWN, NoveltyScore
from featcache.heads.solvers.closed_form import MAX_WIDTH
from featcache.models.defaults import TOP_CLASSES


class Labels(NamedTuple):
    """What a model says of one sample; see the fields of `Prediction` with the same names."""

    label: str | None
    top: tuple[tuple[str, float | None], ...]
    label_set: tuple[str, ...] | None = None
    is_unknown: bool | None = None


@dataclass(frozen=True)
class Labelling:
    """How predictions name classes.

    Parameters
    ----------
    classes : tuple of str, length c
        Names of the classes.
    top : int, default 5
        How many classes to name.
    set_threshold : float, optional
        The least probability of a label in a set. None: no sets.
    novelty : NoveltyScore, optional
        What gives samples of unknown classes low scores. None: no sample is refused.
    least_novelty : float
        The score below which a sample is unknown.
    """

    classes: tuple[str, ...]
    top: int = TOP_CLASSES
    set_threshold: float | None = None
    novelty: NoveltyScore | None = None
    least_novelty: float = -np.inf

    @classmethod
    def of_model(
        cls, path: str | os.PathLike[str], card: ModelCard, top: int, coverage: float | None, unknown: bool, tta: int
    ) -> Labelling:
        """With the limits that the scores of held-out samples give.

        Parameters
        ----------
        path : path
            The folder of the model.
        card : ModelCard
            Of the model.
        top : int
            How many classes to name.
        coverage : float, optional
            How often a set must hold the true label, above 0 and below 1. None: no sets.
        unknown : bool
            Whether samples that are like none of the classes are refused.
        tta : int
            How many augmented views are averaged with the clean one.

        Raises
        ------
        HeadError
            The model has no such scores, or too few, or gives a sample several labels.
        """
        if coverage is None and not unknown:
            return cls(card.classes, top)
        if card.multilabel:
            raise HeadError("coverage and unknown are for models that give a sample one label")
        if card.kind == "network":
            raise HeadError(
                f"{path} is a fine-tuned network, which has no scores of held-out samples: coverage and unknown are "
                "for heads of `featcache fit-head`"
            )
        if tta:
            raise HeadError(
                "coverage and unknown are for predictions of the clean view, as the scores of held-out samples are: "
                "average no augmented views (--tta 0)"
            )
        folder = Path(path)
        with reading(folder):
            scores = HeldOutScores.load(folder, locate(folder, FILE))
        threshold = None
        if coverage is not None:
            threshold = scores.set_threshold(coverage)
            scores.check_enough(coverage, "coverage")
        if unknown:
            scores.check_enough(KNOWN, "unknown keeps a share of known samples of")
            if scores.novelty is None:
                raise HeadError(
                    f"{path} cannot tell unknown samples: it was fitted to more than {MAX_WIDTH:,} features, or before "
                    "heads had a novelty score. Fit it again, to fewer layers (--layer penultimate)."
                )
            return cls(card.classes, top, threshold, scores.novelty.score, scores.novelty.threshold)
        return cls(card.classes, top, threshold)

    def apply(
        self,
        predicted: NDArray[np.int64],
        probabilities: NDArray[np.float64] | None,
        x: NDArray[Any] | LazyRows | None = None,
    ) -> list[Labels]:
        """The labels of n samples.

        Parameters
        ----------
        predicted : ndarray, shape (n,), or (n, c) with several labels
            Class indices; with several labels 0 or 1.
        probabilities : ndarray, shape (n, c), or None
            Of all classes; None for classifiers without probabilities.
        x : ndarray or LazyRows, shape (n, d), optional
            Features, by which samples are refused; None for networks, which refuse none.
        """
        labels = format_labels(predicted, self.classes)
        if probabilities is None:
            return [Labels(label, ((label, None),)) for label in labels]
        order = np.argsort(-probabilities, axis=1, kind="stable")
        names = np.array(self.classes, object)[order].tolist()
        values = np.take_along_axis(probabilities, order, axis=1)
        tops = [
            tuple(zip(best[: self.top], row[: self.top], strict=True))
            for best, row in zip(names, values.tolist(), strict=True)
        ]
        found = [Labels(label, top) for label, top in zip(labels, tops, strict=True)]
        if self.set_threshold is not None:
            sizes = (values >= self.set_threshold).sum(axis=1).tolist()
            found = [one._replace(label_set=tuple(best[:n])) for one, best, n in zip(found, names, sizes, strict=True)]
        if self.novelty is not None and x is not None:
            unknown = self.novelty.score_samples(x) < self.least_novelty
            found = [
                one._replace(label=None if is_unknown else one.label, is_unknown=is_unknown)
                for one, is_unknown in zip(found, unknown.tolist(), strict=True)
            ]
        return found
