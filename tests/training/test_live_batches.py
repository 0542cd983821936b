"""The batches of an epoch, as each process of several gets them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from fakegpus import FakeGPUs
from featcache._utils.idle_time import IdleTimer
from featcache._utils.timing import PhaseTimer
from featcache.data.manifest import read_manifest
from featcache.training.distributed import ProcessGroup
from featcache.training.live_batches import LiveBatches
from featcache.vision.loader import ViewLoader
from trainable import trainable_backbone


def test_an_epoch_that_was_trained_to_its_end_has_no_batch_left(make_folder: Callable[..., Path]) -> None:
    """As where a run of one process, stopped before its look at val, goes on with two."""
    manifest = read_manifest(make_folder({"train/ants": 3, "train/bees": 2, "val/ants": 1, "val/bees": 1}))
    backbone = trainable_backbone()
    spec = backbone.extract_spec(image_size=None, augment="tutorial", seed=0, views=0, dtype="float32")
    for rank in range(2):
        with closing(ViewLoader(manifest, spec.view, workers=1)) as loader:
            batches = LiveBatches(backbone, spec, loader, "all", PhaseTimer(), None, ProcessGroup(rank, 2))
            batches.batch_size, batches.position = 2, 5
            assert list(batches.train(1)) == []
            batches.position = 3
            assert len(list(batches.train(1))) == 1


def test_images_are_waited_for_only_while_the_gpu_has_no_work(
    make_folder: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Four steps and one batch of val, each of which is decoded for 2 s. A step of the GPU takes 0.5 s, then 3 s."""
    manifest = read_manifest(make_folder({"train/ants": 2, "train/bees": 2, "val/ants": 1, "val/bees": 1}))
    backbone = trainable_backbone()
    spec = backbone.extract_spec(image_size=None, augment="tutorial", seed=0, views=0, dtype="float32")
    for step_s, idle_s in ((0.5, 2 + 4 * 1.5), (3.0, 2.0)):
        gpus, timer = FakeGPUs(monkeypatch), PhaseTimer()
        with closing(SlowLoader(manifest, spec.view, gpus)) as loader:
            batches = LiveBatches(backbone, spec, loader, "all", timer, None, ProcessGroup())
            batches._idle_timer = IdleTimer(timer, "data", ["cuda"])
            for _ in batches.train(1):
                gpus.queue(step_s)
            assert gpus.synchronized == 0
            for _ in batches.evaluation("val"):
                pass
        assert timer.seconds()["data"] == pytest.approx(idle_s)


class SlowLoader(ViewLoader):
    """Takes 2 s of the fake clock for a batch."""

    def __init__(self, manifest: Any, spec: Any, gpus: FakeGPUs) -> None:
        super().__init__(manifest, spec, workers=1)
        self._gpus = gpus

    def batches(self, *arguments: Any) -> Iterator[Any]:
        for batch in super().batches(*arguments):
            self._gpus.pass_time(2)
            yield batch


@pytest.mark.parametrize(("device", "size"), [("cpu", 32), ("cuda:1", 7)])
def test_val_comes_in_batches_of_extraction_on_a_gpu(
    device: str, size: int, make_folder: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    manifest = read_manifest(make_folder({"train/ants": 3, "train/bees": 2, "val/ants": 1, "val/bees": 1}))
    backbone = trainable_backbone()
    spec = backbone.extract_spec(image_size=None, augment="tutorial", seed=0, views=0, dtype="float32")
    asked = []
    with closing(ViewLoader(manifest, spec.view, workers=1)) as loader:
        batches = LiveBatches(backbone, spec, loader, "all", PhaseTimer(), None, ProcessGroup())
        monkeypatch.setattr(backbone, "device", device)
        monkeypatch.setattr(type(backbone), "batch_size", 7)
        monkeypatch.setattr(
            loader, "batches", lambda rows, numbers, size: asked.append((len(rows), numbers, size)) or []
        )
        assert list(batches.evaluation("val")) == []
    assert asked == [(2, [0], size)]
