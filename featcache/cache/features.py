"""`Features`: the arrays that heads are trained on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from featcache.cache.lazy_arrays import BLOCK_BYTES, ConcatenatedFeatures, LazyRows
from featcache.core.rng import content_words
from featcache.core.samples import Labels, Samples
from featcache.errors import CacheIncompleteError

ViewUse = Literal["all", "mean", "clean"]


@dataclass(frozen=True)
class TrainingMatrix:
    """The rows that a head is trained on: v for each image, image by image.

    x : ndarray or Rows, shape (n * v, d). y : labels of n * v rows, see `featcache.core.labels`.
    groups : shape (n * v,), int64. Equal for all rows of an image, for images with equal bytes, and for those
        of one group, see `Samples.groups`.
    weights : shape (n * v,), float64. 1 / v, so that an image counts once however many rows it has.
    """

    x: NDArray[Any] | LazyRows
    y: Labels
    groups: NDArray[np.int64]
    weights: NDArray[np.float64]


@dataclass(frozen=True)
class Features:
    """Features of n samples.

    x : shape (n, v, d), float16 or float32. View 0 is the clean one. An ndarray, in memory or memory-mapped, or
        Rows of one.
    """

    x: NDArray[Any] | LazyRows
    samples: Samples

    @property
    def y(self) -> Labels:
        """Labels, shape (n,), int64; of images with several (n, c), uint8."""
        return self.samples.labels

    @property
    def views(self) -> int:
        """K, the number of augmented views."""
        return int(self.x.shape[1]) - 1

    def clean(self) -> NDArray[Any]:
        """The evaluation view, shape (n, d), of x's dtype: see `view`."""
        return self.view(0)

    def view(self, number: int) -> NDArray[Any]:
        """One view of every sample, shape (n, d), of x's dtype.

        Memory-mapped where x is, else a copy in memory: where samples were skipped, or of several layers.
        """
        return np.asarray(self.lazy_view(number))

    def lazy_view(self, number: int) -> NDArray[Any] | LazyRows:
        """The same as `LazyRows`: read where indexed, so that it may be larger than memory."""
        if not 0 <= number <= self.views:
            raise CacheIncompleteError(
                f"View {number} was asked for, but these features hold views 0 to {self.views}. "
                f"Extract with --views {number} or more."
            )
        return self.x.select(number) if isinstance(self.x, LazyRows) else self.x[:, number]

    def epoch_view(self, epoch: int) -> int:
        """The view that epoch 1, 2, ... trains on: view e in epoch e, from the first again after K."""
        return 1 + (epoch - 1) % self.views if self.views else 0

    def first(self, views: int) -> Features:
        """The same with K = `views` augmented views of each image."""
        if not 0 <= views <= self.views:
            raise CacheIncompleteError(
                f"{views} augmented views were asked for, but these features hold {self.views}. "
                f"Extract with --views {views}."
            )
        some = slice(views + 1)
        return Features(self.x.select(some) if isinstance(self.x, LazyRows) else self.x[:, some], self.samples)

    @property
    def joined(self) -> ConcatenatedFeatures | None:
        """The layers that lie side by side in x, where there are several."""
        return self.x.base if isinstance(self.x, LazyRows) and isinstance(self.x.base, ConcatenatedFeatures) else None

    def scaled(self, scale: NDArray[np.float32]) -> Features:
        """The same with each feature of several layers multiplied by its scale, shape (d,)."""
        if self.joined is None or not isinstance(self.x, LazyRows):
            raise AssertionError("these are of one layer")
        return Features(LazyRows(self.joined.scaled(scale), self.x.index), self.samples)

    def take(self, rows: NDArray[np.int64]) -> Features:
        """The features of these samples, in this order; read when they are asked for."""
        x = LazyRows(self.x.base, self.x.index[rows]) if isinstance(self.x, LazyRows) else LazyRows(self.x, rows)
        return Features(x, self.samples.take(rows))

    def flatten(self, use: ViewUse = "all") -> TrainingMatrix:
        """Rows to train on: all views, the mean of an image's views (float32), or its clean view."""
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
        step = max(1, BLOCK_BYTES // (4 * v * d))
        for start in range(0, n, step):
            mean[start : start + step] = self.x[start : start + step].mean(axis=1, dtype=np.float32)
        return mean
