"""`atomic_write`: write a file whole or not at all. Every file that somebody may read is written through it."""

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
from typing import IO, Any, BinaryIO, cast

from featcache.errors import FeatcacheError, OutputError

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

FULL = (errno.ENOSPC, errno.EFBIG, errno.EDQUOT)
"""What the system answers where a disk, a quota or a limit on file sizes is reached."""

_DRAFT, _DRAFTS = ".draft", ".featcache-drafts"  # of files, and of folders
_LONGEST = 200  # bytes of a name that its draft has, too
_NO_LOCKS = (errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOTSUP, errno.ENOSYS)


@contextmanager
def atomic_write(path: str | os.PathLike[str]) -> Iterator[BinaryIO]:
    """Write to a draft in the folder of `path`; at the end flush it to the disk and give it that name.

    Where the block raises, or the process is killed, the file that was there before is still there and whole. The
    draft of a failed block is removed; that of a killed process is removed by the next write of the same file. The
    new file has the permissions that the umask gives.

    Parameters
    ----------
    path : str or path-like
        The file to write. It is replaced where it exists.

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
    >>> with atomic_write("figures.json") as file:  # doctest: +SKIP
    ...     file.write(b"{}")
    """
    path = Path(os.path.realpath(path)) if os.path.islink(path) else Path(path)  # the link stays a link
    draft = name_draft(path)
    try:
        remove_stale_drafts(path)
        try:
            with _open_draft(draft) as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
                os.replace(draft, path)
        except BaseException:
            draft.unlink(missing_ok=True)
            raise
        fsync_folder(path.parent)
    except OSError as error:
        if isinstance(error, FeatcacheError) or error.filename not in (None, str(draft)):
            raise  # of another file, which the block reads or writes
        raise OutputError.of(error, path) from error


def write_file(path: str | os.PathLike[str], content: bytes) -> None:
    """Write these bytes to a file, whole or not at all; see `atomic_write`.

    Parameters
    ----------
    path : str or path-like
        The file to write. It is replaced where it exists.
    content : bytes
        All of it.

    Raises
    ------
    OutputError
        The file cannot be written.
    """
    with atomic_write(path) as file:
        file.write(content)


def write_files(contents: Mapping[Path, bytes]) -> None:
    """Write several files, none of which gets its name before all are on the disk: a full disk changes none.

    Parameters
    ----------
    contents : mapping of Path to bytes
        All of each file. A process that is killed while they get their names leaves some old and some new ones.

    Raises
    ------
    OutputError
        One cannot be written.
    """
    with ExitStack() as drafts:
        for path, content in contents.items():
            file = drafts.enter_context(atomic_write(path))
            file.write(content)
            file.flush()
            os.fsync(file.fileno())


@contextmanager
def draft_folder(path: Path) -> Iterator[Path]:
    """A folder beside `path` for libraries that want the name of a file, or write several; it is removed at the end.

    Those of killed processes are removed by the next call for a path in the same folder.

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
            if fcntl is not None:
                try:
                    held = try_lock(stack.enter_context(_descriptor(Path(name)))) is not False
                except FileNotFoundError:
                    held = False
                if not held or not os.path.exists(name):  # another process took it for stale before it was locked
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
    """Raise the system's own error where a file cannot be read: other libraries call it damaged then.

    Parameters
    ----------
    path : Path
        The file.

    Raises
    ------
    PermissionError
        It belongs to somebody else. The message says how it is given to others.
    """
    try:
        path.open("rb").close()
    except FileNotFoundError:
        return  # whoever reads it says so
    except PermissionError as error:
        reason = f"{error.strerror}: it may be read by its owner alone. Its owner can share it: chmod a+r '{path}'"
        raise PermissionError(error.errno, reason, str(path)) from error


def move(draft: Path, path: Path) -> None:
    """Flush a finished file to the disk and rename it, within a file system.

    Parameters
    ----------
    draft : Path
        The finished file.
    path : Path
        Its name from now on. It is replaced where it exists.
    """
    with draft.open("rb") as file:
        os.fsync(file.fileno())
    os.replace(draft, path)
    fsync_folder(path.parent)


@contextmanager
def deferred_errors(file: BinaryIO) -> Iterator[BinaryIO]:
    """Wrap a file for a serializer in C++, such as that of `torch.save`, which aborts where a write fails.

    Parameters
    ----------
    file : BinaryIO
        Where the bytes go.

    Yields
    ------
    BinaryIO
        A file whose `write` never raises. After the first failure it drops what comes.

    Raises
    ------
    OSError
        The first failure, when the block has ended.
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
    """A new name beside `path` for its draft, which `remove_stale_drafts` finds.

    Parameters
    ----------
    path : Path
        The finished file.

    Returns
    -------
    Path
    """
    return path.with_name(f"{_beginning(path)}.{os.getpid()}-{secrets.token_hex(4)}{_DRAFT}")


