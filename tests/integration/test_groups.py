"""Groups of samples (a patient, a burst, an object): kept together by splits and folds, stored, compared."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import h5py
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from caches import DIMS, PROVENANCE, SPEC, cache_of, clouds, make_samples, write_rows
from commands import write_folder
from featcache.analysis.doctor.doctor import doctor
from featcache.cache.feature_cache import FeatureCache
from featcache.cache.features import Features
from featcache.cache.verify import diff
from featcache.cache.writer import CacheWriter
from featcache.core.samples import SPLITS, Samples, join_groups
from featcache.core.splitting import NEVER, assign_folds, hold_out
from featcache.data.manifest import read_manifest
from featcache.errors import DataLayoutError, HeadError
from featcache.extraction.extract import extract
from featcache.extraction.update import update
from featcache.heads.tuning.tuning_data import TuningData
from toys import toy_backbone


def hashes(n: int, seed: int = 0) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, (n, 32), dtype=np.uint8)


def samples_of(labels: list[int], groups: list[str], sha256: NDArray[np.uint8] | None = None) -> Samples:
    n = len(labels)
    return Samples(
        tuple(f"{row}.png" for row in range(n)), np.array(labels), np.zeros(n, np.uint8),
        hashes(n) if sha256 is None else sha256, ("a", "b"), tuple(groups),
    )  # fmt: skip


def grouped_folder(root: Path, header: str = "path,label,group", split: dict[str, str] | None = None) -> Path:
    """24 images of two classes and six patients, four each, of both classes; a CSV that lists them."""
    write_folder(root, {"ants": 12, "bees": 12})
    lines = [header]
    for label in ("ants", "bees"):
        for number in range(12):
            patient = f"patient {number % 6}"
            cells = [f"{label}/{number:03d}.png", label, patient]
            lines.append(",".join(cells + ([split[patient]] if split else [])))
    path = root / "list.csv"
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


# Keys


def test_without_groups_the_keys_are_the_hashes() -> None:
    sha256 = hashes(5)
    assert join_groups(sha256, ()) is sha256
    assert join_groups(sha256, ("", "", "", "", "")) is sha256
    samples = samples_of([0, 1], ["", ""])
    np.testing.assert_array_equal(samples.split_keys, samples.sha256)


def test_rows_of_a_group_and_their_copies_have_one_key_and_others_their_hash() -> None:
    """Row 3 has no group but the bytes of row 0; rows 1 and 4 join their groups, for they have equal bytes."""
    sha256 = hashes(8)[[0, 1, 2, 0, 1, 5, 6, 7]]
    keys = join_groups(sha256, ("x", "y", "x", "", "z", "z", "", "w"))
    names = [key.tobytes() for key in keys]
    assert names[0] == names[2] == names[3]
    assert names[1] == names[4] == names[5]
    assert names[6] == sha256[6].tobytes()
    assert len(set(names)) == 4


def test_a_key_does_not_depend_on_what_else_there_is() -> None:
    sha256 = hashes(6)
    few = join_groups(sha256[:3], ("x", "", "x"))
    many = join_groups(sha256, ("x", "", "x", "y", "x", ""))
    np.testing.assert_array_equal(few, many[:3])


# Splits and folds


ROWS = st.lists(st.tuples(st.integers(0, 2), st.integers(0, 6), st.integers(0, 9)), min_size=2, max_size=40)


@settings(deadline=None, max_examples=60)
@given(ROWS, st.integers(2, 5), st.integers(0, 2**31))
def test_a_group_has_one_fold_and_each_fold_leaves_each_class_an_image(
    rows: list[tuple[int, int, int]], k: int, seed: int
) -> None:
    labels = np.array([label for label, _, _ in rows])
    groups = [f"g{group}" if group else "" for _, group, _ in rows]
    keys = join_groups(hashes(10)[[content for _, _, content in rows]], groups)
    fold = assign_folds(labels, keys, k, seed)
    for group in set(groups) - {""}:
        assert len({int(fold[row]) for row in range(len(rows)) if groups[row] == group}) == 1
    for number in range(k):
        assert set(labels[fold != number].tolist()) == set(labels.tolist())


@settings(deadline=None, max_examples=60)
@given(ROWS, st.floats(0.05, 0.5), st.integers(0, 2**31))
def test_a_group_lies_on_one_side_and_each_class_stays_in_train(
    rows: list[tuple[int, int, int]], fraction: float, seed: int
) -> None:
    labels = np.array([label for label, _, _ in rows])
    groups = [f"g{group}" if group else "" for _, group, _ in rows]
    keys = join_groups(hashes(10)[[content for _, _, content in rows]], groups)
    try:
        held = np.isin(np.arange(len(rows)), hold_out(labels, keys, fraction, seed))
    except DataLayoutError:
        return
    for group in set(groups) - {""}:
        assert len({bool(held[row]) for row in range(len(rows)) if groups[row] == group}) == 1
    assert set(labels[~held].tolist()) == set(labels.tolist())


def test_a_class_that_is_never_first_in_a_group_is_held_out_too() -> None:
    """Four patients, each with an image of class 0 before one of class 1."""
    labels = np.array([0, 1] * 4)
    keys = join_groups(hashes(8), [f"p{row // 2}" for row in range(8)])
    for seed in range(10):
        held = hold_out(labels, keys, 0.25, seed)
        assert labels[held].tolist() == [0, 1], f"seed {seed}"


def test_heads_are_tuned_on_folds_that_keep_groups_together() -> None:
    x, y = clouds(60, 2)
    groups = [f"p{row // 6}" for row in range(60)]
    tuning = TuningData(Features(x, samples_of(y.tolist(), groups)))
    expected = assign_folds(y, join_groups(hashes(60), groups), 5)
    assert (expected.reshape(10, 6) == expected.reshape(10, 6)[:, :1]).all()
    assert sorted(tuning.held_out.rows.tolist()) == np.flatnonzero(expected != NEVER).tolist()


def test_one_group_a_class_cannot_be_left_out() -> None:
    x, y = clouds(20, 2)
    features = Features(x, samples_of(y.tolist(), [f"p{label}" for label in y]))
    with pytest.raises(HeadError, match=r"^no class has training images of two groups, so none can be held out"):
        TuningData(features)


def test_rows_of_a_group_share_their_number_for_heads_that_cross_validate_inside() -> None:
    x, y = clouds(4, 2, views=2)
    flat = Features(x, samples_of(y.tolist(), ["p", "q", "p", ""])).flatten()
    numbers = flat.groups.reshape(4, 2)
    assert (numbers[:, 0] == numbers[:, 1]).all()
    assert numbers[0, 0] == numbers[2, 0]
    assert len(set(numbers[:, 0].tolist())) == 3


# Manifests


@pytest.mark.parametrize("seed", range(5))
def test_a_split_that_is_drawn_keeps_patients_together(tmp_path: Path, seed: int) -> None:
    samples = read_manifest(grouped_folder(tmp_path / "data"), seed=seed).samples
    assert samples.n_groups == 6
    sides = {group: {int(samples.split[row]) for row in range(24) if samples.groups[row] == group}
             for group in samples.groups}  # fmt: skip
    assert all(len(side) == 1 for side in sides.values())
    assert len(samples.rows("val")) == 4


def test_a_group_in_train_and_in_val_is_a_leak(tmp_path: Path) -> None:
    path = grouped_folder(tmp_path / "data")
    lines = path.read_text().splitlines()
    path.write_text("\n".join(f"{line},{'split' if not row else 'val' if row in (3, 9) else 'train'}"
                              for row, line in enumerate(lines)) + "\n")  # fmt: skip
    with pytest.raises(DataLayoutError) as caught:
        read_manifest(path)
    assert str(caught.value) == (
        f"{path}: 1 group is in train and in val or test, too: patient 2 (bees/002.png in train, ants/002.png in val). "
        "Images of a group are alike, so the accuracy on them is too high. Keep each group in one split, or continue "
        "with --allow-leak."
    )
    assert read_manifest(path, allow_leak=True).samples.n_groups == 6


# The cache file


def grouped_cache(path: Path, groups: tuple[str, ...]) -> FeatureCache:
    samples = make_samples()
    samples = Samples(samples.ids, samples.labels, samples.split, samples.sha256, samples.classes, groups)
    with CacheWriter(path, SPEC, samples, DIMS, PROVENANCE) as writer:
        write_rows(writer, list(range(7)))
        write_rows(writer, [7, 8, 9], 1)
        return writer.finish({})


GROUPS = ("p", "p", "", "größe", "\udcff", "q", "q", "r", "", "r")


def test_groups_are_stored_and_read(tmp_path: Path) -> None:
    cache = grouped_cache(tmp_path / "a.h5", GROUPS)
    assert cache.samples.groups == GROUPS
    assert cache.features("val").samples.groups == ("r", "", "r")
    with h5py.File(tmp_path / "a.h5") as file:
        assert file["groups"].asstr(errors="surrogateescape")[:].tolist() == list(GROUPS)


def test_a_cache_without_groups_has_no_table_of_them(tmp_path: Path) -> None:
    grouped_cache(tmp_path / "a.h5", ())
    with h5py.File(tmp_path / "a.h5") as file:
        assert "groups" not in file
    assert FeatureCache.open(tmp_path / "a.h5").samples.groups == ()


def test_update_and_diff_say_that_groups_changed_and_extract_nothing(tmp_path: Path) -> None:
    """First without the column, then with it: the split is drawn again."""
    path = grouped_folder(tmp_path / "data")
    text = path.read_text()
    path.write_text("\n".join(line.rpartition(",")[0] for line in text.splitlines()) + "\n")
    extract(path, tmp_path / "a.h5", backbone=toy_backbone(), views=0, val_views=0)
    path.write_text(text)
    assert len(diff(tmp_path / "a.h5", path).changes["in another group"]) == 24
    done = update(tmp_path / "a.h5", path)
    assert (done.carried, done.extracted) == (24, 0)
    assert FeatureCache.open(tmp_path / "a.h5").samples.n_groups == 6
    assert diff(tmp_path / "a.h5", path).same


# The doctor


def test_the_doctor_finds_groups_on_both_sides(tmp_path: Path) -> None:
    train, val = clouds(40, 2), clouds(10, 2, seed=1)
    cache = cache_of(tmp_path / "a.h5", train, (val[0][:, 0], val[1]))
    assert not [one for one in doctor(cache).findings if one.kind == "groups across splits"]
    groups = tuple(f"p{row}" for row in range(40)) + tuple(f"p{row}" for row in range(38, 48))
    cache.samples = dataclasses.replace(cache.samples, groups=groups)
    (found,) = [one for one in doctor(cache).findings if one.kind == "groups across splits"]
    assert found.severity == "error"
    assert found.what == "2 groups have images in train and in val or test: p38, p39"
    assert [one.image for one in found.images] == [cache.samples.ids[40], cache.samples.ids[41]]
    assert SPLITS[cache.samples.split[40]] == "val"
