"""What the files of a folder are: `modality_of`, and `explain_no_images` for class folders without images."""

from __future__ import annotations

import posixpath
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from featcache.data.modality import IMAGES, TEXTS, Modality
from featcache.data.sources.class_folders import find_class_folders
from featcache.data.sources.file_tree import FileTree
from featcache.errors import DataLayoutError, EmptyFolderError

_NOT_COUNTED = ("hidden", "folders: ", TEXTS.why_not(Path("README.txt")))
"""How the reasons begin of what counts neither as a text nor as another file."""


def modality_of(tree: FileTree) -> Modality:
    """What the samples of a folder are: texts if it holds no image and most files in class folders are texts.

    Else they are images. An image folder is listed up to its first image only.
    """
    if _samples(tree, IMAGES, most=1) or not _samples(tree, TEXTS, most=1):
        return IMAGES
    texts, others = _count_texts(tree)
    return TEXTS if texts > others else IMAGES


def explain_no_images(tree: FileTree, error: EmptyFolderError) -> None:
    """Raise an error that says more than this one, for class folders that hold no image at all.

    Raises
    ------
    EmptyFolderError
        The folder holds no image. The message adds the number of texts and that of other files.
    DataLayoutError
        There are images outside of the class folders, and more texts. A text beside an image of the same name describes
        that image, and does not count.
    """
    if any(True for folder in _class_folders(tree, IMAGES) for _ in tree.samples(folder, Counter())):
        return
    images, texts = _samples(tree, IMAGES), _samples(tree, TEXTS)
    if not images and texts:
        inside, others = _count_texts(tree)
        raise EmptyFolderError(
            f"{error} The class folders hold {TEXTS.count(inside)} (.txt) and {others} other files: in a data set of "
            "texts, most files are texts."
        ) from error
    described = {_stem(name) for name in images}
    alone = [name for name in texts if _stem(name) not in described]
    if len(alone) > len(images):
        raise DataLayoutError(
            f"{tree.name} holds {IMAGES.count(len(images))} (for example {images[0]}) and {TEXTS.count(len(alone))} "
            f"(for example {alone[0]}). Samples are of one kind: move the others elsewhere, or list those that count "
            "in a CSV with the columns path,label."
        ) from error


def _count_texts(tree: FileTree) -> tuple[int, int]:
    """How many files of the class folders are texts, and how many are others; of all folders if none is a class."""
    folders, ignored = _class_folders(tree, TEXTS), Counter[str]()
    with _reading(tree, TEXTS):
        texts = sum(1 for folder in folders or [""] for _ in tree.samples(folder, ignored))
    return texts, sum(count for reason, count in ignored.items() if not reason.startswith(_NOT_COUNTED))


def _class_folders(tree: FileTree, modality: Modality) -> list[str]:
    """Paths of the class folders, if the samples are of this modality; empty if the layout is not clear."""
    try:
        with _reading(tree, modality):
            return [folder.path for folder in find_class_folders(tree, Counter()).classes if not folder.is_parent]
    except DataLayoutError:
        return []


def _samples(tree: FileTree, modality: Modality, most: int | None = None) -> list[str]:
    """Paths of the files of a modality, or of the first ones."""
    with _reading(tree, modality):
        names = tree.samples("", Counter())
        return list(names) if most is None else [name for _, name in zip(range(most), names, strict=False)]


@contextmanager
def _reading(tree: FileTree, modality: Modality) -> Iterator[None]:
    """Take the files of a modality for the samples of a tree."""
    before, tree.modality = tree.modality, modality
    try:
        yield
    finally:
        tree.modality = before


def _stem(path: str) -> str:
    """A path without all extensions."""
    folder, name = posixpath.split(path)
    return posixpath.join(folder, name.partition(".")[0])
