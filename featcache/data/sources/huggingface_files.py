"""Data sets of Hugging Face on the disk: folders that `datasets` saved, and Parquet files in the layout of the Hub."""

from __future__ import annotations

import glob
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from featcache._utils.environment import cache_folder
from featcache._utils.formatting import brief
from featcache._utils.regular_files import open_regular, read_json
from featcache._utils.telemetry import decline_usage_data
from featcache.data.sources.base import SPLIT_NAMES
from featcache.data.sources.parquet_images import has_images, uncompressed_bytes
from featcache.errors import DataLayoutError, MissingExtraError, first_line

_MOST_DECODED, _MOST_TIMES = 2**31, 50
"""A Parquet file of images may have so many bytes decoded, or so many times its own size if that is more."""
_LARGE = 20_000  # bytes of a value: files with larger values on average are not decoded to be counted
_BATCH = 2**8  # rows decoded at once

_MARKS = ("dataset_dict.json", "state.json")
_PATTERNS = (
    "*.parquet",
    "data/*.parquet",
    *(f"{split}/*.parquet" for split in SPLIT_NAMES),
    *(f"*/{split}/*.parquet" for split in SPLIT_NAMES),
)
"""Where a folder of the Hub has its Parquet files; the last patterns are CONFIGURATION/SPLIT/FILE."""


def is_saved_dataset(folder: Path) -> bool:
    """Whether `Dataset.save_to_disk` or `DatasetDict.save_to_disk` wrote this folder."""
    return any((folder / mark).is_file() for mark in _MARKS)


def find_image_tables(name: str) -> tuple[Path, ...]:
    """The Parquet files with images in them that a file, a pattern or a folder names; there may be none.

    Raises
    ------
    DataLayoutError
        A folder holds several configurations of a data set.
    """
    path = Path(name)
    if path.is_dir():
        files = sorted({file for pattern in _PATTERNS for file in path.glob(pattern) if file.is_file()})
    elif name.lower().endswith(".parquet"):
        files = [Path(file) for file in sorted(glob.glob(name))] if glob.has_magic(name) else [path]
    else:
        files = []
    if not files or not has_images(files[0]):
        return ()
    _refuse_configurations(path, files)
    return tuple(file.absolute() for file in files)


def _refuse_configurations(folder: Path, files: Sequence[Path]) -> None:
    """Raise DataLayoutError if the files of a folder belong to several configurations."""
    parts = [file.relative_to(folder).parts for file in files] if folder.is_dir() else []
    configurations = sorted({names[0] for names in parts if len(names) == 3})
    if len(configurations) > 1:
        raise DataLayoutError(
            f"{folder} holds the Parquet files of {len(configurations)} configurations of a data set: "
            f"{brief(configurations)}. Give the folder of one: {folder / configurations[0]}"
        )


def copies_folder() -> Path:
    """Where `datasets` keeps its copies of Parquet files."""
    return cache_folder() / "huggingface"


def load_splits(name: str, files: Sequence[Path] = ()) -> Mapping[str | None, Any]:
    """The tables of a data set, by the name of their split; None for a data set without splits.

    Parameters
    ----------
    name : str
        The folder, file or pattern, as messages call it.
    files : sequence of Path
        Parquet files; empty for a folder that `datasets` saved. They are copied to `copies_folder` once, so that images
        can be read in any order.

    Returns
    -------
    mapping of str or None to datasets.Dataset

    Raises
    ------
    DataLayoutError
        The files are damaged, decode to far more bytes than they have, or have a split with an unknown name.
    MissingExtraError
        `datasets` is not installed.
    """
    decline_usage_data()
    try:
        import datasets
    except ImportError as error:
        raise MissingExtraError.for_package("datasets", "huggingface") from error
    try:
        if files:
            tables = _load_parquet(files)
            for table in tables.values():
                _check_arrow(table)
            return tables
        _check_saved(Path(name))
        loaded = datasets.load_from_disk(name)
        loaded = loaded.with_format(None)  # a saved format may hide columns, or give tensors
        for table in loaded.values() if isinstance(loaded, datasets.DatasetDict) else [loaded]:
            _check_arrow(table)
    except (MemoryError, MissingExtraError, DataLayoutError):
        raise
    except Exception as error:  # `datasets` and Arrow raise errors of many types on a damaged file
        raise DataLayoutError(f"{name} cannot be read as a saved data set: {first_line(error)}") from error
    if not isinstance(loaded, datasets.DatasetDict):
        return {None: loaded}
    if unknown := [split for split in loaded if split not in SPLIT_NAMES]:
        raise DataLayoutError(
            f"{name} has the split {unknown[0]!r}; featcache knows train, validation and test. Save one split "
            "of it, or rename it."
        )
    return dict(loaded)


