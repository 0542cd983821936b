"""The steps of gpu.py, which describes them. Each gives figures by name."""

from __future__ import annotations

import collections
import os
import shutil
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import device_views
import numpy as np
import record
import torch

import featcache
from featcache._utils.environment import usable_cores
from featcache.backbones.backbone import Backbone
from featcache.heads.linear import LinearHead
from featcache.vision.device_views.device_views import DeviceViews
from featcache.vision.loader import ViewLoader

ROOT = record.HERE.parent
EMBEDDED = "efficientnet_lite0"


@dataclass
class Setup:
    """What all steps share.

    folder : scratch space in memory, for copies of the images and caches. size : side of the views.
    """

    data: Path
    folder: Path
    device: str
    networks: list[str]
    images: int
    repeats: int
    small: bool
    figures: dict[str, Any] = field(default_factory=dict)

    @property
    def on_gpu(self) -> bool:
        return self.device.startswith("cuda")

    @property
    def size(self) -> int:
        return 64 if self.small else 224

    @property
    def batch(self) -> int:
        return 32 if self.small else 256

    @cached_property
    def photos(self) -> Path:
        """A folder of train/CLASS/ and val/CLASS/ with copies of the images."""
        files = sorted(self.data.rglob("*.jpg"), key=lambda path: path.name)
        folder = self.folder / "photos"
        for number in range(self.images):
            source, split = files[number % len(files)], "val" if number % 8 == 7 else "train"
            copy = folder / split / source.parent.name / f"{number:06d}.jpg"
            copy.parent.mkdir(parents=True, exist_ok=True)
            content, comment = source.read_bytes(), str(number).encode()
            copy.write_bytes(content[:2] + b"\xff\xfe" + (len(comment) + 2).to_bytes(2, "big") + comment + content[2:])
        return folder

    @cached_property
    def manifest(self) -> featcache.Manifest:
        return featcache.read_manifest(self.photos)

    def some(self, n: int) -> featcache.Manifest:
        """The manifest of a folder with n of the images, spread over all."""
        folder = self.folder / f"photos-{n}"
        if not folder.exists():
            files = sorted(self.photos.rglob("*.jpg"), key=lambda path: path.name)
            for number in np.unique(np.linspace(0, len(files) - 1, n).astype(int)):
                link = folder / files[number].relative_to(self.photos)
                link.parent.mkdir(parents=True, exist_ok=True)
                os.link(files[number], link)
        return featcache.read_manifest(folder)

    def backbone(self, name: str, precision: str = "auto", device: str = "") -> Backbone:
        weights = "pretrained" if name == EMBEDDED else "none"
        return featcache.load_backbone(name, weights=weights, device=device or self.device, precision=precision)

    def scratch(self, name: str) -> Path:
        """A path at which nothing exists."""
        path = self.folder / name
        for old in self.folder.glob(f"{name}*"):
            shutil.rmtree(old) if old.is_dir() else old.unlink()
        return path

    def pixels(self, n: int | None = None) -> np.ndarray:
        shape = (n or self.batch, self.size, self.size, 3)
        return np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)

    def synchronize(self) -> None:
        if self.on_gpu:
            torch.cuda.synchronize(self.device)

    def rate(self, job: Callable[[], Any], items: int, seconds: float = 1.0) -> list[float]:
        """Items per second, after two calls: median, minimum and maximum of the repeats."""
        for _ in range(2):
            job()
        rates = []
        for _ in range(self.repeats):
            self.synchronize()
            started, calls = time.perf_counter(), 0
            while not calls or time.perf_counter() - started < (0.1 if self.small else seconds):
                job()
                calls += 1
            self.synchronize()
            rates.append(calls * items / (time.perf_counter() - started))
        return record.spread(rates)


def tests(setup: Setup) -> dict[str, Any]:
    line = [sys.executable, "-m", "pytest", "-q", "-o", "filterwarnings=default", "-p", "no:cacheprovider"]
    line += [str(ROOT / "tests/integration/test_gpu.py"), "-k", "not compiled"]
    ran = subprocess.run(line, cwd=ROOT, capture_output=True, text=True, check=False, timeout=240)
    print(ran.stdout[-4000:], file=sys.stderr)
    return {"status": ran.returncode, "last line": (ran.stdout.strip() or ran.stderr.strip()).splitlines()[-1]}


