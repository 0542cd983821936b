"""`featcache suggest`: text, JSON, the table of labels and the sheet of samples."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest

from commands import SMALL, as_json, done, refused, write_folder


@pytest.fixture(scope="module")
def unsorted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with photos and unsorted.h5."""
    folder = tmp_path_factory.mktemp("suggest")
    write_folder(folder, {"photos": 14})
    done("extract", folder / "photos", "-o", folder / "unsorted.h5", *SMALL)
    return folder


def test_text_and_json_name_the_same_samples(unsorted: Path) -> None:
    cache = unsorted / "unsorted.h5"
    lines = done("suggest", cache, "-n", 3).splitlines()
    found = as_json("suggest", cache, "-n", 3)
    assert [line.split("\t")[0] for line in lines[:3]] == [one["path"] for one in found["suggestions"]]
    assert lines[3].startswith("3 of 14 images without a label")
    assert (found["unlabeled"], found["labeled"]) == (14, 0)


def test_a_table_and_a_sheet_are_written(unsorted: Path, tmp_path: Path) -> None:
    cache, photos, table, sheet = unsorted / "unsorted.h5", unsorted / "photos", tmp_path / "a.csv", tmp_path / "a.png"
    found = as_json("suggest", cache, photos, "-n", 5, "-o", table, "--figure", sheet)
    with table.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(tmp_path / row["path"]).resolve() for row in rows[:5]] == [
        (photos / one["path"]).resolve() for one in found["suggestions"]
    ]
    assert sheet.read_bytes().startswith(b"\x89PNG")
    assert "exists" in refused("suggest", cache, photos, "-o", table)
    done("suggest", cache, photos, "-o", table, "--overwrite")


def test_options_that_do_not_fit_are_refused(unsorted: Path, tmp_path: Path) -> None:
    cache = unsorted / "unsorted.h5"
    assert "need DATA" in refused("suggest", cache, "-o", tmp_path / "a.csv", status=2)
    assert "must end in .csv" in refused("suggest", cache, unsorted / "photos", "-o", tmp_path / "a.txt", status=2)
