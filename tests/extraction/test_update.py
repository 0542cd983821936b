"""update: the new cache equals one extracted anew, and only what was missing went through the network."""

from __future__ import annotations

import fcntl
import json
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from commands import COUNTS, write_folder
from featcache._utils import progress_bar
from featcache.backbones import load as backbone_loading
from featcache.backbones.backbone import Backbone
from featcache.backbones.engines.base import PendingFeatures
from featcache.cache import reuse
from featcache.cache.feature_cache import FeatureCache
from featcache.cache.paths import partial_path
from featcache.cache.verify import verify
from featcache.errors import (
    CacheBusyError,
    CacheDamagedError,
    CacheIncompleteError,
    CacheMismatchError,
    DataLayoutError,
    SpecError,
    UnreadableImageError,
)
from featcache.extraction import update as updating
from featcache.extraction.extract import extract
from featcache.extraction.update import repair, update
from toys import ToyNet, random_image, toy_backbone


class Counting(Backbone):
    """The toy, counting the views that it is shown."""

    shown = 0

    def submit(self, pixels: NDArray[np.uint8]) -> PendingFeatures:
        type(self).shown += len(pixels)
        return super().submit(pixels)


@pytest.fixture
def toy(monkeypatch: pytest.MonkeyPatch) -> type[Counting]:
    """What `update` loads by the name in the cache is the toy."""
    options = {name: getattr(toy_backbone(), name) for name in ("image_size", "resize_size", "mean", "std", "name")}

    def load(*_: object, **__: object) -> Counting:
        backbone = Counting(ToyNet(), **options)
        Counting.shown = 0  # it probes itself
        return backbone

    Counting.shown = 0
    monkeypatch.setattr(backbone_loading, "load_backbone", load)
    return Counting


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return write_folder(tmp_path / "data", COUNTS)


@pytest.fixture
def path(data: Path, tmp_path: Path) -> Path:
    extract(data, tmp_path / "a.h5", backbone=toy_backbone(), views=2)
    return tmp_path / "a.h5"


def equals_a_new_one(path: Path, data: Path, views: int = 2, augment: str = "gentle") -> None:
    expected = extract(data, path.parent / "anew.h5", backbone=toy_backbone(), views=views, augment=augment).cache
    found = FeatureCache.open(path)
    found.check_matches(expected.spec, expected.samples)
    np.testing.assert_array_equal(found.done, expected.done)
    assert found.skipped == expected.skipped
    for split in ("train", "val"):
        np.testing.assert_array_equal(found.features(split).x, expected.features(split).x)
    assert verify(path, data).ok
    assert not partial_path(path).exists()
    (path.parent / "anew.h5").unlink()


def add(data: Path) -> None:
    random_image(77).save(data / "train/bees/new.png")


def change(data: Path) -> None:
    random_image(78).save(data / "train/ants/000.png")


def remove(data: Path) -> None:
    (data / "train/ants/001.png").unlink()


def rename(data: Path) -> None:
    (data / "train/ants/002.png").rename(data / "train/ants/zzz.png")


def relabel(data: Path) -> None:
    (data / "train/ants/003.png").rename(data / "train/bees/ant.png")


def train_to_val(data: Path) -> None:
    (data / "train/ants/004.png").rename(data / "val/ants/more.png")


def val_to_train(data: Path) -> None:
    (data / "val/ants/000.png").rename(data / "train/ants/more.png")


def new_class(data: Path) -> None:
    (data / "train/aaa").mkdir()
    random_image(79).save(data / "train/aaa/0.png")


def break_one(data: Path) -> None:
    (data / "train/ants/005.png").write_bytes(b"broken")


def touch(data: Path) -> None:
    for file in data.rglob("*.png"):
        os.utime(file, (1, 1))


