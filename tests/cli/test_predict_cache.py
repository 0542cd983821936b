"""`featcache predict HEAD CACHE`: the rows, formats and JSON of predicting the pictures, without the network."""

from __future__ import annotations

import csv
import json
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from commands import SMALL, as_json, done, featcache_cli, refused
from featcache.cache.feature_cache import FeatureCache
from featcache.models.feature_classifier import FeatureClassifier

TOLERANCE = 2e-3  # of probabilities, by the rounding of features to float16


@pytest.fixture(scope="module")
def head(data: Path, real_cache: Path) -> Path:
    done("fit-head", real_cache, "-o", data.parent / "cache-head")
    return data.parent / "cache-head"


def rounded(prediction: dict[str, Any]) -> dict[str, Any]:
    return {**prediction, "probability": None, "top": [one["label"] for one in prediction["top"]]}


def test_the_rows_are_those_of_the_pictures(head: Path, data: Path, real_cache: Path) -> None:
    cached = as_json("predict", head, real_cache)
    live = as_json("predict", head, data)
    by_path = {one["path"]: one for one in live["predictions"]}
    assert len(cached["predictions"]) == len(by_path) == 18
    for one in cached["predictions"]:
        other = by_path[str(data / one["path"])]
        assert rounded({**one, "path": ""}) == rounded({**other, "path": ""})
        assert one["probability"] == pytest.approx(other["probability"], abs=TOLERANCE)
    assert (cached["cache"], cached["split"], cached["images"]) == (str(real_cache), "all", 18)
    assert {key for key in live if key not in cached} == set()


def test_every_format_says_what_the_python_says(head: Path, real_cache: Path, tmp_path: Path) -> None:
    direct = FeatureClassifier.load(head).predict(real_cache, split="val", top=1)
    line = ("predict", head, real_cache, "--split", "val", "--top", 1)
    assert done(*line).splitlines() == [str(one) for one in direct]
    records = [one.to_dict() for one in direct]
    assert as_json(*line)["predictions"] == records
    assert [json.loads(one) for one in done(*line, "--format", "jsonl").splitlines()] == records
    assert done(*line, "--format", "csv", "-o", tmp_path / "out.csv") == ""
    with (tmp_path / "out.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [[row["path"], row["label"], row["probability"], row["error"], row["remark"]] for row in rows] == [
        [one.path, one.label, f"{one.probability:.6f}", "", ""] for one in direct
    ]
    assert [one.path for one in direct] == [*FeatureCache.open(real_cache).features("val").samples.ids]


