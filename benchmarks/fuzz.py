"""Damage files of every kind that featcache reads, and read them. Each must give the right values or an error.

    python benchmarks/fuzz.py [--cases 10000] [--seed 0] [--seconds 60] [--kinds heads tars]

Every kind gets the same number of cases, or fewer if they take more than `--seconds`. The results count the cases
that ran. A case changes a valid file (see `mutations`) and reads it as the library does (see `fuzz_kinds`). Faults
are:

- any error except a FeatcacheError,
- wrong values from a file that has a checksum,
- more than a second of processor time, or more than 500 MB of memory,
- more than 20 warnings,
- a program that starts, a network connection, or a file opened for writing elsewhere,
- a process that dies or hangs.

Cases run in child processes. After a case that killed its process, a new process continues with the next case. Each
fault is reported with one case: `--kinds KIND --case NUMBER` runs only that case. Writes results/fuzz.json. The exit
status is 1 if there is a fault.
"""

from __future__ import annotations

import argparse
import faulthandler
import json
import multiprocessing
import os
import resource
import sys
import tempfile
import time
import traceback
import warnings
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any

import record
from fuzz_kinds import KINDS, Target

from featcache.errors import FeatcacheError

CASES_A_CHILD = 1000
_MOST_CPU_S, _MOST_BYTES, _MOST_WARNINGS = 1.0, 500 * 2**20, 20
_ADDRESS_SPACE = 4 * 2**30  # beside what is there at the start
_HANGS_S = 60
_ACTS = ("os.system", "os.exec", "os.posix_spawn", "os.fork", "subprocess.Popen", "pty.spawn", "socket.connect")
_MODULES = [
    "fuzz_kinds",
    "skops.io",
    "datasets",
    "pyarrow.parquet",
    "timm",
    "featcache.finetuning.finetune",
    "PIL.TiffImagePlugin",
]
_LIBRARY = os.sep + "featcache" + os.sep


@dataclass
class Found:
    """The result of one kind. faults : for each fault, its first full message, the case, and the count."""

    cases: int = 0
    slowest_s: float = 0.0
    outcomes: Counter[str] = field(default_factory=Counter)
    faults: dict[str, dict[str, Any]] = field(default_factory=dict)

    def fault(self, what: str, case: int) -> None:
        """Count one fault. Faults at the same place differ only after the colon."""
        self.faults.setdefault(what.partition(": ")[0], {"what": what, "case": case, "times": 0})["times"] += 1


def _error_of(error: BaseException) -> str:
    """An error's type and the last lines of the library in its traceback."""
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if _LIBRARY in frame.filename]
    at = " < ".join(f"{Path(frame.filename).name}:{frame.lineno}" for frame in frames[:-4:-1])
    return f"{type(error).__name__} at {at or '?'}: {str(error)[:100]!r}"


class _Child:
    """Runs cases of a kind, and writes a line of JSON to a log before and after each case."""

    def __init__(self, kind: str, folder: str, seed: int, log: str) -> None:
        self._log = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        os.environ |= {"XDG_CACHE_HOME": f"{folder}/kept", "TMPDIR": folder, "HF_DATASETS_CACHE": f"{folder}/hub"}
        tempfile.tempdir = folder
        stderr = os.open(f"{log}.stderr", os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        os.dup2(stderr, 2)
        faulthandler.enable(file=sys.__stderr__)
        import torch

        torch.set_num_threads(1)
        self._kind, self._seed, self._folder = kind, seed, os.path.realpath(folder)
        files = Path(folder, "files")
        files.mkdir()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            self._targets = KINDS[kind](files)
            self._expected = {id(target): self._of_valid(target) for target in self._targets}
        self._acts: list[str] = []
        sys.addaudithook(self._audit)
        virtual = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (virtual + _ADDRESS_SPACE,) * 2)
        self._most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        self._base = self._most

    @staticmethod
    def _of_valid(target: Target) -> Any:
        try:
            target.use()  # the first time some modules are imported, and files made
            target.path.write_bytes(target.whole)
            return target.use()
        except FeatcacheError as error:
            if not target.refused:
                raise
            return type(error)
        finally:
            target.path.write_bytes(target.whole)

    def _audit(self, event: str, arguments: tuple[Any, ...]) -> None:
        if event in _ACTS:
            self._acts.append(f"{event} {str(arguments)[:80]}")
        elif event == "os.mkdir" and os.path.basename(os.fsdecode(arguments[0])) == "executed":
            self._acts.append("the code of a pickle")
        elif event == "open" and isinstance(arguments[0], (str, bytes)) and arguments[2] & (os.O_WRONLY | os.O_RDWR):
            path = os.path.realpath(os.fsdecode(arguments[0]))
            if not path.startswith((self._folder, "/dev/")):
                self._acts.append(f"writing {path[:80]}")

    def _say(self, **line: Any) -> None:
        os.write(self._log, (json.dumps(line) + "\n").encode())

    def run(self, numbers: range, until: float) -> None:
        """Until the time is over."""
        for number in numbers:
            if time.monotonic() > until:
                break
            self._say(begin=number)
            self._case(number)

    def _case(self, number: int) -> None:
        chance = Random(f"{self._kind} {self._seed} {number}")
        target = chance.choice(self._targets)
        data = target.mutate(target.whole, target.others, chance)
        target.path.write_bytes(data)
        used = resource.getrusage(resource.RUSAGE_SELF)
        seconds = int(used.ru_utime + used.ru_stime) + 20
        resource.setrlimit(resource.RLIMIT_CPU, (seconds, resource.RLIM_INFINITY))
        self._acts.clear()
        started, faults = time.process_time(), []
        with warnings.catch_warnings(record=True) as warned:
            warnings.simplefilter("always")
            try:
                result = target.use()
                outcome = self._judge(target, result, data)
            except FeatcacheError as error:
                outcome = type(error).__name__
                if not str(error).strip():
                    faults.append("an error without a text")
            except BaseException as error:
                outcome = _error_of(error)
                faults.append(outcome)
        cpu_s = time.process_time() - started
        if outcome.startswith("OTHER"):
            faults.append(outcome)
        if cpu_s > _MOST_CPU_S:
            faults.append(f"more than a second of processor time ({target.path.name}, {outcome[:60]})")
        most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        if most > max(self._most, self._base + _MOST_BYTES):
            faults.append(f"more than 500 MB ({target.path.name}, {outcome[:60]})")
        self._most = max(most, self._most)
        if len(warned) > _MOST_WARNINGS:
            faults.append(f"{_MOST_WARNINGS} warnings or more, such as {str(warned[0].message)[:60]!r}")
        faults += list(self._acts)
        self._say(end=number, outcome=outcome, cpu_s=cpu_s, faults=faults)
        target.path.write_bytes(target.whole)

    def _judge(self, target: Target, result: Any, data: bytes) -> str:
        expected = self._expected[id(target)]
        if data in target.others:
            return "another valid file"
        if data == target.whole or isinstance(expected, type) or not target.sealed:
            return "the same" if result == expected else "other values, of what has no checksum"
        return "the same" if target.same(result, expected) else f"OTHER VALUES of {target.path.name}"


