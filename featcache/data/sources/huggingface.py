"""`HuggingFaceSource`: a data set of Hugging Face `datasets` on disk: saved by it, or Parquet files as on the Hub."""

from __future__ import annotations

import posixpath
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from functools import lru_cache
from pathlib import Path
from typing import Any

from featcache._utils.progress_bar import Progress
from featcache._utils.regular_files import read_regular
from featcache._utils.telemetry import decline_usage_data
from featcache.core.samples import UNLABELED
from featcache.data.hidden_labels import is_unknown
from featcache.data.label_columns import AmbiguousLabelError
from featcache.data.sources.base import SPLIT_NAMES, SampleListing, SampleRecord, Source, SourceOptions
from featcache.data.sources.huggingface_columns import (
    choose_columns,
    class_names,
    is_list,
    read_classes,
    read_groups,
)
from featcache.data.sources.huggingface_files import copies_folder, find_image_tables, is_saved_dataset, load_splits
from featcache.data.sources.registry import SOURCES
from featcache.errors import DataLayoutError


class HuggingFaceSource(Source):
    """A data set with a column of images and one of labels; see `Source`.

    Ids are SPLIT/CLASS/NAME, with the file's name if the data set has it, else the row's number. Images can have
    several labels if the type of the column is a list. Rows whose label is -1 or null form the split "unlabeled"; rows
    without an image are skipped.

    Parameters
    ----------
    name : str
        The folder, file or pattern.
    files : sequence of Path
        Parquet files; empty for a folder that `datasets` saved. They are copied into the user's cache folder once, so
        that images can be read in any order.
    label_column : str or None
        The column of the labels; None chooses one, see `choose_label`.
    """

    order = 20
    has_columns = True

    def __init__(self, name: str, files: Sequence[Path] = (), label_column: str | None = None) -> None:
        self.name, self._files, self._label_column = name, tuple(files), label_column
        self._rows: dict[str, tuple[Any, int]] = {}  # id -> the column of images, row

    @classmethod
    def matches(cls, path: str, options: SourceOptions) -> bool:
        """See `Source`: Parquet files with images in them, or a folder that `datasets` saved."""
        return bool(find_image_tables(path)) or is_saved_dataset(Path(path))

    @classmethod
    def open(cls, path: str, options: SourceOptions) -> Source:
        """See `Source`."""
        return HuggingFaceSource(path, find_image_tables(path), options.label_column)

    def entries(self, ignored: Counter[str], progress: Progress | None = None) -> SampleListing:
        """See `Source`. Raises DataLayoutError for a column "group" of lists or fields."""
        return self._list(with_groups=True)

    def _list(self, with_groups: bool) -> SampleListing:
        """The samples. with_groups : whether groups are read, which predictions do not need."""
        entries: list[SampleRecord] = []
        notes: dict[str, None] = {}
        several, is_plain, label_column = False, True, None
        tables: list[tuple[str | None, Any, str, list[tuple[str, ...] | None]]] = []
        for split, table in load_splits(self.name, self._files).items():
            image_column, label_column = choose_columns(self.name, table, self._label_column, notes)
            feature = table.features[label_column]
            several |= is_list(feature)
            is_plain &= not class_names(feature)
            tables.append((split, table, image_column, self._classes(table, label_column)))
        if is_plain and not several:
            labels = ((names or (), _split_name(split)) for split, _, _, classes in tables for names in classes)
            is_hidden, hidden_notes = is_unknown(labels)
            notes |= dict.fromkeys(hidden_notes)
            if is_hidden:
                tables = [
                    (split, table, column, [None if names == ("-1",) else names for names in classes])
                    for split, table, column, classes in tables
                ]
        for split, table, image_column, classes in tables:
            groups = read_groups(self.name, table) if with_groups else [""] * len(table)
            entries += self._records(split, table, image_column, classes, groups)
        if self._files:
            notes[f"{len(self._files)} Parquet files copied to {copies_folder()}"] = None
        return SampleListing(entries, several, tuple(notes), label_column)

    def _classes(self, table: Any, column: str) -> list[tuple[str, ...] | None]:
        """See `read_classes`."""
        try:
            return read_classes(table[column], table.features[column])
        except IndexError as error:
            raise DataLayoutError(
                f"{self.name} is damaged: a label in the column {column!r} has a number without a name."
            ) from error
        except TypeError as error:
            raise DataLayoutError(
                f"{self.name}: the labels in the column {column!r} must be names, numbers or lists of such; found "
                f"{error}. Name another column with --label-column."
            ) from error

    def sample_ids(self, ignored: Counter[str]) -> list[str]:
        """See `Source`."""
        return [entry.id for entry in self._list(with_groups=False).entries]

    def read(self, name: str) -> bytes:
        """See `Source`."""
        row = self._rows.get(name) or _rows_of(self.name, self._files, self._label_column).get(name)
        if row is None and self._label_column is None:
            row = _rows_of_all_columns(self.name, self._files).get(name)
        if row is None:
            raise FileNotFoundError(2, "it is not in the data set", name)
        images, number = row
        image = images[number]
        if image is None or (image["bytes"] is None and image["path"] is None):
            raise OSError("the data set has no image in this row (null)")
        return image["bytes"] if image["bytes"] is not None else read_regular(image["path"])

    def subset(self, names: Sequence[str]) -> Source:
        """See `Source`. Each process lists the rows once, see `_rows_of`."""
        return HuggingFaceSource(str(Path(self.name).absolute()), self._files, self._label_column)

    def _records(
        self,
        split: str | None,
        table: Any,
        image_column: str,
        classes: Sequence[tuple[str, ...] | None],
        groups: Sequence[str],
    ) -> list[SampleRecord]:
        """The samples of one split; `_rows` gets their rows."""
        decline_usage_data()
        import datasets

        table = table.cast_column(image_column, datasets.Image(decode=False))
        images = table[image_column]
        paths = (path for chunk in table.data.column(image_column).chunks for path in chunk.field("path").to_pylist())
        if table._indices is not None:  # rows were selected: the Arrow table has others, too
            paths = (image["path"] if image else None for image in images)
        files = [posixpath.basename(path or "") for path in paths]
        folders = [posixpath.join(split or "", *(names or ())[:1]) for names in classes]
        ids = [posixpath.join(*pair) for pair in zip(folders, files, strict=True)]
        if "" in files or len(set(ids)) < len(ids):
            ids = [posixpath.join(folder, f"{row:08d}") for row, folder in enumerate(folders)]
        self._rows.update({name: (images, row) for row, name in enumerate(ids)})
        split = _split_name(split)
        return [
            SampleRecord(name, names or (), UNLABELED if names is None else split, group=group)
            for name, names, group in zip(ids, classes, groups, strict=True)
        ]


@lru_cache(maxsize=2)
def _rows_of(name: str, files: tuple[Path, ...], label_column: str | None) -> dict[str, tuple[Any, int]]:
    """The rows of a data set by id, listed once in a process; empty if it is not clear which column is the label."""
    source = HuggingFaceSource(name, files, label_column)
    with suppress(AmbiguousLabelError):
        source.sample_ids(Counter())
    return source._rows


@lru_cache(maxsize=2)
def _rows_of_all_columns(name: str, files: tuple[Path, ...]) -> dict[str, tuple[Any, int]]:
    """The same for every column that may be the label, because ids contain the class."""
    columns = {column for table in load_splits(name, files).values() for column in table.features}
    rows: dict[str, tuple[Any, int]] = {}
    for column in sorted(columns):
        source = HuggingFaceSource(name, files, column)
        with suppress(DataLayoutError):
            source.sample_ids(Counter())
            rows |= source._rows
    return rows


def _split_name(split: str | None) -> str | None:
    """The split in featcache's words."""
    return SPLIT_NAMES[split] if split else None


SOURCES.register("huggingface", HuggingFaceSource)
