"""`HuggingFaceSource`: a data set of Hugging Face `datasets` on disk: saved by it, or Parquet files as on the Hub."""

from __future__ import annotations

import glob
import hashlib
import os
import posixpath
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from featcache._utils.environment import cache_folder
from featcache._utils.formatting import brief
from featcache._utils.progress_bar import Progress
from featcache._utils.regular_files import open_regular, read_json, read_regular
from featcache._utils.telemetry import decline_usage_data
from featcache.core.samples import UNLABELLED
from featcache.data.file_listing import hash_all
from featcache.data.hidden_labels import is_unknown
from featcache.data.label_columns import AmbiguousLabelError, choose_label, find_column, label_note
from featcache.data.sources.base import SPLIT_NAMES, SampleListing, SampleRecord
from featcache.data.sources.table import has_images, uncompressed_bytes
from featcache.errors import DataLayoutError, MissingExtraError, first_line

_MOST_DECODED, _MOST_TIMES = 2**31, 50
"""A Parquet file of images has so many bytes decoded at most, or so many times its own if those are more."""
_LARGE = 20_000  # bytes of a value: files whose values have more in them are not decoded to be counted
_BATCH = 2**8  # rows decoded at once

_MARKS = ("dataset_dict.json", "state.json")
_IMAGE_NAMES = ("image", "img")
_PATTERNS = (
    "*.parquet",
    "data/*.parquet",
    *(f"{split}/*.parquet" for split in SPLIT_NAMES),
    *(f"*/{split}/*.parquet" for split in SPLIT_NAMES),
)
"""Where a folder of the Hub has its Parquet files; the last are CONFIGURATION/SPLIT/FILE."""


def is_saved_dataset(folder: Path) -> bool:
    """Whether `Dataset.save_to_disk` or `DatasetDict.save_to_disk` wrote this folder."""
    return any((folder / mark).is_file() for mark in _MARKS)


