"""The training loop against numbers computed by hand, and its memory: a resumed run is the uninterrupted one."""

from __future__ import annotations

import io
import json
import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from featcache.training.loop import (
    Batches,
    EpochMetrics,
    EvalResult,
    TrainConfig,
    TrainState,
    evaluate_module,
    linear_layer,
    train,
)

RNG = np.random.default_rng(0)
X = RNG.normal(size=(10, 3)).astype(np.float32)
Y = RNG.integers(0, 2, 10)


def batches(size: int = 4) -> Callable[..., Batches]:
    def give(_epoch: int = 0) -> Batches:
        for start in range(0, len(X), size):
            yield torch.from_numpy(X[start : start + size]), torch.from_numpy(Y[start : start + size])

    return give


def ignore(_training: TrainState) -> None:
    pass


def gradient(weight: np.ndarray, bias: np.ndarray) -> tuple[np.ndarray, np.ndarray, float]:
    """Of the mean cross-entropy over all of X, and that loss."""
    logits = X @ weight.T + bias
    probabilities = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    error = (probabilities - np.eye(2)[Y]) / len(X)
    return error.T @ X, error.sum(0), float(-np.log(probabilities[np.arange(len(X)), Y]).mean())


def test_sgd_steps_are_those_computed_by_hand() -> None:
    module = nn.Linear(3, 2)
    config = TrainConfig(epochs=3, batch_size=10, lr=0.5, momentum=0.9, weight_decay=0.1, schedule="constant")
    values = [parameter.detach().numpy().astype(np.float64).copy() for parameter in (module.weight, module.bias)]
    velocity = [np.zeros_like(value) for value in values]
    losses = []
    for _ in range(3):
        *gradients, loss = gradient(*values)
        losses.append(loss)
        for value, speed, slope in zip(values, velocity, gradients, strict=True):
            speed[:] = 0.9 * speed + slope + 0.1 * value
            value -= 0.5 * speed
    training = TrainState(module, config)
    train(training, batches(10), batches(10), seed=0, on_epoch=ignore)
    np.testing.assert_allclose(module.weight.detach(), values[0], rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(module.bias.detach(), values[1], rtol=1e-5, atol=1e-6)
    assert [epoch.loss for epoch in training.history] == pytest.approx(losses, rel=1e-5)
    assert [epoch.val_loss for epoch in training.history[:-1]] == pytest.approx(losses[1:], rel=1e-5)


def test_adamw_s_first_step_is_the_sign_of_the_gradient_after_the_decay() -> None:
    module = nn.Linear(3, 2)
    weight, bias = module.weight.detach().numpy().copy(), module.bias.detach().numpy().copy()
    slope = gradient(weight, bias)[0]
    config = TrainConfig(epochs=1, batch_size=10, lr=0.01, weight_decay=0.5, optimizer="adamw")
    train(TrainState(module, config), batches(10), batches(10), seed=0, on_epoch=ignore)
    np.testing.assert_allclose(
        module.weight.detach(), weight * (1 - 0.01 * 0.5) - 0.01 * np.sign(slope), rtol=1e-4, atol=1e-5
    )


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        (TrainConfig(epochs=5, lr=0.8, schedule="step", step_size=2, gamma=0.5), [0.8, 0.8, 0.4, 0.4, 0.2]),
        (
            TrainConfig(epochs=4, lr=0.8, schedule="cosine"),
            [0.4 * (1 + math.cos(math.pi * epoch / 4)) for epoch in range(4)],
        ),
        (TrainConfig(epochs=3, lr=0.8, schedule="constant"), [0.8] * 3),
        (TrainConfig(epochs=9, lr=1.0), [1.0] * 7 + [0.1] * 2),
    ],
)
def test_each_epoch_trains_with_the_rate_of_its_schedule(config: TrainConfig, expected: list[float]) -> None:
    training = TrainState(nn.Linear(3, 2), config)
    train(training, batches(), batches(), seed=0, on_epoch=ignore)
    assert [epoch.lr for epoch in training.history] == pytest.approx(expected)
    assert [epoch.epoch for epoch in training.history] == list(range(1, config.epochs + 1))


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("epochs", 0, "epochs is 0; it must be 1 or more"),
        ("batch_size", -3, "batch_size is -3; it must be 1 or more"),
        ("step_size", 0, "step_size is 0; it must be 1 or more"),
        ("lr", 0.0, "lr is 0.0; it must be greater than 0"),
        ("lr", float("nan"), "lr is nan; it must be greater than 0"),
    ],
)
def test_a_recipe_that_cannot_train_is_refused(field: str, value: float, message: str) -> None:
    with pytest.raises(ValueError) as caught:  # noqa: PT011
        TrainConfig(**{field: value})
    assert str(caught.value) == message


@pytest.mark.parametrize("field", ["optimizer", "schedule"])
def test_a_recipe_with_an_unknown_choice_is_refused_and_not_taken_for_another(field: str) -> None:
    with pytest.raises(ValueError, match=f"{field} is 'cosin'"):
        TrainConfig(**{field: "cosin"})


