"""`TABLE_FORMATS`: the formats of tables of features, by name. Listing the names imports no numpy and no pyarrow."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, BinaryIO, Literal

from featcache.core.registry import Registry
from featcache.errors import ExportError

if TYPE_CHECKING:
    import numpy as np  # 100 ms, which `export --help` does not wait for

ColumnKind = Literal["text", "integer", "number"]
Block = Mapping[str, Any]
"""Some rows: column -> a sequence of its values, None for a missing one. `vector` is an ndarray, shape (b, d)."""

VECTOR = "vector"


@dataclass(frozen=True)
class TableSchema:
    """What is known of a table before its rows.

    Parameters
    ----------
    columns : dict of str to ColumnKind
        The columns before `vector`, in their order.
    rows : int
        Their number.
    width : int
        d, the length of the vectors.
    dtype : np.dtype
        Of the vectors: float16 or float32.
    source : dict
        What the features are, as JSON values: network, layer, classes and the like.
    """

    columns: Mapping[str, ColumnKind]
    rows: int
    width: int
    dtype: np.dtype[Any]
    source: Mapping[str, Any]


@dataclass(frozen=True)
class TableFormat:
    """A format of tables of features.

    Parameters
    ----------
    write : Callable[[BinaryIO, TableSchema, Iterator[Block]], None]
        Writes a table, a block at a time, so that memory does not grow with the number of rows.
    packages : tuple of str
        Names of the modules that `write` imports, beyond featcache's own dependencies. Default: none.
    extra : str
        The extra of featcache that installs the packages. Default: none.
    """

    write: Callable[[BinaryIO, TableSchema, Iterator[Block]], None]
    packages: tuple[str, ...] = ()
    extra: str = ""


TABLE_FORMATS = Registry[TableFormat](
    "format of features", "featcache.cache.tables.formats", "featcache.feature_exports", ExportError
)
