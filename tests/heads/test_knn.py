"""Votes of the nearest neighbors: equal to scikit-learn fitted without the fold of the image."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from sklearn.metrics.pairwise import cosine_similarity
from sklearn.neighbors import KNeighborsClassifier

from featcache.heads.solvers import knn
from featcache.heads.solvers.knn import KS, knn_probabilities


def data(n: int, d: int, classes: int, seed: int, copies: int = 3) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any]]:
    """Features off centre without ties, labels, and groups of up to `copies` images that have not the same features."""
    rng = np.random.default_rng(seed)
    x = 1 + rng.normal(size=(n, d))
    return x.astype(np.float32), rng.integers(0, classes, n), rng.permutation(np.arange(n) // copies)


@settings(deadline=None, max_examples=6)
@given(st.integers(10, 32), st.integers(2, 12), st.integers(2, 5), st.integers(1, 3), st.integers(0, 2**32 - 1))
def test_votes_are_those_of_scikit_learn_without_the_image_and_its_copies(
    n: int, d: int, classes: int, copies: int, seed: int
) -> None:
    x, labels, groups = data(n, d, classes, seed, copies)
    assume(np.diff(np.sort(cosine_similarity(x.astype(np.float64)), axis=1)).min() > 1e-6)  # nearly ties, in float32
    by_k = knn_probabilities(x, labels, groups, np.arange(len(x)), classes)
    assert by_k is not None
    assert set(by_k) >= {k for k in KS if k <= n - copies}
    for group in np.unique(groups):
        true_class, others = np.flatnonzero(groups == group), np.flatnonzero(groups != group)
        for k in by_k:
            if k > len(others):
                continue
            reference = KNeighborsClassifier(k, metric="cosine", algorithm="brute")
            reference.fit(x[others].astype(np.float64), labels[others])
            expected = np.zeros((len(true_class), classes))
            expected[:, reference.classes_] = reference.predict_proba(x[true_class].astype(np.float64))
            np.testing.assert_allclose(by_k[k][true_class], expected, atol=1e-12)


def test_votes_by_hand() -> None:
    """Five directions of the plane, at 0, 10, 25, 60 and 100 degrees; the first two are copies."""
    angles = np.radians([0, 10, 25, 60, 100])
    x = np.array([1.0, 5.0, 0.1, 3.0, 2.0])[:, None] * np.column_stack([np.cos(angles), np.sin(angles)])
    by_k = knn_probabilities(x, np.array([0, 0, 1, 2, 1]), np.array([7, 7, 1, 2, 3]), np.arange(5), 3)
    assert by_k is not None
    assert by_k[1].tolist() == [[0, 1, 0], [0, 1, 0], [1, 0, 0], [0, 1, 0], [0, 0, 1]]
    np.testing.assert_allclose(
        by_k[3], np.array([[0, 2, 1], [0, 2, 1], [2, 0, 1], [1, 2, 0], [1, 1, 1]]) / 3, atol=1e-15
    )
    assert list(by_k) == [1, 3]


@pytest.mark.parametrize("block_bytes", [1, 300, 4 * 60 * 7])
def test_blocks_change_nothing(monkeypatch: pytest.MonkeyPatch, block_bytes: int) -> None:
    x, labels, groups = data(60, 5, 3, seed=0)
    whole = knn_probabilities(x, labels, groups, np.arange(len(x)), 3)
    monkeypatch.setattr(knn, "_BLOCK_BYTES", block_bytes)
    blocks = knn_probabilities(x, labels, groups, np.arange(len(x)), 3)
    assert whole is not None
    assert blocks is not None
    assert list(blocks) == list(whole) == list(KS)
    for k in KS:
        np.testing.assert_array_equal(blocks[k], whole[k])


@settings(deadline=None, max_examples=20)
@given(st.integers(2, 60), st.integers(1, 4), st.integers(1, 5), st.integers(0, 2**32 - 1))
def test_each_image_shares_out_one_vote(n: int, d: int, classes: int, seed: int) -> None:
    x, labels, _ = data(n, d, classes, seed)
    by_k = knn_probabilities(x, labels, np.arange(n), np.arange(len(x)), classes)
    assert by_k is not None
    assert list(by_k) == [k for k in KS if k < n]
    for k, probabilities in by_k.items():
        assert probabilities.shape == (n, classes)
        np.testing.assert_allclose(probabilities.sum(axis=1), 1, atol=1e-12)
        np.testing.assert_allclose(probabilities * k, np.round(probabilities * k), atol=1e-9)


def test_copies_say_nothing_of_each_other() -> None:
    """Random labels, and each image twice: a neighbor that is a copy is always right."""
    rng = np.random.default_rng(0)
    x, labels = np.repeat(rng.normal(size=(100, 8)), 2, axis=0), np.repeat(rng.integers(0, 2, 100), 2)
    every = np.arange(200)
    blind, seeing = knn_probabilities(x, labels, every // 2, every, 2), knn_probabilities(x, labels, every, every, 2)
    assert blind is not None
    assert seeing is not None
    assert (seeing[1].argmax(axis=1) == labels).all()
    assert abs((blind[1].argmax(axis=1) == labels).mean() - 0.5) < 0.15


@pytest.mark.parametrize("n", [5, 8, 12])
def test_copies_are_no_neighbours_even_where_there_are_few_others(n: int) -> None:
    """All images but two are copies of one; the two others are of another class."""
    rng = np.random.default_rng(0)
    x, labels = np.repeat(rng.normal(size=(3, 4)), [n - 2, 1, 1], axis=0), np.array([0] * (n - 2) + [1, 1])
    groups = np.array([0] * (n - 2) + [1, 2])
    by_k = knn_probabilities(x, labels, groups, np.arange(len(x)), 2)
    assert by_k is not None
    for k, probabilities in by_k.items():
        assert (k, probabilities[: n - 2].tolist()) == (k, [[0, 1]] * (n - 2))


def test_features_of_length_zero_are_no_error() -> None:
    x = np.vstack([np.zeros((2, 3)), np.eye(3)])
    by_k = knn_probabilities(x, np.array([0, 0, 1, 1, 1]), np.arange(5), np.arange(len(x)), 2)
    assert by_k is not None
    assert all(np.isfinite(probabilities).all() for probabilities in by_k.values())


@pytest.mark.parametrize(("dtype", "factor"), [("float16", 1), ("float16", 8000), ("float64", 1e-6)])
def test_lengths_and_float16_change_no_vote(dtype: str, factor: float) -> None:
    x, labels, groups = data(40, 6, 3, seed=1)
    x = x.astype(np.float16).astype(np.float32)
    once = knn_probabilities(x, labels, groups, np.arange(len(x)), 3)
    other = knn_probabilities((x * factor).astype(dtype), labels, groups, np.arange(len(x)), 3)
    assert once is not None
    assert other is not None
    for k in once:
        np.testing.assert_allclose(other[k], once[k])


def test_nothing_comes_of_votes_that_are_stopped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(knn, "_BLOCK_BYTES", 1)
    answers: list[int] = []

    def stop() -> bool:
        answers.append(1)
        return len(answers) == 3

    x, labels, groups = data(30, 4, 2, seed=0)
    assert knn_probabilities(x, labels, groups, np.arange(len(x)), 2, stop) is None
    assert len(answers) == 3


def test_some_rows_are_voted_for() -> None:
    x, labels, groups = data(40, 6, 3, seed=1)
    rows = np.array([3, 17, 20])
    problem_data, every = (
        knn_probabilities(x, labels, groups, rows, 3),
        knn_probabilities(x, labels, groups, np.arange(40), 3),
    )
    assert problem_data is not None
    assert every is not None
    for k in problem_data:
        np.testing.assert_array_equal(problem_data[k], every[k][rows])
