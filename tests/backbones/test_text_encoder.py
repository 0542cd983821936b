"""`TextEncoder` and `TextEngine`, by a toy network whose features numpy gives."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from featcache.backbones import frozen_network
from featcache.backbones.engines import text_pytorch
from featcache.backbones.engines.text_batches import cut_by_length
from featcache.backbones.engines.text_pytorch import TextEngine
from featcache.backbones.text_encoder import TextEncoder
from featcache.backbones.text_features import expand_text_layers
from featcache.backbones.text_probe import HiddenStates
from featcache.data.tokens import Tokens
from featcache.errors import BackboneError
from stand_in_gpu import StandInEvent, stand_in_gpu
from toytexts import ToyTextNet, ToyTokenizer, toy_text_answer, toy_text_encoder

TEXTS = ["good film", "", "the very very dull film", "bad", "a very good film a very bad film", "not bad", "bad"]
CLOSE = {"rtol": 1e-5, "atol": 1e-7}


def test_tokens_act_as_an_array_padded_to_the_longest() -> None:
    tokens = Tokens([np.array([5, 6, 7]), np.array([8]), np.array([4, 4])], pad_id=1)
    np.testing.assert_array_equal(np.asarray(tokens), [[5, 6, 7], [8, 1, 1], [4, 4, 1]])
    assert (tokens.shape, len(tokens), tokens.lengths.tolist()) == ((3, 3), 3, [3, 1, 2])
    assert tokens.to(torch.device("cpu")).tolist() == [[5, 6, 7], [8, 1, 1], [4, 4, 1]]
    assert np.asarray(tokens[1:]).tolist() == [[8, 1], [4, 4]]
    assert np.asarray(tokens.take([2, 0])).tolist() == [[4, 4, 1], [5, 6, 7]]
    assert np.asarray(tokens[2:].join(tokens[:1])).tolist() == [[4, 4, 1], [5, 6, 7]]
    assert Tokens([]).shape == Tokens([]).join(Tokens([])).shape == (0, 0)


@pytest.mark.parametrize(
    ("pooling", "pool"),
    [("mean", lambda hidden: hidden.mean(0)), ("max", lambda hidden: hidden.max(0)), ("cls", lambda hidden: hidden[0])],
)
@pytest.mark.parametrize("normalize", [False, True])
def test_penultimate_features_are_the_pooled_last_layer(
    pooling: str, pool: Callable[[np.ndarray], np.ndarray], normalize: bool
) -> None:
    features = toy_text_encoder(pooling=pooling, normalize=normalize).embed(TEXTS)
    expected = np.array([pool(toy_text_answer(text)) for text in TEXTS])
    expected /= np.linalg.norm(expected, axis=1, keepdims=True) if normalize else 1
    np.testing.assert_allclose(features, expected, **CLOSE)
    assert features.dtype == np.float32


def test_one_forward_pass_gives_all_layers() -> None:
    encoder = toy_text_encoder(layers=("layer.0:mean", "layer.1:max", "layer.2:cls", "layer.1", "penultimate"))
    encoder.module.shapes.clear()
    features = encoder.embed_layers(TEXTS)
    assert encoder.module.shapes == [(7, 9)]
    assert encoder.dims == dict.fromkeys(encoder.layers, 5)
    answers = {layer: [toy_text_answer(text, layer) for text in TEXTS] for layer in range(3)}
    np.testing.assert_allclose(features["layer.0:mean"], [hidden.mean(0) for hidden in answers[0]], **CLOSE)
    np.testing.assert_allclose(features["layer.1:max"], [hidden.max(0) for hidden in answers[1]], **CLOSE)
    np.testing.assert_allclose(features["layer.2:cls"], [hidden[0] for hidden in answers[2]], **CLOSE)
    np.testing.assert_allclose(features["layer.1"], [hidden.mean(0) for hidden in answers[1]], **CLOSE)
    np.testing.assert_allclose(features["penultimate"], [hidden.mean(0) for hidden in answers[2]], **CLOSE)


def test_sets_of_layers() -> None:
    def expand(
        *layers: str, depth: int = 4, normalize: bool = False, pooling: Any = "mean", one_vector: Sequence[int] = ()
    ) -> tuple[str, ...]:
        states = HiddenStates(depth, frozenset(one_vector))
        return expand_text_layers("toy", layers, states, pooling=pooling, normalize=normalize)

    assert expand("last") == ("penultimate",)
    assert expand("stages") == ("penultimate", "layer.3:mean")  # layer.4:mean equals the penultimate features
    assert expand("stages", normalize=True) == ("penultimate", "layer.3:mean", "layer.4:mean")
    assert expand("stages", depth=5, normalize=True)[1:] == ("layer.3:mean", "layer.4:mean", "layer.5:mean")
    pools = [f"layer.{number}:{pool}" for number in (1, 2) for pool in ("cls", "mean", "max")]
    assert expand("all", depth=2) == ("penultimate", *(name for name in pools if name != "layer.2:mean"))
    assert expand("layer.1:max", "all", depth=1, normalize=True)[:2] == ("layer.1:max", "penultimate")
    for pooling in ("mean", "cls", "max"):  # the last layer is one vector, which is the penultimate features
        expected = ("penultimate", "layer.1:cls", "layer.1:mean", "layer.1:max")
        assert expand("all", depth=2, one_vector=[2], pooling=pooling) == expected
        assert expand("all", depth=2, one_vector=[2], normalize=True) == (*expected, "layer.2:mean")
    assert expand("all", depth=2, one_vector=[1]) == ("penultimate", "layer.1:mean", "layer.2:cls", "layer.2:max")
    for wrong in ("layer.5:mean", "layer.-1", "layer.²", "encoder.layer.1", "layer.1:std", "layer.1:grid"):
        with pytest.raises(BackboneError, match=r"toy has no layer.*\(the embeddings\) to layer.4, each"):
            expand(wrong)


def test_texts_of_similar_length_share_a_pass_of_bounded_size() -> None:
    parts = cut_by_length(np.array([3, 9, 1, 3, 4, 20, 2]), 12)
    assert [part.tolist() for part in parts] == [[5], [1], [4, 0, 3], [6, 2]]
    assert cut_by_length(np.array([], np.int64), 12) == []
    lengths = np.random.default_rng(0).integers(1, 100, 500)
    passes = cut_by_length(lengths, 1000)
    assert sorted(np.concatenate(passes)) == list(range(500))
    assert all(len(part) * lengths[part].max() <= 1000 for part in passes)


def test_features_come_in_the_order_of_the_texts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(text_pytorch, "_MAX_TOKENS_CPU", 12)
    encoder = toy_text_encoder(layers="penultimate,layer.1:max")
    encoder.module.shapes.clear()
    mean, top = encoder.submit(encoder.tokenizer(TEXTS).tokens)()
    assert encoder.module.shapes == [(1, 9), (2, 6), (4, 3)]
    np.testing.assert_allclose(mean, [toy_text_answer(text).mean(0) for text in TEXTS], **CLOSE)
    np.testing.assert_allclose(top, [toy_text_answer(text, 1).max(0) for text in TEXTS], **CLOSE)


def test_no_texts_have_no_features() -> None:
    encoder = toy_text_encoder(layers="stages")
    assert [values.shape for values in encoder.submit(Tokens([]))()] == [(0, 5)] * len(encoder.layers)


def test_a_pass_that_does_not_fit_is_halved() -> None:
    encoder = toy_text_encoder()
    encoder.module.most = 20
    np.testing.assert_allclose(encoder.embed(TEXTS), [toy_text_answer(text).mean(0) for text in TEXTS], **CLOSE)
    assert encoder.note == "cpu has too little free memory for larger batches: batches have 16 tokens"
    encoder.module.most = 8
    with pytest.raises(BackboneError, match="one text of 9 tokens does not fit into the free memory of cpu"):
        encoder.embed(TEXTS)


def test_batches_alternate_between_devices(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(frozen_network, "expand_device", lambda _: ("cpu", "cpu"))
    encoder = toy_text_encoder(device="cuda:all", layers="penultimate,layer.1:max")
    networks = [features.network for features in encoder._extractors]
    for network in networks:
        network.shapes.clear()
    waiting = [encoder.submit(encoder.tokenizer(TEXTS[start:]).tokens) for start in (0, 3, 5)]
    for start, features in zip((0, 3, 5), waiting, strict=True):
        np.testing.assert_allclose(features()[0], [toy_text_answer(text).mean(0) for text in TEXTS[start:]], **CLOSE)
    assert sorted(len(network.shapes) for network in networks) == [1, 2]


def test_a_gpu_gets_pinned_tokens_and_nothing_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    encoder = toy_text_encoder(layers="all", pooling="cls", normalize=True)
    (features,) = encoder._extractors
    tokens = encoder.tokenizer(TEXTS).tokens
    with stand_in_gpu(monkeypatch) as (recorder, pinned):
        features.network.vectors.weight = nn.Parameter(features.network.vectors.weight.to("cuda"), requires_grad=False)
        features.device = torch.device("cuda")
        recorder.waits.clear()
        recorder.copies.clear()
        TextEngine(features).submit(tokens)
        assert recorder.waits == []
        assert [tuple(tensor.shape) for tensor in pinned] == [(7, 9), (7,)]
        assert len(recorder.copies) == 2 + len(encoder.layers)
        assert StandInEvent.waits == 0


def test_bf16_differs_by_rounding_only() -> None:
    exact, rounded = (toy_text_encoder(precision=precision).embed(TEXTS) for precision in ("fp32", "bf16"))
    np.testing.assert_allclose(rounded, exact, rtol=2e-2, atol=1e-2)


def test_an_encoder_in_training_mode_computes_in_eval_mode() -> None:
    class Dropping(ToyTextNet):
        def forward(self, ids: torch.Tensor, mask: torch.Tensor) -> list[torch.Tensor]:
            return [nn.functional.dropout(state, 0.5, self.training) for state in super().forward(ids, mask)]

    encoder = TextEncoder(Dropping().train(), ToyTokenizer(), name="dropping")
    np.testing.assert_allclose(encoder.embed(TEXTS), [toy_text_answer(text).mean(0) for text in TEXTS], **CLOSE)
    assert not any(parameter.requires_grad for parameter in encoder.module.parameters())


def test_texts_are_cut_and_the_prefix_counts() -> None:
    encoder = toy_text_encoder(tokenizer=ToyTokenizer(max_length=4, prefix="a very "))
    tokens, cut = encoder.tokenizer(["good film", "good", ""])
    assert cut.tolist() == [True, False, False]
    assert np.asarray(tokens).tolist() == [[2, 7, 9, 4], [2, 7, 9, 4], [2, 7, 9, 0]]
    np.testing.assert_allclose(encoder.embed(["good film"])[0], toy_text_answer("a very good").mean(0), **CLOSE)


def test_the_spec_holds_what_decides_a_feature() -> None:
    encoder = toy_text_encoder(tokenizer=ToyTokenizer(9, "query: "), pooling="max", normalize=True, layers="stages")
    spec = encoder.extract_spec(views=2, dtype="float32", augment="word-dropout", seed=3)
    view = spec.text_view
    assert (view.tokenizer_sha256, view.max_length, view.prefix) == ("ab" * 32, 9, "query: ")
    assert (view.pooling, view.normalize, view.augment, view.seed) == ("max", True, "word-dropout", 3)
    assert (spec.backbone, spec.layers, spec.precision) == ("toy-text", ("penultimate", "layer.2:mean"), "fp32")
    assert spec.weights_sha256 == encoder.weights_sha256
    changed = ToyTextNet()
    changed.vectors.weight.data += 1
    assert TextEncoder(changed, ToyTokenizer(), name="toy-text").weights_sha256 != encoder.weights_sha256
    assert toy_text_encoder(architecture='{"heads": 2}').weights_sha256 != encoder.weights_sha256


def test_networks_of_another_form_are_refused() -> None:
    class Pooled(nn.Module):
        def forward(self, ids: torch.Tensor, mask: torch.Tensor) -> list[torch.Tensor]:
            return [torch.zeros(len(ids), 3)] * 2

    with pytest.raises(BackboneError, match=r"own returns tensors of shapes .*expected the hidden states \(b, t, d\)"):
        TextEncoder(Pooled(), ToyTokenizer(), name="own")
    broken = ToyTextNet()
    broken.vectors.weight.data[2] = torch.inf
    with pytest.raises(BackboneError, match="own returns features that are not finite"):
        TextEncoder(broken, ToyTokenizer(), name="own")


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_features_that_depend_on_padding_are_refused(precision: str) -> None:
    class Mixing(ToyTextNet):
        def forward(self, ids: torch.Tensor, mask: torch.Tensor) -> list[torch.Tensor]:
            hidden = self.vectors(ids)
            return [hidden, hidden * torch.where(mask.all(1), 1, 1 + self.share)[:, None, None]]

    network = Mixing()
    network.share = 0.0065
    with pytest.raises(
        BackboneError, match=r"penultimate of a text of 2 tokens changes by 0\.65% when it is padded to 9 tokens"
    ):
        TextEncoder(network, ToyTokenizer(9), name="own", precision=precision)
    network.share = 1e-5  # as rounding
    assert TextEncoder(network, ToyTokenizer(9), name="own", precision=precision).dim == 5
    network.share = 0.0065
    network.bfloat16()  # rounds itself
    assert TextEncoder(network, ToyTokenizer(9), name="own", precision=precision).dim == 5
    network.share = torch.nan
    with pytest.raises(BackboneError, match=r"changes by nan%.* Use another encoder\."):
        TextEncoder(network, ToyTokenizer(9), name="own", precision=precision)


def test_a_network_that_does_not_take_tokens_is_refused() -> None:
    class Failing(ToyTextNet):
        def forward(self, ids: torch.Tensor, mask: torch.Tensor) -> list[torch.Tensor]:
            if ids.shape[1] > self.longest:
                raise RuntimeError("shape '[2, 3]' is invalid")
            return super().forward(ids, mask)

    for longest in (0, 2):
        network = Failing()
        network.longest = longest
        with pytest.raises(BackboneError, match=r"own is not an encoder of texts .*RuntimeError: shape '\[2, 3\]' is"):
            TextEncoder(network, ToyTokenizer(), name="own")
