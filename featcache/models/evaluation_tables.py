"""`PredictionTable`: labels and predictions of evaluated samples as arrays; and the table of unknown classes."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from featcache._utils.formatting import csv_row
from featcache.core.model_card import ModelCard
from featcache.core.samples import SEPARATOR, SPLITS, Samples
from featcache.data.sources.base import SampleRecord
from featcache.models.prediction import Prediction


class PredictionTable:
    """Labels, predictions and probabilities, filled as predictions arrive. The predictions are not kept.

    Parameters
    ----------
    card : ModelCard
        Of the model.
    n : int
        The largest number of samples.
    """

    def __init__(self, card: ModelCard, n: int) -> None:
        self.entries: list[SampleRecord] = []
        self._card, c = card, len(card.classes)
        self._index = {name: number for number, name in enumerate(card.classes)}
        self._index_of_label = {normalize_name(name): number for number, name in enumerate(card.classes)}
        shape = (n, c) if card.multilabel else (n,)
        self._labels = np.zeros(shape, np.uint8 if card.multilabel else np.int64)
        self._predicted = np.zeros(shape, np.int64)
        self._probabilities: NDArray[np.float64] | None = np.zeros((n, c))

    def knows(self, name: str) -> bool:
        """Whether the model has a class of this name."""
        return normalize_name(name) in self._index_of_label

    def add(self, entry: SampleRecord, prediction: Prediction) -> None:
        """Add a sample of a class that the model has. Of several labels, unknown ones are left out."""
        row = len(self.entries)
        self.entries.append(entry)
        labels = [self._index_of_label[normalize_name(name)] for name in entry.classes if self.knows(name)]
        predicted = [self._index[name] for name in (prediction.label or "").split(SEPARATOR) if name]
        if self._card.multilabel:
            self._labels[row, labels] = 1
            self._predicted[row, predicted] = 1
        else:
            self._labels[row], self._predicted[row] = labels[0], self._index[prediction.label or ""]
        probabilities = np.array([probability for _, probability in prediction.top], np.float64)  # None becomes NaN
        if np.isnan(probabilities).any():
            self._probabilities = None
        if self._probabilities is not None:
            self._probabilities[row, [self._index[name] for name, _ in prediction.top]] = probabilities

    def arrays(self) -> tuple[Samples, NDArray[np.int64], NDArray[np.float64] | None]:
        """The samples, the predicted labels, and the probabilities, shape (n, c); None for heads that have none."""
        n = len(self.entries)
        split = np.array([SPLITS.index(entry.split or "val") for entry in self.entries], np.uint8)
        ids = tuple(entry.id for entry in self.entries)
        samples = Samples(ids, self._labels[:n], split, np.zeros((n, 32), np.uint8), self._card.classes)
        return samples, self._predicted[:n], None if self._probabilities is None else self._probabilities[:n]


def unknown_csv(pairs: Sequence[tuple[SampleRecord, Prediction]]) -> bytes:
    """unknown.csv: as val.csv, of samples of classes that the model lacks."""
    rows = [["image", "label", "predicted", "probability"]]
    for entry, prediction in pairs:
        probability = "" if prediction.probability is None else f"{prediction.probability:.6f}"
        rows.append([entry.id, SEPARATOR.join(entry.classes), prediction.label or "", probability])
    return "".join(map(csv_row, rows)).encode("utf-8", "surrogateescape")


def normalize_name(name: str) -> str:
    """A class name in Unicode's NFC, in which two spellings of the same characters are equal."""
    return unicodedata.normalize("NFC", name)
