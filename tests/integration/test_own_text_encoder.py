"""`--backbone MODULE:FACTORY` with an encoder of texts of one's own, in every command that takes a factory."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest

from commands import as_json, featcache_cli, refused, write_folder
from featcache.backbones.factory import call_factory, from_factory
from featcache.backbones.text_encoder import TextEncoder
from featcache.cache.feature_cache import FeatureCache
from featcache.core.model_card import ModelCard
from featcache.errors import BackboneError
from featcache.metrics.predictions import read_predictions
from outcomes import in_this_process
from toytexts import toy_text_answer, toy_text_encoder

FACTORY = """
import torch

from toytexts import ToyTextNet, ToyTokenizer, toy_text_encoder


def build():
    return toy_text_encoder(tokenizer=ToyTokenizer(max_length=100))


def short():
    return toy_text_encoder(tokenizer=ToyTokenizer(max_length=3))


def module():
    return ToyTextNet()


def drawn():
    encoder = toy_text_encoder()
    torch.seed()
    encoder.module.vectors.weight.data.normal_()
    return encoder
"""
GOOD = ["good film", "the very good film", "a good film", "good", "very very good"]
BAD = ["not bad", "a dull film", "the bad film", "dull", "bad film"]


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with the module of the factories, and reviews.csv."""
    (tmp_path / "owntext.py").write_text(FACTORY)
    with (tmp_path / "reviews.csv").open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["text", "label", "split"])
        for label, texts in (("good", GOOD), ("bad", BAD)):
            rows.writerows([text, label, "val" if number > 2 else "train"] for number, text in enumerate(texts))
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    return tmp_path


def test_a_factory_gives_an_encoder_with_other_settings(here: Path) -> None:
    encoder = from_factory("owntext:build", layers="all", device="cpu", precision="fp32")
    assert isinstance(encoder, TextEncoder)
    assert encoder.layers == toy_text_encoder(layers="all").layers
    assert encoder.weights_sha256 == toy_text_encoder().weights_sha256
    np.testing.assert_allclose(encoder.embed(["good film"])[0], toy_text_answer("good film").mean(0), rtol=1e-6)
    original = toy_text_encoder()
    copy = original.with_settings(layers="layer.1:max", device="cpu", precision="bf16")
    assert (copy.layers, copy.precision, copy.name) == (("layer.1:max",), "bf16", "toy-text")
    assert (original.layers, original.precision) == (("penultimate",), "fp32")
    assert copy.module is not original.module
    with pytest.raises(BackboneError, match=r"or a featcache\.Backbone, for texts a featcache\.TextEncoder"):
        call_factory("os:getcwd")


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_every_command_takes_it_and_asks_for_it_again(here: Path, precision: str) -> None:
    own = ("--backbone", "owntext:build", "--device", "cpu")
    as_json("extract", "reviews.csv", "-o", "c.h5", "--dtype", "float32", "--precision", precision, *own)
    spec = FeatureCache.open("c.h5").spec
    assert (spec.backbone, spec.precision, spec.text_view.max_length) == ("toy-text", precision, 100)
    assert spec.layers == toy_text_encoder(layers="all").layers
    as_json("fit-head", "c.h5", "-o", "head", "--head", "linear")
    assert "--backbone MODULE:FACTORY, or backbone=..." in refused("predict", "head", "reviews.csv")
    predicted = as_json("predict", "head", "reviews.csv", *own)["predictions"]
    assert len(predicted) == 10
    fitted = [row.probabilities[0] for row in read_predictions(Path("head"))]
    found = sorted(one["top"][0]["probability"] for one in predicted if one["text"] in (*GOOD[3:], *BAD[3:]))
    np.testing.assert_allclose(found, sorted(fitted), atol=2e-6 if precision == "fp32" else 0.01)
    assert as_json("evaluate", "head", "reviews.csv", *own)["images"] == 4
    report = json.loads(featcache_cli("doctor", "c.h5", "reviews.csv", *own[:2], "--json").stdout)
    assert report["checks"]
    with Path("reviews.csv").open("a", newline="") as file:
        csv.writer(file).writerow(["a new film", "good", "train"])
    assert as_json("update", "c.h5", "reviews.csv", *own)["extracted"] == 1
    assert as_json("verify", "c.h5", "--repair", "reviews.csv", *own[:2])["ok"]
    assert "max_length 3 instead of 100" in refused("predict", "head", "reviews.csv", "--backbone", "owntext:short")


def test_what_does_not_fit_is_refused(here: Path) -> None:
    write_folder(here / "photos")
    text = refused("extract", "photos", "-o", "p.h5", "--backbone", "owntext:build")
    assert "photos holds images, and toy-text is an encoder of texts" in text
    assert "featcache.TextEncoder" in refused("extract", "reviews.csv", "-o", "c.h5", "--backbone", "owntext:module")
    text = refused("extract", "reviews.csv", "-o", "c.h5", "--backbone", "owntext:build", "--max-length", 7)
    assert "toy-text brings its own max_length, 100" in text
    text = refused("benchmark", "photos", "-o", "out", "--routes", "cached", "--backbone", "owntext:build")
    assert "photos holds images, and toy-text is an encoder of texts" in text
    text = refused("benchmark", "reviews.csv", "-o", "out", "--routes", "cached", "--backbone", "owntext:drawn")
    assert "owntext:drawn returns other weights in each call" in text


def test_training_and_a_benchmark_take_it(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    own = ("--backbone", "owntext:build", "--device", "cpu")
    as_json("finetune", "reviews.csv", "-o", "run", "--epochs", 1, "--precision", "fp32", *own)
    assert ModelCard.read(Path("run")).spec.backbone == "toy-text"
    assert len(as_json("predict", "run", "--text", "good film", *own)["predictions"]) == 1
    in_this_process(monkeypatch)
    told = as_json("benchmark", "reviews.csv", "-o", "out", "--routes", "cached,frozen,tfidf", "--epochs", 1, *own)
    assert (told["settings"]["backbone"], told["settings"]["modality"]) == ("owntext:build", "text")
    specs = [FeatureCache.open("out/work/cached-0/cache.h5").spec, ModelCard.read(Path("out/work/frozen-0/run")).spec]
    assert {spec.backbone for spec in specs} == {"toy-text"}
    assert len({spec.weights_sha256 for spec in specs}) == 1
