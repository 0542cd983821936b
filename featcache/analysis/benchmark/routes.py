"""The routes to a classifier: the tasks of each, and how a task runs in a child process.

`python -m featcache.analysis.benchmark.routes` is the child. It reads its task as JSON from standard input and answers
with JSON lines. The wall time of a route runs from the start of its process to its end, imports included, and its peak
memory is that of the process.
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
from featcache._utils.timing import PhaseTimer
from featcache.core.options import (
    DeterminismOptions,
    DeviceOptions,
    ExtractOptions,
    FeatureOptions,
    LiveOptions,
    LoaderOptions,
    SplitOptions,
    TextOptions,
    ViewCount,
    fields_of,
    manifest_keywords,
)
from featcache.core.specs import PENULTIMATE
from featcache.data.modality import IMAGES, TEXTS
from featcache.finetuning.pipelines.registry import LIVE_PIPELINES
from featcache.heads.registry import find_head

RouteTask = dict[str, Any]

# Ordered by expected cost.
ROUTES = {
    "cached": "cached head",
    "tfidf": "TF-IDF",
    "frozen": "frozen, live every epoch",
    "lpft": "LP-FT",
    "finetune": "fine-tune",
    "scratch": "from scratch",
}


TRAINED = ("frozen", "lpft", "finetune", "scratch")
"""The routes that train in epochs."""

_ONLY = {"tfidf": TEXTS.name}
"""Routes that one modality has."""


def routes_for(modality: str) -> tuple[str, ...]:
    """The routes for samples of this modality, "image" or "text"."""
    return tuple(route for route in ROUTES if _ONLY.get(route, modality) == modality)


class BenchmarkOptions(
    FeatureOptions, TextOptions, ViewCount, SplitOptions, DeviceOptions, DeterminismOptions, LoaderOptions, total=False
):
    """`LiveOptions`, which all routes get, and those of the routes that extract."""


SHARED = ("data", "backbone", "weights", "network_sha256", *fields_of(LiveOptions))
"""Settings that every route gets, where they are set."""

LAYERS: str = fields_of(ExtractOptions)["layers"].option.default
"""The layers that the route "cached" extracts."""


def tasks_for_route(
    route: str, root: Path, seed: int, settings: Mapping[str, Any], cached_fit: Mapping[str, Any] | None = None
) -> list[RouteTask]:
    """The tasks of a route for one seed, in its folder `root`/ROUTE-SEED; each task is a process.

    A network continues from a linear layer on the penultimate features. LP-FT starts from the head of the route
    "cached" if it is such a layer; otherwise it fits one.

    settings : of `benchmark`. cached_fit : the result of the fit of "cached" with this seed, whose cache LP-FT uses.
    Without it, LP-FT extracts its own.
    """
    folder, head = root / f"{route}-{seed}", settings["head"]
    shared = {name: settings[name] for name in SHARED if name in settings} | {"seed": seed}
    if route == "tfidf":
        texts = {name: shared[name] for name in ("data", *fields_of(SplitOptions)) if name in shared}
        return [{"task": "tfidf", "out": str(folder / "run"), "seed": seed, **texts}]
    if route == "cached":
        return [_extraction(folder, shared, settings), _fitting(folder, folder, head, seed)]
    live = {"task": "finetune", "out": str(folder / "run"), **shared, "mode": "head" if route == "frozen" else "all"}
    live |= {"precision": settings["train_precision"], "recipe": config_of_route(route, settings)}
    if route == "scratch":
        live["weights"] = "none"
    if route != "lpft":
        return [live]
    cached = folder if cached_fit is None else root / f"cached-{seed}"
    if cached_fit is not None and _starts_network(cached_fit):
        return [live | {"init_head": str(cached / "head")}]
    extraction = [_extraction(folder, shared, settings)] if cached_fit is None else []
    fitting = _fitting(folder, cached, head if find_head(head).linear else "linear", seed) | {"layer": PENULTIMATE}
    return [*extraction, fitting, live | {"init_head": fitting["out"]}]


def config_of_route(route: str, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Fields of `TrainConfig` of a live route.

    All have the epochs of the settings. LP-FT and a head on a frozen network have other defaults of the modality, such
    as an optimizer, learning rate and schedule.
    """
    if route not in ("frozen", "lpft"):
        return dict(settings["recipe"])
    pipeline = LIVE_PIPELINES.get(settings.get("modality", IMAGES.name))
    own = pipeline.default_config("head" if route == "frozen" else "all", route == "lpft")
    return {**settings["recipe"], **{name: value for name, value in own.items() if name != "epochs"}}


def _starts_network(fit: Mapping[str, Any]) -> bool:
    """Whether a fitted head can be the last layer of the network: it is linear, on the penultimate layer alone."""
    return find_head(fit["head"]).linear and fit["layers"] == [PENULTIMATE]


def _extraction(folder: Path, shared: RouteTask, settings: Mapping[str, Any]) -> RouteTask:
    only_cached = {*fields_of(FeatureOptions), *fields_of(ViewCount)} - {*SHARED}
    cached = {name: settings[name] for name in sorted(only_cached) if name in settings}
    return {"task": "extract", "out": str(folder / "cache.h5"), **shared, **cached, "layers": LAYERS}


