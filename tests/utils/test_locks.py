"""One writer where the file system has no locks."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import platform
import subprocess
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest

from commands import COUNTS, PATHS, write_folder
from featcache._utils import locks
from featcache._utils.locks import RUN_LOCK, LockFile
from featcache.cache.feature_cache import FeatureCache
from featcache.cache.paths import partial_path
from featcache.errors import CacheBusyError, NoLocksWarning, RunError
from featcache.extraction.extract import extract
from featcache.finetuning.finetune import finetune
from featcache.training.loop import TrainConfig
from toys import toy_backbone
from trainable import trainable_backbone


@pytest.fixture(params=[errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS])
def without_locks(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError(request.param, os.strerror(request.param))

    monkeypatch.setattr(fcntl, "flock", refuse)


@pytest.fixture
def living() -> Iterator[int]:
    """Another process of this machine."""
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as process:
        yield process.pid
        process.kill()


@pytest.fixture
def ended() -> int:
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


def write_lock(path: Path, pid: int, host: str = platform.node(), started: str | None = None) -> None:
    since = locks._start_ticks(pid) if started is None else started
    fields = {
        "host": host,
        "pid": pid,
        "started": since,
        "since": "2026-01-31 12:00:00",
        "command": "featcache extract",
    }
    path.write_text(json.dumps(fields))


def test_a_lock_file_is_held_by_one_and_given_back(tmp_path: Path) -> None:
    path = tmp_path / "c.lock"
    with pytest.warns(NoLocksWarning, match="has no file locks: the file c.lock names the writing process"):
        assert LockFile(path).acquire()
    assert LockFile(path).is_held()
    assert not LockFile(path).acquire()
    assert f"process {os.getpid()} on {platform.node()} since " in LockFile(path).holder()
    LockFile(path).release()
    assert not path.exists()
    assert not LockFile(path).is_held()
    LockFile(path).release()


@pytest.mark.filterwarnings("ignore::featcache.errors.NoLocksWarning")
def test_that_of_a_process_that_ended_is_taken_over(tmp_path: Path, ended: int, living: int) -> None:
    path = tmp_path / "c.lock"
    write_lock(path, ended)
    assert not LockFile(path).is_held()
    assert LockFile(path).acquire()
    write_lock(path, living, started="1")  # the number was given to another process
    assert LockFile(path).acquire()
    assert os.listdir(tmp_path) == ["c.lock"]


@pytest.mark.parametrize("content", ["living", "another machine", "", "{", "[]"])
def test_that_of_a_process_that_may_work_is_left_alone(content: str, tmp_path: Path, living: int) -> None:
    path = tmp_path / "c.lock"
    if content == "living":
        write_lock(path, living)
    elif content == "another machine":
        write_lock(path, 1, host="elsewhere")
    else:
        path.write_text(content)
    before = path.read_text()
    assert LockFile(path).is_held()
    assert not LockFile(path).acquire()
    LockFile(path).release()
    assert path.read_text() == before


def test_extraction_works_without_locks_and_has_one_writer(without_locks: None, living: int, tmp_path: Path) -> None:
    data = write_folder(tmp_path / "data", COUNTS)
    out = tmp_path / "c.h5"
    lock = Path(f"{partial_path(out)}.lock")
    write_lock(lock, living)
    with pytest.raises(CacheBusyError) as busy:
        extract(data, out, backbone=toy_backbone(), views=1)
    assert str(busy.value) == (
        f"{partial_path(out)} is being written by process {living} on {platform.node()} since 2026-01-31 12:00:00: "
        f"featcache extract. Wait until it ends, or stop it; nothing is lost. If that process is gone, remove {lock}."
    )
    with pytest.raises(CacheBusyError):
        FeatureCache.open(out)
    lock.unlink()
    with pytest.warns(NoLocksWarning, match="names the writing process"):
        extract(data, out, backbone=toy_backbone(), views=1)
    assert FeatureCache.open(out).complete
    assert sorted(path.name for path in tmp_path.iterdir()) == ["c.h5", "data"]


def test_a_run_without_locks_has_one_process(without_locks: None, living: int, tmp_path: Path) -> None:
    data = write_folder(tmp_path / "data", COUNTS)
    (tmp_path / "run").mkdir()
    held = tmp_path / f"run/{RUN_LOCK}.held"
    write_lock(held, living)
    tune = lambda: finetune(data, tmp_path / "run", backbone=trainable_backbone(), config=TrainConfig(epochs=1))  # noqa: E731
    with pytest.raises(RunError, match=f"trained by another process.* If that process is gone, remove {held}"):
        tune()
    held.unlink()
    with pytest.warns(NoLocksWarning):
        tune()
    assert not list((tmp_path / "run").glob("*.held"))
    assert not list((tmp_path / "run").glob(RUN_LOCK))


_HOLD = """
import sys, warnings
from pathlib import Path
from featcache._utils.locks import LockFile
warnings.simplefilter("ignore")
won = LockFile(Path(sys.argv[1])).acquire()
print(won, flush=True)
input()
"""


def test_of_many_that_find_a_stale_lock_file_one_gets_it(ended: int, tmp_path: Path) -> None:
    path = tmp_path / "c.lock"
    write_lock(path, ended)
    started = [
        subprocess.Popen(
            [sys.executable, "-c", _HOLD, path],
            env={**os.environ, "PYTHONPATH": PATHS},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for _ in range(6)
    ]
    won = [process.stdout.readline() for process in started if process.stdout]
    for process in started:
        process.communicate("\n")
    assert sorted(won) == ["False\n"] * 5 + ["True\n"]


def test_with_locks_there_is_no_lock_file_and_no_warning(tmp_path: Path) -> None:
    data = write_folder(tmp_path / "data", COUNTS)
    with warnings.catch_warnings():
        warnings.simplefilter("error", NoLocksWarning)
        extract(data, tmp_path / "c.h5", backbone=toy_backbone(), views=1)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["c.h5", "data"]


@pytest.mark.parametrize("content", ["[" * 100_000, json.dumps({"host": platform.node(), "pid": 2**80})])
def test_a_damaged_lock_file_is_held_by_somebody(content: str, tmp_path: Path) -> None:
    (tmp_path / "c.lock").write_text(content)
    assert LockFile(tmp_path / "c.lock").is_held()
    assert not LockFile(tmp_path / "c.lock").acquire()
