"""`Entry`: what is known of each image before it is opened: its id, its classes, its split; `scan` reads folders."""

from __future__ import annotations

import posixpath
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

from featcache.errors import DataLayoutError, EmptyFolderError
from featcache.filekinds import describe_ignored
from featcache.trees import Tree

SPLIT_NAMES = {"train": "train", "val": "val", "valid": "val", "validation": "val", "test": "test"}


@dataclass(frozen=True, slots=True)
class Entry:
    """One image.

    id : relative POSIX path, or a whole URL. classes : their names. split : None where nothing is said; "unlabelled"
    for an image whose label is not known.
    sha256 : of its bytes, where that is known before it is read.
    group : what it has in common with other images, such as a patient, a burst or an object; "" for nothing. Splits and
        folds keep a group together.
    """

    id: str
    classes: tuple[str, ...]
    split: str | None
    sha256: bytes | None = None
    group: str = ""


class Listing(NamedTuple):
    """What a source holds.

    entries : the images.
    several : whether an image can have several labels.
    notes : what was read how, a line each, for people: which column is the label, ...
    """

    entries: list[Entry]
    several: bool
    notes: tuple[str, ...] = ()


def scan(tree: Tree, ignored: Counter[str]) -> Iterator[Entry]:
    """The images of `train/<class>/*` and its like, or of `<class>/*`; what is passed over is counted in `ignored`."""
    folders = tree.folders("")
    split_of = {folder: SPLIT_NAMES.get(folder.lower()) for folder in folders}
    used = [split for split in split_of.values() if split]
    if "train" not in used:
        if folders and len(used) == len(folders):
            raise DataLayoutError(f"{tree.name} has {some(folders)} but no train folder.")
        yield from _scan_classes(tree, "", None, ignored)
        return
    if len(used) != len(set(used)):
        raise DataLayoutError(f"{tree.name} has several folders for one split: {some(folders)}.")
    for folder, split in split_of.items():
        if split:
            yield from _scan_classes(tree, folder, split, ignored)
        elif others := sum(1 for _ in tree.images(folder, Counter())):
            ignored["in folders other than train, val, test"] += others
    _count_beside(tree, "", ignored)


def _scan_classes(tree: Tree, folder: str, split: str | None, ignored: Counter[str]) -> Iterator[Entry]:
    class_folders = tree.folders(folder)
    if not class_folders and any(tree.images(folder, Counter())):
        raise DataLayoutError(
            f"{posixpath.join(tree.name, folder).rstrip('/')} holds images but no class folders. Expected "
            f"{posixpath.join(tree.name, folder, '<class>', '*.jpg')}: one folder a class, its name is the label."
        )
    for class_folder in class_folders:
        count, passed_over = 0, Counter[str]()
        for image in tree.images(posixpath.join(folder, class_folder), passed_over):
            count += 1
            yield Entry(image, (class_folder,), split)
        if not count:
            raise EmptyFolderError(
                f"Class folder {posixpath.join(tree.name, folder, class_folder)} holds no images"
                f"{describe_ignored(passed_over)}. Put images into it, or remove the folder."
            )
        ignored.update(passed_over)
    _count_beside(tree, folder, ignored)


def _count_beside(tree: Tree, folder: str, ignored: Counter[str]) -> None:
    """Count the files that lie beside class folders and so have no label."""
    for name in tree.files(folder):
        ignored["hidden" if name.startswith(".") else "beside the class folders"] += 1


def some(names: Iterable[str]) -> str:
    """A few of these names, for a message."""
    names = sorted(names)
    return ", ".join(names[:8]) + (f" and {len(names) - 8} more" if len(names) > 8 else "")
