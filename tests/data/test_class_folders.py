"""Which folders are classes and which are splits, what is ambiguous, and what is passed over."""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path

import pytest

from commands import write_folder
from featcache.core.split_names import hinted_split, split_of
from featcache.data.file_listing import list_images
from featcache.data.manifest import Manifest, read_manifest
from featcache.data.sources.class_folders import scan_class_folders
from featcache.data.sources.file_tree import ListedTree
from featcache.errors import DataLayoutError


def understood(
    *folders: str, images: int = 2
) -> tuple[dict[tuple[str, str | None], int], tuple[str, ...], dict[str, int]]:
    """Images of each (class, split), the notes, and what was ignored; of a tree with images in these folders."""
    ignored: Counter[str] = Counter()
    names = [f"{folder}/{number}.png" for folder in folders for number in range(images)]
    listing = scan_class_folders(ListedTree("photos", names), ignored)
    counts = Counter((entry.classes[0] if entry.classes else "", entry.split) for entry in listing.entries)
    return dict(counts), listing.notes, dict(ignored)


def both(*pairs: tuple[str, str]) -> list[str]:
    """Two classes in each folder."""
    return [f"{folder}/{label}" for folder in pairs for label in ("ants", "bees")]


def refusal(*folders: str) -> str:
    with pytest.raises(DataLayoutError) as caught:
        understood(*folders)
    return str(caught.value)


# Names


@pytest.mark.parametrize(
    ("name", "split"),
    [
        *((name, "train") for name in ("train", "Train", "TRAINING", "training_set", "trainset", "Training Data",
                                       "train2017", "images_train", "TrainImages", "data-train", "trn")),
        *((name, "val") for name in ("val", "valid", "Validation", "dev", "devset", "eval", "evaluation_images",
                                     "val_256", "ValidationSet")),
        *((name, "test") for name in ("test", "testing", "Test1", "test_images", "TestSet")),
        *((name, None) for name in ("", "trainval", "train_val", "ants", "seg_train", "train_station", "images", "data",
                                    "contest", "latest", "values", "trains", "devil", "123")),
    ],
)  # fmt: skip
def test_a_name_that_says_a_split(name: str, split: str | None) -> None:
    assert split_of(name) == split


@pytest.mark.parametrize(
    ("name", "split"),
    [("seg_train", "train"), ("cifar10-test", "test"), ("train_station", "train"), ("intelVal", "val"),
     ("train_and_val", None), ("ants", None), ("", None), ("ants_train_bees", None)],
)  # fmt: skip
def test_a_name_that_hints_at_a_split(name: str, split: str | None) -> None:
    assert hinted_split(name) == split


# Splits


@pytest.mark.parametrize(
    ("train", "val", "test"),
    [("train", "val", "test"), ("training", "validation", "testing"), ("Train", "Dev", "Test"),
     ("train_set", "eval_set", "test_set"), ("seg_train", "seg_val", "seg_test"), ("train", "seg_val", "my_test")],
)  # fmt: skip
def test_splits_around_classes(train: str, val: str, test: str) -> None:
    counts, notes, ignored = understood(*both(train, val, test))
    assert counts == {(label, split): 2 for label in ("ants", "bees") for split in ("train", "val", "test")}
    assert ignored == {}
    renamed = [f"{name} is {split}" for name, split in ((train, "train"), (val, "val"), (test, "test"))
               if name.lower() != split]  # fmt: skip
    assert bool(notes) == bool(renamed)
    assert all(folder_note in notes[0] for folder_note in renamed)


def test_splits_inside_classes() -> None:
    counts, notes, _ = understood("ants/train", "ants/val", "bees/train", "bees/val", "bees/test")
    assert counts == {("ants", "train"): 2, ("ants", "val"): 2, ("bees", "train"): 2, ("bees", "val"): 2,
                     ("bees", "test"): 2}  # fmt: skip
    assert notes == ("splits lie inside the class folders: ants/train, ...",)


