"""`Cluster` and `RayCluster`: the nodes of a Ray cluster, and the workers that fit on each."""

from __future__ import annotations

import math
import os
import socket
import warnings
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from featcache._utils.telemetry import decline_usage_data
from featcache.errors import ClusterError, FeatcacheError, MissingExtraError, first_line

MAX_WORKER_FAILURES = 3
"""Failures of workers on the same task, or in a row on one node, after which the task or the node is given up."""

STARTUP_WARNING_S = 15.0
"""Seconds without a started worker, after which `WAITING_MESSAGE` is shown."""

WAITING_MESSAGE = (
    "no worker has started yet; other jobs may use the cores or GPUs of the cluster, see `ray status`. Work continues "
    "when a worker starts."
)
_CONNECT_TIMEOUT_S = 5.0


@dataclass(frozen=True)
class Cluster:
    """A Ray cluster, and the resources that a worker gets.

    Parameters
    ----------
    address : str, default "auto"
        HOST:PORT of a Ray cluster that this machine is part of. "auto" uses the cluster that this machine is part of,
        or this machine alone.
    gpus_per_worker : float, default 0
        GPUs of a worker: 0, a fraction of one, or a whole number.
    cpus_per_worker : int, optional
        Cores of a worker. None divides the cores of a node among its workers: one worker for each GPU, or one in all
        without GPUs.

    Raises
    ------
    ClusterError
        gpus_per_worker is negative, or larger than 1 and not a whole number.

    Examples
    --------
    >>> Cluster(gpus_per_worker=1).workers_per_node({"CPU": 32, "GPU": 4})
    (4, 8)
    """

    address: str = "auto"
    gpus_per_worker: float = 0
    cpus_per_worker: int | None = None

    def __post_init__(self) -> None:
        gpus = self.gpus_per_worker
        if not 0 <= gpus < math.inf or (gpus > 1 and gpus != int(gpus)):
            raise ClusterError(f"gpus_per_worker is {gpus}; give 0, a fraction of one GPU, or a whole number.")

    def workers_per_node(self, resources: Mapping[str, float]) -> tuple[int, int]:
        """Workers that fit on a node, and cores of each.

        Parameters
        ----------
        resources : mapping of str to float
            Cores and GPUs of the node: {"CPU": 32, "GPU": 4}.

        Returns
        -------
        workers : int
        cores : int
            Cores of each worker, 1 or more.
        """
        cores, cpus, gpus = resources.get("CPU", 0), self.cpus_per_worker, self.gpus_per_worker
        limits = []
        if gpus:
            limits.append(int(resources.get("GPU", 0) / gpus))
        if cpus:
            limits.append(int(cores / cpus))
        workers = min(limits) if limits else int(cores >= 1)
        return workers, cpus or max(1, int(cores) // max(1, workers))

    def room(self, resources: Mapping[str, float]) -> tuple[int, int]:
        """Deprecated name of `workers_per_node`.

        Parameters
        ----------
        resources : mapping
            Resources of a node by name, as Ray reports them.
        """
        warnings.warn("Cluster.room is deprecated; use Cluster.workers_per_node", DeprecationWarning, 2)
        return self.workers_per_node(resources)


class RayCluster:
    """A connection to a Ray cluster.

    Parameters
    ----------
    cluster : Cluster
        Address and resources.

    Raises
    ------
    MissingExtraError
        Ray is not installed.
    ClusterError
        There is no such cluster.
    """

    def __init__(self, cluster: Cluster) -> None:
        os.environ.setdefault(
            "RAY_DEDUP_LOGS_SKIP_REGEX", "."
        )  # else Ray also prints the text of `failure_reason`, at length
        try:
            import ray
        except ImportError as error:
            raise MissingExtraError.for_package("ray", "ray") from error
        self.ray: Any = ray
        self._cluster = cluster
        self._must_close = not ray.is_initialized()
        if self._must_close:
            _connect(ray, cluster.address)

    def available_nodes(self, lost: Collection[str] = (), why: str = "") -> dict[str, tuple[int, int]]:
        """Nodes on which a worker fits.

        Parameters
        ----------
        lost : collection of str
            Ids of nodes to leave out.
        why : str
            The reason for the last failure of a worker, for the message.

        Returns
        -------
        dict of str to (int, int)
            Node id -> workers, and cores of each.

        Raises
        ------
        ClusterError
            There is no such node.
        """
        resources = {node["NodeID"]: node["Resources"] for node in self.ray.nodes() if node["Alive"]}
        nodes = {node: self._cluster.workers_per_node(amounts) for node, amounts in resources.items()}
        nodes = {node: workers for node, workers in nodes.items() if workers[0]}
        if not nodes:
            needed = f"{self._cluster.gpus_per_worker} GPUs and {self._cluster.cpus_per_worker or 1} cores"
            present = "; ".join(
                f"{amounts.get('GPU', 0):.0f} GPUs, {amounts.get('CPU', 0):.0f} cores" for amounts in resources.values()
            )
            raise ClusterError(f"a worker needs {needed}; the cluster has machines with {present or 'nothing'}.")
        remaining = {node: workers for node, workers in nodes.items() if node not in lost}
        if not remaining:
            raise ClusterError(
                f"on each machine {MAX_WORKER_FAILURES} workers in a row failed before they did any work. The last "
                f"reason: {why.rstrip('.')}. Check that all machines have the same version of featcache and enough "
                "memory for the network. The logs of Ray have more details."
            )
        return remaining

    def start_worker(self, kind: type, node: str, cores: int, concurrency: int = 1) -> Any:
        """Start a Ray actor.

        Parameters
        ----------
        kind : type
            Class of the actor; it is created without arguments.
        node : str
            Id of the node.
        cores : int
            Cores that the actor reserves.
        concurrency : int, default 1
            How many of its methods run at once, in threads.

        Returns
        -------
        ray.actor.ActorHandle
        """
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        options = {
            "num_cpus": cores,
            "num_gpus": self._cluster.gpus_per_worker,
            "scheduling_strategy": NodeAffinitySchedulingStrategy(node, soft=False),
            "max_concurrency": concurrency,
        }
        return self.ray.remote(kind).options(**options).remote()

    def stop_worker(self, worker: Any) -> None:
        """Stop an actor. After `close` there is none left, and Ray would start a new cluster to search for it."""
        if self.ray.is_initialized():
            self.ray.kill(worker)

    def close(self) -> None:
        """Disconnect from the cluster."""
        if self._must_close and self.ray.is_initialized():
            self.ray.shutdown()


def unwrap_ray_error(error: Any) -> Exception:
    """The error that a worker raised, without the traceback of Ray."""
    cause: Exception = error.cause if isinstance(error.cause, FeatcacheError) else error
    return cause


def failure_reason(error: Exception) -> str:
    """Why a worker failed, in one line. If the actor could not be created, that is the last line of Ray's message."""
    lines = str(error).splitlines()
    return lines[-1] if lines and "creation task" in lines[0] else first_line(error)


def _connect(ray: Any, address: str) -> None:
    decline_usage_data()
    os.environ.setdefault(
        "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0"
    )  # the default of newer Ray; older Ray warns without it
    quiet = {"log_to_driver": False, "logging_level": "ERROR"}
    target = os.environ.get("RAY_ADDRESS") or "auto" if address == "auto" else address
    try:
        if host := {"auto": _last_address(), "local": ""}.get(target, target):
            _check_connection(host)
        ray.init(address=target, **quiet)
    except (OSError, ValueError) as error:
        if target not in ("auto", "local"):
            raise ClusterError(
                f"there is no Ray cluster at {target}: {first_line(error)}. Start one with `ray start --head`, or "
                "give --cluster auto."
            ) from error
        ray.init(address="local", include_dashboard=False, **quiet)


def _last_address() -> str:
    """Address of the cluster that this machine is or was part of: Ray keeps that of a killed cluster. Else empty."""
    note = Path(os.environ.get("RAY_TMPDIR", "/tmp"), "ray", "ray_current_cluster")
    return note.read_text(encoding="ascii").strip() if note.exists() else ""


def _check_connection(address: str) -> None:
    """Raise OSError or ValueError if nothing listens there. Ray would retry for minutes, then end this process."""
    host, colon, port = address.rpartition(":")
    if not colon or "/" in host:
        raise ValueError("its address has the form HOST:PORT, and this machine is part of it")
    socket.create_connection((host, int(port)), timeout=_CONNECT_TIMEOUT_S).close()
