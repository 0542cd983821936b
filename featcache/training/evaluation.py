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
    """One pass over some batches.

    loss : mean, in nats. labels, predicted : shape (n,), int64; of several labels (n, c), 0 or 1. logits : shape
    (n, c), float32; None of a training pass, and of those kept before featcache kept them.
    """

    loss: float
    labels: Tensor
    predicted: Tensor
    logits: Tensor | None = None

    @property
    def accuracy(self) -> float:
        """Share of right predictions; of several labels those with exactly the right ones."""
        if not len(self.labels):
            return 0.0
        right = self.predicted == self.labels
        return float((right.all(1) if right.ndim == 2 else right).double().mean())

    @property
    def probabilities(self) -> NDArray[np.float64] | None:
        """Of each class, shape (n, c): softmax, of several labels sigmoid. None without logits, or with NaN in them."""
        if self.logits is None:
            return None
        logits = self.logits.double()
        found = (logits.sigmoid() if self.labels.ndim == 2 else logits.softmax(1)).numpy()
        return found if np.isfinite(found).all() else None


@dataclass
class EvalAccumulator:
    """What the batches of a pass gave so far. Tensors stay on their device until the end: no batch waits for a GPU.

    seconds : that earlier processes spent on the pass, where it was interrupted.
    """

    losses: list[Tensor] = field(default_factory=list)
    labels: list[Tensor] = field(default_factory=list)
    predicted: list[Tensor] = field(default_factory=list)
    logits: list[Tensor] = field(default_factory=list)
    seconds: float = 0.0

    def add(self, loss: Tensor, labels: Tensor, logits: Tensor, keep_logits: bool) -> None:
        """One batch."""
        self.losses.append(loss.detach())
        self.labels.append(labels)
        self.predicted.append((logits > 0).to(labels.dtype) if labels.ndim == 2 else logits.argmax(1))
        if keep_logits:
            self.logits.append(logits.detach().float())

    def result(self, world: ProcessGroup) -> EvalResult:
        """The whole pass, of all processes."""
        sizes = [len(labels) for labels in self.labels]
        means = torch.stack(self.losses).tolist() if self.losses else []
        total = sum(mean * size for mean, size in zip(means, sizes, strict=True) if size)
        nothing = [torch.empty(0, dtype=torch.int64)]
        parts = [torch.cat(part or nothing).cpu() for part in (self.labels, self.predicted, self.logits)]
        gathered = world.gather((total, *parts))
        columns: list[Tensor] = []
        for place in (1, 2, 3):
            filled = [one[place] for one in gathered if len(one[place])]
            columns.append(torch.cat(filled) if filled else gathered[0][place])
        labels, predicted, logits = columns
        loss = sum(one[0] for one in gathered) / len(labels) if len(labels) else float("nan")
        return EvalResult(loss, labels, predicted, logits if len(logits) else None)

    def state(self) -> dict[str, Any]:
        """Plain values and tensors, for torch.save."""
        lists = {name: [one.cpu() for one in getattr(self, name)] for name in ("losses", "labels", "predicted")}
        return {**lists, "seconds": self.seconds}

    @classmethod
    def of(cls, state: dict[str, Any], device: torch.device) -> EvalAccumulator:
        """The tally that gave this state."""
        lists = {name: [one.to(device) for one in state[name]] for name in ("losses", "labels", "predicted")}
        return cls(**lists, seconds=state["seconds"])
