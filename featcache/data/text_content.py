"""Bytes of texts: which ones are readable, and the hashes of all texts of a source."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from featcache._utils.formatting import brief
from featcache._utils.progress_bar import Progress
from featcache.core.normalized_text import join_near_copies, normalized_sha256
from featcache.data.content_hashes import ContentHashes, hash_all
from featcache.data.file_types import is_hdf5
from featcache.errors import RemoteIOError

if TYPE_CHECKING:
    from featcache.data.sources.base import SampleRecord, Source

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
        if is_hdf5(content):
            raise OSError("an HDF5 file, such as a cache, not a text") from error
        byte = content[error.start]
        raise OSError(f"not a text in UTF-8 (byte 0x{byte:02x} at {error.start}): convert it") from error
    if not text.strip():
        raise OSError(EMPTY)
    return content


def hash_texts(
    source: Source, entries: Sequence[SampleRecord], progress: Progress | None = None, threads: int | None = None
) -> ContentHashes:
    """Read each text once and hash it. All texts are read: the hash of the bytes does not tell near copies.

    The notes are a line on the empty texts and one on those that cannot be decoded, with the count and the first ones.

    Parameters
    ----------
    source : Source
        Where the texts are.
    entries : sequence of SampleRecord
        The n texts.
    progress, threads
        See `hash_all`.

    Raises
    ------
    RemoteIOError
        A connection is lost.
    """
    names, reasons = [entry.id for entry in entries], dict[str, str]()

    def digests(name: str) -> bytes:
        try:
            content = source.read(name)
            return hashlib.sha256(content).digest() + normalized_sha256(content)
        except RemoteIOError:
            raise
        except OSError as error:
            reasons[name] = error.strerror or str(error)
            return 2 * hashlib.sha256(os.fsencode(name)).digest()

    pairs = hash_all(digests, names, progress, threads).reshape(-1, 2, 32)
    sha256 = np.ascontiguousarray(pairs[:, 0])
    unread = [(source.place(name), reasons[name]) for name in names if name in reasons]
    empty = [place for place, reason in unread if reason == EMPTY]
    others = [f"{place}: {reason}" for place, reason in unread if reason != EMPTY]
    notes = tuple(
        f"{kind}, skipped: {len(found)} of {len(names)} ({brief(found, 3)})"
        for kind, found in (("empty texts", empty), ("unreadable texts", others))
        if found
    )
    return ContentHashes(sha256, join_near_copies(sha256, pairs[:, 1]), notes)
