from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from commands import done, featcache_cli, refused
from featcache.classifier import Classifier


@pytest.fixture(scope="module")
def head(data: Path, real_cache: Path) -> Path:
    done("fit-head", real_cache, "-o", data.parent / "head")
    return data.parent / "head"


def _json(*arguments: object) -> list[dict[str, Any]]:
    """The predictions, whatever they are wrapped in."""
    found = json.loads(done("predict", *arguments, "--json"))
    predictions: list[dict[str, Any]] = found if isinstance(found, list) else found["predictions"]
    return predictions


def test_lines_are_what_the_classifier_says(head: Path, data: Path) -> None:
    result = featcache_cli("predict", head, data / "val")
    images = sorted((data / "val").rglob("*.png"))
    predictions = Classifier.load(head).predict(images, top=3)
    assert result.stdout.splitlines() == [str(prediction) for prediction in predictions]
    for line, prediction, path in zip(result.stdout.splitlines(), predictions, images, strict=True):
        name, first, second = line.split("\t")
        assert name == str(path)
        assert first == f"{prediction.label} {prediction.probability:.4f}"
        assert float(first.split()[1]) + float(second.split()[1]) == pytest.approx(1, abs=1e-3)
    assert "predict" in result.stderr


def test_json_has_the_same_and_top_counts(head: Path, data: Path) -> None:
    image = data / "val/bees/000.png"
    (found,) = _json(head, image, "--top", 1)
    (direct,) = Classifier.load(head).predict([image], top=1)
    assert found == direct.to_dict()
    assert len(found["top"]) == 1
    assert (found["path"], found["error"]) == (str(image), None)


def test_json_is_one_object(head: Path, data: Path) -> None:
    assert isinstance(json.loads(done("predict", head, data / "val/bees/000.png", "--json")), dict)


def test_files_folders_and_globs_come_in_order(head: Path, data: Path) -> None:
    first = data / "train/bees/000.png"
    found = _json(head, first, data / "val/ants", f"{data}/val/bees/*.png")
    assert [entry["path"] for entry in found] == [
        str(first),
        *(str(data / "val/ants" / f"{number:03d}.png") for number in range(3)),
        *(str(data / "val/bees" / f"{number:03d}.png") for number in range(2)),
    ]


def test_an_unreadable_picture_has_its_line_and_harms_no_other(head: Path, data: Path, tmp_path: Path) -> None:
    good, bad = tmp_path / "b.png", tmp_path / "a.png"
    shutil.copy(data / "val/ants/000.png", good)
    bad.write_bytes(b"")
    lines = done("predict", head, tmp_path).splitlines()
    assert lines[0] == f"{bad}\tunreadable: the file is empty (0 bytes)"
    assert lines[1].startswith(f"{good}\t")
    found = _json(head, tmp_path)
    assert [entry["error"] for entry in found] == ["the file is empty (0 bytes)", None]
    assert found[0]["label"] is None


def test_nothing_but_unreadable_pictures_is_status_1(head: Path, tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"")
    for options in ((), ("--json",)):
        result = featcache_cli("predict", head, tmp_path, *options)
        assert result.exit_code == 1
        assert "the file is empty (0 bytes)" in result.stdout
        assert "Traceback" not in result.output


@pytest.mark.parametrize("pattern", ["gone.png", "*.jpg", "."])
def test_no_picture_is_refused(pattern: str, head: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert refused("predict", head, pattern) == (
        f"{pattern} names no image: no such file, or a folder or pattern without images."
    )
    assert "Missing argument 'IMAGES...'" in refused("predict", head, status=2)


def test_what_is_no_model_is_refused(data: Path, cache: Path, tmp_path: Path) -> None:
    image = data / "val/ants/000.png"
    for folder in (tmp_path, tmp_path / "gone", cache):
        assert refused("predict", folder, image) == (
            f"{folder} is not a saved model: it has no model.json. Give the folder that "
            "`featcache fit-head -o` or `featcache finetune -o` wrote."
        )


def test_a_damaged_model_is_refused(head: Path, data: Path, tmp_path: Path) -> None:
    image = data / "val/ants/000.png"
    copy = Path(shutil.copytree(head, tmp_path / "head"))
    (copy / "head.safetensors").write_bytes(b"broken")
    assert refused("predict", copy, image).startswith(f"{copy / 'head.safetensors'} is not a head that can be loaded")
    (copy / "model.json").write_text("{")
    assert refused("predict", copy, image).startswith(f"{copy / 'model.json'} is not a featcache model: ")


def test_other_weights_than_the_head_was_fitted_on_are_refused(head: Path, data: Path, mobilenet_weights: Path) -> None:
    message = refused("predict", head, data / "val/ants/000.png", "--weights", mobilenet_weights)
    assert "are not those of this network" in message


def test_a_fine_tuned_network_predicts(data: Path, tmp_path: Path) -> None:
    done("finetune", data, "-o", tmp_path / "run", "--backbone", "mobilenet_v3_small", "--init", "scratch",
         "--image-size", 32, "--epochs", 1, "--batch-size", 5)  # fmt: skip
    found = _json(tmp_path / "run", data / "val")
    labels = [Path(entry["path"]).parent.name == entry["label"] for entry in found]
    card = json.loads((tmp_path / "run" / "model.json").read_text())
    assert (card["kind"], len(labels)) == ("network", 5)
    assert sum(labels) / 5 == pytest.approx(card["metrics"]["accuracy"])
