"""`scan_class_folders`: the samples of class folders. It finds out which folders are classes, and of which split."""

from __future__ import annotations

import posixpath
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from featcache.core.samples import UNLABELED
from featcache.core.split_names import hinted_split, split_of
from featcache.data.file_types import describe_ignored
from featcache.data.sources.base import SampleListing, SampleRecord
from featcache.data.sources.file_tree import FileTree
from featcache.errors import DataLayoutError, EmptyFolderError

_RENAME = "Rename them, or list the images in a CSV with the columns path,label,split."


@dataclass(frozen=True, slots=True)
class ClassFolder:
    """A folder of samples of one class.

    path : relative POSIX path in the tree.
    label : name of the class; "" for samples without a label.
    split : "train", "val", "test", "unlabeled", or None if there are no splits.
    is_parent : whether only the files in the folder itself count, as it holds other class folders.
    """

    path: str
    label: str
    split: str | None
    is_parent: bool = False

    def samples(self, tree: FileTree, ignored: Counter[str]) -> Iterator[str]:
        """Paths of the samples of the folder; files that are passed over are counted in `ignored`."""
        if not self.is_parent:
            yield from tree.samples(self.path, ignored)
            return
        for name in sorted(tree.files(self.path)):
            if not name.startswith(".") and tree.modality.accepts(Path(name)):
                yield posixpath.join(self.path, name)


@dataclass(slots=True)
class FolderLayout:
    """Which folders of a tree are classes.

    classes : the class folders.
    parents : the folders that contain class folders; files in them have no label.
    notes : differences from `train/CLASS/*` and `CLASS/*`, a line each.
    """

    classes: list[ClassFolder]
    parents: list[str]
    notes: list[str]


def scan_class_folders(tree: FileTree, ignored: Counter[str]) -> SampleListing:
    """The samples of class folders, see `find_class_folders`; files that are passed over are counted in `ignored`.

    Raises
    ------
    EmptyFolderError, DataLayoutError
    """
    layout = find_class_folders(tree, ignored)
    entries: list[SampleRecord] = []
    for folder in layout.classes:
        ignored_here = Counter[str]()
        classes = (folder.label,) if folder.label else ()
        samples = [SampleRecord(path, classes, folder.split) for path in folder.samples(tree, ignored_here)]
        if not samples:
            raise EmptyFolderError(
                f"Class folder {posixpath.join(tree.name, folder.path)} holds no {tree.modality.plural}"
                f"{describe_ignored(ignored_here)}. Put {tree.modality.plural} into it, or remove the folder."
            )
        entries += samples
        ignored.update(ignored_here)
    ids = {entry.id for entry in entries}
    for parent in layout.parents:
        for name in tree.files(parent):
            if posixpath.join(parent, name) not in ids:
                ignored["hidden" if name.startswith(".") else "beside the class folders"] += 1
    return SampleListing(entries, False, tuple(layout.notes))


def find_class_folders(tree: FileTree, ignored: Counter[str]) -> FolderLayout:
    """Recognise `train/CLASS/*`, `CLASS/train/*` and `CLASS/*`, with the usual names for splits.

    Samples have no label in folders that are named `unlabeled`, beside class folders without splits, and in a folder
    without folders.

    Folders that the system or featcache wrote are passed over. They, and samples in folders beside the splits, are
    counted in `ignored`.

    Raises
    ------
    DataLayoutError
        The layout is ambiguous, or there is no train folder.
    """
    finder = _Finder(tree, ignored)
    return finder.find()