def views(setup: Setup) -> dict[str, Any]:
    if not setup.on_gpu:
        return {"left out": "device_views.py runs the kernels without a GPU"}
    rng, found = np.random.default_rng(0), {}
    for augment in device_views.RECIPES:
        for interpolation in ("bilinear", "bicubic"):
            spec = featcache.ViewSpec(setup.size, setup.size * 8 // 7, interpolation, augment)
            different, values = device_views.compare(spec, 40, rng)
            found[f"{augment} {interpolation}, values that differ"] = f"{different} of {values}"
    return found | {f"{w}x{h}, views/s": device_views.measure(h, w, rng) for h, w in device_views.TIMED_SIZES}


def features(setup: Setup) -> dict[str, Any]:
    pixels, found = setup.pixels(64), {}
    for name in setup.networks:
        exact = setup.backbone(name, "fp32", "cpu").embed(pixels)
        for precision in ("fp32", "bf16"):
            other = setup.backbone(name, precision).embed(pixels)
            cosine = (exact * other).sum(1) / np.linalg.norm(exact, axis=1) / np.linalg.norm(other, axis=1)
            found[f"{name} {precision}, least cosine"] = float(cosine.min())
    return found


def waits(setup: Setup) -> dict[str, Any]:
    images, backbone = setup.manifest if setup.small else setup.some(600), setup.backbone("resnet18")
    options = {"backbone": backbone, "config": {"epochs": 1, "batch_size": 8}, "image_size": setup.size}
    jobs: dict[str, Callable[[], Any]] = {
        "extract": lambda: featcache.extract(
            images, setup.scratch("w.h5"), backbone=backbone, views=4, image_size=setup.size
        ),
        "finetune": lambda: featcache.finetune(images, setup.scratch("w-all"), **options),
        "finetune head": lambda: featcache.finetune(images, setup.scratch("w-head"), mode="head", **options),
    }
    return {name: dict(_waits_of(setup, job).most_common(12)) for name, job in jobs.items()}


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


def forward(setup: Setup) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name in setup.networks:
        for engine in ("pytorch",) if setup.small else ("pytorch", "compiled"):
            backbone = setup.backbone(name)
            if setup.on_gpu:
                torch.cuda.reset_peak_memory_stats(setup.device)
            ready = record.seconds(lambda: _start(setup, backbone, engine))  # noqa: B023
            found[f"{name} {engine} {backbone.precision}"] = figures = {
                "views/s": _forward_rate(setup, backbone),
                "seconds until ready": ready,
                "peak memory": torch.cuda.max_memory_allocated(setup.device) if setup.on_gpu else None,
                "note": backbone.note,
            }
            if setup.on_gpu:
                backbone._engine_for(setup.size)._graphs.disable()  # type: ignore[attr-defined]
                figures["views/s without a CUDA graph"] = _forward_rate(setup, backbone)
    return found


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


def loader(setup: Setup) -> dict[str, Any]:
    found: dict[str, Any] = {}
    images = setup.manifest if setup.small else setup.some(3000)
    for views in (0, 4, 8):
        for threads in sorted({1, 4, usable_cores()}):
            part = setup.some(300) if threads == 1 and not setup.small else images
            rates = [_loader_rate(setup, part, views, threads) for _ in range(setup.repeats if threads > 1 else 1)]
            found[f"K={views}, {threads} threads, images/s"] = record.spread(rates)
        rates = [_loader_rate(setup, part, views, on_device=True) for _ in range(setup.repeats)]
        found[f"K={views}, views left to the device, images/s"] = record.spread(rates)
    return found


def _loader_rate(
    setup: Setup, images: featcache.Manifest, views: int, threads: int | None = None, on_device: bool = False
) -> float:
    spec = featcache.ViewSpec(setup.size, setup.size * 8 // 7, augment="tutorial")
    loader = ViewLoader(images, spec, workers=threads, device_views=DeviceViews(spec) if on_device else None)
    rows = images.samples.rows("train")
    seconds = record.seconds(
        lambda: collections.deque(loader.batches(rows, range(1 + views), setup.batch // (1 + views)), 0)
    )
    loader.close()
    return len(rows) / seconds


def extract(setup: Setup) -> dict[str, Any]:
    found: dict[str, Any] = {}
    images = setup.manifest
    n, trained = len(images.samples), len(images.samples.rows("train"))
    for name in setup.networks:
        backbone = setup.backbone(name)
        backbone.select_engine(setup.size, "pytorch", 10**6)
        for views in (0, 1) if setup.small else (0, 4, 8):
            rates, shares, busy = [], [], []
            total = n + trained * views
            for _ in range(setup.repeats):
                network_s = total / _forward_rate(setup, backbone)[0]
                loader_s = n / _loader_rate(setup, images, views, on_device=setup.on_gpu)
                with utilization(setup) as used:
                    seconds = record.seconds(lambda: _extract(setup, backbone, views))  # noqa: B023
                rates.append(n / seconds)
                shares.append(max(network_s, loader_s) / seconds)
                busy += used
            found[f"{name} K={views}"] = {
                "images/s": record.spread(rates),
                "views/s": record.spread([rate * total / n for rate in rates]),
                "of the bottleneck": record.spread(shares),
                "bottleneck": "network" if network_s > loader_s else "loader",
                "GPU busy": sum(busy) / len(busy) if busy else None,
            }
    return found


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


def train(setup: Setup) -> dict[str, Any]:
    found: dict[str, Any] = {}
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
            found[f"{network} {mode} {precision}"] = {
                "images/s": len(images.samples) / result.history[-1].seconds,
                "waiting for images": result.data_share,
                "loss": result.history[-1].loss,
            }
    return found


def heads(setup: Setup) -> dict[str, Any]:
    n, d, classes = (2000, 64, 10) if setup.small else (200_000, 1280, 100)
    chance = np.random.default_rng(0)
    x = chance.standard_normal((n, d), np.float32)
    y = (x[:, :classes] + chance.gumbel(size=(n, classes))).argmax(1)
    found: dict[str, Any] = {"rows": n, "features": d, "classes": classes}
    coef = {}
    for device in dict.fromkeys(("cpu", setup.device)):
        head = LinearHead(0.01, device=device)
        found[f"{device} seconds"] = record.seconds(lambda: head.fit(x, y))  # noqa: B023
        coef[device] = head.coef_
    difference = np.abs(coef["cpu"] - coef[setup.device]).max() / np.abs(coef["cpu"]).max()
    return {**found, "largest difference of a coefficient": float(difference)}


def tutorial(setup: Setup) -> dict[str, Any]:
    epochs = 1 if setup.small else 10
    line = [sys.executable, str(record.HERE / "peers.py"), "tutorial-frozen", str(setup.photos), os.devnull]
    line += ["--network", "resnet18", "--epochs", str(epochs), "--device", setup.device, "--workers", "4"]
    frozen = record.seconds(lambda: subprocess.run(line, check=True, capture_output=True))
    command = [sys.executable, "-c", "from featcache_cli.main import main; main()"]
    cache, head = setup.scratch("tutorial.h5"), setup.scratch("tutorial-head")
    options = ["--backbone", "resnet18", "--weights", "none", "--views", "8", "--augment", "tutorial"]
    options += ["--device", setup.device, "-o", str(cache)]
    cold = record.seconds(
        lambda: subprocess.run([*command, "extract", str(setup.photos), *options], check=True, capture_output=True)
    )
    warm = record.seconds(
        lambda: subprocess.run([*command, "fit-head", str(cache), "-o", str(head)], check=True, capture_output=True)
    )
    return {
        "epochs": epochs,
        "tutorial_s": frozen,
        "cold_s": cold + warm,
        "warm_s": warm,
        "ratio": frozen / (cold + warm),
    }


def memory(setup: Setup) -> dict[str, Any]:
    if not setup.on_gpu:
        return {"left out": "no GPU"}
    torch.cuda.empty_cache()
    backbone = setup.backbone("resnet50", "fp32")
    torch.cuda.set_per_process_memory_fraction(0.015)
    try:
        featcache.extract(setup.some(600), setup.scratch("m.h5"), backbone=backbone, layers="last")
        return {"note": backbone.note}
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
        torch.cuda.empty_cache()


STEPS: dict[str, tuple[float, Callable[[Setup], dict[str, Any]]]] = {
    "tests": (40, tests),
    "views": (20, views),
    "features": (15, features),
    "waits": (15, waits),
    "forward": (60, forward),
    "loader": (30, loader),
    "extract": (60, extract),
    "train": (30, train),
    "tutorial": (60, tutorial),
    "heads": (20, heads),
    "memory": (10, memory),
}
"""Steps with the seconds that each needs on a GPU, about."""
