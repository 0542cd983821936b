"""What is said of the data before the work starts, and what is wrong with it."""

from __future__ import annotations

import csv
import re
from pathlib import Path

import numpy as np
import pytest

from caches import finished
from commands import SMALL, as_json, done, featcache_cli, write_folder
from featcache.cache.feature_cache import FeatureCache
from featcache.cache.verify import diff
from featcache.core.data_summary import summarize
from featcache.core.samples import Samples
from featcache.data.input_notes import input_notes
from featcache.data.manifest import read_manifest
from featcache.extraction.extract import extract
from featcache.extraction.update import update
from featcache.finetuning.finetune import finetune
from featcache.heads.fit_head import fit_head
from featcache.training.loop import TrainConfig
from toys import toy_backbone

SMALL_VAL = (
    "val has 5 images, too few to choose by: one image is 20 points of accuracy. Add val images, or compare by "
    "cross-validation."
)


def samples_of(counts: dict[tuple[str, int], int], groups: tuple[str, ...] = ()) -> Samples:
    """So many images of each class in each split."""
    classes = tuple(sorted({label for label, _ in counts}))
    rows = [(classes.index(label), split) for (label, split), n in counts.items() for _ in range(n)]
    n = len(rows)
    labels, splits = (np.array(column) for column in zip(*rows, strict=True))
    sha256 = np.random.default_rng(0).integers(0, 256, (n, 32), dtype=np.uint8)
    return Samples(tuple(map(str, range(n))), labels, splits.astype(np.uint8), sha256, classes, groups)


def test_few_classes_are_named_with_their_images() -> None:
    samples = samples_of({("ants", 0): 123, ("bees", 0): 121, ("ants", 1): 70, ("bees", 1): 83})
    assert str(summarize("photos", samples)) == (
        "photos: 2 classes; train 244 (ants 123, bees 121), val 153 (ants 70, bees 83)"
    )


def test_many_classes_are_summarised() -> None:
    counts = {(f"c{number:02d}", 0): 40 + number for number in range(12)} | {
        (f"c{number:02d}", 1): 5 for number in range(12)
    }
    assert summarize("flowers", samples_of(counts)).line == (
        "flowers: 12 classes; train 546 (c00 40 to c11 51), val 60 (5 a class)"
    )


def test_a_draw_of_val_is_told_with_its_seed() -> None:
    samples = samples_of({("ants", 0): 98, ("bees", 0): 97, ("ants", 1): 25, ("bees", 1): 24})
    assert summarize("photos", samples, held_out_seed=0).line == (
        "photos: 2 classes; train 195 (ants 98, bees 97), val 49 (ants 25, bees 24); no val split: held out 49 of 244 "
        "(seed 0)"
    )


def test_groups_are_counted() -> None:
    samples = samples_of({("ants", 0): 3, ("bees", 0): 3, ("ants", 1): 30}, ("p", "p", "q", "q", "", "") + ("r",) * 30)
    assert summarize("photos", samples).line.endswith("; 3 groups, each kept in one split")


@pytest.mark.parametrize(("val", "is_small"), [(29, True), (30, False)])
def test_a_val_of_fewer_than_30_images_is_too_small_to_choose_by(val: int, is_small: bool) -> None:
    found = summarize("photos", samples_of({("ants", 0): 50, ("bees", 0): 50, ("ants", 1): val}))
    assert bool(found.small_val) == is_small
    assert (found.small_val in str(found).splitlines()) == is_small


def test_a_class_without_a_readable_training_image_is_named() -> None:
    samples = samples_of({("ants", 0): 3, ("bees", 0): 3, ("ants", 1): 30, ("wasps", 0): 2})
    readable = np.ones(len(samples), bool)
    readable[samples.labels == 2] = False
    found = summarize("photos", samples, readable=readable)
    assert found.line.startswith("photos: 3 classes; train 6 (ants 3, bees 3, wasps 0), val 30")
    assert found.missing == (
        "train has no readable images of wasps: no head can choose it. Add images, or leave it out."
    )
    assert summarize("photos", samples).missing == ""


def test_a_class_of_val_that_differs_from_one_of_train_in_case_says_so() -> None:
    samples = samples_of({("ants", 0): 3, ("Bees", 1): 3, ("bees", 0): 3})
    assert summarize("photos", samples).missing.endswith(
        "or leave it out. Train has 'bees', which differs from 'Bees' only in upper and lower case."
    )


# Where it is said


def test_extract_fit_head_finetune_and_update_say_it_before_they_work(split_folder: Path, tmp_path: Path) -> None:
    told: list[str] = []
    made = extract(split_folder, tmp_path / "a.h5", backbone=toy_backbone(), views=0, on_note=told.append)
    line = "2 classes; train 13 (ants 7, bees 6), val 5 (ants 3, bees 2)"
    assert told == [f"{split_folder}: {line}\n{SMALL_VAL}"]
    assert made.to_dict()["data"]["understood"] == f"{split_folder}: {line}"
    fit = fit_head(tmp_path / "a.h5", head="centroid", on_note=told.append)
    assert told[1] == f"{tmp_path / 'a.h5'}: {line}\n{SMALL_VAL}"
    assert fit.to_dict()["data"]["images_by_class"]["val"] == {"ants": 3, "bees": 2}
    recipe = TrainConfig(epochs=1)
    run = finetune(split_folder, tmp_path / "run", backbone=toy_backbone(), config=recipe, on_note=told.append)
    assert told[2] == told[0]
    assert run.to_dict()["data"]["warnings"] == [SMALL_VAL]
    found = update(tmp_path / "a.h5", split_folder, on_note=told.append)
    assert told[3] == told[0]
    assert found.to_dict()["data"]["name"] == str(split_folder)