@given(st.lists(st.sampled_from([0.0, 0.25, 0.5, 1.0]), min_size=1, max_size=8))
def test_the_best_epoch_is_the_first_of_the_highest_val_accuracy(accuracies: list[float]) -> None:
    history = [EpochMetrics(i + 1, 0.1, 1.0, 0.0, 1.0, value, 0.0) for i, value in enumerate(accuracies)]
    training = TrainState(nn.Linear(3, 2), TrainConfig(), history)
    assert training.best is history[accuracies.index(max(accuracies))]


def test_best_val_holds_the_predictions_of_the_best_epoch() -> None:
    seen: list[EvalResult] = []
    training = TrainState(nn.Linear(3, 2), TrainConfig(epochs=6, lr=2.0, schedule="constant"))

    def on_epoch(training: TrainState) -> None:
        seen.append(evaluate_module(training.module, batches()()))

    train(training, batches(), batches(), seed=0, on_epoch=on_epoch)
    assert training.best is not None
    assert training.best_val is not None
    best = seen[training.best.epoch - 1]
    assert training.best_val.predicted.tolist() == best.predicted.tolist()
    assert training.best_val.labels.tolist() == Y.tolist()
    assert training.best.val_accuracy == best.accuracy == float((best.predicted.numpy() == Y).mean())


@settings(deadline=None, max_examples=20)
@given(st.integers(1, 12))
def test_an_evaluation_does_not_depend_on_the_batch_size(size: int) -> None:
    module = linear_layer(3, 2, 5)
    result = evaluate_module(module, batches(size)())
    with torch.no_grad():
        logits = module(torch.from_numpy(X))
    assert result.loss == pytest.approx(float(nn.functional.cross_entropy(logits, torch.from_numpy(Y))), rel=1e-5)
    assert result.predicted.tolist() == logits.argmax(1).tolist()


def test_an_evaluation_runs_in_eval_mode_and_changes_nothing() -> None:
    module = nn.Sequential(nn.BatchNorm1d(3), nn.Dropout(0.5), nn.Linear(3, 2)).train()
    before = {name: value.clone() for name, value in module.state_dict().items()}
    assert evaluate_module(module, batches()()).loss == evaluate_module(module, batches()()).loss
    assert all(torch.equal(before[name], value) for name, value in module.state_dict().items())


def test_no_batches_give_no_loss_and_no_accuracy() -> None:
    nothing = evaluate_module(nn.Linear(3, 2), iter([]))
    assert math.isnan(nothing.loss)
    assert nothing.accuracy == 0.0


def dropping() -> TrainState:
    """A module whose training is random, and always starts from the same weights."""
    module = nn.Sequential(nn.Linear(3, 8), nn.BatchNorm1d(8), nn.Dropout(0.5), linear_layer(8, 2, 1))
    for value in module[0].parameters():
        nn.init.constant_(value, 0.1)
    return TrainState(module, TrainConfig(epochs=5, batch_size=5, lr=0.1, schedule="step", step_size=2))


def timeless(training: TrainState) -> list[tuple[float, ...]]:
    return [(e.epoch, e.lr, e.loss, e.accuracy, e.val_loss, e.val_accuracy) for e in training.history]


@pytest.mark.parametrize("stop", [1, 2, 3, 4])
def test_a_restored_training_goes_on_as_if_never_stopped(stop: int) -> None:
    class StoppedError(Exception):
        pass

    def halt(training: TrainState) -> None:
        if len(training.history) == stop:
            raise StoppedError

    whole, first, second = dropping(), dropping(), dropping()
    train(whole, batches(5), batches(5), seed=7, on_epoch=ignore)
    with pytest.raises(StoppedError):
        train(first, batches(5), batches(5), seed=7, on_epoch=halt)
    file = io.BytesIO()
    torch.save(first.state_dict(), file)
    file.seek(0)
    torch.manual_seed(99)
    second.load_state_dict(torch.load(file, weights_only=True))
    train(second, batches(5), batches(5), seed=7, on_epoch=ignore)
    assert timeless(second) == timeless(whole)
    for name, value in whole.module.state_dict().items():
        assert torch.equal(second.module.state_dict()[name], value), name
    assert second.best_val is not None
    assert whole.best_val is not None
    assert second.best_val.predicted.tolist() == whole.best_val.predicted.tolist()


def test_the_seed_alone_decides_dropout_and_the_caller_s_generator_is_left_alone() -> None:
    curves = []
    for seed, noise in ((7, 1), (7, 2), (8, 1)):
        training = dropping()
        torch.manual_seed(noise)
        train(training, batches(5), batches(5), seed=seed, on_epoch=ignore)
        after = torch.rand(1)
        torch.manual_seed(noise)
        assert torch.equal(after, torch.rand(1))
        curves.append(timeless(training))
    assert curves[0] == curves[1] != curves[2]


def test_the_new_layer_depends_on_its_seed_alone() -> None:
    first = linear_layer(4, 3, 1)
    torch.manual_seed(5)
    assert torch.equal(first.weight, linear_layer(4, 3, 1).weight)
    assert not torch.equal(first.weight, linear_layer(4, 3, 2).weight)
    assert first.weight.abs().max() <= 1 / math.sqrt(4)


def test_class_weights_of_numpy_become_numbers_that_json_takes() -> None:
    config = TrainConfig(class_weight={"a": np.float32(0.5), "b": np.int64(2), "c": 3})
    assert json.dumps(config.class_weight) == '{"a": 0.5, "b": 2.0, "c": 3.0}'
