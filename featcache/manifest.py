"""`Manifest`: which images there are, their labels, their split and the hash of their bytes."""

from __future__ import annotations

import csv
import hashlib
import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from featcache.errors import DataLayoutError, EmptyFolderError
from featcache.images import is_image_name
from featcache.rng import generator
from featcache.samples import SPLITS, Samples

Progress = Callable[[str, int, int], None]
"""Called as progress(what, done, total)."""

_SPLIT_FOLDERS = {"train": "train", "val": "val", "valid": "val", "validation": "val", "test": "test"}
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

    def path(self, row: int) -> Path:
        """Where image `row` lies."""
        return self.root / self.samples.ids[row]


@dataclass(frozen=True)
class _Entry:
    id: str
    label: str
    split: str | None


def read_manifest(
    data: str | os.PathLike[str],
    *,
    val_fraction: float = 0.2,
    seed: int = 0,
    progress: Progress | None = None,
) -> Manifest:
    """Find the images of a folder or of a CSV manifest.

    Parameters
    ----------
    data : one of
        - a folder with `train/<class>/*` and `val/<class>/*` (`valid`, `validation` too), perhaps `test/`;
        - a folder with `<class>/*`;
        - a CSV file with the columns `path`, `label` and perhaps `split`; paths are relative to its folder.
    val_fraction : share of the images that is held out as val where the data has no val of its own:
        stratified by class, drawn with `seed`; files with equal bytes stay on one side.

    Raises
    ------
    EmptyFolderError, DataLayoutError
    """
    source = Path(data)
    ignored: Counter[str] = Counter()
    if source.is_dir():
        root, entries = source, list(_scan_folder(source, ignored))
    elif source.is_file():
        root, entries = source.parent, list(_read_csv(source))
    else:
        raise EmptyFolderError(f"{source} does not exist. Give a folder of class folders, or a CSV manifest.")
    if not entries:
        raise EmptyFolderError(
            f"{source} holds no images. Expected {source / '<class>' / '*.jpg'} or "
            f"{source / 'train' / '<class>' / '*.jpg'}."
        )
    entries.sort(key=lambda entry: entry.id)
    classes = _classes(source, entries)
    sha256 = _hash_files([root / entry.id for entry in entries], progress)
    labels = np.array([classes.index(entry.label) for entry in entries], dtype=np.int64)
    split = _split(entries, labels, sha256, val_fraction, seed)
    order = np.argsort(split, kind="stable")
    samples = Samples(tuple(entry.id for entry in entries), labels, split, sha256, classes)
    return Manifest(root, samples.take(order), dict(ignored))


def list_images(folder: Path) -> list[Path]:
    """The images under a folder, sorted; hidden files and other files are passed over."""
    return sorted(_walk(folder, Counter()))


def _walk(folder: Path, ignored: Counter[str]) -> Iterator[Path]:
    """Image files below a folder; links are followed, but no folder is entered twice (loops end)."""
    seen: set[str] = set()
    for place, folders, files in os.walk(folder, followlinks=True):
        real = os.path.realpath(place)
        if real in seen:
            folders.clear()
            continue
        seen.add(real)
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(files):
            path = Path(place, name)
            if name.startswith("."):
                ignored["hidden"] += 1
            elif not is_image_name(path):
                ignored["not an image name"] += 1
            elif not path.is_file():
                ignored["not a regular file"] += 1
            else:
                yield path


def _subfolders(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))


def _scan_folder(root: Path, ignored: Counter[str]) -> Iterator[_Entry]:
    folders = _subfolders(root)
    if not folders and any(_walk(root, Counter())):
        raise DataLayoutError(
            f"{root} holds images but no class folders. Expected {root / '<class>' / '*.jpg'}: "
            "one folder a class, its name is the label."
        )
    if any(folder.name == "train" for folder in folders):
        split_folders = [(folder, _SPLIT_FOLDERS.get(folder.name)) for folder in folders]
        used = [split for _, split in split_folders if split]
        if len(used) != len(set(used)):
            raise DataLayoutError(f"{root} has several folders for val (val, valid, validation). Keep one.")
        for folder, split in split_folders:
            if split:
                yield from _scan_classes(root, folder, split, ignored)
            else:
                ignored["in folders other than train, val, test"] += sum(1 for _ in _walk(folder, Counter()))
    else:
        yield from _scan_classes(root, root, None, ignored)


