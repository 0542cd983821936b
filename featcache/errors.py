"""Every error that featcache raises on purpose.

    FeatcacheError
    ├── ImageError
    │   ├── EmptyFolderError        (FileNotFoundError)   no images where images were expected
    │   ├── DataLayoutError         (ValueError)          folders, classes or a manifest that do not fit
    │   └── UnreadableImageError    (OSError)             one image that cannot be decoded
    ├── SpecError                   (ValueError)          invalid settings of an extraction
    ├── CacheError
    │   ├── NotACacheError          (ValueError)          the file is not a cache
    │   ├── CacheVersionError       (ValueError)          written in another format version
    │   ├── CacheIncompleteError    (ValueError)          a .partial file, or a row that was never extracted
    │   ├── CacheDamagedError       (ValueError)          features that differ from those that were written
    │   ├── CacheMismatchError      (ValueError)          made with another spec or from other images
    │   ├── CacheBusyError          (BlockingIOError)     another process writes the cache
    │   └── CacheSpaceError         (OSError)             no space on the disk
    ├── ClusterError                (RuntimeError)        machines that cannot be reached, fail or disagree
    ├── BackboneError               (ValueError)          unknown network, or weights that do not fit or are missing
    ├── HeadError                   (ValueError)          unknown head, bad parameters, or a rejected head file
    ├── RunError                    (ValueError)          a fine-tuning folder that does not fit the command
    ├── PictureError                (ValueError)          a picture that cannot be drawn or written
    ├── ExportError                 (ValueError)          a model that cannot be exported as requested
    ├── OutputError                 (OSError)             a file that cannot be written
    ├── OutputExistsError           (FileExistsError)     an output that exists and must not be replaced
    ├── MissingExtraError           (ImportError)         a package that is installed with an extra of featcache
    ├── DatasetError                (ValueError)          an unknown or wrong data set
    └── RemoteIOError               (OSError)             a file at a URL that could not be read or written

A message states what is wrong and where, the expected and the actual value, and what to do. The command line prints it
and exits with status 1. Each class also derives from the built-in exception in parentheses.

Warnings, each a `FeatcacheWarning` (UserWarning): `MissingFontWarning` (a picture has boxes instead of letters),
`IgnoredFilesWarning` (a folder to predict holds files that are not images), `NoLocksWarning` (a file system has no
locks, so a lock file names the writing process).
"""

from __future__ import annotations

import errno
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

_SCREEN_LINES, _SCREEN_LETTERS = 20, 1600


class FeatcacheError(Exception):
    """Base of all errors raised on purpose. Its text is never longer than a screen, see `shorten`."""

    def __str__(self) -> str:
        return shorten(super().__str__())


class ImageError(FeatcacheError):
    """Base of the errors about images and their folders."""


class EmptyFolderError(ImageError, FileNotFoundError):
    """No images where images were expected."""


class DataLayoutError(ImageError, ValueError):
    """Folders, classes or a manifest that do not fit together."""


class UnreadableImageError(ImageError, OSError):
    """One image that cannot be decoded; `str(error)` is the reason."""


class MissingCodecError(UnreadableImageError):
    """One image whose compression needs a package that is not installed."""


class SpecError(FeatcacheError, ValueError):
    """Invalid settings of an extraction."""


class CacheError(FeatcacheError):
    """Base of the errors about cache files."""


class NotACacheError(CacheError, ValueError):
    """The file is not a feature cache."""


class CacheVersionError(CacheError, ValueError):
    """The cache was written in a format that this version cannot read."""


class CacheDamagedError(CacheError, ValueError):
    """Features differ from those that were written; the message names the images and the repair."""


class CacheIncompleteError(CacheError, ValueError):
    """The cache is unfinished, or lacks the requested rows or views."""


class CacheMismatchError(CacheError, ValueError):
    """The cache was made with another spec or from other images than requested.

    fields : the fields of the spec that differ; empty if something else differs.
    """

    def __init__(self, message: str, fields: tuple[str, ...] = ()) -> None:
        super().__init__(message)
        self.fields = fields


class CacheBusyError(CacheError, BlockingIOError):
    """Another process writes the cache."""


