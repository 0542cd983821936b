"""What all steps of gpu.py share: copies of the images, networks, rates."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import record
import torch

import featcache
from featcache.backbones.backbone import Backbone

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

    def part(self, n: int) -> Path:
        """A folder with n of the images, spread over all."""
        folder = self.folder / f"photos-{n}"
        if not folder.exists():
            files = sorted(self.photos.rglob("*.jpg"), key=lambda path: path.name)
            for number in np.unique(np.linspace(0, len(files) - 1, n).astype(int)):
                link = folder / files[number].relative_to(self.photos)
                link.parent.mkdir(parents=True, exist_ok=True)
                os.link(files[number], link)
        return folder

    def some(self, n: int) -> featcache.Manifest:
        """The manifest of `part`."""
        return featcache.read_manifest(self.part(n))

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

    def rate(self, job: Callable[[], Any], items: int, seconds: float = 0.7) -> list[float]:
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
