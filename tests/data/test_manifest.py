from __future__ import annotations

import hashlib
import os
import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from torchvision.datasets import ImageFolder

from featcache.core.samples import SPLITS
from featcache.data import content_hashes
from featcache.data.file_listing import list_images
from featcache.data.manifest import Manifest, read_manifest
from featcache.data.sources.class_folders import _RENAME
from featcache.errors import DataLayoutError, EmptyFolderError

MakeFolder = Callable[..., Path]


def by_id(manifest: Manifest) -> dict[str, tuple[str, str]]:
    """id -> (class, split)."""
    samples = manifest.samples
    return {
        name: (samples.classes[label], SPLITS[split])
        for name, label, split in zip(samples.ids, samples.labels, samples.split, strict=True)
    }


def as_torchvision_reads_it(root: Path, split: str) -> dict[str, tuple[str, str]]:
    folder = ImageFolder(str(root / split))
    return {Path(path).relative_to(root).as_posix(): (folder.classes[label], split) for path, label in folder.samples}


def counts(manifest: Manifest) -> list[int]:
    return [len(manifest.samples.rows(split)) for split in SPLITS[:3]]


def layout_error(data: Path, **options: object) -> str:
    with pytest.raises(DataLayoutError) as caught:
        read_manifest(data, **options)
    return str(caught.value)


def empty_error(data: Path) -> str:
    with pytest.raises(EmptyFolderError) as caught:
        read_manifest(data)
    return str(caught.value)


def write_csv(root: Path, *lines: str, name: str = "list.csv") -> Path:
    path = root / name
    path.write_text("".join(line + "\n" for line in lines), encoding="utf-8")
    return path


def write_files(root: Path, classes: dict[str, list[int]]) -> None:
    """One file an entry; equal numbers are equal bytes. A manifest hashes files, it decodes none."""
    for label, contents in classes.items():
        (root / label).mkdir(parents=True)
        for number, content in enumerate(contents):
            (root / label / f"{number:03d}.png").write_bytes(f"content {content}".encode())


def test_split_folders_are_read_as_torchvision_reads_them(make_folder: MakeFolder) -> None:
    root = make_folder({"train/ants": 3, "train/größe": 2, "val/ants": 2, "val/größe": 1})
    (root / "train/ants/deeper/still").mkdir(parents=True)
    shutil.copy(root / "train/ants/000.png", root / "train/ants/deeper/still/X.JPEG")
    (root / "train/ants/notes.txt").write_text("no image")
    manifest = read_manifest(root)
    assert by_id(manifest) == as_torchvision_reads_it(root, "train") | as_torchvision_reads_it(root, "val")
    assert "train/ants/deeper/still/X.JPEG" in manifest.samples.ids
    assert manifest.ignored == {"not an image (.txt)": 1}


def test_ants_and_bees_are_read_as_torchvision_reads_them(ants_bees: Path) -> None:
    manifest = read_manifest(ants_bees)
    expected = as_torchvision_reads_it(ants_bees, "train") | as_torchvision_reads_it(ants_bees, "val")
    assert by_id(manifest) == expected
    assert manifest.samples.classes == ("ants", "bees")
    assert counts(manifest) == [244, 153, 0]
    assert manifest.ignored == {"placeholder of a missing image": 1}


def test_class_folders_alone_are_read_as_torchvision_reads_them(make_folder: MakeFolder) -> None:
    root = make_folder({"bees": 5, "ants": 5})
    labels = {name: label for name, (label, _) in by_id(read_manifest(root)).items()}
    assert labels == {name: label for name, (label, _) in as_torchvision_reads_it(root, ".").items()}


def test_rows_are_train_then_val_then_test_each_sorted_with_the_hash_of_its_file(
    make_folder: MakeFolder,
) -> None:
    root = make_folder({"val/bees": 1, "val/ants": 1, "test/ants": 1, "train/bees": 2, "train/ants": 1})
    manifest = read_manifest(root)
    assert manifest.samples.ids == (
        "train/ants/000.png",
        "train/bees/000.png",
        "train/bees/001.png",
        "val/ants/000.png",
        "val/bees/000.png",
        "test/ants/000.png",
    )
    assert manifest.samples.labels.tolist() == [0, 1, 1, 0, 1, 0]
    assert manifest.samples.split.tolist() == [0, 0, 0, 1, 1, 2]
    for row, name in enumerate(manifest.samples.ids):
        assert manifest.path(row) == root / name
        expected = hashlib.sha256((root / name).read_bytes()).digest()
        assert manifest.samples.sha256[row].tobytes() == expected


