"""A toy encoder of texts with a known answer, and a folder of a small encoder. On the pytest path."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from featcache.backbones.text_encoder import TextEncoder
from featcache.backbones.text_tokenizer import Tokenized
from featcache.data.tokens import Tokens
from featcache.models.inputs.text import TextInputs

WORDS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "good", "bad", "film", "a", "the", "very", "not", "dull")
VECTORS = np.random.default_rng(0).normal(size=(len(WORDS), 5)).astype(np.float32)


class ToyTokenizer:
    """A token for each word: 1 for an unknown one. `[CLS]` is put before each text."""

    sha256 = "ab" * 32
    separator = "[SEP]"

    def __init__(self, max_length: int = 16, prefix: str = "") -> None:
        self.max_length, self.prefix = max_length, prefix

    def __call__(self, texts: Sequence[str], separator: str = "", /) -> Tokenized:
        texts = [text.replace("\x1f", f" {separator} ") if separator else text for text in texts]
        ids = [[2, *toy_ids(self.prefix + text)] for text in texts]
        cut = np.array([len(one) > self.max_length for one in ids])
        return Tokenized(Tokens([np.array(one[: self.max_length], np.int64) for one in ids]), cut)


class ToyTextNet(nn.Module):
    """Hidden states: a vector of each token, its double, and its square. Those of padding are not finite.

    Attributes
    ----------
    shapes : list of (b, t), of its forward passes.
    most : tokens that fit into the memory; more raise.
    """

    def __init__(self) -> None:
        super().__init__()
        self.vectors = nn.Embedding.from_pretrained(torch.from_numpy(VECTORS.copy()))
        self.shapes, self.most = list[tuple[int, ...]](), 10**9

    def forward(self, ids: Tensor, mask: Tensor) -> list[Tensor]:
        if ids.numel() > self.most:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        self.shapes.append(tuple(ids.shape))
        hidden = self.vectors(ids).masked_fill(~mask[:, :, None], torch.nan)
        return [hidden, 2 * hidden, hidden**2]


def toy_text_encoder(**options: Any) -> TextEncoder:
    options = {"tokenizer": ToyTokenizer(), "name": "toy-text", **options}
    return TextEncoder(ToyTextNet(), options.pop("tokenizer"), **options)


def text_inputs(joins_columns: bool = False) -> TextInputs:
    """Texts for a model on features of the toy encoder."""
    spec = toy_text_encoder().extract_spec(views=0, dtype="float32", joins_columns=joins_columns)
    return TextInputs(spec)


def toy_ids(text: str) -> list[int]:
    return [WORDS.index(word) if word in WORDS else 1 for word in text.split()]


def toy_text_answer(text: str, layer: int = 2) -> NDArray[np.float32]:
    """The hidden states (t, 5) of ToyTextNet for a text that is not cut."""
    vectors = VECTORS[[2, *toy_ids(text)]]
    return (vectors, 2 * vectors, vectors**2)[layer]


def write_text_model(folder: Path, **config: Any) -> Path:
    """A folder with a BERT of 4 layers of width 8 and the words of `WORDS`, without weights."""
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

    tokenizer = Tokenizer(models.WordLevel({word: number for number, word in enumerate(WORDS)}, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    tokenizer.add_special_tokens(["[PAD]", "[UNK]", "[CLS]", "[SEP]"])
    tokenizer.enable_truncation(6)
    tokenizer.enable_padding(length=6)
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    sizes = {"hidden_size": 8, "intermediate_size": 16, "num_hidden_layers": 4, "num_attention_heads": 2}
    values = {"model_type": "bert", "vocab_size": len(WORDS), "max_position_embeddings": 40, "pad_token_id": 0}
    (folder / "config.json").write_text(json.dumps({**values, **sizes, **config}), encoding="utf-8")
    return folder


def write_sentence_model(folder: Path, pooling: dict[str, Any], *kinds: str, length: int = 10, **prompts: Any) -> Path:
    """The same in the format of sentence-transformers. kinds : modules behind the pooling, such as "Normalize"."""
    write_text_model(folder)
    modules = [("", "Transformer"), ("1_Pooling", "Pooling"), *((f"2_{kind}", kind) for kind in kinds)]
    listed = [{"path": path, "type": f"sentence_transformers.models.{kind}"} for path, kind in modules]
    (folder / "modules.json").write_text(json.dumps(listed), encoding="utf-8")
    (folder / "sentence_bert_config.json").write_text(json.dumps({"max_seq_length": length}), encoding="utf-8")
    (folder / "1_Pooling").mkdir(exist_ok=True)
    (folder / "1_Pooling" / "config.json").write_text(json.dumps(pooling), encoding="utf-8")
    (folder / "config_sentence_transformers.json").write_text(json.dumps(prompts), encoding="utf-8")
    return folder
