from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from featcache.core.samples import SPLITS, Samples, count_images, format_labels, strata
from featcache.errors import SpecError


def samples(*rows: tuple[str, str, str, int], classes: tuple[str, ...] = ("ants", "bees")) -> Samples:
    """One row each: id, class, split, a number that stands for the content."""
    ids, labels, splits, contents = zip(*rows, strict=True)
    sha256 = np.zeros((len(rows), 32), dtype=np.uint8)
    sha256[:, 31] = contents
    return Samples(
        ids,
        np.array([classes.index(label) for label in labels], dtype=np.int64),
        np.array([SPLITS.index(split) for split in splits], dtype=np.uint8),
        sha256,
        classes,
    )


ROWS = [
    ("a", "ants", "train", 1),
    ("b", "bees", "train", 2),
    ("c", "ants", "val", 3),
    ("d", "bees", "test", 4),
]
HERE = samples(*ROWS)


def test_rows_of_a_split_are_its_row_numbers_ascending() -> None:
    assert len(HERE) == 4
    assert HERE.rows("train").tolist() == [0, 1]
    assert HERE.rows("val").tolist() == [2]
    assert HERE.rows("test").tolist() == [3]


def test_take_keeps_each_row_together() -> None:
    taken = HERE.take(np.array([2, 0]))
    assert taken.ids == ("c", "a")
    assert taken.labels.tolist() == [0, 0]
    assert [SPLITS[number] for number in taken.split] == ["val", "train"]
    assert taken.sha256[:, 31].tolist() == [3, 1]
    assert taken.classes == HERE.classes


@pytest.mark.parametrize(
    ("there", "phrases"),
    [
        (samples(*ROWS), []),
        (
            samples(*ROWS, ("e", "ants", "train", 5), ("f", "ants", "train", 6)),
            ["2 added (for example e)"],
        ),
        (samples(*ROWS[1:3]), ["2 removed (for example a)"]),
        (samples(("a", "ants", "train", 9), *ROWS[1:]), ["1 changed in content (for example a)"]),
        (samples(("a", "bees", "train", 1), *ROWS[1:]), ["1 with another label (for example a)"]),
        (samples(*ROWS[:3], ("d", "bees", "val", 4)), ["1 in another split (for example d)"]),
        (samples(*reversed(ROWS)), ["order, classes, or how many labels an image can have differ"]),
        (
            samples(*ROWS, classes=("ants", "bees", "wasps")),
            ["order, classes, or how many labels an image can have differ"],
        ),
        (
            samples(("a", "bees", "val", 9), *ROWS[1:3], ("e", "ants", "train", 5)),
            [
                "1 added (for example e)",
                "1 removed (for example d)",
                "1 changed in content (for example a)",
                "1 with another label (for example a)",
                "1 in another split (for example a)",
            ],
        ),
    ],
)
def test_differences_name_each_change_once(there: Samples, phrases: list[str]) -> None:
    assert HERE.differences(there) == phrases


def test_labels_are_compared_by_class_name_not_by_number() -> None:
    renumbered = samples(*ROWS, classes=("aardvarks", "ants", "bees"))
    assert renumbered.labels.tolist() != HERE.labels.tolist()
    assert HERE.differences(renumbered) == ["order, classes, or how many labels an image can have differ"]


@pytest.mark.parametrize(
    ("name", "hint"), [("trian", " Did you mean 'train'?"), ("vla", " Did you mean 'val'?"), ("x", "")]
)
def test_a_split_that_there_is_not_is_named_with_the_nearest(name: str, hint: str) -> None:
    with pytest.raises(SpecError) as caught:
        HERE.rows(name)
    assert str(caught.value) == f"there is no split '{name}'; the splits are train, val, test, unlabeled.{hint}"


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


def test_relabeled_samples_come_into_train_or_leave_it() -> None:
    before = HERE.relabeled({0: "", 3: "wasps"})
    assert format_labels(before.labels, before.classes) == ["", "bees", "ants", "wasps"]
    assert [SPLITS[number] for number in before.split] == ["unlabeled", "train", "val", "test"]
    after = before.relabeled({0: "wasps", 2: "bees"})
    assert format_labels(after.labels, after.classes) == ["wasps", "bees", "bees", "wasps"]
    assert [SPLITS[number] for number in after.split] == ["train", "train", "val", "test"]
    assert after.classes == ("bees", "wasps")  # no sample is an ant any more
    assert HERE.relabeled({}).digest() == HERE.digest()
    assert HERE.split.tolist() == [0, 0, 1, 2]
