"""`FileSorter`: moves or links predicted files into a folder for each class, without overwriting or losing any."""

from __future__ import annotations

import errno
import os
import shutil
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import Literal

from featcache._utils.files import fsync_folder, name_draft, remove_stale_drafts
from featcache._utils.locks import try_lock
from featcache.core.samples import SEPARATOR
from featcache.data.sources.foreign_folders import SORTED_MARK
from featcache.errors import DataLayoutError
from featcache.models.prediction import Prediction

How = Literal["move", "link"]

_MOVED: dict[How, str] = {"move": "moved", "link": "linked"}
_NO_HARD_LINKS = {errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK}  # such as FAT; files of other users
_CHUNK = 1 << 20
_MAX_NAME_BYTES = 255  # on common file systems


class FileSorter:
    """Moves files to ROOT/CLASS/NAME, or creates absolute symbolic links there.

    If a file with other content has the name, the first free one of NAME-2.jpg, NAME-3.jpg, ... is used. If a file with
    the same content, or a link to the same file, has one of these names, nothing is done.

    Parameters
    ----------
    root : path
        The folder of the class folders, which are created when they are needed.
    how : {"move", "link"}
    classes : sequence of str
        Of the model.
    multilabel : bool
        Whether images can have several labels. Their files are linked into the folder of each label. Default: False.
    dry_run : bool
        Change no file, and only report the targets. Default: False.

    Attributes
    ----------
    counts : Counter of str
        The number of files moved or linked into the folder of each class.
    existing : int
        The number of files that existed already.

    Raises
    ------
    DataLayoutError
        The name of a class cannot be that of a folder, the root is a file, or files would be moved to several folders.
    """

    def __init__(
        self, root: str | Path, how: How, classes: Sequence[str], *, multilabel: bool = False, dry_run: bool = False
    ) -> None:
        root = Path(root)
        if multilabel and how == "move":
            raise DataLayoutError(
                "this model gives a sample several labels, and a file can be moved to one folder only. Use links."
            )
        for name in classes:
            if not _is_plain(name) or (multilabel and SEPARATOR in name):
                raise DataLayoutError(
                    f"the class {name!r} cannot be the name of a folder: it is empty or too long, begins with a dot, "
                    "or contains a slash or a control character. No file was sorted."
                )
        for folder in (root, *(root / name for name in classes)):
            if os.path.lexists(folder) and not folder.is_dir():
                raise DataLayoutError(f"{folder} is not a folder, but files are sorted into it. No file was sorted.")
        self.root, self.how, self.dry_run = root, how, dry_run
        self.counts: Counter[str] = Counter(dict.fromkeys(classes, 0))
        self.existing = 0
        self._multilabel = multilabel
        self._planned: dict[str, Path | None] = {}  # in a dry run, the file at each path; None if it is moved away

    def sort(self, prediction: Prediction) -> Prediction:
        """Move or link the file of an image. Returns the prediction with `moved_to`, or with the `error`."""
        label = prediction.label
        labels = [] if not label else label.split(SEPARATOR) if self._multilabel else [label]
        targets: list[str] = []
        try:
            for name in labels:
                targets.append(str(self._sort_into(Path(prediction.path), name)))
        except OSError as error:
            reason = f"could not be {_MOVED[self.how]}: {error.strerror or error}"
            return replace(prediction, moved_to=tuple(targets), error=reason)
        return replace(prediction, moved_to=tuple(targets))

    def __str__(self) -> str:
        """How many files were sorted into each folder."""
        verb = f"would have {_MOVED[self.how]}" if self.dry_run else _MOVED[self.how]
        counts = ", ".join(f"{number} to {name}" for name, number in self.counts.items() if number)
        existing = f"; {self.existing} were there already" if self.existing else ""
        return f"{verb} {self.counts.total()} files into {self.root}{': ' if counts else ''}{counts}{existing}"

    def _sort_into(self, source: Path, label: str) -> Path:
        folder = self.root / label
        if not self.dry_run:
            self._create(folder)
        for target in _names(folder, source.name):
            if not self._content_at(target) and self._move_or_link(source, target):
                self.counts[label] += 1
                return target
            other = self._content_at(target)  # perhaps of another process, which sorts the same files
            if other and _same_content(other, source):
                self.existing += 1
                return target
        raise AssertionError  # the names never end

    def _create(self, folder: Path) -> None:
        """Create a class folder. A new root gets a mark file, which tells `extract` that the root is not a class."""
        with suppress(FileExistsError):
            self.root.mkdir(parents=True)
            (self.root / SORTED_MARK).touch()
        folder.mkdir(parents=True, exist_ok=True)

    def _content_at(self, target: Path) -> Path | None:
        """The file whose content is at a path, None if the path is free."""
        existing = target if os.path.lexists(target) else None
        return self._planned.get(_entry(target), existing) if self.dry_run else existing

    def _move_or_link(self, source: Path, target: Path) -> bool:
        """Move or link a file. False if the target was created in the meantime."""
        try:
            if self.dry_run:
                self._planned |= {_entry(source): None} if self.how == "move" else {}
                self._planned[_entry(target)] = source
            elif self.how == "link":
                os.symlink(_entry(source), target)
            else:
                _move(source, target)
        except FileExistsError:
            return False
        return True


