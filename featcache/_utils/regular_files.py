"""`open_regular`, `read_regular`, `read_json`: read files that a cache, a model or a table names.

Such a file must not block the process or fill the memory: pipes, devices and too large files are rejected before they
are read.
"""

from __future__ import annotations

import errno
import json
import os
import stat
from io import FileIO
from typing import Any

MAX_IMAGE = 2**31
"""Largest image file in bytes; larger than the largest accepted image with four channels of 16 bits."""

MAX_NOTE = 2**26
"""Largest JSON file of featcache in bytes: model.json, run.json, result.json."""

_KINDS = (
    (stat.S_ISFIFO, "a pipe"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
    (stat.S_ISSOCK, "a socket"),
)
_FLAGS = os.O_RDONLY | getattr(os, "O_BINARY", 0) | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_NONBLOCK", 0)


def open_regular(path: str | os.PathLike[str]) -> FileIO:
    """Open a regular file for reading, unbuffered.

    Parameters
    ----------
    path : path-like
        The file; a symbolic link is followed.

    Returns
    -------
    FileIO
        The open file.

    Raises
    ------
    OSError
        See `open`; also if the file is a pipe, a device or a socket, or if the name is not a valid file name.
    """
    try:
        status = os.stat(path)
    except ValueError as error:  # NUL in the name, or characters that cannot be encoded
        raise OSError(errno.EINVAL, f"no file can have this name: {error}", os.fspath(path)) from error
    _refuse(status, path)  # before it is opened: opening some devices has side effects
    descriptor = os.open(path, _FLAGS)
    try:
        _refuse(os.fstat(descriptor), path)
        return FileIO(descriptor, "rb")
    except BaseException:
        os.close(descriptor)
        raise


def read_regular(path: str | os.PathLike[str], most: int = MAX_IMAGE) -> bytes:
    """Read a regular file of limited size.

    Parameters
    ----------
    path : path-like
        The file.
    most : int, default MAX_IMAGE
        The largest accepted size in bytes.

    Returns
    -------
    bytes

    Raises
    ------
    OSError
        See `open_regular`; also if the file is larger.
    """
    with open_regular(path) as file:
        size = os.fstat(file.fileno()).st_size
        if size > most:
            raise OSError(errno.EFBIG, too_large(size, most), os.fspath(path))
        pieces = []
        while size >= 0 and (piece := file.read(max(size, 1))):
            pieces.append(piece)
            size -= len(piece)
        return b"".join(pieces)


def read_json(path: str | os.PathLike[str]) -> Any:
    """Read a JSON file of at most `MAX_NOTE` bytes.

    Parameters
    ----------
    path : path-like
        The file.

    Returns
    -------
    object
        Composed of dict, list, str, int, float, bool and None.

    Raises
    ------
    ValueError
        The file is not JSON, or is nested too deeply.
    OSError
        See `read_regular`.
    """
    return parse_json(read_regular(path, MAX_NOTE))


def parse_json(text: str | bytes) -> Any:
    """Parse JSON. Raises ValueError if the text is not JSON or is nested too deeply."""
    try:
        return json.loads(text)
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error


def is_number(value: object) -> bool:
    """Whether a JSON value is a float, or an int below 2**63 in absolute value; bool is not a number."""
    return type(value) is float or (type(value) is int and abs(value) < 2**63)


def too_large(size: int, most: int) -> str:
    """The message for a file that is too large."""
    return f"it has {size:,} bytes, more than the {most:,} that are read of such a file"


def _refuse(status: os.stat_result, path: str | os.PathLike[str]) -> None:
    if stat.S_ISDIR(status.st_mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), os.fspath(path))
    if not stat.S_ISREG(status.st_mode):
        kind = next((name for is_one, name in _KINDS if is_one(status.st_mode)), "something else")
        raise OSError(errno.EINVAL, f"not a regular file, but {kind}", os.fspath(path))
