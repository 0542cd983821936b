"""`TextTokenizer`: from texts to the tokens of an encoder, by a file of the package `tokenizers`."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from featcache._utils.formatting import UNIT_SEPARATOR
from featcache.data.tokens import Tokens
from featcache.errors import BackboneError, FeatcacheError, MissingExtraError, first_line

if TYPE_CHECKING:
    from featcache.backbones.sentencepiece import SentencePieces


_LINE_BREAK = "\n"


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
    separator : str. What the encoder expects between two texts, such as "[SEP]".
    """

    sha256: str
    max_length: int
    prefix: str
    separator: str

    def __call__(self, texts: Sequence[str], separator: str = "", /) -> Tokenized:
        """The tokens of texts. The end of a longer text is cut off; special tokens behind it stay.

        separator : takes the place of each unit separator, U+001F, and is read as special tokens; "" leaves them as
        they are.
        """


@dataclass(frozen=True)
class TokenizerSettings:
    """What makes a `TextTokenizer`.

    Parameters
    ----------
    content : the `tokenizers.Tokenizer` in its own format, JSON.
    sha256 : hash of what decides the tokens.
    max_length, prefix : see `Tokenizer`.
    lower_case : whether texts are changed to lower case first.
    pad_id : id of the padding, and of the token that stands for a text without tokens.
    """

    content: str
    sha256: str
    max_length: int
    prefix: str = ""
    lower_case: bool = False
    pad_id: int = 0


class TextTokenizer:
    """A tokenizer of the package `tokenizers`; see `Tokenizer`. It neither pads nor cuts as its file says.

    Parameters
    ----------
    backend : tokenizers.Tokenizer. It is changed.

    The other parameters are those of `TokenizerSettings`.

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
        backend.no_truncation()
        self.separator = _separator_of(backend)
        backend.enable_truncation(max_length)
        self._backend, self._file_sha256, self.lower_case, self.pad_id = backend, sha256, lower_case, pad_id
        self.sha256 = hashlib.sha256(f"{sha256} lower case".encode()).hexdigest() if lower_case else sha256
        self.max_length, self.prefix = max_length, prefix

    @classmethod
    def from_settings(cls, settings: TokenizerSettings) -> TextTokenizer:
        """The tokenizer of `settings`. Raises BackboneError if they are damaged, and MissingExtraError."""
        fields = {field.name: getattr(settings, field.name) for field in dataclasses.fields(settings)}
        content = fields.pop("content")
        try:
            return cls(_import_tokenizers().Tokenizer.from_str(content), **fields)
        except FeatcacheError:
            raise
        except Exception as error:  # the package raises Exception itself
            raise BackboneError(f"the settings of a tokenizer are damaged: {first_line(error)}") from error

    @property
    def settings(self) -> TokenizerSettings:
        """What makes an equal tokenizer."""
        return TokenizerSettings(
            self._backend.to_str(), self._file_sha256, self.max_length, self.prefix, self.lower_case, self.pad_id
        )

    def __call__(self, texts: Sequence[str], separator: str = "", /) -> Tokenized:
        """See `Tokenizer`."""
        inputs = [f"{self.prefix}{text}" for text in texts]
        if self.lower_case:
            inputs = [text.lower() for text in inputs]
        if separator:
            inputs = [text.replace(UNIT_SEPARATOR, separator) for text in inputs]
        encoded = self._backend.encode_batch(inputs)
        ids = [np.array(one.ids or [self.pad_id], np.int64) for one in encoded]
        return Tokenized(Tokens(ids, self.pad_id), np.array([bool(one.overflowing) for one in encoded], bool))


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


def _separator_of(backend: Any) -> str:
    """What a tokenizer puts between two texts: special tokens such as "[SEP]" or "</s></s>"; a line break if none."""
    pair = backend.encode("a", "a")
    places = pair.sequence_ids
    if 0 not in places or 1 not in places:
        return _LINE_BREAK
    between = slice(len(places) - places[::-1].index(0), places.index(1))
    separator = "".join(pair.tokens[between])
    is_read = backend.encode(separator, add_special_tokens=False).ids == pair.ids[between]
    return separator if separator and is_read else _LINE_BREAK


def _import_tokenizers() -> Any:
    try:
        import tokenizers
    except ImportError as error:
        raise MissingExtraError.for_package("tokenizers", "text") from error
    return tokenizers
