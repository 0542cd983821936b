"""Matrices that may be larger than memory.

`LazyRows` selects rows, `ConcatenatedFeatures` joins layers, `CenteredMatrix` iterates over centred blocks.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from featcache._utils.blockwise import iter_blocks

BLOCK_BYTES = 2**22  # about a core's second-level cache; passes with blocks of 16 MB take 1.5 times as long
MAX_CACHED_BYTES = 2**29
_ROUNDING = 1e-12  # a hundred times the squared rounding error of float32
_FLOAT16_LIMIT = 2.0**16  # `_widen` turns infinity into this, NaN into more


def as_slice(rows: NDArray[np.int64]) -> slice | NDArray[np.int64]:
    """Ascending row numbers, shape (n,), as a slice if they are consecutive: a slice copies nothing."""
    if len(rows) and rows[-1] - rows[0] + 1 == len(rows):
        return slice(int(rows[0]), int(rows[-1]) + 1)
    return rows


@dataclass(frozen=True, eq=False)
class ConcatenatedFeatures:
    """Arrays of shape (m, ..., d), with different d, side by side: shape (m, ..., sum of d).

    Indexing with [3:7] reads rows and gives an ndarray. `select` picks along the second axis and reads nothing.

    Parameters
    ----------
    parts : tuple of ndarray or LazyRows
        The arrays, in memory or memory-mapped.
    scale : ndarray, shape (sum of d,), float32, optional
        A factor for each feature.
    """

    parts: tuple[NDArray[Any] | LazyRows, ...]
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
        """The dtype that holds the values of all parts; float32 if there is a scale."""
        return np.result_type(*(part.dtype for part in self.parts)) if self.scale is None else np.dtype(np.float32)

    @property
    def contiguous(self) -> bool:
        """Whether `reshape` copies nothing."""
        return all(map(_is_contiguous, self.parts))

    def __len__(self) -> int:
        return len(self.parts[0])

    def __getitem__(self, key: Any) -> NDArray[Any]:
        """key : for all axes except the last."""
        values = np.concatenate([part[key] for part in self.parts], axis=-1)
        return values if self.scale is None else values * self.scale

    def select(self, views: int | slice) -> ConcatenatedFeatures:
        """One view, shape (m, d), or several, shape (m, w, d), of an array of shape (m, v, d)."""
        return ConcatenatedFeatures(tuple(_select(part, views) for part in self.parts), self.scale)

    def rows(self) -> ConcatenatedFeatures:
        """All views of an array of shape (m, v, d) as rows: shape (m * v, d)."""
        return ConcatenatedFeatures(tuple(_flatten(part) for part in self.parts), self.scale)

    def take_parts(self, numbers: Sequence[int]) -> NDArray[Any] | LazyRows | ConcatenatedFeatures:
        """Some of the arrays; a single one without a scale as it is."""
        parts = tuple(self.parts[number] for number in numbers)
        if self.scale is None:
            return parts[0] if len(parts) == 1 else ConcatenatedFeatures(parts)
        scales = np.split(self.scale, np.cumsum(self.widths)[:-1])
        return ConcatenatedFeatures(parts, np.concatenate([scales[number] for number in numbers]))

    def scaled(self, scale: NDArray[np.float32]) -> ConcatenatedFeatures:
        """Each feature multiplied by its scale, shape (d,)."""
        return ConcatenatedFeatures(self.parts, scale)


@dataclass(frozen=True, eq=False)
class LazyRows:
    """Selected rows of an array, read when they are indexed: `rows[3:7]` gives an ndarray, `np.asarray(rows)` all.

    Parameters
    ----------
    base : ndarray, LazyRows or ConcatenatedFeatures, shape (m, ...)
        In memory or memory-mapped.
    index : ndarray, shape (n,), int64
        Row numbers.
    """

    base: NDArray[Any] | LazyRows | ConcatenatedFeatures
    index: NDArray[np.int64]

    @property
    def shape(self) -> tuple[int, ...]:
        """(n, ...)."""
        return (len(self.index), *self.base.shape[1:])

    @property
    def dtype(self) -> np.dtype[Any]:
        """The dtype of the array."""
        return self.base.dtype

    def __len__(self) -> int:
        return len(self.index)

    def __getitem__(self, key: Any) -> NDArray[Any]:
        first, *others = key if isinstance(key, tuple) else (key,)
        return self.base[(self.index[first], *others)]

    def __array__(self, dtype: np.dtype[Any] | None = None, copy: bool | None = None) -> NDArray[Any]:
        return np.asarray(self[:], dtype=dtype)

    def select(self, views: int | slice) -> LazyRows:
        """One view, shape (n, d), or several, shape (n, w, d), of rows of shape (n, v, d)."""
        base = self.base.select(views) if isinstance(self.base, ConcatenatedFeatures) else _select(self.base, views)
        return LazyRows(base, self.index)

    def flatten_views(self) -> LazyRows:
        """All views of rows of shape (n, v, d): shape (n * v, d)."""
        views, d = self.base.shape[1:]
        if not _is_contiguous(self.base):  # a selection of views
            return LazyRows(self[:].reshape(-1, d), np.arange(len(self) * views))
        flat = self.base.rows() if isinstance(self.base, ConcatenatedFeatures) else _flatten(self.base)
        return LazyRows(flat, (self.index[:, None] * views + np.arange(views)).reshape(-1))


def _select(rows: NDArray[Any] | LazyRows, views: int | slice) -> NDArray[Any] | LazyRows:
    """One view or several of rows of shape (n, v, d)."""
    return rows.select(views) if isinstance(rows, LazyRows) else rows[:, views]


def _flatten(rows: NDArray[Any] | LazyRows) -> NDArray[Any] | LazyRows:
    """All views of rows of shape (n, v, d) as rows: shape (n * v, d)."""
    return rows.flatten_views() if isinstance(rows, LazyRows) else rows.reshape(-1, rows.shape[-1])


def _is_contiguous(rows: NDArray[Any] | LazyRows | ConcatenatedFeatures) -> bool:
    """Whether `_flatten` copies nothing."""
    if isinstance(rows, LazyRows):
        return _is_contiguous(rows.base)
    return rows.contiguous if isinstance(rows, ConcatenatedFeatures) else rows.flags.c_contiguous


class CenteredMatrix:
    """The rows of a matrix minus their weighted mean, in blocks. Iteration yields (slice, block) pairs.

    Blocks are float64 for a float64 matrix, else float32. They are kept in memory if all of them take
    `MAX_CACHED_BYTES` or less. Otherwise each pass computes them again, and each block overwrites the previous one, so
    that memory does not grow with n.

    Parameters
    ----------
    x : ndarray or LazyRows, shape (n, d), float16, float32 or float64
        In memory or memory-mapped.
    weight : ndarray, shape (n,)
        Not negative, with a sum above 0.

    Attributes
    ----------
    mean : ndarray, shape (d,)
        Of the dtype of the blocks.

    Raises
    ------
    ValueError
        x holds NaN or infinity.
    """

    def __init__(self, x: NDArray[Any] | LazyRows, weight: NDArray[Any]) -> None:
        self._x = x
        dtype = np.dtype(np.float64 if x.dtype == np.float64 else np.float32)
        self.mean: NDArray[Any] = np.zeros(x.shape[1], dtype)
        fits = x.shape[0] * x.shape[1] * dtype.itemsize <= MAX_CACHED_BYTES
        self._cached = np.empty(x.shape, dtype) if fits else None
        limit = _FLOAT16_LIMIT if x.dtype == np.float16 else np.inf
        mean = np.zeros(x.shape[1])
        for rows, block in self._widened():
            if not (block.max() < limit and block.min() > -limit):
                self._refuse(rows)
            mean += weight[rows].astype(dtype) @ block
        self.mean = (mean / weight.sum(dtype=np.float64)).astype(dtype)
        if self._cached is not None:
            for rows in self._slices():
                self._cached[rows] -= self.mean

    def __iter__(self) -> Iterator[tuple[slice, NDArray[Any]]]:
        if self._cached is not None:
            yield from ((rows, self._cached[rows]) for rows in self._slices())
            return
        for rows, block in self._widened():
            block -= self.mean
            yield rows, block

    @property
    def shape(self) -> tuple[int, int]:
        """(n, d)."""
        return self._x.shape[0], self._x.shape[1]

    def recentre(self, mean: NDArray[Any]) -> None:
        """Subtract another mean, shape (d,), from now on."""
        mean = mean.astype(self.mean.dtype)
        if self._cached is not None:
            for rows in self._slices():
                self._cached[rows] += self.mean - mean
        self.mean = mean

    def squares(self, weight: NDArray[Any]) -> NDArray[np.float64]:
        """The weighted sum of squares of each feature, shape (d,); weight : of the rows, shape (n,)."""
        squares = np.zeros(len(self.mean))
        for rows, block in self:
            squares += weight[rows].astype(block.dtype) @ np.square(block)
        return squares

    def take(self, rows: NDArray[np.int64]) -> NDArray[Any]:
        """Centred rows, shape (m, d)."""
        if self._cached is not None:
            return self._cached[rows]
        block = np.empty((len(rows), len(self.mean)), self.mean.dtype)
        _widen(self._x[rows], block)
        block -= self.mean
        return block

    def stored(self, rows: slice) -> NDArray[Any]:
        """Rows as they are stored, in their own dtype and not centred, shape (m, d)."""
        return self._x[rows]

    def _slices(self) -> Iterator[slice]:
        n, d = self._x.shape
        yield from iter_blocks(n, d * self.mean.itemsize, BLOCK_BYTES)

    def _widened(self) -> Iterator[tuple[slice, NDArray[Any]]]:
        """Blocks of x in the wider dtype: parts of the cached array, or one buffer that each block overwrites."""
        buffer = None
        for rows in self._slices():
            if self._cached is not None:
                block = self._cached[rows]
            else:
                buffer = np.empty((rows.stop, len(self.mean)), self.mean.dtype) if buffer is None else buffer
                block = buffer[: rows.stop - rows.start]
            _widen(self._x[rows], block)
            yield rows, block

    def _refuse(self, rows: slice) -> None:
        from sklearn.utils import assert_all_finite  # takes a second to import; `featcache info` reads no block

        assert_all_finite(self._x[rows], estimator_name="LinearHead", input_name="X")


def safe_mean_variance(variance: float, mean: NDArray[Any]) -> float:
    """The mean variance of features with this mean, shape (d,); 1 if it is only rounding error of constants."""
    return variance if variance > _ROUNDING * float(np.mean(mean.astype(np.float64) ** 2)) else 1.0


def _widen(x: NDArray[Any], out: NDArray[Any]) -> None:
    """out[:] = x. Finite float16 become float32 in 1/3 to 1/8 of the time that numpy takes.

    The bits move to their places in a float32, whose exponent is then too small by 127 - 15.
    """
    if x.dtype != np.float16:
        out[:] = x
        return
    bits = out.view(np.int32)
    np.left_shift(x.view(np.int16), 13, out=bits, dtype=np.int32)
    bits &= np.int32(-0x70002000)  # keeps one of the sign bits that int32 repeats
    out *= np.float32(2.0**112)
