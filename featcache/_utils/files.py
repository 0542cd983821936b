"""Atomic writes: a file gets its name when it is complete, so that a reader never sees half of it.

Every file that somebody may read is written as a draft in the same folder, flushed to the disk and renamed.
"""

from __future__ import annotations

import errno
import glob
import io
import os
import secrets
import shutil
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import IO, Any, BinaryIO, TextIO, cast

from featcache._utils.locks import has_name, try_lock
from featcache.errors import DataLayoutError, FeatcacheError, OutputError

FULL = (errno.ENOSPC, errno.EFBIG, errno.EDQUOT)
"""Error numbers of a full disk, a used-up quota and a limit on file sizes."""

_DRAFT, _DRAFTS = ".draft", ".featcache-drafts"  # suffixes of files, and of folders
_UNFINISHED = ".unfinished"  # suffix of a text that is kept after an error; .partial is of caches
_MAX_NAME = 200  # bytes of a file's name that its draft repeats


@contextmanager
def locked_draft(path: Path) -> Iterator[tuple[BinaryIO, Path]]:
    """A new draft of `path`, locked against `remove_stale_drafts` of other processes.

    Drafts of killed processes are removed first. This draft is removed at the end, unless it was renamed.

    Parameters
    ----------
    path : Path
        The finished file.

    Yields
    ------
    file : BinaryIO
        The draft, opened for writing.
    draft : Path
        Its name.
    """
    remove_stale_drafts(path)
    draft = name_draft(path)
    try:
        with _open_draft(draft) as file:
            yield file, draft
    finally:
        draft.unlink(missing_ok=True)


@contextmanager
def atomic_write(path: str | os.PathLike[str]) -> Iterator[BinaryIO]:
    """Write a draft in the folder of `path`; at the end flush it to the disk and give it that name.

    If the block raises or the process is killed, the previous file is unchanged. The draft of a failed block is
    removed; the draft of a killed process is removed by the next write of the same file. The new file has the
    permissions that the umask gives.

    Parameters
    ----------
    path : str or path-like
        The file to write. An existing file is replaced.

    Yields
    ------
    BinaryIO
        The draft, opened for writing. Libraries written in C++ need `deferred_errors` around it.

    Raises
    ------
    OutputError
        The file cannot be written: no space, no permission, no such folder.

    Examples
    --------
    >>> with atomic_write("figures.json") as file:
    ...     _ = file.write(b"{}")
    """
    path = Path(os.path.realpath(path)) if os.path.islink(path) else Path(path)  # the link stays a link
    try:
        with locked_draft(path) as (file, draft):
            yield file
            _rename(file, draft, path)
    except OSError as error:
        if isinstance(error, FeatcacheError) or not (error.filename is None or _is_draft(error.filename)):
            raise  # an error of another file, which the block reads or writes
        raise OutputError.from_os_error(error, path) from error


def write_file(path: str | os.PathLike[str], content: bytes) -> None:
    """Write bytes to a file, see `atomic_write`.

    Parameters
    ----------
    path : str or path-like
        The file to write. An existing file is replaced.
    content : bytes
        The whole content.

    Raises
    ------
    OutputError
        The file cannot be written.
    """
    with atomic_write(path) as file:
        file.write(content)


def write_files(contents: Mapping[Path, bytes]) -> None:
    """Write several files. They get their names when all are on the disk, so a full disk changes none.

    Parameters
    ----------
    contents : mapping of Path to bytes
        Content of each file. A process that is killed during the renames leaves some old and some new files.

    Raises
    ------
    OutputError
        A file cannot be written.
    """
    with ExitStack() as drafts:
        for path, content in contents.items():
            file = drafts.enter_context(atomic_write(path))
            file.write(content)
            file.flush()
            os.fsync(file.fileno())


@contextmanager
def text_output(path: Path) -> Iterator[TextIO]:
    """Write text, UTF-8, that gets its name when it is complete. After an error it stays in NAME.unfinished.

    Parameters
    ----------
    path : Path
        The file to write. An existing file is replaced.

    Yields
    ------
    TextIO
        The draft, opened for writing.

    Raises
    ------
    OutputError
        Another process writes the file.
    DataLayoutError
        The path is a folder, a pipe or a device.
    """
    if path.exists() and not path.is_file():
        raise DataLayoutError(f"{path} is not a file. Give the name of a file, or no name for standard output.")
    path = Path(os.path.realpath(path)) if path.is_symlink() else path  # the link stays a link
    draft = path.with_name(f"{path.name}{_UNFINISHED}")
    try:
        with draft.open("a", encoding="utf-8", errors="surrogateescape", newline="") as file:
            if try_lock(file) is False or not has_name(file, draft):
                raise OutputError(
                    errno.EBUSY,
                    f"{path} is being written by another process, or was just now. Wait until it ends, or give another "
                    "name.",
                )
            file.truncate(0)
            yield file
            _rename(file, draft, path)
    except OSError as error:
        if error.filename == str(draft):
            raise OSError(error.errno, error.strerror, str(path)) from error
        raise


