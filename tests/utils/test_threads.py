"""Threads of BLAS: limits are never raised, and busy cores are left alone."""

from __future__ import annotations

import os

import pytest
from threadpoolctl import threadpool_info, threadpool_limits

from featcache._utils import threads
from featcache._utils.threads import blas_threads, idle_cores


def used() -> set[int]:
    return {pool["num_threads"] for pool in threadpool_info() if pool["user_api"] == "blas"}


def test_a_limit_of_the_user_is_not_raised() -> None:
    with threadpool_limits(1, "blas"):
        with blas_threads(8):
            assert used() == {1}
        assert used() == {1}


@pytest.mark.parametrize(("load", "expected"), [(0.1, 4), (5.6, 2), (7.9, 1), (30.0, 1)])
def test_cores_that_others_use_are_left_to_them(load: float, expected: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(threads, "usable_cores", lambda: 4)
    monkeypatch.setattr(os, "cpu_count", lambda: 8)
    monkeypatch.setattr(os, "getloadavg", lambda: (load, 0.0, 0.0), raising=False)
    assert idle_cores() == expected


def test_without_a_load_all_cores_are_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(threads, "usable_cores", lambda: 3)
    monkeypatch.delattr(os, "getloadavg", raising=False)
    assert idle_cores() == 3
