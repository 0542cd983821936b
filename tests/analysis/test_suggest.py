"""`suggest`: typical and different samples first, those between classes with a head; the table of labels."""

from __future__ import annotations

import csv
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from featcache import suggest
from featcache._utils.blockwise import unit_rows
from featcache.analysis.suggestions import suggest as module
from featcache.analysis.suggestions.representatives import choose_representatives
from featcache.analysis.suggestions.uncertainty import Guess
from featcache.cache.feature_cache import FeatureCache
from featcache.errors import CacheIncompleteError, CacheMismatchError, DataLayoutError, HeadError, SpecError
from featcache.extraction.extract import extract
from featcache.extraction.update import update
from featcache.heads.fit_head import fit_head
from toys import toy_backbone
from toytexts import toy_text_encoder

MakeFolder = Callable[..., Path]


def clusters(sizes: list[int], seed: int = 0, spread: float = 0.05) -> NDArray[np.float32]:
    """Rows around the unit vectors, so many around each."""
    x = np.repeat(np.eye(len(sizes), 8), sizes, axis=0)
    return (x + np.random.default_rng(seed).normal(scale=spread, size=x.shape)).astype(np.float32)


def all_gains(x: NDArray[np.float32], w: NDArray[np.float32], known: NDArray[np.float32], k: int) -> list[int]:
    """Greedy facility location that computes each gain each time."""
    nearest = np.max([np.full(len(x), -1.0), *(known @ x.T)], axis=0)
    rows: list[int] = []
    for _ in range(k):
        gains = [-1.0 if row in rows else w @ np.maximum(x @ x[row] - nearest, 0) for row in range(len(x))]
        rows.append(int(np.argmax(gains)))
        nearest = np.maximum(nearest, x @ x[rows[-1]])
    return rows


