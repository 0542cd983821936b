"""verify and diff: every damaged row and every changed image by name, and nothing else."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest

from caches import SPEC, finished
from commands import COUNTS, toy_cache, write_folder
from featcache.cache.feature_cache import FeatureCache
from featcache.cache.verify import diff, verify
from toys import random_image


def flip(path: Path, offset: int) -> None:
    with path.open("r+b") as file:
        file.seek(offset)
        value = file.read(1)[0]
        file.seek(offset)
        file.write(bytes([value ^ 4]))


@pytest.mark.parametrize("row", [0, 5, 9])
@pytest.mark.parametrize("what", ["penultimate", "crc32", "skipped"])
def test_a_damaged_row_is_named(what: str, row: int, tmp_path: Path) -> None:
    cache = finished(tmp_path / "a.h5")
    assert verify(cache.path).ok
    region = cache.layout.layers[what] if what == "penultimate" else getattr(cache.layout, what)
    flip(cache.path, region.offset + row * region.stride + region.stride // 2)
    found = verify(cache.path)
    assert (found.ok, found.rows, found.damaged) == (False, 10, [cache.samples.ids[row]])
    assert f"damaged {cache.samples.ids[row]}" in str(found)
    assert json.loads(json.dumps(found.to_dict()))["damaged"] == [cache.samples.ids[row]]


def test_marks_that_contradict_each_other_are_named(tmp_path: Path) -> None:
    cache = finished(tmp_path / "a.h5")
    flip(cache.path, cache.layout.done.offset)  # 3 views become 7
    found = verify(cache.path)
    assert (found.ok, found.damaged, found.problem) == (False, ["train/0.png"], "it has more views than there can be")
    assert "damaged: it has more views than there can be\nExtract the damaged rows again with" in str(found)


def test_progress_counts_the_rows(tmp_path: Path) -> None:
    told: list[tuple[str, int, int]] = []
    verify(finished(tmp_path / "a.h5").path, progress=lambda *now: told.append(now))
    assert told[-1] == ("verify", 10, 10)


def test_images_that_changed_vanished_or_appeared_are_named(tmp_path: Path) -> None:
    data = write_folder(tmp_path / "data", COUNTS)
    path = toy_cache(data, tmp_path / "a.h5")
    assert verify(path, data).changes == {}
    assert "samples: as they were" in str(verify(path, data))
    random_image(77).save(data / "train/ants/000.png")
    random_image(78).save(data / "train/bees/new.png")
    (data / "val/bees/001.png").unlink()
    (data / "train/ants/003.png").rename(data / "train/ants/renamed.png")
    (data / "train/ants/004.png").rename(data / "train/bees/moved.png")
    found = verify(path, data)
    assert not found.ok
    assert found.damaged == []
    assert found.changes == {
        "added": ["train/bees/new.png"],
        "removed": ["val/bees/001.png"],
        "renamed": ["train/ants/003.png to train/ants/renamed.png", "train/ants/004.png to train/bees/moved.png"],
        "changed in content": ["train/ants/000.png"],
    }
    assert "added: train/bees/new.png" in str(found)
    assert diff(path, data).changes == found.changes


def test_diff_of_caches_names_fields_and_images(tmp_path: Path) -> None:
    data = write_folder(tmp_path / "data", COUNTS)
    one, two = toy_cache(data, tmp_path / "1.h5", views=2), toy_cache(data, tmp_path / "2.h5", views=3)
    assert diff(one, one).same
    assert str(diff(one, one)) == f"{one} and {one} hold the same"
    (data / "val/bees/001.png").unlink()
    three = toy_cache(data, tmp_path / "3.h5", views=2)
    found = diff(one, two)
    assert (found.same, found.spec, found.changes) == (False, [("views", 2, 3)], {})
    assert str(found) == f"views: 2 in {one}, 3 in {two}"
    assert diff(one, three).changes == {"removed": ["val/bees/001.png"]}
    assert json.loads(json.dumps(found.to_dict())) == {
        "a": str(one), "b": str(two), "same": False, "spec": {"views": [2, 3]}, "changes": {}, "ignored": {}
    }  # fmt: skip


def test_every_field_of_a_spec_is_compared() -> None:
    other = dataclasses.replace(SPEC, dtype="float32", precision="bf16")
    assert [name for name, _, _ in SPEC.differences(other)] == ["precision", "dtype"]


def test_the_rows_of_a_large_cache_are_read_in_blocks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("featcache.cache.checksums._BLOCK_BYTES", 1)
    cache = finished(tmp_path / "a.h5", {2: "broken"})
    assert verify(cache.path).ok
    assert np.count_nonzero(FeatureCache.open(cache.path).done) == 9


def test_files_that_are_passed_over_are_said(split_folder: Path, tmp_path: Path) -> None:
    toy_cache(split_folder, tmp_path / "c.h5")
    (split_folder / "train/ants/notes.txt").write_text("x")
    (split_folder / "@eaDir").mkdir()
    compared, verified = diff(tmp_path / "c.h5", split_folder), verify(tmp_path / "c.h5", split_folder)
    assert (compared.same, verified.ok) == (True, True)
    for found in (compared, verified):
        lines = str(found).splitlines()
        assert "ignored 1 file: not an image (.txt)" in lines
        assert any(line.startswith("ignored 1 folder: @eaDir") for line in lines)
