"""`TrainingWorker`: computes sums over training rows on a machine of a cluster. It does not know Ray."""

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
from featcache.heads.tuning.path_selection import PathWeights
from featcache.heads.tuning.training_rows import LocalRows, Targets


@dataclass(frozen=True)
class ShardSpec:
    """What a member has: images, a range of those of train, and how their rows are found.

    cache : path or URL. content : digest of what must be there. scale : of features of several layers, or None.
    targets : of these images.
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
    """Has parts of train, by their numbers."""

    def __init__(self) -> None:
        keep_freed_memory()
        self._parts: dict[int, LocalRows] = {}

    def begin(self, number: int, share: ShardSpec) -> tuple[float, NDArray[Any]]:
        """The sum of the weights of a part's rows, and their mean. Raises ClusterError, CacheDamagedError."""
        host = platform.node()
        try:
            cache = FeatureCache.open(share.cache)
        except CacheError as error:
            raise ClusterError(
                f"{host} cannot open {share.cache}: {error} Put the cache where all machines see it under one path, or "
                "give it by URL."
            ) from error
        if content_of(cache) != share.content:
            raise ClusterError(f"{host} sees another cache as {share.cache} than this machine does.")
        mine = cache.features("train", share.layer, images=share.images)
        if share.scale is not None:
            mine = mine.scaled(share.scale)
        part = self._parts[number] = LocalRows(mine, share.use, share.targets, share.device)
        return float(part.problems.weight.sum()), part.problems.x.mean

    def centre(self, number: int, mean: NDArray[Any]) -> NDArray[np.float64]:
        """Take the mean of all rows from its own, before any of what follows; see `TrainRows.squares`."""
        self._parts[number].problems.x.recentre(mean)
        return self._parts[number].squares

    def one_pass(
        self, number: int, theta: NDArray[Any], which: NDArray[np.int64], totals: NDArray[np.float64], curved: bool
    ) -> tuple[NDArray[np.float64], NDArray[Any], NDArray[np.float64]]:
        """Losses, gradients and, if `curved`, curvatures, see `numpy_pass`."""
        curvature = np.zeros(theta.shape[:2])
        return (*self._parts[number].one_pass(theta, which, totals, curvature if curved else None), curvature)

    def moments(self, number: int) -> list[SufficientStatistics]:
        """See `TrainRows`."""
        return self._parts[number].moments()

    def logits(self, number: int, layers: PathWeights) -> NDArray[np.float64]:
        """See `LeftOut`."""
        return self._parts[number].left_out.logits(layers)

    def take(self, number: int, rows: NDArray[np.int64]) -> NDArray[Any]:
        """See `Centred`."""
        return self._parts[number].problems.x.take(rows)


def content_of(cache: FeatureCache) -> str:
    """What must be the same wherever the cache is read."""
    return f"{cache.spec.digest()}:{cache.samples.digest()}"