@contextmanager
def draft_folder(path: Path) -> Iterator[Path]:
    """A folder beside `path`, for libraries that need a file name or write several files. It is removed at the end.

    Folders of killed processes are removed by the next call for a path in the same folder.

    Parameters
    ----------
    path : Path
        Where the finished file will go, see `move`.

    Yields
    ------
    Path
    """
    for stale in path.parent.glob(f".*{_DRAFTS}"):
        with suppress(OSError), _descriptor(stale) as folder:
            if try_lock(folder):
                shutil.rmtree(stale)
    while True:
        drafts = TemporaryDirectory(_DRAFTS, f".{_beginning(path)}.", path.parent, ignore_cleanup_errors=True)
        with drafts as name, ExitStack() as stack:
            try:
                locked = try_lock(stack.enter_context(_descriptor(Path(name)))) is not False
            except FileNotFoundError:
                locked = False
            if not locked or not os.path.exists(name):  # another process removed it as stale before it was locked
                continue
            yield Path(name)
            return


@contextmanager
def _descriptor(folder: Path) -> Iterator[int]:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def check_readable(path: Path) -> None:
    """Raise the error of the system if a file cannot be read; other libraries would call the file damaged.

    Parameters
    ----------
    path : Path
        The file.

    Raises
    ------
    PermissionError
        Only the owner of the file may read it. The message explains how to share it.
    """
    try:
        path.open("rb").close()
    except FileNotFoundError:
        return  # the reader raises it
    except PermissionError as error:
        reason = f"{error.strerror}: only its owner may read it. The owner can share it: chmod a+r '{path}'"
        raise PermissionError(error.errno, reason, str(path)) from error


def move(draft: Path, path: Path) -> None:
    """Flush a finished file to the disk and rename it, within a file system.

    Parameters
    ----------
    draft : Path
        The finished file.
    path : Path
        Its new name. An existing file is replaced.
    """
    with draft.open("rb") as file:
        _rename(file, draft, path)


def _rename(file: IO[Any], draft: Path, path: Path) -> None:
    file.flush()
    os.fsync(file.fileno())
    os.replace(draft, path)
    fsync_folder(path.parent)


@contextmanager
def deferred_errors(file: BinaryIO) -> Iterator[BinaryIO]:
    """Wrap a file for a serializer in C++, such as that of `torch.save`, which aborts the process when a write fails.

    Parameters
    ----------
    file : BinaryIO
        The file that gets the bytes.

    Yields
    ------
    BinaryIO
        A file whose `write` never raises. After the first failure it drops further bytes.

    Raises
    ------
    OSError
        The first failure, raised at the end of the block.
    """
    writer = _DeferredErrors(file)
    yield cast(BinaryIO, writer)
    if writer.error is not None:
        raise writer.error


class _DeferredErrors(io.RawIOBase):
    def __init__(self, file: BinaryIO) -> None:
        super().__init__()
        self._file = file
        self.error: OSError | None = None

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        if self.error is None:
            try:
                self._file.write(data)
            except OSError as error:
                self.error = error
        return memoryview(data).nbytes


def name_draft(path: Path) -> Path:
    """A unique name in the folder of `path` for a draft, known to `remove_stale_drafts`.

    Parameters
    ----------
    path : Path
        The finished file.

    Returns
    -------
    Path
    """
    return path.with_name(f"{_beginning(path)}.{os.getpid()}-{secrets.token_hex(4)}{_DRAFT}")


def _is_draft(name: str | bytes) -> bool:
    return os.fsdecode(name).endswith(_DRAFT)


def _beginning(path: Path) -> str:
    """The name of a file, cut so that a suffix fits into the 255 bytes that file systems allow."""
    return os.fsdecode(os.fsencode(path.name)[:_MAX_NAME])


def remove_stale_drafts(path: Path) -> None:
    """Remove the drafts of `path` whose processes were killed.

    Parameters
    ----------
    path : Path
        The finished file. Drafts that a running process writes are kept.
    """
    for draft in path.parent.glob(f"{glob.escape(_beginning(path))}.*{_DRAFT}"):
        with suppress(OSError), draft.open("rb") as file:
            if try_lock(file):
                draft.unlink()


def _open_draft(path: Path) -> BinaryIO:
    """Create a file and lock it. It is created again if another process removed it as stale in between."""
    while True:
        file = path.open("xb")
        if try_lock(file) is not False and has_name(file, path):
            return file
        file.close()
        path.unlink(missing_ok=True)


def identity(path: Path) -> tuple[int, int] | None:
    """Size and time of the last change of a file, to notice that another file got its name.

    Parameters
    ----------
    path : Path
        The name.

    Returns
    -------
    tuple of int or None
        Bytes and nanoseconds; inode numbers change on some network file systems. None if there is no such file.
    """
    try:
        status = path.stat()
    except FileNotFoundError:
        return None
    return status.st_size, status.st_mtime_ns


def fsync_folder(path: Path) -> None:
    """Flush the names in a folder to the disk.

    Parameters
    ----------
    path : Path
        The folder.
    """
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
