"""CSV files whose images have several labels, what is refused in them, and how they are split."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from featcache.core.samples import SPLITS, Samples
from featcache.core.splitting import hold_out
from featcache.data.manifest import Manifest, read_manifest
from featcache.errors import DataLayoutError

SEEDS = st.integers(0, 2**31)


def write(root: Path, *lines: str, header: str = "path,label,split", contents: tuple[int, ...] = ()) -> Path:
    """A CSV file and the files that it may list, 0.png to 9.png; equal `contents` are equal bytes."""
    for number in range(10):
        content = contents[number] if number < len(contents) else 100 + number
        (root / f"{number}.png").write_bytes(f"content {content}".encode())
    path = root / "list.csv"
    path.write_text("".join(f"{line}\n" for line in (header, *lines)), encoding="utf-8")
    return path


def overview(manifest: Manifest) -> dict[str, tuple[list[int], str]]:
    """id -> (labels, split)."""
    samples = manifest.samples
    return {name: (samples.labels[row].tolist(), SPLITS[samples.split[row]]) for row, name in enumerate(samples.ids)}


def refusal(path: Path, **options: Any) -> str:
    with pytest.raises(DataLayoutError) as caught:
        read_manifest(path, **options)
    return str(caught.value)


def hashes(n: int, seed: int = 0) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, (n, 32), dtype=np.uint8)


# Reading


def test_labels_with_bars_between_them_are_several(tmp_path: Path) -> None:
    path = write(tmp_path, "0.png,cats|ants,train", "1.png,bees,train", "2.png,,train", "3.png,ants|bees|cats,val",
                 "4.png,,val", "5.png,bees|cats,test")  # fmt: skip
    manifest = read_manifest(path)
    assert manifest.samples.classes == ("ants", "bees", "cats")
    assert manifest.samples.labels.dtype == np.uint8
    assert manifest.samples.multilabel
    assert overview(manifest) == {
        "0.png": ([1, 0, 1], "train"),
        "1.png": ([0, 1, 0], "train"),
        "2.png": ([0, 0, 0], "train"),
        "3.png": ([1, 1, 1], "val"),
        "4.png": ([0, 0, 0], "val"),
        "5.png": ([0, 1, 1], "test"),
    }


@pytest.mark.parametrize("text", ["ants|big bees", " ants | big bees ", "big bees|ants", "ants|ants| big bees|ants"])
def test_spaces_order_and_repetitions_say_nothing(text: str, tmp_path: Path) -> None:
    samples = read_manifest(write(tmp_path, f"0.png,{text},train", "1.png,cats,train", "2.png,cats,val")).samples
    assert samples.classes == ("ants", "big bees", "cats")
    assert samples.labels.tolist() == [[1, 1, 0], [0, 0, 1], [0, 0, 1]]


def test_a_label_twice_is_one_label_of_a_file_with_several(tmp_path: Path) -> None:
    """So images that have one label or none can be listed, too."""
    samples = read_manifest(write(tmp_path, "0.png,a|a,train", "1.png,b,train", "2.png,,val")).samples
    assert samples.labels.tolist() == [[1, 0], [0, 1], [0, 0]]


def test_commas_stand_in_quotes(tmp_path: Path) -> None:
    samples = read_manifest(write(tmp_path, '0.png,"bees, honey|ants",train', "1.png,ants,val")).samples
    assert samples.classes == ("ants", "bees, honey")
    assert samples.labels.tolist() == [[1, 1], [1, 0]]


@pytest.mark.parametrize("empty", ["", "  "])
def test_an_empty_label_is_none_where_some_image_has_several(empty: str, tmp_path: Path) -> None:
    path = write(tmp_path, "0.png,a|b,train", f"1.png,{empty},train", f"2.png,{empty},val")
    assert read_manifest(path).samples.labels.tolist() == [[1, 1], [0, 0], [0, 0]]


def test_an_empty_label_is_not_known_where_none_has_several(tmp_path: Path) -> None:
    path = write(tmp_path, "0.png,a,train", "1.png,,train", "2.png,b,train", "3.png,b,val")
    assert read_manifest(path).samples.labels.tolist() == [0, 1, 1, -1]


def test_a_missing_column_is_no_empty_label(tmp_path: Path) -> None:
    path = write(tmp_path, "0.png,a|b", "1.png", "2.png,b", header="path,label")
    assert refusal(path) == f"{path}, line 3: path and label must not be empty"


@pytest.mark.parametrize("label", ["a||b", "a|", "|b", "|", "a| |b"])
def test_an_empty_label_between_bars_is_refused_with_its_line(label: str, tmp_path: Path) -> None:
    path = write(tmp_path, "0.png,a,train", f"1.png,{label},train", "2.png,b,train")
    assert refusal(path) == f"{path}, line 3: the label {label!r} has an empty part"


def test_without_bars_there_is_one_label_an_image(tmp_path: Path) -> None:
    samples = read_manifest(write(tmp_path, "0.png,b,train", "1.png,a,train", "2.png,b,val")).samples
    assert not samples.multilabel
    assert (samples.labels.dtype, samples.labels.tolist()) == (np.int64, [1, 0, 1])


def test_the_name_of_a_folder_is_one_label_whatever_is_in_it(tmp_path: Path) -> None:
    for name in ("train/a|b", "train/c", "val/c"):
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / "0.png").write_bytes(name.encode())
    samples = read_manifest(tmp_path).samples
    assert (samples.classes, samples.labels.tolist()) == (("a|b", "c"), [0, 1, 1])


@pytest.mark.parametrize("split", ["val", "test"])
def test_a_label_that_train_lacks_is_named(split: str, tmp_path: Path) -> None:
    path = write(tmp_path, "0.png,a|b,train", "1.png,,train", f"2.png,a|c,{split}")
    assert refusal(path) == (
        f"{path}: class 'c' is in {split} (2.png) but not in train. Train has a, b. "
        "Add training images for it, or remove it."
    )


def test_one_label_is_too_few(tmp_path: Path) -> None:
    path = write(tmp_path, "0.png,a|a,train", "1.png,,train", "2.png,a,val")
    assert refusal(path) == (
        f"{path}: only one class (a) was found; a classifier needs two or more. "
        "Expected a row for each image: path,label[,split][,sha256]."
    )


def test_training_images_without_labels_are_not_called_missing(tmp_path: Path) -> None:
    path = write(tmp_path, "0.png,,train", "1.png,,train", "2.png,a|b,val")
    assert "has no training images" not in refusal(path)


# Copies


def test_equal_images_with_other_labels_are_a_conflict(tmp_path: Path) -> None:
    contents = (1, 1, 2, 2, 3, 3, 4, 4, 5)
    path = write(tmp_path, "0.png,a|b,train", "1.png,b|a,train", "2.png,a|b,train", "3.png,a,train", "4.png,c,train",
                 "5.png,,train", "6.png,,train", "7.png,,train", "8.png,c,val", contents=contents)  # fmt: skip
    assert read_manifest(path).conflicts() == [("2.png", "3.png"), ("4.png", "5.png")]


def test_an_image_of_train_in_val_is_a_leak_whatever_its_labels(tmp_path: Path) -> None:
    rows = ("0.png,a|b,train", "1.png,a,train", "2.png,b,val", "3.png,,test", "4.png,,val", "5.png,a,val")
    path = write(tmp_path, *rows, contents=(1, 2, 1, 2, 3, 4))
    assert refusal(path) == (
        f"{path}: 2 images of val or test are in train, too: 2.png is 0.png; 3.png is 1.png. The accuracy on them is "
        f"too high. Remove the copies, or continue with --allow-leak."
    )
    assert len(read_manifest(path, allow_leak=True).samples) == 6


def test_a_row_without_a_split_among_others_is_named(tmp_path: Path) -> None:
    path = write(tmp_path, "0.png,a|b,train", "1.png,a,", "2.png,b,val")
    assert refusal(path) == "1.png has no split while others have one. Fill in the column."


# Holding out


@settings(deadline=None, max_examples=80)
@given(st.data(), st.integers(1, 5), st.floats(0.01, 0.99), SEEDS)
def test_each_label_keeps_an_image_to_train_on_and_copies_stay_together(
    data: st.DataObject, c: int, fraction: float, seed: int
) -> None:
    """Two images have label 0 alone, so that something can be held out."""
    rows = st.tuples(st.integers(0, 9), st.lists(st.integers(0, 1), min_size=c, max_size=c))
    alone = [1] + [0] * (c - 1)
    contents, lists = zip(*data.draw(st.lists(rows, max_size=14)), (10, alone), (11, alone), strict=True)
    labels = np.array(lists, np.uint8)
    held = np.isin(np.arange(len(labels)), hold_out(labels, hashes(12, seed)[list(contents)], fraction, seed))
    assert held.any()
    np.testing.assert_array_equal(labels[~held].any(axis=0), labels.any(axis=0))
    for content in set(contents):
        assert len(set(held[np.array(contents) == content])) == 1


@settings(deadline=None, max_examples=60)
@given(st.integers(0, 5), st.integers(2, 5), st.floats(0.05, 0.5), SEEDS)
def test_labels_of_images_of_their_own_are_on_both_sides(more: int, c: int, fraction: float, seed: int) -> None:
    """Two or more images have the label alone, others have it together with the next label."""
    alone = np.eye(c, dtype=np.uint8)[np.arange(2 * c) % c]
    labels = np.concatenate([alone, alone[:more] | np.roll(alone[:more], 1, axis=1), np.zeros((more, c), np.uint8)])
    held = np.isin(np.arange(len(labels)), hold_out(labels, hashes(len(labels), seed), fraction, seed))
    assert labels[held].any(axis=0).all()
    assert labels[~held].any(axis=0).all()


@settings(deadline=None, max_examples=60)
@given(st.lists(st.tuples(st.integers(0, 11), st.integers(0, 3)), min_size=2, max_size=30), SEEDS)
def test_images_with_one_label_each_are_split_as_without_several(rows: list[tuple[int, int]], seed: int) -> None:
    contents, labels = (np.array(column) for column in zip(*rows, strict=True))
    sha256 = hashes(12)[contents]
    try:
        expected = hold_out(labels, sha256, 0.3, seed)
    except DataLayoutError:
        with pytest.raises(DataLayoutError):
            hold_out(np.eye(4, dtype=np.uint8)[labels], sha256, 0.3, seed)
        return
    np.testing.assert_array_equal(hold_out(np.eye(4, dtype=np.uint8)[labels], sha256, 0.3, seed), expected)


def test_a_fifth_of_many_images_is_held_out_and_of_each_label_about_as_much() -> None:
    rng = np.random.default_rng(0)
    labels = (rng.uniform(size=(600, 6)) < [0.5, 0.3, 0.2, 0.1, 0.05, 0.02]).astype(np.uint8)
    held = np.isin(np.arange(600), hold_out(labels, hashes(600), 0.2, 0))
    assert abs(held.mean() - 0.2) < 0.005
    fractions = labels[held].sum(axis=0) / labels.sum(axis=0)
    np.testing.assert_allclose(fractions[3:], 0.2, atol=0.06)  # the rare ones are dealt first
    np.testing.assert_allclose(fractions[:3], 0.2, atol=0.04)


def test_a_rare_label_is_held_out_before_common_ones_take_what_is_left_to_train_on() -> None:
    """Label 4 is on images 1 and 4. Those of labels 1 and 2, which are on more, were held out before it."""
    labels = np.array([[1, 0, 0, 1, 0], [0, 0, 1, 0, 1], [0, 1, 1, 0, 0], [1, 1, 1, 0, 0], [0, 1, 0, 0, 1]], np.uint8)
    for seed in range(20):
        held = hold_out(labels, hashes(5, seed), 0.2, seed)
        assert labels[held, 4].any(), f"seed {seed}"


def test_a_label_beside_rarer_ones_is_on_both_sides() -> None:
    """Label 3 is on three images, each of which has another label too, of three images: any of them could go."""
    labels = np.zeros((9, 4), np.uint8)
    for number in range(3):
        labels[3 * number : 3 * number + 3, number] = labels[3 * number, 3] = 1
    for seed in range(20):
        held = hold_out(labels, hashes(9, seed), 0.2, seed)
        assert labels[held, 3].any(), f"seed {seed}"


def test_a_csv_without_splits_is_split_by_its_labels(tmp_path: Path) -> None:
    rows = [f"{number}.png,{('a|b', 'b|c', 'c', '', 'a')[number % 5]}" for number in range(10)]
    path = write(tmp_path, *rows, header="path,label", contents=(1, 2, 3, 4, 5, 1))
    for seed in range(10):
        samples = read_manifest(path, seed=seed).samples
        val = samples.split == SPLITS.index("val")
        assert samples.labels[val].any(axis=0).all()
        assert samples.labels[~val].any(axis=0).all()
        sides = dict(zip(samples.ids, val.tolist(), strict=True))
        assert sides["0.png"] == sides["5.png"]  # equal bytes


# Digests and changes


def samples_of(tmp_path: Path, *labels: str) -> Samples:
    rows = (f"{number}.png,{label},train" for number, label in enumerate(labels))
    return read_manifest(write(tmp_path, *rows, "9.png,a,val")).samples


def test_the_digest_is_that_of_the_labels(tmp_path: Path) -> None:
    sets = [("a|b", "b", ""), ("a|b", "b", "a"), ("a", "b|a", ""), ("a|b", "b", "b"), ("a", "b", "a")]
    assert len({samples_of(tmp_path, *labels).digest() for labels in sets}) == len(sets)
    assert samples_of(tmp_path, "b|a", "b", "").digest() == samples_of(tmp_path, "a|b", " b", " ").digest()


def test_changed_labels_are_told(tmp_path: Path) -> None:
    before = samples_of(tmp_path, "a|b", "b", "", "a|b", "a", "b|c")
    after = samples_of(tmp_path, "b|a", "b|c", "a", "", "b", "b|c")
    assert before.changes(after) == {"with another label": ["1.png", "2.png", "3.png", "4.png"]}
    assert before.changes(before) == {}


def test_labels_are_compared_by_their_names(tmp_path: Path) -> None:
    before = samples_of(tmp_path, "a|c", "c", "", "a")
    after = samples_of(tmp_path, "a|c", "c", "", "a", "a|b")
    assert before.labels[0].tolist() != after.labels[0].tolist()
    assert before.changes(after) == {"added": ["4.png"]}


def test_one_label_is_the_same_among_several(tmp_path: Path) -> None:
    """The last image with several went: all others are as they were."""
    before = samples_of(tmp_path, "a", "b", "a", "a|b")
    after = samples_of(tmp_path, "a", "b", "a", "b")
    assert (before.multilabel, after.multilabel) == (True, False)
    assert before.changes(after) == {"with another label": ["3.png"]}
    assert after.changes(before) == {"with another label": ["3.png"]}


def test_samples_with_several_labels_differ_from_those_with_one(tmp_path: Path) -> None:
    single, several = samples_of(tmp_path, "a", "b", "a"), samples_of(tmp_path, "a", "b", "a|a")
    assert single.digest() != several.digest()
    assert single.differences(several) != []
