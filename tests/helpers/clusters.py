"""A Ray cluster of two machines on this one."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from commands import PATHS


@contextmanager
def two_machines() -> Iterator[Any]:
    """Of the first one this process is the driver: it lives on when the other one is removed."""
    ray = pytest.importorskip("ray")
    from ray.cluster_utils import Cluster

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        patch.setenv("PYTHONPATH", PATHS)  # of the workers
        found = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
        ray.init(address=found.address, log_to_driver=False, logging_level="ERROR")  # while there is no other to join
        found.add_node(num_cpus=1)
        yield found
        ray.shutdown()
        found.shutdown()
