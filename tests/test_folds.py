"""Folds: copies stay together, classes are spread evenly, and every fold leaves something of a class to train on."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from featcache.folds import NEVER, assign_folds

CONTENTS = st.lists(st.integers(0, 30), min_size=1, max_size=60)
SEEDS = st.integers(0, 2**32 - 1)


def hashes(n: int, seed: int = 0) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, (n, 32), dtype=np.uint8)


def classes_of(contents: NDArray[np.int64], classes: int, seed: int) -> NDArray[np.int64]:
    """A class for each content; small ones are rare."""
    owner = np.sqrt(np.random.default_rng(seed).integers(0, classes**2, 31)).astype(np.int64)
    return owner[contents]


def images(
    contents: list[int], classes: int, seed: int
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.uint8]]:
    """Contents, labels and hashes of images; equal contents have equal labels."""
    numbers = np.array(contents)
    return numbers, classes_of(numbers, classes, seed), hashes(31, seed)[numbers]


@settings(deadline=None, max_examples=60)
@given(CONTENTS, st.integers(1, 5), st.integers(2, 7), SEEDS)
def test_copies_share_a_fold_and_classes_are_spread_evenly(
    contents: list[int], classes: int, k: int, seed: int
) -> None:
    numbers, labels, sha256 = images(contents, classes, seed)
    fold = assign_folds(labels, sha256, k, seed)
    assert fold.dtype == np.int64
    of_content = dict(zip(numbers.tolist(), fold.tolist(), strict=True))
    assert fold.tolist() == [of_content[number] for number in numbers.tolist()]
    for label in np.unique(labels):
        distinct = np.unique(numbers[labels == label])
        folds = np.array([of_content[number] for number in distinct.tolist()])
        if len(distinct) == 1:
            assert folds.tolist() == [NEVER]
            continue
        counts = np.bincount(folds, minlength=k)
        assert len(counts) == k
        assert counts.max() - counts.min() <= 1
        assert counts.max() < len(distinct)  # each fold leaves some to train on


@settings(deadline=None, max_examples=40)
@given(CONTENTS, st.integers(1, 5), st.integers(2, 7), SEEDS)
def test_where_an_image_stands_in_the_folder_does_not_change_its_fold(
    contents: list[int], classes: int, k: int, seed: int
) -> None:
    _, labels, sha256 = images(contents, classes, seed)
    shuffled = np.random.default_rng(seed).permutation(len(labels))
    np.testing.assert_array_equal(
        assign_folds(labels[shuffled], sha256[shuffled], k), assign_folds(labels, sha256, k)[shuffled]
    )


@settings(deadline=None, max_examples=40)
@given(CONTENTS, st.integers(1, 5), st.integers(2, 7), SEEDS)
def test_copies_change_no_fold(contents: list[int], classes: int, k: int, seed: int) -> None:
    numbers, labels, sha256 = images(contents, classes, seed)
    _, first = np.unique(numbers, return_index=True)
    np.testing.assert_array_equal(assign_folds(labels[first], sha256[first], k), assign_folds(labels, sha256, k)[first])


def test_folds_are_the_same_on_every_machine_and_in_every_version() -> None:
    rising = np.arange(8 * 32, dtype=np.uint8).reshape(8, 32)
    labels = np.array([0, 0, 0, 0, 1, 1, 1, 2])
    assert assign_folds(labels, rising, 3).tolist() == [0, 2, 1, 0, 0, 1, 2, -1]
    assert assign_folds(labels, rising, 3, seed=1).tolist() == [1, 0, 2, 0, 1, 2, 0, -1]


def test_seeds_have_folds_of_their_own() -> None:
    labels, sha256 = np.arange(40) % 2, hashes(40)
    assert len({tuple(assign_folds(labels, sha256, 5, seed).tolist()) for seed in range(20)}) == 20


def test_all_folds_are_equally_large_even_where_classes_are_small() -> None:
    fold = assign_folds(np.arange(30) // 3, hashes(30), 5)  # ten classes of three images
    assert np.bincount(fold).tolist() == [6] * 5


@pytest.mark.parametrize("order", [[0, 1, 2, 3], [3, 2, 1, 0]])
def test_a_class_whose_only_image_another_class_has_too_is_trained_on(order: list[int]) -> None:
    """An image of class 0 lies in the folder of class 1 too, which has no other."""
    labels, sha256 = np.array([0, 0, 0, 1])[order], hashes(3)[[0, 1, 2, 0]][order]
    fold = assign_folds(labels, sha256, 3)
    for number in range(3):
        assert set(labels[fold != number]) == {0, 1}


@settings(deadline=None, max_examples=20)
@given(SEEDS)
def test_the_order_of_copies_with_two_labels_does_not_change_a_fold(seed: int) -> None:
    labels, sha256 = np.arange(12) % 2, hashes(9)[[*range(9), 0, 3, 5]]
    shuffled = np.random.default_rng(seed).permutation(12)
    np.testing.assert_array_equal(
        assign_folds(labels[shuffled], sha256[shuffled], 3), assign_folds(labels, sha256, 3)[shuffled]
    )
