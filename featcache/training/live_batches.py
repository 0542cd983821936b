"""`LiveBatches`: the batches that a network is trained and evaluated on, decoded live, in the order of each epoch."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from featcache._utils.progress_bar import Progress
from featcache._utils.timing import PhaseTimer
from featcache.backbones.backbone import Backbone
from featcache.core.rng import epoch_order
from featcache.core.specs import ExtractSpec
from featcache.training.distributed import ProcessGroup
from featcache.training.loop import Batches
from featcache.vision.loader import Batch, ViewLoader

_VAL_BATCH = 32


class LiveBatches:
    """Batches of (inputs, labels) on the network's device.

    Parameters
    ----------
    mode : "all" gives normalised pixels, "head" features of the frozen network.

    Attributes
    ----------
    batch_size : of training. joins_single : whether a last batch of one image joins the batch before it.
    position : int, how many rows of the epoch under way were used, unreadable ones among them; 0 between epochs.
    """

    def __init__(
        self,
        backbone: Backbone,
        spec: ExtractSpec,
        loader: ViewLoader,
        mode: Literal["all", "head"],
        watch: PhaseTimer,
        progress: Progress | None,
        world: ProcessGroup,
    ) -> None:
        self._backbone, self._spec, self._loader, self._mode = backbone, spec, loader, mode
        self._watch, self._progress, self._world = watch, progress, world
        self._samples = loader.manifest.samples
        self.batch_size, self.joins_single, self.position = 1, False, 0

    def screen(self) -> None:
        """Let several processes know together which images cannot be read, so that all cut the same batches."""
        if self._world.size == 1:
            return
        for _ in self._loader.batches(self._world.share(np.arange(len(self._samples))), [0], _VAL_BATCH):
            pass
        for skipped in self._world.gather(self._loader.skipped):
            self._loader.skipped.update(skipped)

    def train(self, epoch: int) -> Batches:
        """The training batches of an epoch, view e of each image in epoch e, from `position` on."""
        rows = self._samples.rows("train")
        order = rows[epoch_order(self._samples.sha256[rows], self._spec.view.seed, epoch)]
        if self._world.size > 1:
            yield from self._shared(f"epoch {epoch}", order, epoch)
            return
        place = {int(row): number for number, row in enumerate(order)}
        batches: Iterable[Batch] = self._loader.batches(order[self.position :], [epoch], self.batch_size)
        if self.joins_single and self.batch_size > 1:
            batches = _join_single(batches)
        for batch, tensors in self._on_device(batches):
            yield tensors
            self.position = place[int(batch.rows[-1])] + 1
            self._report(f"epoch {epoch}", self.position, len(order))

    def clean(self, split: str) -> Batches:
        """The clean views of a split; of several processes each has its share."""
        rows, done = self._samples.rows(split), 0
        if self._world.size > 1:
            rows = self._world.share(self._readable(rows))
        for batch, tensors in self._on_device(self._loader.batches(rows, [0], _VAL_BATCH)):
            yield tensors
            done += len(batch.rows)
            self._report(split, done, len(rows))

    def _shared(self, what: str, order: NDArray[Any], epoch: int) -> Batches:
        """This process's part of every batch, empty where the last one has too few images for all processes."""
        order, size = self._readable(order[self.position :]), self.batch_size
        if not len(order):
            return  # one process had trained this epoch to its end, and another number of them goes on
        last = (len(order) - 1) // size * size  # where the last batch begins
        if self.joins_single and len(order) - last == 1 < size:
            last = max(0, last - size)
        shares = [self._world.share(order[start : start + size]) for start in range(0, last, size)]
        parts = [(np.concatenate([order[:0], *shares]), len(self._world.share(range(size))))]
        ending = self._world.share(order[last:])
        parts.append((ending, max(1, len(ending))))
        done, total = 0, sum(len(rows) for rows, _ in parts)
        for rows, each in parts:
            for batch, tensors in self._on_device(self._loader.batches(rows, [epoch], each)):
                yield tensors
                done += len(batch.rows)
                self._report(what, done, total)
        if not len(ending):
            side = self._spec.view.image_size
            labels = torch.from_numpy(self._samples.labels[:0]).to(self._backbone.device)
            yield self._inputs(np.empty((0, side, side, 3), np.uint8)), labels

    def _on_device(self, batches: Iterable[Batch]) -> Iterator[tuple[Batch, tuple[Tensor, Tensor]]]:
        batches = iter(batches)
        while True:
            with self._watch.phase("data"):
                batch = next(batches, None)
            if batch is None:
                return
            labels = torch.from_numpy(batch.labels).to(self._backbone.device)
            yield batch, (self._inputs(batch.pixels[:, 0]), labels)

    def _inputs(self, pixels: NDArray[np.uint8]) -> Tensor:
        """What the trained module sees: pixels for a network, features for a head."""
        if self._mode == "all":
            return self._backbone.normalise(pixels)
        return torch.from_numpy(self._backbone.embed(pixels)).to(self._backbone.device)

    def _readable(self, rows: NDArray[Any]) -> NDArray[Any]:
        return rows[~np.isin(rows, list(self._loader.skipped))]

    def _report(self, what: str, done: int, total: int) -> None:
        if self._progress:
            self._progress(what, done, total)


def normalises_by_batch(module: nn.Module) -> bool:
    """Whether a BatchNorm in it takes mean and variance from the batch in training, which one image may not have."""
    module.train()
    found = any(isinstance(part, _BatchNorm) and part.training for part in module.modules())
    module.eval()
    return found


def _join_single(batches: Iterable[Batch]) -> Iterator[Batch]:
    """A batch of one image joined to the one before it; it is the last one, where a batch has room for several."""
    waiting: Batch | None = None
    for batch in batches:
        if waiting is not None and len(batch.rows) == 1:
            joined = (np.concatenate(pair) for pair in zip(vars(waiting).values(), vars(batch).values(), strict=True))
            batch = Batch(*joined)
        elif waiting is not None:
            yield waiting
        waiting = batch
    if waiting is not None:
        yield waiting