def test_a_folder_may_be_named_by_text(split_folder: Path) -> None:
    assert by_id(read_manifest(f"{split_folder}{os.sep}")) == by_id(read_manifest(split_folder))


@pytest.mark.parametrize("name", ["val", "valid", "validation"])
def test_val_has_three_names(make_folder: MakeFolder, name: str) -> None:
    root = make_folder({"train/ants": 2, "train/bees": 2, f"{name}/ants": 1, f"{name}/bees": 1, "test/bees": 3})
    manifest = read_manifest(root)
    assert counts(manifest) == [4, 2, 3]
    assert manifest.samples.ids[4:6] == (f"{name}/ants/000.png", f"{name}/bees/000.png")


def test_two_val_folders_are_one_too_many(make_folder: MakeFolder) -> None:
    root = make_folder({"train/a": 1, "train/b": 1, "val/a": 1, "valid/a": 1})
    assert layout_error(root) == f"{root} has several folders for one split: train, val, valid. {_RENAME}"


def test_val_is_drawn_from_train_alone_and_test_stays_untouched(make_folder: MakeFolder) -> None:
    root = make_folder({"train/ants": 10, "train/bees": 5, "test/ants": 3, "test/bees": 2})
    manifest = read_manifest(root, val_fraction=0.2)
    assert counts(manifest) == [12, 3, 5]
    assert all(split == "test" for name, (_, split) in by_id(manifest).items() if name.startswith("test/"))


def test_folders_beside_train_are_counted_as_ignored(make_folder: MakeFolder) -> None:
    root = make_folder({"train/a": 2, "train/b": 2, "val/a": 1, "val/b": 1, "others/x": 4})
    manifest = read_manifest(root)
    assert counts(manifest) == [4, 2, 0]
    assert manifest.ignored == {"in folders other than train, val, test": 4}


def test_nothing_ignored_is_not_mentioned(split_folder: Path) -> None:
    (split_folder / "logs").mkdir()
    assert read_manifest(split_folder).ignored == {}


@pytest.mark.parametrize(
    ("fraction", "held"),
    [(0.2, {"ants": 2, "bees": 6}), (0.5, {"ants": 5, "bees": 15}), (0.01, {"ants": 1, "bees": 1})],
)
def test_val_fraction_is_held_out_of_each_class(make_folder: MakeFolder, fraction: float, held: dict[str, int]) -> None:
    manifest = read_manifest(make_folder({"ants": 10, "bees": 30}), val_fraction=fraction)
    assert Counter(label for label, split in by_id(manifest).values() if split == "val") == held


def test_the_drawn_split_is_decided_by_the_seed(make_folder: MakeFolder) -> None:
    root = make_folder({"ants": 12, "bees": 12})
    splits = [frozenset(by_id(read_manifest(root, seed=seed)).items()) for seed in (0, 0, 1, 2)]
    assert splits[0] == splits[1]
    assert len(set(splits)) == 3


def test_the_drawn_split_is_pinned(tmp_path: Path) -> None:
    write_files(tmp_path, {"ants": list(range(6)), "bees": list(range(10, 16))})
    manifest = read_manifest(tmp_path, val_fraction=0.34, seed=3)
    assert [manifest.samples.ids[row] for row in manifest.samples.rows("val")] == [
        "ants/002.png",
        "ants/003.png",
        "bees/001.png",
        "bees/005.png",
    ]


CONTENTS = st.lists(st.integers(0, 7), min_size=1, max_size=10)


