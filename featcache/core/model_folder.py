"""Replace the files of a model folder atomically: the rename of model.json switches to the new model.

New files are first written as NAME.next. model.json holds the hashes of all files except the report run.json, which
contains times. The rename of model.json is the commit; then each NAME.next is renamed to NAME. A process that is killed
before the commit leaves the old model, and later the new one: readers use the file, NAME or NAME.next, with the right
hash.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from featcache._utils.files import check_readable, fsync_folder, write_file
from featcache._utils.locks import lock_folder
from featcache._utils.regular_files import read_json
from featcache.errors import HeadError

CARD = "model.json"
REPORT = "run.json"
"""The report of training. It contains times, so equal models have different reports: it has no hash."""

README = "README.md"
"""The model card for people and for the Hugging Face Hub. A file that somebody has edited is kept, see `is_edited`."""

_NEXT = ".next"


def staged(folder: Path, name: str) -> Path:
    """The path to which a large file of the next model is written before `commit`.

    Parameters
    ----------
    folder : Path
        The model's folder.
    name : str
        The final name of the file.

    Returns
    -------
    Path
    """
    return folder / f"{name}{_NEXT}"


def commit(folder: Path, card: Mapping[str, Any], files: Mapping[str, bytes | None]) -> None:
    """Replace the model of a folder, all or nothing.

    Parameters
    ----------
    folder : Path
        An existing folder.
    card : mapping
        Content of model.json; the hashes of the files are added.
    files : mapping of str to bytes or None
        Name -> content of each file; None removes the file.

    Raises
    ------
    OutputError
        A file cannot be written. The previous model is unchanged.
    """
    with lock_folder(folder):
        names = {card["file"], *files} - {name for name, content in files.items() if content is None}
        _swap(folder, card, names, files, {})


def attach(folder: Path, files: Mapping[str, bytes | None]) -> None:
    """Add, replace or remove files of a model in one step; the other files stay.

    Parameters
    ----------
    folder : Path
        A folder with a model.json.
    files : mapping of str to bytes or None
        As in `commit`.

    Raises
    ------
    OutputError
        A file cannot be written. The model is unchanged.
    HeadError
        model.json is damaged.
    """
    with lock_folder(folder):
        try:
            card = dict(read_json(folder / CARD))
        except (ValueError, TypeError) as error:
            raise HeadError(f"{folder / CARD} is not a featcache model: {error}. Train it again.") from error
        card.pop("sha256", None)
        names = {name for name, content in files.items() if content is not None}
        unchanged = {name: value for name, value in _hashes(folder).items() if name not in files}
        _swap(folder, card, names, files, unchanged)


def _swap(
    folder: Path,
    card: Mapping[str, Any],
    names: set[str],
    files: Mapping[str, bytes | None],
    unchanged: Mapping[str, str | None],
) -> None:
    """Write the new files, replace model.json, rename the new files. unchanged : hashes of files that stay."""
    _settle(folder, files)
    if README in files and is_edited(folder):
        recorded = _hashes(folder).get(README)
        files = {name: content for name, content in files.items() if name != README}
        names, unchanged = names - {README}, {**unchanged, **({README: recorded} if recorded else {})}
    try:
        _replace(folder, card, names, files, unchanged)
    except BaseException:
        _settle(folder, files)
        raise


def is_edited(folder: Path) -> bool:
    """Whether README.md of a folder is not the one that featcache wrote: then it is kept, whatever model is saved.

    Parameters
    ----------
    folder : Path
        Any folder.

    Returns
    -------
    bool
    """
    path = folder / README
    return path.is_file() and _hashes(folder).get(README) not in (_hash(path), *_pending_hash(folder))


def _pending_hash(folder: Path) -> list[str]:
    """The hash of README.md.next, which a killed process left and the next one renames."""
    path = staged(folder, README)
    return [_hash(path)] if path.is_file() else []


def _settle(folder: Path, files: Iterable[str]) -> None:
    """Give what belongs to the model its names, which a killed process did not, and remove what never will.

    files : names that are about to be written. Else a second kill would leave neither model whole.
    """
    hashes = _hashes(folder)
    for name in {*hashes, *files}:
        path = staged(folder, name)
        if path.exists():
            if hashes.get(name) == _hash(path):
                os.replace(path, folder / name)
            else:
                path.unlink()
    if (folder / CARD).exists():
        fsync_folder(folder)


def _replace(
    folder: Path,
    card: Mapping[str, Any],
    names: set[str],
    files: Mapping[str, bytes | None],
    unchanged: Mapping[str, str | None],
) -> None:
    for name, content in files.items():
        if content is not None:
            write_file(staged(folder, name), content)
    present = {name: _newest(folder, name) for name in names}
    hashes = {**unchanged, **{name: None for name, content in files.items() if content is None}}
    hashes |= {name: _hash(path) for name, path in present.items() if path.exists() and name != REPORT}
    text = json.dumps({**card, "sha256": dict(sorted(hashes.items()))}, indent=1)
    write_file(folder / CARD, f"{text}\n".encode())
    for name in names:
        if staged(folder, name).exists():
            os.replace(staged(folder, name), folder / name)
    for name in files.keys() - names:
        (folder / name).unlink(missing_ok=True)
    fsync_folder(folder)


def locate(folder: Path, name: str) -> Path:
    """The path of a file of the model: NAME or NAME.next.

    Parameters
    ----------
    folder : Path
        The model's folder.
    name : str
        A file's name, such as "val.csv".

    Returns
    -------
    Path
        An existing file, unless the model has no such file or no hash of it.

    Raises
    ------
    HeadError
        The file has another hash than when the model was saved.
    """
    hashes = _hashes(folder)
    if name not in hashes:  # a model of an earlier version, or a file that training writes later
        return folder / name
    expected = hashes[name]
    if expected is None:
        return folder / f"{name}.none"
    candidates = [path for path in (folder / name, staged(folder, name)) if path.is_file()]
    for path in candidates:
        check_readable(path)
        if _hash(path) == expected:
            return path
    if not candidates:
        return folder / name
    raise HeadError(
        f"{folder} is damaged: {name} is not the file that {CARD} was saved with (its sha256 is "
        f"{_hash(candidates[0])[:12]}..., expected {expected[:12]}...). Fit or train the model again."
    )


def members(folder: Path) -> list[str]:
    """Names of the files of the model in a folder; empty without a model.

    Parameters
    ----------
    folder : Path
        Any folder.

    Returns
    -------
    list of str
    """
    return [CARD, REPORT, *_hashes(folder)] if (folder / CARD).is_file() else []


@contextmanager
def reading(folder: Path) -> Iterator[None]:
    """In this context no other process replaces the model of the folder.

    Parameters
    ----------
    folder : Path
        A model folder. A missing folder, or one that cannot be locked, is not locked.
    """
    with lock_folder(folder, shared=True):
        yield


def _newest(folder: Path, name: str) -> Path:
    return staged(folder, name) if staged(folder, name).exists() else folder / name


def _hash(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _hashes(folder: Path) -> dict[str, str | None]:
    with suppress(OSError, ValueError):
        card = read_json(folder / CARD)
        if isinstance(card, dict) and isinstance(card.get("sha256"), dict):
            return {
                name: value
                for name, value in card["sha256"].items()
                if value is None or (isinstance(value, str) and len(value) == 64)
            }
    return {}
