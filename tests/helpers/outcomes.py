"""A `Comparison` with numbers that are easy to calculate with."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest

from featcache._utils.progress_bar import Progress
from featcache.analysis.benchmark import routes, runner
from featcache.analysis.benchmark.outcomes import COLD, WARM, Comparison, Outcome
from featcache.analysis.benchmark.routes import ROUTES, RouteTask
from featcache.heads.registry import find_head


def outcome(route: str, **changes: Any) -> Outcome:
    fields: dict[str, Any] = {
        "accuracy": [0.9],
        "n": 100,
        "test_accuracy": [],
        "test_n": 0,
        "wall_s": [20.0],
        "cpu_s": [30.0],
        "seconds": {"imports": 2.0},
        "shown": 1000,
        "epoch_s": None,
        "skipped": [],
        "device": None if route == WARM else "cpu",
        "precision": None if route == WARM else "fp32",
        "tf32": None if route == WARM else False,
        "compiled": None if route == WARM else False,
        "peak_memory_bytes": 3_000_000_000,
        "peak_gpu_memory_bytes": None,
        "size_bytes": 5_000_000,
    }
    return Outcome(route=route, **{**fields, **changes})


def comparison(*outcomes: Outcome, epochs: int = 10, **settings: Any) -> Comparison:
    fixed: dict[str, Any] = {
        "data": "hymenoptera",
        "backbone": "resnet18",
        "weights": "pretrained",
        "views": 4,
        "view_recipes": {"cached": "gentle", "live": "gentle"},
        "head": "linear",
        "recipe": {"epochs": epochs, "batch_size": 32, "lr": 0.01},
        "precision": "auto",
        "train_precision": "fp32",
        "images": {"train": 244, "val": 100, "test": 0},
        "seed": 0,
        "repeats": 1,
        "routes": ["cached", "frozen", "finetune"],
    }
    machine = {"processor": "Abacus", "cores": 2, "system": "Linux"}
    return Comparison(list(outcomes), {**fixed, **settings}, machine, {"python": "3.11.7", "torch": "2.11.0"})


def answers(*right: int, n: int = 100) -> list[dict[str, bool]]:
    """For each repeat the answers of n images, of which the first ones are right."""
    return [{f"{image:03d}.png": image < count for image in range(n)} for count in right]


def four_routes() -> Comparison:
    """Cold 60 s, warm 4 s, frozen 10 s + 10 x 11 s, fine-tuning better and slower."""
    return comparison(
        outcome(
            COLD,
            accuracy=[0.94],
            right=answers(94),
            wall_s=[60.0],
            shown=1320,
            seconds={"imports": 5.0, "forward": 40.25},
        ),
        outcome(WARM, accuracy=[0.94], right=answers(94), wall_s=[4.0], shown=0, seconds={"imports": 1.5, "fit": 0.5}),
        outcome(
            ROUTES["frozen"],
            accuracy=[0.93],
            right=answers(93),
            wall_s=[120.0],
            epoch_s=11.0,
            shown=3440,
            size_bytes=6_000_000,
            seconds={"imports": 4.0, "train": 110.0},
        ),
        outcome(
            ROUTES["finetune"],
            accuracy=[0.96],
            right=answers(96),
            wall_s=[300.0],
            epoch_s=29.0,
            shown=3440,
            size_bytes=14_000_000,
            seconds={"imports": 4.0, "train": 290.0},
            peak_memory_bytes=4_000_000_000,
        ),
    )


def fake_processes(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """Processes that answer at once, with values that depend on the seed; returns the tasks but those of curves.

    "auto" takes lda, and heads that choose layers take two, unless the layer is named.
    """
    tasks: list[dict[str, Any]] = []

    def answer(task: dict[str, Any], progress: Any) -> dict[str, Any]:
        if task["task"] == "curve":
            return {"over": task["over"], "head": task["head"], "n": 10, "points": []}
        tasks.append(task)
        seed = task.get("seed", 0)
        result = {
            "accuracy": 0.5 + seed / 10,
            "n": 10,
            "test": None,
            "peak_memory_bytes": 100 + seed,
            "peak_gpu_memory_bytes": None,
            "device": "cpu",
            "precision": "fp32",
            "tf32": False,
            "compiled": False,
            "images": 26,
            "shown": 39,
            "wall_s": 10.0 + seed,
            "cpu_s": 20.0 + seed,
            "history": [],
            "classes": ["ants", "bees"],
        }
        result |= {
            "seconds": {"train": 1.0 + seed, "wall": 8.0 + seed},
            "size_bytes": 1000 + seed,
            "path": task["out"],
        }
        if task["task"] == "fit-head":
            layers = ["penultimate", "blocks.0"] if find_head(task["head"]).layer != "penultimate" else ["penultimate"]
            result |= {"head": "lda" if task["head"] == "auto" else task["head"]}
            result |= {"layers": [task["layer"]] if "layer" in task else layers}
        if task["task"] == "finetune":
            Path(task["out"]).mkdir(parents=True)
            (Path(task["out"]) / "w").write_bytes(b"x" * (7 + seed))
            result |= {
                "best_epoch": 1,
                "history": [{"seconds": 2.0 + seed, "loss": 0.6}, {"seconds": 4.0 + seed, "loss": 0.5}],
            }
        return result

    monkeypatch.setattr(runner, "run_in_process", answer)
    return tasks


def in_this_process(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Run the routes in this process, where the packages are imported; returns the tasks."""
    tasks: list[str] = []

    def run(task: RouteTask, progress: Progress) -> dict[str, Any]:
        started = time.perf_counter()
        task = json.loads(json.dumps(task | routes._import_paths(task)))
        tasks.append(task.pop("task"))
        result = json.loads(json.dumps(routes._TASKS[tasks[-1]](task, progress)))
        return {**result, "wall_s": time.perf_counter() - started, "cpu_s": 1.0}

    monkeypatch.setattr(runner, "run_in_process", run)
    return tasks