@settings(deadline=None, max_examples=60)
@given(
    st.lists(CONTENTS, min_size=2, max_size=4).filter(lambda classes: any(len(set(c)) > 1 for c in classes)),
    st.floats(0.01, 0.99),
    st.integers(0, 2**31),
)
def test_identical_files_stay_on_one_side_and_classes_keep_their_shares(
    classes: list[list[int]], fraction: float, seed: int
) -> None:
    with TemporaryDirectory() as folder:
        write_files(Path(folder), {f"c{k}": [100 * k + c for c in contents] for k, contents in enumerate(classes)})
        manifest = read_manifest(folder, val_fraction=fraction, seed=seed)
    samples = manifest.samples
    sides: dict[bytes, set[int]] = {}
    for row in range(len(samples)):
        sides.setdefault(samples.sha256[row].tobytes(), set()).add(int(samples.split[row]))
    assert all(len(side) == 1 for side in sides.values())
    for label, contents in enumerate(classes):
        n, copies = len(contents), Counter(contents)
        held = int((samples.split[samples.labels == label] == SPLITS.index("val")).sum())
        if len(copies) == 1:
            assert held == 0
        else:
            assert 0 < held < n
            assert abs(held - fraction * n) <= 0.5 + max(copies.values())
        if len(copies) == n > 1:
            assert abs(held - min(max(fraction * n, 1), n - 1)) <= 0.5


def test_copies_are_held_out_only_where_they_bring_the_count_nearer(tmp_path: Path) -> None:
    write_files(tmp_path, {"a": [*range(12), *[50] * 8], "b": list(range(100, 120))})
    for seed in range(20):
        samples = read_manifest(tmp_path, val_fraction=0.2, seed=seed).samples
        held = int((samples.split[samples.labels == 0] == SPLITS.index("val")).sum())
        assert abs(held - 4) <= 4  # half of the eight copies: the nearest whatever the order


def test_copies_of_images_under_another_label_leave_no_class_without_training_images(tmp_path: Path) -> None:
    write_files(tmp_path, {"a": [0, 1, 2, 3], "b": [0, 1]})
    for seed in range(30):
        samples = read_manifest(tmp_path, val_fraction=0.5, seed=seed).samples
        assert set(samples.labels[samples.rows("train")].tolist()) == {0, 1}, f"seed {seed}"


@pytest.mark.parametrize("fraction", [0, 1, -0.1, 1.5, float("nan")])
def test_a_val_fraction_outside_0_to_1_is_refused(make_folder: MakeFolder, fraction: float) -> None:
    root = make_folder({"ants": 2, "bees": 2})
    assert layout_error(root, val_fraction=fraction) == (
        f"val_fraction is {fraction}; it must lie between 0 and 1, as this data has no val split"
    )


def test_val_fraction_does_not_matter_where_there_is_a_val(split_folder: Path) -> None:
    assert by_id(read_manifest(split_folder, val_fraction=0)) == by_id(read_manifest(split_folder))


def test_nothing_can_be_held_out_of_single_images(make_folder: MakeFolder) -> None:
    assert layout_error(make_folder({"ants": 1, "bees": 1})) == (
        "every class has a single distinct image, or lies in a single group: nothing can be held out for val"
    )


def test_hidden_files_and_other_files_are_ignored_and_counted(split_folder: Path) -> None:
    expected = by_id(read_manifest(split_folder))
    ants = split_folder / "train/ants"
    for name in (".DS_Store", "._000.png", "notes.txt", "movie.mp4", "Thumbs.db"):
        (ants / name).write_bytes(b"x")
    (ants / "gone.png").symlink_to(split_folder / "nowhere.png")
    for hidden in (".git", "train/.ipynb_checkpoints", "train/ants/.thumbnails"):
        (split_folder / hidden).mkdir()
        (split_folder / hidden / "000.png").write_bytes(b"x")
    manifest = read_manifest(split_folder)
    assert by_id(manifest) == expected
    assert manifest.ignored == {
        "hidden": 2,
        "folders: hidden": 3,
        "not a regular file": 1,
        **{f"not an image ({suffix})": 1 for suffix in (".txt", ".mp4", ".db")},
    }


@pytest.mark.parametrize("folder", ["", "train", "val"])
def test_files_beside_the_class_folders_are_counted_too(split_folder: Path, folder: str) -> None:
    shutil.copy(split_folder / "val/ants/000.png", split_folder / folder / "stray.png")
    (split_folder / folder / "README.txt").write_text("no image")
    manifest = read_manifest(split_folder)
    assert len(manifest.samples) == 18
    assert sum(manifest.ignored.values()) == 2


