"""Labels: one an image or several; how many have each, and which one an image is dealt by."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from featcache.core.labels import count_images, format_labels, strata

CLASSES = ("ants", "bees", "cats", "dogs", "eels")


@st.composite
def several(draw: st.DrawFn) -> NDArray[np.uint8]:
    """Labels of one to twelve images, of one to five classes; an image may have none or all."""
    c = draw(st.integers(1, 5))
    rows = draw(st.lists(st.lists(st.integers(0, 1), min_size=c, max_size=c), min_size=1, max_size=12))
    return np.array(rows, np.uint8)


def test_an_image_is_dealt_by_its_rarest_label() -> None:
    """Label 0 is on four images, 1 on one, 2 on two."""
    labels = np.array([[1, 1, 0], [1, 0, 0], [1, 0, 1], [0, 0, 1], [1, 0, 0], [0, 0, 0]], np.uint8)
    assert strata(labels).tolist() == [1, 0, 2, 2, 0, 3]


def test_of_labels_equally_rare_the_first_is_taken() -> None:
    assert strata(np.array([[1, 1], [1, 1]], np.uint8)).tolist() == [0, 0]
    assert strata(np.array([[0, 1, 1], [1, 1, 1], [1, 0, 0]], np.uint8)).tolist() == [1, 0, 0]


def test_a_label_of_all_images_is_rarer_than_none() -> None:
    assert strata(np.ones((3, 1), np.uint8)).tolist() == [0, 0, 0]
    assert strata(np.zeros((3, 2), np.uint8)).tolist() == [2, 2, 2]


@settings(deadline=None, max_examples=100)
@given(several())
def test_no_label_of_an_image_is_rarer_than_the_one_it_is_dealt_by(labels: NDArray[np.uint8]) -> None:
    counts = [sum(column) for column in zip(*labels.tolist(), strict=True)]
    for row, found in zip(labels.tolist(), strata(labels).tolist(), strict=True):
        own = [label for label, has in enumerate(row) if has]
        if not own:
            assert found == labels.shape[1]
        else:
            assert found in own
            assert counts[found] == min(counts[label] for label in own)


@settings(deadline=None, max_examples=50)
@given(st.lists(st.integers(0, 4), min_size=1, max_size=20))
def test_one_label_an_image_is_the_same_either_way(labels: list[int]) -> None:
    one = np.array(labels, np.int64)
    rows = np.eye(5, dtype=np.uint8)[one]
    assert strata(one).tolist() == strata(rows).tolist() == labels
    assert count_images(one, 5).tolist() == count_images(rows, 5).tolist() == [labels.count(k) for k in range(5)]
    assert format_labels(one, CLASSES) == format_labels(rows, CLASSES) == [CLASSES[label] for label in labels]


def test_more_images_are_counted_than_fit_into_a_byte() -> None:
    labels = np.zeros((700, 2), np.uint8)
    labels[:600, 0] = labels[:, 1] = 1
    assert count_images(labels, 2).tolist() == [600, 700]


def test_classes_without_images_are_counted() -> None:
    assert count_images(np.array([1, 1], np.int64), 4).tolist() == [0, 2, 0, 0]
    assert count_images(np.zeros((0, 3), np.uint8), 3).tolist() == [0, 0, 0]


@pytest.mark.parametrize(
    ("row", "text"), [([0, 0, 0], ""), ([0, 1, 0], "bees"), ([1, 0, 1], "ants|cats"), ([1, 1, 1], "ants|bees|cats")]
)
def test_several_labels_are_spelt_with_bars_between_them(row: list[int], text: str) -> None:
    assert format_labels(np.array([row], np.uint8), CLASSES[:3]) == [text]
    assert format_labels(np.array([row], np.int64), CLASSES[:3]) == [text]  # as predictions are


@settings(deadline=None, max_examples=50)
@given(several())
def test_what_is_spelt_can_be_read_again(labels: NDArray[np.uint8]) -> None:
    names = CLASSES[: labels.shape[1]]
    again = [[int(name in text.split("|")) for name in names] for text in format_labels(labels, names)]
    assert again == labels.tolist()
