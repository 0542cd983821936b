from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from commands import as_json, done, featcache_cli, refused
from featcache._utils.formatting import human_bytes
from featcache.cache.feature_cache import FeatureCache
from featcache.models.classifier import Classifier
from featcache.models.export import export as exporting
from featcache.models.feature_classifier import FeatureClassifier


@pytest.fixture(scope="module")
def head(data: Path) -> Path:
    """On the embedded network, whose features tell pictures of 32 pixels apart."""
    cache, model = data.parent / "to-export.h5", data.parent / "to-export"
    done("extract", data, "-o", cache, "--views", 0, "--precision", "fp32", "--image-size", 32)
    done("fit-head", cache, "-o", model, "--head", "logreg", "--scaling", "standard")
    return model


def test_the_program_beside_the_file_says_what_predict_says(head: Path, data: Path, tmp_path: Path) -> None:
    result = featcache_cli("export", head, "--format", "state-dict", "-o", tmp_path / "mine.pth")
    assert result.exit_code == 0, result.output
    first, second, last = result.stdout.splitlines()
    size = (tmp_path / "mine.pth").stat().st_size
    assert first == f"{tmp_path / 'mine.pth'}: state-dict, {size / 1e6:.1f} MB"
    said, _, difference = second.removesuffix(" of the largest").rpartition(" ")
    assert said == "in a fresh process without featcache its logits differ by"
    assert 0 < float(difference) < 1e-5
    program = tmp_path / "mine.pth.py"
    assert last == f"the program that was run there: python {program} photo.jpg"
    photos = [data / "val/ants/000.png", data / "val/bees/000.png"]
    ran = subprocess.run([sys.executable, str(program), *map(str, photos)], capture_output=True, text=True, check=True)
    for line, one in zip(ran.stdout.splitlines(), Classifier.load(head).predict(photos), strict=True):
        name, label, share = line.split("\t")
        assert (name, label) == (one.path, one.label)
        assert float(share) == pytest.approx(one.probability, abs=0.01)  # Pillow resizes with another rounding
    none = subprocess.run([sys.executable, str(program)], capture_output=True, text=True, check=False)
    assert none.stderr.startswith("Print the classes of photos. Give the paths of the photos as arguments.")


def test_json_is_one_object_and_nothing_else(monkeypatch: pytest.MonkeyPatch) -> None:
    given: dict[str, Any] = {}
    found = exporting.Exported(
        Path("mine.onnx"), Path("mine.onnx.py"), "onnx", 12, 2e-7, "import sys\n", ("mind this",)
    )

    def fake(model: str, **settings: Any) -> exporting.Exported:
        given.update(settings, model=model)
        settings["on_step"]("working")
        return found

    monkeypatch.setattr(exporting, "export", fake)
    line = ("export", "head", "--format", "onnx", "-o", "mine.onnx", "--weights", "moved.pth")
    assert as_json(*line).items() >= (found.to_dict() | {"notes": ["mind this"]}).items()
    del given["on_step"]
    assert given == {
        "model": "head",
        "format": "onnx",
        "out": "mine.onnx",
        "weights": "moved.pth",
        "backbone": None,
        "overwrite": False,
    }
    done(*line, "--overwrite")
    assert given["overwrite"]


def test_weights_are_looked_for_where_they_are_said_to_lie(head: Path, tmp_path: Path) -> None:
    torch.save({"conv.weight": torch.zeros(1)}, tmp_path / "other.pth")
    said = refused("export", head, "--format", "onnx", "-o", tmp_path / "a.onnx", "--weights", tmp_path / "other.pth")
    assert said.startswith(f"the weights in {tmp_path / 'other.pth'} are not those of this network: ")


def test_what_cannot_be_exported_is_refused(data: Path, real_cache: Path, tmp_path: Path) -> None:
    model, out = tmp_path / "head", tmp_path / "mine.onnx"
    assert refused("export", tmp_path, "--format", "onnx", "-o", out) == (
        f"{tmp_path} is not a saved model: it has no model.json. Give the folder that "
        "`featcache fit-head -o` or `featcache finetune -o` wrote."
    )
    done("fit-head", real_cache, "-o", model, "--head", "knn", "-p", "n_neighbors=3")
    assert refused("export", model, "--format", "onnx", "-o", out) == (
        f"{model} holds a head knn, whose probabilities are not those of a linear layer: it cannot be exported. "
        "Fit centroid, head2toe, lda, linear, logreg, ridge or sgd (with --scaling standard, too)."
    )
    assert not out.exists()
    out.touch()
    assert (
        refused("export", model, "--format", "onnx", "-o", out)
        == f"{out} exists. Give another name, or replace it with --overwrite."
    )


def test_format_and_file_must_be_given() -> None:
    assert "Missing option '--format'" in refused("export", "head", "-o", "out", status=2)
    assert "Missing option '-o'" in refused("export", "head", "--format", "onnx", status=2)
    assert "'tflite' is not one of 'onnx', 'state-dict', 'torch-export'" in refused(
        "export", "head", "--format", "tflite", "-o", "out", status=2
    )


def test_a_cache_becomes_a_table(head: Path, data: Path, tmp_path: Path) -> None:
    cache, out = data.parent / "to-export.h5", tmp_path / "features.npz"
    said = done("export", cache, "--format", "npz", "-o", out, "--split", "val", "--head", head)
    assert said.splitlines() == [
        f"{out}: npz, 5 rows (5 val), {human_bytes(out.stat().st_size)}",
        "columns: path, label, split, sha256, predicted, probability, vector (1280 x float16)",
    ]
    expected = FeatureClassifier.load(head).predict(cache, split="val")
    with np.load(out) as table:
        assert table["predicted"].tolist() == [one.label for one in expected]
        np.testing.assert_array_equal(table["vector"], FeatureCache.open(cache).features("val").clean())
    found = as_json("export", cache, "--format", "npz", "-o", out, "--overwrite")
    assert (found["cache"], found["rows_by_split"]) == (str(cache), {"train": 13, "val": 5})
    said = refused("export", cache, "--format", "npz", "-o", cache, "--overwrite")
    assert said.startswith(f"{cache} would replace a file that is read from ")


def test_a_format_or_an_option_of_the_other_kind_is_refused(head: Path, data: Path, tmp_path: Path) -> None:
    cache, out = data.parent / "to-export.h5", tmp_path / "out"
    for line, said in [
        ((cache, "--format", "onnx"), f"{cache} is a cache: --format onnx is not for a cache. Choose npz or parquet"),
        ((head, "--format", "npz"), f"{head} is a model: --format npz is not for a model. Choose onnx, state-dict or "),
        ((cache, "--format", "npz", "--weights", "w"), f"{cache} is a cache: --weights is not for a cache"),
        ((head, "--format", "onnx", "--split", "val"), f"{head} is a model: --split is not for a model"),
        ((head, "--format", "onnx", "--head", head, "--augmented"), "--head and --augmented are not for a model"),
    ]:
        assert said in refused("export", *line, "-o", out, status=2)
    assert not out.exists()


def test_help_names_the_formats() -> None:
    assert json.dumps(done("export", "--help")).count("onnx|state-dict|torch-export") == 1


def test_the_formats_are_the_librarys() -> None:
    from featcache.reports import style as drawing
    from featcache_cli import options

    assert options.FORMATS is drawing.FORMATS
