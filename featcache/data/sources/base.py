"""`SampleRecord`: id, classes and split of an image that was not opened yet. `scan_class_folders` lists folders."""

from __future__ import annotations

import posixpath
from collections import Counter
from dataclasses import dataclass
from typing import NamedTuple

from featcache.core.split_names import SPLIT_WORDS
from featcache.data.file_types import describe_ignored
from featcache.data.sources.class_folders import find_class_folders
from featcache.data.sources.file_tree import FileTree
from featcache.errors import EmptyFolderError

SPLIT_NAMES = SPLIT_WORDS


@dataclass(frozen=True, slots=True)
class SampleRecord:
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


class SampleListing(NamedTuple):
    """What a source holds.

    entries : the images.
    several : whether an image can have several labels.
    notes : what was read how, a line each, for people: which column is the label, ...
    label_column : the column that the labels come from; None where there are no columns.
    """

    entries: list[SampleRecord]
    several: bool
    notes: tuple[str, ...] = ()
    label_column: str | None = None


def scan_class_folders(tree: FileTree, ignored: Counter[str]) -> SampleListing:
    """The images of class folders, see `find_class_folders`; what is passed over is counted in `ignored`.

    Raises
    ------
    EmptyFolderError, DataLayoutError
    """
    layout = find_class_folders(tree, ignored)
    entries: list[SampleRecord] = []
    for folder in layout.classes:
        passed_over = Counter[str]()
        classes = (folder.label,) if folder.label else ()
        images = [SampleRecord(image, classes, folder.split) for image in tree.images(folder.place, passed_over)]
        if not images:
            raise EmptyFolderError(
                f"Class folder {posixpath.join(tree.name, folder.place)} holds no images"
                f"{describe_ignored(passed_over)}. Put images into it, or remove the folder."
            )
        entries += images
        ignored.update(passed_over)
    for place in layout.parents:
        for name in tree.files(place):
            ignored["hidden" if name.startswith(".") else "beside the class folders"] += 1
    return SampleListing(entries, False, tuple(layout.notes))
