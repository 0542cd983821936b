"""Data sets of Hugging Face: which column is which, labels that are hidden, images that are missing, Parquet files."""

from __future__ import annotations

import io
import os
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
from PIL import Image

from featcache.cache.feature_cache import FeatureCache
from featcache.data.manifest import Manifest, read_manifest
from featcache.data.sources.registry import open_source
from featcache.errors import DataLayoutError
from featcache.extraction.extract import extract
from featcache.extraction.update import update
from featcache.heads.fit_head import fit_head
from toys import toy_backbone

PETS = datasets.ClassLabel(names=["cat", "dog"])
SIZES = datasets.ClassLabel(names=["s", "l"])


def png(value: int) -> bytes:
    file = io.BytesIO()
    Image.fromarray(np.full((8, 8, 3), value, np.uint8)).save(file, "PNG")
    return file.getvalue()


def table(labels: Mapping[str, tuple[Any, Sequence[Any]]], images: Sequence[Any] | None = None) -> datasets.Dataset:
    """labels : of each column its type and its values. images : None makes one of its own for each row."""
    n = len(next(iter(labels.values()))[1])
    images = images or [{"bytes": png(10 * row), "path": f"{row}.png"} for row in range(n)]
    features = {"image": datasets.Image(), **{name: feature for name, (feature, _) in labels.items()}}
    return datasets.Dataset.from_dict(
        {"image": list(images), **{name: list(values) for name, (_, values) in labels.items()}},
        datasets.Features(features),
    )


def saved(path: Path, *args: Any, **splits: datasets.Dataset) -> Path:
    (datasets.DatasetDict(splits) if splits else table(*args)).save_to_disk(str(path))
    return path


def labels_of(manifest: Manifest) -> dict[str, str]:
    samples = manifest.samples
    return {
        name.rpartition("/")[2]: samples.classes[label] if label >= 0 else ""
        for name, label in zip(samples.ids, samples.labels, strict=True)
    }


def refusal(path: Path | str, **options: Any) -> str:
    with pytest.raises(DataLayoutError) as caught:
        read_manifest(path, **options)
    return str(caught.value)


EXPECTED = {f"{row}.png": ("cat", "dog")[row % 2] for row in range(6)}
BY_NUMBER = [0, 1] * 3


@pytest.mark.parametrize(
    ("columns", "options", "note"),
    [
        (
            {"attribute": (SIZES, [0, 0, 0, 1, 1, 1]), "label": (PETS, BY_NUMBER)},
            {},
            "label column: label (not attribute; --label-column chooses)",
        ),
        (
            {"source": (SIZES, [0, 0, 0, 1, 1, 1]), "label": (datasets.Value("string"), ["cat", "dog"] * 3)},
            {},
            "label column: label (not source; --label-column chooses)",
        ),
        ({"size": (datasets.Value("int64"), [0] * 6), "kind": (PETS, BY_NUMBER)}, {}, "label column: kind"),
        (
            {"size": (SIZES, [0, 0, 0, 1, 1, 1]), "kind": (PETS, BY_NUMBER)},
            {"label_column": "kind"},
            "label column: kind (not size; --label-column chooses)",
        ),
        (
            {"label": (SIZES, [0, 0, 0, 1, 1, 1]), "kind": (datasets.Value("string"), ["cat", "dog"] * 3)},
            {"label_column": "kind"},
            "label column: kind (not label; --label-column chooses)",
        ),
    ],
)
def test_which_column_is_the_label(tmp_path: Path, columns: dict[str, Any], options: dict[str, str], note: str) -> None:
    manifest = read_manifest(saved(tmp_path / "set", columns), **options)
    assert labels_of(manifest) == EXPECTED
    assert manifest.notes == (note,)
    source = open_source(tmp_path / "set")  # as a picture reads it, which knows ids and no column
    assert [source.read(name) for name in manifest.samples.ids] == [manifest.read(row) for row in range(6)]


def test_where_two_columns_may_be_the_label_the_user_says_which(tmp_path: Path) -> None:
    path = saved(tmp_path / "set", {"size": (SIZES, BY_NUMBER), "kind": (PETS, BY_NUMBER)})
    assert refusal(path) == f"{path} has 2 columns that may be the label: size, kind. Name one: --label-column size"
    assert refusal(path, label_column="sort") == f"{path} has no column 'sort'; it has size, kind."


