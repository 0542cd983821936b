"""`HuggingFace`: a data set that Hugging Face `datasets` saved to disk."""

from __future__ import annotations

import hashlib
import posixpath
from collections import Counter
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from featcache.entries import SPLIT_NAMES, Entry, Listing
from featcache.errors import DataLayoutError, MissingExtraError, first_line
from featcache.files import Progress, hash_all
from featcache.telemetry import decline_usage_data

_MARKS = ("dataset_dict.json", "state.json")


def is_saved_dataset(folder: Path) -> bool:
    """Whether `Dataset.save_to_disk` or `DatasetDict.save_to_disk` wrote this folder."""
    return any((folder / mark).is_file() for mark in _MARKS)


class HuggingFace:
    """A data set on the disk with a column of images and one of labels; see `Source`.

    Ids are SPLIT/CLASS/NAME, with the file's name where the data set has kept it, else the row's number.
    """

    def __init__(self, folder: Path) -> None:
        self.name, self._folder = str(folder), folder
        self._rows: dict[str, tuple[Any, int]] = {}  # id -> the column of images, row

    def entries(self, ignored: Counter[str], progress: Progress | None = None) -> Listing:
        """See `Source`."""
        found = []
        for split, table in self._splits().items():
            found += self._entries_of(split, table)
        return Listing(found, any(len(entry.classes) != 1 for entry in found))

    def read(self, name: str) -> bytes:
        """See `Source`."""
        try:
            images, row = (self._rows or _rows_of(self.name))[name]
        except KeyError:
            raise FileNotFoundError(2, "it is not in the data set", name) from None
        image = images[row]
        return image["bytes"] if image["bytes"] is not None else Path(image["path"]).read_bytes()

    def part(self, names: Sequence[str]) -> HuggingFace:
        """See `Source`. What is found in a folder is kept in each process."""
        return HuggingFace(self._folder.absolute())

    def path(self, name: str) -> None:
        """See `Source`: none is a file of its own."""

    def hash(self, names: list[str], progress: Progress | None = None) -> NDArray[np.uint8]:
        """See `Source`."""
        return hash_all(lambda name: hashlib.sha256(self.read(name)).digest(), names, progress)

    def _splits(self) -> dict[str | None, Any]:
        """The tables, by the name of their split; None for a data set without splits."""
        decline_usage_data()
        try:
            import datasets
        except ImportError as error:
            raise MissingExtraError.of("datasets", "huggingface") from error
        try:
            found = datasets.load_from_disk(self.name)
        except (OSError, ValueError) as error:
            raise DataLayoutError(f"{self.name} cannot be read as a saved data set: {first_line(error)}") from error
        if not isinstance(found, datasets.DatasetDict):
            return {None: found}
        if unknown := [name for name in found if name not in SPLIT_NAMES]:
            raise DataLayoutError(
                f"{self.name} has the split {unknown[0]!r}; featcache knows train, validation and test. Save one split "
                "of it, or rename it."
            )
        return dict(found)

    def _entries_of(self, split: str | None, table: Any) -> list[Entry]:
        import datasets

        kinds = {name: type(feature).__name__ for name, feature in table.features.items()}
        image = next((name for name, kind in kinds.items() if kind == "Image"), None)
        label = next((name for name in ("label", "labels", "class") if name in kinds), None)
        label = next((name for name, kind in kinds.items() if kind == "ClassLabel"), label)
        if image is None or label is None:
            raise DataLayoutError(
                f"{self.name} needs a column of images and one of labels (ClassLabel, or named label); it has "
                + ", ".join(f"{name} ({kind})" for name, kind in kinds.items())
            )
        feature = table.features[label]
        feature = getattr(feature, "feature", feature)  # of a list of labels
        texts = getattr(feature, "names", None)
        images = table.cast_column(image, datasets.Image(decode=False))[image]
        classes = [_classes(value, texts) for value in table[label]]
        paths = (path for chunk in table.data.column(image).chunks for path in chunk.field("path").to_pylist())
        files = [posixpath.basename(path or "") for path in paths]
        folders = [posixpath.join(split or "", *one[:1]) for one in classes]
        ids = [posixpath.join(*pair) for pair in zip(folders, files, strict=True)]
        if "" in files or len(set(ids)) < len(ids):
            ids = [posixpath.join(folder, f"{row:08d}") for row, folder in enumerate(folders)]
        self._rows.update({name: (images, row) for row, name in enumerate(ids)})
        known = SPLIT_NAMES[split] if split else None
        return [Entry(name, one, known) for name, one in zip(ids, classes, strict=True)]


@lru_cache(maxsize=2)
def _rows_of(folder: str) -> dict[str, tuple[Any, int]]:
    """Where the images of a saved data set are, found once in a process."""
    source = HuggingFace(Path(folder))
    source.entries(Counter())
    return source._rows


def _classes(value: Any, names: list[str] | None) -> tuple[str, ...]:
    several = value if isinstance(value, list) else [] if value in (None, -1) else [value]  # -1: not known
    return tuple(names[one] if names and isinstance(one, int) else str(one) for one in several)
