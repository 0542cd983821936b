"""The routes to a classifier: what each is ordered to do, in processes of its own.

`python -m featcache.analysis.benchmark.routes` is the child's side.

A route's wall time runs from the start of its process to its end, imports included, and its peak memory is its
own. The child reads its order as JSON from standard input and answers with JSON lines.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from featcache import errors
from featcache._utils.environment import keep_freed_memory
from featcache._utils.formatting import json_safe
from featcache._utils.progress_bar import Progress
from featcache.core.specs import PENULTIMATE
from featcache.finetuning.strategy import LP_FT_DEFAULTS

RouteTask = dict[str, Any]

# In the order of what they can be expected to cost.
ROUTES = {
    "cached": "cached head",
    "stages": "cached head of all stages",
    "frozen": "frozen, live every epoch",
    "lpft": "LP-FT",
    "finetune": "fine-tune",
    "scratch": "from scratch",
}
CACHED = ("cached", "stages")  # those that extract, and fit a head on the cache


def tasks_for_route(
    route: str, work: Path, seed: int, settings: Mapping[str, Any], shares_cache: bool = True
) -> list[RouteTask]:
    """What a route does for one seed, in its folder `work`/ROUTE-SEED; each order is a process.

    settings : of `compare`. shares_cache : whether LP-FT starts from the cache, and the head, of the route "cached"
    with this seed. Without, or where that head is no linear layer, it makes its own.
    """
    from featcache.heads.linear_layer import (
        LINEAR_HEADS,  # of scikit-learn, which a child that extracts does not wait for
    )

    folder, head = work / f"{route}-{seed}", settings["head"]
    named = ("data", "backbone", "augment", "image_size", "workers", "device", "val_fraction", "allow_leak")
    columns = [name for name in ("label_column", "skip_missing", "value_range", "network_sha256") if name in settings]
    shared = {**{name: settings[name] for name in (*named, *columns)}, "weights": settings["weights"], "seed": seed}
    if route in CACHED:
        return [_extraction(folder, route, shared, settings), _fitting(folder, folder, head, route, seed)]
    live = {"task": "finetune", "out": str(folder / "run"), **shared, "mode": "head" if route == "frozen" else "all"}
    live |= {"precision": settings["train_precision"], "recipe": settings["recipe"]}
    if route == "scratch":
        live["weights"] = "none"
    if route != "lpft":
        return [live]
    cached = work / f"cached-{seed}" if shares_cache else folder
    starts = cached if head in LINEAR_HEADS else folder
    live |= {"init_head": str(starts / "head")}
    live |= {"recipe": {**settings["recipe"], **LP_FT_DEFAULTS}}
    extraction = [] if shares_cache else [_extraction(folder, "cached", shared, settings)]
    fitted = starts == cached and shares_cache
    fitting = [] if fitted else [_fitting(folder, cached, head if head in LINEAR_HEADS else "linear", "cached", seed)]
    return [*extraction, *fitting, live]


def _extraction(folder: Path, route: str, shared: RouteTask, settings: Mapping[str, Any]) -> RouteTask:
    own = {"views": settings["views"], "precision": settings["precision"]}
    layers = {"layers": ["stages"]} if route == "stages" else {}
    return {"task": "extract", "out": str(folder / "cache.h5"), **shared, **own, **layers}


def _fitting(folder: Path, cached: Path, head: str, route: str, seed: int) -> RouteTask:
    layer = {"layer": "all"} if route == "stages" else {}
    order = {"task": "fit-head", "cache": str(cached / "cache.h5"), "out": str(folder / "head")}
    return {**order, "head": head, "seed": seed, **layer}


def run_in_process(order: RouteTask, progress: Progress | None = None) -> dict[str, Any]:
    """Run one order in a fresh Python; returns its result with `wall_s` and `cpu_s` (core-seconds),
    start and imports included.

    Raises the FeatcacheError that the child raised.
    """
    started, before = time.perf_counter(), os.times()
    child = subprocess.Popen(
        [sys.executable, "-m", "featcache.analysis.benchmark.routes"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    if child.stdin is None or child.stdout is None:
        raise AssertionError("both are pipes")
    result: dict[str, Any] | None = None
    try:
        with suppress(BrokenPipeError), child.stdin:  # a child that died at once is found out below
            child.stdin.write(json.dumps(order | _imports(order)))
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


def _imports(order: RouteTask) -> RouteTask:
    """Where a child finds the module of a network of the user's own: where this process does."""
    from featcache.backbones.factory import is_factory

    if not is_factory(str(order.get("backbone"))):
        return {}
    return {"import_from": [os.path.abspath(place) for place in sys.path]}


def _extract(order: RouteTask, progress: Progress) -> dict[str, Any]:
    from featcache.extraction.extract import extract

    order = _given(order, order.get("precision", "auto"))
    return extract(progress=progress, **order).to_dict()


def _given(order: RouteTask, precision: str) -> RouteTask:
    """The arguments of an order, with its range as a pair, and a network of the user's own instead of its name."""
    from featcache.backbones.factory import from_factory, is_factory

    order = dict(order)
    expected = order.pop("network_sha256", None)
    if "value_range" in order:
        order["value_range"] = tuple(order["value_range"])
    if not is_factory(order["backbone"]):
        return order
    places = order.pop("import_from", ())
    sys.path[:] = [*places, *(place for place in sys.path if place not in places)]  # the same module of a name
    name, layers = order["backbone"], order.get("layers", (PENULTIMATE,))
    network = from_factory(name, layers=layers, device=order["device"], precision=precision)
    if network.weights_sha256 != expected:
        raise changing_weights(name)
    return {**order, "backbone": network}


def changing_weights(factory: str) -> errors.BackboneError:
    """The error of a factory whose networks differ."""
    return errors.BackboneError(
        f"{factory} returns other weights each time, so that routes cannot be compared: load them from a file, or "
        "draw them with a seed of its own."
    )


def _fit_head(order: RouteTask, progress: Progress) -> dict[str, Any]:
    from featcache.heads.fit_head import fit_head

    return fit_head(**order).to_dict()


def _finetune(order: RouteTask, progress: Progress) -> dict[str, Any]:
    from featcache.finetuning.finetune import finetune, trainable_precision

    precision = order["precision"]
    if (order["mode"], precision) == ("all", "auto"):
        precision = trainable_precision(order["device"])
    order = _given(order, precision)
    return finetune(progress=progress, **order).to_dict()


def _curve(order: RouteTask, progress: Progress) -> dict[str, Any]:
    from featcache.analysis.curves import label_curve, view_curve

    draw = view_curve if order.pop("over") == "views" else label_curve
    return draw(progress=progress, **order).to_dict()


_TASKS: dict[str, Callable[[RouteTask, Progress], dict[str, Any]]] = {
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
        answers.write(json.dumps(json_safe(message)) + "\n")
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
