"""`FileSorter`: puts predicted files into a folder for each class. It overwrites nothing, and a kill loses nothing."""

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
_NO_HARD_LINKS = {errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK}  # FAT and its kin; files of others
_CHUNK = 1 << 20
_LONGEST = 255  # bytes of a name, on every file system in use


class FileSorter:
    """Puts files into ROOT/CLASS/NAME: moves them there, or links to them with absolute symbolic links.

    A name that other content has taken gets a number, NAME-2.jpg: the first that is free, or has the same content, or a
    link to the same file, already; then nothing is done.

    Parameters
    ----------
    root : the folder of the class folders; they are made when they are needed.
    classes, multilabel : of the model. Files of several labels are linked into the folder of each, or into none.
    dry_run : do nothing, and say what would be done.

    Attributes
    ----------
    counts : files put into the folder of each class. there : those that were there already.

    Raises
    ------
    DataLayoutError : a class whose name cannot be a folder's, a root that is a file, moving to several places.
    """

    def __init__(
        self, root: str | Path, how: How, classes: Sequence[str], *, multilabel: bool = False, dry_run: bool = False
    ) -> None:
        root = Path(root)
        if multilabel and how == "move":
            raise DataLayoutError(
                "this model gives a picture several labels, and a file can be moved to one place only. Link to it."
            )
        for name in classes:
            if not _is_plain(name) or (multilabel and SEPARATOR in name):
                raise DataLayoutError(
                    f"the class {name!r} cannot be the name of a folder: it is empty or too long, begins with a dot, "
                    "or has a slash or a control character in it. Nothing was sorted."
                )
        for folder in (root, *(root / name for name in classes)):
            if os.path.lexists(folder) and not folder.is_dir():
                raise DataLayoutError(f"{folder} is no folder, but files shall go into it. Nothing was sorted.")
        self.root, self.how, self.dry_run = root, how, dry_run
        self.counts: Counter[str] = Counter(dict.fromkeys(classes, 0))
        self.there = 0
        self._several = multilabel
        self._planned: dict[str, Path | None] = {}  # of a dry run: what would lie at a path, None where it had left

    def place(self, prediction: Prediction) -> Prediction:
        """Put a picture's file where it belongs; the prediction with `moved_to`, or the `error` that prevented it."""
        label = prediction.label
        labels = [] if not label else label.split(SEPARATOR) if self._several else [label]
        places: list[str] = []
        try:
            for name in labels:
                places.append(str(self._put(Path(prediction.path), name)))
        except OSError as error:
            reason = f"could not be {_MOVED[self.how]}: {error.strerror or error}"
            return replace(prediction, moved_to=tuple(places), error=reason)
        return replace(prediction, moved_to=tuple(places))

    def __str__(self) -> str:
        """How many went where."""
        verb = f"would have {_MOVED[self.how]}" if self.dry_run else _MOVED[self.how]
        shares = ", ".join(f"{number} to {name}" for name, number in self.counts.items() if number)
        there = f"; {self.there} were there already" if self.there else ""
        return f"{verb} {self.counts.total()} files into {self.root}{': ' if shares else ''}{shares}{there}"

    def _put(self, source: Path, label: str) -> Path:
        folder = self.root / label
        if not self.dry_run:
            self._make(folder)
        for target in _names(folder, source.name):
            if not self._holder(target) and self._take(source, target):
                self.counts[label] += 1
                return target
            holder = self._holder(target)  # perhaps of another process, which sorts the same files
            if holder and _are_same(holder, source):
                self.there += 1
                return target
        raise AssertionError  # the names never end

    def _make(self, folder: Path) -> None:
        """A class folder; a root that is new gets a mark, by which `extract` and others know that it is no class."""
        with suppress(FileExistsError):
            self.root.mkdir(parents=True)
            (self.root / SORTED_MARK).touch()
        folder.mkdir(parents=True, exist_ok=True)

    def _holder(self, target: Path) -> Path | None:
        """The file whose content is at a path, None where the path is free."""
        found = target if os.path.lexists(target) else None
        return self._planned.get(_entry(target), found) if self.dry_run else found

    def _take(self, source: Path, target: Path) -> bool:
        """Move or link; False where the name was taken meanwhile."""
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
    """Each file once, by whatever names and links it is listed: it can be moved only once."""
    seen: set[str] = set()
    for path in paths:
        real = os.path.realpath(path)
        if real not in seen:
            seen.add(real)
            yield path


def _is_plain(name: str) -> bool:
    """Whether a folder can have this name, and `ls` shows it."""
    try:
        short = 0 < len(os.fsencode(name)) <= _LONGEST
    except UnicodeEncodeError:
        return False
    return (
        short and name[0] != "." and not any(letter == "/" or ord(letter) < 32 or ord(letter) == 127 for letter in name)
    )


def _names(folder: Path, name: str) -> Iterator[Path]:
    """NAME.jpg, NAME-2.jpg, NAME-3.jpg, ..."""
    path = folder / name
    yield path
    for number in count(2):
        yield path.with_name(f"{path.stem}-{number}{path.suffix}")


def _entry(path: Path) -> str:
    """The absolute path of a name in its folder; the name itself may be a link."""
    return os.path.join(os.path.realpath(path.parent), path.name)


def _are_same(a: Path, b: Path) -> bool:
    """Whether both are regular files, or links to such, of the same content."""
    if not (a.is_file() and b.is_file()):
        return False
    if os.path.samefile(a, b):
        return True
    with a.open("rb") as one, b.open("rb") as other:
        if os.fstat(one.fileno()).st_size != os.fstat(other.fileno()).st_size:
            return False
        while block := one.read(_CHUNK):
            if block != other.read(_CHUNK):
                return False
    return True


def _move(source: Path, target: Path) -> None:
    """Move a file; of a symbolic link the link. At any moment the content has a name, here or there or both.

    Raises
    ------
    FileExistsError : the target is there. OSError
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
    """Rename within a file system; unlike `os.rename` never onto what is there."""
    try:
        os.link(source, target)
    except OSError as error:
        if error.errno not in _NO_HARD_LINKS:
            raise
        os.close(os.open(target, os.O_CREAT | os.O_EXCL | os.O_WRONLY))  # an empty file of our own, to be replaced
        try:
            source.replace(target)
        except OSError:
            target.unlink()
            raise
    else:
        _remove(source, target)


def _move_across(source: Path, target: Path) -> None:
    """Move to another file system: the source goes when its copy is on the disk under its name."""
    remove_stale_drafts(target)
    draft = name_draft(target)
    try:
        with draft.open("xb") as copy, source.open("rb") as file:
            try_lock(copy)  # while it is held, `remove_stale_drafts` leaves the draft alone
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
    """The last step: what is at the target stays there, come what may."""
    try:
        source.unlink(missing_ok=True)
    except OSError as error:
        raise OSError(error.errno, f"{error.strerror}; it is at {target}, too") from error
