"""A head on texts: a prediction is the head on the cached features of the text, wherever the text comes from."""

from __future__ import annotations

import csv
import io
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from featcache.data.manifest import read_manifest
from featcache.errors import DataLayoutError, EmptyFolderError, IgnoredFilesWarning
from featcache.extraction.extract import extract
from featcache.heads.fit_head import fit_head
from featcache.models.classifier import Classifier
from featcache.models.evaluate import evaluate
from featcache.models.inputs.names import list_inputs
from toys import image_inputs
from toytexts import ToyTokenizer, text_inputs, toy_text_encoder

GOOD = ["good film", "the very good film", "a good film", "good", "very very good", "very good film", "the good film"]
BAD = ["not bad", "a dull film", "the bad film", "dull", "bad film", "the dull film", "a very dull film"]


def write_table(path: Path) -> Path:
    with path.open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["text", "label", "split"])
        for label, texts in (("good", GOOD), ("bad", BAD)):
            for number, text in enumerate(texts):
                rows.writerow([text, label, "val" if number in (1, 4) else "train"])
    return path


def encoder() -> Any:
    return toy_text_encoder(tokenizer=ToyTokenizer(max_length=100))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """With reviews.csv, a cache with two views of each text, and two heads: `head`, and `tta` on all views."""
    folder = tmp_path_factory.mktemp("texts")
    table = write_table(folder / "reviews.csv")
    options: dict[str, Any] = {"views": 2, "val_views": 2, "augment": "word-dropout", "dtype": "float32"}
    extract(table, folder / "c.h5", backbone=encoder(), **options)
    fit_head(folder / "c.h5", folder / "head", head="linear")
    fit_head(folder / "c.h5", folder / "tta", head="linear", tta=2)
    return folder


@pytest.fixture(scope="module")
def classifier(folder: Path) -> Classifier:
    return Classifier.load(folder / "head", backbone=encoder())


def val_rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


@pytest.mark.parametrize("head", ["head", "tta"])
def test_a_prediction_is_the_head_on_the_cached_features(folder: Path, head: str) -> None:
    manifest = read_manifest(folder / "reviews.csv")
    rows = manifest.samples.rows("val")
    classifier = Classifier.load(folder / head, backbone=encoder())
    predictions = classifier.predict([manifest.read(row).decode() for row in rows])
    expected = {row["text"]: row for row in val_rows(folder / head / "val.csv")}
    assert len(predictions) == 4
    for row, prediction in zip(rows, predictions, strict=True):
        fitted = expected[manifest.samples.ids[row]]
        assert prediction.label == fitted["predicted"]
        assert prediction.probability == pytest.approx(float(fitted["probability"]), abs=2e-6)


def test_views_change_what_a_text_gets(folder: Path) -> None:
    texts = ["the very good film a good film", "a dull film the very bad film"]
    plain, augmented = (Classifier.load(folder / "tta", backbone=encoder()).predict(texts, tta=tta) for tta in (0, 2))
    assert [a.probability for a in plain] != [b.probability for b in augmented]


def test_texts_files_and_tables_are_predicted_alike(classifier: Classifier, folder: Path, tmp_path: Path) -> None:
    texts = [*GOOD, *BAD]
    expected = [item.top for item in classifier.predict(texts)]
    assert [item.path for item in classifier.predict(texts)] == [""] * len(texts)
    assert [item.text for item in classifier.predict(texts)] == texts
    from_table = classifier.predict(folder / "reviews.csv")
    assert [item.top for item in from_table] == expected
    assert from_table[5].path == f"{folder / 'reviews.csv'}, line 7"
    (tmp_path / "files").mkdir()
    paths = [tmp_path / f"files/{number:02d}.txt" for number in range(len(texts))]
    for path, text in zip(paths, texts, strict=True):
        path.write_bytes(b"\xef\xbb\xbf" + text.encode())
    assert [item.top for item in classifier.predict(paths)] == expected
    in_folder = classifier.predict(tmp_path / "files")
    assert [item.top for item in in_folder] == expected
    assert [item.path for item in in_folder] == list(map(str, paths))
    lines = tmp_path / "lines.jsonl"
    lines.write_text("".join(json.dumps({"message": text}) + "\n" for text in texts))
    assert [item.top for item in classifier.predict(lines, text_column="message")] == expected
    assert [item.top for item in classifier.predict([io.StringIO(texts[0]), texts[1].encode()])] == expected[:2]
    assert classifier.predict(texts[0])[0].top == expected[0]


def test_a_batch_of_any_size_gives_the_same(classifier: Classifier) -> None:
    texts = [*GOOD, *BAD]
    by_size = [[item.probability for item in classifier.predict(texts, batch_size=size)] for size in (1, 3, 100)]
    np.testing.assert_allclose(by_size[0], by_size[1], rtol=1e-6)
    np.testing.assert_allclose(by_size[0], by_size[2], rtol=1e-6)


def test_texts_that_cannot_be_read_keep_their_place(classifier: Classifier, tmp_path: Path) -> None:
    (tmp_path / "latin.txt").write_bytes("caf\xe9".encode("latin-1"))
    mixed: list[Any] = ["good", "  ", tmp_path / "latin.txt", tmp_path / "none.txt", "\ud800", b"dull"]
    predictions = classifier.predict(mixed)
    assert [item.label is None for item in predictions] == [False, True, True, True, True, False]
    assert predictions[1].error == "an empty text"
    assert "not a text in UTF-8" in str(predictions[2].error)
    assert predictions[3].error == os.strerror(2)


