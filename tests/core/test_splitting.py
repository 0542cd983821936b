"""Folds: copies stay together, classes are spread evenly, and every fold leaves something of a class to train on."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from featcache.core.samples import strata
from featcache.core.splitting import NEVER, assign_folds, plan_folds

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


# Several labels an image


@st.composite
def several(draw: st.DrawFn) -> tuple[NDArray[np.int64], NDArray[np.uint8], NDArray[np.uint8]]:
    """Contents, labels and hashes; copies mostly have equal labels."""
    c = draw(st.integers(1, 5))
    row = st.lists(st.integers(0, 1), min_size=c, max_size=c)
    contents = np.array(draw(st.lists(st.integers(0, 20), min_size=1, max_size=40)))
    labels = np.array(draw(st.lists(row, min_size=21, max_size=21)), np.uint8)[contents]
    if draw(st.booleans()):
        labels[0] = draw(row)
    return contents, labels, hashes(21)[contents]


@settings(deadline=None, max_examples=80)
@given(several(), st.integers(2, 7), SEEDS)
def test_every_fold_leaves_each_label_an_image_with_it_and_one_without_to_train_on(
    images: tuple[NDArray[np.int64], NDArray[np.uint8], NDArray[np.uint8]], k: int, seed: int
) -> None:
    contents, labels, sha256 = images
    fold = assign_folds(labels, sha256, k, seed)
    assert set(fold.tolist()) <= {NEVER, *range(k)}
    for content in set(contents.tolist()):
        assert len(set(fold[contents == content].tolist())) == 1
    for number in range(k):
        np.testing.assert_array_equal(labels[fold != number].any(axis=0), labels.any(axis=0))
        np.testing.assert_array_equal((labels[fold != number] == 0).any(axis=0), (labels == 0).any(axis=0))
    for content in set(contents[fold == NEVER].tolist()):  # no more than that takes: the others share a fold
        others = fold[contents != content]
        alike = [
            others[labels[contents != content, label] == value]
            for value in (0, 1)
            for label in np.flatnonzero((labels[contents == content] == value).any(axis=0))
        ]
        assert min(len(np.unique(folds[folds != NEVER])) for folds in alike) <= 1


@settings(deadline=None, max_examples=60)
@given(several(), st.integers(2, 7), SEEDS)
def test_images_of_one_rarest_label_are_spread_evenly(
    images: tuple[NDArray[np.int64], NDArray[np.uint8], NDArray[np.uint8]], k: int, seed: int
) -> None:
    """So the rarest label of all is, and so are images without labels."""
    contents, labels, sha256 = images
    _, first = np.unique(contents, return_index=True)
    labels, sha256 = labels[first], sha256[first]
    fold, dealt = assign_folds(labels, sha256, k, seed), strata(labels)
    for stratum in np.unique(dealt):
        folds = fold[dealt == stratum]
        counts, never = np.bincount(folds[folds != NEVER], minlength=k), int((folds == NEVER).sum())
        assert counts.max() - counts.min() <= 1 + never


@settings(deadline=None, max_examples=60)
@given(CONTENTS, st.integers(1, 5), st.integers(2, 7), SEEDS, st.booleans())
def test_images_with_one_label_each_have_the_folds_that_they_have_without_several(
    contents: list[int], classes: int, k: int, seed: int, mixed: bool
) -> None:
    _, labels, sha256 = images(contents, classes, seed)
    if mixed:  # copies with another label
        labels = np.where(np.arange(len(labels)) % 5 == 0, 0, labels)
    several = np.eye(5, dtype=np.uint8)[labels]
    np.testing.assert_array_equal(assign_folds(several, sha256, k, seed), assign_folds(labels, sha256, k, seed))


def test_each_label_of_many_images_is_spread_evenly_within_reason() -> None:
    """By lot, fold 0 alone would differ from a fifth by four in a hundred images; the rarest are dealt in turn."""
    shares = np.array([0.5, 0.3, 0.1, 0.05, 0.02])
    labels = (np.random.default_rng(0).uniform(size=(2000, 5)) < shares).astype(np.uint8)
    fold = assign_folds(labels, hashes(2000), 5)
    assert np.bincount(fold).tolist() == [400] * 5
    counts = np.stack([labels[fold == number].sum(axis=0) for number in range(5)])
    assert np.ptp(counts[:, 4]) <= 1
    assert (np.ptp(counts, axis=0) <= 0.25 * labels.sum(axis=0) / 5 + 1).all()


def test_a_label_of_one_image_is_never_left_out_and_others_are() -> None:
    labels = np.array([[1, 0, 0], [1, 1, 0], [1, 0, 1], [0, 0, 1], [0, 0, 0]], np.uint8)
    fold = assign_folds(labels, hashes(5), 2)
    assert np.flatnonzero(fold == NEVER).tolist() == [1]
    for number in range(2):
        assert labels[fold != number].any(axis=0).all()


# How many folds


@pytest.mark.parametrize("folds", [2, 3, 7])
def test_folds_are_planned_as_many_as_asked_for(folds: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("featcache.core.splitting._MAX_FOLDED", 1)
    labels = np.eye(3, dtype=np.uint8)[np.arange(30) % 3]
    fold, parts = plan_folds(labels, 3, hashes(30), folds, 4)
    assert parts == folds
    np.testing.assert_array_equal(fold, assign_folds(labels, hashes(30), folds, 4))


@pytest.mark.parametrize("several", [False, True])
def test_a_fifth_is_held_out_where_images_times_classes_are_many(
    several: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = np.arange(30) % 3
    labels = np.eye(3, dtype=np.uint8)[one] if several else one
    monkeypatch.setattr("featcache.core.splitting._MAX_FOLDED", 90)
    fold, parts = plan_folds(labels, 3, hashes(30), None, 4)
    assert (parts, np.bincount(fold).tolist()) == (5, [6] * 5)
    monkeypatch.setattr("featcache.core.splitting._MAX_FOLDED", 89)
    held, parts = plan_folds(labels, 3, hashes(30), None, 4)
    assert parts == 1
    np.testing.assert_array_equal(held, np.where(fold == 0, 0, NEVER))


def test_no_more_is_held_out_than_so_many_logits(monkeypatch: pytest.MonkeyPatch) -> None:
    """90 logits, of which 20 may be held out: a fifth, 18; of which 15 may: a sixth; of which 9 may: a tenth."""
    labels = np.eye(3, dtype=np.uint8)[np.arange(30) % 3]
    monkeypatch.setattr("featcache.core.splitting._MAX_FOLDED", 1)
    for most, held in ((20, 6), (15, 5), (9, 3)):
        monkeypatch.setattr("featcache.core.splitting._MAX_LOGITS", most)
        fold, parts = plan_folds(labels, 3, hashes(30), None, 0)
        assert (parts, int((fold == 0).sum()), int((fold == NEVER).sum())) == (1, held, 30 - held)
