"""`relabel`: another label of a row, and the same features."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from featcache.cache.feature_cache import FeatureCache
from featcache.cache.relabel import relabel
from featcache.errors import CacheMismatchError


def test_the_rows_have_other_labels_and_the_same_features(tmp_path: Path) -> None:
    x = np.arange(40.0, dtype=np.float32).reshape(20, 2)
    y = ["a", "b"] * 8 + [None] * 4
    cache = FeatureCache.from_arrays(x, y, tmp_path / "cache.h5", ids=[f"{number:02d}" for number in range(20)])
    row = cache.samples.ids.index("17")
    changed = relabel(cache, {row: "c", 0: "b"})
    train = changed.features("train")
    place = train.samples.ids.index("17")
    assert train.x[place, 0].tolist() == [34.0, 35.0]
    assert changed.samples.classes[train.y[place]] == "c"
    assert len(changed.samples.rows("unlabeled")) == 3
    assert cache.samples.classes == ("a", "b")
    assert FeatureCache.open(tmp_path / "cache.h5").samples.digest() == cache.samples.digest()


def test_a_drawn_val_comes_back_into_train_and_one_of_the_data_stays() -> None:
    x, y = np.random.default_rng(0).normal(size=(20, 2)), ["a", "b"] * 10
    drawn = FeatureCache.from_arrays(x, y)
    drawn.provenance = {"val_is_held_out": True}  # as `extract` writes it
    assert len(drawn.samples.rows("val")) > 0
    assert len(relabel(drawn, {}, join_val=True).features("train").samples) == 20
    given = FeatureCache.from_arrays(x, y, split=["train"] * 14 + ["val"] * 6)
    assert len(relabel(given, {}, join_val=True).features("train").samples) == 14


def test_several_labels_are_refused() -> None:
    several = FeatureCache.from_arrays(np.random.default_rng(0).normal(size=(4, 2)), [[1, 0], [0, 1], [1, 1], [1, 0]])
    with pytest.raises(CacheMismatchError, match="several labels"):
        relabel(several, {})
