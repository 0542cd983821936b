"""`WorkerPool`: keeps as many workers running as the nodes of a Ray cluster have room for."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from time import monotonic
from typing import Any

from featcache.core import ray_cluster
from featcache.core.ray_cluster import MAX_WORKER_FAILURES, Cluster, failure_reason


@dataclass(eq=False)
class Worker:
    """A running worker.

    Parameters
    ----------
    actor : ray actor
    node : str
        Id of its node.
    cores : int
    """

    actor: Any
    node: str
    cores: int


class WorkerPool:
    """Keeps as many workers running as the nodes of a cluster have room for. Close it in the end.

    Parameters
    ----------
    cluster : Cluster
    kind : type
        Class of the actors.
    concurrency : int
        See `RayCluster.start_worker`.

    Raises
    ------
    MissingExtraError, ClusterError
        See `RayCluster`.
    """

    def __init__(self, cluster: Cluster, kind: type, concurrency: int = 1) -> None:
        self._cluster, self._kind, self._concurrency = ray_cluster.RayCluster(cluster), kind, concurrency
        self.ray = self._cluster.ray
        self.workers: list[Worker] = []
        self.total = 0
        """Number of workers that the available nodes have room for."""
        self.reason = ""
        """Why the last worker failed."""
        self._nodes: Collection[str] = ()  # available at the last check
        self._failures: Counter[str] = Counter()  # in a row, of each node
        self._checked_at = -math.inf

    def start_workers(self, interval_s: float = 0.0) -> list[Worker]:
        """Start the workers that are missing on the available nodes.

        Parameters
        ----------
        interval_s : float
            Do nothing where the nodes were checked less than so many seconds ago.

        Returns
        -------
        list of Worker
            Those that were started now.

        Raises
        ------
        ClusterError
            No node is left.
        """
        if monotonic() - self._checked_at < interval_s:
            return []
        self._checked_at = monotonic()
        excluded = [node for node, count in self._failures.items() if count >= MAX_WORKER_FAILURES]
        nodes = self._cluster.available_nodes(excluded, self.reason)
        self._nodes, self.total = nodes.keys(), sum(workers for workers, _ in nodes.values())
        running = Counter(worker.node for worker in self.workers)
        started = []
        for node, (workers, cores) in nodes.items():
            for _ in range(workers - running[node]):
                actor = self._cluster.start_worker(self._kind, node, cores, self._concurrency)
                started.append(Worker(actor, node, cores))
        self.workers += started
        return started

    @property
    def reachable(self) -> list[Worker]:
        """The workers on nodes that were available at the last check."""
        return [worker for worker in self.workers if worker.node in self._nodes]

    def note_if_waiting(self, references: Sequence[Any], on_note: Callable[[str], None]) -> None:
        """Wait for the first of the references, and report where that takes long."""
        if not self.ray.wait(list(references), timeout=ray_cluster.STARTUP_WARNING_S)[0]:
            on_note(ray_cluster.WAITING_MESSAGE)

    def handle_failure(self, worker: Worker, error: Exception) -> str:
        """Remove a worker that has failed. Returns the reason."""
        if worker not in self.workers:  # the failure of its other work was handled
            return self.reason
        self.workers.remove(worker)
        reason = failure_reason(error)
        if not self.reason or "died unexpectedly" not in reason:  # Ray's text where the reason came too late
            self.reason = reason
        self._failures[worker.node] += 1
        return self.reason

    def confirm(self, worker: Worker) -> None:
        """Record that a worker works: its node is not given up for earlier failures."""
        self._failures[worker.node] = 0

    def close(self) -> None:
        """Stop the workers and disconnect."""
        for worker in self.workers:
            self._cluster.stop_worker(worker.actor)
        self.workers = []
        self._cluster.close()
