"""model.json: what is written is read; what was tampered with is refused."""

from __future__ import annotations

import json
import resource
from pathlib import Path
from typing import Any

import pytest

from featcache.core.model_card import FILE, ModelCard, prepare_folder, write_json
from featcache.core.specs import ExtractSpec, ViewSpec
from featcache.errors import HeadError, OutputError

SPEC = ExtractSpec("toy", "ab" * 32, ViewSpec(8, 10, seed=3, mean=(0.5, 0.25, 0.75), std=(0.5, 1, 0.25)), views=2)
CARD = ModelCard(
    kind="head",
    file="head.safetensors",
    head="linear",
    classes=("ants", "bees\u00e9"),
    spec=SPEC,
    weights="pretrained",
    layer="penultimate",
    metrics={"accuracy": 0.5, "n": 4},
)


def change(folder: Path, **fields: Any) -> None:
    """Write CARD with other fields; None removes one."""
    CARD.write(folder)
    found = {**json.loads((folder / FILE).read_text(encoding="utf-8")), **fields}
    write_json(folder / FILE, {name: value for name, value in found.items() if value is not None})


def refusal(folder: Path) -> str:
    with pytest.raises(HeadError) as caught:
        ModelCard.read(folder)
    return str(caught.value)


def test_what_is_written_is_read(tmp_path: Path) -> None:
    CARD.write(tmp_path)
    assert ModelCard.read(tmp_path) == CARD
    assert [path.name for path in tmp_path.iterdir()] == ["model.json"]
    fields = json.loads((tmp_path / FILE).read_text(encoding="utf-8"))
    assert (fields["format"], fields["version"]) == ("featcache-model", 1)
    assert fields["digest"] == SPEC.digest()
    assert (fields["spec"]["image_size"], fields["spec"]["seed"], fields["spec"]["backbone"]) == (8, 3, "toy")


def test_a_folder_without_model_json_is_no_model(tmp_path: Path) -> None:
    assert refusal(tmp_path) == (
        f"{tmp_path} is not a saved model: it has no model.json. Give the folder that "
        "`featcache fit-head -o` or `featcache finetune -o` wrote."
    )


def test_a_changed_spec_or_digest_is_refused(tmp_path: Path) -> None:
    damaged = f"{tmp_path / FILE} is damaged: its spec does not have its digest"
    change(tmp_path, digest="0" * 64)
    assert refusal(tmp_path) == damaged
    change(tmp_path, spec={**SPEC.flat(), "image_size": 9})
    assert refusal(tmp_path) == damaged


@pytest.mark.parametrize("name", ["../head.safetensors", "/etc/passwd", "sub/head.skops", "..", "", "."])
def test_a_file_outside_the_folder_is_refused(name: str, tmp_path: Path) -> None:
    change(tmp_path, file=name)
    assert refusal(tmp_path) == f"{tmp_path / FILE} names a file outside its folder: {name}"


@pytest.mark.parametrize(("field", "value"), [("version", 2), ("format", "other")])
def test_another_format_or_version_is_refused(field: str, value: object, tmp_path: Path) -> None:
    change(tmp_path, **{field: value})
    assert refusal(tmp_path) == f"{tmp_path / FILE} is not a model of this version of featcache"


@pytest.mark.parametrize("field", ["format", "digest", "spec", "file", "classes", "kind", "metrics"])
def test_a_missing_field_is_refused(field: str, tmp_path: Path) -> None:
    change(tmp_path, **{field: None})
    assert refusal(tmp_path).startswith(f"{tmp_path / FILE} is not a featcache model: ")
    assert field in refusal(tmp_path)


@pytest.mark.parametrize("text", [b"", b"[1]", b"3", b"{", b"\xff\xfe", b'{"format": "featcache-model"}'])
def test_other_json_and_no_json_are_refused(text: bytes, tmp_path: Path) -> None:
    (tmp_path / FILE).write_bytes(text)
    assert refusal(tmp_path).startswith(f"{tmp_path / FILE} is not a featcache model: ")


