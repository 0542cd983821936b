from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from commands import toy_cache, write_folder
from featcache import errors
from featcache.analysis.benchmark import routes
from featcache.analysis.benchmark.routes import run_in_process
from featcache.cache.feature_cache import FeatureCache
from featcache.errors import FeatcacheError, NotACacheError
from featcache.extraction.extract import extract
from featcache.heads.fit_head import fit_head

ERRORS = [value for value in vars(errors).values() if isinstance(value, type) and issubclass(value, FeatcacheError)]


def _child(monkeypatch: pytest.MonkeyPatch, code: str) -> list[subprocess.Popen[str]]:
    """Let the child be bare Python with this code: quick, and as bad as we like."""
    started: list[subprocess.Popen[str]] = []
    popen = subprocess.Popen

    def start(_arguments: list[str], **options: Any) -> subprocess.Popen[str]:
        started.append(popen([sys.executable, "-c", f"import json, os, sys, time\n{code}"], **options))
        return started[-1]

    monkeypatch.setattr(routes.subprocess, "Popen", start)
    return started


def test_a_route_gives_what_the_call_gives_and_its_wall_counts_the_imports(tmp_path: Path) -> None:
    cache = toy_cache(write_folder(tmp_path / "data"), tmp_path / "cache.h5")
    order = {"task": "fit-head", "cache": str(cache), "out": str(tmp_path / "head"), "head": "linear"}
    result, direct = run_in_process(order), fit_head(cache, head="linear").to_dict()
    same = ("method", "accuracy", "n", "confusion", "classes", "images", "spec_digest", "head")
    assert {name: result[name] for name in same} == {name: json.loads(json.dumps(direct[name])) for name in same}
    assert result["path"] == str(tmp_path / "head")
    assert result["wall_s"] > result["seconds"]["wall"] + 0.1
    assert order["task"] == "fit-head"


def test_an_error_of_the_child_arrives_as_itself(tmp_path: Path) -> None:
    missing = tmp_path / "gone.h5"
    with pytest.raises(NotACacheError) as caught:
        run_in_process({"task": "fit-head", "cache": str(missing)})
    with pytest.raises(NotACacheError) as direct:
        fit_head(missing)
    assert str(caught.value) == str(direct.value)


@pytest.mark.parametrize("cls", ERRORS, ids=lambda cls: cls.__name__)
def test_every_error_crosses_the_pipe(cls: type[FeatcacheError], monkeypatch: pytest.MonkeyPatch) -> None:
    text = 'two\nlines, "quotes", ümläute'

    def fail(_order: Any, _progress: Any) -> dict[str, Any]:
        raise cls(text)

    answers = io.StringIO()
    monkeypatch.setitem(routes._TASKS, "extract", fail)
    monkeypatch.setattr(sys, "stdin", io.StringIO('{"task": "extract"}'))
    monkeypatch.setattr(sys, "stdout", answers)
    assert routes._main() == 0
    _child(monkeypatch, f"sys.stdin.read(); sys.stdout.write({answers.getvalue()!r})")
    with pytest.raises(FeatcacheError) as caught:
        run_in_process({"task": "extract"})
    assert type(caught.value) is cls
    assert str(caught.value) == text


def test_a_library_that_prints_does_not_come_between_the_answers(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def chatty(order: Any, progress: Any) -> dict[str, Any]:
        sys.stdout.write("Downloading...\n")
        progress("hash", 1, 2)
        return {"got": order}

    monkeypatch.setitem(routes._TASKS, "extract", chatty)
    monkeypatch.setattr(sys, "stdin", io.StringIO('{"task": "extract", "data": "d"}'))
    monkeypatch.setattr(sys, "stdout", sys.stdout)
    assert routes._main() == 0
    captured = capsys.readouterr()
    assert [json.loads(line) for line in captured.out.splitlines()] == [
        {"progress": ["hash", 1, 2]},
        {"result": {"got": {"data": "d"}}},
    ]
    assert captured.err == "Downloading...\n"


def test_the_order_goes_in_progress_and_the_result_come_out(monkeypatch: pytest.MonkeyPatch) -> None:
    _child(
        monkeypatch,
        "order = json.load(sys.stdin)\n"
        "print(json.dumps({'progress': ['read', 3, 4]}), flush=True)\n"
        "time.sleep(0.3)\n"
        "print(json.dumps({'result': {'order': order, 'cwd': os.getcwd()}}))",
    )
    seen: list[tuple[str, int, int]] = []
    started = time.perf_counter()
    result = run_in_process({"task": "extract", "data": "ü"}, lambda *step: seen.append(step))
    assert 0.3 < result.pop("wall_s") <= time.perf_counter() - started
    assert 0 < result.pop("cpu_s") < 60
    assert result == {"order": {"task": "extract", "data": "ü"}, "cwd": os.getcwd()}
    assert seen == [("read", 3, 4)]


@pytest.mark.parametrize(
    ("code", "status"),
    [
        ("os.kill(os.getpid(), 9)", -9),
        ("print(json.dumps({'result': {}}), flush=True); os._exit(3)", 3),
        ("pass", 0),
    ],
)
def test_a_child_that_dies_or_says_nothing_is_told(code: str, status: int, monkeypatch: pytest.MonkeyPatch) -> None:
    _child(monkeypatch, f"sys.stdin.read(); {code}")
    with pytest.raises(FeatcacheError) as caught:
        run_in_process({"task": "extract"})
    assert str(caught.value) == (
        f"the process of route extract ended with status {status}; see its message above. Run the same command again."
    )


def test_a_child_that_is_killed_in_the_middle_of_a_line_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    half = '{"result": {"path": "x'
    _child(
        monkeypatch,
        f"sys.stdin.read(); sys.stdout.write({half!r}); sys.stdout.flush(); os.kill(os.getpid(), 9)",
    )
    with pytest.raises(FeatcacheError, match="ended with status -9"):
        run_in_process({"task": "extract"})


def test_a_child_that_dies_before_it_reads_its_order_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    _child(monkeypatch, "os._exit(1)")
    with pytest.raises(FeatcacheError, match="ended with status 1"):
        run_in_process({"task": "extract", "data": "x" * 1_000_000})


def test_no_child_outlives_an_interrupted_call(monkeypatch: pytest.MonkeyPatch) -> None:
    started = _child(monkeypatch, "print(json.dumps({'progress': ['read', 1, 2]}), flush=True); time.sleep(60)")

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_in_process({"task": "extract"}, interrupt)
    assert started[0].returncode == -signal.SIGKILL


def test_a_real_extraction_that_is_killed_is_told_and_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data, out = write_folder(tmp_path / "data"), tmp_path / "cache.h5"
    started: list[subprocess.Popen[str]] = []
    popen = subprocess.Popen
    monkeypatch.setattr(
        routes.subprocess,
        "Popen",
        lambda *args, **options: started.append(popen(*args, **options)) or started[-1],
    )
    order: dict[str, Any] = {"task": "extract", "data": str(data), "out": str(out), "backbone": "mobilenet_v3_small"}
    order |= {"weights": "none", "image_size": 32, "views": 1, "batch_size": 4, "workers": 2}

    def kill(what: str, _done: int, _total: int) -> None:
        if what == "extract":
            started[0].kill()

    with pytest.raises(FeatcacheError, match=r"^the process of route extract ended with status -9"):
        run_in_process(order, kill)
    assert not out.exists()
    extracted = np.count_nonzero(FeatureCache.open(f"{out}.partial", partial=True).done)
    order.pop("task")
    assert extract(**order).extracted == 18 - extracted < 18
