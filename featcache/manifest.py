"""`Manifest`: which images there are, their labels, their split and the hash of their bytes."""

from __future__ import annotations

import csv
import hashlib
import os
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from featcache.errors import DataLayoutError, EmptyFolderError
from featcache.files import Progress, hash_files, walk
from featcache.holdout import hold_out
from featcache.samples import SPLITS, Samples

_SPLIT_NAMES = {"train": "train", "val": "val", "valid": "val", "validation": "val", "test": "test"}
_EMPTY = hashlib.sha256().digest()  # of files of no bytes: they are no images, wherever they lie
_CSV_COLUMNS = ("path", "label")


@dataclass(frozen=True)
class Manifest:
    """Labelled images on disk.

    root : the folder that the ids are relative to.
    samples : ids, labels, split, hashes, classes; train rows first, then val, then test, each sorted by id.
    ignored : how many files were passed over, by reason.
    """

    root: Path
    samples: Samples
    ignored: dict[str, int]

    def conflicts(self) -> list[tuple[str, str]]:
        """Pairs of images with equal bytes and different labels: one of the two labels is wrong."""
        labels, sha256 = self.samples.labels, self.samples.sha256
        pairs = [(a, b) for a, b in self.samples.copies() if labels[a] != labels[b] and sha256[a].tobytes() != _EMPTY]
        return [(self.samples.ids[a], self.samples.ids[b]) for a, b in pairs]

    def path(self, row: int) -> Path:
        """Where image `row` lies."""
        return self.root / self.samples.ids[row]


@dataclass(frozen=True, slots=True)
class _Entry:
    id: str
    label: str
    split: str | None


def read_manifest(
    data: str | os.PathLike[str] | Manifest,
    *,
    val_fraction: float = 0.2,
    seed: int = 0,
    allow_leak: bool = False,
    progress: Progress | None = None,
) -> Manifest:
    """Find the images of a folder or of a CSV manifest.

    Parameters
    ----------
    data : one of
        - a folder with `train/<class>/*` and `val/<class>/*` (`valid`, `validation` too), perhaps `test/`;
        - a folder with `<class>/*`;
        - a CSV file with the columns `path`, `label` and perhaps `split`; paths are relative to its folder;
        - a Manifest, which is given back as it is.
    val_fraction : share of the images that is held out as val where the data has no val of its own:
        stratified by class, drawn with `seed`; files with equal bytes stay on one side.
    allow_leak : take images whose bytes are in train and in val or test as well.

    Raises
    ------
    EmptyFolderError, DataLayoutError
    """
    if isinstance(data, Manifest):
        return data
    source = Path(data)
    ignored: Counter[str] = Counter()
    if source.is_dir():
        root, entries = source, list(_scan_folder(source, ignored))
    elif source.is_file():
        root, entries = source.parent, list(_read_csv(source))
    else:
        raise EmptyFolderError(f"{source} does not exist. Give a folder of class folders, or a CSV manifest.")
    if not entries:
        raise EmptyFolderError(f"{source} holds no images. {_expected(source)}")
    entries.sort(key=lambda entry: entry.id)
    classes = _classes(source, entries)
    sha256 = hash_files(root, [entry.id for entry in entries], progress)
    number = {name: place for place, name in enumerate(classes)}
    labels = np.array([number[entry.label] for entry in entries], dtype=np.int64)
    split = _split(entries, labels, sha256, val_fraction, seed)
    order = np.argsort(split, kind="stable")
    samples = Samples(tuple(entry.id for entry in entries), labels, split, sha256, classes).take(order)
    if not allow_leak:
        _refuse_leaks(source, samples)
    return Manifest(root, samples, dict(ignored))


def _expected(source: Path) -> str:
    if source.suffix == ".csv":
        return "Expected a line for each image: path,label[,split]."
    return f"Expected {source / '<class>' / '*.jpg'} or {source / 'train' / '<class>' / '*.jpg'}."


def _subfolders(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))


def _scan_folder(root: Path, ignored: Counter[str]) -> Iterator[_Entry]:
    folders = _subfolders(root)
    split_of = {folder: _SPLIT_NAMES.get(folder.name.lower()) for folder in folders}
    used = [split for split in split_of.values() if split]
    if "train" not in used:
        if folders and len(used) == len(folders):
            raise DataLayoutError(f"{root} has {_some(path.name for path in folders)} but no train folder.")
        yield from _scan_classes(root, root, None, ignored)
        return
    if len(used) != len(set(used)):
        raise DataLayoutError(f"{root} has several folders for one split: {_some(path.name for path in folders)}.")
    for folder, split in split_of.items():
        if split:
            yield from _scan_classes(root, folder, split, ignored)
        elif others := sum(1 for _ in walk(folder, Counter())):
            ignored["in folders other than train, val, test"] += others
    _count_beside(root, ignored)