def test_unknown_fields_and_kinds_are_refused(tmp_path: Path) -> None:
    change(tmp_path, surplus=1)
    assert "surplus" in refusal(tmp_path)
    change(tmp_path, kind="tail")
    assert "tail" in refusal(tmp_path)


def test_a_new_an_empty_and_a_model_folder_are_taken(tmp_path: Path) -> None:
    new = tmp_path / "a" / "b"
    prepare_folder(new, "head")
    assert new.is_dir()
    prepare_folder(new, "head")
    CARD.write(new)
    (new / "head.safetensors").touch()
    prepare_folder(new, "head")
    assert sorted(path.name for path in new.iterdir()) == ["head.safetensors", "model.json"]


def test_a_file_and_a_folder_with_other_things_are_refused(tmp_path: Path) -> None:
    file = tmp_path / "notes.txt"
    file.write_text("mine")
    with pytest.raises(HeadError) as caught:
        prepare_folder(file, "run")
    assert str(caught.value) == f"{file} is a file; give a folder"
    with pytest.raises(HeadError) as caught:
        prepare_folder(tmp_path, "run")
    assert str(caught.value) == (f"{tmp_path} holds other files and no model.json. Give an empty or a new folder.")
    assert file.read_text() == "mine"


def test_a_head_and_a_run_do_not_overwrite_each_other(tmp_path: Path) -> None:
    for name, file in (("head", "run.json"), ("run", "last.pt")):
        CARD.write(_made(tmp_path / name))
        (tmp_path / name / file).write_text("{}")
    prepare_folder(tmp_path / "head", "head")
    prepare_folder(tmp_path / "run", "run")
    with pytest.raises(HeadError, match=r"/run holds a fine-tuned run\. Give another folder\.$"):
        prepare_folder(tmp_path / "run", "head")
    with pytest.raises(HeadError, match=r"/head holds a fitted head\. Give another folder\.$"):
        prepare_folder(tmp_path / "head", "run")


def test_a_run_killed_before_its_first_checkpoint_goes_on(tmp_path: Path) -> None:
    CARD.write(tmp_path)
    prepare_folder(tmp_path, "run")


def test_a_run_without_its_checkpoint_starts_anew(tmp_path: Path) -> None:
    CARD.write(tmp_path)
    (tmp_path / "run.json").write_text('{"config": {}}')
    prepare_folder(tmp_path, "run")


def _made(folder: Path) -> Path:
    folder.mkdir()
    return folder


def test_a_folder_that_cannot_be_made_is_refused(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").touch()
    with pytest.raises(HeadError, match=r"notes\.txt"):
        prepare_folder(tmp_path / "notes.txt" / "model", "head")


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("weights", 7),
        ("head", [1]),
        ("layer", {}),
        ("metrics", "none"),
        ("classes", "ab"),
        ("classes", [1, 2]),
        ("classes", ["one"]),
    ],
)
def test_a_field_of_another_kind_is_refused(field: str, value: object, tmp_path: Path) -> None:
    change(tmp_path, **{field: value})
    assert refusal(tmp_path).startswith(f"{tmp_path / FILE} is damaged: its {field} ")


def test_brackets_upon_brackets_are_refused(tmp_path: Path) -> None:
    (tmp_path / FILE).write_text("[" * 200_000)
    assert refusal(tmp_path).startswith(f"{tmp_path / FILE} is not a featcache model: ")


def test_a_full_disk_names_the_file_and_leaves_the_old_model(tmp_path: Path) -> None:
    CARD.write(tmp_path, b"old")
    resource.setrlimit(resource.RLIMIT_FSIZE, (2000, resource.RLIM_INFINITY))
    try:
        with pytest.raises(OutputError, match="larger than the limit on file sizes") as caught:
            CARD.write(tmp_path, bytes(10_000))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    assert str(tmp_path / CARD.file) in str(caught.value)
    assert ModelCard.read(tmp_path) == CARD
    assert sorted(path.name for path in tmp_path.iterdir()) == ["head.safetensors", "model.json"]
