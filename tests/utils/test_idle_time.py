"""The time in which a device has nothing to do, with a stand-in for two GPUs and their clock."""

from __future__ import annotations

import pytest

from fakegpus import FakeGPUs
from featcache._utils.idle_time import IdleTimer
from featcache._utils.timing import PhaseTimer


@pytest.fixture
def gpus(monkeypatch: pytest.MonkeyPatch) -> FakeGPUs:
    return FakeGPUs(monkeypatch)


def idle_seconds(timer: PhaseTimer) -> float:
    return timer.seconds().get("data", 0.0)


@pytest.mark.parametrize(
    ("queued", "waited", "idle"),
    [
        (0, 3, 3),  # nothing is queued: the whole wait
        (2, 3, 1),  # done within the wait: the rest of it
        (3, 3, 0),
        (5, 3, 0),  # still at work when the wait ends: nothing
    ],
)
def test_time_in_which_the_gpu_works_does_not_count(queued: float, waited: float, idle: float, gpus: FakeGPUs) -> None:
    timer = PhaseTimer()
    idle_timer = IdleTimer(timer, "data", ["cuda"])
    gpus.queue(queued)
    with idle_timer.wait():
        gpus.pass_time(waited)
    assert gpus.synchronized == 0, "a step does not wait for the GPU"
    idle_timer.finish()
    assert idle_seconds(timer) == pytest.approx(idle)
    assert gpus.now == max(queued, waited)


def test_waits_of_many_steps_add_up_without_a_wait_for_the_gpu(gpus: FakeGPUs) -> None:
    timer = PhaseTimer()
    idle_timer = IdleTimer(timer, "data", ["cuda:1"])
    for _ in range(100):
        with idle_timer.wait():
            gpus.pass_time(2)
        gpus.queue(0.5, "cuda:1")
        gpus.queue(100, "cuda:0")  # of others
    assert gpus.synchronized == 0
    assert len(idle_timer._waits) <= 1, "events are dropped when they are read"
    idle_timer.finish()
    assert idle_seconds(timer) == pytest.approx(2 + 99 * 1.5)


def test_a_gpu_that_is_behind_all_the_time_waits_for_nothing(gpus: FakeGPUs) -> None:
    timer = PhaseTimer()
    idle_timer = IdleTimer(timer, "data", ["cuda"])
    for _ in range(10):
        gpus.queue(3)
        with idle_timer.wait():
            gpus.pass_time(2)
    assert idle_seconds(timer) == 0
    idle_timer.finish()
    assert (idle_seconds(timer), gpus.now) == (0, 30)


def test_several_gpus_have_the_mean_of_their_idle_times(gpus: FakeGPUs) -> None:
    timer = PhaseTimer()
    idle_timer = IdleTimer(timer, "data", ["cuda:0", "cuda:1"])
    gpus.queue(3, "cuda:0")
    with idle_timer.wait():
        gpus.pass_time(4)
    idle_timer.finish()
    assert idle_seconds(timer) == pytest.approx((1 + 4) / 2)


def test_on_a_cpu_the_whole_wait_counts_also_one_that_fails(gpus: FakeGPUs) -> None:
    timer = PhaseTimer()

    def fail() -> None:
        with IdleTimer(timer, "data", ["cpu"]).wait():
            gpus.pass_time(3)
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert idle_seconds(timer) == 3