def _beginning(path: Path) -> str:
    """A file's name, cut so that a suffix fits into the 255 bytes that file systems give a name."""
    return os.fsdecode(os.fsencode(path.name)[:_LONGEST])


def remove_stale_drafts(path: Path) -> None:
    """Remove the drafts of `path` whose processes were killed.

    Parameters
    ----------
    path : Path
        The file whose drafts are meant. Drafts that a living process writes are left alone.
    """
    for draft in path.parent.glob(f"{glob.escape(_beginning(path))}.*{_DRAFT}"):
        with suppress(OSError), draft.open("rb") as file:
            if try_lock(file):
                draft.unlink()


def _open_draft(path: Path) -> BinaryIO:
    """Make a file and lock it: while the lock is held, `remove_stale_drafts` of other processes leaves it alone.

    One that was taken for stale, between the two, is made again.
    """
    while True:
        file = path.open("xb")
        if try_lock(file) is not False and has_name(file, path):
            return file
        file.close()
        path.unlink(missing_ok=True)


def has_name(file: IO[Any], path: Path) -> bool:
    """Whether an open file still has this name.

    Parameters
    ----------
    file : file object
        The open file.
    path : Path
        The name that it had when it was opened.

    Returns
    -------
    bool
        False where another process has removed, renamed or replaced it.
    """
    try:
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    except FileNotFoundError:
        return False


def identity(path: Path) -> tuple[int, int] | None:
    """Which file has a name.

    Parameters
    ----------
    path : Path
        The name.

    Returns
    -------
    tuple of int or None
        Size and time of the last change, as inodes change on some network file systems. None where none has it.
    """
    try:
        found = path.stat()
    except FileNotFoundError:
        return None
    return found.st_size, found.st_mtime_ns


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


@contextmanager
def lock_file(file: BinaryIO) -> Iterator[None]:
    """Hold an open file's lock, after waiting for it; without any where the system cannot lock it.

    Parameters
    ----------
    file : BinaryIO
        The open file. Its lock also ends when it is closed.
    """
    if fcntl is not None:
        with suppress(OSError):
            fcntl.flock(file, fcntl.LOCK_EX)
    try:
        yield
    finally:
        if fcntl is not None:
            with suppress(OSError):
                fcntl.flock(file, fcntl.LOCK_UN)


@contextmanager
def lock_folder(folder: Path, shared: bool = False) -> Iterator[None]:
    """Hold a folder's lock, after waiting for it; without any where the system cannot lock it.

    Parameters
    ----------
    folder : Path
        The folder.
    shared : bool, default False
        Let other shared locks stand beside this one.
    """
    with ExitStack() as stack:
        if fcntl is not None:
            with suppress(OSError):  # there is no such folder, or its file system has no locks
                descriptor = os.open(folder, os.O_RDONLY)
                stack.callback(os.close, descriptor)
                fcntl.flock(descriptor, fcntl.LOCK_SH if shared else fcntl.LOCK_EX)
        yield


def try_lock(file: IO[Any] | int, shared: bool = False) -> bool | None:
    """Lock an open file without waiting; the lock ends with the open file.

    Parameters
    ----------
    file : file object or int
        The open file, or the descriptor of a file or a folder.
    shared : bool, default False
        Let other shared locks stand beside this one.

    Returns
    -------
    bool or None
        Whether it is locked now. None where the system, or this file system, has no such locks.
    """
    if fcntl is None:
        return None
    try:
        fcntl.flock(file, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise
        return None
    return True
