"""layer-attention: queries weight the layers; it finds the layer that knows, and is saved as arrays."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from scipy.special import softmax

from featcache.errors import HeadError
from featcache.heads.fit_head import fit_head
from featcache.heads.io import load_head
from featcache.heads.layer_attention import LayerAttentionHead
from joined import network_cache, signal

PARAMETERS = {"epochs": 8, "width": 8, "lr": 0.01}
RNG = np.random.default_rng(0)
WIDTHS, R, M = np.array([3, 2]), 4, 2
HEAD = LayerAttentionHead.from_weights(
    WIDTHS, RNG.normal(size=(R, 5)), RNG.normal(size=(2, R)), RNG.normal(size=(M, R)), RNG.normal(size=(3, M * R)),
    RNG.normal(size=3), np.arange(3),
)  # fmt: skip


def test_logits_are_what_numpy_says_of_one_sample() -> None:
    x = RNG.normal(size=(7, 5))
    tokens = [
        HEAD.projection_[:, :3] @ x[4, :3] + HEAD.offset_[0],
        HEAD.projection_[:, 3:] @ x[4, 3:] + HEAD.offset_[1],
    ]
    means = []
    for query in HEAD.queries_:
        weights = softmax([query @ token / 2 for token in tokens])
        means.append(weights[0] * tokens[0] + weights[1] * tokens[1])
    expected = HEAD.coef_ @ np.concatenate(means) + HEAD.intercept_
    np.testing.assert_allclose(HEAD.decision_function(x)[4], expected)
    np.testing.assert_allclose(HEAD.attention(x).sum(axis=2), 1)
    assert HEAD.predict(x)[4] == expected.argmax()
    scale = np.array([2, 3, 4, 5, 6], np.float32)
    np.testing.assert_allclose(HEAD.rescaled(scale).decision_function(x), HEAD.decision_function(x * scale))


def test_the_layer_that_knows_gets_the_weight_and_the_head_is_saved(tmp_path: Path) -> None:
    layers = {"penultimate": 100 * signal(0, 6, seed=3), "layer1": 0.01 * signal(3.0, 4, seed=4)}
    cache = network_cache(tmp_path / "a.h5", layers)
    fit = fit_head(cache, tmp_path / "head", head="layer-attention", parameters=PARAMETERS)
    assert fit.layers == ("penultimate", "layer1")
    assert fit.accuracy.accuracy > 0.9
    loaded = load_head(tmp_path / "head/head.safetensors")
    x = np.concatenate([part[:, 0] for part in layers.values()], axis=1)
    np.testing.assert_array_equal(loaded.predict_proba(x), fit.estimator.predict_proba(x))
    again = fit_head(cache, head="layer-attention", parameters=PARAMETERS)
    np.testing.assert_array_equal(again.estimator.projection_, fit.estimator.projection_)


@pytest.mark.parametrize(
    ("name", "value"),
    [("widths", np.array([3, 3])), ("offset", np.zeros((1, R))), ("queries", np.full((M, R), np.nan)),
     ("coef", np.zeros((3, 5))), ("classes", np.arange(2))],
)  # fmt: skip
def test_arrays_that_contradict_each_other_are_refused(name: str, value: np.ndarray) -> None:
    with pytest.raises(ValueError, match="its"):
        LayerAttentionHead.from_arrays({**HEAD.to_arrays(), name: value})


def test_single_layers_and_other_parameters_are_refused(tmp_path: Path) -> None:
    cache = network_cache(tmp_path / "a.h5", signal(1.0))
    with pytest.raises(HeadError, match="layer-attention needs two layers or more"):
        fit_head(cache, head="layer-attention")
    with pytest.raises(
        HeadError,
        match=r"queries is 0; it must be a whole number.*It takes queries, epochs, batch_size, lr, weight_decay, width",
    ):
        fit_head(cache, head="layer-attention", parameters={"queries": 0})
