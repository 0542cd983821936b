"""Samples without a label: from folders, tables and splits; what they are counted as, and what still is refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from featcache.core.samples import SPLITS
from featcache.data.manifest import Manifest, read_manifest
from featcache.data.modality import IMAGES
from featcache.data.record_labels import mark_unlabeled
from featcache.data.sources.base import SampleRecord
from featcache.errors import DataLayoutError

MakeFolder = Callable[..., Path]


def by_id(manifest: Manifest) -> dict[str, tuple[str, str]]:
    """id -> (class or "", split)."""
    samples = manifest.samples
    return {
        name: (samples.classes[label] if label >= 0 else "", SPLITS[split])
        for name, label, split in zip(samples.ids, samples.labels, samples.split, strict=True)
    }


def unlabeled(manifest: Manifest) -> set[str]:
    return {name for name, (_, split) in by_id(manifest).items() if split == "unlabeled"}


def write(root: Path, *lines: str, name: str = "list.csv") -> Path:
    (root / name).write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    return root / name


# Folders


def test_a_folder_without_class_folders_has_no_labels(make_folder: MakeFolder) -> None:
    root = make_folder({"photos": 3}) / "photos"
    (root / "notes.md").write_text("x")
    manifest = read_manifest(root)
    assert by_id(manifest) == {f"{row:03d}.png": ("", "unlabeled") for row in range(3)}
    assert manifest.samples.classes == ()
    assert manifest.samples.labels.tolist() == [-1, -1, -1]
    assert manifest.samples.labels.dtype == np.int64
    assert manifest.held_out_seed is None
    assert manifest.ignored == {"not an image (.md)": 1}
    assert str(manifest.summary()).splitlines() == [
        f"{root}: no class yet; unlabeled 3",
        "no class folders: no image has a label",
        "3 of 3 images have no label: kept in the split unlabeled, not trained on or scored",
        "no training image has a label yet. To fit a head, label images of two classes or more in the data, at least "
        "two of each, and run `featcache update CACHE DATA`.",
    ]


def test_images_beside_class_folders_have_no_label(make_folder: MakeFolder) -> None:
    root = make_folder({"": 4, "ants": 5, "bees": 5})
    (root / "README.md").write_text("x")
    manifest = read_manifest(root)
    assert unlabeled(manifest) == {f"{row:03d}.png" for row in range(4)}
    assert manifest.ignored == {"beside the class folders": 1}
    assert manifest.notes == (
        "images beside the class folders have no label",
        "4 of 14 images have no label: kept in the split unlabeled, not trained on or scored",
    )
    labeled = read_manifest(make_folder({"ants": 5, "bees": 5}, "labeled"))
    expected = {name: value for name, value in by_id(manifest).items() if value[1] != "unlabeled"}
    assert {name: value[0] for name, value in expected.items()} == {
        name: value[0] for name, value in by_id(labeled).items()
    }


@pytest.mark.parametrize("name", ["unlabeled", "Unlabelled", "unsup", "unlabeled_images"])
@pytest.mark.parametrize("layout", [("ants", "bees"), ("train/ants", "train/bees", "val/ants", "val/bees")])
@pytest.mark.parametrize("inside", ["", "/more/2024"])
def test_a_folder_named_unlabeled_holds_samples_without_a_label(
    make_folder: MakeFolder, name: str, layout: tuple[str, ...], inside: str
) -> None:
    manifest = read_manifest(make_folder({**dict.fromkeys(layout, 3), f"{name}{inside}": 4}))
    assert unlabeled(manifest) == {f"{name}{inside}/{row:03d}.png" for row in range(4)}
    assert manifest.samples.classes == ("ants", "bees")
    assert manifest.notes[0] == f"{name} is not a class: its images have no label"
    assert manifest.ignored == {}


def test_unlabeled_inside_train_is_no_class(make_folder: MakeFolder) -> None:
    """As the reviews of aclImdb: train/pos, train/neg, train/unsup."""
    manifest = read_manifest(make_folder({"train/neg": 3, "train/pos": 3, "train/unsup": 2, "test/neg": 1}))
    assert manifest.samples.classes == ("neg", "pos")
    assert unlabeled(manifest) == {"train/unsup/000.png", "train/unsup/001.png"}


def test_a_folder_unlabeled_alone(make_folder: MakeFolder) -> None:
    root = make_folder({"unlabeled/a": 2, "unlabeled/b": 1})
    assert unlabeled(read_manifest(root)) == {"unlabeled/a/000.png", "unlabeled/a/001.png", "unlabeled/b/000.png"}
    outer = make_folder({"data/unlabeled": 2}, "outer")
    assert unlabeled(read_manifest(outer)) == {"data/unlabeled/000.png", "data/unlabeled/001.png"}


def test_an_empty_folder_unlabeled_is_passed_over(make_folder: MakeFolder) -> None:
    root = make_folder({"ants": 3, "bees": 3})
    (root / "unlabeled").mkdir()
    manifest = read_manifest(root)
    assert manifest.samples.classes == ("ants", "bees")
    assert not unlabeled(manifest)


def test_texts_beside_class_folders_have_no_label(tmp_path: Path) -> None:
    for name in ("good/a.txt", "good/b.txt", "bad/c.txt", "bad/d.txt", "e.txt"):
        path = tmp_path / "texts" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(name)
    manifest = read_manifest(tmp_path / "texts")
    assert unlabeled(manifest) == {"e.txt"}
    assert manifest.notes[-1] == "1 of 5 texts have no label: kept in the split unlabeled, not trained on or scored"


# Tables


def test_a_table_of_empty_labels(make_folder: MakeFolder) -> None:
    root = make_folder({"x": 3})
    manifest = read_manifest(write(root, "path,label", *(f"x/{row:03d}.png," for row in range(3))))
    assert len(unlabeled(manifest)) == 3
    assert manifest.samples.classes == ()
    with pytest.raises(DataLayoutError) as caught:
        manifest.labeled("finetune")
    assert str(caught.value) == (
        f"{root / 'list.csv'}: no image has a label, and finetune needs labels. Expected a row for each image: "
        "path,label[,split][,sha256]."
    )


def test_an_empty_label_in_train_has_its_split_once_it_is_there(make_folder: MakeFolder) -> None:
    root = make_folder({"x": 5})
    rows = ["x/000.png,a,train", "x/001.png,b,train", "x/002.png,,train", "x/003.png,,val", "x/004.png,a,val"]
    manifest = read_manifest(write(root, "path,label,split", *rows))
    assert unlabeled(manifest) == {"x/002.png", "x/003.png"}
    rows[2:4] = ["x/002.png,b,train", "x/003.png,b,val"]
    labeled = by_id(read_manifest(write(root, "path,label,split", *rows)))
    assert (labeled["x/002.png"], labeled["x/003.png"]) == (("b", "train"), ("b", "val"))


def test_the_split_unlabeled_hides_a_label_and_says_so(make_folder: MakeFolder) -> None:
    root = make_folder({"x": 4})
    rows = ["x/000.png,a,", "x/001.png,b,", "x/002.png,b,unlabeled", "x/003.png,,unlabeled"]
    manifest = read_manifest(write(root, "path,label,split", *rows))
    assert unlabeled(manifest) == {"x/002.png", "x/003.png"}
    assert manifest.notes[1:] == (
        "1 image of the split unlabeled has a label, which is not used (for example x/002.png: b); to use it, remove "
        "the split",
        "2 of 4 images have no label: kept in the split unlabeled, not trained on or scored",
    )


def test_of_several_labels_an_empty_one_is_none_and_the_split_says_not_known(make_folder: MakeFolder) -> None:
    root = make_folder({"x": 6})
    rows = ["x/000.png,a|b,", "x/001.png,a,", "x/002.png,,", "x/003.png,,unlabeled", "x/004.png,b,", "x/005.png,a,"]
    manifest = read_manifest(write(root, "path,label,split", *rows))
    samples = manifest.samples
    assert unlabeled_ids(manifest) == ["x/003.png"]
    assert dict(zip(samples.ids, samples.labels.tolist(), strict=True))["x/002.png"] == [0, 0]
    assert manifest.notes[-2:] == (
        "1 of 6 images have no label: kept in the split unlabeled, not trained on or scored",
        "1 of 6 images have none of the labels; one that is not labeled yet has the split unlabeled",
    )


def test_of_lists_null_is_not_known_and_an_empty_list_is_none(make_folder: MakeFolder) -> None:
    root = make_folder({"x": 6})
    labels = [["a", "b"], ["a"], [], None, ["b"], ["a"]]
    records = [json.dumps({"path": f"x/{row:03d}.png", "label": label}) for row, label in enumerate(labels)]
    manifest = read_manifest(write(root, *records, name="list.jsonl"))
    assert unlabeled_ids(manifest) == ["x/003.png"]
    assert dict(zip(manifest.samples.ids, manifest.samples.labels.tolist(), strict=True))["x/002.png"] == [0, 0]


def unlabeled_ids(manifest: Manifest) -> list[str]:
    return [manifest.samples.ids[row] for row in manifest.samples.rows("unlabeled")]


# While samples lack a label


def test_the_first_label_is_no_error(make_folder: MakeFolder) -> None:
    root = make_folder({"x": 4})
    manifest = read_manifest(write(root, "path,label", "x/000.png,a", *(f"x/{row:03d}.png," for row in (1, 2, 3))))
    assert by_id(manifest)["x/000.png"] == ("a", "train")
    assert manifest.held_out_seed is None
    with pytest.raises(DataLayoutError, match=r"only one class \(a\) was found; a classifier needs two or more"):
        manifest.labeled("finetune")


def test_two_labels_are_too_few_for_val(make_folder: MakeFolder) -> None:
    root = make_folder({"x": 4})
    rows = ["x/000.png,a", "x/001.png,b", "x/002.png,", "x/003.png,"]
    manifest = read_manifest(write(root, "path,label", *rows))
    assert [len(manifest.samples.rows(split)) for split in SPLITS] == [2, 0, 0, 2]
    with pytest.raises(DataLayoutError, match=r"nothing can be held out for val\. Label more images\.$"):
        manifest.labeled("finetune")
    with pytest.raises(DataLayoutError, match="nothing can be held out for val"):
        read_manifest(write(root, "path,label", *rows[:2]))


def test_a_class_of_val_may_wait_for_its_train_images(make_folder: MakeFolder) -> None:
    root = make_folder({"x": 6})
    rows = ["x/000.png,a,train", "x/001.png,b,train", "x/002.png,c,val", "x/003.png,a,val"]
    manifest = read_manifest(write(root, "path,label,split", *rows, "x/004.png,,train"))
    assert manifest.samples.classes == ("a", "b", "c")
    assert "train has no readable images of c" in str(manifest.summary())
    with pytest.raises(DataLayoutError, match="class 'c' is in val"):
        read_manifest(write(root, "path,label,split", *rows))


def test_one_class_stays_an_error_where_all_have_a_label(make_folder: MakeFolder) -> None:
    with pytest.raises(DataLayoutError, match=r"only one class \(ants\) was found"):
        read_manifest(make_folder({"ants": 4}))


def test_the_labels_alone_decide_the_split(make_folder: MakeFolder) -> None:
    """Samples without a label change nothing for the others."""
    root = make_folder({"x": 20})
    rows = [f"x/{row:03d}.png,{'ab'[row % 2]}" for row in range(12)]
    alone = read_manifest(write(root, "path,label", *rows))
    beside = read_manifest(write(root, "path,label", *rows, *(f"x/{row:03d}.png," for row in range(12, 20))))
    assert {name: value for name, value in by_id(beside).items() if value[0]} == by_id(alone)
    assert beside.labeled("fit").samples.digest() == alone.samples.digest()
    assert alone.labeled("fit") is alone


def test_records_of_other_packages_are_marked() -> None:
    entries = [SampleRecord("a", ("x",), "train"), SampleRecord("b", (), "train"), SampleRecord("c", (), None)]
    marked, notes = mark_unlabeled(entries, False, IMAGES)
    assert [entry.split for entry in marked] == ["train", "unlabeled", "unlabeled"]
    assert notes == []
    assert mark_unlabeled(entries, True, IMAGES)[0] == entries
