"""Fine-tuning on images with several labels, and the probabilities that a run keeps."""

from __future__ import annotations

import csv
import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib import pyplot as plt
from scipy.special import expit, softmax

from commands import SMALL, as_json, done, drop_hashes
from featcache.core.model_card import ModelCard
from featcache.errors import PictureError, RunError
from featcache.extraction.extract import extract
from featcache.finetuning.finetune import FineTune, finetune
from featcache.heads.fit_head import fit_head
from featcache.heads.io import load_head
from featcache.heads.one_vs_rest import OneVsRestHead
from featcache.metrics.predictions import read_predictions
from featcache.reports.model_figures import predictions_figure, reliability_figure
from featcache.training.loop import TrainConfig
from several import write_pictures
from toys import toy_answer, toy_backbone
from trainable import CONFIG, trainable_backbone

CLASSES = ("blue", "green", "red")


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return write_pictures(tmp_path / "pictures")


def tune(data: Path, out: Path, **options: Any) -> FineTune:
    config = TrainConfig(epochs=8, batch_size=8, lr=0.5, schedule="constant")
    return finetune(data, out, **{"backbone": toy_backbone(), "mode": "head", "config": config, **options})


def test_a_head_learns_which_colours_are_there(data: Path, tmp_path: Path) -> None:
    result = tune(data, tmp_path / "run")
    assert result.report.accuracy is not None
    assert result.best.val_mean_average_precision == 1.0
    assert "best val mAP 1.0000, all labels right " in str(result)
    card = ModelCard.read(tmp_path / "run")
    assert (card.multilabel, card.classes, card.metrics["mean_average_precision"]) == (True, CLASSES, 1.0)
    head = load_head(tmp_path / "run/head.safetensors")
    assert isinstance(head, OneVsRestHead)


def test_the_first_epoch_s_loss_is_that_of_each_label_by_itself(data: Path, tmp_path: Path) -> None:
    """One step of all images: the loss of the first weights, in numpy."""
    from featcache.data.manifest import read_manifest
    from featcache.training.loop import linear_layer
    from featcache.vision.augment import make_views

    config = TrainConfig(epochs=1, batch_size=24, lr=0.5)
    result = tune(data, tmp_path / "run", config=config, seed=3)
    manifest, spec = read_manifest(data), toy_backbone().view_spec(seed=3)
    rows = manifest.samples.rows("train")
    from featcache.vision.decode import decode

    views = [
        make_views(decode(manifest.read(row)), spec, manifest.samples.sha256[row].tobytes(), [1])[0] for row in rows
    ]
    layer = linear_layer(3, 3, 3)
    z = toy_answer(np.stack(views)) @ layer.weight.detach().numpy().T + layer.bias.detach().numpy()
    y = manifest.samples.labels[rows]
    expected = -np.where(y, np.log(expit(z)), np.log(expit(-z))).mean()
    assert result.history[0].loss == pytest.approx(expected, rel=1e-4)


def test_the_best_epoch_is_that_of_the_highest_mean_average_precision(data: Path, tmp_path: Path) -> None:
    config = TrainConfig(epochs=6, batch_size=5, lr=3.0, momentum=0.9, schedule="constant")
    result = tune(data, tmp_path / "run", backbone=trainable_backbone(), mode="all", config=config)
    precisions = [epoch.val_mean_average_precision for epoch in result.history]
    assert result.best.epoch == 1 + precisions.index(max(precisions))
    assert ModelCard.read(tmp_path / "run").metrics["mean_average_precision"] == max(precisions)
    assert all("val-mAP" in str(epoch) for epoch in result.history)


