"""`FeatureCache.from_arrays`: features of one's own go into every head, comparison, curve and check."""

from __future__ import annotations

import gc
import gzip
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression

from caches import clouds
from commands import as_json, done, refused, write_folder
from featcache.analysis.curves import label_curve
from featcache.analysis.doctor.doctor import doctor
from featcache.cache.feature_cache import FeatureCache
from featcache.cache.verify import verify
from featcache.errors import (
    BackboneError,
    CacheError,
    CacheIncompleteError,
    CacheMismatchError,
    DataLayoutError,
    HeadError,
)
from featcache.extraction.update import update
from featcache.heads.fit_head import fit_head
from featcache.metrics.predictions import compare_heads
from featcache.models.classifier import Classifier
from featcache.reports.pages.head import write_head_page


def cats_and_dogs(n: int = 80) -> tuple[np.ndarray, np.ndarray]:
    x, y = clouds(n, 2)
    return x[:, 0], np.array(["cat", "dog"])[y]


def test_what_is_given_is_what_heads_see(tmp_path: Path) -> None:
    x, y = cats_and_dogs()
    split = ["train"] * 60 + ["val"] * 12 + ["test"] * 8
    cache = FeatureCache.from_arrays(x, y, tmp_path / "own.h5", split=split, ids=[f"s{row}" for row in range(80)])
    train, val, test = (cache.features(name) for name in ("train", "val", "test"))
    np.testing.assert_array_equal(train.clean(), x[:60])
    np.testing.assert_array_equal(test.clean(), x[72:])
    assert [cache.samples.classes[label] for label in val.y] == y[60:72].tolist()
    assert val.samples.ids == tuple(f"s{row}" for row in range(60, 72))
    fit = fit_head(cache, tmp_path / "head", head="logreg")
    ours = LogisticRegression(max_iter=1000).fit(x[:60], y[:60] == "dog")
    assert fit.accuracy.accuracy == np.mean(ours.predict(x[60:72]) == (y[60:72] == "dog"))
    assert verify(tmp_path / "own.h5").ok
    reopened = FeatureCache.open(tmp_path / "own.h5")
    assert reopened.spec.digest() == cache.spec.digest()
    assert done("info", tmp_path / "own.h5").splitlines()[0].startswith(f"{tmp_path / 'own.h5'}: feature cache")


def test_views_and_numbers_and_tensors_are_taken(tmp_path: Path) -> None:
    x, y = clouds(40, 3, views=3)
    cache = FeatureCache.from_arrays(torch.tensor(x), torch.tensor(y), classes=["b", "a", "c"])
    assert cache.samples.classes == ("a", "b", "c")
    assert (cache.features("train").x.shape[1:], cache.features("val").views) == ((3, 8), 2)
    rows = {name: row for row, name in enumerate(cache.samples.ids)}
    assert cache.samples.classes[cache.samples.labels[rows["00"]]] == "b"
    np.testing.assert_array_equal(
        np.concatenate([cache.features("train").x, cache.features("val").x])[rows["07"]], x[7]
    )
    assert fit_head(cache, head="sgd", tta=2).accuracy.n == len(cache.samples.rows("val"))
    half = FeatureCache.from_arrays(x.astype(np.float16), y)
    assert (half.spec.dtype, half.samples.classes) == ("float16", ("0", "1", "2"))