@pytest.mark.parametrize("known", [0, 3])
def test_gains_that_are_not_computed_again_change_nothing(known: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("featcache.analysis.suggestions.representatives._BLOCK_BYTES", 1000)
    rng = np.random.default_rng(1)
    x, w = unit_rows(rng.normal(size=(70, 5))), rng.random(70).astype(np.float32)
    near = unit_rows(rng.normal(size=(known, 5)))
    chosen = choose_representatives(x, w, near, 12)
    assert chosen.rows.tolist() == all_gains(x, w, near, 12)
    similarity = x @ np.concatenate([x[chosen.rows], near]).T
    own = similarity.argmax(axis=1)
    expected = [np.count_nonzero(own == number) for number in range(12)]
    assert chosen.members.tolist() == expected


def test_all_rows_can_be_chosen_each_once() -> None:
    x = unit_rows(np.ones((5, 3)))  # no row gains anything after the first
    chosen = choose_representatives(x, np.ones(5, np.float32), x[:0], 5)
    assert sorted(chosen.rows) == [0, 1, 2, 3, 4]
    assert chosen.members.sum() == 5


def test_each_cluster_has_one_and_the_largest_comes_first() -> None:
    cache = FeatureCache.from_arrays(clusters([30, 20, 10, 5]), None)
    result = suggest(cache, 4)
    of_cluster = np.repeat(range(4), [30, 20, 10, 5])
    assert [of_cluster[int(sample.path)] for sample in result.samples] == [0, 1, 2, 3]
    assert [sample.resembling for sample in result.samples] == [30, 20, 10, 5]
    assert result.samples[0].reason == "typical: like 29 other images"
    assert (result.labeled, result.unlabeled) == (0, 65)
    assert "typical" in result.rule


def test_what_resembles_a_labeled_sample_comes_last() -> None:
    y = [None] * 60
    y[0] = y[3] = "a"  # of the first cluster
    result = suggest(FeatureCache.from_arrays(clusters([30, 20, 10]), y), 2)
    assert sorted(int(sample.path) >= 30 for sample in result.samples) == [True, True]
    assert {int(sample.path) >= 50 for sample in result.samples} == {False, True}


def between(seed: int = 0) -> tuple[NDArray[np.float32], list[str | None]]:
    """Two classes with 10 labels each, 80 samples like them, and 8 halfway, which are the last."""
    a, b, middle = np.eye(3, 6)[0], np.eye(3, 6)[1], np.eye(3, 6)[:2].mean(axis=0)
    x = np.concatenate([np.tile(a, (50, 1)), np.tile(b, (50, 1)), np.tile(middle, (8, 1))])
    x = x + np.random.default_rng(seed).normal(scale=0.05, size=x.shape)
    y: list[str | None] = [None] * 108
    y[:10], y[50:60] = ["a"] * 10, ["b"] * 10
    return x.astype(np.float32), y


def test_with_enough_labels_those_between_classes_come_first() -> None:
    x, y = between()
    result = suggest(FeatureCache.from_arrays(x, y), 4)
    assert int(result.samples[0].path) >= 100
    assert "between classes" in result.rule
    guess = result.samples[0].guess
    assert guess is not None
    assert {guess.label, guess.second} == {"a", "b"}
    assert guess.margin < 0.5
    assert result.samples[0].reason.startswith(f"{guess.label} ({guess.probability:.0%}) or {guess.second} (")


def test_copies_do_not_count_as_labels() -> None:
    x, y = between()
    x[:10], x[50:60] = x[0], x[50]  # one sample a class, ten times
    result = suggest(FeatureCache.from_arrays(x, y), 4)
    assert result.samples[0].guess is None
    assert "(now 2)" in result.rule


def test_a_saved_head_says_what_lies_between_its_classes(tmp_path: Path) -> None:
    x, y = between()
    labeled = [row for row in range(108) if y[row]]
    fit_head(FeatureCache.from_arrays(x[labeled], [y[row] for row in labeled]), tmp_path / "head", head="linear")
    cache = FeatureCache.from_arrays(x, [None] * 108)
    result = suggest(cache, 3, head=tmp_path / "head")
    assert int(result.samples[0].path) >= 100
    assert str(tmp_path / "head") in result.rule
    assert suggest(cache, 3).samples[0].guess is None


def test_a_head_without_probabilities_is_refused(tmp_path: Path) -> None:
    x, y = between()
    labeled = [row for row in range(108) if y[row]]
    cache = FeatureCache.from_arrays(x[labeled], [y[row] for row in labeled])
    fit_head(cache, tmp_path / "head", head="sklearn.linear_model.Perceptron")
    with pytest.raises(HeadError, match="has no probabilities"):
        suggest(FeatureCache.from_arrays(x, y), 3, head=tmp_path / "head")


def test_doubt_is_the_squared_distance_of_the_margin_from_one() -> None:
    assert Guess("a", 0.75, "b", 0.25).doubt == 0.25
    assert Guess("a", 0.5, "b", 0.5).doubt == 1


def test_many_samples_are_drawn_by_the_seed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_COMPARED", 20)
    cache = FeatureCache.from_arrays(clusters([40, 30]), None)
    first, again, other = (suggest(cache, 5, seed=seed) for seed in (0, 0, 1))
    assert first.notes == ("20 of 70 images without a label were drawn and compared (seed 0)",)
    assert first.samples == again.samples
    assert first.samples != other.samples
    assert sum(sample.resembling for sample in first.samples) == 20


def test_fewer_samples_than_asked_for_are_all_listed() -> None:
    result = suggest(FeatureCache.from_arrays(clusters([3, 2]), None), 9)
    assert sorted(sample.path for sample in result.samples) == [*"01234"]
    assert result.notes == ("there are fewer than 9: all are listed",)


def test_without_unlabeled_samples_the_error_says_what_to_do() -> None:
    cache = FeatureCache.from_arrays(clusters([20, 20]), ["a"] * 20 + ["b"] * 20)
    with pytest.raises(CacheIncompleteError, match=r"no images without a label: all 40 .*folder unlabeled .*update"):
        suggest(cache)


def test_what_it_cannot_do_is_refused() -> None:
    with pytest.raises(SpecError, match="n is 0"):
        suggest(FeatureCache.from_arrays(clusters([3, 2]), None), 0)
    several = np.array([[1, 0], [0, 1], [1, 1], [0, 0], [-1, -1]])
    with pytest.raises(CacheMismatchError, match="several labels"):
        suggest(FeatureCache.from_arrays(clusters([3, 2]), several))
    with pytest.raises(SpecError, match="needs the data"):
        suggest(FeatureCache.from_arrays(clusters([3, 2]), None)).write_table("table.csv")


def fill_in(path: Path, label_of: Callable[[dict[str, str]], str], n: int) -> list[dict[str, str]]:
    """Fill in the labels of the first rows of a table. Returns all rows as they were."""
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, [*rows[0]])
        writer.writeheader()
        writer.writerows(
            {**row, "label": label_of(row) if number < n else row["label"]} for number, row in enumerate(rows)
        )
    return rows