CASES: dict[str, tuple[Callable[[Path], None], int]] = {
    "added": (add, 3),
    "changed": (change, 3),
    "removed": (remove, 0),
    "renamed": (rename, 0),
    "relabelled": (relabel, 0),
    "train to val": (train_to_val, 0),
    "val to train": (val_to_train, 2),
    "new class": (new_class, 3),
    "broken": (break_one, 0),
}


@pytest.mark.parametrize("case", CASES)
def test_only_what_is_new_is_extracted(case: str, data: Path, path: Path, toy: type[Counting]) -> None:
    edit, shown = CASES[case]
    edit(data)
    result = update(path, data)
    assert toy.shown == shown
    assert result.shown == shown
    assert not result.nothing
    equals_a_new_one(path, data)


def test_all_at_once(data: Path, path: Path, toy: type[Counting]) -> None:
    for edit in (add, change, remove, rename, relabel, train_to_val, val_to_train, new_class):
        edit(data)
    result = update(path, data)
    assert result.shown == toy.shown == 3 + 3 + 2 + 3
    assert set(result.changes) == {"added", "removed", "renamed", "changed in content"}
    equals_a_new_one(path, data)


@pytest.mark.parametrize("views", [0, 1, 5])
def test_other_numbers_of_views(views: int, data: Path, path: Path, toy: type[Counting]) -> None:
    result = update(path, data, views=views)
    assert result.shown == 13 * max(0, views - 2)
    assert result.views == (2, views)
    equals_a_new_one(path, data, views)


@pytest.mark.parametrize("views", [0, 1, 3])
def test_another_recipe_keeps_the_clean_views(views: int, data: Path, path: Path, toy: type[Counting]) -> None:
    result = update(path, data, views=views, augment="crop")
    assert result.shown == toy.shown == 13 * views
    assert result.recipes == ("gentle", "crop")
    assert "augmentation: gentle before, crop now" in str(result)
    equals_a_new_one(path, data, views, augment="crop")


def test_the_recipe_stays_where_there_are_views_and_is_the_default_where_there_are_none(
    data: Path, tmp_path: Path, toy: type[Counting]
) -> None:
    path = tmp_path / "crop.h5"
    extract(data, path, backbone=toy_backbone(), views=1, augment="crop")
    update(path, data, views=3)
    equals_a_new_one(path, data, 3, augment="crop")
    update(path, data, views=0)
    assert update(path, data).nothing
    result = update(path, data, views=1)
    assert (result.recipes, result.shown) == (("crop", "gentle"), 13)
    assert "views: 0 before, 1 now\naugmentation: gentle\n" in str(result)
    equals_a_new_one(path, data, 1, augment="gentle")


def test_an_unknown_recipe_changes_nothing(data: Path, path: Path) -> None:
    with pytest.raises(SpecError, match="augment is 'mixup'"):
        update(path, data, augment="mixup")
    assert FeatureCache.open(path).spec.views == 2


def test_a_request_for_another_recipe_names_the_update(data: Path, path: Path) -> None:
    with pytest.raises(CacheMismatchError) as error:
        extract(data, path, backbone=toy_backbone(), views=1, augment="crop")
    assert str(error.value).endswith(
        f"featcache update {path} {data} --views 1 --augment crop`; the clean ones are kept."
    )


@pytest.mark.parametrize("augment", [None, "tutorial"])
def test_a_request_for_views_of_a_cache_without_names_the_update_with_the_recipe(
    augment: str | None, data: Path, tmp_path: Path, toy: type[Counting]
) -> None:
    """`update` has no recipe of before to go by."""
    path = tmp_path / "clean.h5"
    extract(data, path, backbone=toy_backbone())
    with pytest.raises(CacheMismatchError) as error:
        extract(data, path, backbone=toy_backbone(), views=1, augment=augment)
    assert str(error.value) == (
        f"{path} was made with views=0, you asked for 1. Extract these views with `featcache update {path} {data} "
        f"--views 1 --augment {augment or 'gentle'}`; the clean ones are kept."
    )