def test_a_draw_is_known_from_the_cache_and_forgotten_when_a_val_comes(tmp_path: Path) -> None:
    data = write_folder(tmp_path / "photos", {"ants": 5, "bees": 5})
    extract(data, tmp_path / "a.h5", backbone=toy_backbone(), views=0, split_seed=7)
    drawn = "; no val split: held out 2 of 10 (seed 7)"
    assert FeatureCache.open(tmp_path / "a.h5").summary().line.endswith(drawn)
    assert read_manifest(data, seed=7).summary().line.endswith(drawn)
    for label in ("ants", "bees"):
        (data / "train").mkdir(exist_ok=True)
        (data / label).rename(data / "train" / label)
        (data / "val" / label).mkdir(parents=True)
        (data / "train" / label / "004.png").rename(data / "val" / label / "004.png")
    assert update(tmp_path / "a.h5", data).extracted == 0
    assert "held out" not in FeatureCache.open(tmp_path / "a.h5").summary().line


def test_classes_that_cannot_be_read_are_told_after_extract_and_by_fit_head(tmp_path: Path) -> None:
    data = write_folder(tmp_path / "photos", {"train/ants": 4, "train/bees": 4, "train/wasps": 2, "val/ants": 2})
    for path in (data / "train/wasps").iterdir():
        path.write_bytes(b"")
    text = "train has no readable images of wasps: no head can choose it. Add images, or leave it out."
    made = extract(data, tmp_path / "a.h5", backbone=toy_backbone(), views=0)
    assert text in str(made).splitlines()
    assert text in made.to_dict()["data"]["warnings"]
    told: list[str] = []
    fit_head(tmp_path / "a.h5", head="centroid", on_note=told.append)
    assert text in told[0].splitlines()


def test_the_command_line_prints_it_beside_the_result(split_folder: Path, tmp_path: Path) -> None:
    result = featcache_cli("extract", split_folder, "-o", tmp_path / "a.h5", "--views", 0, *SMALL)
    line = f"{split_folder}: 2 classes; train 13 (ants 7, bees 6), val 5 (ants 3, bees 2)"
    assert f"{line} {SMALL_VAL}" in " ".join(result.stderr.split())  # broken at the terminal's width
    assert "2 classes; train 13" not in result.stdout
    found = as_json("fit-head", tmp_path / "a.h5", "--head", "centroid")
    assert found["data"]["images"] == {"train": 13, "val": 5}


# The first few, how many, and a list of all


def test_of_many_images_of_a_kind_a_few_are_named() -> None:
    skipped = [(f"{number}.png", "empty" if number % 4 else "truncated") for number in range(10_000)]
    conflicts = [(f"a{number}", f"b{number}") for number in range(80)]
    lines = input_notes({"hidden": 3, "folders: @eaDir, which the system or an archive made": 1}, conflicts, skipped)
    assert lines == [
        "ignored 3 files: hidden",
        "ignored 1 folder: @eaDir, which the system or an archive made",
        *(f"conflict: a{number} and b{number} are one image with two labels" for number in range(5)),
        "and 75 more conflicts of this kind: --list FILE.csv names them all",
        "skipped 10000 images: 7500 empty; 2500 truncated",
        *(f"skipped {number}.png: {'empty' if number % 4 else 'truncated'}" for number in range(5)),
        "and 9995 more skipped images: --list FILE.csv names them all",
    ]


def rows_of(listed: Path) -> list[dict[str, str]]:
    return list(csv.DictReader(listed.read_text(encoding="utf-8").splitlines()))


def test_the_list_names_them_all(split_folder: Path, tmp_path: Path) -> None:
    for number in range(6):
        (split_folder / f"train/ants/{number:03d}.png").write_bytes(b"x" * (1 + number))
    (split_folder / "train/bees/101.png").write_bytes((split_folder / "train/ants/006.png").read_bytes())
    listed = tmp_path / "list.csv"
    out = done("extract", split_folder, "-o", tmp_path / "a.h5", "--views", 0, "--list", listed, *SMALL)
    assert "and 1 more skipped images: --list FILE.csv names them all" in out
    rows = rows_of(listed)
    assert [(row["kind"], row["image"], row["other"]) for row in rows] == [
        ("conflict", "train/ants/006.png", "train/bees/101.png"),
        *(("skipped", f"train/ants/{number:03d}.png", "") for number in range(6)),
    ]
    assert all(row["reason"] for row in rows)
    assert len(re.findall("^skipped ", done("info", tmp_path / "a.h5", "--list", listed), re.MULTILINE)) == 5
    assert len(rows_of(listed)) == 6


def test_diff_names_a_few_of_each_kind_and_lists_all(tmp_path: Path) -> None:
    a = finished(tmp_path / "a.h5")
    names = [f"new/{row}.png" for row in range(10)]
    found = diff(a.path, a.path)
    found.changes["added"] = names
    text = str(found).splitlines()
    assert text == [*(f"added: {name}" for name in names[:5]),
                    "and 5 more images added: --list FILE.csv names them all"]  # fmt: skip
    found.write_list(tmp_path / "list.csv")
    assert len((tmp_path / "list.csv").read_text().splitlines()) == 11