def test_unlabeled_rows_are_a_split_and_groups_stay_together() -> None:
    x, y = cats_and_dogs()
    labels: list[Any] = [*y[:76], None, None, "", float("nan")]
    groups = [str(row // 4) for row in range(80)]
    cache = FeatureCache.from_arrays(x, labels, groups=groups)
    assert len(cache.samples.rows("unlabeled")) == 4
    sides = {group: set() for group in groups}
    for group, split in zip(cache.samples.groups, cache.samples.split, strict=True):
        sides[group].add(int(split))
    assert {len(one) for name, one in sides.items() if name != "19"} == {1}
    assert fit_head(cache).accuracy.n == len(cache.samples.rows("val"))


@pytest.mark.parametrize("y", [None, [None] * 80, np.full(80, -1), np.full(80, np.nan)])
def test_features_without_any_label(y: Any) -> None:
    x, _ = cats_and_dogs()
    cache = FeatureCache.from_arrays(x, y, classes=["cat", "dog"] if isinstance(y, list) else None)
    assert cache.samples.classes == (("cat", "dog") if isinstance(y, list) else ())
    assert len(cache.samples.rows("unlabeled")) == 80
    np.testing.assert_array_equal(cache.features("unlabeled").clean(), x.astype(np.float32))
    assert doctor(cache).images == 80
    with pytest.raises(CacheIncompleteError, match="no training image has a label yet"):
        fit_head(cache)


def test_few_labels_leave_val_empty() -> None:
    x, _ = cats_and_dogs()
    cache = FeatureCache.from_arrays(x[:5], ["cat", "dog", None, None, None])
    assert [len(cache.samples.rows(split)) for split in ("train", "val", "unlabeled")] == [2, 0, 3]
    one = FeatureCache.from_arrays(x[:5], ["cat", None, None, None, None])
    assert [len(one.samples.rows(split)) for split in ("train", "val", "unlabeled")] == [1, 0, 4]


@pytest.mark.parametrize("unknown", [-1, np.nan])
def test_several_labels_that_are_not_known(unknown: float) -> None:
    x, _ = cats_and_dogs()
    y = (x[:, :3] > 0).astype(float)
    y[:10] = unknown
    cache = FeatureCache.from_arrays(x, y)
    assert [cache.samples.ids[row] for row in cache.samples.rows("unlabeled")] == [f"{row:02d}" for row in range(10)]
    assert not cache.features("unlabeled").y.any()
    y[0, 0] = 1
    with pytest.raises(DataLayoutError, match="must hold 0 and 1, or a row of -1 or NaN"):
        FeatureCache.from_arrays(x, y)


def test_several_labels(tmp_path: Path) -> None:
    x, _ = cats_and_dogs()
    y = (x[:, :3] > 0).astype(int)
    cache = FeatureCache.from_arrays(x, y, classes=["z", "a", "b"])
    assert cache.samples.classes == ("a", "b", "z")
    row = int(cache.samples.ids[0])
    assert cache.samples.labels[0].tolist() == y[row][[1, 2, 0]].tolist()
    assert fit_head(cache).to_dict()["mean_average_precision"] > 0.9


def test_heads_comparisons_curves_and_the_doctor(tmp_path: Path) -> None:
    x, y = clouds(120, 3)
    cache = FeatureCache.from_arrays(x, y, tmp_path / "own.h5", name="CLIP ViT-B/32")
    fits = {head: fit_head(cache, tmp_path / head, head=head) for head in ("auto", "lda", "knn")}
    assert compare_heads(tmp_path / "lda", tmp_path / "knn").test.n == fits["lda"].accuracy.n
    assert len(label_curve(cache, head="lda", shares=(0.5, 1.0), repeats=1).points) == 2
    found = doctor(cache)
    assert "not checked: input (these features (CLIP ViT-B/32) were given as arrays" in str(found)
    assert as_json("doctor", tmp_path / "own.h5")["images"] == 120
    page = write_head_page(tmp_path / "page.html", fits["lda"], tmp_path / "own.h5", {"head": "lda"})
    assert "FeatureCache.from_arrays(x, y" in page.read_text()


def test_what_needs_images_or_the_network_is_refused_with_the_reason(tmp_path: Path) -> None:
    x, y = cats_and_dogs()
    cache = FeatureCache.from_arrays(x, y, tmp_path / "own.h5")
    fit_head(cache, tmp_path / "head")
    data = write_folder(tmp_path / "data")
    reason = r"these features were given as arrays \(FeatureCache\.from_arrays\): there is neither a network nor images"
    with pytest.raises(BackboneError, match=reason):
        Classifier.load(tmp_path / "head")
    for call in (lambda: doctor(cache, data), lambda: update(cache.path, data), lambda: verify(cache.path, data)):
        with pytest.raises(CacheMismatchError, match=reason):
            call()
    with pytest.raises(HeadError, match=reason):
        fit_head(cache, head="imagenet:cat,dog")
    for command in (("predict", tmp_path / "head", data), ("show", "views", cache.path, data, "-o", tmp_path / "v.png"),
                    ("export", tmp_path / "head", "-o", tmp_path / "e", "--format", "onnx")):  # fmt: skip
        assert "were given as arrays" in refused(*command)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"x": np.zeros((3, 2))}, "y has 80 labels, and x has 3 rows"),
        ({"x": np.zeros(80)}, r"x has shape \(80,\); give \(n, d\)"),
        ({"x": np.full((80, 2), np.nan)}, "80 of 80 rows of x hold NaN or numbers that float32 does not have: rows 0,"),
        ({"x": np.full((80, 2), "a")}, "give numbers"),
        ({"y": ["cat"] * 80}, "y has 1 class"),
        ({"ids": ["a"] * 80}, "ids must be different"),
        ({"split": ["train"] * 3}, "split has 3 entries, and x has 80 rows"),
        ({"split": ["test"] * 80}, "no sample with a label is in train"),
        ({"y": np.array([0, 1] * 40), "classes": ["only"]}, "y names class 1, and classes has 1 names"),
        ({"classes": ["cat"]}, "y has the class 'dog', which classes does not name"),
        ({"y": np.full((80, 2), 2)}, "must hold 0 and 1"),
    ],
)
def test_what_does_not_fit_is_refused(change: dict[str, Any], message: str) -> None:
    x, y = cats_and_dogs()
    with pytest.raises(DataLayoutError, match=message):
        FeatureCache.from_arrays(**{"x": x, "y": y, **change})


def test_files_are_kept_and_temporary_ones_are_removed(tmp_path: Path) -> None:
    x, y = cats_and_dogs()
    cache = FeatureCache.from_arrays(x, y)
    folder, features = cache.path.parent, cache.features("train")
    assert folder.is_dir()
    del cache
    gc.collect()
    assert not folder.exists()
    assert np.isfinite(features.x).all()
    out = tmp_path / "own.h5"
    FeatureCache.from_arrays(x, y, out)
    before = gzip.compress(out.read_bytes(), mtime=0)
    with pytest.raises(CacheError, match=r"exists\. Give another name, or overwrite=True"):
        FeatureCache.from_arrays(2 * x, y, out)
    assert gzip.compress(out.read_bytes(), mtime=0) == before
    FeatureCache.from_arrays(2 * x, y, out, overwrite=True)
    assert [path.name for path in tmp_path.iterdir()] == ["own.h5"]


def test_labels_as_numpy_may_give_them() -> None:
    x, y = cats_and_dogs(40)
    numbers = (y == "dog").astype(float)
    with pytest.raises(DataLayoutError, match="infinite"):
        FeatureCache.from_arrays(x, np.where(np.arange(40) == 3, np.inf, numbers))
    with pytest.raises(DataLayoutError, match=r"give \(n,\): y\[:, 0\]"):
        FeatureCache.from_arrays(x, numbers[:, None])
    cache = FeatureCache.from_arrays(x, np.where(np.arange(40) == 3, np.nan, numbers), classes=["cat", "dog"])
    assert cache.samples.classes == ("cat", "dog")
    assert (cache.samples.labels < 0).sum() == 1
