"""Ctrl-C and SIGTERM: the block under way is finished, what is there is said, and the same command goes on."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from commands import ROOT, SMALL, deliver, done, in_process, read_until
from featcache.cache.feature_cache import FeatureCache
from featcache_cli.options import StoppedError, progress_bar

SLOW = """
import signal, sys, time
signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored in what a shell runs in the background
from featcache.backbones.backbone import Backbone
from featcache_cli.main import main
from featcache_cli import progress
progress.EVERY_S = 0.05
submit = Backbone.submit
Backbone.submit = lambda self, pixels: time.sleep(0.15) or submit(self, pixels)
main(sys.argv[1:])
"""


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_stopped_extraction_says_how_far_it_came_and_goes_on(
    number: signal.Signals, status: int, data: Path, tmp_path: Path
) -> None:
    out = tmp_path / "cache.h5"
    command = ["extract", str(data), "-o", str(out), "--batch-size", "1", "--views", "1", "--engine", "pytorch", *SMALL]
    with subprocess.Popen(
        [sys.executable, "-c", SLOW, *command],
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "cli")])},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stderr
        text = read_until(process.stderr, r"extract: [2-9] of 18")
        process.send_signal(number)
        text += process.stderr.read()
    assert process.returncode == status, text
    said = re.search(r"Stopped\. extract: (\d+) of 18 done; nothing is lost\. Run the same command again", text)
    assert said, text
    assert "Traceback" not in text
    partial = FeatureCache.open(out, partial=True)
    assert int((partial.done > 0).sum()) == int(said[1]) >= 2
    done(*command)
    assert FeatureCache.open(out).complete


PATIENT = 600.0
"""Seconds of grace in this process: on a busy machine an interruption can come outside of a test and end its worker."""


@pytest.fixture
def sigint(request: pytest.FixtureRequest) -> Iterator[None]:
    """What SIGINT does; a test run in the background of a shell has inherited that it does nothing."""
    before = signal.signal(signal.SIGINT, getattr(request, "param", signal.default_int_handler))
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.parametrize("sigint", [signal.SIG_IGN], indirect=True)
def test_a_signal_that_is_ignored_stays_so(sigint: None) -> None:
    with progress_bar(grace_s=PATIENT) as progress:
        deliver(signal.SIGINT)
        progress("count", 1, 3)


def test_a_second_signal_ends_at_once(sigint: None) -> None:
    with progress_bar(grace_s=PATIENT):
        deliver(signal.SIGINT)
        with pytest.raises(KeyboardInterrupt):
            deliver(signal.SIGINT)


def test_the_signals_are_given_back() -> None:
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    with progress_bar(grace_s=PATIENT) as progress:
        progress("count", 1, 3)
        deliver(signal.SIGTERM)
        with pytest.raises(StoppedError) as stopped:
            progress("count", 2, 3)
    said = "count: 2 of 3 done; nothing is lost. Run the same command again to resume."
    assert (str(stopped.value), stopped.value.exit_code) == (said, 143)
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before


HELD = """
import ctypes, os, signal, sys, threading, time
signal.signal(signal.SIGINT, signal.default_int_handler)
import click
from featcache_cli import options, progress
from featcache_cli.main import main

def hold(how):
    print("ready", flush=True)
    if how == "stdin":
        sys.stdin.buffer.read1(10)
    elif how == "C":  # a mutex that is locked twice: Python handles no signal meanwhile
        libc, mutex = ctypes.CDLL(None), ctypes.create_string_buffer(64)
        libc.pthread_mutex_lock(mutex)
        libc.pthread_mutex_lock(mutex)
    else:
        while True:
            try:
                time.sleep(0.01)
            except Exception:
                pass

def command(cache, listed, as_json):
    with options.progress_bar() as report:
        report("count", 1, 3)
        hold(os.environ["HOW"])

from featcache_cli import info
info.command.callback = command
main(["info", "x.h5"])
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("how", ["stdin", "Python", "C"])
def test_a_signal_is_answered_within_a_second_whatever_is_going_on(number: signal.Signals, how: str) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", HELD],
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "cli")]), "HOW": how},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout
        assert process.stderr
        assert process.stdin
        assert process.stdout.readline() == "ready\n"
        time.sleep(0.1)
        started = time.monotonic()
        process.send_signal(number)
        said = process.stderr.readline()
        answered = time.monotonic() - started
        status = process.wait(10)
    assert (status, answered < 3) == (128 + number, True)  # a second, and what a busy machine adds
    expected = "Stopped at once." if how == "C" else "Stopped. count: 1 of 3 done; nothing is lost."
    assert said.startswith(expected)


SERVED = """
import signal, time
from featcache_cli import stopping
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell ignores it for jobs in the background
for number in (signal.SIGINT, signal.SIGTERM):
    stopping.exit_on_signal(number, "Bye.")

def shut_down(number, frame):
    time.sleep(2)  # pages that are still open
    print("shut down", flush=True)
    signal.signal(number, before[number])
    signal.raise_signal(number)

with stopping.watching():
    before = {number: signal.signal(number, shut_down) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        print("ready", flush=True)
        time.sleep(60)
    except stopping.LateStop as error:
        print(error, error.exit_code, flush=True)
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_server_shuts_down_in_its_own_time(number: signal.Signals) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", SERVED],
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "cli")])},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout
        assert process.stdout.readline() == "ready\n"
        process.send_signal(number)
        said, errors = process.communicate(timeout=30)
    assert (said, errors, process.returncode) == (f"shut down\nBye. {128 + number}\n", "", 0)


LATE = """
import signal, time
from featcache_cli import stopping
from featcache_cli.options import progress_bar

def decode():
    try:
        signal.raise_signal(signal.SIGTERM)
        time.sleep(60)
    except Exception as error:  # as a decoder's errors are
        print("swallowed", error)

with progress_bar(grace_s=0.05) as progress:
    progress("count", 1, 3)
    try:
        decode()
    except stopping.LateStop as error:
        print(error)
print(signal.getitimer(signal.ITIMER_REAL))
"""


def test_a_late_stop_is_no_error_of_a_picture() -> None:
    """What catches every Exception does not take it for one."""
    ran = in_process(LATE)
    assert ran.stdout.splitlines() == [
        "count: 1 of 3 done; nothing is lost. Run the same command again to resume.", "(0.0, 0.0)"
    ], ran.stderr  # fmt: skip
