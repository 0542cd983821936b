"""Loss and gradient by PyTorch are equal to those by numpy; "cpu:0" is PyTorch on the CPU."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

import several
from featcache.cache import lazy_arrays
from featcache.cache.lazy_arrays import CenteredMatrix
from featcache.heads.linear import LinearHead
from featcache.heads.one_vs_rest import OneVsRestHead
from featcache.heads.solvers import device_rows, torch_pass
from featcache.heads.solvers.one_vs_rest import OneVsRestProblem
from featcache.heads.solvers.softmax import BatchedProblem, CVSoftmaxProblem, loss_and_gradient
from featcache.heads.solvers.torch_pass import TorchLossAndGradient
from featcache.heads.tuning.tuning_data import TuningData
from tuned import try_to_tune

N, D = 300, 7


def drawn(dtype: type = np.float32) -> tuple[NDArray[Any], NDArray[np.float64], NDArray[np.int64]]:
    chance = np.random.default_rng(0)
    x = chance.standard_normal((N, D)) + np.arange(D)
    return x.astype(dtype), chance.random(N) + 0.1, chance.integers(-1, 3, N)


def softmax(classes: int, dtype: type = np.float32) -> BatchedProblem:
    x, weight, fold = drawn(dtype)
    labels = np.random.default_rng(1).integers(0, classes, N)
    return CVSoftmaxProblem(CenteredMatrix(x, weight), labels, weight, fold, 4, 1 if classes == 2 else classes)


def labelled(dtype: type = np.float32) -> BatchedProblem:
    x, weight, fold = drawn(dtype)
    labels = (np.random.default_rng(1).random((N, 3)) < (0.5, 0.1, 0)).astype(np.uint8)
    balance = np.array([[1.0, 1.0], [0.6, 5.0], [1.0, 1.0]])
    return OneVsRestProblem(CenteredMatrix(x, weight), labels, weight, balance, fold, 4)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("kind", ["two", "five", "labels"])
@pytest.mark.parametrize("mask", [True, False])
def test_losses_gradients_and_curvature_are_equal(
    kind: str, dtype: type, mask: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With few rows a block, and few logits at a time."""
    monkeypatch.setattr(lazy_arrays, "BLOCK_BYTES", 64 * D * 4)
    monkeypatch.setattr(device_rows, "_COPY_BYTES", 64 * D * 4)
    monkeypatch.setattr(torch_pass, "_LOGITS_BYTES", 37 * 12 * 4)
    if not mask:
        monkeypatch.setattr(lazy_arrays, "MAX_CACHED_BYTES", 0)
        monkeypatch.setattr(device_rows, "free_bytes", lambda _device: 0)
    problems = {"two": lambda: softmax(2, dtype), "five": lambda: softmax(5, dtype), "labels": lambda: labelled(dtype)}
    data = problems[kind]()
    problem_ids = np.array([0, 2, 3])
    theta = np.random.default_rng(2).standard_normal((3, data.outputs, D + 1)).astype(dtype)
    totals = data.class_weights().sum(axis=1)
    curved, bent = np.zeros((2, 3, data.outputs), np.float64)
    expected = loss_and_gradient(data, theta, problem_ids, totals, curved)
    losses, gradient = TorchLossAndGradient(data, "cpu")(theta, problem_ids, totals, bent)
    close = 1e-12 if dtype == np.float64 else 2e-6
    np.testing.assert_allclose(losses, expected[0], rtol=close)
    np.testing.assert_allclose(gradient, expected[1], rtol=0, atol=close * np.abs(expected[1]).max())
    np.testing.assert_allclose(bent, curved, rtol=close * 10, atol=close)
    assert gradient.dtype == dtype


def test_large_and_small_margins_keep_their_digits() -> None:
    """Logits up to 200, where exp overflows in float32, and losses down to 1e-8."""
    margins = np.array([-200.0, -18.0, -1.0, 0.0, 1.0, 18.0, 200.0])
    for logits in (margins[None, None], np.stack([np.zeros(7), margins, margins - 1])[:, None]):
        labels = torch.tensor([1, 0, 1, 0, 1, 0, 1])
        valid, _ = torch_pass._cross_entropy(torch.from_numpy(logits.copy()), labels)
        coarse, slope = torch_pass._cross_entropy(torch.from_numpy(logits.astype(np.float32)), labels)
        assert torch.isfinite(slope).all()
        np.testing.assert_allclose(coarse.numpy(), valid.numpy(), rtol=2e-6, atol=1e-30)


@pytest.mark.parametrize("classes", [2, 4])
def test_the_heads_are_the_same(classes: int) -> None:
    x, weight, _ = drawn(np.float64)
    y = np.random.default_rng(3).integers(0, classes, N)
    expected = LinearHead(0.1, class_weight="balanced").fit(x, y, weight)
    actual = LinearHead(0.1, class_weight="balanced", device="cpu:0").fit(x, y, weight)
    np.testing.assert_allclose(actual.coef_, expected.coef_, rtol=1e-3, atol=1e-5)
    np.testing.assert_allclose(actual.intercept_, expected.intercept_, rtol=1e-3, atol=1e-5)
    several = np.eye(classes)[y]
    alone = OneVsRestHead(0.1).fit(x, several)
    torched = OneVsRestHead(0.1, device="cpu:0").fit(x, several)
    np.testing.assert_allclose(torched.coef_, alone.coef_, rtol=1e-3, atol=1e-5)


def test_all_fractions_of_features_share_one_copy_of_the_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[TorchLossAndGradient] = []

    class Counted(TorchLossAndGradient):
        def __init__(self, problems: BatchedProblem, device: str) -> None:
            super().__init__(problems, device)
            made.append(self)

    monkeypatch.setattr(torch_pass, "TorchLossAndGradient", Counted)
    x, _, _ = drawn()
    features = several.features(x[:, None], np.random.default_rng(1).integers(0, 3, N))
    actual, expected = (
        try_to_tune("head2toe", TuningData(features, device=device), lambda: False) for device in ("cpu:0", "cpu")
    )
    assert actual is not None
    assert expected is not None
    np.testing.assert_allclose(actual.estimator.coef_, expected.estimator.coef_, rtol=1e-2, atol=1e-4)
    assert len(made) == 1
