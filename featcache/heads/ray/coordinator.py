"""`TrainingCluster`: machines of a Ray cluster that share the rows of train, and work out a tuned head's sums together.

Each has some of the images, whose rows it reads from the cache by itself. Sums are what travels: losses, gradients and
moments of its rows; and logits of the images that are left out. What a machine had that is lost, another one takes.
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
from threadpoolctl import threadpool_limits

from featcache._utils.remote import is_url
from featcache.cache.feature_cache import FeatureCache
from featcache.cache.features import Features, ViewUse
from featcache.cache.lazy_arrays import CenteredMatrix
from featcache.core.ray_cluster import (
    MAX_WORKER_FAILURES,
    Cluster,
    failure_reason,
    unwrap_ray_error,
)
from featcache.core.worker_pool import Worker, WorkerPool
from featcache.errors import ClusterError
from featcache.heads.ray.worker import ShardSpec, TrainingWorker, content_of
from featcache.heads.solvers.closed_form import SufficientStatistics
from featcache.heads.solvers.softmax import CVSoftmaxProblem
from featcache.heads.tuning.path_selection import HeldOut, OutOfTimeError, PathWeights
from featcache.heads.tuning.training_rows import Targets


class TrainingCluster:
    """See above. `close` it in the end.

    Parameters
    ----------
    cluster : its machines; those that join it later are not asked. cache : which all of them see under one path, or
    at a URL, from which each copies it once. on_note : called where workers are waited for.
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
        self._shares: list[ShardSpec] = []
        self._owners: list[Worker] = []  # of each share
        self._deaths: list[int] = []  # of its owners in a row
        self._mean: NDArray[Any] | None = None
        self._limits = ExitStack()

    def share(self, features: Features, use: ViewUse, targets: Targets) -> DistributedRows:
        """Let each worker take as many images of train. Raises ClusterError, MissingExtraError."""
        content = content_of(FeatureCache.open(self._cache))
        self._pool.start_workers()
        workers = self._pool.workers
        if self._on_note:
            self._pool.note_if_waiting([worker.actor.__ray_ready__.remote() for worker in workers], self._on_note)
        # OpenBLAS's threads spin for a tenth of a second after each product: a core that a worker on this machine needs
        self._limits.enter_context(threadpool_limits(1, "blas"))
        n, parts = len(targets.labels), min(len(workers), len(targets.labels))
        scale = features.concatenated.scale if features.concatenated else None
        device = "cuda" if self._cluster.gpus_per_worker else "cpu"
        for first, last in pairwise(n * number // parts for number in range(parts + 1)):
            images = slice(first, last)
            self._shares.append(
                ShardSpec(self._cache, content, self._layer, scale, use, images, targets.of(images), device)
            )
        self._owners, self._deaths = workers[:parts], [0] * parts
        weights, means = zip(*self.ask("begin", each=self._shares), strict=True)
        self._mean = np.average(means, axis=0, weights=weights).astype(means[0].dtype)
        squares = np.sum(self.ask("centre", self._mean), axis=0)
        views = 1 + features.views if use == "all" else 1
        ends = [share.images.stop * views for share in self._shares]
        return DistributedRows(self, _Apart(self, ends, self._mean), squares, targets, views)

    def ask(self, method: str, *given: Any, each: Sequence[Any] | None = None) -> list[Any]:
        """What this method of `TrainingWorker` gives for each part, in their order: sums do not depend on who is late.

        given : its arguments. each : a further one, the first, of each part.
        """
        shared = tuple(map(self._ray.put, given))  # travels once to each machine
        asked = [(method, *((each[number],) if each else ()), *shared) for number in range(len(self._shares))]
        calls = [self._call(number, *one) for number, one in enumerate(asked)]
        return [self._answer(number, *one) for number, one in enumerate(zip(calls, asked, strict=True))]

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

    def _call(self, number: int, method: str, *given: Any) -> Any:
        return getattr(self._owners[number].actor, method).remote(number, *given)

    def _answer(self, number: int, call: Any, asked: tuple[Any, ...]) -> Any:
        """What comes of a call, of this owner of a part or, where it dies, of the next one."""
        calls = [call]
        while True:
            try:
                found = self._ray.get(calls)[-1]
            except self._ray.exceptions.RayTaskError as error:
                raise unwrap_ray_error(error) from None
            except self._ray.exceptions.RayError as error:
                self._replace(number, error)
                before = [] if self._mean is None else [("begin", self._shares[number]), ("centre", self._mean)]
                calls = [self._call(number, *one) for one in (*before, asked)]
            else:
                self._deaths[number] = 0
                self._pool.confirm(self._owners[number])
                return found

    def _replace(self, number: int, error: Exception) -> None:
        """Give a part whose owner has died to a new one, or to the one that has the fewest."""
        why = failure_reason(error)
        self._deaths[number] += 1
        if self._deaths[number] == MAX_WORKER_FAILURES:
            raise ClusterError(
                f"{MAX_WORKER_FAILURES} workers died in a row over the same part of train, the last of: "
                f"{why.rstrip('.')}. Have "
                "they memory for it? Use more machines, or fewer workers a machine (--cpus-per-worker)."
            ) from error
        self._pool.handle_failure(self._owners[number], error)
        self._pool.start_workers()
        self._owners[number] = min(self._pool.reachable, key=self._owners.count)


class DistributedRows:
    """`TrainRows` that a team has."""

    def __init__(
        self, team: TrainingCluster, x: _Apart, squares: NDArray[np.float64], of_images: Targets, views: int
    ) -> None:
        labels, weight, fold, k, outputs = of_images.spread(views)
        self.problems = CVSoftmaxProblem(x, labels, weight, fold, k, outputs)
        self.left_out = HeldOut(of_images.labels, of_images.fold, of_images.weight, self._logits)
        self.squares = squares
        self._team = team

    def one_pass(
        self,
        theta: NDArray[Any],
        which: NDArray[np.int64],
        totals: NDArray[np.float64],
        curvature: NDArray[np.float64] | None,
    ) -> tuple[NDArray[np.float64], NDArray[Any]]:
        """See `TrainRows`."""
        losses, gradients, curvatures = zip(
            *self._team.ask("one_pass", theta, which, totals, curvature is not None), strict=True
        )
        if curvature is not None:
            curvature += np.sum(curvatures, axis=0)
        return np.sum(losses, axis=0), np.sum(gradients, axis=0)

    def moments(self, stop: Callable[[], bool] = lambda: False) -> list[SufficientStatistics]:
        """See `TrainRows`; `stop` is asked once."""
        if stop():
            raise OutOfTimeError
        return [
            SufficientStatistics(*(np.sum(arrays, axis=0) for arrays in zip(*problem, strict=True)))
            for problem in zip(*self._team.ask("moments"), strict=True)
        ]

    def _logits(self, layers: PathWeights) -> NDArray[np.float64]:
        return np.concatenate(self._team.ask("logits", layers))


class _Apart(CenteredMatrix):
    """Rows that the members have: some can be fetched, but none go through them here.

    ends : the rows before the end of each part.
    """

    def __init__(self, team: TrainingCluster, ends: Sequence[int], mean: NDArray[Any]) -> None:
        self._team, self._ends, self.mean = team, ends, mean

    def __iter__(self) -> Iterator[tuple[slice, NDArray[Any]]]:
        raise AssertionError("their sums are worked out where they are")

    @property
    def shape(self) -> tuple[int, int]:
        """(n, d)."""
        return self._ends[-1], len(self.mean)

    def take(self, rows: NDArray[np.int64]) -> NDArray[Any]:
        """See `CenteredMatrix`; rows : ascending."""
        parts = np.split(rows, np.searchsorted(rows, self._ends[:-1]))
        starts = (0, *self._ends[:-1])
        return np.concatenate(
            self._team.ask("take", each=[part - start for part, start in zip(parts, starts, strict=True)])
        )
