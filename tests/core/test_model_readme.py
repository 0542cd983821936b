"""README.md of a model: what the Hub's client reads back, escaped names, no folders of this machine."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import EvalResult, ModelCard
from huggingface_hub.repocard_data import ModelCardData

from featcache.core.hub_names import hub_dataset
from featcache.core.markdown import escape
from featcache.core.model_card import ModelCard as SavedCard
from featcache.core.model_metadata import last_part, public_name
from featcache.core.model_readme import model_readme
from featcache.core.specs import ExtractSpec, ViewSpec

METRICS: dict[str, Any] = {
    "accuracy": 0.75, "accuracy_low": 0.3006, "accuracy_high": 0.9544, "n": 4, "classes": ["a|b", "# <script>"],
    "balanced_accuracy": 0.7, "macro_f1": 0.6, "recall": [0.5, None], "class_precision": [1.0, 0.25],
    "confusion": [[1, 1], [0, 0]], "top5": None, "log_loss": 0.5, "calibration_error": 0.125,
}  # fmt: skip
CARD = SavedCard(
    kind="head",
    file="head.safetensors",
    head="ridge",
    classes=("a|b", "# <script>"),
    spec=ExtractSpec("timm/resnet18.a1_in1k", "ab" * 32, ViewSpec(8, 10), views=0),
    weights="pretrained",
    layer="penultimate",
    metrics=METRICS,
)
REPORT: dict[str, Any] = {
    "data": {
        "name": "/home/someone/secret/photos.h5", "images": {"train": 8, "val": 2},
        "images_by_class": {"train": {"a|b": 5, "# <script>": 3}, "val": {"a|b": 2, "# <script>": 0}},
        "held_out": {"images": 2, "of": 10, "seed": 7}, "groups": 3, "skipped": 4, "digest": "cd" * 32,
        "warnings": ["val has 2 images"],
    },
    "test": {**METRICS, "accuracy": 0.5, "n": 2},
    "selection": {"folds": 5, "images": 8, "temperature": 0.5, "entrants": [
        {"head": "ridge", "setting": "strength=1", "accuracy": 0.9, "accuracy_low": 0.8, "accuracy_high": 0.95,
         "log_loss": 0.25}]},
    "versions": {"python": "3.11", "torch": "2.14.1"},
}  # fmt: skip


def loaded(tmp_path: Path, content: bytes) -> ModelCard:
    """As the Hub's client reads it."""
    (tmp_path / "README.md").write_bytes(content)
    return ModelCard.load(tmp_path / "README.md")


def test_the_client_of_the_hub_reads_every_figure_back(tmp_path: Path) -> None:
    content = model_readme(CARD, REPORT, base_model="timm/resnet18.a1_in1k", dataset="user/birds")
    data = loaded(tmp_path, content).data
    assert isinstance(data, ModelCardData)
    assert (data.library_name, data.pipeline_tag) == ("featcache", "image-classification")
    assert (data.base_model, data.datasets, data.license) == ("timm/resnet18.a1_in1k", ["user/birds"], None)
    assert data.tags == ["featcache", "transfer-learning"]
    assert data.model_name == "ridge on timm/resnet18.a1_in1k"
    results: list[EvalResult] = data.eval_results or []
    assert [(each.dataset_split, each.metric_type, each.metric_value, each.metric_name) for each in results] == [
        ("val", "accuracy", 0.75, "Accuracy (95 % interval 0.3006 to 0.9544, n = 4)"),
        ("val", "f1", 0.6, "Macro F1"),
        ("test", "accuracy", 0.5, "Accuracy (95 % interval 0.3006 to 0.9544, n = 2)"),
        ("test", "f1", 0.6, "Macro F1"),
    ]
    assert {(each.dataset_name, each.dataset_type, each.verified) for each in results} == {
        ("user/birds", "user/birds", None)
    }