def test_links_to_folders_and_files_are_followed(make_folder: MakeFolder, tmp_path: Path) -> None:
    root = make_folder({"train/ants": 2, "train/bees": 2, "val/ants": 1, "val/bees": 1})
    elsewhere = make_folder({"more": 2}, name="elsewhere")
    (root / "train/ants/linked").symlink_to(elsewhere / "more", target_is_directory=True)
    (root / "train/bees/one.png").symlink_to(elsewhere / "more/001.png")
    manifest = read_manifest(root)
    assert manifest.samples.ids[:7] == (
        "train/ants/000.png",
        "train/ants/001.png",
        "train/ants/linked/000.png",
        "train/ants/linked/001.png",
        "train/bees/000.png",
        "train/bees/001.png",
        "train/bees/one.png",
    )


@pytest.mark.parametrize("target", [".", "..", "../.."])
def test_loops_of_links_end_and_bring_no_image_in_again(split_folder: Path, target: str) -> None:
    expected = by_id(read_manifest(split_folder))
    (split_folder / "train/ants/loop").symlink_to(target, target_is_directory=True)
    assert by_id(read_manifest(split_folder)) == expected


def test_two_links_that_point_at_each_other_end(split_folder: Path) -> None:
    expected = by_id(read_manifest(split_folder))
    ants = split_folder / "train/ants"
    (ants / "one").symlink_to(ants / "two")
    (ants / "two").symlink_to(ants / "one")
    assert by_id(read_manifest(split_folder)) == expected


