"""Fine-tuning on texts: the toy encoder's known answers, and equality with cached heads."""

from __future__ import annotations

import csv
import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from featcache.backbones.text_encoder import TextEncoder
from featcache.backbones.text_training import PADDING, TrainableText, find_layers
from featcache.data.manifest import read_manifest
from featcache.errors import DataLayoutError, RunError
from featcache.extraction.extract import extract
from featcache.finetuning.finetune import finetune
from featcache.finetuning.text_defaults import TEXT_DEFAULTS, TEXT_HEAD_DEFAULTS
from featcache.heads.fit_head import fit_head
from featcache.heads.io import load_head
from featcache.metrics.predictions import LAST, read_predictions
from featcache.models.classifier import Classifier
from featcache.models.evaluate import evaluate
from featcache.training.checkpoint import load_checkpoint
from featcache.training.config import TrainConfig
from toys import toy_backbone
from toytexts import WORDS, ToyTokenizer, toy_text_answer, toy_text_encoder

CONFIG = TrainConfig(epochs=3, batch_size=4, lr=0.02, optimizer="adamw", schedule="cosine")
FRAMES = ["{} film", "the {} film", "a very {} film", "not {}", "very very {}", "{}"]


class LayeredNet(nn.Module):
    """Embeddings and three layers with dropout; padding is not looked at."""

    def __init__(self) -> None:
        super().__init__()
        self.vectors = nn.Embedding(len(WORDS), 6)
        self.layer = nn.ModuleList([nn.Sequential(nn.Linear(6, 6), nn.Tanh(), nn.Dropout(0.2)) for _ in range(3)])

    def forward(self, ids: Tensor, mask: Tensor) -> list[Tensor]:
        hidden = [self.vectors(ids)]
        for layer in self.layer:
            hidden.append(layer(hidden[-1]))
        return hidden


def layered_encoder(**options: Any) -> TextEncoder:
    with torch.random.fork_rng():
        torch.manual_seed(5)
        net = LayeredNet()
    return TextEncoder(net, ToyTokenizer(max_length=100), name="layered", **options)


@pytest.fixture
def table(tmp_path: Path) -> Path:
    """24 texts of two classes, of which 8 are val."""
    path = tmp_path / "reviews.csv"
    with path.open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["text", "label", "split"])
        for word, label in (("good", "good"), ("bad", "bad"), ("dull", "bad"), ("good good", "good")):
            for number, frame in enumerate(FRAMES):
                rows.writerow([frame.format(word), label, "val" if number % 3 == 2 else "train"])
    return path


def _texts(table: Path, split: str) -> list[str]:
    manifest = read_manifest(table)
    return [manifest.read(row).decode() for row in manifest.samples.rows(split)]


def test_the_trainable_module_gives_the_features_of_the_frozen_encoder() -> None:
    texts = ["good", "the very good film", "not bad"]
    for normalize in (False, True):
        encoder = toy_text_encoder(normalize=normalize)
        module = encoder.trainable_module().eval()
        inputs = encoder.network_input(encoder.tokenizer(texts).tokens)
        assert (inputs == PADDING).sum(1).tolist() == [3, 0, 2]
        expected = np.stack([toy_text_answer(text).mean(axis=0) for text in texts])
        expected /= np.linalg.norm(expected, axis=1, keepdims=True) if normalize else 1
        np.testing.assert_allclose(module(inputs).detach().numpy(), expected, rtol=1e-5)
        np.testing.assert_allclose(encoder.embed(texts), expected, rtol=1e-5)


def test_gradients_reach_the_embeddings_and_padding_has_none() -> None:
    encoder = layered_encoder()
    module = encoder.trainable_module()
    assert all(parameter.requires_grad for parameter in module.parameters())
    module(encoder.network_input(encoder.tokenizer(["good", "the very good film"]).tokens)).sum().backward()
    gradient = module.network.vectors.weight.grad
    assert gradient[WORDS.index("good")].abs().sum() > 0
    assert gradient[WORDS.index("[PAD]")].abs().sum() == 0


