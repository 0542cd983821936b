"""LAW 3: a run that is killed with SIGKILL, again and again, ends with the features of an undisturbed one."""

from __future__ import annotations

import multiprocessing
import random
import signal
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import h5py
import numpy as np
import pytest

from featcache.cache.feature_cache import FeatureCache
from featcache.cache.paths import partial_path
from featcache.errors import NotACacheError
from featcache.extraction.extract import extract
from forks import context, fork
from slow_extraction import extract_slowly
from toys import toy_backbone

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGKILL")

# Seconds before each kill: the file is hardly created; then counted from the first new row, however slow that is.
EARLY, LATER = [0.0, 0.03], [random.Random(5).uniform(0.0, 0.15) for _ in range(6)]


def start(data: Path, out: Path) -> multiprocessing.process.BaseProcess:
    receiver, sender = context().Pipe(duplex=False)
    process = fork(extract_slowly, str(data), str(out), sender)
    sender.close()
    assert receiver.recv() == "started"
    return process


def wait_for_more(out: Path, rows: int) -> None:
    """Until the unfinished cache has more rows than these."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        with suppress(NotACacheError):  # not there yet
            if np.count_nonzero(FeatureCache.open(out, partial=True).done) > rows:
                return
        time.sleep(0.005)
    raise AssertionError(f"no new row came to the {rows} in a minute")


def test_a_killed_run_resumes_to_the_same_features(make_folder: Callable[..., Path], tmp_path: Path) -> None:
    data = make_folder({"train/ants": 40, "train/bees": 40, "val/ants": 6, "val/bees": 6})
    (data / "train/bees/007.png").write_bytes(b"broken")
    expected_path, out = tmp_path / "whole.h5", tmp_path / "killed.h5"
    expected = extract(data, expected_path, backbone=toy_backbone(), views=2).cache
    progress = []
    for number, delay in enumerate(EARLY + LATER):
        process = start(data, out)
        if number >= len(EARLY):
            wait_for_more(out, max(progress, default=0))
        time.sleep(delay)
        process.kill()
        process.join()
        assert process.exitcode == -signal.SIGKILL
        assert not out.exists()
        if partial_path(out).exists():
            partial = FeatureCache.open(partial_path(out), partial=True)
            rows = np.flatnonzero(partial.done)
            progress.append(len(rows))
            with h5py.File(partial.path) as found, h5py.File(expected_path) as wanted:
                for row in rows:
                    there = slice(0, int(partial.done[row]))
                    np.testing.assert_array_equal(
                        found["features/penultimate"][row, there], wanted["features/penultimate"][row, there]
                    )
    assert progress == sorted(progress)
    assert len({count for count in progress if 0 < count < 91}) >= len(LATER)
    process = start(data, out)
    process.join()
    assert process.exitcode == 0
    cache = FeatureCache.open(out)
    assert cache.skipped == expected.skipped == [("train/bees/007.png", expected.skipped[0][1])]
    np.testing.assert_array_equal(cache.done, expected.done)
    for split in ("train", "val"):
        np.testing.assert_array_equal(cache.features(split).x, expected.features(split).x)
        assert cache.features(split).samples.ids == expected.features(split).samples.ids
    assert not partial_path(out).exists()