def test_two_columns_of_images(tmp_path: Path) -> None:
    data = table({"label": (PETS, BY_NUMBER)})
    twice = data.add_column("mask", [{"bytes": b"mask", "path": None}] * 6).cast_column("mask", datasets.Image())
    twice.save_to_disk(str(tmp_path / "set"))
    manifest = read_manifest(tmp_path / "set")
    assert labels_of(manifest) == EXPECTED
    assert manifest.notes == ("label column: label", "image column: image (not mask)")
    twice.rename_column("image", "photo").save_to_disk(str(tmp_path / "other"))
    assert "has 2 columns of images: " in refusal(tmp_path / "other")


def test_hidden_labels_of_a_test_split_are_not_scored(tmp_path: Path) -> None:
    path = saved(
        tmp_path / "set",
        train=table({"label": (PETS, BY_NUMBER * 2)}),
        validation=table({"label": (PETS, [0, 1])}, [{"bytes": png(200 + row), "path": None} for row in range(2)]),
        test=table({"label": (PETS, [-1, None, -1])}, [{"bytes": png(230 + row), "path": None} for row in range(3)]),
    )
    extraction = extract(path, tmp_path / "cache.h5", backbone=toy_backbone(), views=0, workers=1)
    samples = extraction.cache.samples
    assert not samples.multilabel
    assert {split: len(samples.rows(split)) for split in ("train", "val", "test", "unlabeled")} == {
        "train": 12,
        "val": 2,
        "test": 0,
        "unlabeled": 3,
    }
    assert extraction.cache.features("unlabeled").y.tolist() == [-1, -1, -1]
    assert "3 of 17 images have no label" in str(extraction.data)
    fit = fit_head(tmp_path / "cache.h5", tmp_path / "head")
    assert fit.report.test is None
    assert not (tmp_path / "head/test.csv").exists()


def test_a_split_of_unlabeled_images_and_labels_that_are_filled_in(tmp_path: Path) -> None:
    """The split "unsupervised" has -1 for each row; null in train is filled in later."""
    out = tmp_path / "cache.h5"
    more = [{"bytes": png(200 + row), "path": None} for row in range(2)]

    def data(name: str, *last: int | None) -> Path:
        labels = [*(BY_NUMBER * 2)[:10], *last]
        return saved(
            tmp_path / name,
            train=table({"label": (PETS, labels)}),
            unsupervised=table({"label": (PETS, [-1, 0])}, more),
        )

    cache = extract(data("before", None, -1), out, backbone=toy_backbone(), views=0, workers=1).cache
    assert len(cache.samples.rows("unlabeled")) == 4
    result = update(out, data("after", 0, 1))
    assert (result.carried, result.extracted) == (14, 0)
    assert len(result.changes["newly labeled"]) == 2
    assert len(FeatureCache.open(out).samples.rows("unlabeled")) == 2


def test_a_data_set_without_labels_says_how_to_begin(tmp_path: Path) -> None:
    images = table({"label": (PETS, BY_NUMBER)}).remove_columns("label")
    images.save_to_disk(str(tmp_path / "images"))
    assert refusal(tmp_path / "images").endswith(
        "it has image (Image). If there are no labels yet: add_column('label', [None] * len(dataset))"
    )
    images.add_column("label", [None] * len(images)).save_to_disk(str(tmp_path / "unlabeled"))
    assert len(read_manifest(tmp_path / "unlabeled").samples.rows("unlabeled")) == len(images)


def test_unlabeled_copies_are_no_leak_and_no_conflict(tmp_path: Path) -> None:
    images = [{"bytes": png(value), "path": None} for value in (0, 10, 20, 30, 0, 10)]
    manifest = read_manifest(saved(tmp_path / "set", {"label": (PETS, [0, 1, 0, 1, -1, -1])}, images))
    assert manifest.conflicts() == []
    assert len(manifest.samples.rows("unlabeled")) == 2