def test_the_text_has_data_choice_limits_and_versions() -> None:
    lines = model_readme(CARD, REPORT).decode().splitlines()
    for line in (
        "# Head ridge on timm/resnet18.a1\\_in1k",
        "| val | accuracy | 0.7500 | 0.3006 to 0.9544 | 4 |",
        "| test | accuracy | 0.5000 | 0.3006 to 0.9544 | 2 |",
        "| a\\|b | 5 | 2 |",
        "| \\# \\<script\\> | 3 | 0 |",
        "| all | 8 | 2 |",
        "| a\\|b | 0.5000 | 1.0000 | 2 |",
        "| \\# \\<script\\> |  | 0.2500 | 0 |",
        "- There was no val split: 2 of 10 samples were held out (seed 7).",
        "- 4 more could not be read, and were left out.",
        f"- SHA-256 over names, labels, splits and contents: `{'cd' * 32}`.",
        "By 5-fold cross-validation on 8 training samples, without val.",
        "| ridge | strength=1 | 0.9000 | 0.8000 to 0.9500 | 0.2500 |",
        "- val has 2 images",
        "- val has no sample of \\# \\<script\\>: nothing is known of the accuracy there.",
        "- It knows 2 classes. A sample of another class gets one of these all the same.",
        "- The calibration error of its probabilities on val is 0.1250; a temperature from held-out training samples "
        "adjusts them.",
        "| torch | 2.14.1 |",
    ):
        assert line in lines, line


def test_folders_of_this_machine_are_not_in_it(tmp_path: Path) -> None:
    spec = dataclasses.replace(CARD.spec, backbone="timm/local-dir:/home/someone/nets/small")
    card = dataclasses.replace(CARD, spec=spec, weights="/home/someone/w/best.pth")
    report = {**REPORT, "path": "/home/someone/out", "skipped": [{"path": "/home/someone/x.jpg"}]}
    content = model_readme(card, report)
    assert b"someone" not in content
    assert b"timm/local-dir:small" in content
    assert b"(best.pth)" in content
    assert b"add `--weights FILE`" in content
    results = loaded(tmp_path, content).data.eval_results
    assert results is not None
    assert results[0].dataset_name == "photos.h5"


@pytest.mark.parametrize(
    "name", ["a: b", "- x", "'\"", "\x1b[31m", "{{x}}", "---\nlicense: mit", "\ud800", "日本 🐝", "%", "null"]
)
def test_no_name_breaks_the_head(name: str, tmp_path: Path) -> None:
    spec = dataclasses.replace(CARD.spec, backbone=name)
    card = dataclasses.replace(CARD, spec=spec, classes=(name, "b"))
    report = {**REPORT, "data": {**REPORT["data"], "name": name, "images_by_class": {}}}
    data = loaded(tmp_path, model_readme(card, report)).data
    assert (data.library_name, data.license) == ("featcache", None)
    assert data.eval_results is not None
    assert data.eval_results[0].metric_value == 0.75


def test_a_training_that_goes_on_has_the_figures_of_val_alone(tmp_path: Path) -> None:
    content = model_readme(dataclasses.replace(CARD, kind="network", file="network.safetensors", head="sgd"))
    assert content.decode().splitlines().count("## Data") == 0
    results = loaded(tmp_path, content).data.eval_results
    assert results is not None
    assert [(each.dataset_split, each.dataset_name) for each in results] == [("val", "unnamed")] * 2


def test_texts_several_labels_and_arrays_have_their_own_tags(tmp_path: Path) -> None:
    metrics = {**METRICS, "mean_average_precision": 0.8, "micro_f1": 0.5, "images": [1, 1]}
    several = dataclasses.replace(CARD, multilabel=True, metrics=metrics, thresholds=(0.25, 0.5))
    data = loaded(tmp_path, model_readme(several, REPORT)).data
    assert data.tags is not None
    assert "multi-label" in data.tags
    assert data.eval_results is not None
    assert [(each.metric_type, each.metric_value) for each in data.eval_results][1] == ("mean_average_precision", 0.8)
    assert "above its threshold: 0.25 to 0.5 by label" in model_readme(several, REPORT).decode()
    arrays = dataclasses.replace(CARD, spec=dataclasses.replace(CARD.spec, backbone="arrays:own"), weights="none")
    content = model_readme(arrays, REPORT)
    assert loaded(tmp_path, content).data.pipeline_tag is None
    assert b'FeatureClassifier.load("MODEL").predict("features.h5")' in content


