"""`Entry`: what a folder or a CSV file says of each image: where it lies, its classes, its split."""

from __future__ import annotations

import csv
import os
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from featcache.errors import DataLayoutError, EmptyFolderError
from featcache.files import walk
from featcache.labels import SEPARATOR

_SPLIT_NAMES = {"train": "train", "val": "val", "valid": "val", "validation": "val", "test": "test"}
_CSV_COLUMNS = ("path", "label")


@dataclass(frozen=True, slots=True)
class Entry:
    """One image. id : relative POSIX path. classes : their names. split : None where nothing is said."""

    id: str
    classes: tuple[str, ...]
    split: str | None


def _subfolders(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))


def scan_folder(root: Path, ignored: Counter[str]) -> Iterator[Entry]:
    """The images of `train/<class>/*` and its like, or of `<class>/*`; what is passed over is counted in `ignored`."""
    folders = _subfolders(root)
    split_of = {folder: _SPLIT_NAMES.get(folder.name.lower()) for folder in folders}
    used = [split for split in split_of.values() if split]
    if "train" not in used:
        if folders and len(used) == len(folders):
            raise DataLayoutError(f"{root} has {some(path.name for path in folders)} but no train folder.")
        yield from _scan_classes(root, root, None, ignored)
        return
    if len(used) != len(set(used)):
        raise DataLayoutError(f"{root} has several folders for one split: {some(path.name for path in folders)}.")
    for folder, split in split_of.items():
        if split:
            yield from _scan_classes(root, folder, split, ignored)
        elif others := sum(1 for _ in walk(folder, Counter())):
            ignored["in folders other than train, val, test"] += others
    _count_beside(root, ignored)


def _scan_classes(root: Path, folder: Path, split: str | None, ignored: Counter[str]) -> Iterator[Entry]:
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
            yield Entry(path.relative_to(root).as_posix(), (class_folder.name,), split)
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


def read_csv(path: Path) -> tuple[list[Entry], bool]:
    """The images that a CSV file lists, and whether any has several labels; paths become relative to its folder."""
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file)
            columns = reader.fieldnames or []
            if any(name not in columns for name in _CSV_COLUMNS):
                raise DataLayoutError(
                    f"{path}: the first line must name the columns path,label[,split]; found {','.join(columns)}"
                )
            rows = [(reader.line_num, row) for row in reader]
    except (UnicodeDecodeError, csv.Error) as error:
        raise DataLayoutError(f"{path} is not a CSV file in UTF-8: {error}") from error
    several = any(SEPARATOR in (row["label"] or "") for _, row in rows)
    entries: list[Entry] = []
    seen: dict[str, int] = {}
    for line, row in rows:
        entry = _csv_entry(path, line, row, several)
        if entry.id in seen:
            raise DataLayoutError(f"{path}, line {line}: {entry.id} stands already in line {seen[entry.id]}")
        seen[entry.id] = line
        entries.append(entry)
    return entries, several


def _csv_entry(path: Path, line: int, row: dict[str, str | None], several: bool) -> Entry:
    folder, where = path.parent, f"{path}, line {line}"
    name, label, split = row["path"], row["label"], row.get("split") or None
    if not name or label is None or not (label.strip() or several):
        raise DataLayoutError(f"{where}: path and label must not be empty")
    if split is not None and split not in _SPLIT_NAMES:
        raise DataLayoutError(f"{where}: split is {split!r}; it must be train, val or test")
    # Absolute paths become relative, so that an id says the same on every machine.
    name = Path(os.path.relpath(folder / name, folder)).as_posix()
    if not (folder / name).is_file():
        raise DataLayoutError(f"{where}: there is no file {folder / name}")
    classes = tuple(part.strip() for part in label.split(SEPARATOR)) if label.strip() else ()
    if "" in classes:
        raise DataLayoutError(f"{where}: an empty label stands in {label!r}")
    return Entry(name, classes, _SPLIT_NAMES[split] if split else None)


def some(names: Iterable[str]) -> str:
    """A few of these names, for a message."""
    names = sorted(names)
    return ", ".join(names[:8]) + (f" and {len(names) - 8} more" if len(names) > 8 else "")
