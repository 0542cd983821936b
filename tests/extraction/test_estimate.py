"""An estimate is what the extraction then takes: on a network whose time is known."""

from __future__ import annotations

import shutil
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from commands import write_folder
from featcache.backbones.backbone import Backbone
from featcache.backbones.engines.base import PendingFeatures
from featcache.errors import CacheMismatchError
from featcache.extraction.estimate import Estimate, estimate
from featcache.extraction.extract import extract
from toys import ToyNet, toy_backbone


class Slow(Backbone):
    """20 ms a view."""

    def submit(self, pixels: NDArray[np.uint8]) -> PendingFeatures:
        time.sleep(0.02 * len(pixels))
        return super().submit(pixels)


def test_the_seconds_are_those_of_all_views(split_folder: Path, tmp_path: Path) -> None:
    found = estimate(
        split_folder, tmp_path / "a.h5", backbone=Slow(ToyNet(), name="slow", image_size=8, resize_size=10), views=2
    )
    assert (found.images, found.views) == (18, 13 * 3 + 5)
    assert 44 * 0.02 <= found.seconds < 3 * 44 * 0.02
    assert list(tmp_path.glob("a.h5*")) == []


class SlowStart(Backbone):
    """A GPU: 1 ms a view in batches of 256, and 2 s for the first batches, which open it and load its kernels."""

    batch_size = 256
    slow_calls = 1

    def submit(self, pixels: NDArray[np.uint8]) -> PendingFeatures:
        time.sleep(0.001 * len(pixels))
        if self.slow_calls:
            self.slow_calls -= 1
            time.sleep(2)
        return super().submit(pixels)


def slow_start() -> SlowStart:
    network = SlowStart(ToyNet(), name="slow start", image_size=8, resize_size=10)  # which measures its width
    network.slow_calls = 1
    return network


def test_opening_a_gpu_is_not_extrapolated(tmp_path: Path) -> None:
    data = write_folder(tmp_path / "data", {"train/a": 30, "train/b": 30})
    found = estimate(data, tmp_path / "a.h5", backbone=slow_start(), views=40)
    assert found.views == 1980
    assert 1980 * 0.001 <= found.seconds < 10  # with the start in the mean of one batch: 40 s
    assert found.measured >= 3 * 33


def test_the_median_batch_counts(split_folder: Path, tmp_path: Path) -> None:
    network = slow_start()
    network.slow_calls = 2  # the warm-up and one measured batch
    assert estimate(split_folder, tmp_path / "a.h5", backbone=network, views=2).seconds < 1


class Asynchronous(Backbone):
    """A GPU that computes 1,000 views/s, after a few slow batches, beside a processor that packs 2,000 views/s.

    clock : the seconds that have passed. sizes : those of the batches.
    """

    batch_size = 256
    max_in_flight = 256

    def __init__(self, slow: int, slowness: int = 2) -> None:
        self.slowness = slowness
        self.slow, self.clock, self.free, self.sizes = 0, 0.0, 0.0, list[int]()
        super().__init__(ToyNet(), name="asynchronous", image_size=8, resize_size=10)
        self.slow, self.clock, self.free, self.sizes = slow, 0.0, 0.0, []
        self.devices = ("cuda",)

    def submit(self, pixels: NDArray[np.uint8]) -> PendingFeatures:
        features, size = super().submit(pixels), len(pixels)
        self.sizes.append(size)
        self.clock += size / 2000
        self.free = max(self.clock, self.free) + size / 1000 * (self.slowness if len(self.sizes) <= self.slow else 1)
        finished = self.free

        def wait() -> list[NDArray[np.float32]]:
            self.clock = max(self.clock, finished)
            return features()

        return wait


def test_the_next_batch_is_packed_while_the_gpu_computes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    network = Asynchronous(slow=8)  # after which a CUDA graph is captured
    monkeypatch.setattr("featcache.extraction.estimate.time.perf_counter", lambda: network.clock)
    data = write_folder(tmp_path / "data", {"train/a": 40, "train/b": 40})
    cost = estimate(data, tmp_path / "a.h5", backbone=network, views=40)
    assert (cost.views, cost.measured) == (2640, 7 * 231)
    assert cost.seconds == pytest.approx(2.64)  # one after the other: 3.96
    assert network.sizes == [231] * 16


