"""sgd: a linear head trained on cached views as the tutorials of PyTorch train it live."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from featcache.heads.registry import HeadSpec, register

if TYPE_CHECKING:
    import numpy as np
    import torch
    from numpy.typing import NDArray

    from featcache.cache.features import Features
    from featcache.heads.linear import LinearHead
    from featcache.heads.training_data import FitOptions, Fitted, TrainingData
    from featcache.training.loop import Batches, EpochMetrics, TrainConfig, TrainState


TUTORIAL = {"lr": 1e-3}
"""Parameters of `TrainConfig` that differ from its defaults: with them SGD is that of the tutorials."""


def fit(name: str, data: TrainingData, options: FitOptions) -> Fitted:
    """Train with a `TrainConfig` of the parameters; `TUTORIAL` holds unless they differ."""
    import numpy as np

    from featcache.core.progress import StepProgress
    from featcache.errors import HeadError, first_line
    from featcache.heads.training_data import Fitted
    from featcache.training.loop import TrainConfig

    try:
        recipe = TrainConfig(**{**TUTORIAL, **options.parameters})
    except (TypeError, ValueError) as error:
        raise HeadError(f"sgd: {error}") from error
    train = data.train.with_views(0) if options.use_views == "clean" else data.train
    try:
        with StepProgress(options.progress, "fit epochs", recipe.epochs) as steps:

            def report(epoch: EpochMetrics) -> None:
                steps.advance()
                if options.on_epoch:
                    options.on_epoch(epoch)

            estimator, history = fit_sgd(train, data.val, recipe, seed=options.seed, on_epoch=report)
    except ValueError as error:  # class weights of other classes
        raise HeadError(f"sgd: {error}") from error
    except RuntimeError as error:  # numbers beyond float32
        raise HeadError(
            f"sgd could not be trained: {first_line(error)}. Give a lower lr than {recipe.lr:g}."
        ) from error
    if history[-1].diverged or not np.isfinite(estimator.coef_).all():
        raise HeadError(
            f"sgd diverged in epoch {len(history)}: its weights or its loss on val are not finite numbers. Give a "
            f"lower lr than {recipe.lr:g}."
        )
    return Fitted(estimator, name, history)


def fit_sgd(
    features: Features,
    val: Features,
    recipe: TrainConfig,
    *,
    seed: int = 0,
    on_epoch: Callable[[EpochMetrics], None] | None = None,
) -> tuple[LinearHead, list[EpochMetrics]]:
    """Train a linear layer with SGD: view e in epoch e, mini-batches in the order of that epoch.

    With K epochs or fewer, `finetune(mode="head")` trains on the same batches if it has the same seed; epoch K + 1
    starts with the first view again. The weights of the epoch with the best val accuracy are kept.

    Returns
    -------
    head, history
    """
    import numpy as np
    import torch

    from featcache.core.rng import epoch_order
    from featcache.heads.linear import LinearHead
    from featcache.training.loop import TrainState, linear_layer, train
    from featcache.training.loss import ClassificationLoss, class_weights

    classes = features.samples.classes
    loss = ClassificationLoss(recipe.label_smoothing, class_weights(recipe.class_weight, features.y, classes))
    state = TrainState(linear_layer(features.x.shape[2], len(classes), seed), recipe, loss=loss)
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

    def keep_best(state: TrainState) -> None:
        if state.best is state.history[-1]:
            best.update({name: value.clone() for name, value in state.module.state_dict().items()})
        if on_epoch:
            on_epoch(state.history[-1])

    train(state, batches, val_batches, seed=seed, on_epoch=keep_best)
    head = LinearHead.from_weights(best["weight"].numpy(), best["bias"].numpy(), np.arange(len(classes)))
    return head, state.history


def _tensor(x: NDArray[np.generic]) -> torch.Tensor:
    import numpy as np
    import torch

    return torch.from_numpy(np.array(x, dtype=np.float32))


register(HeadSpec("sgd", fit=fit, multilabel=False, linear=True, epochs=True, selects_on_val=True))