def _fitting(folder: Path, cached: Path, head: str, seed: int) -> RouteTask:
    cache, out = str(cached / "cache.h5"), str(folder / "head")
    return {"task": "fit-head", "cache": cache, "out": out, "head": head, "seed": seed}


def run_in_process(task: RouteTask, progress: Progress | None = None) -> dict[str, Any]:
    """Run a task in a new Python process.

    Returns its result with `wall_s` and `cpu_s` (core-seconds), start and imports included. Raises the FeatcacheError
    of the child.
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
        with suppress(BrokenPipeError), child.stdin:  # the exit status below reports a child that died
            child.stdin.write(json.dumps(task | _import_paths(task)))
        for line in child.stdout:
            if not line.endswith("\n"):
                break  # the child died while writing
            message = json.loads(line)
            if "error" in message:
                raise getattr(errors, message["error"])(message["text"])
            if "progress" in message and progress:
                progress(*message["progress"])
            result = message.get("result", result)
        if child.wait() != 0 or result is None:
            raise errors.FeatcacheError(
                f"the process of route {task['task']} ended with status {child.returncode}; "
                "see its message above. Run the same command again."
            )
    finally:
        child.kill()
        child.wait()
        child.stdout.close()
    after = os.times()  # the child has ended, so the times of children include it
    cpu_s = after.children_user + after.children_system - before.children_user - before.children_system
    return {**result, "wall_s": time.perf_counter() - started, "cpu_s": cpu_s}


def _import_paths(task: RouteTask) -> RouteTask:
    """The paths from which a child imports the factory of a network: those of this process."""
    from featcache.backbones.factory import is_factory

    if not is_factory(str(task.get("backbone"))):
        return {}
    return {"import_from": [os.path.abspath(path) for path in sys.path]}


def _extract(task: RouteTask, progress: Progress) -> dict[str, Any]:
    from featcache.data.manifest import read_manifest
    from featcache.extraction.extract import extract

    task = _arguments(task, task.get("precision", "auto"))
    timer = PhaseTimer()
    with timer.phase("hash"):
        manifest = read_manifest(task.pop("data"), **manifest_keywords(task), progress=progress).labeled("benchmark")
    hash_s = timer.seconds()["hash"]
    result = extract(manifest, progress=progress, **task).to_dict()
    return {**result, "seconds": {**result["seconds"], "hash": hash_s, "wall": result["seconds"]["wall"] + hash_s}}


def _arguments(task: RouteTask, precision: str) -> RouteTask:
    """The arguments of a task: the value range as a pair, and the network of a factory instead of its name."""
    from featcache.backbones.factory import from_factory, is_factory

    task = dict(task)
    expected = task.pop("network_sha256", None)
    if "value_range" in task:
        task["value_range"] = tuple(task["value_range"])
    if not is_factory(task["backbone"]):
        return task
    paths = task.pop("import_from", ())
    sys.path[:] = [*paths, *(path for path in sys.path if path not in paths)]  # for the same module
    name, layers = task["backbone"], task.get("layers", (PENULTIMATE,))
    network = from_factory(name, layers=layers, device=task["device"], precision=precision)
    if network.weights_sha256 != expected:
        raise changing_weights(name)
    return {**task, "backbone": network}


def changing_weights(factory: str) -> errors.BackboneError:
    """The error of a factory whose weights change from call to call."""
    return errors.BackboneError(
        f"{factory} returns other weights in each call, so the routes cannot be compared: load the weights from a "
        "file, or draw them with a fixed seed."
    )


def _fit_head(task: RouteTask, progress: Progress) -> dict[str, Any]:
    from featcache.heads.fit_head import fit_head

    return fit_head(**task).to_dict()


def _finetune(task: RouteTask, progress: Progress) -> dict[str, Any]:
    from featcache.finetuning.finetune import finetune
    from featcache.finetuning.precision import training_precision

    task = _arguments(task, training_precision(task["precision"], task["device"], task["mode"]))
    config = task.pop("recipe")
    return finetune(progress=progress, config=config, **task).to_dict()


def _tfidf(task: RouteTask, progress: Progress) -> dict[str, Any]:
    from featcache.analysis.benchmark.tfidf import fit_tfidf

    return fit_tfidf(progress=progress, **task).to_dict()


def _curve(task: RouteTask, progress: Progress) -> dict[str, Any]:
    from featcache.analysis.curves import curve

    return curve(progress=progress, **task).to_dict()


_TASKS: dict[str, Callable[[RouteTask, Progress], dict[str, Any]]] = {
    "extract": _extract,
    "fit-head": _fit_head,
    "finetune": _finetune,
    "tfidf": _tfidf,
    "curve": _curve,
}


def _main() -> int:
    keep_freed_memory()
    task = json.load(sys.stdin)
    answers = sys.stdout
    sys.stdout = sys.stderr  # the output of libraries must not mix with the answers

    def answer(**message: Any) -> None:
        answers.write(json.dumps(json_safe(message)) + "\n")
        answers.flush()

    def progress(what: str, done: int, total: int) -> None:
        answer(progress=[what, done, total])

    try:
        answer(result=_TASKS[task.pop("task")](task, progress))
    except errors.FeatcacheError as error:
        answer(error=type(error).__name__, text=str(error))
    return 0


if __name__ == "__main__":
    sys.exit(_main())