def test_no_network_is_loaded(head: Path, real_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("featcache.models.load.PIPELINES", None)
    assert len(done("predict", head, real_cache).splitlines()) == 18


def test_a_skipped_picture_has_its_line_and_counts_as_unreadable(head: Path, data: Path, tmp_path: Path) -> None:
    photos = Path(shutil.copytree(data, tmp_path / "photos"))
    (photos / "val/ants/bad.png").write_bytes(b"")
    done("extract", photos, "-o", tmp_path / "c.h5", "--views", 0, "--precision", "fp32", *SMALL)
    result = featcache_cli("predict", head, tmp_path / "c.h5", "--split", "val")
    assert (result.exit_code, len(result.stdout.splitlines())) == (0, 6)
    assert "val/ants/bad.png\tunreadable: the file is empty (0 bytes)" in result.stdout.splitlines()
    assert result.stderr.splitlines()[-2:] == [
        "1 of 6 images could not be read:",
        "  val/ants/bad.png: the file is empty (0 bytes)",
    ]


def test_with_its_data_the_lines_are_those_of_the_pictures(head: Path, data: Path, real_cache: Path) -> None:
    for form in ("csv", "jsonl", "text"):
        cached = done("predict", head, real_cache, "--data", data, "--format", form, "--split", "val").splitlines()
        live = done("predict", head, data / "val", "--format", form).splitlines()
        assert len(cached) == len(live)
        for one, other in zip(cached, live, strict=True):
            numbers = [re.findall(r"0\.\d+", line) for line in (one, other)]
            assert re.sub(r"0\.\d+", "P", one) == re.sub(r"0\.\d+", "P", other)
            np.testing.assert_allclose(*np.array(numbers, float), atol=TOLERANCE)


def test_its_files_are_sorted_and_changed_ones_are_not(
    head: Path, data: Path, real_cache: Path, tmp_path: Path
) -> None:
    photos = Path(shutil.copytree(data, tmp_path / "photos"))
    (photos / "val/ants/000.png").write_bytes((photos / "val/ants/001.png").read_bytes())
    (photos / "val/bees/001.png").unlink()
    line = ("predict", head, real_cache, "--data", photos, "--split", "val", "--move-to", tmp_path / "out", "--json")
    found = {one["path"]: one for one in json.loads(done(*line))["predictions"]}
    errors = {Path(path).relative_to(photos).as_posix(): one["error"] for path, one in found.items() if one["error"]}
    assert errors == {"val/ants/000.png": "its bytes are not those of the cache",
                      "val/bees/001.png": "No such file or directory"}  # fmt: skip
    moved = list((tmp_path / "out").rglob("*.png"))
    assert len(moved) == 3
    assert {str(path) for path in moved} == {to for one in found.values() for to in one["moved_to"] or ()}
    assert (photos / "val/ants/000.png").is_file()
    shutil.make_archive(str(tmp_path / "photos"), "tar", photos)
    assert "need local files" in refused(*line[:3], "--data", tmp_path / "photos.tar", "--link-to", tmp_path / "o",
                                         status=2)  # fmt: skip
    assert f"{tmp_path / 'gone'} does not exist" in refused(*line[:3], "--data", tmp_path / "gone")


def test_a_cache_among_pictures_is_not_predicted_as_one(head: Path, data: Path, real_cache: Path) -> None:
    image = data / "val/ants/000.png"
    result = featcache_cli("predict", head, image, real_cache, "--json")
    found = {one["path"]: one["error"] for one in json.loads(result.stdout)["predictions"]}
    reason = "a cache or another HDF5 file; a cache is predicted without other samples beside it"
    assert (result.exit_code, found) == (0, {str(image): None, str(real_cache): reason})
    twice = refused("predict", head, real_cache, real_cache)  # several caches are for heads on several networks
    assert "takes features of one network (mobilenet_v3_small), and 2 caches were given: " in twice


def test_what_is_no_cache_is_refused(head: Path, data: Path, tmp_path: Path) -> None:
    assert refused("predict", head, tmp_path / "gone.h5").startswith(f"{tmp_path / 'gone.h5'} does not exist. Make it ")
    (tmp_path / "keras.h5").write_bytes(b"\x89HDF\r\n\x1a\n")
    assert refused("predict", head, tmp_path / "keras.h5").startswith(f"{tmp_path / 'keras.h5'} is not a feature cache")
    (tmp_path / "folder.h5").mkdir()
    assert refused("predict", head, tmp_path / "folder.h5").startswith(f"{tmp_path / 'folder.h5'} names no image")


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["--device", "cpu"], "--device is not for a cache: neither samples are read nor a network runs"),
        (["--device", "auto", "--null"], "--null and --device are not for a cache"),
        (["--weights", "w.pth", "--text-column", "a"], "--text-column and --weights are not for a cache"),
        (["--move-to", "sorted"], "--move-to and --link-to need --data: the files that the cache was made from"),
        (["--link-to", "sorted", "--dry-run"], "--move-to and --link-to need --data"),
        (["--split", "vla"], "'vla' is not one of 'all', 'train', 'val', 'test',"),
    ],
)
def test_options_for_pictures_are_refused(given: list[str], message: str, head: Path, real_cache: Path) -> None:
    assert message in refused("predict", head, real_cache, *given, status=2)


def test_a_split_is_one_of_a_cache(head: Path, data: Path, real_cache: Path) -> None:
    assert refused("predict", head, data / "val", "--split", "val", status=2) == (
        "--split and --data are for a cache: give one, and nothing else"
    )
    assert refused("predict", head, real_cache, "--split", "test") == (
        f"{real_cache} has no images of test; it has 13 train, 5 val."
    )


def test_views_that_are_not_cached_are_refused(head: Path, real_cache: Path) -> None:
    assert len(done("predict", head, real_cache, "--split", "train", "--tta", 2).splitlines()) == 13
    assert "but" in refused("predict", head, real_cache, "--tta", 1)
    probabilities = [
        [
            one["probability"]
            for one in as_json("predict", head, real_cache, "--split", "train", "--tta", n)["predictions"]
        ]
        for n in (0, 2)
    ]
    assert not np.allclose(*probabilities, atol=1e-4)