def test_the_beginning_of_a_text_is_one_line(classifier: Classifier) -> None:
    (prediction,) = classifier.predict(["good\n film " + "very " * 100])
    assert prediction.text is not None
    assert prediction.text.startswith("good film very very")
    assert (len(prediction.text), prediction.text[-1]) == (80, "…")
    assert str(prediction).endswith(prediction.text)
    assert not str(prediction).startswith("\t")


def test_a_string_that_is_a_path_is_refused(classifier: Classifier, folder: Path) -> None:
    for name in (str(folder / "reviews.csv"), str(folder), "gone.csv"):
        with pytest.raises(DataLayoutError, match=r"a string is a text here\. Give pathlib\.Path"):
            classifier.predict(name)
    with pytest.raises(DataLayoutError, match="a text is of type int"):
        classifier.predict([3])
    with pytest.raises(DataLayoutError, match="text_column is for texts in columns"):
        classifier.predict(["good"], text_column="message")


def test_data_of_another_modality_is_refused(classifier: Classifier, folder: Path, tmp_path: Path) -> None:
    images = tmp_path / "images.csv"
    (tmp_path / "a.jpg").write_bytes(b"x")
    images.write_text("path,label\na.jpg,good\n")
    with pytest.raises(DataLayoutError, match=r"holds images, and this model predicts texts\. Name the column"):
        classifier.predict(images)
    with pytest.raises(DataLayoutError, match="holds texts, and this model predicts images"):
        list(image_inputs().each(folder / "reviews.csv"))
    with pytest.raises(DataLayoutError, match="text_column is for models of texts"):
        list(image_inputs().each(folder / "reviews.csv", "text"))
    with pytest.raises(DataLayoutError, match="holds images, and this model predicts texts"):
        evaluate(classifier, images)


def test_other_files_are_counted_and_no_file_says_what_to_do(classifier: Classifier, tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("good")
    (tmp_path / "b.pdf").write_bytes(b"x")
    with pytest.warns(IgnoredFilesWarning, match=r"1 file: not a text \(\.pdf\)"):
        assert len(classifier.predict(tmp_path)) == 1
    with pytest.raises(EmptyFolderError, match=r"good film names no text: no such file.*give it with --text"):
        list_inputs(["good film"], text_inputs(), {})


def test_a_stream_gives_a_text_a_line(classifier: Classifier) -> None:
    stream = io.BufferedReader(io.BytesIO(b"good film\r\n\ndull"))  # type: ignore[arg-type]
    samples = list(text_inputs().read_stream(stream))
    assert [sample.name for sample in samples] == ["stdin, line 1", "stdin, line 2", "stdin, line 3"]
    assert [sample.read() for sample in samples] == [b"good film", b"", b"dull"]
    stream = io.BufferedReader(io.BytesIO(b"good\nfilm\0dull\0"))  # type: ignore[arg-type]
    samples = list(text_inputs().read_stream(stream, b"\0"))
    assert [(sample.name, sample.read()) for sample in samples] == [
        ("stdin, text 1", b"good\nfilm"),
        ("stdin, text 2", b"dull"),
    ]
    lines = b'{"message": "caf\\u00e9"}\n{"text": 1}\nnothing\n'
    samples = list(text_inputs().read_stream(io.BufferedReader(io.BytesIO(lines)), b"\n", "message"))  # type: ignore[arg-type]
    assert samples[0].read() == "café".encode()
    errors = [item.error for item in classifier.predict(samples[1:])]
    assert errors == ["not a JSON object with a text 'message'", "not a line of JSON"]


def test_an_evaluation_gives_the_metrics_and_predictions_of_the_fit(folder: Path, tmp_path: Path) -> None:
    model = Classifier.load(folder / "head", backbone=encoder())
    evaluation = evaluate(model, folder / "reviews.csv", tmp_path / "out")
    assert "4 val texts (10 train texts left out: --split all includes them)" in str(evaluation)
    assert "image" not in str(evaluation)
    fitted, evaluated = val_rows(folder / "head/val.csv"), val_rows(tmp_path / "out/val.csv")
    assert {row["text"]: row["predicted"] for row in evaluated} == {row["text"]: row["predicted"] for row in fitted}
    renamed = tmp_path / "renamed.csv"
    renamed.write_text((folder / "reviews.csv").read_text().replace("text,label", "review,label", 1))
    again = evaluate(model, renamed, text_column="review")
    assert again.accuracy == evaluation.accuracy


def test_a_string_with_a_link_is_a_text_and_no_place_to_read_from() -> None:
    for text in ("a great film, see https://example.org/x", "file:///etc/hostname", "s3://bucket/list"):
        (sample,) = text_inputs().each(text)
        assert sample.read().decode() == text
    with pytest.raises(DataLayoutError, match="texts is of type dict"):
        list(text_inputs().each({"text": "good"}))


def test_lines_of_json_are_joined_as_the_columns_of_a_table_and_deep_ones_are_listed() -> None:
    lines = (
        b'{"title": "good", "body": "film"}\n{"title": null, "body": "film"}\n' + b"[" * 100_000 + b'\n{"title": 3}\n'
    )
    samples = list(
        text_inputs(joins_columns=True).read_stream(io.BufferedReader(io.BytesIO(lines)), b"\n", "title,body")
    )
    assert [sample.read() for sample in samples[:2]] == [b"good\x1ffilm", b"film"]
    for sample, reason in zip(samples[2:], ("not a line of JSON", "not a JSON object with a text"), strict=True):
        with pytest.raises(OSError, match=reason):
            sample.read()
