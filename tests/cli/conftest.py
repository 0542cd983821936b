"""What the tests of the commands share: one small folder and what was made of it."""

from __future__ import annotations

from pathlib import Path

import pytest

from commands import SMALL, done, toy_cache, write_folder


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """7 + 6 training and 3 + 2 val images."""
    return write_folder(tmp_path_factory.mktemp("cli") / "photos")


@pytest.fixture(scope="session")
def cache(data: Path) -> Path:
    """A cache of the toy backbone, on which every head is right."""
    return toy_cache(data, data.parent / "toy.h5")


@pytest.fixture(scope="session")
def real_cache(data: Path) -> Path:
    """A cache of a network that can be loaded by its name."""
    done("extract", data, "-o", data.parent / "real.h5", "--views", 2, "--precision", "fp32", *SMALL)
    return data.parent / "real.h5"