def test_of_many_classes_the_worst_are_named() -> None:
    classes = tuple(f"c{number:03d}" for number in range(60))
    confusion = [[int(row == column) for column in range(60)] for row in range(60)]
    recall = [number / 60 for number in range(60)]
    metrics = {**METRICS, "recall": recall, "class_precision": [1.0] * 60, "confusion": confusion}
    text = model_readme(dataclasses.replace(CARD, classes=classes, metrics=metrics)).decode()
    assert "| c049 | 0.8167 | 1.0000 | 1 |" in text
    assert "| c050 |" not in text
    assert "These are the 50 of 60 with the lowest recall; `model.json` has all." in text


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("timm/resnet18.a1_in1k", "timm/resnet18.a1_in1k"),
        ("timm/hf-hub:org/name", "timm/hf-hub:org/name"),
        ("transformers//home/me/model", "transformers/model"),
        ("transformers/~/nets/model", "transformers/model"),
        ("transformers/../nets/model", "transformers/model"),
        ("timm/local-dir:C:\\Users\\me\\net", "timm/local-dir:net"),
        ("/home/me/net", "net"),
    ],
)
def test_a_backbone_is_named_without_its_folder(name: str, shown: str) -> None:
    assert public_name(name) == shown


@pytest.mark.parametrize(
    ("place", "name"),
    [
        ("hf://datasets/user/birds/train.parquet", "user/birds"),
        ("hf://datasets/user/birds@main/a/b.parquet", "user/birds"),
        ("hf://datasets/user/birds", "user/birds"),
        ("/root/.cache/huggingface/hub/datasets--user--my-birds/snapshots/0a/data/*.parquet", "user/my-birds"),
        ("/data/datasets--x/birds", ""),
        ("photos", ""),
    ],
)
def test_a_data_set_of_the_hub_is_known_by_its_place(place: str, name: str) -> None:
    assert hub_dataset(place) == name


def test_last_parts() -> None:
    assert [last_part(text) for text in ("/a/b.h5", "s3://b/x/y.h5?key=1", "C:\\a\\b", "", "/", "a/")] == [
        "b.h5", "y.h5", "b", "", "", "a"]  # fmt: skip


def test_escaped_text_keeps_its_letters() -> None:
    assert escape("sea-lion: 1") == "sea-lion: 1"
    assert escape("http://x [a](b)\n`c`") == "http\\://x \\[a\\]\\(b\\)\\\\n\\`c\\`"


def test_the_card_says_that_the_head_learned_from_unlabeled_samples_and_which_networks_were_chosen() -> None:
    training = {"used": True, "samples": 1234, "held_out": 40, "plain": 0.7, "self_trained": 0.8}
    report = {**REPORT, "self_training": training, "cache_comparison": {"chosen": ["small", "larg`e"]}}
    text = model_readme(CARD, report).decode()
    assert "it learned from 1,234 samples without a label, too (self-training). On 40 held-out" in text
    assert "the accuracy is 0.8000, and 0.7000 without them. The saved head is `ridge`." in text
    assert "cross-validation chose small and larg\\`e." in text
    refused = model_readme(CARD, {**REPORT, "self_training": {**training, "used": False}}).decode()
    assert "self-training" not in refused


def test_refusals_are_promised_only_where_there_is_a_score() -> None:
    assert "`predict --unknown`" not in model_readme(CARD, REPORT).decode()
    assert "`predict --unknown`" in model_readme(CARD, {**REPORT, "novelty": {"auroc": 0.8}}).decode()
