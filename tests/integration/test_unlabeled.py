"""A data set that is labeled step by step: extracted once, then `update` fills labels in and takes them away."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from featcache.analysis.benchmark.routes import _TASKS
from featcache.cache.feature_cache import FeatureCache
from featcache.cache.verify import diff, verify
from featcache.data.manifest import read_manifest
from featcache.errors import CacheIncompleteError, DataLayoutError, PictureError
from featcache.extraction.extract import extract
from featcache.extraction.update import update
from featcache.finetuning.finetune import finetune
from featcache.heads.fit_head import fit_head
from featcache.reports.cache_figures import map_figure
from toys import toy_backbone
from toytexts import toy_text_encoder

MakeFolder = Callable[..., Path]


def features_by_content(cache: FeatureCache) -> dict[bytes, NDArray[np.floating]]:
    """The clean features of all rows, by the hash of the image."""
    values = cache.layout.layers["penultimate"].view(cache.layout.data)
    return {content.tobytes(): values[row, 0].copy() for row, content in enumerate(cache.samples.sha256)}


def splits(cache: FeatureCache) -> dict[str, int]:
    return {split: count for split, count in cache.to_dict()["images_by_split"].items() if count}


def check_like_extracted(cache: FeatureCache, data: Path, tmp_path: Path) -> None:
    """An updated cache holds what an extraction of the data would hold."""
    anew = tmp_path / "anew.h5"
    anew.unlink(missing_ok=True)
    expected = extract(data, anew, backbone=toy_backbone(), workers=1, views=cache.spec.views).cache
    assert cache.samples.digest() == expected.samples.digest()
    assert cache.spec.digest() == expected.spec.digest()
    np.testing.assert_array_equal(cache.done, expected.done)
    for layer in cache.dims:
        arrays = [one.layout.layers[layer].view(one.layout.data) for one in (cache, expected)]
        np.testing.assert_array_equal(*arrays)


def move(root: Path, folder: str, *names: str) -> None:
    (root / folder).mkdir(exist_ok=True)
    for name in names:
        shutil.move(root / name, root / folder / Path(name).name)


def test_photos_move_into_class_folders_without_the_network(make_folder: MakeFolder, tmp_path: Path) -> None:
    root, out = make_folder({"photos": 14}) / "photos", tmp_path / "cache.h5"
    names = [f"{row:03d}.png" for row in range(14)]
    extraction = extract(root, out, backbone=toy_backbone(), workers=1, views=0)
    before = features_by_content(extraction.cache)
    assert splits(extraction.cache) == {"unlabeled": 14}
    assert extraction.cache.samples.classes == ()
    reason = "no training image has a label yet. To fit a head, label images of two classes or more in the data"
    assert reason in str(extraction)
    with pytest.raises(CacheIncompleteError, match=reason):
        fit_head(out)

    move(root, "ants", *names[:1])
    first = update(out, root)
    assert (first.carried, first.extracted) == (14, 0)
    assert first.changes == {"renamed": ["000.png to ants/000.png"], "newly labeled": ["ants/000.png"]}
    assert "train has a single class so far: ants" in str(first)
    with pytest.raises(CacheIncompleteError, match="train has a single class so far: ants"):
        fit_head(out)

    move(root, "bees", *names[1:2])
    assert "val has no image yet: no class has two that differ" in str(update(out, root))
    with pytest.raises(CacheIncompleteError, match="val has no image yet"):
        fit_head(out)

    move(root, "ants", *names[2:6])
    move(root, "bees", *names[6:10])
    second = update(out, root)
    assert (second.carried, second.extracted) == (14, 0)
    assert len(second.changes["newly labeled"]) == 8
    cache = FeatureCache.open(out)
    assert splits(cache) == {"train": 8, "val": 2, "unlabeled": 4}
    check_like_extracted(cache, root, tmp_path)
    after = features_by_content(cache)
    assert before.keys() == after.keys()
    for content, values in before.items():
        np.testing.assert_array_equal(after[content], values)
    assert fit_head(out, head="ridge").report.images == 8

    move(root, "", "ants/000.png", "bees/001.png")
    third = update(out, root)
    assert (third.carried, third.extracted) == (14, 0)
    assert third.changes["no longer labeled"] == ["000.png", "001.png"]
    assert splits(FeatureCache.open(out)) == {"train": 6, "val": 2, "unlabeled": 6}
    check_like_extracted(FeatureCache.open(out), root, tmp_path)


def test_labels_of_a_table_are_filled_in(make_folder: MakeFolder, tmp_path: Path) -> None:
    root, table, out = make_folder({"x": 12}), tmp_path / "data" / "list.csv", tmp_path / "cache.h5"

    def label(*labels: str) -> Path:
        lines = [f"x/{row:03d}.png,{labels[row] if row < len(labels) else ''}\n" for row in range(12)]
        table.write_text("path,label\n" + "".join(lines))
        return table

    extract(label(), out, backbone=toy_backbone(), workers=1, views=0)
    result = update(out, label(*"ababababab"))
    assert (result.carried, result.extracted) == (12, 0)
    assert result.changes == {"newly labeled": [f"x/{row:03d}.png" for row in range(10)]}
    check_like_extracted(FeatureCache.open(out), table, tmp_path)
    assert sorted(diff(out, label(*"abababab")).changes["no longer labeled"]) == ["x/008.png", "x/009.png"]
    assert verify(out, label(*"ababababab")).ok
    assert root.is_dir()


def test_labels_in_train_get_their_views(make_folder: MakeFolder, tmp_path: Path) -> None:
    """Without a label an image has its clean view alone; update extracts the augmented ones of train images only."""
    root, out = make_folder({"ants": 6, "bees": 6, "unlabeled": 4}), tmp_path / "cache.h5"
    cache = extract(root, out, backbone=toy_backbone(), workers=1, views=2).cache
    assert cache.features("unlabeled").x.shape == (4, 1, 3)
    assert set(cache.done[cache.samples.rows("unlabeled")]) == {1}
    move(root, "ants", "unlabeled/000.png")
    result = update(out, root, backbone=toy_backbone())
    cache = FeatureCache.open(out)
    row = cache.samples.ids.index("ants/000.png")
    assert result.shown in (2, 4)  # of one image, and of one that left val for it
    assert cache.done[row] == (3 if cache.samples.split[row] == 0 else 1)
    check_like_extracted(cache, root, tmp_path)


def test_texts_are_labeled_step_by_step(tmp_path: Path) -> None:
    texts, out = tmp_path / "texts.csv", tmp_path / "cache.h5"
    words = ["good film", "the good film", "very good", "good", "bad film", "dull film", "very dull", "not bad"]

    def label(*labels: str) -> Path:
        rows = [f"{text},{labels[row] if row < len(labels) else ''}" for row, text in enumerate(words)]
        texts.write_text("\n".join(["text,label", *rows]))
        return texts

    cache = extract(label(), out, backbone=toy_text_encoder()).cache
    assert splits(cache) == {"unlabeled": 8}
    assert "no training text has a label yet. To fit a head, label texts of two classes" in str(cache.summary())
    before = features_by_content(cache)
    result = update(out, label(*["good"] * 4, *["bad"] * 3))
    assert (result.carried, result.extracted) == (8, 0)
    cache = FeatureCache.open(out)
    assert splits(cache) == {"train": 5, "val": 2, "unlabeled": 1}
    for content, values in features_by_content(cache).items():
        np.testing.assert_array_equal(before[content], values)


def test_of_several_labels_the_split_says_what_is_not_known(make_folder: MakeFolder, tmp_path: Path) -> None:
    root, out = make_folder({"x": 10}), tmp_path / "cache.h5"

    def table(*last: str) -> Path:
        rows = [f"x/{row:03d}.png,{label}," for row, label in enumerate(["a|b", "a", "b", ""] * 2)]
        rows += [f"x/{row:03d}.png,{label}" for row, label in enumerate(last, 8)]
        (root / "list.csv").write_text("\n".join(["path,label,split", *rows]))
        return root / "list.csv"

    cache = extract(table(",unlabeled", ",unlabeled"), out, backbone=toy_backbone(), workers=1, views=0).cache
    assert splits(cache) == {"train": 5, "val": 3, "unlabeled": 2}
    result = update(out, table("a,", ","))
    assert (result.carried, result.extracted) == (10, 0)
    assert result.changes["newly labeled"] == ["x/008.png", "x/009.png"]
    cache = FeatureCache.open(out)
    labels = dict(zip(cache.samples.ids, cache.samples.labels.tolist(), strict=True))
    assert (labels["x/008.png"], labels["x/009.png"]) == ([1, 0], [0, 0])
    check_like_extracted(cache, root / "list.csv", tmp_path)


def test_info_counts_and_lists_them(make_folder: MakeFolder, tmp_path: Path) -> None:
    root, out = make_folder({"ants": 3, "bees": 3, "unlabeled": 2}), tmp_path / "cache.h5"
    cache = extract(root, out, backbone=toy_backbone(), workers=1, views=0).cache
    assert "images      8 (4 train, 2 val, 2 unlabeled), 0 skipped" in str(cache)
    cache.write_list(tmp_path / "list.csv")
    assert (tmp_path / "list.csv").read_text().splitlines() == [
        "kind,image,other,reason",
        "unlabeled,unlabeled/000.png,,",
        "unlabeled,unlabeled/001.png,,",
    ]
    flat = extract(root / "unlabeled", tmp_path / "flat.h5", backbone=toy_backbone(), workers=1, views=0).cache
    assert "classes     0 (none yet)" in str(flat)


def test_a_map_of_images_without_a_label(make_folder: MakeFolder, tmp_path: Path) -> None:
    cache = extract(make_folder({"": 5}), tmp_path / "c.h5", backbone=toy_backbone(), workers=1, views=0).cache
    (axes,) = map_figure(cache, split="unlabeled")().axes
    assert [str(group.get_label()) for group in axes.collections] == ["none (5)"]
    with pytest.raises(PictureError) as caught:
        map_figure(cache)
    assert str(caught.value) == f"{cache.path} has no readable val images to draw; it has 5 unlabeled"


def test_the_cached_route_of_a_benchmark_extracts_labeled_images_alone(make_folder: MakeFolder, tmp_path: Path) -> None:
    root = make_folder({"ants": 5, "bees": 5, "unlabeled": 4})
    task = {"data": str(root), "out": str(tmp_path / "cache.h5"), "val_fraction": 0.4, "views": 0, "image_size": 32}
    result = _TASKS["extract"]({**task, "backbone": "timm/test_resnet", "weights": "none"}, lambda *_: None)
    assert result["extracted"] == 10
    assert result["seconds"]["wall"] > result["seconds"]["hash"] > 0
    assert splits(FeatureCache.open(tmp_path / "cache.h5")) == {"train": 6, "val": 4}


def test_live_routes_leave_unlabeled_images_out(make_folder: MakeFolder, tmp_path: Path) -> None:
    flat = make_folder({"flat": 4}) / "flat"
    with pytest.raises(DataLayoutError) as caught:
        finetune(flat, tmp_path / "run", backbone=toy_backbone())
    assert str(caught.value) == (
        f"{flat}: no image has a label, and finetune needs labels. Expected {flat}/<class>/*.jpg or "
        f"{flat}/train/<class>/*.jpg."
    )
    beside = make_folder({"ants": 5, "bees": 5, "unlabeled": 3}, "beside")
    alone = make_folder({"ants": 5, "bees": 5}, "alone")
    assert read_manifest(beside).labeled("finetune").samples.digest() == read_manifest(alone).samples.digest()
