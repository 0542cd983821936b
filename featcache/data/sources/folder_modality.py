"""What the files of a folder are: `modality_of`, and `refuse_both_kinds` for a folder that holds images and texts."""

from __future__ import annotations

import posixpath
from collections import Counter

from featcache.data.modality import IMAGES, TEXTS, Modality
from featcache.data.sources.file_tree import FileTree
from featcache.errors import DataLayoutError


def modality_of(tree: FileTree) -> Modality:
    """What the samples of a folder are: texts if it holds texts and no image, else images.

    An image folder is listed up to its first image only.
    """
    if not _samples(tree, IMAGES, most=1) and _samples(tree, TEXTS, most=1):
        return TEXTS
    return IMAGES


def refuse_both_kinds(tree: FileTree) -> None:
    """Raise DataLayoutError for a folder of images with more texts than images.

    A text beside an image of the same name describes that image, and does not count.
    """
    images, texts = _samples(tree, IMAGES), _samples(tree, TEXTS)
    described = {_stem(name) for name in images}
    alone = [name for name in texts if _stem(name) not in described]
    if len(alone) > len(images):
        raise DataLayoutError(
            f"{tree.name} holds {IMAGES.count(len(images))} (for example {images[0]}) and {TEXTS.count(len(alone))} "
            f"(for example {alone[0]}). Samples are of one kind: move the others elsewhere, or list those that count "
            "in a CSV with the columns path,label."
        )


def _samples(tree: FileTree, modality: Modality, most: int | None = None) -> list[str]:
    """Paths of the files of a modality, or of the first ones."""
    before, tree.modality = tree.modality, modality
    try:
        names = tree.samples("", Counter())
        return list(names) if most is None else [name for _, name in zip(range(most), names, strict=False)]
    finally:
        tree.modality = before


def _stem(path: str) -> str:
    """A path without all extensions."""
    folder, name = posixpath.split(path)
    return posixpath.join(folder, name.partition(".")[0])
