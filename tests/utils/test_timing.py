"""PhaseTimer: seconds by phase, from several threads."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Iterator

import pytest

from featcache._utils.timing import PhaseTimer


@pytest.fixture
def eager_threads() -> Iterator[None]:
    """Threads that hand over so often that a lost update shows."""
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(interval)


@pytest.mark.usefixtures("eager_threads")
def test_no_second_is_lost_between_threads() -> None:
    watch = PhaseTimer()

    def work(own: str) -> None:
        for _ in range(2000):
            watch.add("shared", 0.5)
            watch.add(own, 0.25)

    threads = [threading.Thread(target=work, args=(f"own{number}",)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    seconds = watch.seconds()
    seconds.pop("wall")
    assert seconds == {"shared": 8000.0, **{f"own{number}": 500.0 for number in range(8)}}


def test_phases_add_up_and_wall_runs_from_the_start(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter([100.0, 101.0, 103.0, 110.0, 114.0, 120.0, 130.0])
    monkeypatch.setattr(time, "perf_counter", lambda: next(clock))
    watch = PhaseTimer()
    for _ in range(2):
        with watch.phase("read"):
            pass
    assert watch.seconds() == {"read": 6.0, "wall": 20.0}
    assert watch.seconds() == {"read": 6.0, "wall": 30.0}


def test_a_phase_that_fails_is_timed_too(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter([0.0, 1.0, 4.0, 5.0])
    monkeypatch.setattr(time, "perf_counter", lambda: next(clock))
    watch = PhaseTimer()
    with pytest.raises(KeyError), watch.phase("decode"):
        raise KeyError
    assert watch.seconds() == {"decode": 3.0, "wall": 5.0}
