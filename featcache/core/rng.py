"""Random numbers that depend only on their purpose.

No generator here has a history: each draw is a function of a seed and a key (which image, which view, which
epoch), so order, workers, batch size and crashes cannot change it.
"""

from __future__ import annotations

import hashlib

import numpy as np
from numpy.typing import NDArray


def _key(seed: int, *parts: object) -> int:
    """128 bits from the seed and the parts, equal on every machine and Python."""
    plain = tuple(int(part) if isinstance(part, np.integer) else part for part in (seed, *parts))
    return int.from_bytes(hashlib.blake2b(repr(plain).encode(), digest_size=16).digest(), "little")


def generator(seed: int, *parts: object) -> np.random.Generator:
    """A counter-based generator (Philox: Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3").

    Parameters
    ----------
    seed : the user's seed.
    parts : the purpose of the numbers: str, int or bytes.
    """
    return np.random.Generator(np.random.Philox(key=_key(seed, *parts)))


class ReusedGenerator:
    """The numbers of `generator` in a quarter of its time, from one generator that begins anew for each key.

    It serves one thread, and only until the next key.
    """

    def __init__(self) -> None:
        self._bits = np.random.Philox(key=0)
        self._state = self._bits.state
        self._generator = np.random.Generator(self._bits)

    def begin(self, seed: int, *parts: object) -> np.random.Generator:
        """See `generator`."""
        key = _key(seed, *parts)
        self._state["state"]["key"][:] = key & (1 << 64) - 1, key >> 64
        self._bits.state = self._state
        return self._generator


def derived_seed(seed: int, *parts: object) -> int:
    """A 63-bit seed for generators of other libraries."""
    return _key(seed, *parts) >> 65


def epoch_order(sha256: NDArray[np.uint8], seed: int, epoch: int) -> NDArray[np.int64]:
    """The order in which an epoch visits the images: a shuffle that each image decides for itself.

    Images are sorted by a 64-bit mix of their content hash with the (seed, epoch) key. Dropping an image
    (an unreadable file, say) therefore leaves the order of the others as it was, which is what lets a head
    trained from a cache see the very batches that live training sees.

    Parameters
    ----------
    sha256 : ndarray, shape (n, 32), uint8. Content hashes.
    epoch : int, from 1.

    Returns
    -------
    order : ndarray, shape (n,), int64. A permutation of 0..n-1; identical images keep their relative order.
    """
    return content_order(sha256, seed, "order", epoch)


def content_words(sha256: NDArray[np.uint8]) -> NDArray[np.uint64]:
    """The first 64 bits of each hash, shape (n,): they identify contents, and sort in 1/40 of the time."""
    return np.ascontiguousarray(sha256[:, :8]).view("<u8").reshape(-1).astype(np.uint64)


def content_order(sha256: NDArray[np.uint8], seed: int, *parts: object) -> NDArray[np.int64]:
    """A shuffle in which each content, shape (n, 32), has a position that does not depend on the other contents."""
    word = content_words(sha256) ^ np.uint64(derived_seed(seed, *parts))
    # The finaliser of SplitMix64 (Steele, Lea and Flood 2014): a bijection that spreads every bit.
    word = (word ^ (word >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    word = (word ^ (word >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    word ^= word >> np.uint64(31)
    return np.argsort(word, kind="stable")
