"""`evaluate`: the figures of a saved model on other labelled data are those that plain counting gives."""

from __future__ import annotations

import csv
import json
import shutil
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from caches import cache_of
from commands import as_json, done, drop_hashes, refused, write_folder
from featcache.errors import DataLayoutError, EmptyFolderError, HeadError, RemoteIOError
from featcache.extraction.extract import extract
from featcache.finetuning.finetune import finetune
from featcache.heads.fit_head import fit_head
from featcache.metrics.predictions import compare_heads
from featcache.models import evaluate as evaluating
from featcache.models.classifier import Classifier
from featcache.models.evaluate import evaluate
from featcache.models.prediction import Prediction
from featcache.training.loop import TrainConfig
from several import write_pictures

NET = {"backbone": "mobilenet_v3_small", "weights": "none", "image_size": 32, "device": "cpu"}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_folder(tmp_path_factory.mktemp("evaluate") / "data")


@pytest.fixture(scope="module")
def model(data: Path) -> Path:
    out = data.parent / "cache.h5"
    extract(data, out, views=0, dtype="float32", precision="fp32", **NET)
    fit_head(out, data.parent / "model")
    return data.parent / "model"


def test_on_its_own_val_a_model_reaches_what_it_reached(data: Path, model: Path, tmp_path: Path) -> None:
    result = evaluate(model, data, tmp_path / "out", device="cpu")
    fitted = json.loads((model / "run.json").read_text())
    assert result.accuracy.n == 5
    for name in ("accuracy", "log_loss", "confusion"):
        np.testing.assert_allclose(result.accuracy.to_dict()[name], fitted[name], atol=1e-4)
    assert (result.splits, result.left_out) == ({"val": 5}, {"train": 13})
    assert "5 val images (13 train images left out: --split all includes them)" in str(result)
    assert (tmp_path / "out/val.csv").read_text() == (model / "val.csv").read_text()
    assert compare_heads(model, tmp_path / "out").test.n == 5


def test_training_samples_are_counted_by_content(data: Path, model: Path, tmp_path: Path) -> None:
    assert evaluate(model, data, device="cpu").trained_on == 0
    result = evaluate(model, data, split="all", device="cpu")
    assert (result.accuracy.n, result.trained_on) == (18, 13)
    assert (
        "the model was trained on 13 of these 18 images (by content), so the figures are too high"
        in str(result).splitlines()
    )
    renamed = tmp_path / "renamed/bees"
    renamed.mkdir(parents=True)
    for number, path in enumerate(
        [data / "train/bees/000.png", data / "train/bees/001.png", data / "val/bees/000.png"]
    ):
        shutil.copy(path, renamed / f"copy{number}.png")
    found = as_json("evaluate", model, renamed.parent, "--device", "cpu")
    assert (found["n"], found["trained_on"]) == (3, 2)
    older = shutil.copytree(model, tmp_path / "older")
    drop_hashes(older)
    (older / "training-samples.safetensors").unlink()
    assert evaluate(older, data, split="all", device="cpu").trained_on == 0


