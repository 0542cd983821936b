"""A model's folder: its files belong together, and it changes in one step."""

from __future__ import annotations

import json
import multiprocessing
from pathlib import Path

import pytest

from commands import toy_cache
from featcache.cache.feature_cache import FeatureCache
from featcache.core.model_card import ModelCard
from featcache.core.model_folder import CARD, README, attach, locate, reading, staged
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
        README: True,
        "head.safetensors": True,
        "held-out.safetensors": True,
        "training-samples.safetensors": True,
        "test.csv": False,  # there is no test split
        "val.csv": True,
    }
    assert sorted(path.name for path in head.iterdir()) == [
        *(README, "head.safetensors", "held-out.safetensors", CARD, "run.json"),
        *("training-samples.safetensors", "val.csv"),
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


def test_a_model_card_stands_beside_every_head(head: Path) -> None:
    text = (head / README).read_text(encoding="utf-8")
    assert f"`{FeatureCache.open(head.parent / 'cache.h5').samples.digest()}`" in text
    assert "The network is the author's own. Add `--backbone MODULE:FACTORY`" in text
    assert str(head.parent) not in text


def test_a_new_model_has_a_new_card(cache: Path, head: Path) -> None:
    assert fit_head(cache, head, head="centroid").notes == ()
    assert "# Head centroid on toy" in (head / README).read_text(encoding="utf-8")
    (head / README).unlink()
    fit_head(cache, head, head="linear")
    assert "# Head linear on toy" in (head / README).read_text(encoding="utf-8")


def test_a_card_that_somebody_edited_is_kept_with_a_note(cache: Path, head: Path) -> None:
    (head / README).write_text("mine", encoding="utf-8")
    expected = read_predictions(head)
    load_head(locate(head, "head.safetensors"))
    for name in ("centroid", "linear"):
        assert fit_head(cache, head, head=name).notes == (
            f"{head / README} was edited, so it is kept: it may describe an earlier model. For a new one, delete it "
            "and repeat the command.",
        )
        assert (head / README).read_text(encoding="utf-8") == "mine"
        assert ModelCard.read(head).head == name
    assert read_predictions(head) == expected


def test_a_card_in_a_folder_without_a_model_is_somebody_s(cache: Path, tmp_path: Path) -> None:
    folder = tmp_path / "new"
    folder.mkdir()
    (folder / README).write_text("mine", encoding="utf-8")
    assert len(fit_head(cache, folder, head="linear").notes) == 1
    assert (folder / README).read_text(encoding="utf-8") == "mine"


def test_a_card_that_a_killed_process_did_not_rename_is_not_an_edited_one(cache: Path, head: Path) -> None:
    (head / README).rename(staged(head, README))
    (head / README).write_text("of the model before", encoding="utf-8")
    assert fit_head(cache, head, head="centroid").notes == ()
    assert "# Head centroid on toy" in (head / README).read_text(encoding="utf-8")
