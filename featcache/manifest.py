"""`Manifest`: which images there are, their labels, their split and the hash of their bytes."""

from __future__ import annotations

import csv
import glob
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
from featcache.rng import content_order
from featcache.samples import SPLITS, Samples

Progress = Callable[[str, int, int], None]
"""Called as progress(what, done, total)."""

_SPLIT_NAMES = {"train": "train", "val": "val", "valid": "val", "validation": "val", "test": "test"}
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
        labels = self.samples.labels
        return [(self.samples.ids[a], self.samples.ids[b]) for a, b in _copies(self.samples) if labels[a] != labels[b]]

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
    allow_leak: bool = False,
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
    allow_leak : take images whose bytes are in train and in val or test as well.

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
        raise EmptyFolderError(f"{source} holds no images. {_expected(source)}")
    entries.sort(key=lambda entry: entry.id)
    classes = _classes(source, entries)
    sha256 = _hash_files(root, entries, progress)
    number = {name: place for place, name in enumerate(classes)}
    labels = np.array([number[entry.label] for entry in entries], dtype=np.int64)
    split = _split(entries, labels, sha256, val_fraction, seed)
    order = np.argsort(split, kind="stable")
    samples = Samples(tuple(entry.id for entry in entries), labels, split, sha256, classes).take(order)
    if not allow_leak:
        _refuse_leaks(source, samples)
    return Manifest(root, samples, dict(ignored))


def list_images(folder: Path) -> list[Path]:
    """The images under a folder, sorted; hidden files and other files are passed over."""
    return sorted(_walk(folder, Counter()))


def find_images(patterns: Iterable[str]) -> list[Path]:
    """The images that files, folders and glob patterns name, in that order. Raises EmptyFolderError for none."""
    found: list[Path] = []
    for pattern in patterns:
        path = Path(pattern)
        if path.is_dir():
            images = list_images(path)
        elif path.is_file():
            images = [path]
        else:
            images = [Path(name) for name in sorted(glob.glob(pattern, recursive=True))]
            images = [image for image in images if is_image_name(image) and image.is_file()]
        if not images:
            raise EmptyFolderError(f"{pattern} names no image: no such file, or a folder or pattern without images.")
        found += images
    return found


def _walk(folder: Path, ignored: Counter[str]) -> Iterator[Path]:
    """Image files below a folder; links are followed, but none that leads back up or to where we were."""
    top = os.path.realpath(folder)
    seen: set[str] = set()
    for place, folders, files in os.walk(folder, followlinks=True, onerror=_unreadable_folder):
        real = os.path.realpath(place)
        if real in seen or top.startswith(os.path.join(real, "")):
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


def _unreadable_folder(error: OSError) -> None:
    raise DataLayoutError(f"{error.filename} cannot be read: {error.strerror}") from error


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
        elif others := sum(1 for _ in _walk(folder, Counter())):
            ignored["in folders other than train, val, test"] += others
    _count_beside(root, ignored)


def _scan_classes(root: Path, folder: Path, split: str | None, ignored: Counter[str]) -> Iterator[_Entry]:
    class_folders = _subfolders(folder)
    if not class_folders and any(_walk(folder, Counter())):
        raise DataLayoutError(
            f"{folder} holds images but no class folders. Expected {folder / '<class>' / '*.jpg'}: "
            "one folder a class, its name is the label."
        )
    for class_folder in class_folders:
        count = 0
        for path in _walk(class_folder, ignored):
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


def _copies(samples: Samples) -> Iterator[tuple[int, int]]:
    """Pairs of rows with equal bytes: the first of each content with each other one."""
    first: dict[bytes, int] = {}
    for row, content in enumerate(samples.sha256):
        seen = first.setdefault(content.tobytes(), row)
        if seen != row:
            yield seen, row


def _refuse_leaks(source: Path, samples: Samples) -> None:
    """Train rows come first, so a copy outside of train has its first in train."""
    train = SPLITS.index("train")
    empty = hashlib.sha256().digest()  # files of no bytes are no images, wherever they lie
    leaks = [
        (a, b)
        for a, b in _copies(samples)
        if samples.split[a] == train != samples.split[b] and samples.sha256[a].tobytes() != empty
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


def _hash_files(root: Path, entries: list[_Entry], progress: Progress | None) -> NDArray[np.uint8]:
    """SHA-256 of each file, shape (n, 32); a file that cannot be opened hashes as its id, and is skipped later."""

    def digest(entry: _Entry) -> bytes:
        try:
            with (root / entry.id).open("rb") as file:
                return hashlib.file_digest(file, "sha256").digest()
        except OSError:
            return hashlib.sha256(os.fsencode(entry.id)).digest()

    rows = np.empty((len(entries), 32), dtype=np.uint8)
    with ThreadPoolExecutor() as pool:  # hashing and reading release the GIL
        for row, value in enumerate(pool.map(digest, entries)):
            rows[row] = np.frombuffer(value, dtype=np.uint8)
            if progress:
                progress("hash", row + 1, len(entries))
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


def _draw(labels: NDArray[np.int64], sha256: NDArray[np.uint8], fraction: float, seed: int) -> NDArray[np.int64]:
    """Rows to hold out: of each class the fraction, at least one and never all; equal files together."""
    _, first, group, sizes = np.unique(sha256, axis=0, return_index=True, return_inverse=True, return_counts=True)
    rows_of = np.split(np.argsort(group.reshape(-1), kind="stable"), np.cumsum(sizes)[:-1])
    training = np.bincount(labels)
    held: list[NDArray[np.int64]] = []

    def hold(member: int) -> int:
        """Hold a group out, unless a class would lose its last training image; returns how many rows went."""
        rows = rows_of[member]
        classes, counts = np.unique(labels[rows], return_counts=True)
        if np.any(training[classes] <= counts):
            return 0
        training[classes] -= counts
        held.append(rows)
        return len(rows)

    for label in np.unique(labels):
        members = np.flatnonzero(labels[first] == label)
        members = members[content_order(sha256[first[members]], seed, "split")]  # new images move few old ones
        wanted = max(1, round(fraction * int(sizes[members].sum())))
        filled = 0
        for member in members:
            if filled + sizes[member] <= wanted:  # copies that would overshoot are passed over
                filled += hold(int(member))
        if not filled and len(members) > 1:
            hold(int(members[np.argmin(sizes[members])]))
    if not held:
        raise DataLayoutError("every class has a single distinct image: nothing can be held out for val")
    return np.sort(np.concatenate(held))