def test_an_up_to_date_cache_is_left_alone(data: Path, path: Path, toy: type[Counting]) -> None:
    before = path.stat()
    touch(data)
    result = update(path, data)
    assert result.nothing
    assert str(result) == f"{path} is up to date"
    assert (path.stat().st_ino, path.stat().st_mtime_ns) == (before.st_ino, before.st_mtime_ns)


def test_an_unreadable_image_is_no_reason_to_write_the_cache_again(data: Path, path: Path, toy: type[Counting]) -> None:
    break_one(data)
    update(path, data)
    result = update(path, data)
    assert (result.nothing, len(result.skipped)) == (True, 1)


def test_damaged_rows_are_extracted_again(data: Path, path: Path, toy: type[Counting]) -> None:
    cache = FeatureCache.open(path)
    region = cache.layout.layers["penultimate"]
    with path.open("r+b") as file:
        file.seek(region.offset + 4 * region.stride)
        file.write(b"\x00\x12")
    assert not verify(path).ok
    result = update(path, data)
    assert (result.damaged, result.shown, result.carried) == ([cache.samples.ids[4]], 3, 17)
    equals_a_new_one(path, data)


def test_a_dry_run_changes_nothing_and_says_all(data: Path, path: Path, toy: type[Counting]) -> None:
    before = path.read_bytes()
    add(data)
    rename(data)
    result = update(path, data, dry_run=True)
    assert path.read_bytes() == before
    assert not partial_path(path).exists()
    assert (result.carried, result.extracted, result.shown) == (18, 1, 3)
    assert result.estimate is not None
    assert (result.estimate.images, result.estimate.views) == (1, 3)
    assert result.estimate.seconds > 0
    assert result.estimate.size_bytes > path.stat().st_size - 100_000
    text = str(result)
    assert "1 added (for example train/bees/new.png)" in text
    assert "18 images would be carried over, 1 would be extracted (3 views)" in text
    assert json.loads(json.dumps(result.to_dict()))["dry_run"] is True


def stop_after(blocks: int) -> Callable[[str, int, int], None]:
    """Progress that ends the run after some blocks."""
    told: list[int] = []

    def stop(what: str, done: int, total: int) -> None:
        if what == "extract":
            told.append(done)
            if len(told) == blocks:
                raise KeyboardInterrupt

    return stop


def test_the_old_cache_stays_until_the_new_one_is_whole(
    data: Path, path: Path, toy: type[Counting], monkeypatch: pytest.MonkeyPatch
) -> None:
    before = path.read_bytes()
    for number in range(6):
        random_image(80 + number).save(data / f"train/bees/new{number}.png")
    with pytest.raises(KeyboardInterrupt):
        update(path, data, batch_size=1, progress=stop_after(3))
    assert path.read_bytes() == before
    assert partial_path(path).exists()
    assert FeatureCache.open(path).complete
    update(path, data)
    assert toy.shown == 3 * 3  # three images were there already
    equals_a_new_one(path, data)


