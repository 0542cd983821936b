"""Networks of transformers that are refused, and what of a configuration is part of an encoder's hash."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("transformers", reason="the extra text is not installed")
pytest.importorskip("tokenizers", reason="the extra text is not installed")

from featcache.backbones.load_text import load_text_encoder
from featcache.errors import BackboneError
from toytexts import write_text_model


def load(folder: Path, **options: Any) -> Any:
    return load_text_encoder(
        f"transformers/{folder}", **{"weights": "none", "device": "cpu", "precision": "fp32", **options}
    )


@pytest.mark.parametrize(
    ("config", "reason"),
    [
        ({"model_type": "vit", "image_size": 16, "patch_size": 8}, "its ViTModel takes pixel_values"),
        (
            {
                "model_type": "clip",
                "text_config": {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "vocab_size": 12},
                "vision_config": {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "image_size": 32},
            },
            "its CLIPModel has no table of vectors for tokens",
        ),
    ],
    ids=["vit", "clip"],
)
def test_networks_of_another_kind_are_refused(tmp_path: Path, config: dict[str, Any], reason: str) -> None:
    with pytest.raises(BackboneError, match=rf"transformers/.* is not an encoder of texts: {reason}"):
        load(write_text_model(tmp_path, **config))


def test_a_network_that_fails_for_texts_is_refused(tmp_path: Path) -> None:
    config = {"model_type": "nystromformer", "num_landmarks": 2, "segment_means_seq_len": 3}
    with pytest.raises(BackboneError, match=r"transformers/.* is not an encoder of texts .* raises RuntimeError: "):
        load(write_text_model(tmp_path, **config))


@pytest.mark.parametrize(
    "config",
    [{"model_type": "fnet"}, {"model_type": "convbert", "embedding_size": 8, "head_ratio": 1}],
    ids=lambda config: config["model_type"],
)
def test_networks_whose_features_depend_on_padding_are_refused(tmp_path: Path, config: dict[str, Any]) -> None:
    with pytest.raises(BackboneError, match=r"a text of 3 tokens changes by .*% when it is padded to 34 tokens"):
        load(write_text_model(tmp_path, **config))


@pytest.mark.parametrize(
    "changed",
    [{"num_attention_heads": 4}, {"hidden_act": "relu"}, {"layer_norm_eps": 1e-5}],
    ids=lambda changed: next(iter(changed)),
)
def test_what_decides_features_beside_the_weights_is_part_of_the_hash(tmp_path: Path, changed: dict[str, Any]) -> None:
    encoder = load(write_text_model(tmp_path / "1"))
    other = load(write_text_model(tmp_path / "2", **changed))
    assert (encoder.embed(["good film"]) != other.embed(["good film"])).any()
    assert encoder.weights_sha256 != other.weights_sha256
    assert encoder.extract_spec(views=0, dtype="float32") != other.extract_spec(views=0, dtype="float32")


def test_what_does_not_change_features_is_not_part_of_the_hash(tmp_path: Path) -> None:
    without = {
        "_name_or_path": "somewhere",
        "transformers_version": "4.8.2",
        "torch_dtype": "float16",
        "attn_implementation": "eager",
        "architectures": ["BertForMaskedLM"],
        "hidden_dropout_prob": 0.3,
        "id2label": {"0": "bad", "1": "good", "2": "other"},
        "use_cache": False,
        "hidden_act": "gelu",  # the default
    }
    encoder = load(write_text_model(tmp_path / "1"))
    assert load(write_text_model(tmp_path / "2", **without)).weights_sha256 == encoder.weights_sha256
