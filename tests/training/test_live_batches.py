"""The batches of an epoch, as each process of several gets them."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from pathlib import Path

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
