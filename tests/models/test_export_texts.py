"""Exported encoders of texts with a head: the program beside the file gives the known answer, without featcache."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("transformers", reason="the extra text is not installed")
pytest.importorskip("tokenizers", reason="the extra text is not installed")

from scipy.special import softmax

from featcache.backbones.load_text import load_text_encoder
from featcache.backbones.text_encoder import TextEncoder
from featcache.core.model_card import ModelCard
from featcache.errors import ExportError, OutputExistsError
from featcache.heads.io import save_head
from featcache.heads.linear import LinearHead
from featcache.models.export.export import export
from featcache.models.export.program import BATCH
from toytexts import toy_text_encoder, write_text_model

TEXTS = ["a good film", "the very bad film is dull and it is not good and not a film", "Bad"]
CLASSES = ("blame", "praise", "other")


def write_model(folder: Path, encoder: TextEncoder) -> LinearHead:
    """A saved head with random weights on all layers of an encoder; returns the head."""
    rng, width = np.random.default_rng(0), sum(encoder.dims.values())
    head = LinearHead.from_weights(rng.normal(size=(3, width)), rng.normal(size=3), np.arange(3))
    name, content = save_head(head)
    spec = encoder.extract_spec(views=0, dtype="float32")
    folder.mkdir()
    layers = ",".join(encoder.layers)
    ModelCard("head", name, "linear", CLASSES, spec, "none", layers, {}, False).write(folder, content)
    return head


def load(folder: Path, **options: Any) -> TextEncoder:
    settings = {"weights": "none", "device": "cpu", "precision": "fp32", "layers": "penultimate,layer.2:max"}
    return load_text_encoder(f"transformers/{write_text_model(folder)}", **{**settings, **options})


@pytest.mark.parametrize(("format", "name"), [("onnx", "m.onnx"), ("torch-export", "m.pt2")])
def test_the_program_gives_the_known_answer(format: str, name: str, tmp_path: Path) -> None:
    encoder = load(tmp_path / "encoder", prefix="very ", max_length=8)
    head = write_model(tmp_path / "model", encoder)
    done = export(tmp_path / "model", tmp_path / name, format)
    expected = softmax(np.concatenate([*encoder.embed_layers(TEXTS).values()], 1) @ head.coef_.T + head.intercept_, 1)
    assert done.difference < 1e-5
    assert str(done).endswith(f'python {tmp_path / name}.py "a text"')
    assert {path.name for path in tmp_path.iterdir() if path.is_file()} == {
        name, f"{name}.py", f"{name}.tokenizer.json",
    }  # fmt: skip
    lines = [f"{text}\t{CLASSES[row.argmax()]}\t{row.max():.4f}" for text, row in zip(TEXTS, expected, strict=True)]
    command = [sys.executable, str(done.program)]
    for arguments, sent in ((TEXTS, None), (["-"], "\n".join(TEXTS))):
        ran = subprocess.run([*command, *arguments], input=sent, capture_output=True, text=True, check=True)
        assert ran.stdout.splitlines() == lines
    first, rest = (TEXTS * BATCH)[:BATCH], (TEXTS * BATCH)[BATCH:]  # the second begins in the middle of TEXTS
    with subprocess.Popen([*command, "-"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as stream:
        assert stream.stdin is not None
        assert stream.stdout is not None
        stream.stdin.write("\n".join([*first, ""]))
        stream.stdin.flush()
        printed = [stream.stdout.readline().rstrip("\n") for _ in first]  # before the next batch is sent
        printed += stream.communicate("\n".join(rest))[0].splitlines()
    assert printed == lines * BATCH
    windows = b"\xef\xbb\xbf" + "\r\n".join([TEXTS[0], " ", "Bad"]).encode()  # of Windows, with an empty line
    refused = subprocess.run([*command, "-"], input=windows, capture_output=True, check=False)
    assert (refused.returncode, refused.stdout.decode().splitlines()) == (1, lines[:1])
    assert refused.stderr.decode().strip() == "text 2 is empty: it and those behind it have no class"


def test_a_state_dict_is_for_images(tmp_path: Path) -> None:
    write_model(tmp_path / "model", load(tmp_path / "encoder"))
    with pytest.raises(ExportError, match=r"a state dict is for networks of images, and the head is for texts\. Use"):
        export(tmp_path / "model", tmp_path / "m.pth", "state-dict")


def test_a_tokenizer_without_a_file_cannot_be_exported(tmp_path: Path) -> None:
    encoder = toy_text_encoder()
    write_model(tmp_path / "model", encoder)
    with pytest.raises(ExportError, match=r"toy-text has a tokenizer of its own \(ToyTokenizer\), which cannot be"):
        export(tmp_path / "model", tmp_path / "m.onnx", "onnx", backbone=encoder)


def test_a_file_in_the_place_of_the_tokenizer_is_kept(tmp_path: Path) -> None:
    write_model(tmp_path / "model", load(tmp_path / "encoder"))
    (tmp_path / "m.onnx.tokenizer.json").write_text("mine")
    with pytest.raises(OutputExistsError, match=r"m\.onnx\.tokenizer\.json exists\. Give .*m\.onnx another name"):
        export(tmp_path / "model", tmp_path / "m.onnx", "onnx")
    assert (tmp_path / "m.onnx.tokenizer.json").read_text() == "mine"
