"""`open_regular`, `read_regular`, `read_json`: files that a cache, a model or a table names, which must not make us
wait or fill the memory: a pipe, a device and a file of gigabytes are refused before anything of them is read."""

from __future__ import annotations

import errno
import json
import os
import stat
from io import FileIO
from typing import Any

MAX_IMAGE = 2**31
"""Bytes of an image file at most: the pixels that are decoded at most, with 16 bits in four channels, are fewer."""

MAX_NOTE = 2**26
"""Bytes at most of a small file of ours: model.json, run.json, result.json."""

_KINDS = (
    (stat.S_ISFIFO, "a pipe"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
    (stat.S_ISSOCK, "a socket"),
)
_FLAGS = os.O_RDONLY | getattr(os, "O_BINARY", 0) | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_NONBLOCK", 0)


def open_regular(path: str | os.PathLike[str]) -> FileIO:
    """Open a regular file to be read, without a buffer.

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
        As of `open`; or it is a pipe, a device or a socket; or no file can have this name.
    """
    try:
        status = os.stat(path)
    except ValueError as error:  # NUL in it, or what is no text
        raise OSError(errno.EINVAL, f"no file can have this name: {error}", os.fspath(path)) from error
    _refuse(status, path)  # before it is opened: some devices act when they are
    descriptor = os.open(path, _FLAGS)
    try:
        _refuse(os.fstat(descriptor), path)
        return FileIO(descriptor, "rb")
    except BaseException:
        os.close(descriptor)
        raise


def read_regular(path: str | os.PathLike[str], most: int = MAX_IMAGE) -> bytes:
    """The bytes of a regular file of a bounded size.

    Parameters
    ----------
    path : path-like
        The file.
    most : int, default MAX_IMAGE
        The most bytes that it may have.

    Returns
    -------
    bytes

    Raises
    ------
    OSError
        As of `open_regular`; or the file is larger.
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
    """The value in a small file of JSON, see `MAX_NOTE`.

    Parameters
    ----------
    path : path-like
        The file.

    Returns
    -------
    object
        Of dict, list, str, int, float, bool and None.

    Raises
    ------
    ValueError
        It is no JSON, or JSON that nobody writes: nested more deeply than Python goes.
    OSError
        As of `read_regular`.
    """
    return parse_json(read_regular(path, MAX_NOTE))


def parse_json(text: str | bytes) -> Any:
    """The value of a text in JSON. Raises ValueError where it is none, or is nested more deeply than Python goes."""
    try:
        return json.loads(text)
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error


def is_number(value: object) -> bool:
    """Whether a value of JSON is a number with which can be reckoned; true and false are none."""
    return type(value) is float or (type(value) is int and abs(value) < 2**63)


def too_large(size: int, most: int) -> str:
    """Why a file is not read."""
    return f"it has {size:,} bytes, more than the {most:,} that are read of such a file"


def _refuse(status: os.stat_result, path: str | os.PathLike[str]) -> None:
    if stat.S_ISDIR(status.st_mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), os.fspath(path))
    if not stat.S_ISREG(status.st_mode):
        kind = next((name for is_one, name in _KINDS if is_one(status.st_mode)), "something else")
        raise OSError(errno.EINVAL, f"not a regular file, but {kind}", os.fspath(path))
