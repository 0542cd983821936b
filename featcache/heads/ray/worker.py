"""`TrainingWorker`: computes sums over training rows on a machine of a cluster. It does not import Ray."""

from __future__ import annotations

import platform
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from featcache._utils.environment import keep_freed_memory
from featcache.cache.feature_cache import FeatureCache
from featcache.cache.features import ViewUse
from featcache.errors import CacheError, ClusterError
from featcache.heads.solvers.closed_form import SufficientStatistics
from featcache.heads.solvers.path import PathWeights
from featcache.heads.tuning.training_rows import LocalRows, Targets


@dataclass(frozen=True)
class ShardSpec:
    """A range of the training images, and where to read their rows.

    cache : path or URL. content : digest that the cache must have, see `content_digest`. scale : factor of each feature
    of several layers, or None. images : the range. targets : of these images.
    """

    cache: str
    content: str
    layer: str
    scale: NDArray[np.float32] | None
    use: ViewUse
    images: slice
    targets: Targets
    device: str


class TrainingWorker:
    """Holds shards of the training images, by their numbers."""

    def __init__(self) -> None:
        keep_freed_memory()
        self._shards: dict[int, LocalRows] = {}

    def load(self, number: int, spec: ShardSpec) -> tuple[float, NDArray[Any]]:
        """Read a shard; returns the sum of the weights of its rows, and their mean.

        Raises ClusterError, CacheDamagedError.
        """
        host = platform.node()
        try:
            cache = FeatureCache.open(spec.cache)
        except CacheError as error:
            raise ClusterError(
                f"{host} cannot open {spec.cache}: {error} Put the cache where all machines see it under one path, or "
                "give it by URL."
            ) from error
        if content_digest(cache) != spec.content:
            raise ClusterError(
                f"the cache {spec.cache} of {host} differs from that of this machine. Give a path that is one file "
                "on all machines."
            )
        features = cache.features("train", spec.layer, images=spec.images)
        if spec.scale is not None:
            features = features.scaled(spec.scale)
        shard = self._shards[number] = LocalRows(features, spec.use, spec.targets, spec.device)
        return float(shard.problem.weight.sum()), shard.problem.x.mean

    def recenter(self, number: int, mean: NDArray[Any]) -> NDArray[np.float64]:
        """Subtract the mean of all rows instead of that of the shard; returns `TrainingRows.squares`."""
        self._shards[number].problem.x.recentre(mean)
        return self._shards[number].squares

    def loss_and_gradient(
        self,
        number: int,
        theta: NDArray[Any],
        problem_ids: NDArray[np.int64],
        totals: NDArray[np.float64],
        with_curvature: bool,
    ) -> tuple[NDArray[np.float64], NDArray[Any], NDArray[np.float64]]:
        """Losses, gradients and, `with_curvature`, curvatures; see `solvers.softmax.loss_and_gradient`."""
        curvature = np.zeros(theta.shape[:2])
        shard = self._shards[number]
        losses = shard.loss_and_gradient(theta, problem_ids, totals, curvature if with_curvature else None)
        return (*losses, curvature)

    def statistics(self, number: int) -> list[SufficientStatistics]:
        """See `TrainingRows`."""
        return self._shards[number].statistics()

    def logits(self, number: int, weights: PathWeights) -> NDArray[np.float64]:
        """See `HeldOut`."""
        return self._shards[number].held_out.logits(weights)

    def take(self, number: int, rows: NDArray[np.int64]) -> NDArray[Any]:
        """See `CenteredMatrix`."""
        return self._shards[number].problem.x.take(rows)


def content_digest(cache: FeatureCache) -> str:
    """A text that is equal for equal caches, wherever they are read."""
    return f"{cache.spec.digest()}:{cache.samples.digest()}"
