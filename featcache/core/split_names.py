"""The names of splits, and of folders and files that mean a split: `train`, `Training`, `seg_train`, `valid`, `dev`."""

from __future__ import annotations

import re

UNLABELED = "unlabeled"
LABELED_SPLITS = ("train", "val", "test")
SPLITS = (*LABELED_SPLITS, UNLABELED)
ALL = "all"
"""The name that selects all splits."""

SPLIT_WORDS = {
    **dict.fromkeys(("train", "training", "trn"), "train"),
    **dict.fromkeys(("val", "valid", "validation", "validate", "dev", "development", "eval", "evaluation"), "val"),
    **dict.fromkeys(("test", "testing", "tst"), "test"),
    **dict.fromkeys((UNLABELED, "unlabelled", "unsupervised", "unsup"), UNLABELED),
}
_FILLERS = ("set", "sets", "data", "dataset", "images", "image", "imgs", "img", "photos", "pictures", "pics", "split",
            "samples", "folder")  # fmt: skip


def split_of(name: str) -> str | None:
    """The split that a name means; None if it means none.

    The name is a word for a split, perhaps with words such as set, data or images, and with numbers: `Training`,
    `trainset`, `test_images`, `val2017`. Upper and lower case are the same.
    """
    words = [word for word in _words(name) if word not in _FILLERS]
    splits = {_split_of_word(word) for word in words}
    return splits.pop() if len(splits) == 1 else None


def hinted_split(name: str) -> str | None:
    """The split that the first or the last word of a name means: `seg_train`, but also `train_station`.

    Such a name alone is no proof: a class can have it.
    """
    words = _words(name)
    splits = {_split_of_word(word) for word in (words[0], words[-1])} - {None} if words else set()
    return splits.pop() if len(splits) == 1 else None


def _words(name: str) -> list[str]:
    return re.findall(r"[^\W\d_]+", re.sub(r"(?<=[a-z])(?=[A-Z])", " ", name).lower())


def _split_of_word(word: str) -> str | None:
    """Of one word, perhaps with a filler written together: `trainset`."""
    for filler in ("", *_FILLERS):
        if filler and word.endswith(filler) and (split := SPLIT_WORDS.get(word.removesuffix(filler))):
            return split
    return SPLIT_WORDS.get(word)
