"""One rule for all commands: what is named as an output and exists is not replaced without --overwrite."""

from __future__ import annotations

from pathlib import Path

import pytest

from commands import SMALL, done, refused, toy_cache, write_folder

LINES = {
    "show": ["show", "confusion", "head", "-o", "OUT.png"],
    "show views": ["show", "views", "c.h5", "data", "-o", "OUT.svg"],
    "curve": ["curve", "c.h5", "-o", "OUT.pdf"],
    "doctor": ["doctor", "c.h5", "data", "-o", "OUT.png"],
    "doctor --list": ["doctor", "c.h5", "--list", "OUT.csv"],
    "similar": ["similar", "c.h5", "a.png", "--data", "data", "-o", "OUT.svg"],
    "similar --list": ["similar", "c.h5", "a.png", "--list", "OUT.csv"],
    "plan --page": ["plan", "data", "--page", "OUT.html"],
    "predict": ["predict", "head", "data", "-o", "OUT.csv"],
    "export": ["export", "head", "--format", "onnx", "-o", "OUT.onnx"],
    "fit-head --report": ["fit-head", "c.h5", "-o", "new", "--report", "OUT.html"],
}


@pytest.mark.parametrize("name", LINES)
def test_a_file_that_exists_is_refused_before_the_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """There are no inputs: a command that read them first would say so."""
    monkeypatch.chdir(tmp_path)
    out = next(Path(part) for part in LINES[name] if part.startswith("OUT"))
    out.write_text("mine")
    assert refused(*LINES[name]) == f"{out} exists. Give another name, or replace it with --overwrite."
    assert out.read_text() == "mine"
    assert "exists. Give" not in refused(*LINES[name], "--overwrite")
    assert out.read_text() == "mine"  # a command that fails replaces nothing


def test_a_link_to_nothing_is_an_output_too(tmp_path: Path) -> None:
    (tmp_path / "out.png").symlink_to(tmp_path / "nowhere.png")
    assert "exists. Give another name" in refused("show", "confusion", "head", "-o", tmp_path / "out.png")


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("overwriting")
    return toy_cache(write_folder(folder / "data"), folder / "c.h5")


def test_a_head_is_replaced_by_request_alone(cache: Path, tmp_path: Path) -> None:
    head = tmp_path / "head"
    head.mkdir()  # an empty folder is fine
    done("fit-head", cache, "-o", head, "--head", "ridge")
    before = (head / "model.json").read_bytes()
    assert refused("fit-head", cache, "-o", head) == (
        f"{head} holds a model already. Give another name, or replace it with --overwrite."
    )
    assert (head / "model.json").read_bytes() == before
    done("fit-head", cache, "-o", head, "--head", "centroid", "--overwrite")
    assert b'"centroid"' in (head / "model.json").read_bytes()


def test_a_picture_is_replaced_by_request(cache: Path, tmp_path: Path) -> None:
    done("fit-head", cache, "-o", tmp_path / "head")
    out = tmp_path / "out.svg"
    out.write_text("mine")
    done("show", "confusion", tmp_path / "head", "-o", out, "--overwrite")
    assert out.read_text() != "mine"


def test_a_copy_of_the_same_cache_is_no_other_file(cache: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy.h5"
    done("push", cache, copy)
    done("push", cache, copy)
    done("pull", copy, tmp_path / "here.h5")
    assert "nothing to copy" in done("pull", copy, tmp_path / "here.h5")


def test_another_file_at_the_target_is_not_replaced(cache: Path, tmp_path: Path) -> None:
    there = tmp_path / "there.h5"
    there.write_text("mine")
    said = "Give another name, or replace it with --overwrite."
    assert refused("push", cache, there) == f"{there} exists and is not {cache}. {said}"
    assert refused("pull", cache, there) == f"{there} exists and is not {cache}. {said}"
    assert there.read_text() == "mine"
    done("push", cache, there, "--overwrite")
    assert there.read_bytes() == cache.read_bytes()
    there.write_text("mine")
    done("pull", cache, there, "--overwrite")
    assert there.read_bytes() == cache.read_bytes()


def test_a_demo_does_not_go_into_a_folder_of_other_files(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("mine")
    assert refused("demo", tmp_path) == (
        f"{tmp_path} holds other files. Give another name, or replace it with --overwrite."
    )
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


@pytest.mark.parametrize(
    "line",
    [
        ["extract", "data", "-o", "new.h5"],
        ["finetune", "data", "-o", "run"],
        ["verify", "c.h5"],
        ["diff", "c.h5", "data"],
        ["update", "c.h5", "data"],
        ["info", "c.h5"],
    ],
    ids=lambda line: line[0],
)
def test_a_list_replaces_no_other_file(cache: Path, monkeypatch: pytest.MonkeyPatch, line: list[str]) -> None:
    monkeypatch.chdir(cache.parent)
    before = cache.read_bytes()
    assert refused(*line, "--list", "c.h5") == "c.h5 exists and is not a list that featcache wrote. Give another name."
    assert cache.read_bytes() == before


@pytest.mark.parametrize("before", ["kind,image,other,reason\nskipped,a.png,,gone\n", ""])
def test_a_list_and_an_empty_file_are_replaced(cache: Path, tmp_path: Path, before: str) -> None:
    listed = tmp_path / "list.csv"
    listed.write_text(before)
    done("info", cache, "--list", listed)
    assert listed.read_text() == "kind,image,other,reason\n"


def test_a_run_is_begun_anew_by_request_alone(cache: Path, tmp_path: Path) -> None:
    data, run = cache.parent / "data", tmp_path / "run"
    train = ("finetune", data, "-o", run, "--init", "scratch", *SMALL[:2], *SMALL[4:6])
    done(*train, "--epochs", "1", "--lr", "0.01")
    weights = (run / "network.safetensors").read_bytes()
    assert "--overwrite" in refused(*train, "--epochs", "1", "--lr", "0.02")
    assert (run / "network.safetensors").read_bytes() == weights
    done(*train, "--epochs", "1", "--lr", "0.02", "--overwrite")
    assert (run / "network.safetensors").read_bytes() != weights


def test_what_is_read_is_never_replaced(cache: Path, split_folder: Path, tmp_path: Path) -> None:
    head, photo = tmp_path / "head", split_folder / "val/ants/000.png"
    done("fit-head", cache, "-o", head)
    linked = tmp_path / "linked.png"
    linked.symlink_to(photo)
    before = {path: path.read_bytes() for path in [cache, photo, *head.iterdir()]}
    for *line, out in [
        ("predict", head, photo, "-o", photo),
        ("predict", head, split_folder, "-o", photo),
        ("predict", head, split_folder, "-o", linked),
        ("predict", head, photo, "-o", head / "model.json"),
        ("show", "views", cache, split_folder, "-o", photo),
        ("export", head, "--format", "state-dict", "-o", head / "head.safetensors"),
        ("export", head, "--format", "state-dict", "-o", head / "val.csv"),
    ]:
        said = refused(*line, out, "--overwrite")
        assert said.startswith(f"{out} would replace a file that is read from "), said
    assert {path: path.read_bytes() for path in before} == before
    done("show", "confusion", head, "-o", head / "confusion.png")
    done("show", "confusion", head, "-o", head / "confusion.png", "--overwrite")  # no file of the model
