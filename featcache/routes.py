"""The routes to a classifier, each run in a process of its own: `python -m featcache.routes` is the child's side.

A route's wall time runs from the start of its process to its end, imports included, and its peak memory is its
own. The child reads its order as JSON from standard input and answers with JSON lines.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from featcache import errors
from featcache.allocator import keep_freed_memory
from featcache.files import Progress
from featcache.report import finite

Order = dict[str, Any]

ROUTES = {
    "cached": "cached head",
    "frozen": "frozen, live every epoch",
    "finetune": "fine-tune",
    "scratch": "from scratch",
}


def run_in_process(order: Order, progress: Progress | None = None) -> dict[str, Any]:
    """Run one order in a fresh Python; returns its result with `wall_s` and `cpu_s` (core-seconds),
    start and imports included.

    Raises the FeatcacheError that the child raised.
    """
    started, before = time.perf_counter(), os.times()
    child = subprocess.Popen(
        [sys.executable, "-m", "featcache.routes"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    if child.stdin is None or child.stdout is None:
        raise AssertionError("both are pipes")
    result: dict[str, Any] | None = None
    try:
        with suppress(BrokenPipeError), child.stdin:  # a child that died at once is found out below
            child.stdin.write(json.dumps(order))
        for line in child.stdout:
            if not line.endswith("\n"):
                break  # died in the middle of a word
            message = json.loads(line)
            if "error" in message:
                raise getattr(errors, message["error"])(message["text"])
            if "progress" in message and progress:
                progress(*message["progress"])
            result = message.get("result", result)
        if child.wait() != 0 or result is None:
            raise errors.FeatcacheError(
                f"the process of route {order['task']} ended with status {child.returncode}; "
                "its own message stands above. Run the same command again."
            )
    finally:
        child.kill()
        child.wait()
        child.stdout.close()
    after = os.times()  # the child has ended, so its processor time is counted among the children's
    cpu_s = after.children_user + after.children_system - before.children_user - before.children_system
    return {**result, "wall_s": time.perf_counter() - started, "cpu_s": cpu_s}


def _extract(order: Order, progress: Progress) -> dict[str, Any]:
    from featcache.extraction import extract

    return extract(progress=progress, **order).to_dict()


def _fit_head(order: Order, progress: Progress) -> dict[str, Any]:
    from featcache.fitting import fit_head

    return fit_head(**order).to_dict()


def _finetune(order: Order, progress: Progress) -> dict[str, Any]:
    from featcache.finetuning import finetune
    from featcache.training import Recipe

    return finetune(recipe=Recipe(**order.pop("recipe")), progress=progress, **order).to_dict()


def _curve(order: Order, progress: Progress) -> dict[str, Any]:
    from featcache.curves import label_curve, view_curve

    draw = view_curve if order.pop("over") == "views" else label_curve
    return draw(progress=progress, **order).to_dict()


_TASKS: dict[str, Callable[[Order, Progress], dict[str, Any]]] = {
    "extract": _extract,
    "fit-head": _fit_head,
    "finetune": _finetune,
    "curve": _curve,
}


def _main() -> int:
    keep_freed_memory()
    order = json.load(sys.stdin)
    answers = sys.stdout
    sys.stdout = sys.stderr  # whatever a library prints must not come between the answers

    def say(**message: Any) -> None:
        answers.write(json.dumps(finite(message)) + "\n")
        answers.flush()

    def progress(what: str, done: int, total: int) -> None:
        say(progress=[what, done, total])

    try:
        say(result=_TASKS[order.pop("task")](order, progress))
    except errors.FeatcacheError as error:
        say(error=type(error).__name__, text=str(error))
    return 0


if __name__ == "__main__":
    sys.exit(_main())
