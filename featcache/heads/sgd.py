"""`fit_sgd`: a linear head trained on cached views as the tutorials train it live."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray

from featcache.cache.features import Features
from featcache.core.rng import epoch_order
from featcache.heads.linear import LinearHead
from featcache.training.loop import Batches, EpochMetrics, TrainConfig, TrainState, linear_layer, train
from featcache.training.loss import ClassificationLoss, class_weights

TUTORIAL = TrainConfig(lr=1e-3)
"""SGD with momentum 0.9, lr 1e-3, StepLR 7."""


def fit_sgd(
    features: Features,
    val: Features,
    recipe: TrainConfig = TUTORIAL,
    *,
    seed: int = 0,
    on_epoch: Callable[[EpochMetrics], None] | None = None,
) -> tuple[LinearHead, list[EpochMetrics]]:
    """Train a linear layer with SGD: view e in epoch e, mini-batches in the order of that epoch.

    With K or fewer epochs these are the batches that `finetune(mode="head")` sees with the same seed; after K
    epochs the views come round again. The weights of the best val epoch are kept.

    Returns
    -------
    head, history
    """
    classes = features.samples.classes
    loss = ClassificationLoss(recipe.label_smoothing, class_weights(recipe.class_weight, features.y, classes))
    training = TrainState(linear_layer(features.x.shape[2], len(classes), seed), recipe, loss=loss)
    best: dict[str, torch.Tensor] = {}

    def batches(epoch: int) -> Batches:
        x = features.lazy_view(features.view_for_epoch(epoch))
        order = epoch_order(features.samples.sha256, seed, epoch)
        for start in range(0, len(order), recipe.batch_size):
            rows = order[start : start + recipe.batch_size]
            yield _tensor(x[rows]), torch.from_numpy(features.y[rows])

    def val_batches() -> Batches:
        x = val.lazy_view(0)
        for start in range(0, len(x), 1024):
            yield _tensor(x[start : start + 1024]), torch.from_numpy(val.y[start : start + 1024])

    def keep(training: TrainState) -> None:
        if training.best is training.history[-1]:
            best.update({name: value.clone() for name, value in training.module.state_dict().items()})
        if on_epoch:
            on_epoch(training.history[-1])

    train(training, batches, val_batches, seed=seed, on_epoch=keep)
    head = LinearHead.from_weights(best["weight"].numpy(), best["bias"].numpy(), np.arange(len(classes)))
    return head, training.history


def _tensor(x: NDArray[np.generic]) -> torch.Tensor:
    return torch.from_numpy(np.array(x, dtype=np.float32))
