"""`TextTokenizer`: from texts to the tokens of an encoder, by a file of the package `tokenizers`."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from featcache.data.tokens import Tokens
from featcache.errors import BackboneError, MissingExtraError, first_line

if TYPE_CHECKING:
    from featcache.backbones.sentencepiece import SentencePieces


class Tokenized(NamedTuple):
    """Tokens of n texts.

    tokens : Tokens, in the order of the texts.
    cut : ndarray of bool, shape (n,): whether a text was longer than the limit, so that its end was cut off.
    """

    tokens: Tokens
    cut: NDArray[np.bool_]


class Tokenizer(Protocol):
    """Turns texts into tokens.

    Attributes
    ----------
    sha256 : str. Hash of what decides the tokens of a text, 64 hex digits.
    max_length : int. Most tokens of a text, special tokens and those of the prefix included.
    prefix : str. Put before every text.
    """

    sha256: str
    max_length: int
    prefix: str

    def __call__(self, texts: Sequence[str], /) -> Tokenized:
        """The tokens of texts. The end of a longer text is cut off; special tokens behind it stay."""


class TextTokenizer:
    """A tokenizer of the package `tokenizers`; see `Tokenizer`. It neither pads nor cuts as its file says.

    Parameters
    ----------
    backend : tokenizers.Tokenizer. It is changed.
    sha256 : hash of what decides the tokens.
    lower_case : whether texts are changed to lower case first.
    pad_id : id of the padding, and of the token that stands for a text without tokens.

    Raises
    ------
    BackboneError : `max_length` leaves no room for a token beside the special tokens.
    """

    def __init__(
        self,
        backend: Any,
        *,
        sha256: str,
        max_length: int,
        prefix: str = "",
        lower_case: bool = False,
        pad_id: int = 0,
    ) -> None:
        special = int(backend.num_special_tokens_to_add(is_pair=False))
        if max_length <= special:
            raise BackboneError(
                f"max_length is {max_length}; this encoder adds {special} special tokens to each text, so it must be "
                f"{special + 1} or more"
            )
        backend.no_padding()
        backend.enable_truncation(max_length)
        self._backend, self._lower_case, self._pad_id = backend, lower_case, pad_id
        self.sha256 = hashlib.sha256(f"{sha256} lower case".encode()).hexdigest() if lower_case else sha256
        self.max_length, self.prefix = max_length, prefix

    def __call__(self, texts: Sequence[str], /) -> Tokenized:
        """See `Tokenizer`."""
        inputs = [f"{self.prefix}{text}" for text in texts]
        encoded = self._backend.encode_batch([text.lower() for text in inputs] if self._lower_case else inputs)
        ids = [np.array(one.ids or [self._pad_id], np.int64) for one in encoded]
        return Tokenized(Tokens(ids, self._pad_id), np.array([bool(one.overflowing) for one in encoded], bool))


def read_tokenizer(path: Path) -> tuple[Any, str]:
    """The `tokenizers.Tokenizer` of a file tokenizer.json, and the SHA-256 of the file.

    Raises
    ------
    BackboneError : a file that is no tokenizer.
    MissingExtraError : the package is not installed.
    """
    tokenizers = _import_tokenizers()
    content = path.read_bytes()
    try:
        return tokenizers.Tokenizer.from_buffer(content), hashlib.sha256(content).hexdigest()
    except Exception as error:  # the package raises Exception itself
        raise BackboneError(f"{path} is not a file of a tokenizer: {first_line(error)}") from error


def unigram_tokenizer(pieces: SentencePieces, *, unknown: int, first: int, last: int) -> Any:
    """The `tokenizers.Tokenizer` that splits as SentencePiece does. Raises MissingExtraError.

    Parameters
    ----------
    unknown : id of what the vocabulary lacks.
    first, last : ids of the pieces before and behind each text.
    """
    tokenizers = _import_tokenizers()
    normalizers, names = tokenizers.normalizers, [text for text, _ in pieces.pieces]
    backend = tokenizers.Tokenizer(tokenizers.models.Unigram(pieces.pieces, unknown))
    spaces = [normalizers.Strip(), normalizers.Replace(tokenizers.Regex(" {2,}"), " ")]
    backend.normalizer = normalizers.Sequence([normalizers.Precompiled(pieces.characters), *spaces])
    backend.pre_tokenizer = tokenizers.pre_tokenizers.Metaspace(prepend_scheme="always")
    backend.post_processor = tokenizers.processors.TemplateProcessing(
        single=f"{names[first]} $A {names[last]}",
        special_tokens=[(names[first], first), (names[last], last)],
    )
    return backend


def _import_tokenizers() -> Any:
    try:
        import tokenizers
    except ImportError as error:
        raise MissingExtraError.for_package("tokenizers", "text") from error
    return tokenizers
