"""Tables of features: what pyarrow, pandas, DuckDB and NumPy read is what the cache holds."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from caches import cache_of, cache_of_layers, clouds, finished
from featcache.cache import rows as cache_rows
from featcache.cache.feature_cache import FeatureCache
from featcache.core.samples import SPLITS
from featcache.errors import ExportError, MissingExtraError, OutputError, OutputExistsError
from featcache.heads.fit_head import fit_head
from featcache.models.feature_classifier import FeatureClassifier
from featcache.models.feature_export import export_features
from limits import file_size_limit

Read = Callable[[Path], dict[str, Any]]


def by_pyarrow(path: Path) -> dict[str, Any]:
    parquet = pytest.importorskip("pyarrow.parquet")
    table = parquet.read_table(path)
    vectors = table["vector"].combine_chunks()
    flat = vectors.flatten().to_numpy(zero_copy_only=False)
    return table.to_pydict() | {"vector": flat.reshape(len(table), vectors.type.list_size)}


def by_pandas(path: Path) -> dict[str, Any]:
    pandas = pytest.importorskip("pandas")
    frame = pandas.read_parquet(path)
    columns = {name: [None if value != value else value for value in frame[name]] for name in frame if name != "vector"}
    return columns | {"vector": np.stack(frame["vector"])}


def by_duckdb(path: Path) -> dict[str, Any]:
    duckdb = pytest.importorskip("duckdb")
    found = duckdb.sql(f"SELECT * FROM read_parquet('{path}')")
    columns = dict(zip(found.columns, zip(*found.fetchall(), strict=True), strict=True))
    return {name: list(values) for name, values in columns.items()} | {"vector": np.array(columns["vector"])}


def by_numpy(path: Path) -> dict[str, Any]:
    with np.load(path) as arrays:
        columns = {name: arrays[name].tolist() for name in arrays.files if name not in ("source", "vector")}
        return columns | {"vector": arrays["vector"]}


READERS = [("parquet", by_pyarrow), ("parquet", by_pandas), ("parquet", by_duckdb), ("npz", by_numpy)]


def mixed(path: Path, dtype: str = "float32") -> FeatureCache:
    """12 train, 4 val, 2 test and 3 unlabeled samples, in groups."""
    x = clouds(21, 2)[0][:, 0].astype(dtype)
    y = [*["ants", "bees"] * 9, None, None, None]
    split = ["train"] * 12 + ["val"] * 4 + ["test"] * 2 + ["train"] * 3
    return FeatureCache.from_arrays(x, y, path, split=split, groups=[f"g{row}" for row in range(21)])


@pytest.mark.parametrize("dtype", ["float16", "float32"])
@pytest.mark.parametrize(("format", "read"), READERS)
def test_each_reader_reads_what_the_cache_holds(format: str, read: Read, dtype: str, tmp_path: Path) -> None:
    cache = mixed(tmp_path / "own.h5", dtype)
    done = export_features(cache, tmp_path / "table", format)
    table, samples = read(tmp_path / "table"), cache.samples
    assert (*table,) == done.columns == ("path", "label", "split", "sha256", "group", "vector")
    np.testing.assert_array_equal(table["vector"], np.concatenate([cache.features(s).clean() for s in SPLITS]))
    if read is not by_duckdb:  # it has no float16, and lists come as Python's floats
        assert table["vector"].dtype == dtype
    assert table["path"] == list(samples.ids)
    assert table["label"] == [*["ants", "bees"] * 9, *[None if format == "parquet" else ""] * 3]
    assert table["split"] == ["train"] * 12 + ["val"] * 4 + ["test"] * 2 + ["unlabeled"] * 3
    assert table["sha256"] == [row.tobytes().hex() for row in samples.sha256]
    assert table["group"] == list(samples.groups)
    assert done.rows_by_split == {"train": 12, "val": 4, "test": 2, "unlabeled": 3}
    assert str(done).startswith(f"{tmp_path / 'table'}: {format}, 21 rows (12 train, 4 val, 2 test, 3 unlabeled), ")
    assert "left out" not in str(done)


def test_vectors_are_lists_of_a_fixed_size(tmp_path: Path) -> None:
    pa = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    export_features(mixed(tmp_path / "own.h5", "float16"), tmp_path / "table.parquet")
    schema = parquet.read_schema(tmp_path / "table.parquet")
    assert schema.field("vector").type == pa.list_(pa.float16(), 8)
    assert schema.field("label").type == pa.string()


@pytest.mark.parametrize(("format", "read"), READERS)
def test_a_head_adds_what_it_predicts(format: str, read: Read, tmp_path: Path) -> None:
    cache = mixed(tmp_path / "own.h5")
    fit_head(cache, tmp_path / "head", head="logreg")
    export_features(cache, tmp_path / "table", format, head=tmp_path / "head")
    expected = FeatureClassifier.load(tmp_path / "head").predict(cache)
    table = read(tmp_path / "table")
    assert list(table)[-3:] == ["predicted", "probability", "vector"]
    assert table["predicted"] == [one.label for one in expected]
    np.testing.assert_allclose(table["probability"], [one.probability for one in expected], rtol=1e-6)


@pytest.mark.parametrize(("format", "read"), READERS)
def test_skipped_samples_and_augmented_views_are_counted(format: str, read: Read, tmp_path: Path) -> None:
    """Seven train rows of three views and three val rows of one; two of each cannot be read."""
    cache = finished(tmp_path / "known.h5", {2: "broken", 9: "empty"})
    done = export_features(cache, tmp_path / "table", format)
    table = read(tmp_path / "table")
    assert table["path"] == [name for row, name in enumerate(cache.samples.ids) if row not in (2, 9)]
    np.testing.assert_array_equal(table["vector"][:, 0], [0, 1, 3, 4, 5, 6, 7, 8])
    assert (done.rows, done.skipped, done.views_left_out) == (8, 2, 12)
    assert str(done).splitlines()[2:] == [
        "left out: 12 augmented views (--augmented adds them)",
        "left out: 2 samples that could not be read (`featcache info` lists them)",
    ]
    done = export_features(cache, tmp_path / "table", format, augmented=True, overwrite=True)
    table = read(tmp_path / "table")
    assert table["view"] == [0, 1, 2] * 6 + [0, 0]
    assert table["path"][:3] == ["train/0.png"] * 3
    first = [row + view / 4 for row in (0, 1, 3, 4, 5, 6) for view in range(3)]
    np.testing.assert_array_equal(table["vector"][:, 0], [*first, 7, 8])
    assert (done.rows, done.views_left_out) == (20, 0)


@pytest.mark.parametrize(("format", "read"), READERS)
def test_blocks_join_into_one_table(format: str, read: Read, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cache_rows, "_BLOCK_BYTES", 128)
    monkeypatch.setattr(cache_rows, "_BLOCK_ROWS", 4)
    x, y = clouds(50, 3)
    cache = cache_of(tmp_path / "cache.h5", (x, y), (x[:9, 0], y[:9]))
    fit_head(cache, tmp_path / "head", head="ridge")
    seen: list[tuple[int, int]] = []
    export_features(
        cache, tmp_path / "table", format, head=tmp_path / "head", progress=lambda _, *done: seen.append(done)
    )
    table = read(tmp_path / "table")
    np.testing.assert_array_equal(table["vector"], np.concatenate([x[:, 0], x[:9, 0]]))
    assert table["predicted"] == [one.label for one in FeatureClassifier.load(tmp_path / "head").predict(cache)]
    assert seen[:2] == [(4, 59), (8, 59)]
    assert seen[-1] == (59, 59)
    if format == "parquet":
        from pyarrow import parquet

        assert parquet.ParquetFile(tmp_path / "table").num_row_groups == 13 + 3


def test_layers_lie_side_by_side_and_one_split_is_written(tmp_path: Path) -> None:
    (x, y), (x2, _) = clouds(40, 2), clouds(40, 2, d=3, seed=5)
    layers = {"penultimate": x, "blocks.1:mean": x2}
    val = {name: part[:10] for name, part in layers.items()}
    cache = cache_of_layers(tmp_path / "c.h5", (layers, y), (val, y[:10]))
    done = export_features(cache, tmp_path / "t.npz", "npz", layer="penultimate,blocks.1:mean", split="val")
    table = by_numpy(tmp_path / "t.npz")
    assert (done.rows, done.width) == (10, 11)
    np.testing.assert_array_equal(table["vector"], np.concatenate([x[:10, 0], x2[:10, 0]], 1))


def test_several_labels_are_joined(tmp_path: Path) -> None:
    y = np.array([[1, 0, 1], [0, 0, 0], [0, 1, 1]] * 4 + [[-1] * 3])
    cache = FeatureCache.from_arrays(np.eye(13), y, tmp_path / "c.h5", classes=["a", "b", "c"], split=["train"] * 13)
    export_features(cache, tmp_path / "t.parquet", split="unlabeled")
    assert by_pyarrow(tmp_path / "t.parquet")["label"] == [None]
    export_features(cache, tmp_path / "t.parquet", overwrite=True)
    labels = by_pyarrow(tmp_path / "t.parquet")["label"]
    assert sorted(set(labels[:-1])) == ["", "a|c", "b|c"]


def test_what_cannot_be_written_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache, out = mixed(tmp_path / "own.h5"), tmp_path / "t.parquet"
    with pytest.raises(ExportError, match="there is no format of features 'csv'"):
        export_features(cache, out, "csv")
    monkeypatch.setattr("featcache._utils.environment.find_spec", lambda name: None)
    with pytest.raises(
        MissingExtraError, match=r'needs pyarrow, which is not installed: pip install -e "\.\[parquet\]"'
    ):
        export_features(cache, out)
    monkeypatch.undo()
    out.write_bytes(b"mine")
    with pytest.raises(OutputExistsError):
        export_features(cache, out)
    assert out.read_bytes() == b"mine"
    x = np.random.default_rng(0).normal(size=(200, 500))
    large = FeatureCache.from_arrays(x, ["a", "b"] * 100)
    for format in ("parquet", "npz"):
        with file_size_limit(100_000), pytest.raises(OutputError, match="larger than the limit on file sizes"):
            export_features(large, out, format, overwrite=True)
        assert out.read_bytes() == b"mine"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["own.h5", "t.parquet"]


def test_a_name_that_is_not_unicode_goes_into_npz_alone(tmp_path: Path) -> None:
    ids = [f"{row}\udcff.png" for row in range(12)]
    cache = FeatureCache.from_arrays(
        np.eye(12), ["a", "b"] * 6, tmp_path / "c.h5", split=["train"] * 8 + ["val"] * 4, ids=ids
    )
    with pytest.raises(ExportError, match="is not Unicode text, and Parquet holds no other"):
        export_features(cache, tmp_path / "t.parquet")
    export_features(cache, tmp_path / "t.npz", "npz")
    assert by_numpy(tmp_path / "t.npz")["path"] == ids


def test_npz_needs_no_pyarrow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    assert export_features(mixed(tmp_path / "own.h5"), tmp_path / "t.npz", "npz").rows == 21
