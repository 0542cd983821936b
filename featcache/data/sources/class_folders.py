"""`find_class_folders`: which folders are classes, and which of them are of which split."""

from __future__ import annotations

import posixpath
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from featcache.core.samples import UNLABELLED
from featcache.core.split_names import hinted_split, split_of
from featcache.data.image_names import is_image_name
from featcache.data.sources.file_tree import FileTree
from featcache.errors import DataLayoutError

_RENAME = "Rename them, or list the images in a CSV with the columns path,label,split."


@dataclass(frozen=True, slots=True)
class ClassFolder:
    """A folder of images of one class.

    place : relative POSIX path in the tree.
    label : name of the class; "" for images without a label.
    split : "train", "val", "test", "unlabelled", or None where nothing says it.
    """

    place: str
    label: str
    split: str | None


@dataclass(slots=True)
class FolderLayout:
    """How a tree of folders was understood.

    classes : the class folders.
    parents : the folders that class folders lie in; files beside the class folders have no label.
    notes : what differs from `train/CLASS/*` and `CLASS/*`, a line each.
    """

    classes: list[ClassFolder]
    parents: list[str]
    notes: list[str]


def find_class_folders(tree: FileTree, ignored: Counter[str]) -> FolderLayout:
    """Recognise `train/CLASS/*`, `CLASS/train/*` and `CLASS/*`, with the usual names for splits.

    Folders of the system and of featcache's outputs are passed over. They, and images in folders beside the splits,
    are counted in `ignored`.

    Raises
    ------
    DataLayoutError : the layout is ambiguous, or no train folder is there.
    """
    finder = _Finder(tree, ignored)
    return finder.find()


