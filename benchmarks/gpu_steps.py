"""The steps of gpu.py, which describes them. Each gives its figures one by one: those before a stop are kept."""

from __future__ import annotations

import collections
import os
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import device_views
import numpy as np
import record
import torch
from gpu_setup import Setup

import featcache
from featcache._utils.environment import usable_cores
from featcache.backbones.backbone import Backbone
from featcache.heads.linear import LinearHead
from featcache.vision.device_views.device_views import DeviceViews
from featcache.vision.loader import ViewLoader

ROOT = record.HERE.parent
LONG_S = 5
"""A measurement that takes longer is not repeated."""

Figures = Iterator[tuple[str, Any]]


def tests(setup: Setup) -> Figures:
    line = [sys.executable, "-m", "pytest", "-q", "-o", "filterwarnings=default", "-p", "no:cacheprovider"]
    line += [str(ROOT / "tests/integration/test_gpu.py"), "-k", "not compiled and not True"]
    ran = subprocess.run(line, cwd=ROOT, capture_output=True, text=True, check=False, timeout=150)
    print(ran.stdout[-4000:], file=sys.stderr)
    yield "status", ran.returncode
    yield "last line", (ran.stdout.strip() or ran.stderr.strip()).splitlines()[-1]


def views(setup: Setup) -> Figures:
    if not setup.on_gpu:
        yield "left out", "device_views.py runs the kernels without a GPU"
        return
    rng = np.random.default_rng(0)
    for augment in device_views.RECIPES:
        for interpolation in ("bilinear", "bicubic"):
            spec = featcache.ViewSpec(setup.size, setup.size * 8 // 7, interpolation, augment)
            different, values = device_views.compare(spec, 40, rng)
            yield f"{augment} {interpolation}, values that differ", f"{different} of {values}"
    for height, width in device_views.TIMED_SIZES:
        yield f"{width}x{height}, views/s", device_views.measure(height, width, rng)


def features(setup: Setup) -> Figures:
    pixels = setup.pixels(64)
    for name in setup.networks:
        exact = setup.backbone(name, "fp32", "cpu").embed(pixels)
        for precision in ("fp32", "bf16"):
            other = setup.backbone(name, precision).embed(pixels)
            cosine = (exact * other).sum(1) / np.linalg.norm(exact, axis=1) / np.linalg.norm(other, axis=1)
            yield f"{name} {precision}, least cosine", float(cosine.min())


def waits(setup: Setup) -> Figures:
    images, backbone = setup.manifest if setup.small else setup.some(600), setup.backbone("resnet18")
    options = {"backbone": backbone, "config": {"epochs": 1, "batch_size": 8}, "image_size": setup.size}
    jobs: dict[str, Callable[[], Any]] = {
        "extract": lambda: featcache.extract(
            images, setup.scratch("w.h5"), backbone=backbone, views=4, image_size=setup.size
        ),
        "finetune": lambda: featcache.finetune(images, setup.scratch("w-all"), **options),
        "finetune head": lambda: featcache.finetune(images, setup.scratch("w-head"), mode="head", **options),
    }
    for name, job in jobs.items():
        yield name, dict(_waits_of(setup, job).most_common(12))


def _waits_of(setup: Setup, job: Callable[[], Any]) -> collections.Counter[str]:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        if setup.on_gpu:
            torch.cuda.set_sync_debug_mode("warn")
        try:
            job()
        finally:
            if setup.on_gpu:
                torch.cuda.set_sync_debug_mode("default")
    lines = (f"{Path(w.filename).name}:{w.lineno}" for w in caught if "synchronizing" in str(w.message))
    return collections.Counter(lines)


def forward(setup: Setup) -> Figures:
    for name in setup.networks:
        yield from _forward(setup, name, "pytorch")


def compiled(setup: Setup) -> Figures:
    if not setup.on_gpu:
        yield "left out", "no GPU"
        return
    yield from _forward(setup, setup.networks[0], "compiled")


def _forward(setup: Setup, name: str, engine: Any) -> Figures:
    backbone = setup.backbone(name)
    if setup.on_gpu:
        torch.cuda.reset_peak_memory_stats(setup.device)
    ready = record.seconds(lambda: _start(setup, backbone, engine))
    figures = {"views/s": _forward_rate(setup, backbone), "seconds until ready": ready, "note": backbone.note}
    if setup.on_gpu:
        figures["peak memory"] = torch.cuda.max_memory_allocated(setup.device)
    yield f"{name} {engine} {backbone.precision}", figures
    if setup.on_gpu:
        backbone._engine_for(setup.size)._graphs.disable()  # type: ignore[attr-defined]
        yield f"{name} {engine} {backbone.precision}, without a CUDA graph", _forward_rate(setup, backbone)


def _start(setup: Setup, backbone: Backbone, engine: Any) -> None:
    backbone.select_engine(setup.size, engine, 10**6)
    backbone.submit(setup.pixels())()


def _forward_rate(setup: Setup, backbone: Backbone) -> list[float]:
    """Views per second, with three batches submitted at any time."""
    pixels = setup.pixels()
    pending = collections.deque(backbone.submit(pixels) for _ in range(2))

    def submit() -> None:
        pending.append(backbone.submit(pixels))
        pending.popleft()()

    rate = setup.rate(submit, len(pixels))
    while pending:
        pending.popleft()()
    return rate


def loader(setup: Setup) -> Figures:
    images = setup.manifest if setup.small else setup.some(3000)
    for views in (0, 4, 8):
        yield f"K={views}, views left to the device, images/s", _loader_rates(setup, images, views, on_device=True)
        for threads in sorted({1, 4, usable_cores()}, reverse=True):
            part = setup.some(300) if threads == 1 and not setup.small else images
            yield f"K={views}, {threads} threads, images/s", _loader_rates(setup, part, views, threads)


def _loader_rates(
    setup: Setup, images: featcache.Manifest, views: int, threads: int | None = None, on_device: bool = False
) -> list[float]:
    """Images per second of the loader alone, whose views nobody takes."""
    spec = featcache.ViewSpec(setup.size, setup.size * 8 // 7, augment="tutorial")
    maker = DeviceViews(spec, device=setup.device) if on_device else None
    loader = ViewLoader(images, spec, workers=threads, device_views=maker)
    rows = images.samples.rows("train")

    def load() -> None:
        collections.deque(loader.batches(rows, range(1 + views), setup.batch // (1 + views)), 0)

    rates = [len(rows) / seconds for seconds in _repeat(setup, load)]
    loader.close()
    return record.spread(rates)


def _repeat(setup: Setup, job: Callable[[], Any]) -> list[float]:
    """Seconds of each repeat; of one alone if it takes long."""
    seconds: list[float] = []
    while len(seconds) < setup.repeats and (not seconds or seconds[0] < LONG_S):
        seconds.append(record.seconds(job))
    return seconds


def extract(setup: Setup) -> Figures:
    images = setup.manifest
    n, trained = len(images.samples), len(images.samples.rows("train"))
    for name in setup.networks:
        backbone = setup.backbone(name)
        backbone.select_engine(setup.size, "pytorch", 10**6)
        for views in (0, 1) if setup.small else (4, 0, 8):
            total = n + trained * views
            network_s = total / _forward_rate(setup, backbone)[0]
            loader_s = n / _loader_rates(setup, images, views, on_device=setup.on_gpu)[0]
            with utilization(setup) as busy:
                seconds = _repeat(setup, lambda: _extract(setup, backbone, views))  # noqa: B023
            yield (
                f"{name} K={views}",
                {
                    "images/s": record.spread([n / one for one in seconds]),
                    "views/s": record.spread([total / one for one in seconds]),
                    "of the bottleneck": record.spread([max(network_s, loader_s) / one for one in seconds]),
                    "bottleneck": "network" if network_s > loader_s else "loader",
                    "GPU busy": sum(busy) / len(busy) if busy else None,
                },
            )


def _extract(setup: Setup, backbone: Backbone, views: int) -> None:
    options = {"layers": "last"} if setup.small else {}
    featcache.extract(
        setup.manifest,
        setup.scratch("e.h5"),
        backbone=backbone,
        views=views,
        augment="tutorial",
        image_size=setup.size,
        **options,
    )


@contextmanager
def utilization(setup: Setup) -> Iterator[list[float]]:
    """The shares of the time in which the GPU was busy, ten a second."""
    shares: list[float] = []
    if not setup.on_gpu:
        yield shares
        return
    line = ["nvidia-smi", "--query-gpu=utilization.gpu", "--format=csv,noheader,nounits", "-lms", "100"]
    with subprocess.Popen(line, stdout=subprocess.PIPE, text=True) as monitor:
        try:
            yield shares
        finally:
            monitor.terminate()
            text = monitor.communicate()[0]
    shares += [float(value) / 100 for value in text.split() if value.isdigit()]


def train(setup: Setup) -> Figures:
    images = setup.manifest if setup.small else setup.some(2500)
    network = setup.networks[0]
    for mode in ("all", "head"):
        for precision in ("auto", "fp32"):
            result = featcache.finetune(
                images,
                setup.scratch("t"),
                backbone=setup.backbone(network, precision),
                mode=mode,
                config={"epochs": 2, "batch_size": 8 if setup.small else 32},
                image_size=setup.size,
            )
            yield (
                f"{network} {mode} {precision}",
                {
                    "images/s": len(images.samples) / result.history[-1].seconds,
                    "waiting for images": result.data_share,
                    "loss": result.history[-1].loss,
                },
            )


def heads(setup: Setup) -> Figures:
    n, d, classes = (2000, 64, 10) if setup.small else (200_000, 1280, 100)
    chance = np.random.default_rng(0)
    x = chance.standard_normal((n, d), np.float32)
    y = (x[:, :classes] + chance.gumbel(size=(n, classes))).argmax(1)
    yield "problem", {"rows": n, "features": d, "classes": classes}
    coef = {}
    for device in dict.fromkeys((setup.device, "cpu")):
        head = LinearHead(0.01, device=device)
        yield f"{device} seconds", record.seconds(lambda: head.fit(x, y))  # noqa: B023
        coef[device] = head.coef_
    difference = np.abs(coef["cpu"] - coef[setup.device]).max() / np.abs(coef["cpu"]).max()
    yield "largest difference of a coefficient", float(difference)


def tutorial(setup: Setup) -> Figures:
    epochs, photos = (1, setup.photos) if setup.small else (10, setup.part(1500))
    line = [sys.executable, str(record.HERE / "peers.py"), "tutorial-frozen", str(photos), os.devnull]
    line += ["--network", "resnet18", "--epochs", str(epochs), "--device", setup.device, "--workers", "4"]
    command = [sys.executable, "-c", "from featcache_cli.main import main; main()"]
    cache, head = setup.scratch("tutorial.h5"), setup.scratch("tutorial-head")
    options = ["--backbone", "resnet18", "--weights", "none", "--views", "8", "--augment", "tutorial"]
    options += ["--device", setup.device, "-o", str(cache)]
    cold = _process_seconds([*command, "extract", str(photos), *options])
    warm = _process_seconds([*command, "fit-head", str(cache), "-o", str(head)])
    yield "featcache", {"views": 8, "cold_s": cold + warm, "warm_s": warm}
    frozen = _process_seconds(line)
    yield "tutorial", {"epochs": epochs, "seconds": frozen, "ratio to cold": frozen / (cold + warm)}


def _process_seconds(line: list[str]) -> float:
    return record.seconds(lambda: subprocess.run(line, check=True, capture_output=True))


def memory(setup: Setup) -> Figures:
    if not setup.on_gpu:
        yield "left out", "no GPU"
        return
    torch.cuda.empty_cache()
    backbone = setup.backbone("resnet50", "fp32")
    torch.cuda.set_per_process_memory_fraction(0.015)
    try:
        featcache.extract(setup.some(600), setup.scratch("m.h5"), backbone=backbone, layers="last")
        yield "note", backbone.note
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
        torch.cuda.empty_cache()


STEPS: dict[str, tuple[float, Callable[[Setup], Figures]]] = {
    "tests": (60, tests),
    "views": (5, views),
    "features": (5, features),
    "waits": (5, waits),
    "extract": (10, extract),
    "train": (10, train),
    "heads": (10, heads),
    "memory": (10, memory),
    "forward": (5, forward),
    "tutorial": (60, tutorial),
    "loader": (5, loader),
    "compiled": (60, compiled),
}
"""Steps, the most important first, with the seconds that must be left to begin one."""
