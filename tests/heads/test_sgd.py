"""fit_sgd: view e in epoch e, in the order of that epoch; the weights of the best epoch are kept."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from featcache.cache.features import Features
from featcache.core.rng import epoch_order
from featcache.core.samples import Samples
from featcache.errors import HeadError
from featcache.heads.fit import fit
from featcache.heads.kinds.sgd import TUTORIAL, fit_sgd
from featcache.heads.training_data import FitOptions, TrainingData
from featcache.training.loop import EpochMetrics, TrainConfig, linear_layer


def features(n: int, views: int, split: int, classes: int = 3) -> Features:
    rng = np.random.default_rng(n)
    labels = np.arange(n, dtype=np.int64) % classes
    x = (rng.normal(size=(n, views + 1, 5)) + labels[:, None, None]).astype(np.float16)
    sha256 = rng.integers(0, 256, (n, 32), dtype=np.uint8)
    ids = tuple(f"{i}.png" for i in range(n))
    return Features(x, Samples(ids, labels, np.full(n, split, np.uint8), sha256, tuple("abcdef"[:classes])))


def by_hand(train: Features, recipe: TrainConfig, seed: int) -> tuple[list[float], list[nn.Linear]]:
    """The losses and the layer after each epoch, by a loop without TrainState and train()."""
    module = linear_layer(5, len(train.samples.classes), seed)
    optimizer = torch.optim.SGD(module.parameters(), lr=recipe.lr, momentum=recipe.momentum)
    losses, modules = [], []
    for epoch in range(1, recipe.epochs + 1):
        view = (epoch - 1) % train.views + 1 if train.views else 0
        x, total = train.x[:, view].astype(np.float32), 0.0
        for rows in np.split(
            epoch_order(train.samples.sha256, seed, epoch), range(recipe.batch_size, len(x), recipe.batch_size)
        ):
            loss = nn.functional.cross_entropy(module(torch.tensor(x[rows])), torch.tensor(train.y[rows]))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            total += loss.item() * len(rows)
        losses.append(total / len(x))
        modules.append(linear_layer(5, len(train.samples.classes), seed))
        modules[-1].load_state_dict({name: value.clone() for name, value in module.state_dict().items()})
    return losses, modules


@pytest.mark.parametrize("views", [0, 1, 3, 5])
@pytest.mark.parametrize("classes", [2, 3])
def test_epoch_e_trains_on_view_e_in_that_epoch_s_order(views: int, classes: int) -> None:
    train, val = features(23, views, 0, classes), features(11, 0, 1, classes)
    recipe = TrainConfig(epochs=5, batch_size=4, lr=0.05, schedule="constant")
    head, history = fit_sgd(train, val, recipe, seed=3)
    losses, modules = by_hand(train, recipe, 3)
    assert [epoch.loss for epoch in history] == pytest.approx(losses, rel=1e-5)
    x = torch.tensor(val.clean().astype(np.float32))
    accuracies = [float((module(x).argmax(1).numpy() == val.y).mean()) for module in modules]
    assert [epoch.val_accuracy for epoch in history] == accuracies
    best = modules[accuracies.index(max(accuracies))]
    with torch.no_grad():
        expected = best(x).softmax(1).numpy()
    np.testing.assert_allclose(head.predict_proba(val.clean()), expected, atol=1e-5)
    assert head.classes_.tolist() == list(range(classes))


def test_the_best_epoch_s_weights_are_kept_where_later_ones_are_worse() -> None:
    train, val = features(20, 1, 0), features(12, 0, 1)
    worse = Features(train.x, train.samples.take(np.arange(20)))
    worse.samples.labels[:] = (worse.y + 1) % 3  # what is learnt is wrong on val
    head, history = fit_sgd(worse, val, TrainConfig(epochs=6, lr=0.3, batch_size=5), seed=1)
    accuracies = [epoch.val_accuracy for epoch in history]
    assert accuracies[-1] < max(accuracies)
    assert float((head.predict(val.clean()) == val.y).mean()) == max(accuracies)


def test_every_epoch_is_told_and_the_seed_decides_all() -> None:
    train, val = features(20, 2, 0), features(12, 0, 1)
    calls: list[EpochMetrics] = []
    recipe = TrainConfig(epochs=3, batch_size=8)
    head, history = fit_sgd(train, val, recipe, seed=1, on_epoch=calls.append)
    assert calls == history
    torch.manual_seed(123)
    again, _ = fit_sgd(train, val, recipe, seed=1)
    np.testing.assert_array_equal(again.coef_, head.coef_)
    other, _ = fit_sgd(train, val, recipe, seed=2)
    assert not np.allclose(other.coef_, head.coef_)


def test_the_default_is_the_tutorial_s() -> None:
    config = TrainConfig(**TUTORIAL)
    assert (config.lr, config.momentum, config.schedule, config.step_size, config.gamma) == (
        1e-3,
        0.9,
        "step",
        7,
        0.1,
    )


@pytest.mark.parametrize(
    ("lr", "message"),
    [
        (1e40, r"sgd could not be trained: .*overflow.*\. Give a lower lr than 1e\+40\."),
        (1e38, r"sgd diverged in epoch 1: .* are not finite numbers\. Give a lower lr than 1e\+38\."),
    ],
)
def test_a_rate_that_numbers_cannot_follow_is_an_error(lr: float, message: str) -> None:
    with pytest.raises(HeadError, match=message):
        fit("sgd", TrainingData(features(60, 1, 0), features(20, 0, 1)), FitOptions({"lr": lr, "epochs": 3}))
