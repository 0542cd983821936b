"""val.csv and the paired test of two models."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import binomtest

from commands import write_predictions
from featcache.core.samples import Samples
from featcache.errors import HeadError
from featcache.metrics.predictions import (
    ValPrediction,
    compare_heads,
    read_predictions,
    split_predictions_csv,
)


def samples(n: int, prefix: str = "val") -> Samples:
    ids = tuple(f'{prefix}/a,"{row}".png' for row in range(n))  # a comma and quotes, as file names may have
    return Samples(ids, np.arange(n) % 2, np.ones(n, np.uint8), np.zeros((n, 32), np.uint8), ("ants", "bees"))


def model(folder: Path, wrong: set[int], n: int = 40, prefix: str = "val") -> Path:
    folder.mkdir()
    of = samples(n, prefix)
    predicted = np.array([1 - label if row in wrong else label for row, label in enumerate(of.labels)])
    write_predictions(folder, of, predicted, None)
    return folder


def test_the_table_has_a_row_an_image(tmp_path: Path) -> None:
    shares = np.array([[0.75, 0.25], [0.4, 0.6]])
    write_predictions(tmp_path, samples(2), np.array([0, 1]), shares)
    assert (tmp_path / "val.csv").read_text() == (
        'image,label,predicted,probability\n"val/a,""0"".png",ants,ants,0.750000\n'
        '"val/a,""1"".png",bees,bees,0.600000\n'
    )


def test_what_is_written_is_read(tmp_path: Path) -> None:
    shares = np.array([[0.75, 0.25], [0.4, 0.6]])
    write_predictions(tmp_path, samples(2), np.array([0, 0]), shares)
    found = read_predictions(tmp_path)
    assert found == [
        ValPrediction('val/a,"0".png', "ants", "ants", (0.75,)),
        ValPrediction('val/a,"1".png', "bees", "ants", (0.4,)),
    ]
    assert [row.right for row in found] == [True, False]


def test_those_of_a_split_are_of_the_images_that_could_be_read(tmp_path: Path) -> None:
    of = replace(samples(6), split=np.array([1, 2, 2, 1, 2, 2], np.uint8))
    content = split_predictions_csv(of, "test", {2}, np.array([1, 0, 1]), np.array([1, 1, 0]))
    assert content
    (tmp_path / "test.csv").write_bytes(content)
    found = read_predictions(tmp_path, "test.csv")
    assert [(row.image, row.label, row.right) for row in found] == [
        ('val/a,"1".png', "bees", True), ('val/a,"4".png', "ants", False), ('val/a,"5".png', "bees", False)
    ]  # fmt: skip
    one_came_back = split_predictions_csv(of, "test", {1, 2}, np.array([1, 0, 1]), np.array([1, 1, 0]))
    assert one_came_back is None


def test_without_probabilities_none_are_read(tmp_path: Path) -> None:
    write_predictions(tmp_path, samples(2), np.array([0, 1]), None)
    assert [row.probabilities for row in read_predictions(tmp_path)] == [(), ()]


def test_several_labels_are_read_with_the_probability_of_each_that_was_predicted(tmp_path: Path) -> None:
    labels = np.array([[1, 1, 0], [0, 0, 0], [0, 1, 1]], np.uint8)
    of = Samples(("a", "b", "c"), labels, np.ones(3, np.uint8), np.zeros((3, 32), np.uint8), ("x", "y", "z"))
    predicted = np.array([[1, 1, 0], [0, 0, 0], [0, 1, 0]])
    shares = np.array([[0.75, 0.5, 0.25], [0.125, 0.25, 0.375], [0.0, 1.0, 0.4]])
    write_predictions(tmp_path, of, predicted, shares)
    found = read_predictions(tmp_path)
    assert found == [
        ValPrediction("a", "x|y", "x|y", (0.75, 0.5)),
        ValPrediction("b", "", "", ()),
        ValPrediction("c", "y|z", "y", (1.0,)),
    ]
    assert [row.right for row in found] == [True, True, False]


def test_names_that_are_no_text_are_read_as_they_were(tmp_path: Path) -> None:
    of = Samples(("a\udcff\n.png",), np.array([0]), np.ones(1, np.uint8), np.zeros((1, 32), np.uint8), ("x", "y"))
    write_predictions(tmp_path, of, np.array([0]), None)
    assert [row.image for row in read_predictions(tmp_path)] == ["a\udcff\n.png"]


def test_two_models_are_compared_image_by_image(tmp_path: Path) -> None:
    first, second = model(tmp_path / "first", {0, 1}), model(tmp_path / "second", {1, *range(5, 15)})
    found = compare_heads(first, second)
    assert (found.right, found.test.n, found.test.only_first, found.test.only_second) == ((38, 29), 40, 10, 1)
    assert found.test.p == pytest.approx(binomtest(1, 11).pvalue)
    assert found.to_dict() == {
        "first": str(first),
        "second": str(second),
        "optimistic": [],
        "accuracy": [38 / 40, 29 / 40],
        "n": 40,
        "only_first": 10,
        "only_second": 1,
        "p": found.test.p,
    }
    lines = str(found).splitlines()
    assert lines[0].endswith("0.9500  (38 of 40 right, 10 of them alone)")
    assert lines[1].endswith("0.7250  (29 of 40 right, 1 of them alone)")
    assert lines[2] == f"McNemar p = 0.012: {first} is better"
    assert str(compare_heads(second, first)).endswith(f"{first} is better")


@pytest.mark.parametrize("report", ["", "{", "[]", "{}", '{"history": []}'])
def test_models_that_kept_their_best_epoch_of_val_are_named(report: str, tmp_path: Path) -> None:
    first, second = model(tmp_path / "first", {0, 1}), model(tmp_path / "second", {1})
    (first / "run.json").write_text(report)
    (second / "run.json").write_text('{"history": [{"epoch": 1}]}')
    found = compare_heads(first, second)
    assert found.optimistic == (str(second),)
    assert str(found).endswith(f"{second} kept its best epoch of these very samples: it looks better than it is")


def test_noise_is_called_noise(tmp_path: Path) -> None:
    found = compare_heads(model(tmp_path / "first", {0}), model(tmp_path / "second", {1, 2}))
    assert found.test.p == 1.0
    assert str(found).endswith("McNemar p = 1: the difference is not distinguishable from noise")


def test_models_of_other_images_are_refused(tmp_path: Path) -> None:
    first, second = model(tmp_path / "first", set()), model(tmp_path / "second", set(), 30, "other")
    with pytest.raises(HeadError) as caught:
        compare_heads(first, second)
    assert str(caught.value) == (
        f"{first} and {second} were evaluated on other samples or labels: 40 and 30 val samples, 0 in common. "
        "Fit both on caches of the same data."
    )


HEADER = "image,label,predicted,probability\n"


@pytest.mark.parametrize(
    "text",
    ["", "image,label\n", HEADER, f"{HEADER}a,b\n", f"{HEADER}a,b,b,x\n", f"{HEADER}a,b,b,1,2\n", "\0", "a\nb\n"],
)
def test_a_damaged_table_is_refused(text: str, tmp_path: Path) -> None:
    first = model(tmp_path / "first", set())
    (first / "val.csv").write_text(text)
    with pytest.raises(HeadError, match=r"val\.csv is damaged: it is not a table of sample, label, predicted"):
        compare_heads(first, first)


def test_a_folder_without_predictions_is_refused(tmp_path: Path) -> None:
    with pytest.raises(HeadError, match=rf"^{tmp_path} has no val\.csv\. Give folders that `featcache fit-head -o` "):
        compare_heads(tmp_path, tmp_path)


@pytest.mark.parametrize("cell", ["a" * 200_000, '"\n'], ids=["too long", "a quote that is not closed"])
def test_a_table_that_cannot_be_parsed_is_damaged(cell: str, tmp_path: Path) -> None:
    (tmp_path / "val.csv").write_text(f"image,label,predicted,probability\n{cell},ants,ants,1\n")
    with pytest.raises(
        HeadError,
        match=r"val\.csv is damaged: it is not a table of sample, label, predicted, "
        r"probability",
    ):
        read_predictions(tmp_path)
