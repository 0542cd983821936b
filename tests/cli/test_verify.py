from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

import featcache
from commands import as_json, done, featcache_cli, refused, write_folder
from featcache.cache.feature_cache import FeatureCache
from featcache_cli import options
from toys import random_image


def damaged(path: Path, row: int) -> str:
    cache = FeatureCache.open(path)
    region = cache.layout.layers["penultimate"]
    with path.open("r+b") as file:
        file.seek(region.offset + row * region.stride)
        file.write(b"\x12\x34\x56")
    return cache.samples.ids[row]


@pytest.fixture
def copy(real_cache: Path, tmp_path: Path) -> Path:
    return Path(shutil.copy(real_cache, tmp_path / "copy.h5"))


def test_a_whole_cache_is_said_to_be(copy: Path, data: Path) -> None:
    assert done("verify", copy) == f"{copy}: 18 rows read, every row has its checksum\n"
    found = as_json("verify", copy, "--images", data)
    assert found.pop("seconds")["wall"] > 0
    assert found == {
        "cache": str(copy), "ok": True, "rows": 18, "damaged": [], "problem": "", "changes": {},
        "ignored": {}
    }  # fmt: skip


def test_damage_is_named_and_repaired(copy: Path, data: Path, real_cache: Path) -> None:
    name = damaged(copy, 3)
    result = featcache_cli("verify", copy)
    assert result.exit_code == 1
    assert f"damaged {name}\n" in result.stdout
    assert f"`featcache verify {copy} --repair DATA`" in result.stdout
    assert "17 images carried over, 1 extracted (3 views)" in done("verify", copy, "--repair", data)
    assert done("verify", copy)
    assert (FeatureCache.open(copy).features().x == FeatureCache.open(real_cache).features().x).all()


def test_images_that_differ_are_named(copy: Path, data: Path, tmp_path: Path) -> None:
    other = Path(shutil.copytree(data, tmp_path / "other"))
    random_image(99).save(other / "train/ants/new.png")
    for command in (("verify", copy, "--images", other), ("diff", copy, other)):
        result = featcache_cli(*command)
        assert result.exit_code == 1
        assert "added: train/ants/new.png\n" in result.stdout


def test_diff_of_caches(copy: Path, cache: Path) -> None:
    assert done("diff", copy, copy) == f"{copy} and {copy} hold the same\n"
    result = featcache_cli("diff", copy, cache)
    assert result.exit_code == 1
    assert f"backbone: mobilenet_v3_small in {copy}, toy in {cache}\n" in result.stdout


def test_update_extracts_what_is_new(copy: Path, data: Path, tmp_path: Path) -> None:
    other = Path(shutil.copytree(data, tmp_path / "other"))
    random_image(99).save(other / "train/ants/new.png")
    before = copy.read_bytes()
    planned = done("update", copy, other, "--dry-run")
    assert "18 images would be carried over, 1 would be extracted (3 views)" in planned
    assert "(measured on " in planned
    assert copy.read_bytes() == before
    found = as_json("update", copy, other, "--views", 3)
    assert (found["carried"], found["extracted"], found["shown"], found["views"]) == (18, 14, 13 + 4, [2, 3])
    assert done("verify", copy, "--images", other)
    assert done("update", copy, other) == f"{copy} is up to date\n"


def test_update_asks_at_a_terminal_alone_before_it_drops_many(
    copy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other, before = write_folder(tmp_path / "other", seed=9), copy.read_bytes()
    for line in (["update", copy, other], ["update", copy, other, "--json"]):
        assert featcache_cli(*line).exit_code == 1
    asked: list[str] = []

    def answer(question: str) -> bool:
        asked.append(question)
        return len(asked) > 1

    monkeypatch.setattr(options, "ask", answer)
    assert "--yes drops their features." in refused("update", copy, other)
    assert copy.read_bytes() == before
    assert "0 images carried over, 18 extracted" in done("update", copy, other)
    said = f"18 of 18 images with features (100 %), for example train/ants/000.png, are not in {other}."
    assert asked == [f"{said} Drop their features?"] * 2


def test_every_option_of_update_reaches_the_library(monkeypatch: pytest.MonkeyPatch) -> None:
    got: dict[str, Any] = {}
    monkeypatch.setitem(
        vars(featcache), "update", lambda cache, data, **given: got.update(given, cache=cache, data=data)
    )
    done("update", "c.h5", "photos", "--views", 7, "--weights", "w.pth", "--dry-run", "--batch-size", 8, "--workers", 3,
         "--device", "cpu", "--deterministic", "--engine", "pytorch", "--max-pixels", 9, "--strict",
         "--retry", "--allow-leak", "--yes")  # fmt: skip
    assert callable(got.pop("progress"))
    assert callable(got.pop("on_note"))
    assert got == {"cache": "c.h5", "data": "photos", "views": 7, "weights": "w.pth", "dry_run": True, "batch_size": 8,
                   "workers": 3, "device": "cpu", "deterministic": True,
                   "engine": "pytorch", "max_pixels": 9, "strict": True,
                   "retry": True, "allow_leak": True, "label_column": None, "text_column": None,
                   "skip_missing": None,
                   "backbone": None, "augment": None, "allow_loss": True}  # fmt: skip


def test_other_files_are_refused(tmp_path: Path, data: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    for command in ("verify", "update", "diff"):
        arguments = (data,) if command != "verify" else ()
        assert "is not a feature cache" in refused(command, tmp_path / "notes.txt", *arguments)


def test_looking_and_mending_at_once_is_refused(copy: Path, data: Path) -> None:
    result = featcache_cli("verify", copy, "--images", data, "--repair", data)
    assert result.exit_code == 2
    assert "--images and --repair exclude each other: give one of them" in result.stderr


def test_a_repair_from_the_wrong_folder_changes_nothing(copy: Path, tmp_path: Path) -> None:
    other = write_folder(tmp_path / "other", {"train/ants": 2, "train/bees": 2, "val/ants": 1, "val/bees": 1})
    for number, file in enumerate(sorted(other.rglob("*.png"))):
        random_image(500 + number).save(file)
    damaged(copy, 3)
    before = copy.read_bytes()
    result = featcache_cli("verify", copy, "--repair", other)
    assert result.exit_code == 1
    assert "1 damaged images of" in result.stderr
    assert "nothing was changed" in result.stderr
    assert copy.read_bytes() == before
