"""`RayCluster`: the nodes of a Ray cluster. `WorkerPool`: keeps workers running on them."""

from __future__ import annotations

import math
import os
import socket
from collections import Counter
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from time import monotonic
from typing import Any

from featcache._utils.telemetry import decline_usage_data
from featcache.errors import ClusterError, FeatcacheError, MissingExtraError, first_line

MAX_WORKER_FAILURES = 3
"""After so many failures over the same work, or in a row on a node, the work or the node is given up."""

STARTUP_WARNING_S = 15.0
"""Seconds without a started worker after which `WAITING_MESSAGE` is reported."""

WAITING_MESSAGE = (
    "no worker has started yet: other work may use the cores or GPUs of the cluster, see `ray status`. Work begins "
    "when a worker starts."
)
_CONNECT_TIMEOUT_S = 5.0


@dataclass(frozen=True)
class Cluster:
    """The nodes of a Ray cluster, and how much of them a worker gets.

    Parameters
    ----------
    address : str, default 'auto'
        "auto": the cluster that this machine is part of, else this machine alone. HOST:PORT: the Ray cluster there;
        this machine must be part of it.
    gpus_per_worker : float, default 0
        GPUs of a worker; fractions below 1 are possible.
    cpus_per_worker : int or None, default None
        Cores of a worker. None: the cores of a node, divided among one worker for each GPU, or given to one worker.

    Raises
    ------
    ClusterError
        Ray has no such number of GPUs.
    """

    address: str = "auto"
    gpus_per_worker: float = 0
    cpus_per_worker: int | None = None

    def __post_init__(self) -> None:
        gpus = self.gpus_per_worker
        if not 0 <= gpus < math.inf or (gpus > 1 and gpus != int(gpus)):
            raise ClusterError(f"a worker has 0, a part of one, 1, 2, ... GPUs, and not {gpus}.")

    def workers_per_node(self, resources: dict[str, float]) -> tuple[int, int]:
        """How many workers a node with these resources has room for, and how many cores each gets."""
        cores, cpus, gpus = resources.get("CPU", 0), self.cpus_per_worker, self.gpus_per_worker
        limits = []
        if gpus:
            limits.append(int(resources.get("GPU", 0) / gpus))
        if cpus:
            limits.append(int(cores / cpus))
        workers = min(limits) if limits else int(cores >= 1)
        return workers, cpus or max(1, int(cores) // max(1, workers))


class RayCluster:
    """A connection to a cluster.

    Raises
    ------
    MissingExtraError
        Ray is not installed.
    ClusterError
        There is no such cluster.
    """

    def __init__(self, cluster: Cluster) -> None:
        os.environ.setdefault("RAY_DEDUP_LOGS_SKIP_REGEX", ".")  # Ray would print failures at length on stdout
        try:
            import ray
        except ImportError as error:
            raise MissingExtraError.of("ray", "ray") from error
        self.ray: Any = ray
        self._cluster = cluster
        self._connected_here = not ray.is_initialized()
        if self._connected_here:
            _connect(ray, cluster.address)

    def available_nodes(self, excluded: Collection[str] = (), reason: str = "") -> dict[str, tuple[int, int]]:
        """Nodes that have room: id -> number of workers, and cores of each.

        Parameters
        ----------
        excluded : collection of str
            Ids of nodes whose workers fail.
        reason : str
            Why the last worker failed, for the message.

        Raises
        ------
        ClusterError
            No node has room, or all are excluded.
        """
        nodes = {node["NodeID"]: node["Resources"] for node in self.ray.nodes() if node["Alive"]}
        room = {name: self._cluster.workers_per_node(resources) for name, resources in nodes.items()}
        room = {name: workers for name, workers in room.items() if workers[0]}
        if not room:
            needed = f"{self._cluster.gpus_per_worker} GPUs and {self._cluster.cpus_per_worker or 1} cores"
            present = "; ".join(
                f"{resources.get('GPU', 0):.0f} GPUs, {resources.get('CPU', 0):.0f} cores"
                for resources in nodes.values()
            )
            raise ClusterError(f"a worker needs {needed}; the cluster has machines with {present or 'nothing'}.")
        available = {name: workers for name, workers in room.items() if name not in excluded}
        if not available:
            raise ClusterError(
                f"on each machine {MAX_WORKER_FAILURES} workers died in a row before they did anything, the last of: "
                f"{reason.rstrip('.')}. Is the same featcache installed on all machines, and have they memory for the "
                "network? Ray's logs say more."
            )
        return available

    def start_worker(self, kind: type, node: str, cores: int, concurrency: int = 1) -> Any:
        """Start an actor on a node: an instance of `kind`, made without arguments.

        Parameters
        ----------
        concurrency : int
            Number of its methods that run at the same time, in threads.
        """
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        options = {
            "num_cpus": cores,
            "num_gpus": self._cluster.gpus_per_worker,
            "scheduling_strategy": NodeAffinitySchedulingStrategy(node, soft=False),
            "max_concurrency": concurrency,
        }
        return self.ray.remote(kind).options(**options).remote()

    def stop_worker(self, actor: Any) -> None:
        """End an actor; does nothing after a disconnect, where Ray would start another cluster to look for it."""
        if self.ray.is_initialized():
            self.ray.kill(actor)

    def close(self) -> None:
        """Disconnect, where this object has connected."""
        if self._connected_here and self.ray.is_initialized():
            self.ray.shutdown()


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
        self._cluster, self._kind, self._concurrency = RayCluster(cluster), kind, concurrency
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
        if not self.ray.wait(list(references), timeout=STARTUP_WARNING_S)[0]:
            on_note(WAITING_MESSAGE)

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


def unwrap_ray_error(error: Any) -> Exception:
    """The error that a worker raised, without Ray's traceback."""
    cause: Exception = error.cause if isinstance(error.cause, FeatcacheError) else error
    return cause


def failure_reason(error: Exception) -> str:
    """Why a worker failed, in one line; Ray names the reason of a failed start at the end of its message."""
    lines = str(error).splitlines()
    return lines[-1] if lines and "creation task" in lines[0] else first_line(error)


def _connect(ray: Any, address: str) -> None:
    """Connect to the cluster at the address. Raises ClusterError."""
    decline_usage_data()
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")  # as newer Ray; older warns
    quiet = {"log_to_driver": False, "logging_level": "ERROR"}
    target = os.environ.get("RAY_ADDRESS") or "auto" if address == "auto" else address
    try:
        if listener := {"auto": _last_address(), "local": ""}.get(target, target):
            _check_listening(listener)
        ray.init(address=target, **quiet)
    except (OSError, ValueError) as error:
        if target not in ("auto", "local"):
            raise ClusterError(
                f"there is no Ray cluster at {target}: {first_line(error)}. Start one with `ray start --head`, or "
                "give --cluster auto."
            ) from error
        ray.init(address="local", include_dashboard=False, **quiet)


def _last_address() -> str:
    """Address of the cluster that this machine is, or was, part of: Ray does not delete that of a killed one."""
    record = Path(os.environ.get("RAY_TMPDIR", "/tmp"), "ray", "ray_current_cluster")
    return record.read_text(encoding="ascii").strip() if record.exists() else ""


def _check_listening(address: str) -> None:
    """Raise OSError or ValueError where nothing listens: Ray would try for minutes, and then end this process."""
    host, colon, port = address.rpartition(":")
    if not colon or "/" in host:
        raise ValueError("its address has the form HOST:PORT, and this machine is part of it")
    socket.create_connection((host, int(port)), timeout=_CONNECT_TIMEOUT_S).close()