def distinct(paths: Iterable[str | Path]) -> Iterator[str | Path]:
    """Each file once, even if it is listed under several names or links, because it can be moved only once."""
    seen: set[str] = set()
    for path in paths:
        real = os.path.realpath(path)
        if real not in seen:
            seen.add(real)
            yield path


def _is_plain(name: str) -> bool:
    """Whether a folder can have this name and is not hidden."""
    try:
        has_valid_length = 0 < len(os.fsencode(name)) <= _MAX_NAME_BYTES
    except UnicodeEncodeError:
        return False
    return (
        has_valid_length
        and name[0] != "."
        and not any(letter == "/" or ord(letter) < 32 or ord(letter) == 127 for letter in name)
    )


def _names(folder: Path, name: str) -> Iterator[Path]:
    """NAME.jpg, NAME-2.jpg, NAME-3.jpg, ..."""
    path = folder / name
    yield path
    for number in count(2):
        yield path.with_name(f"{path.stem}-{number}{path.suffix}")


def _entry(path: Path) -> str:
    """The absolute path, with links in the folder resolved but not a link at the path itself."""
    return os.path.join(os.path.realpath(path.parent), path.name)


def _same_content(a: Path, b: Path) -> bool:
    """Whether both are regular files, or links to regular files, with the same content."""
    if not (a.is_file() and b.is_file()):
        return False
    if os.path.samefile(a, b):
        return True
    with a.open("rb") as first, b.open("rb") as second:
        if os.fstat(first.fileno()).st_size != os.fstat(second.fileno()).st_size:
            return False
        while block := first.read(_CHUNK):
            if block != second.read(_CHUNK):
                return False
    return True


def _move(source: Path, target: Path) -> None:
    """Move a file or a symbolic link. At any moment the content is at the source, the target or both.

    Raises
    ------
    FileExistsError
        The target exists.
    OSError
        The file cannot be moved.
    """
    if source.is_symlink():
        os.symlink(os.path.realpath(source), target)
        _remove(source, target)
        return
    try:
        _rename(source, target)
    except OSError as error:
        if error.errno != errno.EXDEV:
            raise
        _move_across(source, target)


def _rename(source: Path, target: Path) -> None:
    """Rename within a file system. Unlike `os.rename`, it never replaces a file."""
    try:
        os.link(source, target)
    except OSError as error:
        if error.errno not in _NO_HARD_LINKS:
            raise
        os.close(os.open(target, os.O_CREAT | os.O_EXCL | os.O_WRONLY))  # an empty file, which is replaced
        try:
            source.replace(target)
        except OSError:
            target.unlink()
            raise
    else:
        _remove(source, target)


def _move_across(source: Path, target: Path) -> None:
    """Move to another file system: the source is removed when the copy is on the disk under its final name."""
    remove_stale_drafts(target)
    draft = name_draft(target)
    try:
        with draft.open("xb") as copy, source.open("rb") as file:
            try_lock(copy)  # while it is locked, `remove_stale_drafts` does not remove the draft
            shutil.copyfileobj(file, copy, _CHUNK)
            copy.flush()
            os.fsync(copy.fileno())
        shutil.copystat(source, draft)
        _rename(draft, target)
    except BaseException:
        draft.unlink(missing_ok=True)
        raise
    fsync_folder(target.parent)
    _remove(source, target)


def _remove(source: Path, target: Path) -> None:
    """Remove the source, as the last step: the target is complete."""
    try:
        source.unlink(missing_ok=True)
    except OSError as error:
        raise OSError(error.errno, f"{error.strerror}; a copy is at {target}") from error
