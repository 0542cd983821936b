"""Shared fixtures: small image folders, the real photos. The toy backbone is in helpers/toys.py."""

from __future__ import annotations

import os

# Threads that wait for each other make toy networks several times slower, most of all on busy cores; so too in the
# processes that tests start. NumPy, scikit-learn and PyTorch read it when they are imported, and never again.
os.environ["OMP_NUM_THREADS"] = "1"

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from commands import COUNTS, write_folder
from featcache._utils import remote

MakeFolder = Callable[..., Path]


@pytest.fixture(autouse=True, scope="session")
def _one_thread() -> None:
    """See above; a plugin of pytest may have imported PyTorch before."""
    torch.set_num_threads(1)


@pytest.fixture(autouse=True, scope="session")
def _a_ray_cluster_of_ones_own() -> None:
    """`--cluster auto` would join the one of a test that runs beside this one, and end with it."""
    os.environ["RAY_ADDRESS"] = "local"


@pytest.fixture(autouse=True, scope="session")
def _file_systems_of_tests() -> None:
    """In memory, and one of test_sources that fails; users have to allow them."""
    remote.SCHEMES.update({"memory", "flaky"})


@pytest.fixture(autouse=True, scope="session")
def _no_usage_data() -> None:
    """Tests import ONNX Runtime themselves, which would send some."""
    os.environ["ORT_DISABLE_TELEMETRY"] = "1"


@pytest.fixture(autouse=True, scope="session")
def _home_of_one_run(tmp_path_factory: pytest.TempPathFactory) -> None:
    """What is kept of networks is kept from test to test, but not from run to run."""
    os.environ["XDG_CACHE_HOME"] = str(tmp_path_factory.mktemp("home"))


@pytest.fixture
def make_folder(tmp_path: Path) -> MakeFolder:
    """make_folder({"train/ants": 3, "val/ants": 1, ...}): see `write_folder`."""

    def make(counts: dict[str, int], name: str = "data") -> Path:
        return write_folder(tmp_path / name, counts)

    return make


@pytest.fixture
def split_folder(make_folder: MakeFolder) -> Path:
    """Two classes, 7 + 6 training and 3 + 2 val images."""
    return make_folder(COUNTS)


def _from_environment(name: str) -> Path:
    value = os.environ.get(name)
    if not value:
        pytest.skip(f"{name} is not set")
    return Path(value)


@pytest.fixture
def ants_bees() -> Path:
    """The folder of the real photos."""
    return _from_environment("FEATCACHE_ANTS_BEES")


@pytest.fixture
def mobilenet_weights() -> Path:
    """Real ImageNet weights of torchvision's mobilenet_v2."""
    return _from_environment("FEATCACHE_WEIGHTS")
