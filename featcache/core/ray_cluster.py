"""`RayCluster`: those of a Ray cluster, and the workers that each has room for."""

from __future__ import annotations

import math
import os
import socket
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from featcache._utils.telemetry import decline_usage_data
from featcache.errors import ClusterError, FeatcacheError, MissingExtraError, first_line

MAX_WORKER_FAILURES = 3  # of workers over the same work, or of a machine's workers in a row, before it is given up
STARTUP_WARNING_S = 15.0  # seconds until it is said that no worker has begun
WAITING_MESSAGE = (
    "no worker has begun yet; other work may have the cluster's cores or GPUs, see `ray status`. It goes on then."
)
_PATIENCE = 5.0  # seconds for the machine at an address to answer at all


@dataclass(frozen=True)
class Cluster:
    """Which machines, and how much of them.

    address : "auto": the cluster that this machine is part of, else this machine alone; or HOST:PORT of a Ray cluster
        that this machine is part of.
    gpus_per_worker : GPUs that a worker has, 0 for none; parts of one are possible.
    cpus_per_worker : its cores; None shares those of a machine among its workers: one for each GPU, else one in all.

    Raises
    ------
    ClusterError : no number of GPUs that there can be.
    """

    address: str = "auto"
    gpus_per_worker: float = 0
    cpus_per_worker: int | None = None

    def __post_init__(self) -> None:
        gpus = self.gpus_per_worker
        if not 0 <= gpus < math.inf or (gpus > 1 and gpus != int(gpus)):
            raise ClusterError(f"a worker has 0, a part of one, 1, 2, ... GPUs, and not {gpus}.")

    def room(self, resources: dict[str, float]) -> tuple[int, int]:
        """How many workers a machine with these resources takes, and how many cores each has."""
        cores, cpus, gpus = resources.get("CPU", 0), self.cpus_per_worker, self.gpus_per_worker
        takes = []
        if gpus:
            takes.append(int(resources.get("GPU", 0) / gpus))
        if cpus:
            takes.append(int(cores / cpus))
        workers = min(takes) if takes else int(cores >= 1)
        return workers, cpus or max(1, int(cores) // max(1, workers))


class RayCluster:
    """
    Raises
    ------
    MissingExtraError. ClusterError : there is no such cluster.
    """

    def __init__(self, cluster: Cluster) -> None:
        os.environ.setdefault(
            "RAY_DEDUP_LOGS_SKIP_REGEX", "."
        )  # on stdout it would say at length what `failure_reason` does
        try:
            import ray
        except ImportError as error:
            raise MissingExtraError.of("ray", "ray") from error
        self.ray: Any = ray
        self._cluster = cluster
        self._own = not ray.is_initialized()
        if self._own:
            _connect(ray, cluster.address)

    def there(self, lost: Collection[str] = (), why: str = "") -> dict[str, tuple[int, int]]:
        """Machines that have room, `lost` ones left out: id -> workers, and cores of each.

        why : what the last worker that was lost died of.

        Raises
        ------
        ClusterError : there is none.
        """
        nodes = {node["NodeID"]: node["Resources"] for node in self.ray.nodes() if node["Alive"]}
        rooms = {name: self._cluster.room(resources) for name, resources in nodes.items()}
        rooms = {name: room for name, room in rooms.items() if room[0]}
        if not rooms:
            asked = f"{self._cluster.gpus_per_worker} GPUs and {self._cluster.cpus_per_worker or 1} cores"
            has = "; ".join(f"{one.get('GPU', 0):.0f} GPUs, {one.get('CPU', 0):.0f} cores" for one in nodes.values())
            raise ClusterError(f"a worker needs {asked}; the cluster has machines with {has or 'nothing'}.")
        found = {name: room for name, room in rooms.items() if name not in lost}
        if not found:
            raise ClusterError(
                f"on each machine {MAX_WORKER_FAILURES} workers died in a row before they did anything, the last of: "
                f"{why.rstrip('.')}. Is the same featcache installed on all machines, and have they memory for the "
                "network? Ray's logs say more."
            )
        return found

    def hire(self, kind: type, machine: str, cores: int, at_once: int = 1) -> Any:
        """A worker on a machine: an actor that is an instance of `kind`, made without arguments.

        at_once : how many of its methods run side by side, in threads.
        """
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        strategy = NodeAffinitySchedulingStrategy(machine, soft=False)
        options = {
            "num_cpus": cores,
            "num_gpus": self._cluster.gpus_per_worker,
            "scheduling_strategy": strategy,
            "max_concurrency": at_once,
        }
        return self.ray.remote(kind).options(**options).remote()

    def dismiss(self, worker: Any) -> None:
        """End a worker; none is left where the cluster has been left: Ray would start another one to look there."""
        if self.ray.is_initialized():
            self.ray.kill(worker)

    def close(self) -> None:
        """Leave the cluster."""
        if self._own and self.ray.is_initialized():
            self.ray.shutdown()


def unwrap_ray_error(error: Any) -> Exception:
    """What a worker raised, without Ray's account of where it did."""
    cause: Exception = error.cause if isinstance(error.cause, FeatcacheError) else error
    return cause


def failure_reason(error: Exception) -> str:
    """What a worker died of, in a line: Ray's account ends with what it could not begin with."""
    lines = str(error).splitlines()
    return lines[-1] if lines and "creation task" in lines[0] else first_line(error)


def _connect(ray: Any, address: str) -> None:
    decline_usage_data()
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")  # as newer Ray; older warns
    quiet = {"log_to_driver": False, "logging_level": "ERROR"}
    known = os.environ.get("RAY_ADDRESS") or "auto" if address == "auto" else address
    try:
        if listens := {"auto": _last_address(), "local": ""}.get(known, known):
            _answers(listens)
        ray.init(address=known, **quiet)
    except (OSError, ValueError) as error:
        if known not in ("auto", "local"):
            raise ClusterError(
                f"there is no Ray cluster at {known}: {first_line(error)}. Start one with `ray start --head`, or "
                "give --cluster auto."
            ) from error
        ray.init(address="local", include_dashboard=False, **quiet)


def _last_address() -> str:
    """Of the cluster that this machine is part of, or was: Ray does not forget one that was killed. Else empty."""
    note = Path(os.environ.get("RAY_TMPDIR", "/tmp"), "ray", "ray_current_cluster")
    return note.read_text(encoding="ascii").strip() if note.exists() else ""


def _answers(address: str) -> None:
    """Raise OSError or ValueError where nobody listens: Ray would try for minutes, and then end this process."""
    host, colon, port = address.rpartition(":")
    if not colon or "/" in host:
        raise ValueError("its address has the form HOST:PORT, and this machine is part of it")
    socket.create_connection((host, int(port)), timeout=_PATIENCE).close()