def _work(kind: str, folder: str, seed: int, log: str, numbers: range, until: float) -> None:
    _Child(kind, folder, seed, log).run(numbers, until)


def _wait(process: Any, log: Path) -> bool:
    """Wait for a child; kill it if it logs nothing for too long. Return whether it was killed."""
    size, since = -1, time.monotonic()
    while process.is_alive():
        process.join(1)
        now = log.stat().st_size if log.exists() else 0
        if now != size:
            size, since = now, time.monotonic()
        elif time.monotonic() - since > _HANGS_S:
            process.kill()
            process.join()
            return True
    return False


def _context() -> Any:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(_MODULES)
    return context


def run(kind: str, cases: int, seed: int, seconds: float = float("inf"), first: int = 0) -> Found:
    """Run the cases `first`, `first` + 1, ... of a kind in child processes.

    Parameters
    ----------
    kind : a name of `KINDS`.
    seconds : after this time no case starts.
    """
    context, summary, until = _context(), Found(), time.monotonic() + seconds
    number, end = first, first + cases
    while number < end and time.monotonic() < until:
        numbers = range(number, min(end, number + CASES_A_CHILD))
        with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
            files, log = Path(folder, "place"), Path(folder, "log")
            files.mkdir()
            process = context.Process(target=_work, args=(kind, str(files), seed, str(log), numbers, until))
            process.start()
            hung = _wait(process, log)
            lines = [json.loads(line) for line in log.read_bytes().splitlines()] if log.exists() else []
            errors = Path(f"{log}.stderr").read_text(errors="replace")
        begun = [line["begin"] for line in lines if "begin" in line]
        for line in (line for line in lines if "end" in line):
            summary.outcomes[line["outcome"].partition(" at ")[0]] += 1
            summary.slowest_s = max(summary.slowest_s, line["cpu_s"])
            for fault in line["faults"]:
                summary.fault(fault, line["end"])
        summary.cases += len(begun)
        if process.exitcode == 0:
            number = numbers.stop
            continue
        if not begun:
            summary.fault(f"no case ran: {errors[-2000:]}", number)
            break
        dead = "hung" if hung else f"died with {process.exitcode}"
        summary.outcomes[f"the process {dead}"] += 1
        summary.fault(f"the process {dead}: {errors[:500]}", begun[-1])
        number = begun[-1] + 1
    return summary


def table(answer: dict[str, dict[str, Any]]) -> str:
    """As a Markdown table."""
    rows = ["| kind | cases | the same | other values, no checksum | refused | faults |", "|---|---|---|---|---|---|"]
    for kind, summary in answer.items():
        outcomes = summary["outcomes"]
        same, others = outcomes.get("the same", 0), outcomes.get("other values, of what has no checksum", 0)
        refused = sum(count for name, count in outcomes.items() if name.endswith("Error"))
        faults = sum(fault["times"] for fault in summary["faults"])
        rows.append(f"| {kind} | {summary['cases']:,} | {same:,} | {others:,} | {refused:,} | {faults:,} |")
    return "\n".join(rows)


def main() -> None:
    """Run, count, print and write JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--seconds", type=float, default=float("inf"), help="maximum for each kind")
    parser.add_argument("--kinds", nargs="*", default=list(KINDS), choices=list(KINDS))
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--case", type=int, help="run only this case; write no results")
    options = parser.parse_args()
    measured = record.commit()

    def work(kind: str) -> Found:
        cases, first = (1, options.case) if options.case is not None else (options.cases, 0)
        return run(kind, cases, options.seed, options.seconds, first)

    with ThreadPoolExecutor(options.workers) as pool:
        founds = dict(zip(options.kinds, pool.map(work, options.kinds), strict=True))
    answer: dict[str, Any] = {
        kind: {
            "cases": summary.cases,
            "slowest_s": round(summary.slowest_s, 2),
            "outcomes": dict(sorted(summary.outcomes.items())),
            "faults": list(summary.faults.values()),
        }
        for kind, summary in founds.items()
    }
    if options.case is None and options.kinds == list(KINDS):
        record.write("fuzz", {"seed": options.seed, "kinds": answer}, measured)
    else:
        print(json.dumps(answer, indent=1))
    print(table(answer))
    sys.exit(any(summary.faults for summary in founds.values()))


if __name__ == "__main__":
    main()
