"""A text encoder that an earlier run built is not built again."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("transformers", reason="the extra text is not installed")

from commands import in_process
from featcache.backbones.load_text import load_text_encoder
from featcache.backbones.text_metadata import metadata_path
from featcache.backbones.text_sources import registry
from featcache.errors import BackboneError
from toytexts import write_sentence_model, write_text_model

TEXTS = ["good film", "", "the very very dull film", "bad " * 30]
MEAN = {"pooling_mode_mean_tokens": True}


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "home"))
    return tmp_path / "home" / "featcache" / "networks"


def load(folder: Path, **options: Any) -> Any:
    name = f"sentence-transformers/{folder}"
    return load_text_encoder(name, **{"weights": "none", "device": "cpu", "precision": "fp32", "lazy": True, **options})


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_sentence_model(tmp_path / "model", MEAN, "Normalize")


@pytest.mark.parametrize("options", [{}, {"layers": "all"}, {"max_length": 5, "prefix": "not "}])
def test_a_lazy_encoder_is_the_same(folder: Path, options: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    first = load(folder, **options)
    builds: list[object] = []
    build: Callable[..., Any] = registry.build
    monkeypatch.setattr(registry, "build", lambda *args: builds.append(args) or build(*args))
    second = load(folder, **options)
    for layers in (first.layers, options.get("layers", "penultimate")):
        assert load(folder, **{**options, "layers": layers}).layers == first.layers
    assert second.extract_spec(views=0, dtype="float32") == first.extract_spec(views=0, dtype="float32")
    assert (second.dims, second.weights_sha256) == (first.dims, first.weights_sha256)
    for one, other in zip(second.tokenizer(TEXTS).tokens.ids, first.tokenizer(TEXTS).tokens.ids, strict=True):
        np.testing.assert_array_equal(one, other)
    np.testing.assert_array_equal(second.tokenizer(TEXTS).cut, first.tokenizer(TEXTS).cut)
    assert builds == []
    for layer, features in second.embed_layers(TEXTS).items():
        np.testing.assert_array_equal(features, first.embed_layers(TEXTS)[layer])
    assert len(builds) == 1


def test_who_does_not_ask_for_it_gets_a_network(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    load(folder)
    monkeypatch.setattr(registry, "build", lambda *_: 1 / 0)
    load(folder)
    for options in ({"lazy": False}, {"layers": "layer.1"}, {"seed": 1}, {"max_length": 7}, {"prefix": "a "}):
        with pytest.raises(ZeroDivisionError):
            load(folder, **options)


@pytest.mark.parametrize("file", ["config.json", "tokenizer.json", "1_Pooling/config.json", "modules.json"])
def test_a_changed_file_makes_another_encoder(folder: Path, file: str) -> None:
    name = f"sentence-transformers/{folder}"
    before = metadata_path(name, "none", ["penultimate"], 0, None, None)
    (folder / file).write_text((folder / file).read_text() + " ")
    assert metadata_path(name, "none", ["penultimate"], 0, None, None) != before


def test_weights_that_are_others_are_refused(folder: Path, home: Path) -> None:
    load(folder)
    for path in home.glob("*.json"):
        path.write_text(json.dumps({**json.loads(path.read_text()), "weights_sha256": "0" * 64}))
    with pytest.raises(BackboneError, match=r" has weights .* an earlier run saw 000000000000\.\.\. under "):
        load(folder).embed(TEXTS)


@pytest.mark.parametrize("content", ["", "{", "[]", "{}", "null", '{"tokenizer": {}}', '{"tokenizer": 3}'])
def test_a_damaged_record_is_no_obstacle(folder: Path, home: Path, content: str) -> None:
    expected = load(folder).weights_sha256
    for path in home.glob("*.json"):
        path.write_text(content)
    assert load(folder).weights_sha256 == expected


def test_with_a_cached_conversion_no_torch_is_imported(folder: Path) -> None:
    pytest.importorskip("openvino")
    expected = load(folder)
    expected.select_engine(10, "openvino")
    code = f"""
import sys
from featcache.backbones.load_text import load_text_encoder
encoder = load_text_encoder(
    "sentence-transformers/{folder}", weights="none", device="cpu", precision="fp32", lazy=True
)
encoder.select_engine(10, views=1)
print(encoder.engine, encoder.embed(["good film"])[0, :2].tolist())
print([name for name in ("torch", "transformers") if name in sys.modules])
"""
    ran = in_process(code)
    assert not ran.returncode, ran.stderr
    engine, modules = ran.stdout.splitlines()
    assert engine == f"openvino {expected.embed(['good film'])[0, :2].tolist()}"
    assert modules == "[]"


def test_it_is_for_encoders_of_transformers_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    name = f"transformers/{write_text_model(tmp_path / 'plain')}"
    options: dict[str, Any] = {"weights": "none", "device": "cpu", "precision": "fp32"}
    load_text_encoder(name, **options)
    monkeypatch.setattr(registry, "build", lambda *_: 1 / 0)
    assert load_text_encoder(name, **options, lazy=True).dims == {"penultimate": 8}
