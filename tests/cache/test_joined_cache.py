"""JoinedCache: caches of the same samples are read as one, by content, in any order."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from featcache.cache.feature_cache import FeatureCache
from featcache.cache.joined_cache import JoinedCache, open_caches
from featcache.cache.lazy_arrays import LazyRows
from featcache.errors import CacheDamagedError, CacheIncompleteError, CacheMismatchError, NotACacheError
from joined import SHA, N, Y, network_cache, signal

A, B = signal(1.0, views=3), signal(2.0, 5, seed=1, views=3)


@pytest.fixture
def shuffled() -> np.ndarray:
    return np.random.default_rng(3).permutation(N)


def test_layers_lie_side_by_side_sample_by_sample(tmp_path: Path, shuffled: np.ndarray) -> None:
    a, b = network_cache(tmp_path / "a.h5", A), network_cache(tmp_path / "b.h5", B, shuffled)
    joined = JoinedCache.open([a, tmp_path / "b.h5"])
    assert joined.dims == {"a/penultimate": 8, "b/penultimate": 5}
    assert joined.samples.ids == a.samples.ids
    assert not joined.notes
    for split, rows in (("train", slice(120)), ("val", slice(120, None))):
        found = joined.features(split)
        both = np.concatenate([A, B], axis=2)[rows]
        np.testing.assert_array_equal(np.asarray(found.x), both)
        np.testing.assert_array_equal(found.y, Y[rows])
        np.testing.assert_array_equal(found.view(1), both[:, 1])
        np.testing.assert_array_equal(np.asarray(found.flatten().x), both.reshape(-1, 13))
        np.testing.assert_array_equal(np.asarray(found.with_views(1).flatten().x), both[:, :2].reshape(-1, 13))
    only_b = joined.features("val", "b/penultimate")
    np.testing.assert_array_equal(np.asarray(only_b.x), B[120:])
    np.testing.assert_array_equal(only_b.flatten("mean").x, B[120:].mean(axis=1))
    np.testing.assert_array_equal(np.asarray(joined.features("train", images=slice(2, 5)).x)[..., 8:], B[2:5])
    assert b.done.tolist() == [3] * N


def test_taking_layers_and_scaling_keep_the_order(tmp_path: Path, shuffled: np.ndarray) -> None:
    network_cache(tmp_path / "a.h5", A)
    network_cache(tmp_path / "b.h5", B, shuffled)
    train = JoinedCache.open([tmp_path / "a.h5", tmp_path / "b.h5"]).features("train")
    scale = np.arange(1, 14, dtype=np.float32)
    np.testing.assert_allclose(train.scaled(scale).clean(), np.concatenate([A, B], 2)[:120, 0] * scale)
    taken = train.take_layers([1])
    np.testing.assert_array_equal(taken.clean(), B[:120, 0])
    np.testing.assert_array_equal(taken.with_views(1).flatten().x, B[:120, :2].reshape(-1, 5))
    rows = np.array([7, 3])
    np.testing.assert_array_equal(np.asarray(taken.take(rows).x), B[rows])
    assert isinstance(taken.x, LazyRows)


def test_halves_of_other_dtypes_are_not_rounded(tmp_path: Path) -> None:
    from featcache.cache.lazy_arrays import ConcatenatedFeatures

    x = np.full((3, 1, 2), 1 / 3, np.float32)
    mixed = ConcatenatedFeatures((x.astype(np.float16), x))
    assert mixed.dtype == np.float32
    assert mixed[:].dtype == np.float32
    assert mixed[0][0, 2] == np.float32(1 / 3)


def test_names_of_caches_are_those_of_files_and_unique(tmp_path: Path) -> None:
    (tmp_path / "two").mkdir()
    network_cache(tmp_path / "net: a, b.h5", A)
    network_cache(tmp_path / "c.h5", B)
    network_cache(tmp_path / "two" / "c.h5", B, image_size=9)
    paths = [tmp_path / "net: a, b.h5", tmp_path / "c.h5", tmp_path / "two" / "c.h5"]
    assert list(JoinedCache.open(paths).caches) == ["net-a-b", "c", "c-2"]


def test_names_have_no_signs_that_options_and_model_cards_use(tmp_path: Path) -> None:
    """`--weights NAME=PATH` names a cache, and a model card shows the name as code."""
    network_cache(tmp_path / "run=1.h5", A)
    network_cache(tmp_path / "it`s.h5", B)
    assert list(JoinedCache.open([tmp_path / "run=1.h5", tmp_path / "it`s.h5"]).caches) == ["run-1", "it-s"]


def test_layers_are_chosen_by_cache_or_in_all(tmp_path: Path) -> None:
    network_cache(tmp_path / "a.h5", {"penultimate": A, "layer1": A, "layer1:max": A})
    network_cache(tmp_path / "b.h5", {"penultimate": B, "layer2": B})
    joined = JoinedCache.open([tmp_path / "a.h5", tmp_path / "b.h5"])
    assert joined.layers("last") == ("a/penultimate", "b/penultimate")
    assert joined.layers("b/layer2,a/layer1") == ("a/layer1", "b/layer2")
    assert joined.layers("stages") == ("a/penultimate", "a/layer1", "b/penultimate", "b/layer2")
    assert joined.layers("a/all,b/last") == ("a/penultimate", "a/layer1", "a/layer1:max", "b/penultimate")
    assert joined.layers("layer2") == ("b/layer2",)
    with pytest.raises(CacheIncompleteError, match=r"no cache has a layer 'layer9'; there are a/penultimate, a/layer1"):
        joined.layers("layer9")


def test_samples_that_one_lacks_are_left_out_and_counted(tmp_path: Path) -> None:
    network_cache(tmp_path / "a.h5", A, np.r_[0:100, 120:N])
    network_cache(tmp_path / "b.h5", B, np.r_[10:N], skipped={5: "broken file"})
    joined = JoinedCache.open([tmp_path / "a.h5", tmp_path / "b.h5"])
    assert len(joined.samples) == 150
    assert joined.skipped == [("0015.png", "broken file")]
    assert len(joined.features("train").samples) == 89
    np.testing.assert_array_equal(np.asarray(joined.features("train").x)[5], np.concatenate([A, B], 2)[16])
    first, second = joined.notes
    assert first == (
        f"10 samples of {tmp_path}/a.h5 left out (10 of train; for example 0000.png): not all caches have the same "
        "bytes"
    )
    assert second.startswith(f"20 samples of {tmp_path}/b.h5 left out (20 of train; for example 0100.png)")
    alone = joined.select(["a"])
    assert alone.samples.ids == joined.samples.ids
    assert len(alone.features("train").samples) == 89
    assert alone.dims == {"a/penultimate": 8}


def test_copies_are_matched_by_name_then_by_label_and_split(tmp_path: Path) -> None:
    sha = SHA.copy()
    sha[1] = sha[130] = sha[0]  # copies with the labels 0, 1 and 1, the last one in val
    names = [f"{row:04d}.png" for row in range(N)]
    network_cache(tmp_path / "a.h5", A, sha256=sha)
    renamed = ["x.png", "y.png", *names[2:]]
    network_cache(tmp_path / "b.h5", B, np.r_[0, 2:N], sha256=sha, ids=renamed)
    with pytest.raises(CacheMismatchError, match=r"b\.h5 has other labels of 1 sample than .*a\.h5, .* 0001\.png: "):
        JoinedCache.open([tmp_path / "a.h5", tmp_path / "b.h5"])
    (tmp_path / "b.h5").unlink()
    order = np.r_[1, 0, 2:N]
    network_cache(tmp_path / "b.h5", B, order, sha256=sha, ids=renamed)
    joined = JoinedCache.open([tmp_path / "a.h5", tmp_path / "b.h5"])
    np.testing.assert_array_equal(np.asarray(joined.features("train").x), np.concatenate([A, B], 2)[:120])
    (tmp_path / "a.h5").unlink()
    network_cache(tmp_path / "a.h5", A, np.r_[0:130, 131:N], sha256=sha)
    (note,) = JoinedCache.open([tmp_path / "a.h5", tmp_path / "b.h5"]).notes
    assert "1 sample of" in note
    assert "they are copies of others" in note


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("labels", r"b\.h5 has other labels of 2 samples than .*a\.h5, for example of 0003\.png: bees, expected ants"),
        ("split", r"b\.h5 has other splits of 1 sample than .*a\.h5, for example of 0007\.png: val, expected train"),
        ("sha256", r"a\.h5 \(180 samples\) and .*b\.h5 \(180 samples\) have no sample in common: no bytes are equal"),
    ],
)
def test_other_labels_splits_and_samples_are_refused(tmp_path: Path, change: str, message: str) -> None:
    labels, split = Y.copy(), np.repeat([0, 1], [120, 60]).astype(np.uint8)
    labels[[3, 6]], split[7] = 1, 1
    changed = {"labels": labels, "split": split, "sha256": SHA[::-1].copy() ^ 255}[change]
    network_cache(tmp_path / "a.h5", A)
    network_cache(tmp_path / "b.h5", B, **{change: changed})
    with pytest.raises(CacheMismatchError, match=message):
        JoinedCache.open([tmp_path / "a.h5", tmp_path / "b.h5"])


def test_equal_features_arrays_and_no_caches_are_refused(tmp_path: Path) -> None:
    a = network_cache(tmp_path / "a.h5", A)
    with pytest.raises(CacheMismatchError, match=r"hold features of the same network \(a, weights 6161"):
        open_caches([a, tmp_path / "a.h5"])
    (tmp_path / "seed").mkdir()
    other = network_cache(tmp_path / "seed" / "a.h5", A, seed=1)  # the clean views are equal, and only they are joined
    with pytest.raises(CacheMismatchError, match="hold features of the same network"):
        open_caches([a, other])
    given = FeatureCache.from_arrays(A[:, 0], Y)
    with pytest.raises(CacheMismatchError, match=r"no sample in common.*given as arrays have no bytes"):
        open_caches([a, given])
    with pytest.raises(NotACacheError, match="no cache was given"):
        open_caches([])
    assert open_caches([a]) is a


def test_views_are_used_only_if_they_show_the_same(tmp_path: Path) -> None:
    network_cache(tmp_path / "a.h5", A)
    network_cache(tmp_path / "larger.h5", B, image_size=9, resize_size=12)
    network_cache(tmp_path / "seed.h5", B, seed=1)
    network_cache(tmp_path / "crop.h5", A, augment="crop")
    network_cache(tmp_path / "crop9.h5", B, augment="crop", image_size=9)
    network_cache(tmp_path / "fewer.h5", B[:, :2])
    network_cache(tmp_path / "clean.h5", B[:, :1])

    def joined(*names: str) -> JoinedCache:
        return JoinedCache.open([tmp_path / f"{name}.h5" for name in names])

    assert joined("a", "larger").features("train").views == 2
    for other in ("seed", "crop"):
        mixed = joined("a", other)
        assert mixed.features("train").views == 0
        assert mixed.notes[0].startswith("augmented views are not used: those of the caches do not show the same crops")
        assert mixed.select(["a"]).features("train").views == 2
    assert joined("crop", "crop9").features("train").views == 0
    assert joined("a", "fewer").features("train").views == 1
    assert joined("a", "fewer").notes == ("1 augmented views are used, as many as all caches have",)
    assert joined("a", "clean").notes == ("augmented views of a are not used: the other caches have none",)


def test_damage_is_found_in_each_cache(tmp_path: Path) -> None:
    network_cache(tmp_path / "a.h5", A)
    b = network_cache(tmp_path / "b.h5", B)
    with (tmp_path / "b.h5").open("r+b") as file:
        file.seek(b.layout.layers["penultimate"].offset + 4)
        file.write(b"\1\2\3")
    with pytest.raises(CacheDamagedError, match=r"b\.h5 is damaged: 1 images of train"):
        JoinedCache.open([tmp_path / "a.h5", tmp_path / "b.h5"]).features("train")
