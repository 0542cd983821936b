"""`Tokens`: token sequences of different lengths, the inputs of a text encoder."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    import torch

    from featcache.data.sample_loader import Inputs


@dataclass(frozen=True, eq=False)
class Tokens:
    """n sequences of token ids. They act as `DeviceInputs`: an array (n, t) that is padded to the longest sequence.

    Parameters
    ----------
    ids : sequence of n ndarrays of int64, each 1-D
        The ids of each sequence, special tokens included.
    pad_id : int, default 0
        Id of the padding.

    Examples
    --------
    >>> tokens = Tokens([np.array([5, 6, 7]), np.array([8])])
    >>> tokens.shape
    (2, 3)
    >>> np.asarray(tokens[1:])
    array([[8]])
    """

    ids: Sequence[NDArray[np.int64]]
    pad_id: int = 0

    @cached_property
    def lengths(self) -> NDArray[np.int64]:
        """Number of tokens of each sequence, shape (n,)."""
        return np.fromiter(map(len, self.ids), np.int64, len(self.ids))

    @property
    def shape(self) -> tuple[int, int]:
        """(n, t): number of sequences, and length of the longest one."""
        return len(self.ids), int(self.lengths.max(initial=0))

    @property
    def on_device(self) -> NDArray[np.bool_]:
        """See `DeviceInputs`: no sequence is made on a device. Shape (n,)."""
        return np.zeros(len(self.ids), np.bool_)

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, part: slice, /) -> Tokens:
        """Some of the sequences."""
        return Tokens(self.ids[part], self.pad_id)

    def take(self, numbers: Sequence[int] | NDArray[np.int64]) -> Tokens:
        """The sequences with these numbers, in this order."""
        return Tokens([self.ids[number] for number in numbers], self.pad_id)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:
        """The ids, shape (n, t), with padding behind each sequence."""
        if copy is False:
            raise ValueError("padded ids are made anew, which is a copy")
        padded = np.full(self.shape, self.pad_id, dtype or np.int64)
        for row, ids in zip(padded, self.ids, strict=True):
            row[: len(ids)] = ids
        return padded

    def to(self, device: torch.device, /) -> torch.Tensor:
        """The padded ids on a device."""
        import torch

        return torch.from_numpy(np.asarray(self)).to(device)

    def join(self, other: Inputs, /) -> Tokens:
        """These sequences and then those of another object of the same tokenizer."""
        if not isinstance(other, Tokens):
            raise TypeError(f"tokens are joined with tokens, not with {type(other).__name__}")
        return Tokens([*self.ids, *other.ids], self.pad_id)