def test_layers_are_the_stages() -> None:
    encoder = layered_encoder()
    assert encoder.stages(encoder.extract_spec(views=0, dtype="float32")) == [f"network.layer.{n}" for n in range(3)]
    assert find_layers(TrainableText(nn.Embedding(3, 2), "mean", False, 0)) == []
    side_by_side = nn.ModuleList(nn.Conv1d(2, 2, order) for order in (1, 2, 3))  # as in use-multilingual-3
    assert find_layers(TrainableText(side_by_side, "mean", False, 0)) == []


def test_a_cached_head_and_a_head_on_the_live_encoder_are_one(table: Path, tmp_path: Path) -> None:
    """Law 1, for the whole texts and for views by a recipe."""
    for augment in ("none", "word-dropout"):
        encoder, options = toy_text_encoder(tokenizer=ToyTokenizer(100)), {"augment": augment, "seed": 6}
        cache = extract(table, tmp_path / f"{augment}.h5", backbone=encoder, views=3, dtype="float32", **options).cache
        fit = fit_head(cache, head="sgd", parameters=vars(CONFIG), seed=6)
        run = finetune(table, tmp_path / augment, backbone=encoder, mode="head", config=CONFIG, **options)
        for field in ("loss", "val_loss", "val_accuracy"):
            found, expected = ([getattr(epoch, field) for epoch in one.history] for one in (fit, run))
            np.testing.assert_allclose(found, expected, rtol=1e-5)
        head = load_head(tmp_path / augment / "head.safetensors")
        np.testing.assert_allclose(fit.estimator.coef_, head.coef_, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("normalize", [False, True])
def test_lp_ft_starts_at_the_predictions_of_the_cached_head(table: Path, tmp_path: Path, normalize: bool) -> None:
    encoder = layered_encoder(normalize=normalize)
    cache = extract(table, tmp_path / "c.h5", backbone=encoder, dtype="float32").cache
    fit = fit_head(cache, tmp_path / "head", head="linear")
    run = finetune(
        table, tmp_path / "run", backbone=encoder, init_head=tmp_path / "head", config={"epochs": 1, "lr": 1e-9}
    )
    assert run.start is not None
    assert run.start.accuracy == fit.accuracy.accuracy
    assert run.start.log_loss == pytest.approx(fit.accuracy.log_loss, rel=1e-5)
    cached, live = (read_predictions(tmp_path / folder, file) for folder, file in (("head", "val.csv"), ("run", LAST)))
    for one, other in zip(cached, live, strict=True):
        assert (one.image, one.predicted) == (other.image, other.predicted)
        assert one.probabilities == pytest.approx(other.probabilities, abs=2e-6)


def test_a_head_of_another_tokenizer_is_refused(table: Path, tmp_path: Path) -> None:
    cache = extract(table, tmp_path / "c.h5", backbone=toy_text_encoder(), dtype="float32").cache
    fit_head(cache, tmp_path / "head", head="linear")
    other = toy_text_encoder(tokenizer=ToyTokenizer(max_length=5))
    with pytest.raises(RunError, match="was fitted with max_length=16, here 5"):
        finetune(table, tmp_path / "run", backbone=other, init_head=tmp_path / "head")
    with pytest.raises(RunError, match="imagenet:good,bad is a classifier of images, and these are texts"):
        finetune(table, tmp_path / "run", backbone=other, init_head="imagenet:good,bad")


@pytest.mark.parametrize(("unfreeze", "trained"), [("last-stage", 1), (2, 2), ("all", 3)])
def test_the_last_layers_alone_are_trained(table: Path, tmp_path: Path, unfreeze: Any, trained: int) -> None:
    encoder = layered_encoder()
    before = {f"body.{name}": value for name, value in encoder.trainable_module().state_dict().items()}
    finetune(table, tmp_path / "run", backbone=encoder, unfreeze=unfreeze, config=CONFIG)
    after = load_checkpoint(tmp_path / "run/last.pt")[0]["module"]
    changed = {name for name, value in before.items() if not torch.equal(value, after[name])}
    expected = {
        f"body.network.layer.{number}.0.{part}" for number in range(3 - trained, 3) for part in ("weight", "bias")
    }
    assert changed == expected | ({"body.network.vectors.weight"} if trained == 3 else set())


def test_each_layer_has_its_rate_and_the_head_its_own(table: Path, tmp_path: Path) -> None:
    config = {"epochs": 1, "lr": 0.01, "head_lr": 0.1, "schedule": "constant"}
    finetune(table, tmp_path / "run", backbone=layered_encoder(), layer_decay=0.5, config=config)
    groups = load_checkpoint(tmp_path / "run/last.pt")[0]["optimizer"]["param_groups"]
    assert [group["lr"] for group in groups] == [0.005, 0.0025, 0.00125, 0.1]


def test_it_resumes_and_equals_an_uninterrupted_run(table: Path, tmp_path: Path) -> None:
    options: dict[str, Any] = {"augment": "word-dropout", "seed": 3, "deterministic": True}
    whole = finetune(table, tmp_path / "whole", backbone=layered_encoder(), config=CONFIG, **options)

    class StopError(Exception):
        pass

    def stop(epoch: Any) -> None:
        if epoch.epoch == 2:
            raise StopError

    with pytest.raises(StopError):
        finetune(table, tmp_path / "run", backbone=layered_encoder(), config=CONFIG, on_epoch=stop, **options)
    again = finetune(table, tmp_path / "run", backbone=layered_encoder(), config=CONFIG, **options)
    strip = [[dataclasses.replace(epoch, seconds=0.0) for epoch in run.history] for run in (whole, again)]
    assert strip[0] == strip[1]
    networks = [(tmp_path / name / "network.safetensors").read_bytes() for name in ("whole", "run")]
    assert networks[0] == networks[1]
    with pytest.raises(RunError, match="was run with"):
        finetune(table, tmp_path / "run", backbone=layered_encoder(), config={"lr": 0.5}, **options)


def test_defaults_are_those_of_texts(table: Path, tmp_path: Path) -> None:
    finetune(table, tmp_path / "all", backbone=layered_encoder(), config={"epochs": 1})
    finetune(table, tmp_path / "head", backbone=layered_encoder(), mode="head", config={"epochs": 1})
    for name, expected in (("all", TEXT_DEFAULTS), ("head", TEXT_HEAD_DEFAULTS)):
        config = load_checkpoint(tmp_path / name / "last.pt")[1]
        assert config == {**config, **expected, "epochs": 1, "modality": "text", "augment": "none"}


def test_what_is_for_images_says_so(table: Path, split_folder: Path, tmp_path: Path) -> None:
    for option, value in (("image_size", 64), ("image_cache", tmp_path / "i.h5"), ("workers", 3)):
        with pytest.raises(DataLayoutError, match=f"holds texts, and {option} is for images"):
            finetune(table, tmp_path / "run", backbone=layered_encoder(), **{option: value})
    with pytest.raises(DataLayoutError, match="holds images, and max_length is for texts"):
        finetune(split_folder, tmp_path / "run", backbone=toy_backbone(), max_length=8)
    with pytest.raises(DataLayoutError, match="holds texts, and toy is a network for images"):
        finetune(table, tmp_path / "run", backbone=toy_backbone())


def test_a_saved_run_predicts_as_it_was_evaluated(table: Path, tmp_path: Path) -> None:
    """Its weights are not those of the given encoder, and batches of other lengths change nothing."""
    finetune(table, tmp_path / "run", backbone=layered_encoder(), config=CONFIG)
    rows, texts = read_predictions(tmp_path / "run"), _texts(table, "val")
    classifier = Classifier.load(tmp_path / "run", backbone=layered_encoder(), device="cpu")
    for size in (1, 8):
        predictions = classifier.predict(texts, batch_size=size)
        assert [prediction.label for prediction in predictions] == [row.predicted for row in rows]
        found = [prediction.probability for prediction in predictions]
        assert found == pytest.approx([row.probabilities[0] for row in rows], abs=2e-6)
    accuracy = np.mean([row.right for row in rows])
    assert evaluate(tmp_path / "run", table, backbone=layered_encoder(), device="cpu").accuracy.accuracy == accuracy