class _Finder:
    def __init__(self, tree: FileTree, ignored: Counter[str]) -> None:
        self.tree, self.ignored = tree, ignored
        self.layout = FolderLayout([], [], [])
        self._plural = tree.modality.plural
        self._rename = _RENAME.replace("images", self._plural)
        self._subfolders = cache(lambda path: tree.subfolders(path, Counter()))  # each folder is listed once
        self._has_samples = cache(self._contains_sample)
        self._has_samples_below = cache(lambda path: any(True for _ in tree.samples(path, Counter())))

    def find(self) -> FolderLayout:
        top = self._data_folder()
        folders = self._without_empty_splits(top, self._folders(top, self.ignored))
        folders = self._without_unlabeled(top, folders)
        splits = self._splits(top, folders)
        if not splits:
            self._add_classes(top, folders)
            return self.layout
        for folder, split in splits.items():
            self._add_split(posixpath.join(top, folder), split)
        for folder in folders:
            if folder not in splits and (others := self._count(posixpath.join(top, folder))):
                self.ignored["in folders other than train, val, test"] += others
        self.layout.parents.append(top)
        unusual = [f"{folder} is {split}" for folder, split in splits.items() if folder.lower() != split]
        if unusual:
            self._note(f"folders named like splits: {', '.join(unusual)}")
        return self.layout

    def _data_folder(self) -> str:
        """The folder of the splits or classes: data sets are often unpacked into one more folder."""
        path, folders = "", self._folders("")
        while len(folders) == 1 and not split_of(folders[0]) and not self._has_samples(path):
            path = posixpath.join(path, folders[0])
            folders = self._folders(path)
        filled = [folder for folder in folders if self._has(path, folder)]
        is_data = len(filled) > 1 or [split_of(folder) for folder in filled] in (["train"], [UNLABELED])
        if not path or not is_data or self._has_samples(path):
            return ""
        self._note(f"all {self._plural} lie in its folder {path}")
        return path

    def _without_empty_splits(self, top: str, folders: list[str]) -> list[str]:
        """The folders without those named like a split that hold neither images nor class folders; they are counted."""
        empty = [folder for folder in folders if split_of(folder) and not self._has(top, folder)]
        filled = [folder for folder in folders if folder not in empty]
        classes = {name for folder in filled for name in self._inner(top, folder)}
        empty = [folder for folder in empty if not classes & set(self._folders(posixpath.join(top, folder)))]
        if len(empty) == len(folders):
            return folders
        for folder in empty:
            self.ignored[f"folders: {folder}, which is named like a split and holds no {self._plural}"] += 1
        return [folder for folder in folders if folder not in empty]

    def _without_unlabeled(self, path: str, folders: list[str]) -> list[str]:
        """The folders without those named `unlabeled`, whose samples have no label."""
        unlabeled = [folder for folder in folders if split_of(folder) == UNLABELED and self._has(path, folder)]
        for folder in unlabeled:
            self.layout.classes.append(ClassFolder(posixpath.join(path, folder), "", UNLABELED))
            self._note(f"{posixpath.join(path, folder)} is not a class: its {self._plural} have no label")
        return [folder for folder in folders if folder not in unlabeled]

    def _splits(self, top: str, folders: list[str]) -> dict[str, str]:
        """Folder -> split, empty where the folders are classes."""
        splits = {folder: split for folder in folders if (split := split_of(folder))}
        splits |= self._hinted_splits(top, folders, splits)
        if not splits:
            return {}
        flat = [folder for folder in splits if not self._inner(top, folder)]
        others = [folder for folder in folders if folder not in splits and self._has(top, folder)]
        name = posixpath.join(self.tree.name, top).rstrip("/")
        if others and len(flat) == len(splits):
            if len(flat) == 1 and splits[flat[0]] == "train":
                return {}  # a class beside others: bus, car, train
            raise DataLayoutError(
                f"{name}: {preview(flat)} {_are(flat)} named like {_splits(flat)} but {_hold(flat)} "
                f"{self._plural} and no class folders, beside {preview(others)}. Is it a class or a split? "
                f"{self._rename}"
            )
        if "train" not in splits.values():
            if others:
                raise DataLayoutError(
                    f"{name}: {preview(splits)} {_are(splits)} named like {_splits(splits)}, and none of "
                    f"{preview(others)} "
                    f"is named like train. Put the class folders of train into a folder train. {self._rename}"
                )
            raise DataLayoutError(f"{name} has {preview(splits)} but no train folder with {self._plural}.")
        if len(set(splits.values())) < len(splits):
            raise DataLayoutError(f"{name} has several folders for one split: {preview(splits)}. {self._rename}")
        return splits

    def _hinted_splits(self, top: str, folders: list[str], splits: dict[str, str]) -> dict[str, str]:
        """Folders such as seg_train and seg_test, where they hold the same classes as the train folder."""
        hinted = {
            folder: split
            for folder in folders
            if (split := hinted_split(folder)) and split not in splits.values() and self._inner(top, folder)
        }
        candidates = {**splits, **hinted}
        classes = {folder: self._classes_in(top, folder, split) for folder, split in candidates.items()}
        trained = {name for folder in classes if candidates[folder] == "train" for name in classes[folder]}
        others = [folder for folder in classes if candidates[folder] != "train"]
        if not hinted or not trained or not any(classes[folder] for folder in others):
            return {}
        return hinted if all(classes[folder] <= trained for folder in others) else {}

    def _classes_in(self, top: str, folder: str, split: str) -> set[str]:
        return set(self._inner(self._split_folder(posixpath.join(top, folder), split)))

    def _split_folder(self, path: str, split: str) -> str:
        """A split folder, or the one folder of the same split in it: seg_train/seg_train."""
        while not self._has_samples(path):
            inner = self._inner(path)
            if len(inner) != 1 or split not in (split_of(inner[0]), hinted_split(inner[0])):
                break
            path = posixpath.join(path, inner[0])
        return path

    def _add_split(self, folder: str, split: str) -> None:
        """The class folders of a split."""
        path = self._split_folder(folder, split)
        inner = self._without_unlabeled(path, self._folders(path, self.ignored))
        where = posixpath.join(self.tree.name, path)
        nested = [name for name in inner if split_of(name) and self._has(path, name)]
        if len(nested) > 1 and len(nested) == len(inner):
            raise DataLayoutError(f"{where} is named like a split and holds splits: {preview(nested)}. {self._rename}")
        if not inner and split == "test" and self._has_samples(path):
            self.layout.classes.append(ClassFolder(path, "", UNLABELED))
            self._note(f"{path} has no class folders: its {self._plural} have no label")
            return
        self._refuse_no_classes(path, inner)
        self.layout.classes += [ClassFolder(posixpath.join(path, name), name, split) for name in inner]
        self.layout.parents.append(path)

    def _add_classes(self, top: str, folders: list[str]) -> None:
        """Class folders without splits around them; perhaps with splits in them."""
        if not folders and not self.layout.classes and self._has_samples(top):
            self.layout.classes.append(ClassFolder(top, "", UNLABELED))
            self._note(f"no class folders: no {self.tree.modality.name} has a label")
            return
        name = posixpath.join(self.tree.name, top).rstrip("/")
        inner = {folder: self._inner(top, folder) for folder in folders}
        direct = {folder for folder in folders if self._has_samples(posixpath.join(top, folder))}
        split = [folder for folder in folders if inner[folder] and all(map(split_of, inner[folder]))]
        others = [folder for folder in folders if self._has(top, folder) and (folder in direct or folder not in split)]
        if split and others:
            raise DataLayoutError(
                f"{name}: the class folder {split[0]} holds folders named like splits "
                f"({preview(inner[split[0]])}), and "
                f"{others[0]} holds {self._plural} outside of such folders. Give every class folder the same "
                f"splits. {self._rename}"
            )
        for folder in folders:
            if len(inner[folder]) > 1 and folder not in direct and set(inner[folder]) <= set(folders) - {folder}:
                raise DataLayoutError(
                    f"{name}: {folder} holds folders named like the classes beside it "
                    f"({preview(inner[folder])}). Is it a "
                    "class, a split, or sorted pictures? Rename it train, val or test, or move it elsewhere."
                )
        self.layout.parents.append(top)
        if self._has_samples(top):
            self.layout.classes.append(ClassFolder(top, "", UNLABELED, is_parent=True))
            self._note(f"{self._plural} beside the class folders have no label")
        if not split:
            self.layout.classes += [ClassFolder(posixpath.join(top, folder), folder, None) for folder in folders]
            return
        for folder in split:
            path = posixpath.join(top, folder)
            inside = self._folders(path, self.ignored)
            splits = {name: split_of(name) for name in inside if self._has(path, name)}
            if len(set(splits.values())) < len(splits):
                raise DataLayoutError(
                    f"{name}/{folder} has several folders for one split: {preview(splits)}. {self._rename}"
                )
            self.layout.classes += [ClassFolder(posixpath.join(path, name), folder, splits[name]) for name in splits]
            self.layout.parents.append(path)
        self._note(f"splits lie inside the class folders: {split[0]}/{inner[split[0]][0]}, ...")

    def _refuse_no_classes(self, path: str, folders: list[str]) -> None:
        if not folders and self._has_samples(path):
            where = posixpath.join(self.tree.name, path).rstrip("/")
            raise DataLayoutError(
                f"{where} holds {self._plural} but no class folders. Expected {where}/<class>/"
                f"{self.tree.modality.example}: one folder a class, its name is the label. If they have no label yet, "
                f"move them into a folder {UNLABELED} beside the split."
            )

    def _folders(self, path: str, ignored: Counter[str] | None = None) -> list[str]:
        """Names of the folders in a folder; those that are passed over are counted in `ignored`."""
        return self._subfolders(path) if ignored is None else self.tree.subfolders(path, ignored)

    def _inner(self, path: str, folder: str = "") -> list[str]:
        """Folders with images in a folder."""
        path = posixpath.join(path, folder) if folder else path
        return [name for name in self._folders(path) if self._has(path, name)]

    def _has(self, path: str, folder: str) -> bool:
        """Whether a folder has samples in it or below it."""
        return self._has_samples_below(posixpath.join(path, folder))

    def _count(self, path: str) -> int:
        return sum(1 for _ in self.tree.samples(path, Counter()))

    def _contains_sample(self, path: str) -> bool:
        """Whether a folder has samples directly in it."""
        names = (name for name in self.tree.files(path) if not name.startswith("."))
        return any(self.tree.modality.accepts(Path(name)) for name in names)

    def _note(self, text: str) -> None:
        self.layout.notes.append(text)


def preview(names: Iterable[str]) -> str:
    """A few of these names, for a message."""
    names = sorted(names)
    return ", ".join(names[:8]) + (f" and {len(names) - 8} more" if len(names) > 8 else "")


def _are(names: Iterable[str]) -> str:
    return "is" if len(list(names)) == 1 else "are"


def _hold(names: Iterable[str]) -> str:
    return "holds" if len(list(names)) == 1 else "hold"


def _splits(names: Iterable[str]) -> str:
    return "a split" if len(list(names)) == 1 else "splits"
