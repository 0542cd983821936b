"""A Ray cluster of two machines on this one."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from commands import PATHS


def fully_booked() -> tuple[list[str], Callable[[str], None]]:
    """Take all cores of all machines: the notes that came, and what takes a note and gives the cores back."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    class Other:
        def there(self) -> None:
            """Once it has its cores."""

    others = [
        ray.remote(Other)
        .options(
            num_cpus=node["Resources"]["CPU"],
            scheduling_strategy=NodeAffinitySchedulingStrategy(node["NodeID"], soft=False),
        )
        .remote()
        for node in ray.nodes()
        if node["Alive"]
    ]
    ray.get([other.there.remote() for other in others])

    told: list[str] = []

    def note(text: str) -> None:
        told.append(text)
        for other in others:
            ray.kill(other)

    return told, note


@contextmanager
def two_machines() -> Iterator[Any]:
    """Of the first one this process is the driver: it lives on when the other one is removed."""
    ray = pytest.importorskip("ray")
    from ray.cluster_utils import Cluster

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        patch.setenv("PYTHONPATH", PATHS)  # of the workers
        found = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
        make_whole(found)
        yield found
        ray.shutdown()
        found.shutdown()


def make_whole(machines: Any) -> None:
    """At least two machines, and this process connected to them, whatever a test did: less than to start a cluster."""
    import ray

    if not ray.is_initialized():
        for other in machines.worker_nodes.copy():  # which this process could join
            machines.remove_node(other, allow_graceful=False)
        ray.init(address=machines.address, log_to_driver=False, logging_level="ERROR")
    if not machines.worker_nodes:
        machines.add_node(num_cpus=1)
    machines.wait_for_nodes()
