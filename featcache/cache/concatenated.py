"""`ConcatenatedFeatures`: the features of several layers side by side, read when they are asked for."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, eq=False)
class ConcatenatedFeatures:
    """Arrays (m, ..., d), d of each its own, as one of shape (m, ..., sum of d).

    parts : perhaps memory-mapped. scale : what each feature is multiplied by, shape (sum of d,), float32, or None.
    `joined[3:7]` gives an ndarray; `joined.select(...)` picks along the second axis and reads nothing.
    """

    parts: tuple[NDArray[Any], ...]
    scale: NDArray[np.float32] | None = None

    @property
    def shape(self) -> tuple[int, ...]:
        """(m, ..., d)."""
        return (*self.parts[0].shape[:-1], sum(self.widths))

    @property
    def widths(self) -> list[int]:
        """d of each part."""
        return [part.shape[-1] for part in self.parts]

    @property
    def dtype(self) -> np.dtype[Any]:
        """That of the parts; float32 where they are scaled."""
        return self.parts[0].dtype if self.scale is None else np.dtype(np.float32)

    @property
    def contiguous(self) -> bool:
        """Whether `reshape` copies nothing."""
        return all(part.flags.c_contiguous for part in self.parts)

    def __len__(self) -> int:
        return len(self.parts[0])

    def __getitem__(self, key: Any) -> NDArray[Any]:
        """key : of all axes but the last."""
        found = np.concatenate([part[key] for part in self.parts], axis=-1)
        return found if self.scale is None else found * self.scale

    def select(self, views: int | slice) -> ConcatenatedFeatures:
        """Of (m, v, d) one view, (m, d), or some, (m, w, d)."""
        return ConcatenatedFeatures(tuple(part[:, views] for part in self.parts), self.scale)

    def rows(self) -> ConcatenatedFeatures:
        """Of (m, v, d) all views as rows, (m * v, d)."""
        return ConcatenatedFeatures(tuple(part.reshape(-1, part.shape[-1]) for part in self.parts), self.scale)

    def scaled(self, scale: NDArray[np.float32]) -> ConcatenatedFeatures:
        """Each feature times its scale, (d,)."""
        return ConcatenatedFeatures(self.parts, scale)