@pytest.mark.parametrize("rows", [[[0], [1]] * 3, [[0, 1], [1], [], [0], [1], [0]]])
def test_a_list_of_labels_is_several_whatever_the_rows_hold(tmp_path: Path, rows: list[list[int]]) -> None:
    path = saved(tmp_path / "set", {"label": (datasets.List(PETS), rows)})
    samples = read_manifest(path).samples
    assert samples.multilabel
    labels_by_name = {
        name.rpartition("/")[2]: label.tolist() for name, label in zip(samples.ids, samples.labels, strict=True)
    }
    names = ["{row}.png" if all(rows) else "{row:08d}" for row in range(6)]
    expected = [[int(0 in row), int(1 in row)] for row in rows]
    assert sorted(labels_by_name.values()) == sorted(expected), names


def test_an_unknown_list_is_not_an_empty_one(tmp_path: Path) -> None:
    path = saved(tmp_path / "set", {"label": (datasets.List(PETS), [[0], [1], [], None, [0, 1], [-1]])})
    samples = read_manifest(path).samples
    assert len(samples.rows("unlabeled")) == 2
    labelled = samples.labels[samples.split != 3]
    assert sorted(labelled.tolist()) == [[0, 0], [0, 1], [1, 0], [1, 1]]
    assert not samples.labels[samples.rows("unlabeled")].any()


@pytest.mark.parametrize("rows", [[None] * 6, [[], None] * 3, [[-1]] * 6])
def test_lists_without_any_label_are_not_known(tmp_path: Path, rows: list[list[int] | None]) -> None:
    path, out = saved(tmp_path / "set", {"label": (datasets.List(PETS), rows)}), tmp_path / "cache.h5"
    cache = extract(path, out, backbone=toy_backbone(), views=0, workers=1).cache
    assert len(cache.samples.rows("unlabeled")) == 6
    filled = saved(tmp_path / "filled", {"label": (datasets.List(PETS), [[0], [1], [0, 1], [0], [], None])})
    result = update(out, filled)
    assert (result.carried, result.extracted, len(result.changes["newly labeled"])) == (6, 0, 5)
    assert FeatureCache.open(out).samples.multilabel


def test_rows_without_an_image_are_skipped_with_the_reason(tmp_path: Path) -> None:
    images = [{"bytes": png(10 * row), "path": f"{row}.png"} for row in range(5)] + [None]
    path = saved(tmp_path / "set", {"label": (PETS, BY_NUMBER)}, images)
    extraction = extract(path, tmp_path / "cache.h5", backbone=toy_backbone(), views=0, workers=1)
    assert extraction.skipped == [("dog/00000005", "the data set has no image in this row (null)")]


def test_selected_rows_keep_their_images(tmp_path: Path) -> None:
    table({"label": (PETS, BY_NUMBER)}).select([5, 0, 1, 2]).save_to_disk(str(tmp_path / "set"))
    manifest = read_manifest(tmp_path / "set")
    rows = {name.rpartition("/")[2]: row for row, name in enumerate(manifest.samples.ids)}
    assert {name: manifest.read(row) for name, row in rows.items()} == {
        f"{row}.png": png(10 * row) for row in (5, 0, 1, 2)
    }


@pytest.fixture
def cache_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "home"))
    return tmp_path / "home/featcache/huggingface"


HUB: dict[str, Callable[[Path], object]] = {
    "folder": lambda root: root,
    "pattern": lambda root: root / "data/*.parquet",
    "text": lambda root: f"{root}/data/*.parquet",
}


@pytest.mark.parametrize("kind", HUB)
def test_parquet_files_of_the_hub(tmp_path: Path, cache_home: Path, kind: str) -> None:
    root = tmp_path / "pets"
    (root / "data").mkdir(parents=True)
    train = table({"label": (PETS, BY_NUMBER)})
    test = table({"label": (PETS, [1, 0])}, [{"bytes": png(200 + row), "path": f"t{row}.png"} for row in range(2)])
    train.select(range(3)).to_parquet(root / "data/train-00000-of-00002.parquet")
    train.select(range(3, 6)).to_parquet(root / "data/train-00001-of-00002.parquet")
    test.to_parquet(root / "data/test-00000-of-00001.parquet")
    manifest = read_manifest(HUB[kind](root))
    expected = read_manifest(saved(tmp_path / "saved", train=train, test=test))
    assert manifest.samples.digest() == expected.samples.digest()
    assert [manifest.read(row) for row in range(8)] == [expected.read(row) for row in range(8)]
    assert manifest.notes == ("label column: label", f"3 Parquet files copied to {cache_home}")