def test_progress_counts_the_hashed_files(split_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[tuple[str, int, int]] = []
    monkeypatch.setattr(content_hashes, "_FILES_PER_TASK", 5)
    read_manifest(split_folder, progress=lambda *call: calls.append(call))
    assert calls == [("hash", done, 18) for done in (5, 10, 15, 18)]


def test_list_images_takes_no_labels(make_folder: MakeFolder) -> None:
    root = make_folder({"x": 1, "y/z": 1})
    shutil.copy(root / "x/000.png", root / "top.WEBP")
    (root / ".hidden.png").write_bytes(b"x")
    (root / "x/notes.txt").write_bytes(b"x")
    assert list_images(root) == [root / "top.WEBP", root / "x/000.png", root / "y/z/000.png"]


def test_a_class_that_train_lacks_is_named(make_folder: MakeFolder) -> None:
    root = make_folder({"train/ants": 1, "train/bees": 1, "val/ants": 1, "val/wasps": 1})
    assert layout_error(root) == (
        f"{root}: class 'wasps' is in val (val/wasps/000.png) but not in train. "
        "Train has ants, bees. Add training images for it, or remove it."
    )


def test_of_many_classes_eight_are_named(make_folder: MakeFolder) -> None:
    root = make_folder({**{f"train/c{number}": 1 for number in range(10)}, "val/d": 1})
    assert "Train has c0, c1, c2, c3, c4, c5, c6, c7 and 2 more." in layout_error(root)


def test_a_class_that_val_lacks_is_no_error(make_folder: MakeFolder) -> None:
    manifest = read_manifest(make_folder({"train/ants": 2, "train/bees": 2, "val/ants": 1}))
    assert manifest.samples.classes == ("ants", "bees")
    assert counts(manifest) == [4, 1, 0]


def test_a_single_class_is_no_classification(make_folder: MakeFolder) -> None:
    root = make_folder({"ants": 3})
    assert layout_error(root) == (
        f"{root}: only one class (ants) was found; a classifier needs two or more. "
        f"Expected {root / '<class>' / '*.jpg'} or {root / 'train' / '<class>' / '*.jpg'}. "
        "If its images have no label yet, name the folder unlabeled."
    )


def test_an_empty_folder_is_said_to_be_empty(tmp_path: Path) -> None:
    assert empty_error(tmp_path) == (
        f"{tmp_path} holds no images. Expected {tmp_path / '<class>' / '*.jpg'} or "
        f"{tmp_path / 'train' / '<class>' / '*.jpg'}."
    )


def test_a_folder_that_does_not_exist_is_said_not_to(tmp_path: Path) -> None:
    missing = tmp_path / "missing"
    assert empty_error(missing) == (f"{missing} does not exist. Give a folder of class folders, or a CSV manifest.")


@pytest.mark.parametrize("layout", [{"ants": 2, "bees": 0}, {"train/ants": 1, "train/bees": 1, "val/ants": 0}])
def test_an_empty_class_is_named(make_folder: MakeFolder, layout: dict[str, int]) -> None:
    root = make_folder(layout)
    empty = root / next(folder for folder, count in layout.items() if not count)
    (empty / "notes.txt").write_text("no image")
    assert empty_error(root) == (
        f"Class folder {empty} holds no images (1 file: not an image (.txt)). Put images into it, or remove the folder."
    )


def test_images_in_train_without_class_folders_are_not_called_no_images(make_folder: MakeFolder) -> None:
    root = make_folder({"train": 2, "val": 2})
    assert layout_error(root) == (
        f"{root / 'train'} holds images but no class folders. Expected {root / 'train' / '<class>' / '*.jpg'}: one "
        "folder a class, its name is the label. If they have no label yet, move them into a folder unlabeled beside "
        "the split."
    )


def test_val_and_test_without_train_are_not_taken_for_classes(make_folder: MakeFolder) -> None:
    root = make_folder({"val/ants": 2, "val/bees": 2, "test/ants": 2, "test/bees": 2})
    assert "train" in layout_error(root)


def test_a_csv_lists_what_the_folder_holds(make_folder: MakeFolder) -> None:
    root = make_folder({"train/ants": 2, "train/bees": 1, "val/ants": 1, "val/bees": 1, "test/ants": 1})
    expected = read_manifest(root)
    rows = [f"{name},{label},{split}" for name, (label, split) in by_id(expected).items()]
    listed = read_manifest(write_csv(root, "path,label,split", *reversed(rows)))
    assert listed.path(0) == root / listed.samples.ids[0]
    assert listed.ignored == {}
    assert expected.samples.differences(listed.samples) == []


def test_columns_may_stand_in_any_order_among_others_after_a_byte_order_mark(make_folder: MakeFolder) -> None:
    root = make_folder({"x": 4})
    write_csv(
        root,
        "\ufeffsplit,who,label,path",
        'train,me,"bees, honey",x/000.png',
        "train,me,ants,./x/001.png",
        "valid,me,ants,x//002.png",
        "test,me,ants,x/003.png",
    )
    assert by_id(read_manifest(root / "list.csv")) == {
        "x/000.png": ("bees, honey", "train"),
        "x/001.png": ("ants", "train"),
        "x/002.png": ("ants", "val"),
        "x/003.png": ("ants", "test"),
    }


@pytest.mark.parametrize("header", ["path,label", "path,label,split"])
def test_a_csv_without_splits_is_split_like_the_folder(make_folder: MakeFolder, header: str) -> None:
    root = make_folder({"ants": 10, "bees": 5})
    expected = by_id(read_manifest(root, seed=4))
    rows = [f"{name},{label}{',' * (header.count(',') - 1)}" for name, (label, _) in expected.items()]
    assert by_id(read_manifest(write_csv(root, header, *rows), seed=4)) == expected


@pytest.mark.parametrize(
    ("header", "row", "message"),
    [
        (
            "file,label",
            "x/000.png,a",
            "{csv}: the first line must name the columns path,label[,split][,sha256]; found file,label. "
            "A table of texts has the columns text,label; another column of texts: --text-column NAME",
        ),
        (
            "path",
            "x/000.png",
            "{csv}: the first line must name the columns path,label[,split][,sha256]; found path. Name the column of "
            "the labels: --label-column NAME. If there are no labels yet, add an empty one",
        ),
        ("path,label", ",a", "{csv}, line 2: path must not be empty"),
        ("path,label", "x/000.png", "{csv}, line 2: path and label must not be empty"),
        (
            "path,label",
            "x/009.png,a",
            "{csv}: 1 of 1 files are missing: x/009.png (line 2). Paths are relative to {root}. Correct them, or leave "
            "these images out with --skip-missing.",
        ),
        (
            "path,label",
            "x,a",
            "{csv}: 1 of 1 files are missing: x (line 2). Paths are relative to {root}. Correct them, or leave these "
            "images out with --skip-missing.",
        ),
        (
            "path,label,split",
            "x/000.png,a,holdout",
            "{csv}, line 2: split is 'holdout'; it must be train, val, test or unlabeled",
        ),
        (
            "path,label",
            "x/000.png,a\nx/001.png,a\n./x/000.png,b",
            "{csv}, line 4: x/000.png is already in line 2",
        ),
        (
            "path,label,split",
            "x/000.png,a,train\nx/001.png,b,",
            "x/001.png has no split while others have one. Fill in the column.",
        ),
        (
            "path,label,split",
            "x/000.png,a,train\nx/001.png,b,train\nx/002.png,c,test",
            "{csv}: class 'c' is in test (x/002.png) but not in train. Train has a, b. "
            "Add training images for it, or remove it.",
        ),
    ],
)
def test_a_csv_that_does_not_fit_says_where(make_folder: MakeFolder, header: str, row: str, message: str) -> None:
    root = make_folder({"x": 3})
    path = write_csv(root, header, row)
    assert layout_error(path) == message.format(csv=path, root=root)


def test_a_file_that_is_no_csv_is_called_that(make_folder: MakeFolder) -> None:
    root = make_folder({"x": 1})
    (root / "x/000.png").rename(root / "list.txt")
    assert layout_error(root / "list.txt").startswith(
        f"{root / 'list.txt'} is not a CSV file in UTF-8: 'utf-8' codec can't decode byte 0x89"
    )


def test_a_single_picture_is_called_that(make_folder: MakeFolder) -> None:
    path = make_folder({"x": 1}) / "x/000.png"
    assert layout_error(path) == (
        f"{path} is a single picture. Give the folder that holds a folder of pictures for each class. To classify a "
        f"picture: featcache predict HEAD {path}"
    )


def test_a_cache_given_for_images_is_called_that(tmp_path: Path) -> None:
    (tmp_path / "cache.h5").write_bytes(b"featcache 1 2048")
    assert "is a cache or another HDF5 file. Give the images" in layout_error(tmp_path / "cache.h5")


def test_a_path_written_in_two_ways_is_one_path(make_folder: MakeFolder) -> None:
    root = make_folder({"x": 2})
    path = write_csv(root, "path,label", "x/000.png,a", "x/../x/000.png,b", "x/001.png,b")
    assert layout_error(path) == f"{path}, line 3: x/000.png is already in line 2"


@pytest.mark.parametrize("rows", [[], ["x/000.png,a", "x/001.png,a"]])
def test_what_is_wrong_with_a_csv_is_not_cured_with_folders(make_folder: MakeFolder, rows: list[str]) -> None:
    path = write_csv(make_folder({"x": 2}), "path,label", *rows)
    with pytest.raises((EmptyFolderError, DataLayoutError)) as caught:
        read_manifest(path)
    assert "<class>" not in str(caught.value)
    assert str(path) in str(caught.value)


def test_a_csv_with_no_train_rows_is_told_so(make_folder: MakeFolder) -> None:
    path = write_csv(make_folder({"x": 2}), "path,label,split", "x/000.png,a,val", "x/001.png,b,val")
    message = layout_error(path)
    assert "has no training images: every split is val or test." in message
    assert "Train has ." not in message


def test_ids_are_relative_even_where_the_csv_is_not(make_folder: MakeFolder) -> None:
    root = make_folder({"x": 4})
    rows = [f"{root}/x/00{number}.png,{'ab'[number % 2]}" for number in range(4)]
    assert sorted(read_manifest(write_csv(root, "path,label", *rows)).samples.ids) == [
        f"x/00{number}.png" for number in range(4)
    ]


def test_equal_bytes_have_equal_hashes_and_other_bytes_others(tmp_path: Path) -> None:
    write_files(tmp_path, {"a": [1, 2, 1], "b": [3, 4]})
    samples = read_manifest(tmp_path).samples
    hashes = {name: samples.sha256[row].tobytes() for row, name in enumerate(samples.ids)}
    assert hashes["a/000.png"] == hashes["a/002.png"]
    assert len(set(hashes.values())) == 4
    assert np.array_equal(np.unique(samples.labels), [0, 1])


def test_files_of_no_bytes_are_no_conflict(split_folder: Path) -> None:
    (split_folder / "train/ants/empty.png").touch()
    (split_folder / "train/bees/empty.png").touch()
    assert read_manifest(split_folder).conflicts() == []
    (split_folder / "train/bees/same.png").write_bytes((split_folder / "train/ants/000.png").read_bytes())
    assert read_manifest(split_folder).conflicts() == [("train/ants/000.png", "train/bees/same.png")]
