"""Compare cached heads with fine-tuning in accuracy and time. Writes results/gap.json and results/gap.png.

    python benchmarks/gap.py [--sets digits,ants-bees,FOLDER] [--backbones efficientnet_lite0,mobilenet_v2]
                             [--seeds 0,1,2] [--routes 'ROUTE;...'] [--work FOLDER] [--minutes 60]

Each step of a route (extraction, fitting, training) is a separate process. Its clock runs from the start to the end
of the process. Cold seconds of a route are the sum of its steps. Warm seconds of a cached route are those of the fit
alone. The network was already converted by an earlier extraction; the time of that first extraction is reported
separately. The split is always the same; seeds change views, order and new weights.

Flips and crops reduce the accuracy on digits, so fine-tuning and LP-FT also run without them. LP-FT uses AdamW with a
low learning rate; fine-tuning uses SGD at 0.01, as in the tutorials. "fine-tune, AdamW" uses the optimizer of LP-FT,
to separate the effect of the optimizer from that of the fitted head. Live routes train in the fastest precision of
the machine, for 10 epochs with up to 500 training images and for 5 epochs with more. They keep their best epoch on
val, which biases their accuracy upward. The goals are judged twice: by the most accurate cached route that is fast
enough (its accuracy is biased upward), and by the cached route that cross-validation on train selects (no bias).

Runs that are in gap.json are not repeated, so different seeds can run on different days. Times are compared only
within one seed, where all routes ran on the same machine. mobilenet_v2 takes its weights from FEATCACHE_WEIGHTS; the
photos of ants-bees are in FEATCACHE_ANTS_BEES. Run the script on an idle machine.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import gap_report
import record

from featcache._utils.environment import machine_info, package_versions
from featcache.analysis.benchmark.routes import RouteTask, run_in_process
from featcache.data.manifest import read_manifest
from featcache.finetuning.strategy import LP_FT_DEFAULTS
from featcache.metrics.predictions import read_predictions
from featcache.reports.style import save
from featcache.vision.demo_datasets import prepare

RESULT = record.RESULTS / "gap.json"


@dataclass(frozen=True)
class Cached:
    """A head on the features of one extraction."""

    layers: str
    views: int
    layer: str | None = "penultimate"  # None: the layers that the head takes by default
    head: str = "linear"


@dataclass(frozen=True)
class Live:
    """A network that is trained; if `starts`, from the head of `START`."""

    starts: bool = False
    options: tuple[tuple[str, Any], ...] = ()
    gentle: bool = False
    weights: str | None = None


START = Cached("last", 4)
ONLY = {gap_report.OWN: "ants-bees"}
"""Routes for one set only: ants and bees are ImageNet classes."""

ROUTES: dict[str, Cached | Live] = {
    **{f"penultimate, K={views}": Cached("last", views) for views in (0, 1, 2, 4, 8, 16)},
    gap_report.DEFAULT: Cached("stages", 4, None, "auto"),
    "all stages": Cached("all", 0, "stages"),
    "all stages, LDA": Cached("all", 0, "stages", "lda"),
    "all stages, all pools": Cached("all", 0, "all"),
    "Head2Toe": Cached("all", 0, "all", "head2toe"),
    "all stages, all pools, K=4": Cached("all", 4, "all"),
    gap_report.OWN: Cached("last", 0, head="imagenet:ant,bee"),
    "LP-FT": Live(starts=True),
    "LP-FT, clean views": Live(starts=True, options=(("augment", "none"),)),
    "LP-FT, last stage": Live(starts=True, options=(("unfreeze", "last-stage"),)),
    "fine-tune": Live(),
    "fine-tune, AdamW": Live(gentle=True),
    "fine-tune, last stage": Live(options=(("unfreeze", "last-stage"),)),
    "fine-tune, clean views": Live(options=(("augment", "none"),)),
    "from scratch": Live(weights="none"),
}


class Group:
    """All routes on one set with one network and one seed. Shared steps run, and are timed, once."""

    def __init__(self, data: Path, backbone: str, seed: int, epochs: int, folder: Path) -> None:
        self.data, self.backbone, self.seed, self.epochs, self.folder = data, backbone, seed, epochs, folder
        self.weights = os.environ["FEATCACHE_WEIGHTS"] if backbone == "mobilenet_v2" else "pretrained"
        self.first: dict[str, float] = {}  # seconds of the extraction that converts the network

    def run(self, name: str) -> dict[str, Any]:
        """Accuracy and seconds of a route."""
        route = ROUTES[name]
        if isinstance(route, Cached):
            extracted, fitted, out = self._cached(route)
            costs = {"cold_s": extracted + fitted["wall_s"], "warm_s": fitted["wall_s"]}
            folds = fitted["selection"]["entrants"] if fitted["selection"] else []
            chosen = max((fold["accuracy"] for fold in folds), default=None)
            return {**self._judged(fitted, out), **costs, "cv_accuracy": chosen}
        before, start = 0.0, {}
        if route.starts:
            extracted, fitted, out = self._cached(START)
            before, start = extracted + fitted["wall_s"], {"init_head": str(out)}
        recipe = {"epochs": self.epochs, **(LP_FT_DEFAULTS if route.starts or route.gentle else {})}
        options = {**dict(route.options), **start, "weights": route.weights or self.weights, "recipe": recipe}
        out = self.folder / re.sub(r"\W+", "-", name)
        result = self._step({"task": "finetune", "precision": "auto", **options}, out)
        return {**self._judged(result, out), "cold_s": before + result["wall_s"], "warm_s": None}

    def _cached(self, route: Cached) -> tuple[float, dict[str, Any], Path]:
        """Seconds of the extraction, the output of the fit, and the folder of the head."""
        if route.layers not in self.first:
            shutil.rmtree(self.folder / "first", ignore_errors=True)
            order = {"task": "extract", "layers": [route.layers], "views": 4, "weights": self.weights}
            self.first[route.layers] = self._step(order, self.folder / "first" / f"{route.layers}.h5")["wall_s"]
        cache = self.folder / f"{route.layers}-{route.views}.h5"
        order = {"task": "extract", "layers": [route.layers], "views": route.views, "weights": self.weights}
        extracted = self._step(order, cache)
        out = self.folder / f"head-{route.layers}-{route.views}-{route.layer}-{route.head}"
        fit: RouteTask = {"task": "fit-head", "cache": str(cache), "layer": route.layer, "head": route.head}
        fitted = self._step(fit, out)
        return extracted["wall_s"], fitted | {"size_bytes": extracted["size_bytes"]}, out

    def _step(self, order: RouteTask, out: Path) -> dict[str, Any]:
        """Run one process, or load the stored output of the same task."""
        stored = out.with_name(f"{out.name}.json")
        order = {**order, "out": str(out), "seed": self.seed}
        if order["task"] != "fit-head":
            order |= {"data": str(self.data), "backbone": self.backbone}
        if not stored.exists() or json.loads(stored.read_text())["order"] != order:
            out.parent.mkdir(parents=True, exist_ok=True)
            shutil.rmtree(out) if out.is_dir() else out.unlink(missing_ok=True)
            made = {"commit": record.commit(), "versions": package_versions(), "machine": machine_info()}
            stored.write_text(json.dumps({"order": order, "answer": run_in_process(order), "made": made}))
        result = json.loads(stored.read_text())
        answer: dict[str, Any] = {**result["answer"], "made": result["made"]}
        return answer

    def _judged(self, result: dict[str, Any], out: Path) -> dict[str, Any]:
        wrong = [prediction.image for prediction in read_predictions(out) if prediction.label != prediction.predicted]
        figures = {name: result[name] for name in ("accuracy", "n", "size_bytes")}
        return {**figures, "wrong": wrong, **result["made"], "first_s": dict(self.first)}


def main() -> None:
    """Run the missing routes, write and print the summary."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sets", default="digits,ants-bees")
    parser.add_argument("--backbones", default="efficientnet_lite0,mobilenet_v2")
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--routes", help="separated by ';' [default: all]")
    parser.add_argument("--work", default="demo/gap", help="folder for caches and runs")
    parser.add_argument("--minutes", type=float, default=float("inf"), help="start no route after this time")
    options = parser.parse_args()
    sets, backbones = options.sets.split(","), options.backbones.split(",")
    chosen = options.routes.split(";") if options.routes else list(ROUTES)
    if unknown := set(chosen) - set(ROUTES):
        parser.error(f"there is no route {'; '.join(unknown)}: use {'; '.join(ROUTES)}")
    if len({Path(name).name for name in sets}) < len(sets):
        parser.error("two sets have the same name, by which their runs are kept")
    if "mobilenet_v2" in backbones and "FEATCACHE_WEIGHTS" not in os.environ:
        parser.error("mobilenet_v2 takes its weights from FEATCACHE_WEIGHTS, which is not set")
    end = time.perf_counter() + 60 * options.minutes
    work = Path(options.work)
    os.environ["XDG_CACHE_HOME"] = str((work / "home").absolute())  # the children's: networks are converted anew
    figures = json.loads(RESULT.read_text()) if RESULT.exists() else {"runs": []}
    runs = figures["runs"]
    for seed in map(int, options.seeds.split(",")):
        for name in sets:
            data = prepare(name, work)
            train = len(read_manifest(data).samples.rows("train"))
            for backbone in backbones:
                settings = {
                    "set": Path(name).name,
                    "backbone": backbone,
                    "seed": seed,
                    "epochs": 10 if train <= 500 else 5,
                }
                group = Group(data, backbone, seed, settings["epochs"], work / f"{settings['set']}-{backbone}-{seed}")
                for route in chosen:
                    exists = any({**settings, "route": route}.items() <= run.items() for run in runs)
                    if exists or time.perf_counter() > end or ONLY.get(route, settings["set"]) != settings["set"]:
                        continue
                    runs.append({**settings, "route": route, **group.run(route)})
                    RESULT.write_text(json.dumps({"runs": runs}, indent=1) + "\n")
                    print(f"{settings['set']} {backbone} seed {seed} {route}: {runs[-1]['accuracy']:.4f} "
                          f"in {runs[-1]['cold_s']:.1f} s", flush=True)  # fmt: skip
    summary = gap_report.summarise(runs)
    RESULT.write_text(json.dumps({"summary": summary, "runs": runs}, indent=1) + "\n")
    save(partial(gap_report.draw, summary), record.RESULTS / "gap.png")
    print(gap_report.describe(summary))


if __name__ == "__main__":
    main()