def test_a_parquet_file_that_has_changed_is_read_again(tmp_path: Path, cache_home: Path) -> None:
    path = tmp_path / "pets.parquet"
    table({"label": (PETS, BY_NUMBER)}).to_parquet(path)
    assert labels_of(read_manifest(path)) == EXPECTED
    table({"label": (PETS, [1, 0] * 3)}).to_parquet(path)
    os.utime(path, (10**9, 10**9))
    assert labels_of(read_manifest(path)) == {f"{row}.png": ("dog", "cat")[row % 2] for row in range(6)}


def test_a_parquet_file_with_images_elsewhere_is_to_be_copied(tmp_path: Path) -> None:
    import fsspec

    table({"label": (PETS, BY_NUMBER)}).to_parquet(tmp_path / "pets.parquet")
    fsspec.filesystem("memory").pipe_file("/hub/pets.parquet", (tmp_path / "pets.parquet").read_bytes())
    assert refusal("memory://hub/pets.parquet") == (
        "memory://hub/pets.parquet holds the images themselves: copy it to a disk of this machine, and give it there."
    )


def test_a_parquet_file_of_pandas(tmp_path: Path, cache_home: Path) -> None:
    """Without the note of Hugging Face on what the columns are."""
    import pyarrow
    from pyarrow import parquet

    images = [{"bytes": png(10 * row), "path": f"{row}.png"} for row in range(6)]
    parquet.write_table(pyarrow.table({"image": images, "label": ["cat", "dog"] * 3}), tmp_path / "pets.parquet")
    assert labels_of(read_manifest(tmp_path / "pets.parquet")) == EXPECTED
    raw = pyarrow.table({"img": [png(10 * row) for row in range(6)], "label": ["cat", "dog"] * 3})
    parquet.write_table(raw, tmp_path / "raw.parquet")
    manifest = read_manifest(tmp_path / "raw.parquet")
    assert labels_of(manifest) == {f"{row:08d}": ("cat", "dog")[row % 2] for row in range(6)}


def test_a_hub_test_file_of_minus_one_alone_is_unlabeled(tmp_path: Path, cache_home: Path) -> None:
    number = datasets.Value("int64")
    (tmp_path / "data").mkdir()
    table({"label": (number, BY_NUMBER)}).to_parquet(tmp_path / "data/train-0.parquet")
    hidden = [{"bytes": png(200 + row), "path": f"t{row}.png"} for row in range(2)]
    table({"label": (number, [-1, -1])}, hidden).to_parquet(tmp_path / "data/test-0.parquet")
    samples = read_manifest(tmp_path).samples
    assert samples.classes == ("0", "1")
    assert [samples.ids[row] for row in samples.rows("unlabeled")] == ["test/t0.png", "test/t1.png"]


def test_the_files_of_two_configurations_are_not_mixed(tmp_path: Path, cache_home: Path) -> None:
    for name in ("small", "large"):
        (tmp_path / name / "train").mkdir(parents=True)
        table({"label": (PETS, BY_NUMBER)}).to_parquet(tmp_path / name / "train/0000.parquet")
    assert refusal(tmp_path) == (
        f"{tmp_path} holds the Parquet files of 2 configurations of a data set: large, small. Give the folder of one: "
        f"{tmp_path / 'large'}"
    )
    assert labels_of(read_manifest(tmp_path / "large")) == EXPECTED


def test_the_test_split_of_a_configuration_is_read_too(tmp_path: Path, cache_home: Path) -> None:
    test = table({"label": (PETS, [0, 1])}, [{"bytes": png(200 + row), "path": f"t{row}.png"} for row in range(2)])
    for split, data in {"train": table({"label": (PETS, BY_NUMBER)}), "test": test}.items():
        (tmp_path / "default" / split).mkdir(parents=True)
        data.to_parquet(tmp_path / "default" / split / "0000.parquet")
    assert len(read_manifest(tmp_path).samples.rows("test")) == 2


def test_an_empty_text_is_no_label(tmp_path: Path) -> None:
    text = datasets.Value("string")
    manifest = read_manifest(saved(tmp_path / "set", {"label": (text, ["cat", "dog", "cat", "dog", "", " "])}))
    assert manifest.samples.classes == ("cat", "dog")
    assert len(manifest.samples.rows("unlabeled")) == 2