class _Finder:
    def __init__(self, tree: FileTree, ignored: Counter[str]) -> None:
        self.tree, self.ignored = tree, ignored
        self.layout = FolderLayout([], [], [])
        self._folders_in = cache(lambda place: tree.folders(place, Counter()))  # each folder is listed once
        self._holds_images = cache(self._find_image)
        self._has_below = cache(lambda place: any(True for _ in tree.images(place, Counter())))

    def find(self) -> FolderLayout:
        top = self._only_folder()
        folders = self._without_empty_splits(top, self._folders(top, self.ignored))
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

    def _only_folder(self) -> str:
        """Where the splits or classes lie: data sets are often unpacked into a folder of their own."""
        place, folders = "", self._folders("")
        while len(folders) == 1 and not split_of(folders[0]) and not self._holds_images(place):
            place = posixpath.join(place, folders[0])
            folders = self._folders(place)
        filled = [folder for folder in folders if self._has(place, folder)]
        is_data = len(filled) > 1 or [split_of(folder) for folder in filled] == ["train"]
        if not place or not is_data or self._holds_images(place):
            return ""
        self._note(f"all images lie in its folder {place}")
        return place

    def _without_empty_splits(self, top: str, folders: list[str]) -> list[str]:
        """The folders without those named like a split that hold neither images nor class folders; they are counted."""
        empty = [folder for folder in folders if split_of(folder) and not self._has(top, folder)]
        filled = [folder for folder in folders if folder not in empty]
        classes = {name for folder in filled for name in self._inner(top, folder)}
        empty = [folder for folder in empty if not classes & set(self._folders(posixpath.join(top, folder)))]
        if len(empty) == len(folders):
            return folders
        for folder in empty:
            self.ignored[f"folders: {folder}, which is named like a split and holds no images"] += 1
        return [folder for folder in folders if folder not in empty]

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
                f"{name}: {preview(flat)} {_are(flat)} named like {_splits(flat)} but {_hold(flat)} images and no "
                "class "
                f"folders, beside {preview(others)}. Is it a class or a split? {_RENAME}"
            )
        if "train" not in splits.values():
            if others:
                raise DataLayoutError(
                    f"{name}: {preview(splits)} {_are(splits)} named like {_splits(splits)}, and none of "
                    f"{preview(others)} "
                    f"is named like train. Put the class folders of train into a folder train. {_RENAME}"
                )
            raise DataLayoutError(f"{name} has {preview(splits)} but no train folder with images.")
        if len(set(splits.values())) < len(splits):
            raise DataLayoutError(f"{name} has several folders for one split: {preview(splits)}. {_RENAME}")
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
        return set(self._inner(self._inside(posixpath.join(top, folder), split)))

    def _inside(self, place: str, split: str) -> str:
        """A split folder, or the one folder of the same split in it: seg_train/seg_train."""
        while not self._holds_images(place):
            inner = self._inner(place)
            if len(inner) != 1 or split not in (split_of(inner[0]), hinted_split(inner[0])):
                break
            place = posixpath.join(place, inner[0])
        return place

    def _add_split(self, folder: str, split: str) -> None:
        """The class folders of a split."""
        place = self._inside(folder, split)
        inner = self._folders(place, self.ignored)
        where = posixpath.join(self.tree.name, place)
        nested = [name for name in inner if split_of(name) and self._has(place, name)]
        if len(nested) > 1 and len(nested) == len(inner):
            raise DataLayoutError(f"{where} is named like a split and holds splits: {preview(nested)}. {_RENAME}")
        if not inner and split == "test" and self._holds_images(place):
            self.layout.classes.append(ClassFolder(place, "", UNLABELLED))
            self._note(f"{place} has no class folders: its images have no label")
            return
        self._refuse_no_classes(place, inner)
        self.layout.classes += [ClassFolder(posixpath.join(place, name), name, split) for name in inner]
        self.layout.parents.append(place)

    def _add_classes(self, top: str, folders: list[str]) -> None:
        """Class folders without splits around them; perhaps with splits in them."""
        self._refuse_no_classes(top, folders)
        name = posixpath.join(self.tree.name, top).rstrip("/")
        inner = {folder: self._inner(top, folder) for folder in folders}
        direct = {folder for folder in folders if self._holds_images(posixpath.join(top, folder))}
        split = [folder for folder in folders if inner[folder] and all(map(split_of, inner[folder]))]
        others = [folder for folder in folders if self._has(top, folder) and (folder in direct or folder not in split)]
        if split and others:
            raise DataLayoutError(
                f"{name}: the class folder {split[0]} holds folders named like splits "
                f"({preview(inner[split[0]])}), and "
                f"{others[0]} holds images outside of such folders. Give every class folder the same splits. {_RENAME}"
            )
        for folder in folders:
            if len(inner[folder]) > 1 and folder not in direct and set(inner[folder]) <= set(folders) - {folder}:
                raise DataLayoutError(
                    f"{name}: {folder} holds folders named like the classes beside it "
                    f"({preview(inner[folder])}). Is it a "
                    "class, a split, or sorted pictures? Rename it train, val or test, or move it elsewhere."
                )
        self.layout.parents.append(top)
        if not split:
            self.layout.classes += [ClassFolder(posixpath.join(top, folder), folder, None) for folder in folders]
            return
        for folder in split:
            place = posixpath.join(top, folder)
            inside = self._folders(place, self.ignored)
            splits = {name: split_of(name) for name in inside if self._has(place, name)}
            if len(set(splits.values())) < len(splits):
                raise DataLayoutError(
                    f"{name}/{folder} has several folders for one split: {preview(splits)}. {_RENAME}"
                )
            self.layout.classes += [ClassFolder(posixpath.join(place, one), folder, of) for one, of in splits.items()]
            self.layout.parents.append(place)
        self._note(f"splits lie inside the class folders: {split[0]}/{inner[split[0]][0]}, ...")

    def _refuse_no_classes(self, place: str, folders: list[str]) -> None:
        if not folders and self._holds_images(place):
            where = posixpath.join(self.tree.name, place).rstrip("/")
            raise DataLayoutError(
                f"{where} holds images but no class folders. Expected {where}/<class>/*.jpg: one folder a class, its "
                "name is the label."
            )

    def _folders(self, place: str, ignored: Counter[str] | None = None) -> list[str]:
        """Names of the folders in a folder; those that are passed over are counted, if asked."""
        return self._folders_in(place) if ignored is None else self.tree.folders(place, ignored)

    def _inner(self, place: str, folder: str = "") -> list[str]:
        """Folders with images in a folder."""
        place = posixpath.join(place, folder) if folder else place
        return [name for name in self._folders(place) if self._has(place, name)]

    def _has(self, place: str, folder: str) -> bool:
        """Whether any image lies in a folder, or below it."""
        return self._has_below(posixpath.join(place, folder))

    def _count(self, place: str) -> int:
        return sum(1 for _ in self.tree.images(place, Counter()))

    def _find_image(self, place: str) -> bool:
        """Whether images lie in a folder itself."""
        names = (name for name in self.tree.files(place) if not name.startswith("."))
        return any(is_image_name(Path(name)) for name in names)

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