def test_a_connection_that_is_lost_after_the_predictions_keeps_the_metrics(
    data: Path, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The samples are read once more, for their hashes."""

    def lost(*_: object) -> None:
        raise RemoteIOError("no connection")

    monkeypatch.setattr("featcache.data.sources.folder.FolderSource.hash", lost)
    evaluation = evaluate(model, data, tmp_path / "out", split="all", device="cpu")
    assert evaluation.trained_on is None
    assert "the connection was lost before the check whether the model was trained on some of these" in str(evaluation)
    assert (tmp_path / "out" / "val.csv").exists()


def test_training_samples_of_a_run_are_counted(data: Path, tmp_path: Path) -> None:
    finetune(data, tmp_path / "run", mode="head", config=TrainConfig(epochs=1), **NET)
    assert evaluate(tmp_path / "run", data, split="train", device="cpu").trained_on == 13
    with (tmp_path / "run/training-samples.safetensors").open("r+b") as file:
        file.truncate(20)
    drop_hashes(tmp_path / "run")
    with pytest.raises(HeadError, match=r"training-samples\.safetensors is damaged"):
        evaluate(tmp_path / "run", data, split="train", device="cpu")


def test_other_data_is_counted_class_by_class(model: Path, tmp_path: Path) -> None:
    """Two classes that the model knows, one of them wrong in the folder's name, and one that it does not know."""
    new = write_folder(tmp_path / "new", {"ants": 4, "bees": 3, "wasps": 2})
    (new / "ants/broken.png").write_bytes(b"")
    out = tmp_path / "out"
    result = as_json("evaluate", model, new, "-o", out, "--device", "cpu")
    labels = {str(p.relative_to(new)): p.parent.name for p in new.rglob("0*.png")}
    predictions = Classifier.load(model, device="cpu").predict([new / name for name in labels])
    predicted = {name: prediction.label for name, prediction in zip(labels, predictions, strict=True)}
    known_names = [name for name, label in labels.items() if label != "wasps"]
    assert result["n"] == len(known_names) == 7
    assert result["accuracy"] == sum(labels[name] == predicted[name] for name in known_names) / 7
    assert result["unknown"] == {"wasps": 2}
    assert sum(result["taken_for"].values()) == 2
    assert result["skipped"] == [{"path": "ants/broken.png", "reason": "the file is empty (0 bytes)"}]
    rows = list(csv.DictReader((out / "val.csv").read_text().splitlines()))
    assert {row["image"]: row["predicted"] for row in rows} == {name: predicted[name] for name in known_names}
    others = list(csv.DictReader((out / "unknown.csv").read_text().splitlines()))
    assert [(row["label"], row["predicted"]) for row in others] == [
        ("wasps", predicted[f"wasps/{number:03d}.png"]) for number in range(2)
    ]
    text = done("evaluate", model, new, "--device", "cpu")
    assert "2 images of 1 classes that the model does not know are not counted: wasps 2" in text
    right = sum(labels[name] == predicted[name] for name in known_names)
    assert f"counted as wrong, they make the accuracy {right / 9:.4f}" in text
    assert "on its own 5 val images it reached" in text


def test_a_run_is_evaluated_and_a_class_may_be_missing(data: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    finetune(data, run, config=TrainConfig(epochs=1), workers=1, **NET)
    only = tmp_path / "only"
    shutil.copytree(data / "val/ants", only / "ants")
    result = evaluate(run, only, device="cpu")
    assert (result.accuracy.n, result.accuracy.recall[1]) == (3, None)
    expected = [prediction.label for prediction in Classifier.load(run, device="cpu").predict(only)]
    assert result.accuracy.accuracy == expected.count("ants") / 3
    assert result.accuracy.log_loss is not None


def test_several_labels_are_judged_label_by_label(tmp_path: Path) -> None:
    table = write_pictures(tmp_path / "pictures")
    cache = extract(table, tmp_path / "c.h5", views=0, dtype="float32", precision="fp32", **NET).cache
    fit = fit_head(cache, tmp_path / "model")
    result = evaluate(tmp_path / "model", table, device="cpu")
    for name in ("accuracy", "mean_average_precision", "micro_f1", "log_loss"):
        assert result.accuracy.to_dict()[name] == pytest.approx(fit.accuracy.to_dict()[name], abs=1e-4)
    text = table.read_text().replace("red|green,val", "red|pink,val")
    (tmp_path / "pictures/pink.csv").write_text(text)
    pink = evaluate(tmp_path / "model", tmp_path / "pictures/pink.csv", device="cpu")
    assert (pink.accuracy.n, pink.unknown) == (8, {"pink": 1})
    assert "labels that the model does not know are not counted: pink 1" in str(pink)


def test_what_cannot_be_evaluated_is_refused(data: Path, model: Path, tmp_path: Path) -> None:
    flat = write_folder(tmp_path / "flat", {"cats": 2, "dogs": 2})
    message = refused("evaluate", model, flat)
    assert "no class in common: the images have the classes cats, dogs, the model has ants, bees" in message
    with pytest.raises(DataLayoutError, match="has no splits, so --split val"):
        evaluate(model, write_folder(tmp_path / "plain", {"ants": 2, "bees": 2}), split="val")
    with pytest.raises(EmptyFolderError, match="no labelled images in test"):
        evaluate(model, data, split="test")
    x = np.random.default_rng(0).normal(size=(6, 1, 3)).astype(np.float32)
    cache_of(tmp_path / "c.h5", (x, np.arange(6) % 2), (x[:, 0], np.arange(6) % 2))
    for more in ([], ["--overwrite"]):  # no advice that would not help
        error_text = refused("evaluate", model, data, "-o", model, *more)
        assert error_text == f"{model} holds a model, and its metrics would be replaced. Give another folder."
    assert "is not a saved model" in refused("evaluate", tmp_path, data)


def test_two_spellings_of_one_class_are_one(model: Path, data: Path, tmp_path: Path) -> None:
    """A class folder in Unicode's decomposed form, as macOS writes names."""
    other = write_folder(tmp_path / "data", {"train/be\u0301": 4, "train/ants": 4, "val/be\u0301": 2, "val/ants": 2})
    cache = extract(other, tmp_path / "c.h5", views=0, **NET).cache
    fit_head(cache, tmp_path / "model")
    new = write_folder(tmp_path / "new", {"b\u00e9": 2, "ants": 2})
    result = evaluate(tmp_path / "model", new, device="cpu")
    assert (result.accuracy.n, result.unknown) == (4, {})


def test_predictions_are_not_kept(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each holds a pair for each class: of 50,000 images and 1,000 classes they would be gigabytes."""
    new = write_folder(tmp_path / "new", {"ants": 12, "bees": 12})
    predict, most = evaluating._predict, [0]
    made: list[Any] = []

    def watched(*args: Any) -> Iterator[Prediction]:
        for prediction in predict(*args):
            made.append(weakref.ref(prediction))
            yield prediction
            del prediction
            most[0] = max(most[0], sum(ref() is not None for ref in made))

    monkeypatch.setattr(evaluating, "_predict", watched)
    assert evaluate(model, new, device="cpu", batch_size=2).accuracy.n == len(made) == 24
    assert most[0] < 20


def test_columns_are_chosen_as_errors_advise(data: Path, model: Path) -> None:
    """One file is missing, and two columns may be the label."""
    rows = [f"val/{name}/000.png,{name},{number}" for number, name in enumerate(("ants", "bees"))]
    table = data / "columns.csv"
    table.write_text("\n".join(["path,class,target", *rows, "val/ants/none.png,ants,0"]))
    assert "--label-column class" in refused("evaluate", model, table)
    assert "--skip-missing" in refused("evaluate", model, table, "--label-column", "class")
    result = as_json("evaluate", model, table, "--label-column", "class", "--skip-missing", "--device", "cpu")
    assert (result["n"], len(result["skipped"])) == (2, 1)
    assert "--label-column class" in refused("try", table, "-o", data.parent / "trial")
    assert "--skip-missing" in refused("try", table, "-o", data.parent / "trial", "--label-column", "class")
