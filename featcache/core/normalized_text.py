"""`normalize_text`: what two texts have in common that differ only in case, white space and Unicode form."""

from __future__ import annotations

import hashlib
import unicodedata

import numpy as np
from numpy.typing import NDArray

from featcache.core.rng import content_words


def normalize_text(text: str) -> str:
    """A text without differences of case, white space and Unicode form.

    Compatible characters become one (NFKC: full-width letters, ligatures, composed accents), letters lose their case
    (`str.casefold`), and white space becomes single spaces, without any at the ends.

    Examples
    --------
    >>> normalize_text("  The\\nFILM ﬁts ")
    'the film fits'
    """
    folded = unicodedata.normalize("NFKC", text).casefold()
    return " ".join(unicodedata.normalize("NFKC", folded).split())  # folding can undo the form


def normalized_sha256(content: bytes) -> bytes:
    """SHA-256 of a normalized text, given in UTF-8. Raises UnicodeDecodeError."""
    return hashlib.sha256(normalize_text(content.decode()).encode()).digest()


def join_near_copies(sha256: NDArray[np.uint8], normalized: NDArray[np.uint8]) -> NDArray[np.uint8] | None:
    """Content keys for texts, see `Samples.content_keys`: texts with an equal normalized text get one key.

    Parameters
    ----------
    sha256 : ndarray, shape (n, 32), uint8
        Hash of the bytes of each text.
    normalized : ndarray, shape (n, 32), uint8
        Hash of each normalized text.

    Returns
    -------
    ndarray, shape (n, 32), uint8, or None
        The least hash of the bytes of all texts with the same normalized text; None if each such text has equal bytes.
        A text without near copies keeps the hash of its bytes, so that it depends on no version of Unicode.
    """
    least: dict[bytes, bytes] = {}
    for content, key in zip(sha256, normalized, strict=True):
        raw = content.tobytes()
        least[key.tobytes()] = min(raw, least.get(key.tobytes(), raw))
    keys = np.frombuffer(b"".join(least[key.tobytes()] for key in normalized), np.uint8).reshape(-1, 32)
    return None if np.array_equal(content_words(keys), content_words(sha256)) else keys