def test_a_label_with_fields_is_refused(tmp_path: Path) -> None:
    path = saved(tmp_path / "set", {"label": ({"a": datasets.Value("int64")}, [{"a": row % 2} for row in range(6)])})
    assert refusal(path) == (
        f"{path}: the labels in the column 'label' must be names, numbers or lists of such; found {{'a': 0}}. Name "
        "another column with --label-column."
    )


def test_images_of_a_group_stay_together(tmp_path: Path) -> None:
    columns = {"label": (PETS, BY_NUMBER), "group": (datasets.Value("int64"), [7, 7, 8, 8, 9, 9])}
    manifest = read_manifest(saved(tmp_path / "set", columns), val_fraction=0.4)
    pairs = zip(manifest.samples.ids, manifest.samples.groups, strict=True)
    of = {name.rpartition("/")[2]: group for name, group in pairs}
    assert of == {f"{row}.png": "778899"[row] for row in range(6)}


@pytest.mark.parametrize(
    ("feature", "value", "type_text"),
    [
        (datasets.List(datasets.Value("string")), ["p1"], "List(Value('string'))"),
        ({"site": datasets.Value("int64")}, {"site": 1}, "{'site': Value('int64')}"),
    ],
    ids=["list", "fields"],
)
def test_a_group_that_is_no_text_or_number_is_refused(feature: Any, value: Any, type_text: str, tmp_path: Path) -> None:
    """Predictions need no groups."""
    path = saved(tmp_path / "d", {"label": (PETS, BY_NUMBER), "group": (feature, [value] * 6)})
    assert refusal(path) == (
        f"{path}: the column 'group' names the group of an image, a text or a number; it is {type_text}. Make it one "
        "of these, or rename it if it is not a group: rename_column('group', ...)"
    )
    source = open_source(path)
    assert len(source.sample_ids(Counter())) == 6
    assert source.read("cat/0.png") == png(0)


def test_pictures_that_lie_outside_of_the_file_are_refused(tmp_path: Path) -> None:
    """The places of the pictures in an Arrow file: one before the one ahead of it makes a negative length."""
    path = saved(tmp_path / "data", {"label": (PETS, [0, 1] * 4)})
    (file,) = path.glob("*.arrow")
    ends = np.cumsum([0, *(len(png(10 * row)) for row in range(8))]).astype("<i4")
    content = file.read_bytes()
    assert ends.tobytes() in content
    file.write_bytes(content.replace(ends.tobytes(), ends[::-1].tobytes()))
    assert "cannot be read as a saved data set" in refusal(path)


def test_a_number_without_a_class_name_is_damage(tmp_path: Path) -> None:
    path = saved(tmp_path / "data", {"label": (PETS, [0, 1] * 4)})
    info = path / "dataset_info.json"
    info.write_text(info.read_text().replace('"dog"', "").replace('"cat",', '"cat"'))
    assert "a label in the column 'label' has a number without a name" in refusal(path)


def test_a_split_that_is_gone_is_named(tmp_path: Path) -> None:
    path = saved(tmp_path / "data", train=table({"label": (PETS, [0, 1] * 4)}))
    (path / "train").rename(path / "other")
    assert "is damaged: it has no split 'train'" in refusal(path)


@pytest.mark.parametrize("name", ["dataset_info.json", "state.json"])
def test_json_that_is_nested_too_deeply_is_refused(name: str, tmp_path: Path) -> None:
    path = saved(tmp_path / "data", {"label": (PETS, [0, 1] * 4)})
    (path / name).write_text('{"a":' * 100_000)
    assert "cannot be read as a saved data set: it is nested too deeply" in refusal(path)


@pytest.mark.parametrize("columns", [[], ["image"], ["image", "label"]])
def test_the_format_that_a_data_set_was_saved_with_hides_nothing(columns: list[str], tmp_path: Path) -> None:
    path = tmp_path / "data"
    table({"label": (PETS, [0, 1] * 4)}).with_format("numpy", columns=columns).save_to_disk(str(path))
    assert labels_of(read_manifest(path)) == {f"{row}.png": ("cat", "dog")[row % 2] for row in range(8)}