def find_image_tables(name: str) -> tuple[Path, ...]:
    """The Parquet files with images in them that a file, a pattern or a folder stands for; there may be none.

    Raises
    ------
    DataLayoutError : a folder holds several configurations of a data set.
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
    """Raise DataLayoutError where the files of a folder are those of several configurations."""
    parts = [file.relative_to(folder).parts for file in files] if folder.is_dir() else []
    if len(found := sorted({one[0] for one in parts if len(one) == 3})) > 1:
        raise DataLayoutError(
            f"{folder} holds the Parquet files of {len(found)} configurations of a data set: {brief(found)}. Give the "
            f"folder of one: {folder / found[0]}"
        )


class HuggingFaceSource:
    """A data set with a column of images and one of labels; see `Source`.

    Ids are SPLIT/CLASS/NAME, with the file's name where the data set has kept it, else the row's number. Whether images
    have several labels is said by the column's type: a list. Rows whose label is -1 or null form the split
    "unlabelled"; those without an image are skipped.

    Parameters
    ----------
    name : the folder, file or pattern.
    files : Parquet files; empty for a folder that `datasets` saved. They are copied into the user's cache folder once,
        to read images in any order.
    label_column : see `choose_label`.
    """

    def __init__(self, name: str, files: Sequence[Path] = (), label_column: str | None = None) -> None:
        self.name, self._files, self._label_column = name, tuple(files), label_column
        self._rows: dict[str, tuple[Any, int]] = {}  # id -> the column of images, row

    def entries(self, ignored: Counter[str], progress: Progress | None = None) -> SampleListing:
        """See `Source`. Raises DataLayoutError for a column "group" of lists or fields."""
        return self._list(grouped=True)

    def _list(self, grouped: bool) -> SampleListing:
        """grouped : whether groups are read, which predictions need not."""
        entries: list[SampleRecord] = []
        notes: dict[str, None] = {}
        several, plain, label = False, True, None
        read: list[tuple[str | None, Any, str, list[tuple[str, ...] | None]]] = []
        for split, table in self._splits().items():
            image, label = self._columns(table, notes)
            several |= _is_list(table.features[label])
            plain &= not _names(table.features[label])
            try:
                read.append((split, table, image, _classes(table[label], table.features[label])))
            except IndexError as error:
                raise DataLayoutError(
                    f"{self.name} is damaged: a label in the column {label!r} has a number without a name."
                ) from error
            except TypeError as error:
                raise DataLayoutError(
                    f"{self.name}: the labels in the column {label!r} must be names, numbers or lists of such; found "
                    f"{error}. Name another column with --label-column."
                ) from error
        if plain and not several:
            labels = ((one or (), _known(split)) for split, _, _, classes in read for one in classes)
            hides, more = is_unknown(labels)
            notes |= dict.fromkeys(more)
            if hides:
                read = [(*first, [None if one == ("-1",) else one for one in classes]) for *first, classes in read]
        for split, table, image, classes in read:
            groups = _groups(self.name, table) if grouped else [""] * len(table)
            entries += self._entries_of(split, table, image, classes, groups)
        if self._files:
            notes[f"{len(self._files)} Parquet files copied to {_copies()}"] = None
        return SampleListing(entries, several, tuple(notes), label)

    def images(self, ignored: Counter[str]) -> list[str]:
        """See `Source`."""
        return [entry.id for entry in self._list(grouped=False)[0]]

    def read(self, name: str) -> bytes:
        """See `Source`."""
        place = self._rows.get(name) or _rows_of(self.name, self._files, self._label_column).get(name)
        if place is None and self._label_column is None:
            place = _rows_of_any(self.name, self._files).get(name)
        if place is None:
            raise FileNotFoundError(2, "it is not in the data set", name)
        images, row = place
        image = images[row]
        if image is None or (image["bytes"] is None and image["path"] is None):
            raise OSError("the data set has no image in this row (null)")
        return image["bytes"] if image["bytes"] is not None else read_regular(image["path"])

    def part(self, names: Sequence[str]) -> HuggingFaceSource:
        """See `Source`. What is found in a folder is kept in each process."""
        return HuggingFaceSource(str(Path(self.name).absolute()), self._files, self._label_column)

    def path(self, name: str) -> None:
        """See `Source`: none is a file of its own."""

    def hash(self, names: list[str], progress: Progress | None = None) -> NDArray[np.uint8]:
        """See `Source`."""
        return hash_all(lambda name: hashlib.sha256(self.read(name)).digest(), names, progress)

    def _splits(self) -> Mapping[str | None, Any]:
        """The tables, by the name of their split; None for a data set without splits."""
        decline_usage_data()
        try:
            import datasets
        except ImportError as error:
            raise MissingExtraError.of("datasets", "huggingface") from error
        try:
            if self._files:
                tables = _load_parquet(self._files)
                for table in tables.values():
                    _check_arrow(table)
                return tables
            _check_saved(Path(self.name))
            found = datasets.load_from_disk(self.name)
            found = found.with_format(None)  # it may hide columns, or give tensors
            for table in found.values() if isinstance(found, datasets.DatasetDict) else [found]:
                _check_arrow(table)
        except (MemoryError, MissingExtraError, DataLayoutError):
            raise
        except Exception as error:  # `datasets` and Arrow raise whatever they like on a damaged file
            raise DataLayoutError(f"{self.name} cannot be read as a saved data set: {first_line(error)}") from error
        if not isinstance(found, datasets.DatasetDict):
            return {None: found}
        if unknown := [name for name in found if name not in SPLIT_NAMES]:
            raise DataLayoutError(
                f"{self.name} has the split {unknown[0]!r}; featcache knows train, validation and test. Save one split "
                "of it, or rename it."
            )
        return dict(found)

    def _columns(self, table: Any, notes: dict[str, None]) -> tuple[str, str]:
        """The column of images and that of labels; what was chosen is added to the notes."""
        kinds = {name: _kind(feature) for name, feature in table.features.items()}
        images = [name for name, kind in kinds.items() if kind == "Image"]
        named = [name for name in images if name in _IMAGE_NAMES] or images
        others = [name for name in kinds if name not in images]
        candidates = [name for name in others if kinds[name] == "ClassLabel"]
        if not named and self._label_column is None and not candidates:
            label = None
        else:
            label = choose_label(self.name, others, self._label_column, candidates)
        if not named or label is None:
            raise DataLayoutError(
                f"{self.name} needs a column of images and one of labels (ClassLabel, or named label); it has "
                + brief([f"{name} ({kind})" for name, kind in kinds.items()])
            )
        if len(named) > 1:
            raise DataLayoutError(
                f"{self.name} has {len(named)} columns of images: {brief(named)}. Name the one to take 'image': "
                f"rename_column({named[0]!r}, 'image')"
            )
        notes[label_note(label, others, candidates)] = None
        if len(images) > 1:
            notes[f"image column: {named[0]} (not {brief([name for name in images if name != named[0]])})"] = None
        return named[0], label

    def _entries_of(
        self,
        split: str | None,
        table: Any,
        image: str,
        classes: Sequence[tuple[str, ...] | None],
        groups: Sequence[str],
    ) -> list[SampleRecord]:
        import datasets

        table = table.cast_column(image, datasets.Image(decode=False))
        images = table[image]
        paths = (path for chunk in table.data.column(image).chunks for path in chunk.field("path").to_pylist())
        if table._indices is not None:  # rows were selected: the table below has others, too
            paths = (one["path"] if one else None for one in images)
        files = [posixpath.basename(path or "") for path in paths]
        folders = [posixpath.join(split or "", *(one or ())[:1]) for one in classes]
        ids = [posixpath.join(*pair) for pair in zip(folders, files, strict=True)]
        if "" in files or len(set(ids)) < len(ids):
            ids = [posixpath.join(folder, f"{row:08d}") for row, folder in enumerate(folders)]
        self._rows.update({name: (images, row) for row, name in enumerate(ids)})
        known = _known(split)
        return [
            SampleRecord(name, one or (), UNLABELLED if one is None else known, group=group)
            for name, one, group in zip(ids, classes, groups, strict=True)
        ]


@lru_cache(maxsize=2)
def _rows_of(name: str, files: tuple[Path, ...], label_column: str | None) -> dict[str, tuple[Any, int]]:
    """Where the images of a data set are, found once in a process; none where it is not clear what the label is."""
    source = HuggingFaceSource(name, files, label_column)
    with suppress(AmbiguousLabelError):
        source.images(Counter())
    return source._rows


@lru_cache(maxsize=2)
def _rows_of_any(name: str, files: tuple[Path, ...]) -> dict[str, tuple[Any, int]]:
    """The same for every column that may be the label: ids have the class in them."""
    columns = {column for table in HuggingFaceSource(name, files)._splits().values() for column in table.features}
    rows: dict[str, tuple[Any, int]] = {}
    for column in sorted(columns):
        source = HuggingFaceSource(name, files, column)
        with suppress(DataLayoutError):
            source.images(Counter())
            rows |= source._rows
    return rows


def _kind(feature: Any) -> str:
    """The type of a column; of a list that of its items. Bytes, and {bytes, path}, are images."""
    import pyarrow

    if isinstance(feature, dict):
        return "Image" if "bytes" in feature else "dict"
    if isinstance(feature, list):
        return _kind(feature[0])
    if (inner := getattr(feature, "feature", None)) is not None:
        return _kind(inner)
    if getattr(feature, "pa_type", None) in (pyarrow.binary(), pyarrow.large_binary()):
        return "Image"
    return type(feature).__name__


def _is_list(feature: Any) -> bool:
    return isinstance(feature, list) or getattr(feature, "feature", None) is not None


def _classes(values: Any, feature: Any) -> list[tuple[str, ...] | None]:
    """The class names of each row; None where the label is not known: null, NaN, an empty text, or -1 of a ClassLabel.

    Raises TypeError, which names the value, for one with fields.
    """
    names = _names(feature)
    rows: list[tuple[str, ...] | None] = []
    for value in values:
        several = value if isinstance(value, list) else [value]
        if fields := [one for one in several if isinstance(one, (dict, list))]:
            raise TypeError(str(fields[0])[:80])
        if value is None or any(_is_unknown(one) or (names and one == -1) for one in several):
            rows.append(None)
        else:
            rows.append(tuple(str(names[one] if names and isinstance(one, int) else one) for one in several))
    return rows


def _is_unknown(label: Any) -> bool:
    """Whether a label is null, NaN or an empty text."""
    return label is None or label != label or (isinstance(label, str) and not label.strip())


def _groups(name: str, table: Any) -> list[str]:
    """What the column "group" says of each row; "" where it says nothing, or there is none.

    name : what messages call the data set. Raises DataLayoutError for a column of lists or of fields.
    """
    column = find_column(list(table.features), ("group",))
    if column is None:
        return [""] * len(table)
    feature = table.features[column]
    if _is_list(feature) or _kind(feature) not in ("Value", "ClassLabel"):
        raise DataLayoutError(
            f"{name}: the column {column!r} names the group of an image, a text or a number; it is {feature}. Make it "
            f"one of these, or rename it where it is no group: rename_column({column!r}, ...)"
        )
    return ["" if one is None or one != one else str(one).strip() for one in table[column]]


def _names(feature: Any) -> Sequence[str] | None:
    """The class names of a ClassLabel, or of a list of such."""
    inner = feature[0] if isinstance(feature, list) else getattr(feature, "feature", feature)
    return getattr(inner, "names", None)


def _known(split: str | None) -> str | None:
    """The split as featcache calls it."""
    return SPLIT_NAMES[split] if split else None


def _copies() -> Path:
    return cache_folder() / "huggingface"


def _check_arrow(table: Any) -> None:
    """Raise ArrowInvalid where texts, pictures or lists have places that lie outside of what the file holds."""
    table.data.validate(full=True)


def _check_saved(folder: Path) -> None:
    """Raise DataLayoutError where a saved data set names files that `datasets` must not open: outside, or no files."""
    marks = [folder / mark for mark in (*_MARKS, "dataset_info.json")]
    found = {path.name: read_json(path) for path in marks if os.path.lexists(path)}
    splits = found.get("dataset_dict.json", {}).get("splits", [])
    files = [one["filename"] for one in found.get("state.json", {}).get("_data_files", [])]
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
    """Raise DataLayoutError for a Parquet file that decodes to far more than it has: pictures do not compress."""
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
    """Whether values that are stored once may fill more than `most` bytes: many values, and few bytes for each.

    What is said of single columns is not looked at, see `uncompressed_bytes`.
    """
    groups = [metadata.row_group(number) for number in range(metadata.num_row_groups)]
    return any(
        group.total_byte_size < _LARGE * group.num_rows and group.total_byte_size * group.num_rows > most
        for group in groups
    )


def _load_parquet(files: Sequence[Path]) -> dict[str | None, Any]:
    """The tables of Parquet files by split, which a word of the file's name says, or that of its folder."""
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
            split: datasets.Dataset.from_parquet(paths, cache_dir=str(_copies())) for split, paths in by_split.items()
        }


@contextmanager
def _without_progress_bars(datasets: Any) -> Iterator[None]:
    """featcache shows its own."""
    were_disabled = datasets.are_progress_bars_disabled()
    datasets.disable_progress_bars()
    try:
        yield
    finally:
        if not were_disabled:
            datasets.enable_progress_bars()
