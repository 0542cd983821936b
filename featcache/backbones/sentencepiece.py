"""`read_sentencepiece`: the vocabulary of a file of SentencePiece, which is a message of protocol buffers."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from featcache.errors import BackboneError, first_line

_VARINT, _FIXED_64, _BYTES, _FIXED_32 = 0, 1, 2, 5
_PIECES, _TEXT, _SCORE = 1, 1, 2
_NORMALIZER, _CHARACTERS = 3, 2


class SentencePieces(NamedTuple):
    """A vocabulary for the unigram model.

    pieces : pairs of text and score, in the order of their ids.
    characters : how characters are normalized, in SentencePiece's own format.
    """

    pieces: list[tuple[str, float]]
    characters: bytes


def read_sentencepiece(path: Path) -> SentencePieces:
    """Pieces and normalization of a file. Raises BackboneError for another kind of file."""
    pieces, characters = [], b""
    try:
        for number, value in _fields(path.read_bytes()):
            if number == _PIECES:
                piece = dict(_fields(value))
                pieces.append((piece[_TEXT].decode(), float(struct.unpack("<f", piece.get(_SCORE, bytes(4)))[0])))
            elif number == _NORMALIZER:
                characters = dict(_fields(value)).get(_CHARACTERS, b"")
    except (OSError, ValueError, IndexError, KeyError, struct.error) as error:
        raise BackboneError(f"{path} is not a file of SentencePiece: {first_line(error)}") from error
    if not pieces:
        raise BackboneError(f"{path} is not a file of SentencePiece: it has no pieces")
    return SentencePieces(pieces, characters)


def _fields(message: bytes) -> Iterator[tuple[int, bytes]]:
    """Number and content of each field of a message; of an integer, an empty content."""
    start = 0
    while start < len(message):
        key, start = _integer(message, start)
        kind = key & 7
        size = 0
        if kind == _VARINT:
            _, start = _integer(message, start)
        elif kind == _BYTES:
            size, start = _integer(message, start)
        elif kind in (_FIXED_32, _FIXED_64):
            size = 4 if kind == _FIXED_32 else 8
        else:
            raise ValueError(f"a field has the unknown type {kind}")
        if start + size > len(message):
            raise ValueError("it is cut off")
        yield key >> 3, message[start : start + size]
        start += size


def _integer(message: bytes, start: int) -> tuple[int, int]:
    """An integer of 7 bits a byte, the lowest first, and the place behind it."""
    value = shift = 0
    while True:
        byte = message[start]
        value |= (byte & 0x7F) << shift
        start, shift = start + 1, shift + 7
        if byte < 0x80:
            return value, start
