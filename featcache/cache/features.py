"""`Features`: the arrays that heads are trained on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from featcache._utils.blockwise import iter_blocks
from featcache.cache.lazy_arrays import BLOCK_BYTES, ConcatenatedFeatures, LazyRows
from featcache.core.rng import content_words
from featcache.core.samples import Labels, Samples
from featcache.errors import CacheIncompleteError

ViewUse = Literal["all", "mean", "clean"]


@dataclass(frozen=True)
class TrainingMatrix:
    """The rows that a head is trained on: v for each sample, sample by sample.

    Attributes
    ----------
    x : ndarray or LazyRows, shape (n * v, d)
        Features.
    y : ndarray, shape (n * v,) or (n * v, c)
        Labels, see `featcache.core.samples.Labels`.
    groups : ndarray, shape (n * v,), int64
        Equal for all rows of a sample, for samples with equal bytes, and for samples of one group.
    weights : ndarray, shape (n * v,), float64
        1 / v, so that each sample has the same weight, whatever its number of rows.
    """

    x: NDArray[Any] | LazyRows
    y: Labels
    groups: NDArray[np.int64]
    weights: NDArray[np.float64]


@dataclass(frozen=True)
class Features:
    """Features of n samples, with their labels.

    `FeatureCache.features` makes one.

    Parameters
    ----------
    x : ndarray or LazyRows, shape (n, v, d), float16 or float32
        Features of v views. View 0 is the clean one; views 1 to K are augmented. In memory or memory-mapped.
    samples : Samples
        The n samples: ids, labels, splits and groups.

    Examples
    --------
    >>> import numpy as np
    >>> from featcache import FeatureCache
    >>> x = np.arange(24.0).reshape(12, 1, 2)
    >>> cache = FeatureCache.from_arrays(x, ["cat", "dog"] * 6, split=["train"] * 8 + ["val"] * 4)
    >>> train = cache.features("train")
    >>> train.x.shape, train.views, train.y.tolist()
    ((8, 1, 2), 0, [0, 1, 0, 1, 0, 1, 0, 1])
    """

    x: NDArray[Any] | LazyRows
    samples: Samples

    @property
    def y(self) -> Labels:
        """Labels, shape (n,), int64; of samples with several labels (n, c), uint8."""
        return self.samples.labels

    @property
    def views(self) -> int:
        """K, the number of augmented views."""
        return int(self.x.shape[1]) - 1

    def clean(self) -> NDArray[Any]:
        """The evaluation view, shape (n, d), of the dtype of x: see `view`."""
        return self.view(0)

    def view(self, number: int) -> NDArray[Any]:
        """One view of every sample.

        Parameters
        ----------
        number : int
            0 for the clean view, 1 to K for augmented views.

        Returns
        -------
        ndarray, shape (n, d)
            Of the dtype of x. Memory-mapped if x is; a copy in memory if samples were skipped or there are several
            layers.

        Raises
        ------
        CacheIncompleteError
            There is no such view.
        """
        return np.asarray(self.lazy_view(number))

    def lazy_view(self, number: int) -> NDArray[Any] | LazyRows:
        """`view`, but rows are read when they are indexed, so that the view may be larger than memory.

        Parameters
        ----------
        number : int
            0 is the clean view, 1 to K are the augmented ones.
        """
        if not 0 <= number <= self.views:
            raise CacheIncompleteError(
                f"View {number} was asked for, but these features hold views 0 to {self.views}. "
                f"Extract with --views {number} or more."
            )
        return self.x.select(number) if isinstance(self.x, LazyRows) else self.x[:, number]

    def view_for_epoch(self, epoch: int) -> int:
        """The view that epoch 1, 2, ... trains on: view e in epoch e, starting again at view 1 after view K.

        Parameters
        ----------
        epoch : int
            From 1.
        """
        return 1 + (epoch - 1) % self.views if self.views else 0

    def with_views(self, views: int) -> Features:
        """The same samples with only the first augmented views.

        Parameters
        ----------
        views : int
            K of the result, from 0 to the K of these features.

        Returns
        -------
        Features

        Raises
        ------
        CacheIncompleteError
            These features have fewer views.
        """
        if not 0 <= views <= self.views:
            raise CacheIncompleteError(
                f"{views} augmented views were asked for, but these features hold {self.views}. "
                f"Extract with --views {views}."
            )
        numbers = slice(views + 1)
        return Features(self.x.select(numbers) if isinstance(self.x, LazyRows) else self.x[:, numbers], self.samples)

    @property
    def concatenated(self) -> ConcatenatedFeatures | None:
        """The layers that lie side by side in x; None for a single layer."""
        return self.x.base if isinstance(self.x, LazyRows) and isinstance(self.x.base, ConcatenatedFeatures) else None

    def scaled(self, scale: NDArray[np.float32]) -> Features:
        """The same with each feature of several layers multiplied by its scale, shape (d,).

        Parameters
        ----------
        scale : ndarray of shape (d,), float32
            A factor for each feature.
        """
        if self.concatenated is None or not isinstance(self.x, LazyRows):
            raise AssertionError("only features of several layers are scaled")
        return Features(LazyRows(self.concatenated.scaled(scale), self.x.index), self.samples)

    def take_layers(self, layers: Sequence[int]) -> Features:
        """The features of some layers, by their numbers; of a single layer those that there are.

        Parameters
        ----------
        layers : sequence of int
            Numbers of the layers, from 0.
        """
        concatenated = self.concatenated
        if concatenated is None or not isinstance(self.x, LazyRows):
            return self
        return Features(LazyRows(concatenated.take_parts(layers), self.x.index), self.samples)

    def take(self, rows: NDArray[np.int64]) -> Features:
        """The features of these samples, in this order; they are read when they are indexed.

        Parameters
        ----------
        rows : ndarray of shape (m,), int64
            Row numbers.
        """
        x = LazyRows(self.x.base, self.x.index[rows]) if isinstance(self.x, LazyRows) else LazyRows(self.x, rows)
        return Features(x, self.samples.take(rows))

    def flatten(self, use: ViewUse = "all") -> TrainingMatrix:
        """The rows to train a head on.

        Parameters
        ----------
        use : {"all", "mean", "clean"}, default "all"
            All views, the mean of the views of a sample (float32), or its clean view.

        Returns
        -------
        TrainingMatrix
        """
        n, v, d = self.x.shape
        x: NDArray[Any] | LazyRows
        if use == "clean":
            x, v = self.lazy_view(0), 1
        elif use == "mean":
            x, v = self._mean(), 1
        else:
            x = self.x.flatten_views() if isinstance(self.x, LazyRows) else self.x.reshape(n * v, d)
        _, groups = np.unique(content_words(self.samples.split_keys), return_inverse=True)
        return TrainingMatrix(
            x,
            np.repeat(self.y, v, axis=0),
            np.repeat(groups.astype(np.int64), v),
            np.full(n * v, 1.0 / v),
        )

    def _mean(self) -> NDArray[np.float32]:
        n, v, d = self.x.shape
        mean = np.empty((n, d), np.float32)
        for rows in iter_blocks(n, 4 * v * d, BLOCK_BYTES):
            mean[rows] = self.x[rows].mean(axis=1, dtype=np.float32)
        return mean