def _scan_classes(root: Path, folder: Path, split: str | None, ignored: Counter[str]) -> Iterator[_Entry]:
    class_folders = _subfolders(folder)
    if not class_folders and any(walk(folder, Counter())):
        raise DataLayoutError(
            f"{folder} holds images but no class folders. Expected {folder / '<class>' / '*.jpg'}: "
            "one folder a class, its name is the label."
        )
    for class_folder in class_folders:
        count = 0
        for path in walk(class_folder, ignored):
            count += 1
            yield _Entry(path.relative_to(root).as_posix(), class_folder.name, split)
        if not count:
            raise EmptyFolderError(
                f"Class folder {class_folder} holds no images. Put images into it, or remove the folder."
            )
    _count_beside(folder, ignored)


def _count_beside(folder: Path, ignored: Counter[str]) -> None:
    """Count the files that lie beside class folders and so have no label."""
    for path in folder.iterdir():
        if not path.is_dir():
            ignored["hidden" if path.name.startswith(".") else "beside the class folders"] += 1


def _read_csv(path: Path) -> Iterator[_Entry]:
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file)
            columns = reader.fieldnames or []
            if any(name not in columns for name in _CSV_COLUMNS):
                raise DataLayoutError(
                    f"{path}: the first line must name the columns path,label[,split]; found {','.join(columns)}"
                )
            seen: dict[str, int] = {}
            for row in reader:
                yield _csv_entry(path, reader.line_num, row, seen)
    except (UnicodeDecodeError, csv.Error) as error:
        raise DataLayoutError(f"{path} is not a CSV file in UTF-8: {error}") from error


def _csv_entry(path: Path, line: int, row: dict[str, str], seen: dict[str, int]) -> _Entry:
    name, label, split = row["path"], row["label"], row.get("split") or None
    if not name or not label:
        raise DataLayoutError(f"{path}, line {line}: path and label must not be empty")
    if split is not None and split not in _SPLIT_NAMES:
        raise DataLayoutError(f"{path}, line {line}: split is {split!r}; it must be train, val or test")
    # Absolute paths become relative, so that an id says the same on every machine.
    name = Path(os.path.relpath(path.parent / name, path.parent)).as_posix()
    if name in seen:
        raise DataLayoutError(f"{path}, line {line}: {name} stands already in line {seen[name]}")
    seen[name] = line
    if not (path.parent / name).is_file():
        raise DataLayoutError(f"{path}, line {line}: there is no file {path.parent / name}")
    return _Entry(name, label, _SPLIT_NAMES[split] if split else None)


def _classes(source: Path, entries: list[_Entry]) -> tuple[str, ...]:
    """The class names of the training images, checked against the other splits."""
    trained = {entry.label for entry in entries if entry.split in (None, "train")}
    if not trained:
        raise DataLayoutError(f"{source} has no training images: every split is val or test.")
    for entry in entries:
        if entry.label not in trained:
            raise DataLayoutError(
                f"{source}: class {entry.label!r} is in {entry.split} ({entry.id}) but not in train. "
                f"Train has {_some(trained)}. Add training images for it, or remove it."
            )
    if len(trained) < 2:
        raise DataLayoutError(
            f"{source}: only one class ({_some(trained)}) was found; a classifier needs two or more. "
            f"{_expected(source)}"
        )
    return tuple(sorted(trained))


def _refuse_leaks(source: Path, samples: Samples) -> None:
    """Train rows come first, so a copy outside of train has its first in train."""
    train = SPLITS.index("train")
    leaks = [
        (a, b)
        for a, b in samples.copies()
        if samples.split[a] == train != samples.split[b] and samples.sha256[a].tobytes() != _EMPTY
    ]
    if leaks:
        pairs = "; ".join(f"{samples.ids[b]} is {samples.ids[a]}" for a, b in leaks[:5])
        raise DataLayoutError(
            f"{source}: {len(leaks)} images of val or test are in train, too: {pairs}. The accuracy on them says "
            "nothing. Remove the copies, or go on with --allow-leak."
        )


def _some(names: Iterable[str]) -> str:
    names = sorted(names)
    return ", ".join(names[:8]) + (f" and {len(names) - 8} more" if len(names) > 8 else "")


def _split(
    entries: list[_Entry],
    labels: NDArray[np.int64],
    sha256: NDArray[np.uint8],
    val_fraction: float,
    seed: int,
) -> NDArray[np.uint8]:
    """The split of each image: as the folders or the manifest say, else drawn."""
    given = [entry.split for entry in entries]
    if None in given and any(given):
        row = given.index(None)
        raise DataLayoutError(f"{entries[row].id} has no split while others have one. Fill in the column.")
    split = np.array([SPLITS.index(name or "train") for name in given], dtype=np.uint8)
    if SPLITS.index("val") in split:
        return split
    if not 0 < val_fraction < 1:
        raise DataLayoutError(
            f"val_fraction is {val_fraction}; it must lie between 0 and 1, as this data has no val split"
        )
    train = np.flatnonzero(split == SPLITS.index("train"))
    split[train[hold_out(labels[train], sha256[train], val_fraction, seed)]] = SPLITS.index("val")
    return split
