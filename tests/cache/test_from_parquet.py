"""`FeatureCache.from_parquet`: what was exported comes back; tables of other programs are read by their columns."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from caches import cache_of_layers, clouds, finished
from featcache.cache.feature_cache import FeatureCache
from featcache.core.samples import SPLITS, UNLABELED, format_labels
from featcache.errors import CacheError, DataLayoutError, MissingExtraError
from featcache.models.feature_export import export_features

pa = pytest.importorskip("pyarrow")
from pyarrow import parquet  # noqa: E402


def write(file: Path, **columns: Any) -> Path:
    parquet.write_table(pa.table(columns), file)
    return file


def same(one: FeatureCache, other: FeatureCache) -> None:
    """Equal features of the clean views, labels, splits, names, hashes and groups."""
    for split in SPLITS:
        mine, yours = one.features(split), other.features(split)
        np.testing.assert_array_equal(mine.clean(), yours.clean())
        assert mine.clean().dtype == yours.clean().dtype
        np.testing.assert_array_equal(mine.y, yours.y)
        assert mine.samples.ids == yours.samples.ids
        assert mine.samples.groups == yours.samples.groups
        np.testing.assert_array_equal(mine.samples.sha256, yours.samples.sha256)
    assert one.samples.classes == other.samples.classes


@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_an_exported_table_comes_back(dtype: str, tmp_path: Path) -> None:
    x = clouds(30, 3)[0][:, 0].astype(dtype)
    y = [*["a", "b", "c"] * 9, None, None, None]
    split = ["train"] * 18 + ["val"] * 6 + ["test"] * 3 + ["train"] * 3
    groups = [f"patient {row // 2}" for row in range(30)]
    first = FeatureCache.from_arrays(x, y, split=split, groups=groups, name="mine")
    export_features(first, tmp_path / "t.parquet")
    again = FeatureCache.from_parquet(tmp_path / "t.parquet", tmp_path / "again.h5")
    same(first, again)
    assert len(again.samples.rows(UNLABELED)) == 3
    assert again.spec.digest() == first.spec.digest()
    with pytest.raises(CacheError, match="exists"):
        FeatureCache.from_parquet(tmp_path / "t.parquet", tmp_path / "again.h5")
    FeatureCache.from_parquet(tmp_path / "t.parquet", tmp_path / "again.h5", overwrite=True)


def test_a_cache_of_images_comes_back_with_its_hashes(tmp_path: Path) -> None:
    """Skipped samples have no row."""
    cache = finished(tmp_path / "c.h5", {2: "broken"})
    export_features(cache, tmp_path / "t.parquet")
    again = FeatureCache.from_parquet(tmp_path / "t.parquet")
    same(cache, again)
    assert again.spec.backbone == "arrays:toy"
    assert FeatureCache.from_parquet(tmp_path / "t.parquet", name="x").spec.backbone == "arrays:x"
    export_features(cache, tmp_path / "t.parquet", augmented=True, overwrite=True)
    with pytest.raises(DataLayoutError, match=r"has rows of augmented views\. Export it again without them"):
        FeatureCache.from_parquet(tmp_path / "t.parquet")


def test_several_labels_come_back(tmp_path: Path) -> None:
    """Also a class that no sample has, and a sample without any of the labels."""
    y = np.array([[1, 0, 1, 0], [0, 0, 0, 0], [0, 1, 1, 0]] * 4 + [[-1] * 4], np.int64)
    first = FeatureCache.from_arrays(np.eye(13), y, classes=["a", "b", "c", "d"])
    export_features(first, tmp_path / "t.parquet")
    same(first, FeatureCache.from_parquet(tmp_path / "t.parquet"))


def test_a_table_of_layers_comes_back_as_one_layer(tmp_path: Path) -> None:
    (x, y), (x2, _) = clouds(20, 2), clouds(20, 2, d=3, seed=5)
    layers = {"penultimate": x, "blocks.1:mean": x2}
    cache = cache_of_layers(tmp_path / "c.h5", (layers, y), (layers, y))
    export_features(cache, tmp_path / "t.parquet", layer="all")
    again = FeatureCache.from_parquet(tmp_path / "t.parquet")
    np.testing.assert_array_equal(again.features("train").clean(), np.concatenate([x[:, 0], x2[:, 0]], 1))


def test_the_columns_of_another_table_are_named(tmp_path: Path) -> None:
    x, labels = np.random.default_rng(0).normal(size=(20, 3)), [3, 7] * 10
    path = write(tmp_path / "t.parquet", embedding=x.tolist(), species=labels, part=["train"] * 15 + ["val"] * 5)
    cache = FeatureCache.from_parquet(path, vector_column="embedding", label_column="species", split_column="part")
    np.testing.assert_array_equal(cache.features("val").clean(), x[15:].astype(np.float32))
    assert format_labels(cache.features("val").y, cache.samples.classes) == ["7", "3", "7", "3", "7"]
    without = FeatureCache.from_parquet(path, vector_column="embedding", label_column="species", val_fraction=0.3)
    assert len(without.samples.rows("val")) == 6


def test_missing_labels_are_unlabeled_samples(tmp_path: Path) -> None:
    x = np.eye(14).tolist()
    path = write(tmp_path / "t.parquet", vector=x, label=["a", "b"] * 6 + ["", None])
    cache = FeatureCache.from_parquet(path)
    assert cache.samples.ids[12:] == ("12", "13")
    np.testing.assert_array_equal(cache.features(UNLABELED).clean(), np.eye(14)[12:])
    path = write(tmp_path / "t.parquet", vector=x, label=pa.array([*[1.0, 2.0] * 6, float("nan"), None]))
    assert FeatureCache.from_parquet(path).samples.classes == ("1", "2")


def test_lists_of_labels_are_several_labels(tmp_path: Path) -> None:
    labels = [["a", "b"], ["b"], [], ["a"], None] * 4
    cache = FeatureCache.from_parquet(write(tmp_path / "t.parquet", vector=np.eye(20).tolist(), label=labels))
    assert cache.samples.multilabel
    assert cache.samples.labels[np.argsort(cache.samples.ids)][:4].tolist() == [[1, 1], [0, 1], [0, 0], [1, 0]]
    assert len(cache.samples.rows(UNLABELED)) == 4


def test_what_does_not_fit_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    x, y = np.eye(12).tolist(), ["a", "b"] * 6
    for columns, options, said in [
        ({"x": x, "label": y}, {}, "has no column 'vector'; it has x, label. Name the column with vector_column."),
        ({"vector": x, "y": y}, {}, "has no column 'label'; it has vector, y. Name the column with label_column."),
        ({"vector": x, "label": y}, {"split_column": "part"}, "has no column 'part'; it has vector, label."),
        ({"vector": y, "label": y}, {}, "column vector holds string; it must hold lists of numbers."),
        ({"vector": [*x[:-1], [1.0]], "label": y}, {}, "column vector has vectors of different lengths: 1, 12."),
        ({"vector": [*x[:-1], None], "label": y}, {}, "column vector has empty cells. Leave those rows out."),
        ({"vector": [[None] * 12, *x[1:]], "label": y}, {}, "column vector has empty cells."),
        ({"vector": [[1e300] * 12, *x[1:]], "label": y}, {}, "numbers that float32 does not have: rows 0."),
        ({"vector": x, "label": y, "split": ["old"] * 12}, {}, "row 1: split is 'old'; it must be train, val, test "),
        ({"vector": x, "label": y, "split": ["val", *[None] * 11]}, {}, "has labeled rows without a split."),
        ({"vector": x, "label": y, "path": ["same"] * 12}, {}, "ids must be different from each other."),
        ({"vector": x, "label": y, "sha256": ["ab"] * 12}, {}, "row 1: sha256 is 'ab'; it must be 64 hexadecimal "),
        ({"vector": pa.array([], pa.list_(pa.float32())), "label": pa.array([], pa.string())}, {}, "has no rows."),
    ]:
        path = write(tmp_path / "t.parquet", **columns)
        with pytest.raises(DataLayoutError) as caught:
            FeatureCache.from_parquet(path, **options)
        assert said in str(caught.value)
    (tmp_path / "t.parquet").write_bytes(b"PAR1 no")
    with pytest.raises(DataLayoutError, match="is not a Parquet file of features"):
        FeatureCache.from_parquet(tmp_path / "t.parquet")
    with pytest.raises(DataLayoutError, match="is not a file"):
        FeatureCache.from_parquet(tmp_path)
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(MissingExtraError, match=r"\[parquet\]"):
        FeatureCache.from_parquet(tmp_path / "t.parquet")