def _check_arrow(table: Any) -> None:
    """Raise ArrowInvalid if texts, images or lists have offsets outside of the file's data."""
    table.data.validate(full=True)


def _check_saved(folder: Path) -> None:
    """Raise DataLayoutError if a saved data set names files outside of its folder, or files that are not regular."""
    marks = [folder / mark for mark in (*_MARKS, "dataset_info.json")]
    records = {path.name: read_json(path) for path in marks if os.path.lexists(path)}
    splits = records.get("dataset_dict.json", {}).get("splits", [])
    files = [data_file["filename"] for data_file in records.get("state.json", {}).get("_data_files", [])]
    for name in (*splits, *files):
        if not isinstance(name, str) or name in ("", ".", "..") or os.path.basename(name) != name:
            raise DataLayoutError(f"{folder} names a file outside of it: {name!r}. Save the data set again.")
    for name in files:
        open_regular(folder / name).close()
    for name in splits:
        if not (folder / name).is_dir():
            raise DataLayoutError(f"{folder} is damaged: it has no split {name!r}. Save the data set again.")
        if os.path.lexists(folder / name / "dataset_dict.json"):
            raise DataLayoutError(f"{folder} is damaged: its split {name!r} has splits of its own.")
        _check_saved(folder / name)


def _refuse_bombs(file: Path) -> None:
    """Raise DataLayoutError for a Parquet file that decodes to far more bytes than it has. Images do not compress."""
    from pyarrow import parquet

    size = file.stat().st_size
    most = max(_MOST_DECODED, _MOST_TIMES * size)
    table = parquet.ParquetFile(file)
    decoded = uncompressed_bytes(table.metadata)
    if decoded <= most and _repeats(table.metadata, most):
        decoded = 0
        for batch in table.iter_batches(batch_size=_BATCH):
            decoded += batch.nbytes
            if decoded > most:
                break
    if decoded > most:
        raise DataLayoutError(
            f"{file} has {size:,} bytes, and decoded more than {most:,}: it fills the disk with the same again and "
            "again. Give the pictures themselves."
        )


def _repeats(metadata: Any, most: int) -> bool:
    """Whether repeated values, stored once, may take more than `most` bytes: many values, and few bytes for each.

    The metadata of single columns is not read, see `uncompressed_bytes`.
    """
    groups = [metadata.row_group(number) for number in range(metadata.num_row_groups)]
    return any(
        group.total_byte_size < _LARGE * group.num_rows and group.total_byte_size * group.num_rows > most
        for group in groups
    )


def _load_parquet(files: Sequence[Path]) -> dict[str | None, Any]:
    """The tables of Parquet files by split: a word of the file's name, or the name of its folder."""
    import datasets

    by_split: dict[str | None, list[str]] = {}
    for file in files:
        words = [*re.split(r"[^a-z]+", file.name.lower()), file.parent.name.lower()]
        split = next((word for word in words if word in SPLIT_NAMES), None)
        by_split.setdefault(split, []).append(str(file))
    for path in files:
        _refuse_bombs(path)
    with _without_progress_bars(datasets):
        return {
            split: datasets.Dataset.from_parquet(paths, cache_dir=str(copies_folder()))
            for split, paths in by_split.items()
        }


@contextmanager
def _without_progress_bars(datasets: Any) -> Iterator[None]:
    """Without the progress bars of `datasets`: featcache shows one."""
    were_disabled = datasets.are_progress_bars_disabled()
    datasets.disable_progress_bars()
    try:
        yield
    finally:
        if not were_disabled:
            datasets.enable_progress_bars()
