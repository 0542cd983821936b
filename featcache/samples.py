"""`Samples`: the labelled things that a cache has rows for. It does not know that they are images."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from featcache.labels import Labels, is_multilabel, spell

UNLABELLED = "unlabelled"
LABELLED_SPLITS = ("train", "val", "test")
SPLITS = (*LABELLED_SPLITS, UNLABELLED)


@dataclass(frozen=True)
class Samples:
    """n labelled samples, one a row.

    ids : n relative POSIX paths, unique.
    labels : ndarray, shape (n,), int64: indices into `classes`, -1 in the split "unlabelled". Of images with several
        labels (n, c), uint8: 1 where an image has the class; in the split "unlabelled" 0.
    split : ndarray, shape (n,), uint8. Indices into `SPLITS`.
    sha256 : ndarray, shape (n, 32), uint8. Hash of each sample's bytes.
    classes : c class names, sorted.
    """

    ids: tuple[str, ...]
    labels: Labels
    split: NDArray[np.uint8]
    sha256: NDArray[np.uint8]
    classes: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def multilabel(self) -> bool:
        """Whether an image can have several labels."""
        return is_multilabel(self.labels)

    def rows(self, split: str) -> NDArray[np.int64]:
        """The row numbers of one split, ascending; shape (m,), int64."""
        return np.flatnonzero(self.split == SPLITS.index(split))

    def take(self, rows: NDArray[np.int64]) -> Samples:
        """The samples of these rows, in this order."""
        return Samples(
            tuple(self.ids[row] for row in rows),
            self.labels[rows],
            self.split[rows],
            self.sha256[rows],
            self.classes,
        )

    def digest(self) -> str:
        """SHA-256 over ids, labels, splits, contents and classes, 64 hex digits."""
        digest = hashlib.sha256(repr((self.ids, self.classes)).encode("utf-8", "surrogateescape"))
        for array in (self.labels, self.split, self.sha256):
            digest.update(np.ascontiguousarray(array).tobytes())
        return digest.hexdigest()

    def copies(self) -> Iterator[tuple[int, int]]:
        """Pairs of rows with equal bytes: the first of each content with each other one."""
        first: dict[bytes, int] = {}
        for row, content in enumerate(self.sha256):
            seen = first.setdefault(content.tobytes(), row)
            if seen != row:
                yield seen, row

    def changes(self, other: Samples) -> dict[str, list[str]]:
        """What changed from these samples to the others: ids by kind of change; kinds without any are left out."""
        here = {name: row for row, name in enumerate(self.ids)}
        there = {name: row for row, name in enumerate(other.ids)}
        both = [name for name in here if name in there]
        a, b = ([rows[name] for name in both] for rows in (here, there))
        removed = {self.sha256[row].tobytes(): name for name, row in here.items() if name not in there}
        renamed = {
            name: removed.pop(content)
            for name, row in there.items()
            if name not in here and (content := other.sha256[row].tobytes()) in removed
        }
        old_names = set(renamed.values())
        found = {
            "added": [name for name in there if name not in here and name not in renamed],
            "removed": [name for name in here if name not in there and name not in old_names],
            "renamed": [f"{old} to {new}" for new, old in renamed.items()],
            "changed in content": _where(both, (self.sha256[a] != other.sha256[b]).any(1)),
            "with another label": _where(both, _spelt(self, a) != _spelt(other, b)),
            "in another split": _where(both, self.split[a] != other.split[b]),
        }
        return {kind: names for kind, names in found.items() if names}

    def differences(self, other: Samples) -> list[str]:
        """`changes` as one phrase for each kind."""
        phrases = [f"{len(names)} {kind} (for example {names[0]})" for kind, names in self.changes(other).items()]
        same_order = self.ids == other.ids and self.classes == other.classes
        same = same_order and self.multilabel == other.multilabel
        return phrases or ([] if same else ["order, classes, or how many labels an image can have differ"])


def _spelt(samples: Samples, rows: Sequence[int]) -> NDArray[np.object_]:
    return np.array(spell(samples.labels[rows], samples.classes), object)


def _where(names: Sequence[str], chosen: NDArray[np.bool_]) -> list[str]:
    return [names[row] for row in np.flatnonzero(chosen).tolist()]