def test_a_table_of_photos_is_filled_in_and_read_back(make_folder: MakeFolder, tmp_path: Path) -> None:
    root, out = make_folder({"photos": 16}) / "photos", tmp_path / "cache.h5"
    (root / "000.png").rename(root / "=0.png")  # a spreadsheet would take it for a formula
    cache = extract(root, out, backbone=toy_backbone(), workers=1, views=0).cache
    first = suggest(cache, 8, data=root)
    first.write_table(tmp_path / "one.csv")
    rows = fill_in(tmp_path / "one.csv", lambda row: "ants" if row["path"] < "photos/008" else "bees", 8)
    assert [row["path"] for row in rows[:8]] == [
        (root / sample.path).relative_to(tmp_path).as_posix() for sample in first.samples
    ]
    assert [bool(row["reason"]) for row in rows] == [True] * 8 + [False] * 8
    changed = update(out, tmp_path / "one.csv", backbone=toy_backbone(), workers=1)
    assert changed.shown == 0  # no view passed the network
    assert len(changed.changes["newly labeled"]) == 8
    cache = FeatureCache.open(out)
    assert len(cache.samples.rows("unlabeled")) == 8
    second = suggest(cache, 4, data=tmp_path / "one.csv")
    second.write_table(tmp_path / "two.csv")
    labels = {row["path"]: row["label"] for row in fill_in(tmp_path / "two.csv", lambda row: "bees", 4)}
    assert sorted(filter(None, labels.values())) == sorted(
        "ants" if row["path"] < "photos/008" else "bees" for row in rows[:8]
    )
    assert len(update(out, tmp_path / "two.csv", backbone=toy_backbone(), workers=1).changes["newly labeled"]) == 4


def test_a_table_of_texts_is_filled_in_and_read_back(tmp_path: Path) -> None:
    texts = ["=SUM(1)", 'a "quoted" text', "two\nlines", "comma, and more", "-1", "plain", "more", "words", "", "other"]
    with (tmp_path / "texts.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerows([("text", "label", "group"), *((text, "", f"g{row}") for row, text in enumerate(texts))])
    out = tmp_path / "cache.h5"
    extract(tmp_path / "texts.csv", out, backbone=toy_text_encoder())
    result = suggest(out, 6, data=tmp_path / "texts.csv")
    assert {sample.text for sample in result.samples} < {" ".join(text.split()) for text in texts}
    result.write_table(tmp_path / "one.csv")
    rows = fill_in(tmp_path / "one.csv", lambda row: "long" if " " in row["text"] else "short", 6)
    assert {row["text"] for row in rows} == {*texts} - {""}  # the empty text cannot be read
    assert {row["group"] for row in rows} == {f"g{row}" for row in range(10) if row != 8}
    changed = update(out, tmp_path / "one.csv", backbone=toy_text_encoder(), allow_loss=True)
    assert len(changed.changes["newly labeled"]) == 6
    assert changed.shown == 0


def test_splits_of_the_data_are_kept(make_folder: MakeFolder, tmp_path: Path) -> None:
    root = make_folder({"train/a": 4, "train/b": 4, "val/a": 2, "val/b": 2, "unlabeled": 5})
    out = tmp_path / "cache.h5"
    cache = extract(root, out, backbone=toy_backbone(), workers=1, views=0).cache
    suggest(cache, 2, data=root).write_table(tmp_path / "one.csv")
    rows = fill_in(tmp_path / "one.csv", lambda row: "a", 2)
    assert [row["split"] for row in rows if not row["label"]] == ["train"] * 5
    assert [row["split"] for row in rows].count("val") == 4
    changed = update(out, tmp_path / "one.csv", backbone=toy_backbone(), workers=1)
    assert len(changed.changes["newly labeled"]) == 2
    assert {split: len(FeatureCache.open(out).samples.rows(split)) for split in ("train", "val", "unlabeled")} == {
        "train": 10, "val": 4, "unlabeled": 3,
    }  # fmt: skip


def test_data_that_has_changed_since_is_refused(make_folder: MakeFolder, tmp_path: Path) -> None:
    root, out = make_folder({"photos": 8}) / "photos", tmp_path / "cache.h5"
    extract(root, out, backbone=toy_backbone(), workers=1, views=0)
    (root / "ants").mkdir()
    shutil.move(root / "000.png", root / "ants" / "000.png")
    with pytest.raises(CacheMismatchError, match="newly labeled"):
        suggest(out, 2, data=root)


def test_samples_in_a_tar_file_have_no_table(make_folder: MakeFolder, tmp_path: Path) -> None:
    root, out = make_folder({"unlabeled": 8}), tmp_path / "cache.h5"
    tar = shutil.make_archive(str(tmp_path / "photos"), "tar", root)
    extract(tar, out, backbone=toy_backbone(), workers=1, views=0)
    result = suggest(out, 2, data=tar)
    with pytest.raises(DataLayoutError, match="does not hold local files"):
        result.write_table(tmp_path / "one.csv")
    with pytest.raises(SpecError, match=r"must end in \.csv"):
        result.write_table(tmp_path / "one.txt")