def test_a_split_folder_in_a_folder_of_its_name() -> None:
    counts, notes, ignored = understood(*both("seg_train/seg_train", "seg_test/seg_test"), "seg_pred/seg_pred")
    assert counts == {(label, split): 2 for label in ("ants", "bees") for split in ("train", "test")}
    assert notes == ("folders named like splits: seg_test is test, seg_train is train",)
    assert ignored == {"in folders other than train, val, test": 2}


@pytest.mark.parametrize("above", ["hymenoptera_data", "archive/data"])
def test_a_data_set_in_a_folder_of_its_own(above: str) -> None:
    counts, notes, _ = understood(*both(f"{above}/train", f"{above}/val"))
    assert counts == {(label, split): 2 for label in ("ants", "bees") for split in ("train", "val")}
    assert notes == (f"all images lie in its folder {above}",)
    counts, notes, _ = understood(*both(above))
    assert counts == {("ants", None): 2, ("bees", None): 2}
    assert notes == (f"all images lie in its folder {above}",)


def test_test_images_without_class_folders_have_no_label() -> None:
    counts, notes, _ = understood(*both("train", "val"), "test")
    assert counts[("", "unlabeled")] == 2
    assert len(counts) == 5
    assert notes == ("test has no class folders: its images have no label",)


# Classes


@pytest.mark.parametrize(
    "folders",
    [
        ("bus", "car", "train"),
        ("airport", "train_station", "test_tube"),
        ("airport/day", "train_station/day", "train_station/night"),
        ("ants/near", "ants/far", "bees/near"),
        ("vehicles/train", "vehicles/car", "animals"),
        ("a", "b", "latest"),
    ],
)
def test_classes_that_are_named_like_splits_or_have_folders_in_them(folders: tuple[str, ...]) -> None:
    counts, notes, ignored = understood(*folders)
    assert {label for label, _ in counts} == {folder.partition("/")[0] for folder in folders}
    assert {split for _, split in counts} == {None}
    assert (notes, ignored) == ((), {})


# What is ambiguous

RENAME = "Rename them, or list the images in a CSV with the columns path,label,split."


@pytest.mark.parametrize(
    ("folders", "message"),
    [
        (
            ["ants", "bees", "test"],
            "photos: test is named like a split but holds images and no class folders, beside ants, bees. Is it a "
            f"class or a split? {RENAME}",
        ),
        (
            ["ants", "train", "val"],
            "photos: train, val are named like splits but hold images and no class folders, beside ants. Is it a class "
            f"or a split? {RENAME}",
        ),
        (
            ["ants", "bees", "test/ants", "test/bees"],
            "photos: test is named like a split, and none of ants, bees is named like train. Put the class folders of "
            f"train into a folder train. {RENAME}",
        ),
        (["testing/ants", "valid/ants"], "photos has testing, valid but no train folder with images."),
        (["train/a", "train/b", "val/a", "dev/a"],
         f"photos has several folders for one split: dev, train, val. {RENAME}"),
        (
            ["ants/train", "ants/val", "bees"],
            "photos: the class folder ants holds folders named like splits (train, val), and bees holds images outside "
            f"of such folders. Give every class folder the same splits. {RENAME}",
        ),
        (
            ["ants/train", "ants/val", "ants", "bees/train"],
            "photos: the class folder ants holds folders named like splits (train, val), and ants holds images outside "
            f"of such folders. Give every class folder the same splits. {RENAME}",
        ),
        (["ants/val", "ants/dev", "ants/train", "bees/train"],
         f"photos/ants has several folders for one split: dev, train, val. {RENAME}"),
        (
            ["train/train/a", "train/val/a", "train/train/b"],
            f"photos/train is named like a split and holds splits: train, val. {RENAME}",
        ),
        (
            ["ants", "bees", "sorted/ants", "sorted/bees"],
            "photos: sorted holds folders named like the classes beside it (ants, bees). Is it a class, a split, or "
            "sorted pictures? Rename it train, val or test, or move it elsewhere.",
        ),
    ],
)  # fmt: skip
def test_what_is_ambiguous_is_refused_with_the_way_out(folders: list[str], message: str) -> None:
    assert refusal(*folders) == message


# What is passed over


def overview(manifest: Manifest) -> tuple[tuple[str, ...], int, dict[str, int]]:
    return manifest.samples.classes, len(manifest.samples), manifest.ignored


