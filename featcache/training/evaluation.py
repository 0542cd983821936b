"""`EvalResult`: loss and logits of one pass over batches. `EvalAccumulator` collects them; a checkpoint can save it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from featcache.training.distributed import ProcessGroup


@dataclass(frozen=True)
class EvalResult:
    """The result of one pass over batches.

    Attributes
    ----------
    loss : float
        The mean loss, in nats.
    labels, predicted : Tensor, shape (n,), int64
        With several labels an image, shape (n, c), 0 or 1.
    logits : Tensor, shape (n, c), float32
        None for a training pass, and in checkpoints of versions that did not store them.
    """

    loss: float
    labels: Tensor
    predicted: Tensor
    logits: Tensor | None = None

    @property
    def accuracy(self) -> float:
        """The fraction of correct predictions. With several labels an image, all labels must be correct."""
        if not len(self.labels):
            return 0.0
        correct = self.predicted == self.labels
        return float((correct.all(1) if correct.ndim == 2 else correct).double().mean())

    @property
    def probabilities(self) -> NDArray[np.float64] | None:
        """Shape (n, c): softmax of the logits, or sigmoid with several labels. None without logits or if one is NaN."""
        if self.logits is None:
            return None
        logits = self.logits.double()
        probabilities = (logits.sigmoid() if self.labels.ndim == 2 else logits.softmax(1)).numpy()
        return probabilities if np.isfinite(probabilities).all() else None


@dataclass
class EvalAccumulator:
    """The results of the batches of a pass so far. Tensors stay on their device, so that no batch waits for a GPU.

    Attributes
    ----------
    seconds : float
        The time that earlier processes spent on the pass before it was interrupted.
    """

    losses: list[Tensor] = field(default_factory=list)
    labels: list[Tensor] = field(default_factory=list)
    predicted: list[Tensor] = field(default_factory=list)
    logits: list[Tensor] = field(default_factory=list)
    seconds: float = 0.0

    def add(self, loss: Tensor, labels: Tensor, logits: Tensor, keep_logits: bool) -> None:
        """Add a batch."""
        self.losses.append(loss.detach())
        self.labels.append(labels)
        self.predicted.append((logits > 0).to(labels.dtype) if labels.ndim == 2 else logits.argmax(1))
        if keep_logits:
            self.logits.append(logits.detach().float())

    def result(self, process_group: ProcessGroup) -> EvalResult:
        """The result of the whole pass, over all processes."""
        sizes = [len(labels) for labels in self.labels]
        means = torch.stack(self.losses).tolist() if self.losses else []
        loss_sum = sum(mean * size for mean, size in zip(means, sizes, strict=True) if size)
        empty = [torch.empty(0, dtype=torch.int64)]
        columns = [torch.cat(parts or empty).cpu() for parts in (self.labels, self.predicted, self.logits)]
        gathered = process_group.all_gather((loss_sum, columns))
        labels, predicted, logits = (
            _concatenate([columns[number] for _, columns in gathered]) for number in range(len(columns))
        )
        loss = sum(loss_sum for loss_sum, _ in gathered) / len(labels) if len(labels) else float("nan")
        return EvalResult(loss, labels, predicted, logits if len(logits) else None)

    def step_losses(self, process_group: ProcessGroup) -> list[float]:
        """The mean loss of each batch, over all processes; of each batch they have a shard, which may be empty.

        The first batches may be those of the main process alone, which trained them before others joined it.
        """
        means = torch.stack(self.losses).tolist() if self.losses else []
        shards = process_group.all_gather((means, [len(labels) for labels in self.labels]))
        steps = max(len(sizes) for _, sizes in shards)
        totals, sums = [0] * steps, [0.0] * steps
        for losses, sizes in shards:
            for step, (loss, size) in enumerate(zip(losses, sizes, strict=True), steps - len(sizes)):
                totals[step] += size
                sums[step] += loss * size if size else 0.0
        return [loss_sum / total for loss_sum, total in zip(sums, totals, strict=True)]

    def state_dict(self) -> dict[str, Any]:
        """Plain values and tensors, for torch.save."""
        lists = {name: [value.cpu() for value in getattr(self, name)] for name in ("losses", "labels", "predicted")}
        return {**lists, "seconds": self.seconds}

    @classmethod
    def from_state_dict(cls, state: dict[str, Any], device: torch.device) -> EvalAccumulator:
        """The accumulator that gave this state."""
        lists = {name: [value.to(device) for value in state[name]] for name in ("losses", "labels", "predicted")}
        return cls(**lists, seconds=state["seconds"])


def _concatenate(tensors: list[Tensor]) -> Tensor:
    """Those that are not empty: an empty one may have another number of dimensions."""
    filled = [tensor for tensor in tensors if len(tensor)]
    return torch.cat(filled) if filled else tensors[0]
