"""Matrices that may be larger than memory.

`LazyRows` selects rows, `ConcatenatedFeatures` joins layers, `CenteredMatrix` iterates over centred blocks.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

BLOCK_BYTES = 2**22  # of a core's second-level cache, about: passes over 16 MB take half as long again
MAX_CACHED_BYTES = 2**29
_ROUNDING = 1e-12  # of float32, squared, and some hundred times that
_FLOAT16_LIMIT = 2.0**16  # what `_widen` makes of infinity; NaN becomes more


def as_slice(rows: NDArray[np.int64]) -> slice | NDArray[np.int64]:
    """Ascending row numbers (n,) as a slice, which copies nothing, where they are consecutive; else as they are."""
    if len(rows) and rows[-1] - rows[0] + 1 == len(rows):
        return slice(int(rows[0]), int(rows[-1]) + 1)
    return rows


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


@dataclass(frozen=True, eq=False)
class LazyRows:
    """Some rows of an array, read when they are asked for: `rows[3:7]` gives an ndarray, `np.asarray(rows)` them all.

    base : ndarray, shape (m, ...), perhaps memory-mapped; or several `ConcatenatedFeatures`. index : shape (n,), int64,
    the rows.
    """

    base: NDArray[Any] | ConcatenatedFeatures
    index: NDArray[np.int64]

    @property
    def shape(self) -> tuple[int, ...]:
        """(n, ...)."""
        return (len(self.index), *self.base.shape[1:])

    @property
    def dtype(self) -> np.dtype[Any]:
        """That of the array."""
        return self.base.dtype

    def __len__(self) -> int:
        return len(self.index)

    def __getitem__(self, key: Any) -> NDArray[Any]:
        first, *others = key if isinstance(key, tuple) else (key,)
        return self.base[(self.index[first], *others)]

    def __array__(self, dtype: np.dtype[Any] | None = None, copy: bool | None = None) -> NDArray[Any]:
        return np.asarray(self[:], dtype=dtype)

    def select(self, views: int | slice) -> LazyRows:
        """Of (n, v, d) one view, (n, d), or some, (n, w, d)."""
        return LazyRows(
            self.base.select(views) if isinstance(self.base, ConcatenatedFeatures) else self.base[:, views], self.index
        )

    def flatten_views(self) -> LazyRows:
        """All views of (n, v, d) as rows: (n * v, d)."""
        views, d = self.base.shape[1:]
        if not (
            self.base.contiguous if isinstance(self.base, ConcatenatedFeatures) else self.base.flags.c_contiguous
        ):  # some views
            return LazyRows(self[:].reshape(-1, d), np.arange(len(self) * views))
        flat = self.base.rows() if isinstance(self.base, ConcatenatedFeatures) else self.base.reshape(-1, d)
        return LazyRows(flat, (self.index[:, None] * views + np.arange(views)).reshape(-1))


class CenteredMatrix:
    """The rows of a matrix less their weighted mean, in blocks: iterating gives (slice, block) pairs.

    Blocks are float64 for a float64 matrix, else float32. They are kept where all of them take up KEPT_BYTES or
    less; otherwise they are worked out again in each pass and each is overwritten by the next, so that memory does
    not grow with n.

    Parameters
    ----------
    x : shape (n, d), float16, float32 or float64: an ndarray, perhaps memory-mapped, or `LazyRows`.
    weight : shape (n,), not negative, with a sum above 0.

    Attributes
    ----------
    mean : ndarray, shape (d,), of the blocks' dtype.

    Raises
    ------
    ValueError : x holds NaN or infinity.
    """

    def __init__(self, x: NDArray[Any] | LazyRows, weight: NDArray[Any]) -> None:
        self._x = x
        dtype = np.dtype(np.float64 if x.dtype == np.float64 else np.float32)
        self.mean: NDArray[Any] = np.zeros(x.shape[1], dtype)
        fits = x.shape[0] * x.shape[1] * dtype.itemsize <= MAX_CACHED_BYTES
        self._kept = np.empty(x.shape, dtype) if fits else None
        limit = _FLOAT16_LIMIT if x.dtype == np.float16 else np.inf
        mean = np.zeros(x.shape[1])
        for rows, block in self._widened():
            if not (block.max() < limit and block.min() > -limit):
                self._refuse(rows)
            mean += weight[rows].astype(dtype) @ block
        self.mean = (mean / weight.sum(dtype=np.float64)).astype(dtype)
        if self._kept is not None:
            for rows in self._slices():
                self._kept[rows] -= self.mean

    def __iter__(self) -> Iterator[tuple[slice, NDArray[Any]]]:
        if self._kept is not None:
            yield from ((rows, self._kept[rows]) for rows in self._slices())
            return
        for rows, block in self._widened():
            block -= self.mean
            yield rows, block

    @property
    def shape(self) -> tuple[int, int]:
        """(n, d)."""
        return self._x.shape[0], self._x.shape[1]

    def recentre(self, mean: NDArray[Any]) -> None:
        """Give the rows less another mean from now on, (d,)."""
        mean = mean.astype(self.mean.dtype)
        if self._kept is not None:
            for rows in self._slices():
                self._kept[rows] += self.mean - mean
        self.mean = mean

    def squares(self, weight: NDArray[Any]) -> NDArray[np.float64]:
        """The weighted sum of the squares of each feature, shape (d,); weight : of the rows, (n,)."""
        found = np.zeros(len(self.mean))
        for rows, block in self:
            found += weight[rows].astype(block.dtype) @ np.square(block)
        return found

    def take(self, rows: NDArray[np.int64]) -> NDArray[Any]:
        """Some rows, shape (m, d)."""
        if self._kept is not None:
            return self._kept[rows]
        block = np.empty((len(rows), len(self.mean)), self.mean.dtype)
        _widen(self._x[rows], block)
        block -= self.mean
        return block

    def _slices(self) -> Iterator[slice]:
        n, d = self._x.shape
        step = max(1, BLOCK_BYTES // (d * self.mean.itemsize))
        yield from (slice(start, min(n, start + step)) for start in range(0, n, step))

    def _widened(self) -> Iterator[tuple[slice, NDArray[Any]]]:
        """Blocks as they are in x, where they will be kept or each in place of the one before."""
        buffer = None
        for rows in self._slices():
            if self._kept is not None:
                block = self._kept[rows]
            else:
                buffer = np.empty((rows.stop, len(self.mean)), self.mean.dtype) if buffer is None else buffer
                block = buffer[: rows.stop - rows.start]
            _widen(self._x[rows], block)
            yield rows, block

    def _refuse(self, rows: slice) -> None:
        from sklearn.utils import assert_all_finite  # takes a second to import, and `info` reads no block

        assert_all_finite(self._x[rows], estimator_name="LinearHead", input_name="X")


def safe_mean_variance(variance: float, mean: NDArray[Any]) -> float:
    """The mean variance of features with this mean, (d,); 1 where it is no more than rounding of constants."""
    return variance if variance > _ROUNDING * float(np.mean(mean.astype(np.float64) ** 2)) else 1.0


def _widen(x: NDArray[Any], out: NDArray[Any]) -> None:
    """out[:] = x; of finite float16 to float32 in 1/3 to 1/8 of the time that numpy takes.

    The bits move to their places in a float32, whose exponent is then too small by 127 - 15.
    """
    if x.dtype != np.float16:
        out[:] = x
        return
    bits = out.view(np.int32)
    np.left_shift(x.view(np.int16), 13, out=bits, dtype=np.int32)
    bits &= np.int32(-0x70002000)  # the sign, which int32 repeats, once
    out *= np.float32(2.0**112)
