from __future__ import annotations

import numpy as np
import pytest

from featcache.core.samples import SPLITS, Samples
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
    assert str(caught.value) == f"there is no split '{name}'; the splits are train, val, test, unlabelled.{hint}"
