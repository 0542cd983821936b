"""Files of samples: listed below folders, named on a stream, and hashed."""

from __future__ import annotations

import glob
import os
from collections import Counter
from collections.abc import Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

from featcache.data.file_types import describe_ignored
from featcache.data.modality import IMAGES, Modality
from featcache.data.sources.foreign_folders import keep_data_folders
from featcache.errors import DataLayoutError, EmptyFolderError

_CHUNK = 1 << 20


def list_images(folder: Path) -> list[Path]:
    """The images below a folder, sorted; hidden files and other files are passed over."""
    return sorted(walk(folder, Counter()))


def find_samples(
    patterns: Iterable[str],
    missing: dict[str, str] | None = None,
    ignored: Counter[str] | None = None,
    modality: Modality = IMAGES,
) -> list[Path]:
    """The images, or other samples, that files, folders and glob patterns name, in that order.

    Parameters
    ----------
    patterns : iterable of str
        Files, folders and glob patterns.
    missing : dict, optional
        Gets the names without a sample, with the reason. None makes the first such name an error.
    ignored : Counter, optional
        Counts the files that are passed over, by reason.
    modality : Modality
        Which files are samples. Default: images.

    Returns
    -------
    list of Path

    Raises
    ------
    EmptyFolderError
        A name has no sample and `missing` is None, or no name has one.
    """
    samples: list[Path] = []
    without: dict[str, str] = {}
    for pattern in patterns:
        path, ignored_here = Path(pattern), Counter[str]()
        if path.is_dir():
            matches = sorted(walk(path, ignored_here, modality))
        elif path.is_file():
            matches = [path]
        else:
            files = [Path(name) for name in sorted(glob.glob(pattern, recursive=True)) if Path(name).is_file()]
            matches = [file for file in files if modality.accepts(file)]
            ignored_here.update(modality.why_not(file) for file in files if not modality.accepts(file))
        if not matches:
            kind = f"a folder or pattern without {modality.plural}"
            without[pattern] = f"no such file, or {kind}{describe_ignored(ignored_here)}"
        elif ignored is not None:
            ignored.update(ignored_here)
        samples += matches
    if without and (missing is None or not samples):
        name, reason = next(iter(without.items()))
        more = f" (and {len(without) - 1} other names do not either)" if len(without) > 1 else ""
        raise EmptyFolderError(f"{name} names no {modality.name}: {reason}{more}.")
    if missing is not None:
        missing |= without
    return samples


def read_names(stream: Any, end: bytes = b"\n") -> Iterator[str]:
    """File names from a stream, as soon as they arrive.

    Parameters
    ----------
    stream : binary file
        Buffered, as sys.stdin.buffer is.
    end : bytes
        What ends a name: a newline, or NUL as of `find -print0`.

    Raises
    ------
    DataLayoutError
        A line has NUL in it.
    """
    for name in split_stream(stream, end):
        if b"\0" in name:
            raise DataLayoutError("the names on stdin have NUL characters in them; find -print0 needs -0 here.")
        if name:
            yield os.fsdecode(name)


def split_stream(stream: Any, end: bytes) -> Iterator[bytes]:
    """The parts of a stream between the ends, as soon as they arrive; after the last end follows what is left."""
    rest = b""
    while block := stream.read1(_CHUNK):  # what has arrived: `read` would wait for more
        *names, rest = (rest + block).split(end)
        yield from names
    yield rest


def walk(folder: Path, ignored: Counter[str], modality: Modality = IMAGES) -> Iterator[Path]:
    """Samples below a folder. Links are followed, except to a folder that contains this one or was visited before.

    Parameters
    ----------
    folder : Path
        The folder.
    ignored : Counter
        Counts the files that are passed over, by reason.
    modality : Modality
        Which files are samples.
    """
    top = os.path.realpath(folder)
    visited: set[str] = set()
    for path, subfolders, files in os.walk(folder, followlinks=True, onerror=_raise_unreadable):
        real_path = os.path.realpath(path)
        if real_path in visited or top.startswith(os.path.join(real_path, "")):
            subfolders.clear()
            continue
        visited.add(real_path)
        subfolders[:] = keep_data_folders(subfolders, partial(_holds, path), ignored)
        for name in sorted(files):
            file = Path(path, name)
            if name.startswith("."):
                ignored["hidden"] += 1
            elif not modality.accepts(file):
                ignored[modality.why_not(file)] += 1
            elif not file.is_file():
                ignored["not a regular file"] += 1
            else:
                yield file


def _holds(parent: str, folder: str, name: str) -> bool:
    """Whether a folder of a parent folder holds a file or a folder of this name."""
    return os.path.lexists(os.path.join(parent, folder, name))


def _raise_unreadable(error: OSError) -> None:
    raise DataLayoutError(f"{error.filename} cannot be read: {error.strerror}") from error
