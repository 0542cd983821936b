"""`LiveBatches`: batches decoded live, which a network is trained and evaluated on, in the order of each epoch."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from featcache._utils.idle_time import IdleTimer
from featcache._utils.progress_bar import Progress
from featcache._utils.timing import PhaseTimer
from featcache.backbones.trainable import TrainableNetwork
from featcache.backbones.transfer import to_device
from featcache.core.rng import epoch_order
from featcache.core.specs import ExtractSpec
from featcache.data.sample_loader import Batch, Inputs, SampleLoader, join_inputs
from featcache.training.distributed import ProcessGroup
from featcache.training.loop import Batches

_EVAL_BATCH, _MAX_EVAL_BATCH = 32, 256


class LiveBatches:
    """Batches of (inputs, labels) on the network's device. A GPU gets them without the host waiting for it.

    Parameters
    ----------
    backbone : TrainableNetwork
        Makes the input of its module, or computes features.
    spec : ExtractSpec
        Of the views.
    loader : SampleLoader
        Reads and decodes the images.
    mode : {"all", "head"}
        Inputs are normalised pixels or ids of tokens ("all"), or features of the frozen network ("head").
    timer : PhaseTimer
        Takes the time spent waiting for images, as the phase "data"; on a GPU only the time in which the GPU has
        nothing to do, see `IdleTimer`.
    progress : Progress or None
    process_group : ProcessGroup
        Each of its processes gets its shard of every batch.

    Attributes
    ----------
    batch_size : int
        Of training. Default: 1.
    merge_last_single : bool
        Whether a last batch of one image is merged into the batch before it. Default: False.
    position : int
        How many rows of the current epoch were used, unreadable ones included; 0 between epochs.
    """

    def __init__(
        self,
        backbone: TrainableNetwork,
        spec: ExtractSpec,
        loader: SampleLoader,
        mode: Literal["all", "head"],
        timer: PhaseTimer,
        progress: Progress | None,
        process_group: ProcessGroup,
    ) -> None:
        self._backbone, self._spec, self._loader, self._mode = backbone, spec, loader, mode
        self._progress, self._process_group = progress, process_group
        self._idle_timer = IdleTimer(timer, "data", [backbone.device])
        self._samples = loader.manifest.samples
        self.batch_size, self.merge_last_single, self.position = 1, False, 0

    def sync_unreadable(self) -> None:
        """Exchange which images are unreadable, so that all processes cut the same batches."""
        if self._process_group.size == 1:
            return
        for _ in self._loader.batches(self._process_group.shard(np.arange(len(self._samples))), [0], _EVAL_BATCH):
            pass
        for skipped in self._process_group.all_gather(self._loader.skipped):
            self._loader.skipped.update(skipped)

    def train(self, epoch: int) -> Batches:
        """The training batches of an epoch, from `position` on: view e of each image in epoch e."""
        rows = self._samples.rows("train")
        order = rows[epoch_order(self._samples.sha256[rows], self._spec.view.seed, epoch)]
        if self._process_group.size > 1:
            yield from self._sharded(f"epoch {epoch}", order, epoch)
            return
        position_of_row = {int(row): position for position, row in enumerate(order)}
        batches: Iterable[Batch] = self._loader.batches(order[self.position :], [epoch], self.batch_size)
        if self.merge_last_single and self.batch_size > 1:
            batches = _merge_last_single(batches)
        for rows, tensors in self._to_device(batches):
            yield tensors
            self.position = position_of_row[int(rows[-1])] + 1
            self._report(f"epoch {epoch}", self.position, len(order))

    def evaluation(self, split: str) -> Batches:
        """The clean views of a split; of several processes each gets its shard."""
        rows, done = self._samples.rows(split), 0
        if self._process_group.size > 1:
            rows = self._process_group.shard(self._readable(rows))
        for done_rows, tensors in self._to_device(self._loader.batches(rows, [0], self._eval_batch_size)):
            yield tensors
            done += len(done_rows)
            self._report(split, done, len(rows))
        self._idle_timer.finish()  # the metrics of these batches are awaited now, too

    @property
    def _eval_batch_size(self) -> int:
        """On a GPU that of extraction, which has no gradients to keep either; long texts are padded to the longest."""
        return (
            min(self._backbone.batch_size, _MAX_EVAL_BATCH) if self._backbone.device.startswith("cuda") else _EVAL_BATCH
        )

    def _sharded(self, phase: str, order: NDArray[Any], epoch: int) -> Batches:
        """This process's shard of every batch. If the last batch has too few images for all, a shard may be empty."""
        order, size = self._readable(order[self.position :]), self.batch_size
        if not len(order):
            return  # one process trained this epoch to its end, and another number of processes resumes
        last = (len(order) - 1) // size * size  # where the last batch begins
        if self.merge_last_single and len(order) - last == 1 < size:
            last = max(0, last - size)
        shard = self._process_group.shard
        full = np.concatenate([order[:0], *(shard(order[start : start + size]) for start in range(0, last, size))])
        own_last = shard(order[last:])
        last_rows = own_last if len(own_last) else order[last : last + 1]  # the placeholder of `Batches`
        done, total = 0, len(full) + len(own_last)
        parts = (full, len(shard(range(size))), size), (last_rows, len(last_rows), len(order) - last)
        for rows, shard_size, batch_images in parts:
            for _, (inputs, labels) in self._to_device(self._loader.batches(rows, [epoch], shard_size)):
                self._process_group.batch_images = batch_images
                labels = labels if self._process_group.has_images else labels[:0]
                yield inputs, labels
                done += len(labels)
                self._report(phase, done, total)

    def _to_device(self, batches: Iterable[Batch]) -> Iterator[tuple[NDArray[np.int64], tuple[Tensor, Tensor]]]:
        """Rows, and what the network is trained on."""
        batches = iter(batches)
        while True:
            with self._idle_timer.wait():
                batch = next(batches, None)
            if batch is None:
                return
            rows, labels = batch.rows, to_device(batch.labels, self._backbone.device)
            inputs = self._inputs(batch.inputs)
            del batch  # with the decoded images of its views
            yield rows, (inputs, labels)
            del inputs

    def _inputs(self, inputs: Inputs) -> Tensor:
        """The input of the trained module: that of a network, or features for a head."""
        if self._mode == "all":
            return self._backbone.network_input(inputs)
        return self._backbone.embed_on_device(inputs)

    def _readable(self, rows: NDArray[Any]) -> NDArray[Any]:
        return rows[~np.isin(rows, list(self._loader.skipped))]

    def _report(self, phase: str, done: int, total: int) -> None:
        if self._progress:
            self._progress(phase, done, total)


def uses_batch_statistics(module: nn.Module) -> bool:
    """Whether training normalises with mean and variance of the batch. A batch of one image may have none."""
    module.train()
    uses = any(isinstance(part, _BatchNorm) and part.training for part in module.modules())
    module.eval()
    return uses


def _merge_last_single(batches: Iterable[Batch]) -> Iterator[Batch]:
    """Merge a batch of one image into the batch before it. Only the last batch can have one image."""
    previous: Batch | None = None
    for batch in batches:
        if previous is not None and len(batch.rows) == 1:
            batch = Batch(
                np.concatenate([previous.rows, batch.rows]),
                join_inputs(previous.inputs, batch.inputs),
                np.concatenate([previous.labels, batch.labels]),
            )
        elif previous is not None:
            yield previous
        previous = batch
    if previous is not None:
        yield previous
