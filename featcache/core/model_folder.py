"""A model's folder goes from one model to the next in one step, the rename of model.json, which names its files.

New files are written as NAME.next first. model.json holds the hash of each, weights and predictions, but not of the
report run.json, which has seconds in it; its rename is the step. Then each
NAME.next takes the place of NAME. A process that is killed before the step leaves the old model, after it the new one:
readers take the file, NAME or NAME.next, that has the hash.
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
"""Of how the model came about, with seconds in it: equal models have different ones, so it has no hash."""

_NEXT = ".next"


def staged(folder: Path, name: str) -> Path:
    """Where a large file of the next model is written before `commit`.

    Parameters
    ----------
    folder : Path
        The model's folder.
    name : str
        The name that the file will have.

    Returns
    -------
    Path
    """
    return folder / f"{name}{_NEXT}"


def commit(folder: Path, card: Mapping[str, Any], files: Mapping[str, bytes | None]) -> None:
    """Replace a folder's model, all of it or nothing.

    Parameters
    ----------
    folder : Path
        The model's folder; it exists.
    card : mapping
        What model.json says; the hashes of the files are added.
    files : mapping of str to bytes or None
        Name and content of each file. None: there is no such file from now on.

    Raises
    ------
    OutputError
        A file cannot be written. The model that was there before is unchanged.
    """
    with lock_folder(folder):
        names = {card["file"], *files} - {name for name, content in files.items() if content is None}
        _swap(folder, card, names, files, {})


def attach(folder: Path, files: Mapping[str, bytes | None]) -> None:
    """Add files to a folder's model, or replace or remove some, in one step; the others stay.

    Parameters
    ----------
    folder : Path
        The model's folder, with a model.json.
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
    """Write what is new, replace model.json, give the new files their names. unchanged : hashes of files that stay."""
    _settle(folder, files)
    try:
        _replace(folder, card, names, files, unchanged)
    except BaseException:
        _settle(folder, files)
        raise


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
    """The file of this name that belongs to the folder's model.

    Parameters
    ----------
    folder : Path
        The model's folder.
    name : str
        A file's name, such as "val.csv".

    Returns
    -------
    Path
        It exists, unless the model has no such file or says nothing of it.

    Raises
    ------
    HeadError
        There is such a file, but it is not the one that the model was saved with.
    """
    hashes = _hashes(folder)
    if name not in hashes:  # a model of an earlier version, or a file that training writes by itself
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
    """Names of the files that belong to the folder's model; none where there is no model.

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
    """While this is open, no other process replaces the folder's model.

    Parameters
    ----------
    folder : Path
        The model's folder. Where it does not exist, or cannot be locked, nothing is held.
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