def test_litter_of_systems_and_archives_is_passed_over_and_counted(tmp_path: Path) -> None:
    data = write_folder(tmp_path / "photos", {"ants": 4, "bees": 4, "@eaDir": 1, "__MACOSX/ants": 1, "#recycle": 1,
                                              "ants/@eaDir": 2, "bees/old/@eaDir": 2})  # fmt: skip
    (data / "lost+found").mkdir()
    expected = {
        "folders: @eaDir, which the system or an archive made": 3,
        "folders: __MACOSX, which the system or an archive made": 1,
        "folders: #recycle, which the system or an archive made": 1,
        "folders: lost+found, which the system or an archive made": 1,
    }
    assert overview(read_manifest(data)) == (("ants", "bees"), 8, expected)
    names = [path.relative_to(data).as_posix() for path in data.rglob("*.png")]
    ignored: Counter[str] = Counter()
    assert len(scan_class_folders(ListedTree("photos.tar", names), ignored).entries) == 8
    assert dict(ignored) == {reason: count for reason, count in expected.items() if "lost" not in reason}
    assert len(list_images(data)) == 8


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_lost_and_found_that_only_root_reads_is_no_obstacle(tmp_path: Path) -> None:
    data = write_folder(tmp_path / "photos", {"ants": 4, "bees": 4})
    (data / "lost+found").mkdir(mode=0)
    assert len(read_manifest(data).samples) == 8


@pytest.mark.parametrize(
    "marks",
    [("model.json", "run.json"), ("model.json", "head.safetensors"), ("last.pt", "run.json"),
     ("settings.json", "work/x"), ("report.md", "report.json", "report.png"), (".featcache-sorted", "ants/000.png"),
     ("run.json", "val.csv"), ("cache.h5", "report.html", "head/model.json"), (".featcache-try", "cache.h5")],
)  # fmt: skip
@pytest.mark.parametrize("parent", ["", "ants"])
def test_outputs_of_featcache_inside_the_data_are_passed_over(
    marks: tuple[str, ...], parent: str, tmp_path: Path
) -> None:
    data = write_folder(tmp_path / "photos", {"ants": 4, "bees": 4})
    for mark in marks:
        path = data / parent / "output" / mark
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")
    assert overview(read_manifest(data)) == (("ants", "bees"), 8, {"folders: output, which featcache wrote": 1})


def test_a_class_folder_with_a_report_of_its_own_is_a_class(tmp_path: Path) -> None:
    data = write_folder(tmp_path / "photos", {"ants": 4, "bees": 4})
    (data / "ants/model.json").write_text("{}")
    (data / "ants/report.json").write_text("{}")
    assert len(read_manifest(data).samples) == 8


def test_hidden_folders_are_counted(tmp_path: Path) -> None:
    data = write_folder(tmp_path / "photos", {"ants": 4, "bees": 4, ".git": 1, "ants/.thumbs": 1})
    assert overview(read_manifest(data)) == (("ants", "bees"), 8, {"folders: hidden": 2})


@pytest.mark.parametrize(
    ("folders", "empty", "counts"),
    [(("ants", "bees"), "test", (("ants", "bees"), 8)), (("train/ants", "train/bees"), "val", (("ants", "bees"), 8)),
     (("train/ants", "train/bees"), "training", (("ants", "bees"), 8))],
)  # fmt: skip
def test_a_folder_without_images_that_is_named_like_a_split_is_counted(
    folders: tuple[str, ...], empty: str, counts: tuple[tuple[str, ...], int], tmp_path: Path
) -> None:
    data = write_folder(tmp_path / "photos", dict.fromkeys(folders, 4))
    (data / empty / "notes").mkdir(parents=True)
    (data / empty / "notes/read.txt").write_text("none yet")
    kind = f"folders: {empty}, which is named like a split and holds no images"
    assert overview(read_manifest(data)) == (*counts, {kind: 1})


def test_folders_may_be_nested_deeper_than_python_calls() -> None:
    deep = "/".join(["f"] * 1500)
    counts, _, _ = understood(f"ants/{deep}", "bees")
    assert counts == {("ants", None): 2, ("bees", None): 2}
