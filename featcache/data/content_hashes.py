"""`ContentHashes`: hashes of the content of samples; `hash_images` computes those of images."""

from __future__ import annotations

import errno
import hashlib
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from threading import Event
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from featcache._utils.progress_bar import Progress
from featcache._utils.regular_files import MAX_IMAGE, open_regular, too_large
from featcache.errors import RemoteIOError

if TYPE_CHECKING:
    from featcache.data.sources.base import SampleRecord, Source

_FILES_PER_TASK = 64  # a task for each file would cost more time and memory than hashing a small file
_CHUNK = 1 << 20


class ContentHashes(NamedTuple):
    """Hashes of the content of n samples.

    Parameters
    ----------
    sha256 : ndarray, shape (n, 32), uint8
        Hash of the bytes of each sample; that of its id for a sample that cannot be read.
    content_keys : ndarray or None
        See `Samples.content_keys`.
    notes : tuple of str
        What was found while the samples were read, a line each.
    """

    sha256: NDArray[np.uint8]
    content_keys: NDArray[np.uint8] | None = None
    notes: tuple[str, ...] = ()

    @property
    def keys(self) -> NDArray[np.uint8]:
        """Equal for samples that are copies: `content_keys`, or the hashes of the bytes."""
        return self.sha256 if self.content_keys is None else self.content_keys


def hash_images(source: Source, entries: Sequence[SampleRecord], progress: Progress | None = None) -> ContentHashes:
    """The hashes in the entries; the source computes those of entries without one."""
    missing = [row for row, entry in enumerate(entries) if not entry.sha256]
    computed = source.hash([entries[row].id for row in missing], progress)
    if len(missing) == len(entries):
        return ContentHashes(computed)
    hashes = np.frombuffer(b"".join(entry.sha256 or bytes(32) for entry in entries), np.uint8).reshape(-1, 32).copy()
    hashes[missing] = computed
    return ContentHashes(hashes)


def hash_file(path: str) -> bytes:
    """SHA-256 of a file, read in pieces. Raises OSError as `read_regular` does."""
    sha256 = hashlib.sha256()
    with open_regular(path) as file:
        if (size := os.fstat(file.fileno()).st_size) > MAX_IMAGE:  # it is not read either
            raise OSError(errno.EFBIG, too_large(size, MAX_IMAGE), path)
        while block := file.read(_CHUNK):
            sha256.update(block)
    return sha256.digest()


def hash_all(
    digest: Callable[[str], bytes], names: Sequence[str], progress: Progress | None = None, threads: int | None = None
) -> NDArray[np.uint8]:
    """The digest of each sample, in threads.

    Parameters
    ----------
    digest : callable
        SHA-256 of the sample with an id; raises OSError if it cannot be read.
    names : sequence of str
        n ids.
    progress : callable, optional
        Called with "hash", and with how many samples are done, of how many.
    threads : int, optional
        Number of threads; None takes Python's default.

    Returns
    -------
    ndarray, shape (n, 32), uint8
        A sample that cannot be read hashes as its id; it is skipped later.

    Raises
    ------
    RemoteIOError
        A connection is lost.
    """
    is_closed = Event()

    def digest_or_name(name: str) -> bytes:
        if is_closed.is_set():
            raise InterruptedError
        try:
            return digest(name)
        except RemoteIOError:
            raise
        except OSError:
            return hashlib.sha256(os.fsencode(name)).digest()

    def digest_slice(start: int) -> list[bytes]:
        return [digest_or_name(name) for name in names[start : start + _FILES_PER_TASK]]

    rows: list[bytes] = []
    pool = ThreadPoolExecutor(threads)  # hashing and reading release the GIL
    try:
        for digests in pool.map(digest_slice, range(0, len(names), _FILES_PER_TASK)):
            rows += digests
            if progress:
                progress("hash", len(rows), len(names))
    finally:
        is_closed.set()  # after a signal, do not wait for the other tasks
        pool.shutdown(cancel_futures=True)
    return np.frombuffer(b"".join(rows), dtype=np.uint8).reshape(-1, 32)
