"""Stand-ins for GPUs: a clock of the host, queues of work, and events that are reached when the work is done."""

from __future__ import annotations

import time

import pytest
import torch


class FakeGPUs:
    """Two GPUs under torch.cuda. `now` : seconds of the host. `synchronized` : how often it has waited for an event."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now, self.synchronized = 0.0, 0
        self._busy_until = {"cuda:0": 0.0, "cuda:1": 0.0}
        gpus = self

        class Event:
            def __init__(self, enable_timing: bool = False) -> None:
                self.reached, self._timing = 0.0, enable_timing

            def record(self, stream: str) -> None:
                self.reached = gpus.busy_until(stream)

            def query(self) -> bool:
                return self.reached <= gpus.now

            def synchronize(self) -> None:
                gpus.synchronized += 1
                gpus.now = max(gpus.now, self.reached)

            def elapsed_time(self, end: Event) -> float:
                assert all(event._timing and event.query() for event in (self, end)), "PyTorch raises"
                return 1000 * (end.reached - self.reached)

        monkeypatch.setattr(torch.cuda, "Event", Event)
        monkeypatch.setattr(torch.cuda, "current_stream", lambda device: {"cuda": "cuda:0"}.get(device, device))
        monkeypatch.setattr(time, "perf_counter", lambda: self.now)

    def busy_until(self, device: str) -> float:
        """When the work that is queued now will be done."""
        return max(self.now, self._busy_until[device])

    def queue(self, seconds: float, device: str = "cuda:0") -> None:
        """Queue work of this length. The host goes on."""
        self._busy_until[device] = self.busy_until(device) + seconds

    def pass_time(self, seconds: float) -> None:
        """Let the host work or wait."""
        self.now += seconds
