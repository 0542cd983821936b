"""What goes before the commands, in real processes: closed streams, Ctrl-C while Python imports, little memory."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from commands import PATHS, SMALL, toy_cache
from featcache_cli.memory import explain_memory_error

ENVIRONMENT = {**os.environ, "PYTHONPATH": PATHS}


@pytest.fixture(scope="module")
def cache(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return toy_cache(data, tmp_path_factory.mktemp("entry") / "c.h5")


def shell(line: str, *arguments: object) -> tuple[int, str, str]:
    """Run a line of the shell in which `"$@"` stands for featcache with these arguments."""
    command = ["sh", "-c", line, "sh", sys.executable, "-m", "featcache_cli.entry", *map(str, arguments)]
    ran = subprocess.run(command, env=ENVIRONMENT, capture_output=True, text=True, timeout=120, check=False)
    return ran.returncode, ran.stdout, ran.stderr


def test_with_all_streams_it_is_the_program(cache: Path) -> None:
    status, out, errors = shell('"$@"', "info", cache)
    assert (status, errors) == (0, "")
    assert out.startswith(f"{cache}")


def test_a_closed_stdin_names_nothing(cache: Path) -> None:
    status, out, errors = shell('"$@" <&-', "predict", cache, "-")
    assert (status, out) == (1, "")
    assert errors.startswith("Error: ")
    assert "Traceback" not in errors


@pytest.mark.parametrize("more", [[], ["--json"]])
def test_a_closed_stdout_is_said(more: list[str], cache: Path) -> None:
    status, _, errors = shell('"$@" >&-', "info", cache, *more)
    assert (status, errors) == (1, "Error: standard output is closed. Send it to a file, or to /dev/null.\n")


def test_a_closed_stderr_is_no_obstacle(cache: Path) -> None:
    status, out, _ = shell('"$@" 2>&-', "info", cache)
    assert status == 0
    assert out.startswith(f"{cache}")
    status, _, _ = shell('"$@" 2>&- >&-', "info", cache)
    assert status == 1


def test_no_file_takes_the_place_of_a_closed_stream(cache: Path, tmp_path: Path) -> None:
    """What is written on stderr would go into the cache then."""
    before = cache.read_bytes()
    status, _, _ = shell('"$@" <&- 2>&-', "fit-head", cache, "-o", tmp_path / "head", "-p", "C=bad")
    assert status == 1
    assert cache.read_bytes() == before


IMPORTING = """
import builtins, signal, time
signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored in what a shell runs in the background
imported = builtins.__import__

def slow(name, *more, **others):
    if name == "click":
        print("ready", flush=True)
        time.sleep(60)
    return imported(name, *more, **others)

builtins.__import__ = slow
from featcache_cli.entry import run
run()
"""


def test_ctrl_c_while_python_imports_ends_it_without_a_traceback() -> None:
    with subprocess.Popen(
        [sys.executable, "-c", IMPORTING],
        env=ENVIRONMENT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout
        assert process.stdout.readline() == "ready\n"
        process.send_signal(signal.SIGINT)
        said = process.communicate(timeout=60)
    assert (process.returncode, said) == (-signal.SIGINT, ("", ""))


@pytest.mark.parametrize("megabytes", [1000, 2500])
def test_little_memory_is_an_error_and_no_traceback(megabytes: int, data: Path, tmp_path: Path) -> None:
    """Below what PyTorch needs of address space to be imported."""
    size = megabytes << 20
    ran = subprocess.run(
        [sys.executable, "-m", "featcache_cli.entry", "extract", data, "-o", tmp_path / "c.h5", *SMALL],
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_AS, (size, size)),
    )
    if ran.returncode == 0:
        pytest.skip("this machine's PyTorch is content with so little")
    assert ran.returncode == 1, ran.stderr
    assert "Error: out of memory (" in ran.stderr
    assert f"This process is limited to {size / 2**30:.1f} GiB (ulimit -v)" in " ".join(ran.stderr.split())
    assert "Traceback" not in ran.stderr


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (MemoryError(), "out of memory (MemoryError)."),
        (
            RuntimeError("[enforce fail at alloc_cpu.cpp:127] DefaultCPUAllocator: can't allocate memory"),
            "out of memory (",
        ),
        (RuntimeError("std::bad_alloc"), "out of memory (std::bad_alloc)."),
        (
            RuntimeError("CUDA out of memory. Tried to allocate 2 GiB"),
            "the GPU is out of memory (CUDA out of memory.",
        ),
        (
            RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
            "the GPU is out of memory (CUDA error: CUBLAS_STATUS_ALLOC_FAILED when",
        ),
        (ImportError("libtorch.so: failed to map segment from shared object"), "out of memory (libtorch.so"),
        (ModuleNotFoundError("No module named foo"), ""),
        (RuntimeError("shapes do not match"), ""),
    ],
)
def test_what_libraries_say_of_memory_is_known(error: Exception, said: str) -> None:
    found = explain_memory_error(error)
    assert found.startswith(said)
    assert bool(found) == bool(said)
    wrapped = ValueError("outer")
    wrapped.__cause__ = error
    assert bool(explain_memory_error(wrapped)) == bool(said)
