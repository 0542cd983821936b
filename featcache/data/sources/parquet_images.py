"""Parquet files that hold the images themselves, and how many bytes such files take in memory."""

from __future__ import annotations

from pathlib import Path
from typing import Any


def has_images(path: Path) -> bool:
    """Whether a Parquet file holds the images themselves, as Hugging Face's files do: in a column {bytes, path}."""
    try:
        from pyarrow import ArrowException, parquet
    except ImportError:
        return False  # the error when the file is read names the package to install
    if not path.is_file():  # opening a pipe would wait for a writer
        return False
    try:
        schema = parquet.read_schema(path)
    except (ArrowException, OSError, UnicodeDecodeError):
        return False
    return any(map(is_image_column, schema))


def is_image_column(column: Any) -> bool:
    """Whether a column of Parquet holds {bytes, path}, or bytes under the name of images."""
    from pyarrow import types

    if types.is_struct(column.type):
        return bool(column.type.get_field_index("bytes") >= 0)
    is_binary = types.is_binary(column.type) or types.is_large_binary(column.type)
    return is_binary and column.name.lower().startswith(("image", "img", "jpg", "jpeg", "png"))


def uncompressed_bytes(metadata: Any) -> int:
    """The size of a Parquet file without compression, by its metadata.

    Parameters
    ----------
    metadata : pyarrow.parquet.FileMetaData
        Of the file. The metadata of single columns is not read: if it is damaged, Arrow ends the process.

    Returns
    -------
    int
        Bytes. A repeated text counts once.
    """
    return sum(metadata.row_group(number).total_byte_size for number in range(metadata.num_row_groups))
