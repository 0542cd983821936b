"""A model's folder: its files belong together, and it changes in one step."""

from __future__ import annotations

import json
import multiprocessing
from pathlib import Path

import pytest

from commands import toy_cache
from featcache.core.model_card import ModelCard
from featcache.core.model_folder import CARD, attach, locate, reading, staged
from featcache.errors import HeadError
from featcache.heads.fit_head import fit_head
from featcache.heads.io import load_head
from featcache.metrics.predictions import read_predictions


@pytest.fixture
def cache(split_folder: Path, tmp_path: Path) -> Path:
    return toy_cache(split_folder, tmp_path / "cache.h5")


@pytest.fixture
def head(cache: Path, tmp_path: Path) -> Path:
    fit_head(cache, tmp_path / "head", head="linear")
    return tmp_path / "head"


def test_model_json_names_all_files_with_their_hashes(head: Path) -> None:
    card = json.loads((head / CARD).read_text())
    assert {name: bool(value) for name, value in card["sha256"].items()} == {
        "head.safetensors": True,
        "held-out.safetensors": True,
        "test.csv": False,  # there is no test split
        "val.csv": True,
    }
    assert sorted(path.name for path in head.iterdir()) == [
        *("head.safetensors", "held-out.safetensors", CARD, "run.json", "val.csv"),
    ]


@pytest.mark.parametrize("name", ["head.safetensors", "val.csv"])
def test_a_flipped_bit_is_found(head: Path, name: str) -> None:
    content = bytearray((head / name).read_bytes())
    content[-2] ^= 1
    (head / name).write_bytes(content)
    with pytest.raises(HeadError, match=f"is damaged: {name} is not the file that model.json was saved with"):
        locate(head, name)
    if name == "val.csv":
        with pytest.raises(HeadError, match="is damaged"):
            read_predictions(head)


def test_a_model_of_before_has_no_hashes_and_opens(head: Path) -> None:
    card = json.loads((head / CARD).read_text())
    del card["sha256"]
    (head / CARD).write_text(json.dumps(card))
    assert ModelCard.read(head).file == "head.safetensors"
    assert locate(head, "head.safetensors") == head / "head.safetensors"
    assert len(read_predictions(head)) == 5


def test_the_files_of_a_finished_step_are_read_before_they_have_their_names(head: Path) -> None:
    expected = read_predictions(head)
    (head / "val.csv").rename(staged(head, "val.csv"))
    (head / "val.csv").write_text("of the model before")
    assert read_predictions(head) == expected


def test_a_test_split_of_the_model_before_is_not_read(head: Path) -> None:
    (head / "test.csv").write_text("of the model before")
    with pytest.raises(HeadError, match=r"has no test\.csv"):
        read_predictions(head, "test.csv")


def test_a_file_is_attached_to_the_model_that_is_there(head: Path) -> None:
    before = json.loads((head / CARD).read_text())
    attach(head, {"test.csv": (head / "val.csv").read_bytes()})
    after = json.loads((head / CARD).read_text())
    assert after == {**before, "sha256": {**before["sha256"], "test.csv": before["sha256"]["val.csv"]}}
    assert read_predictions(head, "test.csv") == read_predictions(head)
    attach(head, {"test.csv": None})
    assert json.loads((head / CARD).read_text()) == before
    assert not (head / "test.csv").exists()


def test_attaching_does_not_make_a_damaged_file_good(head: Path) -> None:
    with (head / "head.safetensors").open("ab") as file:
        file.write(b"x")
    attach(head, {"test.csv": b"image"})
    with pytest.raises(HeadError, match="is damaged"):
        locate(head, "head.safetensors")


def _fit(cache: Path, folder: Path, name: str) -> None:
    for _ in range(3):
        fit_head(cache, folder, head=name)


@pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning")  # the children run no threads
def test_two_fits_into_one_folder_never_mix(cache: Path, head: Path) -> None:
    context = multiprocessing.get_context("fork")
    fits = [context.Process(target=_fit, args=(cache, head, name)) for name in ("centroid", "linear")]
    for process in fits:
        process.start()
    seen = set()
    while any(process.is_alive() for process in fits):
        with reading(head):
            card = ModelCard.read(head)
            seen.add(card.head)
            load_head(locate(head, card.file))
            read_predictions(head)
    assert [process.exitcode for process in fits] == [0, 0]
    assert seen <= {"centroid", "linear"}
    with reading(head):
        load_head(locate(head, ModelCard.read(head).file))


@pytest.mark.parametrize("text", ["[" * 100_000, "7", "{"])
def test_files_are_added_to_no_damaged_model(text: str, head: Path) -> None:
    (head / CARD).write_text(text)
    with pytest.raises(HeadError, match=r"model\.json is not a featcache model: .*\. Train it again"):
        attach(head, {"test.csv": b"image"})
    assert not (head / "test.csv").exists()