def test_a_slow_network_is_not_run_until_there_is_a_graph(
    split_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    network = Asynchronous(slow=100, slowness=400)  # 3.2 s a batch
    monkeypatch.setattr("featcache.extraction.estimate.time.perf_counter", lambda: network.clock)
    cost = estimate(split_folder, tmp_path / "a.h5", backbone=network, views=1)
    assert network.sizes == [8] * 3 + [8] * 4 + [4]
    assert cost.seconds == pytest.approx(31 * 0.4, rel=0.01)


def test_few_batches_are_all_measured(split_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    network = Asynchronous(slow=1)
    monkeypatch.setattr("featcache.extraction.estimate.time.perf_counter", lambda: network.clock)
    cost = estimate(split_folder, tmp_path / "a.h5", backbone=network, views=1)
    assert (cost.views, cost.measured) == (31, 36)
    assert cost.seconds == pytest.approx(31 / 1000 * (1 + 4 / 36))  # the first batch is packed before
    assert network.sizes == [8] * 5 + [8] * 4 + [4]


def test_what_is_there_already_costs_nothing(split_folder: Path, tmp_path: Path) -> None:
    def missing(**options: Any) -> tuple[int, int]:
        found = estimate(split_folder, tmp_path / "a.h5", backbone=toy_backbone(), views=2, **options)
        return found.images, found.views

    calls: list[int] = []

    def stop(what: str, done: int, total: int) -> None:
        if what == "extract":
            calls.append(done)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        extract(split_folder, tmp_path / "a.h5", backbone=toy_backbone(), views=2, batch_size=12, progress=stop)
    assert missing() == (18 - 4, 44 - 4 * 3)
    extract(split_folder, tmp_path / "a.h5", backbone=toy_backbone(), views=2)
    assert missing() == (0, 0)
    with pytest.raises(CacheMismatchError, match="views=2, you asked for 3"):
        estimate(split_folder, tmp_path / "a.h5", backbone=toy_backbone(), views=3)


def test_an_estimate_can_be_stopped(split_folder: Path, tmp_path: Path) -> None:
    told: list[str] = []
    estimate(split_folder, tmp_path / "a.h5", backbone=toy_backbone(), progress=lambda what, *_: told.append(what))
    assert told[-1] == "measure"


def test_an_estimate_is_said_in_words() -> None:
    found = Estimate(18, 44, 5400.0, 12, 1500, 10**9)
    assert str(found).splitlines() == [
        "18 images, 44 views: about 90 minutes (measured on 12 views)",
        "1.5 kB on a disk with 1.0 GB free",
    ]


def test_what_the_extraction_will_say_is_said_where_no_picture_need_be_decoded(
    split_folder: Path, tmp_path: Path
) -> None:
    """Of what only pixels tell, it says what it met in the images that it measured."""
    ants, bees = split_folder / "train/ants", split_folder / "train/bees"
    (ants / "notes.txt").write_text("no image")
    (ants / "broken.png").write_bytes(b"no image")
    shutil.copy(ants / "000.png", bees / "copy.png")
    Image.fromarray(np.full((20, 20), 300, np.uint16)).save(bees / "deep.png")
    planned: list[str] = []
    said: list[str] = []
    cost = estimate(split_folder, tmp_path / "a.h5", backbone=toy_backbone(), views=1, on_note=planned.append)
    found = extract(split_folder, tmp_path / "a.h5", backbone=toy_backbone(), views=1, on_note=said.append)
    assert planned == said
    assert planned[-1].startswith("images of more than 8 bits a channel: values ")
    assert (cost.ignored, cost.conflicts) == (found.ignored, found.conflicts)
    assert (cost.skipped, cost.remarks) == (found.skipped, found.remarks)
    assert str(cost).splitlines()[2:] == [
        "ignored 1 file: not an image (.txt)",
        "conflict: train/ants/000.png and train/bees/copy.png are one image with two labels",
        "measured images: skipped train/ants/broken.png: not an image that Pillow can identify",
        "measured images: 1 image is of one colour (for example train/bees/deep.png)",
    ]
    assert cost.to_dict()["skipped"] == found.to_dict()["skipped"]