def test_an_interrupted_run_with_several_labels_goes_on_to_the_same_result(data: Path, tmp_path: Path) -> None:
    class StopError(Exception):
        pass

    def stop(phase: str, count: int, _total: int) -> None:
        if (phase, count) == ("epoch 2", 12):
            raise StopError

    options: dict[str, Any] = {"backbone": trainable_backbone(), "mode": "all", "config": CONFIG}
    whole = tune(data, tmp_path / "whole", **options)
    with pytest.raises(StopError):
        tune(data, tmp_path / "cut", progress=stop, **options)
    result = tune(data, tmp_path / "cut", **options)
    losses = [dataclasses.replace(epoch, seconds=0.0) for epoch in result.history]
    assert losses == [dataclasses.replace(epoch, seconds=0.0) for epoch in whole.history]
    for name in ("network.safetensors", "model.json", "val.csv", "last.csv"):
        assert (tmp_path / "cut" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


def test_a_run_begins_with_a_head_that_was_fitted_to_several_labels(
    data: Path, split_folder: Path, tmp_path: Path
) -> None:
    extract(data, tmp_path / "c.h5", backbone=toy_backbone(), views=2, dtype="float32")
    head = fit_head(tmp_path / "c.h5", tmp_path / "head")
    result = tune(data, tmp_path / "run", init_head=tmp_path / "head", config=None)
    assert result.start is not None
    for name in ("accuracy", "log_loss", "calibration_error"):
        assert getattr(result.start, name) == pytest.approx(getattr(head.accuracy, name), rel=1e-4), name
    with pytest.raises(RunError, match="head gives several labels a sample, and the samples here have one label"):
        tune(split_folder, tmp_path / "other", init_head=tmp_path / "head")


def test_a_whole_network_predicts_what_its_run_kept(data: Path, tmp_path: Path) -> None:
    """With the command line, from the file: labels and probabilities are those of val.csv."""
    options = ("--epochs", 1, "--batch-size", 8, *SMALL, "--class-weight", "balanced", "--label-smoothing", 0.1)
    result = as_json("finetune", data, "-o", tmp_path / "run", *options)
    assert result["mean_average_precision"] == result["history"][0]["val_mean_average_precision"]
    saved = {row.image: row for row in read_predictions(tmp_path / "run")}
    pictures = [data.parent / name for name in saved]
    text = done("predict", tmp_path / "run", *pictures, "--format", "csv")
    rows = list(csv.DictReader(text.splitlines()))
    assert len(rows) == len(saved) == 8
    for row in rows:
        assert row["label"] == saved[Path(row["path"]).name].predicted


@pytest.mark.parametrize("mode", ["all", "head"])
def test_val_csv_holds_the_probability_of_what_was_predicted(mode: Any, split_folder: Path, tmp_path: Path) -> None:
    options: dict[str, Any] = {"backbone": trainable_backbone(), "mode": mode, "config": CONFIG}
    result = tune(split_folder, tmp_path / "run", **options)
    rows = read_predictions(tmp_path / "run")
    assert all(len(row.probabilities) == 1 and row.probabilities[0] > 0.5 for row in rows)
    assert result.report.accuracy is not None
    losses = [-np.log(p if row.right else 1 - p) for row in rows for p in row.probabilities]
    assert result.report.accuracy.log_loss == pytest.approx(np.mean(losses), abs=1e-5)
    assert result.report.accuracy.log_loss == pytest.approx(result.best.val_loss, rel=1e-5)
    if mode == "head":
        from featcache.vision.augment import make_views
        from featcache.vision.decode import decode

        spec = ModelCard.read(tmp_path / "run").spec.view
        pixels = [make_views(decode((split_folder / row.image).read_bytes()), spec, b"", [0])[0] for row in rows]
        head = load_head(tmp_path / "run/head.safetensors")
        z = head.decision_function(trainable_backbone().embed(np.stack(pixels)))
        z = np.column_stack([-z, z]) / 2 if z.ndim == 1 else z
        expected = softmax(z, axis=1).max(axis=1)
        np.testing.assert_allclose([row.probabilities[0] for row in rows], expected, atol=2e-6)


def test_a_run_has_a_reliability_diagram_and_percentages(split_folder: Path, tmp_path: Path) -> None:
    tune(split_folder, tmp_path / "run", backbone=trainable_backbone(), config=CONFIG)
    top, _ = reliability_figure(tmp_path / "run")().axes
    assert top.get_title().endswith("(n = 5)")
    figure = predictions_figure(tmp_path / "run", split_folder)()
    texts = [text.get_text() for axes in figure.axes for text in (*axes.texts, axes.title)]
    assert sum("%" in text for text in texts) >= 5
    plt.close("all")


def test_a_run_from_before_they_were_kept_says_how_to_get_them(split_folder: Path, tmp_path: Path) -> None:
    tune(split_folder, tmp_path / "run", backbone=trainable_backbone(), config=CONFIG)
    drop_hashes(tmp_path / "run")
    path = tmp_path / "run/val.csv"
    path.write_text("".join(f"{line.rpartition(',')[0]},\n" for line in path.read_text().splitlines()))
    path.write_text(path.read_text().replace("predicted,", "predicted,probability", 1))
    end = "an older version trained it without saving them: train it again in another folder"
    with pytest.raises(PictureError, match=rf"has no probabilities: {end}\.$"):
        reliability_figure(tmp_path / "run")


def test_patience_and_class_weights_work_for_a_head_on_cached_views(split_folder: Path, tmp_path: Path) -> None:
    extract(split_folder, tmp_path / "c.h5", backbone=toy_backbone(), views=2, augment="tutorial", dtype="float32")
    config = TrainConfig(epochs=30, lr=3.0, patience=2, class_weight={"ants": 2}, label_smoothing=0.1, batch_size=5)
    cached = fit_head(tmp_path / "c.h5", head="sgd", parameters=vars(config))
    live = tune(split_folder, tmp_path / "run", config=dataclasses.replace(config, epochs=2))
    assert len(cached.history) < 30
    assert [epoch.loss for epoch in live.history] == pytest.approx([e.loss for e in cached.history[:2]], rel=1e-4)


def test_the_report_is_json(data: Path, tmp_path: Path) -> None:
    result = tune(data, tmp_path / "run")
    written = json.loads((tmp_path / "run/run.json").read_text())
    assert written["history"][-1]["val_mean_average_precision"] == result.history[-1].val_mean_average_precision
