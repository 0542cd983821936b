"""`Samples`: the rows of a cache, with their labels, splits and groups. They need not be images."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from difflib import get_close_matches
from typing import Any

import numpy as np
from numpy.typing import NDArray

from featcache.core.rng import content_words
from featcache.core.split_names import LABELED_SPLITS as LABELED_SPLITS
from featcache.core.split_names import SPLITS as SPLITS
from featcache.core.split_names import UNLABELED as UNLABELED
from featcache.errors import SpecError

SEPARATOR = "|"
"""Between the labels of an image that has several, in files and tables."""

Labels = NDArray[Any]
"""One label an image, shape (n,), int64: an index of the class, -1 in the split "unlabeled". Or several labels an
image, shape (n, c), uint8: 1 where the image has the class; 0 everywhere in the split "unlabeled"."""


def split_index(name: str) -> int:
    """The number of a split in `SPLITS`. Raises SpecError for another name."""
    if name in SPLITS:
        return SPLITS.index(name)
    close = get_close_matches(str(name), SPLITS, 1)
    hint = f" Did you mean {close[0]!r}?" if close else ""
    raise SpecError(f"there is no split {name!r}; the splits are {', '.join(SPLITS)}.{hint}")


def is_multilabel(labels: Labels) -> bool:
    """Whether a sample can have several labels."""
    return labels.ndim == 2


def count_images(labels: Labels, n_classes: int) -> NDArray[np.int64]:
    """Number of samples of each class, shape (c,)."""
    if is_multilabel(labels):
        return labels.sum(axis=0, dtype=np.int64)
    return np.bincount(labels, minlength=n_classes)


def strata(labels: Labels) -> NDArray[np.int64]:
    """The class by which each sample is stratified, shape (n,): its label, or the rarest of its labels, or c for none.

    Rare labels come first, as they have the fewest samples to distribute (Sechidis et al. 2011, "On the stratification
    of multi-label data").
    """
    if not is_multilabel(labels):
        return labels
    rarity = np.append(count_images(labels, labels.shape[1]), len(labels) + 1)
    order = np.argsort(rarity, kind="stable")
    has = np.hstack([labels != 0, np.ones((len(labels), 1), bool)])  # the last column for samples without a label
    return order[has[:, order].argmax(axis=1)]


def format_labels(labels: Labels, classes: tuple[str, ...]) -> list[str]:
    """The class of each sample, or its classes as "a|b"; "" for the label -1."""
    if is_multilabel(labels):
        return [SEPARATOR.join(classes[label] for label in np.flatnonzero(row)) for row in labels]
    return ["" if label < 0 else classes[label] for label in labels]


@dataclass(frozen=True)
class Samples:
    """n samples with their labels, one a row.

    Parameters
    ----------
    ids : tuple of str, length n
        Unique names: relative POSIX paths of files.
    labels : ndarray, shape (n,), int64, or (n, c), uint8
        Indices into `classes`, -1 in the split "unlabeled". Or several labels a sample: 1 for each class that it has;
        a row of 0 in the split "unlabeled", and elsewhere for a sample that has none of the labels.
    split : ndarray, shape (n,), uint8
        Indices into `SPLITS`.
    sha256 : ndarray, shape (n, 32), uint8
        Hash of the bytes of each sample.
    classes : tuple of str, length c
        Class names, sorted; none if all samples are in the split "unlabeled".
    groups : tuple of str, length n or 0
        What samples have in common, such as a patient or a burst; "" for a sample without a group. Splits and folds
        keep the samples of a group together.
    content_keys : ndarray, shape (n, 32), uint8, or None
        Equal for samples that count as copies of each other although their bytes differ, such as texts that differ only
        in case; the least hash of the bytes of such samples. None, the default: only samples with equal bytes do.

    Examples
    --------
    >>> hashes = np.zeros((3, 32), np.uint8)
    >>> samples = Samples(("a", "b", "c"), np.array([0, 1, 0]), np.array([0, 0, 1]), hashes, ("cat", "dog"))
    >>> samples.rows("train").tolist(), samples.take(samples.rows("val")).ids
    ([0, 1], ('c',))
    """

    ids: tuple[str, ...]
    labels: Labels
    split: NDArray[np.uint8]
    sha256: NDArray[np.uint8]
    classes: tuple[str, ...]
    groups: tuple[str, ...] = ()
    content_keys: NDArray[np.uint8] | None = None

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def multilabel(self) -> bool:
        """Whether an image can have several labels."""
        return is_multilabel(self.labels)

    def rows(self, split: str) -> NDArray[np.int64]:
        """The row numbers of one split, ascending; shape (m,), int64."""
        return np.flatnonzero(self.split == split_index(split))

    def take(self, rows: NDArray[np.int64]) -> Samples:
        """The samples of these rows, in this order."""
        return Samples(
            tuple(self.ids[row] for row in rows),
            self.labels[rows],
            self.split[rows],
            self.sha256[rows],
            self.classes,
            tuple(self.groups[row] for row in rows) if self.groups else (),
            None if self.content_keys is None else self.content_keys[rows],
        )

    def relabeled(self, names: Mapping[int, str]) -> Samples:
        """The same samples with the labels of some rows replaced: one class name each, "" for no label.

        A sample that gets its first label comes into train; one that loses it, into the split "unlabeled". The classes
        are those that some sample has then. Samples have one label each.
        """
        texts, split = format_labels(self.labels, self.classes), self.split.copy()
        train, unlabeled = SPLITS.index("train"), SPLITS.index(UNLABELED)
        for row, name in names.items():
            texts[row] = name
            if not name:
                split[row] = unlabeled
            elif split[row] == unlabeled:
                split[row] = train
        classes = tuple(sorted({*texts} - {""}))
        numbers = {"": -1, **{name: number for number, name in enumerate(classes)}}
        labels = np.fromiter((numbers[name] for name in texts), np.int64, len(texts))
        return replace(self, labels=labels, split=split, classes=classes)

    def digest(self) -> str:
        """SHA-256 over ids, labels, splits, contents, classes, groups and content keys, if there are any, 64 digits."""
        names = (self.ids, self.classes, self.groups) if self.groups else (self.ids, self.classes)
        digest = hashlib.sha256(repr(names).encode("utf-8", "surrogateescape"))
        for array in (self.labels, self.split, self.sha256, self.content_keys):
            if array is not None:
                digest.update(np.ascontiguousarray(array).tobytes())
        return digest.hexdigest()

    @property
    def contents(self) -> NDArray[np.uint8]:
        """Keys, shape (n, 32), uint8, equal for copies: `content_keys`, else the hash of the bytes."""
        return self.sha256 if self.content_keys is None else self.content_keys

    @property
    def split_keys(self) -> NDArray[np.uint8]:
        """Keys, shape (n, 32), uint8, equal for samples that splits keep together: copies, or one group."""
        return join_groups(self.contents, self.groups)

    @property
    def n_groups(self) -> int:
        """How many groups there are."""
        return len({*self.groups} - {""})

    @property
    def two_distinct(self) -> str:
        """What a class needs so that a sample can be left out, for messages."""
        return "training images of two groups" if self.groups else "two different training images"

    def shared_groups(self) -> list[tuple[str, int, int]]:
        """Groups in train and also in val or test: (name, a row of train, a row of val or test)."""
        train, unlabeled = SPLITS.index("train"), SPLITS.index(UNLABELED)
        first_in_train: dict[str, int] = {}
        first_elsewhere: dict[str, int] = {}
        for row, group in enumerate(self.groups):
            if group and self.split[row] != unlabeled:
                (first_in_train if self.split[row] == train else first_elsewhere).setdefault(group, row)
        return [(name, row, first_elsewhere[name]) for name, row in first_in_train.items() if name in first_elsewhere]

    def copies(self) -> Iterator[tuple[int, int]]:
        """Pairs of rows with equal content, see `contents`: the first of each content with each other one."""
        first: dict[bytes, int] = {}
        for row, content in enumerate(self.contents):
            seen = first.setdefault(content.tobytes(), row)
            if seen != row:
                yield seen, row

    def _are_labeled(self, rows: Sequence[int]) -> NDArray[np.bool_]:
        return np.asarray(self.split[rows] != SPLITS.index(UNLABELED))

    def changes(self, other: Samples) -> dict[str, list[str]]:
        """What changed from these samples to others: ids by kind of change, for the kinds that occur.

        A sample that gets a label, or loses it, is not counted as one in another split.
        """
        old = {name: row for row, name in enumerate(self.ids)}
        new = {name: row for row, name in enumerate(other.ids)}
        both = [name for name in old if name in new]
        a, b = ([rows[name] for name in both] for rows in (old, new))
        removed = {self.sha256[row].tobytes(): name for name, row in old.items() if name not in new}
        renamed = {
            name: removed.pop(content)
            for name, row in new.items()
            if name not in old and (content := other.sha256[row].tobytes()) in removed
        }
        old_names = set(renamed.values())
        same = {**renamed, **{name: name for name in both}}  # new name -> old name
        before = self._are_labeled([old[name] for name in same.values()])
        after = other._are_labeled([new[name] for name in same])
        keeps_having = self._are_labeled(a) == other._are_labeled(b)
        changes = {
            "added": [name for name in new if name not in old and name not in renamed],
            "removed": [name for name in old if name not in new and name not in old_names],
            "renamed": [f"{before} to {after}" for after, before in renamed.items()],
            "changed in content": _where(both, (self.sha256[a] != other.sha256[b]).any(1)),
            "newly labeled": _where([*same], ~before & after),
            "no longer labeled": _where([*same], before & ~after),
            "with another label": _where(both, keeps_having & (_label_texts(self, a) != _label_texts(other, b))),
            "in another split": _where(both, keeps_having & (self.split[a] != other.split[b])),
            "in another group": _where(both, _groups(self, a) != _groups(other, b)),
        }
        return {kind: names for kind, names in changes.items() if names}

    def differences(self, other: Samples) -> list[str]:
        """`changes` as one phrase for each kind."""
        phrases = [f"{len(names)} {kind} (for example {names[0]})" for kind, names in self.changes(other).items()]
        same_order = self.ids == other.ids and self.classes == other.classes
        same = same_order and self.multilabel == other.multilabel
        return phrases or ([] if same else ["order, classes, or how many labels an image can have differ"])


def _label_texts(samples: Samples, rows: Sequence[int]) -> NDArray[np.object_]:
    return np.array(format_labels(samples.labels[rows], samples.classes), object)


def _groups(samples: Samples, rows: Sequence[int]) -> NDArray[np.object_]:
    return np.array([samples.groups[row] if samples.groups else "" for row in rows], object)


def _where(names: Sequence[str], chosen: NDArray[np.bool_]) -> list[str]:
    return [names[row] for row in np.flatnonzero(chosen).tolist()]


def join_groups(sha256: NDArray[np.uint8], groups: Sequence[str]) -> NDArray[np.uint8]:
    """Keys that are equal for samples that must stay together, shape (n, 32), uint8.

    Samples stay together when they have equal bytes or a group in common, directly or through other samples: a copy of
    an image of a group belongs to the group. Without groups the key is the hash of the bytes.

    Parameters
    ----------
    sha256 : ndarray, shape (n, 32), uint8. Hash of each sample's bytes.
    groups : n names, "" for none; or empty.

    Returns
    -------
    keys : the least hash of the names of the groups that are joined, else the hash of the bytes.
    """
    if not any(groups):
        return sha256
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    names = {name: number for number, name in enumerate(sorted({*groups} - {""}))}
    texts = (b"group " + name.encode("utf-8", "surrogateescape") for name in names)
    hashes = np.frombuffer(b"".join(hashlib.sha256(text).digest() for text in texts), np.uint8).reshape(-1, 32)
    _, content = np.unique(content_words(sha256), return_inverse=True)
    rows = np.flatnonzero([bool(name) for name in groups])
    number = np.array([names[name] for name in groups if name], np.int64)
    size = len(names) + int(content.max()) + 1  # nodes: groups, then contents
    edges = coo_array((np.ones(len(rows), np.int8), (number, len(names) + content[rows])), shape=(size, size))
    _, component = connected_components(edges, directed=False)
    least: dict[int, int] = {}
    for group in sorted(range(len(names)), key=lambda group: hashes[group].tobytes()):
        least.setdefault(int(component[group]), group)
    keys = sha256.copy()
    owner = np.array([least.get(int(number), -1) for number in component[len(names) + content]])
    keys[owner >= 0] = hashes[owner[owner >= 0]]
    return keys
