"""Which samples a model was trained on: the beginnings of their hashes, beside the model.

They tell whether a given sample is among them, and nothing else.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from featcache.core.model_folder import locate
from featcache.core.tensor_files import add_metadata, tensor_metadata
from featcache.errors import HeadError

FILE = "training-samples.safetensors"
"""Its name in the folder of a model."""

_NAME = "sha256_beginnings"


def training_samples(sha256: NDArray[np.uint8]) -> bytes:
    """The content of `FILE`.

    Parameters
    ----------
    sha256 : ndarray, shape (n, 32), uint8
        Hashes of the bytes of the training samples.

    Returns
    -------
    bytes
        Equal for the same samples in another order.
    """
    from safetensors.numpy import save

    content = save({_NAME: np.unique(_beginnings(sha256))})
    return add_metadata(content, tensor_metadata("hashes of training samples", "np"))


def read_training_samples(folder: Path) -> NDArray[np.uint64] | None:
    """What `training_samples` wrote beside a model; None for a model without it.

    Parameters
    ----------
    folder : Path
        That of the model.

    Raises
    ------
    HeadError
        The file is damaged.
    """
    path = locate(folder, FILE)
    if not path.is_file():
        return None
    from safetensors.numpy import load

    try:
        values = load(path.read_bytes())[_NAME]
        if values.ndim != 1 or values.dtype != np.uint64:
            raise ValueError("it holds other numbers")
    except Exception as error:  # safetensors has its own errors; the user can do the same about all
        raise HeadError(f"{path} is damaged: {error}. Fit or train the model again.") from error
    return values


def count_known(known: NDArray[np.uint64], sha256: NDArray[np.uint8]) -> int:
    """How many samples are among those that a model was trained on.

    Parameters
    ----------
    known : ndarray, shape (n,), uint64
        See `read_training_samples`.
    sha256 : ndarray, shape (m, 32), uint8
        Hashes of the bytes of samples.

    Returns
    -------
    int
    """
    return int(np.isin(_beginnings(sha256), known).sum())


def _beginnings(sha256: NDArray[np.uint8]) -> NDArray[np.uint64]:
    """The first 64 bits of each hash: two samples in a billion times a billion share them."""
    return np.ascontiguousarray(sha256[:, :8]).view(">u8").ravel().astype(np.uint64)
