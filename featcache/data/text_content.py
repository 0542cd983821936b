"""Bytes of texts: which ones are readable, and the hashes of all texts of a source."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from featcache._utils.formatting import brief
from featcache._utils.progress_bar import Progress
from featcache.core.normalized_text import join_near_copies, normalized_sha256
from featcache.data.file_listing import hash_all
from featcache.errors import RemoteIOError

EMPTY = "an empty text"
_BOM = b"\xef\xbb\xbf"
_UTF_16 = (b"\xff\xfe", b"\xfe\xff")


def encode_text(text: str) -> bytes:
    """A text as UTF-8. Bytes that were not UTF-8 become what they were, so that `check_text` finds them."""
    try:
        return text.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:  # half of a surrogate pair, in JSON
        return text.encode("utf-8", "surrogatepass")


def is_utf8(content: bytes) -> bool:
    """Whether bytes are UTF-8."""
    try:
        content.decode()
    except UnicodeDecodeError:
        return False
    return True


def check_text(content: bytes) -> bytes:
    """The bytes of a text, without the mark of UTF-8 at its begin.

    Raises
    ------
    OSError
        The text is empty, or is not UTF-8; the text of the error is the reason. Another encoding is not guessed.
    """
    content = content.removeprefix(_BOM)
    try:
        text = content.decode()
    except UnicodeDecodeError as error:
        if content.startswith(_UTF_16):
            raise OSError("a text in UTF-16, not in UTF-8: convert it") from error
        byte = content[error.start]
        raise OSError(f"not a text in UTF-8 (byte 0x{byte:02x} at {error.start}): convert it") from error
    if not text.strip():
        raise OSError(EMPTY)
    return content


@dataclass(frozen=True)
class TextHashes:
    """Hashes of n texts.

    Parameters
    ----------
    sha256 : ndarray, shape (n, 32), uint8
        Hash of the bytes of each text; that of its id for a text that cannot be read.
    content_keys : ndarray or None
        See `Samples.content_keys`.
    reasons : dict of int to str
        Why a text cannot be read, by row, ascending.
    """

    sha256: NDArray[np.uint8]
    content_keys: NDArray[np.uint8] | None
    reasons: dict[int, str]

    def notes(self, ids: Sequence[str], place: Callable[[str], str]) -> tuple[str, ...]:
        """A line on the empty texts and one on those that cannot be decoded, with the count and the first ones.

        Parameters
        ----------
        ids : sequence of str
            n ids.
        place : callable
            See `Source.place`.
        """
        empty = [place(ids[row]) for row, reason in self.reasons.items() if reason == EMPTY]
        others = [f"{place(ids[row])}: {reason}" for row, reason in self.reasons.items() if reason != EMPTY]
        kinds = (("empty texts", empty), ("unreadable texts", others))
        return tuple(
            f"{kind}, skipped: {len(names)} of {len(ids)} ({brief(names, 3)})" for kind, names in kinds if names
        )


def hash_texts(
    read: Callable[[str], bytes], names: Sequence[str], progress: Progress | None = None, threads: int | None = None
) -> TextHashes:
    """Read each text once and hash it.

    Parameters
    ----------
    read : callable
        See `Source.read`.
    names : sequence of str
        n ids.
    progress, threads
        See `hash_all`.

    Raises
    ------
    RemoteIOError
        A connection is lost.
    """
    reasons: dict[str, str] = {}

    def digests(name: str) -> bytes:
        try:
            content = read(name)
            return hashlib.sha256(content).digest() + normalized_sha256(content)
        except RemoteIOError:
            raise
        except OSError as error:
            reasons[name] = error.strerror or str(error)
            return 2 * hashlib.sha256(os.fsencode(name)).digest()

    pairs = hash_all(digests, names, progress, threads).reshape(-1, 2, 32)
    sha256 = np.ascontiguousarray(pairs[:, 0])
    rows = {row: reasons[name] for row, name in enumerate(names) if name in reasons}
    return TextHashes(sha256, join_near_copies(sha256, pairs[:, 1]), rows)
