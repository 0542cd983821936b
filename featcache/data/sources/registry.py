"""`open_source`: the source that a path names. `SOURCES` holds all kinds of sources.

The kinds are tried in the order of `Source.order`:

1. kinds that other packages add by an entry point of the group `featcache.sources`, unless they have another `order`;
2. tar files (`tar`), by the end of their name, or a folder that holds only such;
3. texts in a folder that `datasets` saved (`huggingface-texts`), with a column `text` and none of images;
4. data sets of Hugging Face (`huggingface`): Parquet files with images in them, or a folder that `datasets` saved;
5. tables of texts (`texts`): CSV, JSON lines or Parquet with a column `text`, and none of paths;
6. other tables (`table`): CSV, JSON lines or Parquet, by the end of their name;
7. folders with metadata.csv or metadata.jsonl (`metadata`);
8. class folders, on the disk or at a URL (`folder`).

A file that none of them matches is read as a CSV table.
"""

from __future__ import annotations

import os
from pathlib import Path

from featcache._utils import remote
from featcache.core.registry import Registry
from featcache.data.file_types import HDF5
from featcache.data.modality import IMAGES
from featcache.data.sources.base import Source, SourceOptions, missing_error
from featcache.errors import DataLayoutError

SOURCES: Registry[type[Source]] = Registry(
    "source of samples", "featcache.data.sources", "featcache.sources", DataLayoutError
)


def open_source(
    data: str | os.PathLike[str],
    *,
    label_column: str | None = None,
    skip_missing: bool = False,
    text_column: str | None = None,
) -> Source:
    """The source of the data at a path; its samples are not listed yet.

    Parameters
    ----------
    data : str or path-like
        A file, a folder, a pattern or a URL, see `read_manifest`.
    label_column : str or None
        The column of the labels; None chooses one.
    skip_missing : bool
        List samples whose files are missing, too.
    text_column : str or None
        The column of the texts, or several with commas between them; None takes `text`.

    Returns
    -------
    Source

    Raises
    ------
    EmptyFolderError
        Nothing has this path.
    DataLayoutError
        `label_column` or `skip_missing` is given for data without columns, `skip_missing` for texts, `text_column` for
        data without texts in
        columns, or the file is of a kind that holds no samples.
    """
    path, options = os.fspath(data), SourceOptions(label_column, skip_missing, text_column=text_column)
    source_type = source_type_of(path, options)
    if source_type is None and not Path(path).is_file():
        raise missing_error(path)
    if source_type is None:
        _refuse_single_file(Path(path), options)
        source_type = SOURCES.get("table" if text_column is None else "texts")
    if (label_column is not None or skip_missing) and not source_type.has_columns:
        raise DataLayoutError(
            f"{path} has no columns: --label-column and --skip-missing are for CSV, Parquet and Hugging Face's data."
        )
    if skip_missing and source_type.has_text_column:
        raise DataLayoutError(
            f"{path} holds texts, and skip_missing is for images, whose tables name files. Leave it out."
        )
    if text_column is not None and not source_type.has_text_column:
        raise DataLayoutError(
            f"{path} has no columns of texts: text_column is for texts in CSV, JSON lines, Parquet and Hugging "
            "Face's data."
        )
    return source_type.open(path, options)


def source_type_of(path: str, options: SourceOptions | None = None) -> type[Source] | None:
    """The first kind of source, in their order, that matches a path; None if there is none."""
    options = options or SourceOptions()
    named = [(name, SOURCES.get(name)) for name in SOURCES.names()]
    in_order = sorted(named, key=lambda pair: (pair[1].order, pair[0]))
    return next((source for _, source in in_order if source.matches(path, options)), None)


def is_collection(path: str, text_column: str | None = None) -> bool:
    """Whether a path names a table, tar files or a data set, whose samples need not be files of their own.

    text_column : see `open_source`.
    """
    if IMAGES.accepts(Path(path)) and not os.path.isdir(path):
        return False
    source_type = source_type_of(path, SourceOptions(text_column=text_column))
    return source_type is not None and not source_type.is_folder


def names_samples(data: str | os.PathLike[str]) -> bool:
    """Whether a path names samples, and not a file of another kind, such as a cache."""
    path = os.fspath(data)
    if remote.is_url(path):
        return not path.lower().endswith(HDF5)
    return os.path.isdir(path) or source_type_of(path) is not None


def _refuse_single_file(path: Path, options: SourceOptions) -> None:
    """Raise DataLayoutError for a file that lists no samples: one sample, or a cache."""
    if (options.modality or IMAGES).accepts(path):
        raise DataLayoutError(
            f"{path} is a single picture. Give the folder that holds a folder of pictures for each class. To classify "
            f"a picture: featcache predict HEAD {path}"
        )
    if path.suffix.lower() in HDF5:
        raise DataLayoutError(
            f"{path} is a cache or another HDF5 file. Give the images: a folder, a CSV, or tar files. What a cache "
            f"holds: featcache info {path}"
        )
