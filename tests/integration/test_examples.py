"""The examples in docstrings run and give what they say."""

from __future__ import annotations

import doctest
import importlib

import pytest

MODULES = (
    "cache.feature_cache",
    "cache.features",
    "cache.transfer",
    "cache.verify",
    "core.close_names",
    "core.ray_cluster",
    "core.samples",
    "core.specs",
    "core.thresholds",
)


@pytest.mark.parametrize("module", MODULES)
def test_examples_run(module: str) -> None:
    results = doctest.testmod(importlib.import_module(f"featcache.{module}"))
    assert results.attempted > 0
    assert results.failed == 0
