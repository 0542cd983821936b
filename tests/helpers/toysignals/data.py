"""Which files are signals, and folders of them."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from featcache.data.content_hashes import hash_images
from featcache.data.modality import Modality
from featcache.data.sources.base import Source, SourceOptions
from featcache.data.sources.folder import FolderSource


def is_signal_name(path: Path) -> bool:
    return path.suffix == ".npy"


SIGNALS = Modality(
    "signal", "signals", "*.npy", is_signal_name, lambda path: f"not a signal ({path.suffix})", hash_images
)


class SignalFolder(FolderSource):
    order = 45  # before the folders of images and texts

    @classmethod
    def matches(cls, path: str, options: SourceOptions) -> bool:
        return Path(path).is_dir() and any(Path(path).rglob("*.npy"))

    @classmethod
    def open(cls, path: str, options: SourceOptions) -> Source:
        return FolderSource(path, SIGNALS)


def read_signal(content: bytes, length: int) -> NDArray[np.float32]:
    """Shape (t,). Raises OSError with the reason for what is no signal of this length."""
    try:
        values = np.load(io.BytesIO(content), allow_pickle=False)
    except ValueError as error:
        raise OSError(f"not a signal: {error}") from error
    if values.shape != (length,):
        raise OSError(f"a signal of shape {values.shape}, not ({length},)")
    return np.asarray(values, np.float32)
