"""`Features`: the arrays that heads are trained on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from featcache.blocks import Rows
from featcache.errors import CacheIncompleteError
from featcache.samples import Samples


@dataclass(frozen=True)
class FlatFeatures:
    """All views as rows of their own.

    x : ndarray or Rows, shape (n * v, d). y : shape (n * v,), int64.
    groups : shape (n * v,), int64. Equal for all views of an image and for images with equal bytes.
    weights : shape (n * v,), float64. 1 / v, so that an image counts once however many views it has.
    """

    x: NDArray[Any] | Rows
    y: NDArray[np.int64]
    groups: NDArray[np.int64]
    weights: NDArray[np.float64]


@dataclass(frozen=True)
class Features:
    """Features of n samples.

    x : shape (n, v, d), float16 or float32. View 0 is the clean one. An ndarray, in memory or memory-mapped, or
        Rows of one.
    """

    x: NDArray[Any] | Rows
    samples: Samples

    @property
    def y(self) -> NDArray[np.int64]:
        """Labels, shape (n,), int64."""
        return self.samples.labels

    @property
    def views(self) -> int:
        """K, the number of augmented views."""
        return int(self.x.shape[1]) - 1

    def clean(self) -> NDArray[Any] | Rows:
        """The evaluation view, shape (n, d)."""
        return self.view(0)

    def view(self, number: int) -> NDArray[Any] | Rows:
        """One view of every sample, shape (n, d)."""
        if not 0 <= number <= self.views:
            raise CacheIncompleteError(
                f"View {number} was asked for, but these features hold views 0 to {self.views}. "
                f"Extract with --views {number} or more."
            )
        return self.x.view(number) if isinstance(self.x, Rows) else self.x[:, number]

    def epoch_view(self, epoch: int) -> int:
        """The view that epoch 1, 2, ... trains on: view e in epoch e, from the first again after K."""
        return 1 + (epoch - 1) % self.views if self.views else 0

    def flatten(self) -> FlatFeatures:
        """All views as rows, image by image."""
        n, v, d = self.x.shape
        _, groups = np.unique(self.samples.sha256, axis=0, return_inverse=True)
        return FlatFeatures(
            self.x.flatten_views() if isinstance(self.x, Rows) else self.x.reshape(n * v, d),
            np.repeat(self.y, v),
            np.repeat(groups.reshape(-1).astype(np.int64), v),
            np.full(n * v, 1.0 / v),
        )
