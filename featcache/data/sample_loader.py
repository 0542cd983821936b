"""`SampleLoader`: gives the inputs of a network for the samples of a manifest, in batches."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

from featcache.data.manifest import Manifest

if TYPE_CHECKING:
    import torch


class DeviceInputs(Protocol):
    """n inputs of a network that are made on its device, such as views of images. They act as an array does.

    Attributes
    ----------
    shape : tuple of int
        That of the inputs, (n, ...).
    on_device : ndarray of bool, shape (n,)
        Which of them a device has made so far. Others are made on the CPU and copied.
    """

    @property
    def shape(self) -> tuple[int, ...]: ...
    @property
    def on_device(self) -> NDArray[np.bool_]: ...
    def __len__(self) -> int: ...
    def __getitem__(self, part: slice, /) -> DeviceInputs: ...

    def join(self, other: Inputs, /) -> DeviceInputs:
        """These inputs and then the other ones."""

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:
        """The same inputs, made on the CPU."""

    def to(self, device: torch.device, /) -> torch.Tensor:
        """Make them on the device. A GPU makes them in its current stream, while the caller goes on."""


Inputs: TypeAlias = NDArray[Any] | DeviceInputs
"""Inputs of a network, shape (n, ...)."""


def join_inputs(first: Inputs, *others: Inputs) -> Inputs:
    """The inputs of several batches as one."""
    if isinstance(first, np.ndarray):
        return np.concatenate([first, *map(np.asarray, others)])
    for other in others:
        first = first.join(other)
    return first


@dataclass(frozen=True)
class Batch:
    """b readable samples, with v views of each.

    Parameters
    ----------
    rows : ndarray, shape (b,), int64
        Rows of the samples in the manifest.
    inputs : ndarray or DeviceInputs, shape (b * v, ...)
        Inputs of the network; the views of a sample follow each other. Images have shape (b * v, s, s, 3), uint8. They
        are `DeviceInputs` only if the loader was opened for a device.
    labels : ndarray, shape (b,), int64, or (b, c), uint8
        Labels of the samples, as in `Samples`.
    """

    rows: NDArray[np.int64]
    inputs: Any
    labels: NDArray[Any]


class SampleLoader(Protocol):
    """Reads samples in the background and gives their views in batches.

    Attributes
    ----------
    manifest : Manifest
        The samples.
    skipped : dict
        Row -> reason, of samples that could not be read so far.
    remarks : dict
        Row -> what is unusual about a sample that was read, such as "nearly black".
    """

    manifest: Manifest
    skipped: dict[int, str]
    remarks: dict[int, str]

    def start(self, rows: Sequence[int] | NDArray[np.int64], numbers: Sequence[int]) -> None:
        """Begin to load what `batches` will probably be asked for first. Parameters as of `batches`."""

    def batches(
        self, rows: Sequence[int] | NDArray[np.int64], numbers: Sequence[int], batch_size: int
    ) -> Iterator[Batch]:
        """Views of samples, in the order of `rows`.

        A sample that cannot be read is left out and recorded in `skipped`; the batch is filled up with the next one.

        Parameters
        ----------
        rows : sequence of int
            Rows of the manifest.
        numbers : sequence of int
            v view numbers; 0 is the clean view.
        batch_size : int
            Samples in a batch; the last batch may have fewer.

        Raises
        ------
        RemoteIOError
            A connection is lost.
        """

    def close(self) -> None:
        """Stop loading and release the threads."""