def _scan_classes(
    root: Path, folder: Path, split: str | None, ignored: Counter[str]
) -> Iterator[_Entry]:
    for class_folder in _subfolders(folder):
        count = 0
        for path in _walk(class_folder, ignored):
            count += 1
            yield _Entry(path.relative_to(root).as_posix(), class_folder.name, split)
        if not count:
            raise EmptyFolderError(
                f"Class folder {class_folder} holds no images. Put images into it, or remove the folder."
            )


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
    if split is not None and split not in _SPLIT_FOLDERS:
        raise DataLayoutError(f"{path}, line {line}: split is {split!r}; it must be train, val or test")
    name = Path(name).as_posix()
    if name in seen:
        raise DataLayoutError(f"{path}, line {line}: {name} stands already in line {seen[name]}")
    seen[name] = line
    if not (path.parent / name).is_file():
        raise DataLayoutError(f"{path}, line {line}: there is no file {path.parent / name}")
    return _Entry(name, label, _SPLIT_FOLDERS[split] if split else None)


def _classes(source: Path, entries: list[_Entry]) -> tuple[str, ...]:
    """The class names of the training images, checked against the other splits."""
    trained = {entry.label for entry in entries if entry.split in (None, "train")}
    for entry in entries:
        if entry.label not in trained:
            raise DataLayoutError(
                f"{source}: class {entry.label!r} is in {entry.split} ({entry.id}) but not in train. "
                f"Train has {_some(trained)}. Add training images for it, or remove it."
            )
    if len(trained) < 2:
        raise DataLayoutError(
            f"{source}: only one class ({_some(trained)}) was found; a classifier needs two or more. "
            f"Expected {source / '<class>' / '*.jpg'} or {source / 'train' / '<class>' / '*.jpg'}."
        )
    return tuple(sorted(trained))


def _some(names: Iterable[str]) -> str:
    names = sorted(names)
    return ", ".join(names[:8]) + (f" and {len(names) - 8} more" if len(names) > 8 else "")


def _hash_files(paths: list[Path], progress: Progress | None) -> NDArray[np.uint8]:
    """SHA-256 of each file, shape (n, 32); a file that cannot be opened hashes as its name, and fails later."""

    def digest(path: Path) -> bytes:
        try:
            with path.open("rb") as file:
                return hashlib.file_digest(file, "sha256").digest()
        except OSError:
            return hashlib.sha256(os.fsencode(path.name)).digest()

    rows = np.empty((len(paths), 32), dtype=np.uint8)
    with ThreadPoolExecutor() as pool:  # hashing and reading release the GIL
        for row, value in enumerate(pool.map(digest, paths)):
            rows[row] = np.frombuffer(value, dtype=np.uint8)
            if progress:
                progress("hash", row + 1, len(paths))
    return rows


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
    split[train[_draw(labels[train], sha256[train], val_fraction, seed)]] = SPLITS.index("val")
    return split


def _draw(
    labels: NDArray[np.int64], sha256: NDArray[np.uint8], fraction: float, seed: int
) -> NDArray[np.int64]:
    """Rows to hold out: in each class the nearest count to the fraction, equal files together."""
    _, first, group = np.unique(sha256, axis=0, return_index=True, return_inverse=True)
    group = group.reshape(-1)
    label_of_group = labels[first]
    held: list[int] = []
    for label in np.unique(label_of_group):
        members = np.flatnonzero(label_of_group == label)
        if len(members) < 2:
            continue  # the only image of a class is needed for training
        sizes = np.bincount(group, minlength=len(first))[members]
        shuffled = generator(seed, "split", int(label)).permutation(len(members))
        wanted = max(1, round(fraction * int(sizes.sum())))
        filled = np.cumsum(sizes[shuffled])
        count = min(max(1, int(np.searchsorted(filled, wanted, side="left")) + 1), len(members) - 1)
        held.extend(members[shuffled[:count]])
    if not held:
        raise DataLayoutError("every class has a single distinct image: nothing can be held out for val")
    return np.flatnonzero(np.isin(group, held))
