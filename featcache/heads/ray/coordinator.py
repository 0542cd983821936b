"""`TrainingCluster`: machines of a Ray cluster that share the training rows, and compute the sums of tuned heads.

Each machine reads the rows of some images from the cache. Only sums travel: losses, gradients and statistics of its
rows; and logits of held-out images. If a machine is lost, another one takes its images.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from functools import cached_property
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from featcache._utils.remote import is_url
from featcache._utils.threads import blas_threads
from featcache.cache.feature_cache import FeatureCache
from featcache.cache.features import Features, ViewUse
from featcache.cache.lazy_arrays import CenteredMatrix
from featcache.core.ray_cluster import MAX_WORKER_FAILURES, Cluster, failure_reason, unwrap_ray_error
from featcache.core.worker_pool import Worker, WorkerPool
from featcache.errors import ClusterError
from featcache.heads.ray.worker import ShardSpec, TrainingWorker, content_digest
from featcache.heads.solvers.closed_form import SufficientStatistics
from featcache.heads.solvers.path import OutOfTimeError, PathWeights, Stop, never
from featcache.heads.tuning.path_selection import HeldOut
from featcache.heads.tuning.training_rows import Targets


class TrainingCluster:
    """Workers on the machines of a cluster. `close` stops them.

    Parameters
    ----------
    cluster : Cluster
        Its machines; those that join it later are not used.
    cache : path or URL
        All machines see the cache under this path, or copy it once from this URL.
    layer : str
        The layer, or layers, of the features.
    on_note : callable, optional
        Called if the workers are waited for.
    """

    def __init__(
        self,
        cluster: Cluster,
        cache: str | os.PathLike[str],
        layer: str,
        on_note: Callable[[str], None] | None = None,
    ) -> None:
        self._cluster, self._layer, self._on_note = cluster, layer, on_note
        self._cache = os.fspath(cache) if is_url(cache) else os.path.abspath(cache)
        self._opened: WorkerPool | None = None
        self._shards: list[ShardSpec] = []
        self._owners: list[Worker] = []  # of each shard
        self._failures: list[int] = []  # of its owners in a row
        self._mean: NDArray[Any] | None = None
        self._limits = ExitStack()

    def distribute(self, features: Features, use: ViewUse, targets: Targets) -> DistributedRows:
        """Give each worker the same number of training images. Raises ClusterError, MissingExtraError."""
        content = content_digest(FeatureCache.open(self._cache))
        self._pool.start_workers()
        workers = self._pool.workers
        if self._on_note:
            self._pool.note_if_waiting([worker.actor.__ray_ready__.remote() for worker in workers], self._on_note)
        self._limits.enter_context(blas_threads(1))  # a local worker needs the other cores
        n, shards = len(targets.labels), min(len(workers), len(targets.labels))
        scale = features.concatenated.scale if features.concatenated else None
        device = "cuda" if self._cluster.gpus_per_worker else "cpu"
        for first, last in pairwise(n * number // shards for number in range(shards + 1)):
            images = slice(first, last)
            self._shards.append(
                ShardSpec(self._cache, content, self._layer, scale, use, images, targets.take(images), device)
            )
        self._owners, self._failures = workers[:shards], [0] * shards
        weights, means = zip(*self.call_all("load", each=self._shards), strict=True)
        self._mean = np.average(means, axis=0, weights=weights).astype(means[0].dtype)
        squares = np.sum(self.call_all("recenter", self._mean), axis=0)
        views = 1 + features.views if use == "all" else 1
        ends = [shard.images.stop * views for shard in self._shards]
        return DistributedRows(self, _RemoteMatrix(self, ends, self._mean), squares, targets, views)

    def call_all(self, method: str, *arguments: Any, each: Sequence[Any] | None = None) -> list[Any]:
        """Results of a method of `TrainingWorker` for each shard, in their order, whichever worker is first.

        arguments : of the method. each : one more argument for each shard, before the others.
        """
        shared = tuple(map(self._ray.put, arguments))  # is sent once to each machine
        requests = [(method, *((each[number],) if each else ()), *shared) for number in range(len(self._shards))]
        calls = [self._call(number, *request) for number, request in enumerate(requests)]
        return [
            self._result(number, call, request)
            for number, (call, request) in enumerate(zip(calls, requests, strict=True))
        ]

    def close(self) -> None:
        """Stop the workers."""
        self._limits.close()
        if self._opened:
            self._opened.close()

    @property
    def _ray(self) -> Any:
        return self._pool.ray

    @cached_property
    def _pool(self) -> WorkerPool:
        self._opened = WorkerPool(self._cluster, TrainingWorker)
        return self._opened

    def _call(self, number: int, method: str, *arguments: Any) -> Any:
        return getattr(self._owners[number].actor, method).remote(number, *arguments)

    def _result(self, number: int, call: Any, request: tuple[Any, ...]) -> Any:
        """The result of a call; if the owner of the shard dies, that of the same call to its next owner."""
        calls = [call]
        while True:
            try:
                result = self._ray.get(calls)[-1]
            except self._ray.exceptions.RayTaskError as error:
                raise unwrap_ray_error(error) from None
            except self._ray.exceptions.RayError as error:
                self._replace(number, error)
                before = [] if self._mean is None else [("load", self._shards[number]), ("recenter", self._mean)]
                calls = [self._call(number, *earlier) for earlier in (*before, request)]
            else:
                self._failures[number] = 0
                self._pool.confirm(self._owners[number])
                return result

    def _replace(self, number: int, error: Exception) -> None:
        """Give the shard of a worker that died to a new worker, or to the one with the fewest shards."""
        reason = failure_reason(error)
        self._failures[number] += 1
        if self._failures[number] == MAX_WORKER_FAILURES:
            raise ClusterError(
                f"{MAX_WORKER_FAILURES} workers died in a row over the same part of train, the last of: "
                f"{reason.rstrip('.')}. They may need more memory: use more machines, or fewer workers a machine "
                "(--cpus-per-worker)."
            ) from error
        self._pool.handle_failure(self._owners[number], error)
        self._pool.start_workers()
        self._owners[number] = min(self._pool.reachable, key=self._owners.count)


class DistributedRows:
    """`TrainingRows` of the workers of a cluster."""

    def __init__(
        self,
        cluster: TrainingCluster,
        x: _RemoteMatrix,
        squares: NDArray[np.float64],
        targets: Targets,
        views: int,
    ) -> None:
        self.problem = targets.repeat_views(views).problem(x)
        self.held_out = HeldOut(targets.labels, targets.fold, targets.held_out_weight, self._logits)
        self.squares = squares
        self._cluster = cluster

    def loss_and_gradient(
        self,
        theta: NDArray[Any],
        problem_ids: NDArray[np.int64],
        totals: NDArray[np.float64],
        curvature: NDArray[np.float64] | None,
    ) -> tuple[NDArray[np.float64], NDArray[Any]]:
        """See `TrainingRows`."""
        losses, gradients, curvatures = zip(
            *self._cluster.call_all("loss_and_gradient", theta, problem_ids, totals, curvature is not None), strict=True
        )
        if curvature is not None:
            curvature += np.sum(curvatures, axis=0)
        return np.sum(losses, axis=0), np.sum(gradients, axis=0)

    def statistics(self, stop: Stop = never) -> list[SufficientStatistics]:
        """See `TrainingRows`; `stop` is called once."""
        if stop():
            raise OutOfTimeError
        return [
            SufficientStatistics(*(np.sum(arrays, axis=0) for arrays in zip(*problem, strict=True)))
            for problem in zip(*self._cluster.call_all("statistics"), strict=True)
        ]

    def _logits(self, weights: PathWeights) -> NDArray[np.float64]:
        return np.concatenate(self._cluster.call_all("logits", weights))


class _RemoteMatrix(CenteredMatrix):
    """Rows that the workers hold. Some can be fetched; iterating over all of them is not supported.

    ends : the number of rows up to the end of each shard.
    """

    def __init__(self, cluster: TrainingCluster, ends: Sequence[int], mean: NDArray[Any]) -> None:
        self._cluster, self._ends, self.mean = cluster, ends, mean

    def __iter__(self) -> Iterator[tuple[slice, NDArray[Any]]]:
        raise AssertionError("sums over these rows are computed by the workers")

    @property
    def shape(self) -> tuple[int, int]:
        """(n, d)."""
        return self._ends[-1], len(self.mean)

    def take(self, rows: NDArray[np.int64]) -> NDArray[Any]:
        """See `CenteredMatrix`; rows : ascending."""
        shards = np.split(rows, np.searchsorted(rows, self._ends[:-1]))
        starts = (0, *self._ends[:-1])
        offsets = [shard - start for shard, start in zip(shards, starts, strict=True)]
        return np.concatenate(self._cluster.call_all("take", each=offsets))