def test_other_weights_are_refused(data: Path, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Other(ToyNet):
        def __init__(self) -> None:
            super().__init__()
            self.norm.running_mean = self.norm.running_mean + 1

    add(data)
    monkeypatch.setattr(backbone_loading, "load_backbone", lambda *_, **__: Backbone(Other(), name="toy"))
    with pytest.raises(CacheMismatchError, match=r"was made with weights .*Give the right file with --weights"):
        update(path, data)


def mark(path: Path, what: str) -> str:
    """Change a mark of what is there of row 4, or of the whole; returns what is said of it."""
    layout = FeatureCache.open(path).layout
    offset, value, said = {
        "fewer views": (layout.done.offset + 4 * 2, b"\x02", "rows are missing"),
        "more views": (layout.done.offset + 4 * 2, b"\x07", "it has more views than there can be"),
        "skipped": (layout.skipped.offset + 4 * layout.skipped.stride, b"x", "rows are there and skipped at once"),
        "owner": (layout.owner_offset, b"process 7", "its header names a writer"),
    }[what]
    with path.open("r+b") as file:
        file.seek(offset)
        file.write(value)
    return said


@pytest.mark.parametrize("how", ["update", "repair"])
@pytest.mark.parametrize("what", ["fewer views", "more views", "skipped", "owner"])
def test_marks_that_contradict_each_other_are_mended(
    what: str, how: str, data: Path, path: Path, toy: type[Counting]
) -> None:
    name = FeatureCache.open(path).samples.ids[4]
    said = mark(path, what)
    with pytest.raises(CacheDamagedError) as caught:
        FeatureCache.open(path)
    assert str(caught.value) == f"{path} is damaged: {said}. Mend it with `featcache verify {path} --repair DATA`."
    found = verify(path)
    assert (found.ok, found.problem, found.damaged) == (False, said, [] if what == "owner" else [name])
    result = {"update": update, "repair": repair}[how](path, data)
    assert (result.problem, result.shown, toy.shown) == (said, *([0, 0] if what == "owner" else [3, 3]))
    equals_a_new_one(path, data)


def damage(path: Path, row: int) -> None:
    region = FeatureCache.open(path).layout.layers["penultimate"]
    with path.open("r+b") as file:
        file.seek(region.offset + row * region.stride)
        file.write(b"\x00\x12")


def test_a_repair_extracts_the_damaged_rows_and_changes_no_others(
    data: Path, path: Path, toy: type[Counting], tmp_path: Path
) -> None:
    before = path.read_bytes()
    damage(path, 4)
    for edit in (add, change, remove, rename, relabel):
        edit(data)
    result = repair(path, data)
    assert (result.damaged, result.carried, result.shown, toy.shown) == (["train/ants/004.png"], 17, 3, 3)
    layout = FeatureCache.open(path).layout
    for region in (layout.layers["penultimate"], layout.done, layout.crc32, layout.skipped):
        rows = slice(region.offset, region.offset + region.size_bytes)  # beside them HDF5 notes the second of creation
        assert path.read_bytes()[rows] == before[rows]
    assert verify(path).ok
    assert repair(path, data).nothing


def test_a_repair_finds_an_image_that_was_renamed_and_keeps_its_old_name(
    data: Path, path: Path, toy: type[Counting]
) -> None:
    damage(path, 2)
    rename(data)
    relabel(data)
    assert repair(path, data).shown == 3
    assert FeatureCache.open(path).samples.ids[2] == "train/ants/002.png"
    assert verify(path).ok


def test_a_repair_without_the_image_changes_nothing(data: Path, path: Path, toy: type[Counting]) -> None:
    damage(path, 1)
    damaged = path.read_bytes()
    remove(data)
    with pytest.raises(CacheDamagedError) as caught:
        repair(path, data)
    assert str(caught.value) == (
        f"1 damaged images of {path} are not in {data} (for example train/ants/001.png); nothing was changed. "
        "Put them there, or drop them with `featcache update`."
    )
    assert path.read_bytes() == damaged
    assert update(path, data).carried == 17
    equals_a_new_one(path, data)


def test_skipped_images_are_tried_again_when_asked(data: Path, path: Path, toy: type[Counting]) -> None:
    break_one(data)
    update(path, data, max_pixels=10**6)
    assert update(path, data).nothing
    with pytest.raises(UnreadableImageError, match="not an image that Pillow can identify"):
        update(path, data, strict=True)
    result = update(path, data, retry=True)
    assert (result.extracted, len(result.skipped), result.cache is not None) == (0, 1, True)
    with pytest.raises(UnreadableImageError, match="not an image that Pillow can identify"):
        extract(data, path, backbone=toy_backbone(), views=2, strict=True)


def test_images_too_large_at_first_are_there_after_a_retry(tmp_path: Path, toy: type[Counting]) -> None:
    data, path = write_folder(tmp_path / "data", COUNTS), tmp_path / "a.h5"
    random_image(5, 60, 60).save(data / "train/ants/large.png")
    assert len(extract(data, path, backbone=toy_backbone(), views=2, max_pixels=3000).skipped) == 1
    assert update(path, data, retry=True).shown == 3
    equals_a_new_one(path, data)


def test_an_update_names_conflicts(data: Path, path: Path, toy: type[Counting]) -> None:
    shutil.copy(data / "train/ants/000.png", data / "train/bees/same.png")
    result = update(path, data)
    assert result.conflicts == [("train/ants/000.png", "train/bees/same.png")]
    assert "conflict: train/ants/000.png and train/bees/same.png are one image with two labels" in str(result)
    assert result.to_dict()["conflicts"] == [["train/ants/000.png", "train/bees/same.png"]]


def test_a_leak_is_allowed_when_asked(data: Path, path: Path, toy: type[Counting]) -> None:
    shutil.copy(data / "train/ants/000.png", data / "val/ants/same.png")
    with pytest.raises(DataLayoutError, match="--allow-leak"):
        update(path, data)
    assert update(path, data, allow_leak=True).carried == 19


def test_two_updates_at_once_leave_right_rows(
    data: Path, path: Path, toy: type[Counting], monkeypatch: pytest.MonkeyPatch
) -> None:
    relabel(data)
    find = updating.match_rows

    def overtaken(*arguments: Any) -> Any:
        monkeypatch.setattr(updating, "match_rows", find)
        update(path, data)
        return find(*arguments)

    monkeypatch.setattr(updating, "match_rows", overtaken)
    update(path, data)
    equals_a_new_one(path, data)


@pytest.mark.parametrize("then", ["extract", "update"])
def test_an_unfinished_run_of_other_images_is_taken_over(
    then: str, data: Path, path: Path, toy: type[Counting]
) -> None:
    """Killed in the middle; then images come, go and change."""
    if then == "extract":
        path.unlink()
        run: Callable[..., Any] = lambda **more: extract(data, path, backbone=counting(), views=2, **more)  # noqa: E731
    else:
        run = lambda **more: update(path, data, views=2, **more)  # noqa: E731
        for number in range(10):
            random_image(200 + number).save(data / f"train/bees/n{number}.png")
    with pytest.raises(KeyboardInterrupt):
        run(batch_size=3, progress=stop_after(8))
    there = int(np.count_nonzero(FeatureCache.open(partial_path(path), partial=True).done))
    assert there > 0
    remove(data)
    add(data)
    Counting.shown = 0
    result = run()
    wanted = 13 * 3 + 5 if then == "extract" else 11 * 3
    assert 0 < toy.shown - (then == "extract") < wanted - 3 * 6
    assert result.cache.complete
    assert not Path(f"{path}.partial.old").exists()
    equals_a_new_one(path, data)


def counting() -> Counting:
    options = {name: getattr(toy_backbone(), name) for name in ("image_size", "resize_size", "mean", "std", "name")}
    return Counting(ToyNet(), **options)


def test_a_run_of_other_images_that_is_under_way_is_not_taken_over(data: Path, path: Path) -> None:
    shutil.move(path, partial_path(path))
    add(data)
    with partial_path(path).open("r+b") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        with pytest.raises(CacheBusyError):
            extract(data, path, backbone=toy_backbone(), views=2)
    assert extract(data, path, backbone=counting(), views=2).extracted == 1


def test_an_unfinished_cache_is_not_updated(data: Path, path: Path) -> None:
    shutil.move(path, partial_path(path))
    with pytest.raises(CacheIncompleteError):
        update(path, data)


def test_a_drawn_split_is_drawn_as_it_was(tmp_path: Path, toy: type[Counting]) -> None:
    data = write_folder(tmp_path / "data", {"ants": 20, "bees": 20})
    extract(data, tmp_path / "a.h5", backbone=toy_backbone(), views=2, val_fraction=0.3, split_seed=5)
    assert update(tmp_path / "a.h5", data).nothing
    random_image(77).save(data / "ants/new.png")
    result = update(tmp_path / "a.h5", data)
    assert result.carried == 40
    assert len(result.changes.get("in another split", [])) <= 2  # one more image moves the share, not the draw


@pytest.fixture
def unreadable(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Lets the system refuse to open the files whose path ends so. (Root may read whatever its mode is.)"""
    import featcache._utils.regular_files

    opened = featcache._utils.regular_files.os.open

    def refuse(end: str) -> None:
        def guarded(path: Any, *arguments: Any, **more: Any) -> int:
            if os.fspath(path).endswith(end):
                raise PermissionError(13, "Permission denied", os.fspath(path))
            return opened(path, *arguments, **more)

        monkeypatch.setattr(featcache._utils.regular_files.os, "open", guarded)

    return refuse


def test_images_that_cannot_be_read_for_a_moment_keep_their_features(
    data: Path, path: Path, toy: type[Counting], unreadable: Callable[[str], None]
) -> None:
    before = path.read_bytes()
    unreadable("ants/000.png")
    notes: list[str] = []
    assert extract(data, path, backbone=toy_backbone(), views=2, on_note=notes.append).extracted == 0
    said = "2 images cannot be read now (for example train/ants/000.png): their features are kept"
    assert notes[-1] == said
    found = update(path, data)
    assert found.nothing
    assert found.unread == ["train/ants/000.png", "val/ants/000.png"]
    assert str(found) == f"{path} is up to date\n{said}"
    assert path.read_bytes() == before
    add(data)
    found = update(path, data)
    assert (found.changes, found.extracted, found.skipped) == ({"added": ["train/bees/new.png"]}, 1, [])
    assert said in str(found)
    unreadable("nothing")
    equals_a_new_one(path, data)


def test_more_views_of_images_that_cannot_be_read_are_an_error_and_cost_nothing(
    data: Path, path: Path, toy: type[Counting], unreadable: Callable[[str], None]
) -> None:
    unreadable("ants/000.png")
    with pytest.raises(UnreadableImageError) as refused:
        update(path, data, views=4)
    assert str(refused.value) == (
        "1 images that have features need more views and cannot be read now, for example "
        f"{data}/train/ants/000.png: Permission denied. What was extracted is kept. Make them readable, or remove "
        "them from the data, then run the same command again."
    )
    assert FeatureCache.open(path).spec.views == 2
    unreadable("nothing")
    update(path, data, views=4)
    assert Counting.shown <= 2  # nothing but what was missing
    equals_a_new_one(path, data, views=4)


def test_a_wrong_folder_drops_nothing_without_a_question(
    data: Path, path: Path, toy: type[Counting], tmp_path: Path
) -> None:
    other, before = write_folder(tmp_path / "other", COUNTS, seed=9), path.read_bytes()
    lost = "18 of 18 images with features (100 %), for example train/ants/000.png"
    assert f"{lost}, would be dropped: this needs --yes" in str(update(path, other, dry_run=True))
    with pytest.raises(CacheMismatchError) as refused:
        update(path, other)
    assert str(refused.value) == (
        f"{path} is unchanged: {lost}, are not in {other}. Is it the right folder, and is every disk there? Check "
        f"with --dry-run; --yes drops their features."
    )
    asked: list[str] = []
    with pytest.raises(CacheMismatchError):
        update(path, other, allow_loss=lambda question: bool(asked.append(question)))
    assert asked == [f"{lost}, are not in {other}. Drop their features?"]
    assert path.read_bytes() == before
    update(path, other, allow_loss=True)
    equals_a_new_one(path, other)


def test_an_unfinished_extraction_of_other_images_is_not_replaced(
    data: Path, path: Path, toy: type[Counting], tmp_path: Path
) -> None:
    """Neither by other images, nor by a second run of yet others after a kill while rows were carried over."""
    path.unlink()
    run = lambda where, **more: extract(where, path, backbone=counting(), views=2, batch_size=3, **more)  # noqa: E731
    with pytest.raises(KeyboardInterrupt):
        run(data, progress=stop_after(8))
    at, before = partial_path(path), partial_path(path).read_bytes()
    other = write_folder(tmp_path / "other", COUNTS, seed=9)
    with pytest.raises(CacheMismatchError, match="is an unfinished extraction of other images"):
        run(other)
    assert at.read_bytes() == before
    remove(data)
    notes: list[str] = []
    run(data, on_note=notes.append)
    (said,) = [note for note in notes if note.startswith("of an unfinished")]
    assert re.fullmatch(r"of an unfinished run, 1 of \d+ images with features \(\d+ %\), for example "
                        r"train/ants/001\.png, are not among the images any more: dropped", said)  # fmt: skip
    equals_a_new_one(path, data)


def test_a_kill_while_rows_are_carried_over_and_then_other_images_lose_none(
    data: Path, path: Path, toy: type[Counting], monkeypatch: pytest.MonkeyPatch
) -> None:
    path.unlink()
    run = lambda **more: extract(data, path, backbone=counting(), views=2, batch_size=3, **more)  # noqa: E731
    with pytest.raises(KeyboardInterrupt):
        run(progress=stop_after(12))
    there = int(np.count_nonzero(FeatureCache.open(partial_path(path), partial=True).done))
    carry = reuse.copy_rows
    monkeypatch.setattr(reuse, "copy_rows", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    for name in ("more", "most"):
        random_image(len(name) + 300 + ord(name[2])).save(data / f"train/bees/{name}.png")
        with pytest.raises(KeyboardInterrupt):
            run()
    monkeypatch.setattr(reuse, "copy_rows", carry)
    assert sorted(file.name for file in path.parent.glob("*.old*")) == ["a.h5.partial.old", "a.h5.partial.old2"]
    found = run()
    assert found.extracted == 18 + 2 - there
    assert list(path.parent.glob("a.h5.*")) == []
    equals_a_new_one(path, data)


def test_a_file_that_came_meanwhile_is_not_replaced(data: Path, path: Path) -> None:
    finished = path.read_bytes()
    path.unlink()
    with pytest.raises(KeyboardInterrupt):
        extract(data, path, backbone=toy_backbone(), views=2, batch_size=3, progress=stop_after(8))

    def put(what: str, *_: object) -> None:
        if what == "extract":
            path.write_bytes(finished)

    with pytest.raises(CacheBusyError, match="another process has put another file"):
        extract(data, path, backbone=toy_backbone(), views=2, progress=put)
    assert path.read_bytes() == finished
    assert partial_path(path).exists()


def test_a_link_stays_a_link(data: Path, path: Path, toy: type[Counting], tmp_path: Path) -> None:
    real = tmp_path / "disk/b.h5"
    real.parent.mkdir()
    path.rename(real)
    path.symlink_to(real)
    add(data)
    assert update(path, data).extracted == 1
    assert path.is_symlink()
    equals_a_new_one(real, data)
    assert sorted(file.name for file in real.parent.iterdir()) == ["b.h5"]


def test_one_bar_shows_every_step(
    path: Path, data: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    bars = []

    class Bar(progress_bar._Bar):
        def __init__(self) -> None:
            super().__init__()
            bars.append(self)

    monkeypatch.setattr(progress_bar, "_Bar", Bar)
    add(data)
    assert update(path, data, backbone=toy_backbone(), progress=True).extracted == 1
    assert len(bars) == 1
    lines = capfd.readouterr().err.replace("\r", "\n").splitlines()
    finished = [line.partition(":")[0] for line in lines if ": 100%" in line]
    assert list(dict.fromkeys(finished)) == ["hash", "verify", "extract"]
