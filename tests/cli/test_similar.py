"""`featcache similar`: neighbors as text, JSON and CSV, the sheet of pictures, and what is refused."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path

import pytest
from PIL import Image

from commands import as_json, done, featcache_cli, refused
from featcache.analysis.similar.similar import similar
from featcache.cache.feature_cache import FeatureCache


def test_text_json_and_list_say_what_the_python_says(data: Path, real_cache: Path, tmp_path: Path) -> None:
    new = Path(shutil.copy(data / "val/ants/000.png", tmp_path / "new.png"))
    with Image.open(data / "val/bees/000.png") as picture:
        picture.rotate(90).save(tmp_path / "turned.png")
    given = [str(new), str(tmp_path / "turned.png")]
    direct = similar(real_cache, given, n=3, split="train")
    text = done("similar", real_cache, *given, "-n", 3, "--split", "train")
    assert text.splitlines() == str(direct).splitlines()
    assert "left out, as it is the same: val/ants/000.png" in text
    assert "1 of 2 queries is in the cache by its content" in text
    found = as_json("similar", real_cache, *given, "-n", 3, "--split", "train", "--list", tmp_path / "list.csv")
    assert found["queries"] == direct.to_dict()["queries"]
    assert (found["cache"], found["split"], found["compared"]) == (str(real_cache), "train", 13)
    rows = list(csv.DictReader((tmp_path / "list.csv").read_text().splitlines()))
    assert [row["path"] for row in rows] == [one.path for query in direct.queries for one in query.neighbors]


def test_a_name_without_a_picture_is_listed_and_alone_is_status_1(data: Path, real_cache: Path) -> None:
    image = data / "val/ants/000.png"
    result = featcache_cli("similar", real_cache, image, "gone.png", "--json")
    queries = json.loads(result.stdout)["queries"]
    assert (result.exit_code, [query["error"] for query in queries]) == (0, [None, "No such file or directory"])
    assert "gone.png names no image" in refused("similar", real_cache, "gone.png")


def test_nothing_that_can_be_read_is_status_1(real_cache: Path, tmp_path: Path) -> None:
    (tmp_path / "bad.png").write_bytes(b"")
    result = featcache_cli("similar", real_cache, tmp_path / "bad.png")
    assert result.exit_code == 1
    assert result.stdout.splitlines() == [
        f"{tmp_path / 'bad.png'}  unreadable: the file is empty (0 bytes)",
        "1 of 1 images could not be read",
    ]


def test_ignored_files_are_counted(data: Path, real_cache: Path, tmp_path: Path) -> None:
    shutil.copy(data / "val/ants/000.png", tmp_path / "a.png")
    (tmp_path / "notes.txt").write_text("no image")
    assert "ignored 1 file: not an image (.txt)" in featcache_cli("similar", real_cache, tmp_path).stderr


@pytest.mark.parametrize("suffix", [".png", ".svg"])
def test_the_sheet_shows_the_query_and_its_neighbors(suffix: str, data: Path, real_cache: Path, tmp_path: Path) -> None:
    out = tmp_path / f"sheet{suffix}"
    line = ("similar", real_cache, data / "val/ants/000.png", data / "val/bees/001.png", "-n", 3, "--data", data)
    done(*line, "-o", out)
    if suffix == ".png":
        with Image.open(out) as picture:
            assert picture.width > picture.height > 200
        return
    svg, near = out.read_text(), similar(real_cache, data / "val/ants/000.png", n=3).queries[0].neighbors
    for one in near:
        assert f"{one.label} {one.similarity:.2f}" in svg
    assert svg.count("query, in the cache") == 2
    assert "the most similar of 18 images in real.h5" in svg
    assert svg.count("<image") == 8


def test_pictures_that_changed_are_not_drawn_and_counted(data: Path, real_cache: Path, tmp_path: Path) -> None:
    photos = Path(shutil.copytree(data, tmp_path / "photos"))
    query = data / "val/ants/000.png"
    first = similar(real_cache, query, n=1).queries[0].neighbors[0].path
    (photos / first).unlink()
    done("similar", real_cache, query, "-n", 2, "--data", photos, "-o", tmp_path / "s.svg")
    svg = (tmp_path / "s.svg").read_text()
    assert "1 image is not drawn, as its file is missing or changed" in svg
    assert svg.count("<image") == 2


def test_what_does_not_fit_is_refused(data: Path, real_cache: Path, mobilenet_weights: Path, tmp_path: Path) -> None:
    image = data / "val/ants/000.png"
    assert "-o needs --data" in refused("similar", real_cache, image, "-o", tmp_path / "s.png", status=2)
    assert "Missing argument 'SAMPLES...'" in refused("similar", real_cache, status=2)
    assert "--text is for models of texts" in refused("similar", real_cache, "--text", "a film")
    assert "are not those of this network" in refused("similar", real_cache, image, "--weights", mobilenet_weights)
    arrays = tmp_path / "arrays.h5"
    FeatureCache.from_arrays([[float(row)] for row in range(16)], ["a", "b"] * 8, arrays)
    assert "a search for similar images is not possible" in refused("similar", arrays, image)
    assert "is not a feature cache" in refused("similar", image, image)
    assert "would replace a file that is read" in refused("similar", real_cache, image, "--list", image, "--overwrite")