class CacheSpaceError(CacheError, OSError):
    """The disk, a quota or a limit on file sizes leaves no room for the cache."""


class ClusterError(FeatcacheError, RuntimeError):
    """Machines that cannot be reached, that fail, or that disagree."""


class BackboneError(FeatcacheError, ValueError):
    """Unknown network, or weights that do not fit or are not available."""


class HeadError(FeatcacheError, ValueError):
    """Unknown head, bad parameters, or a rejected head file."""


class RunError(FeatcacheError, ValueError):
    """A fine-tuning folder that does not fit the request."""


class PictureError(FeatcacheError, ValueError):
    """A picture that cannot be drawn from the data, or not be written to the requested file."""


class ExportError(FeatcacheError, ValueError):
    """A model that cannot be exported as requested, or whose export gives other results."""


class OutputError(FeatcacheError, OSError):
    """A file that cannot be written: no space, no permission, no such folder."""

    @classmethod
    def from_os_error(cls, error: OSError, path: Path) -> OutputError:
        """The error that names the file, the reason and the remedy."""
        why = {
            errno.ENOENT: f"the folder {path.parent} does not exist. Make it first",
            errno.EFBIG: "it is larger than the limit on file sizes. Raise the limit (`ulimit -f`)",
            errno.EDQUOT: "your quota is used up. Free some space",
            errno.ENOSPC: "the disk is full. Free some space",
        }
        reason = why.get(error.errno or 0, f"{error.strerror or error}. Check {path.parent.resolve()}")
        return cls(
            error.errno, f"{path} cannot be written: {reason}, or choose another place. Nothing was changed there."
        )

    def __str__(self) -> str:
        return self.strerror or super().__str__()


class OutputExistsError(FeatcacheError, FileExistsError):
    """An output that exists, and that the caller did not ask to replace."""


def install_line(extra: str) -> str:
    """The command that installs an extra: featcache is installed from its clone."""
    return f'pip install -e ".[{extra}]" in the clone'


class MissingExtraError(FeatcacheError, ImportError):
    """A package that comes with an extra of featcache is not installed."""

    @classmethod
    def for_package(cls, package: str, extra: str) -> MissingExtraError:
        """The error with the command that installs the package."""
        return cls(f"this needs {package}, which is not installed: {install_line(extra)}")


class DatasetError(FeatcacheError, ValueError):
    """A data set that is unknown, or has other content than expected."""


class RemoteIOError(FeatcacheError, OSError):
    """A file at a URL that could not be read or written, or a URL that is not allowed."""


class FeatcacheWarning(UserWarning):
    """Base of the warnings. The command line prints one line."""


class MissingFontWarning(FeatcacheWarning):
    """No installed font has some letters of a picture."""


class IgnoredFilesWarning(FeatcacheWarning):
    """Files that are not images were skipped in a folder, in a tar file or at a URL to predict."""


class NoLocksWarning(FeatcacheWarning):
    """A file system has no locks, so a lock file names the writing process."""


def shorten(text: str) -> str:
    """A text of at most a screen, 20 lines of 80 letters: the beginning and the end, and how much was left out."""
    lines = text.split("\n")
    if len(lines) > _SCREEN_LINES:
        left_out = len(lines) - _SCREEN_LINES + 1
        text = "\n".join([*lines[:14], f"[{left_out} lines left out]", *lines[14 + left_out :]])
    if len(text) > _SCREEN_LETTERS:
        head, tail = text[: _SCREEN_LETTERS - 440], text[-400:]
        text = f"{head} [{len(text) - len(head) - len(tail)} letters left out] {tail}"
    return text


def first_line(error: Exception) -> str:
    """The first line of an error's text, or its type if it has no text; to quote other libraries' errors in ours."""
    return next(iter(str(error).splitlines()), "") or type(error).__name__


if not TYPE_CHECKING:  # a type checker would accept any name

    def __getattr__(name: str) -> Any:
        """`DownloadError`, the former name of `RemoteIOError`; the next release removes it."""
        if name != "DownloadError":
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        warnings.warn(
            "featcache.errors.DownloadError is deprecated: use featcache.errors.RemoteIOError", DeprecationWarning, 2
        )
        return RemoteIOError
