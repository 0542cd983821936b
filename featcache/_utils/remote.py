"""Files at URLs (`s3://`, `gs://`, `https://`, ...), read and written with retries."""

from __future__ import annotations

import errno
import functools
import hashlib
import html
import logging
import os
import posixpath
import re
import secrets
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote

import fsspec
import tenacity

from featcache._utils.download import ByteStream, complete, open_partial, publish
from featcache._utils.environment import cache_folder
from featcache._utils.files import atomic_write
from featcache._utils.regular_files import read_regular
from featcache.errors import MissingExtraError, RemoteIOError, first_line, install_line

SCHEMES: set[str] = {"file", "http", "https", "s3", "gs"}
"""Schemes of URLs that are opened. Manifests and caches of others contain URLs, and some file systems of fsspec run
code from a URL, so other schemes are refused. A program adds one with `allow_scheme`."""

ALLOWED = "FEATCACHE_SCHEMES"
"""Environment variable with more schemes, separated by commas: abfs,hf."""

TRIES = 5
"""Attempts of one request, with growing pauses of up to ten seconds."""

_NOT_RETRIED = (FileNotFoundError, PermissionError, IsADirectoryError, NotADirectoryError)
_PIECE = 2**25  # bytes
_PREFIX_BYTES = 2**16
_VERSION_FIELDS = ("ETag", "etag", "mtime", "created", "LastModified", "generation", "Content-MD5", "Digest")
_SAFE_CHARACTERS = "/~!$&'()*+,;=:@"
_RETRIED_STATUS = (408, 429)  # HTTP: request timeout, too many requests
_SCHEME = re.compile(r"[a-z][a-z0-9+.-]*")

_log = logging.getLogger(__name__)


def is_url(text: str | os.PathLike[str]) -> bool:
    """Whether this is a URL, not a path."""
    return "://" in os.fspath(text)


def display_name(data: str | os.PathLike[str]) -> str:
    """Name of data in a report: the last part of a path, or a URL without user name, password and query."""
    if not is_url(data):
        return Path(data).resolve().name
    scheme, _, rest = os.fspath(data).partition("://")
    host, slash, path = rest.partition("/")
    return f"{scheme}://{host.rpartition('@')[2]}{slash}{path.partition('?')[0]}"


def allow_scheme(name: str) -> None:
    """Allow URLs of one more scheme, in this process.

    Parameters
    ----------
    name : str
        The part before `://`, in lower case, such as "abfs". fsspec must have a file system of this name.

    Raises
    ------
    ValueError
        The name is not a scheme.

    Examples
    --------
    >>> from featcache import allow_scheme
    >>> allow_scheme("abfs")
    """
    if not _SCHEME.fullmatch(name):
        raise ValueError(f"{name!r} is not a scheme of URLs: give the part before ://, such as 'abfs'")
    SCHEMES.add(name)


def check_url(url: str) -> str:
    """Check that a URL may be opened.

    Parameters
    ----------
    url : str
        The URL.

    Returns
    -------
    str
        The scheme, in lower case.

    Raises
    ------
    RemoteIOError
        The scheme is not allowed, or the URL is a chain of file systems (`::`).
    """
    scheme = url.partition("://")[0].lower()
    if "::" in scheme:
        raise RemoteIOError(f"{url} is a chain of file systems (::), which is not opened. Give the file's own URL.")
    allowed = SCHEMES | {*filter(_SCHEME.fullmatch, os.environ.get(ALLOWED, "").split(","))}
    if scheme not in allowed:
        raise RemoteIOError(
            f"{url} is not opened: its scheme is {scheme!r}, and those that are allowed are "
            f"{', '.join(sorted(allowed))}. If you trust it and whoever names it: {ALLOWED}={scheme}"
        )
    return scheme


def join(root: str, name: str) -> str:
    """The URL of a file below a root. A name that is a URL is returned unchanged.

    Names are plain text; for HTTP they are percent-encoded. A name never leads to another host or bucket.
    """
    if is_url(name):
        return name
    scheme, _, rest = root.partition("://")
    host, _, folder = rest.partition("/")
    if _is_http(root):
        name = quote(name, safe=_SAFE_CHARACTERS, errors="surrogateescape")
    return f"{scheme}://{host}{posixpath.normpath(posixpath.join('/', folder, name))}"


def relative(url: str, root: str) -> str:
    """The reverse of `join`. A URL elsewhere is returned unchanged."""
    name = url.removeprefix(f"{root.rstrip('/')}/")
    if name == url or not _is_http(root):
        return name
    plain = _unquoted(name)
    return url if plain is None else plain


def _is_http(url: str) -> bool:
    return url.lower().startswith(("http://", "https://"))


def _unquoted(link: str) -> str | None:
    """A link without percent-encoding; None for a link with a query, or with an encoded slash."""
    plain = unquote(link, errors="surrogateescape")
    return None if "?" in link or "#" in link or plain.count("/") != link.count("/") else plain


def read(url: str, start: int | None = None, stop: int | None = None) -> bytes:
    """The bytes of a file, or those from start to stop.

    Raises
    ------
    FileNotFoundError, PermissionError
        As for a local file.
    RemoteIOError
        All `TRIES` attempts failed for another reason, or the scheme is not allowed.
    OSError
        A `file://` URL of a pipe or a device.
    """
    system, path = _system(url)
    _refuse_devices(url, system, path)
    if "file" in system.protocol and start is stop is None:
        return read_regular(path)
    content: bytes = _with_retries(url, lambda: system.cat_file(path, start=start, end=stop))
    return content


def names(url: str) -> list[str]:
    """The files below a URL, as relative POSIX paths. Raises as `read` does."""
    system, path = _system(url)
    paths = _with_retries(url, lambda: system.find(path))
    top = f"{path.rstrip('/')}/"
    if not _is_http(url):
        return [name.removeprefix(top) for name in paths if name.startswith(top)]
    top = unquote(top, errors="surrogateescape")
    links = (_unquoted(html.unescape(link)) for link in paths)
    return [name.removeprefix(top) for name in links if name and name.startswith(top)]


def matches(pattern: str) -> list[str]:
    """The URLs of the files that a pattern with `*`, `?` or `[...]` names, sorted. Raises as `read` does."""
    system, path = _system(pattern)
    return sorted(system.unstrip_protocol(name) for name in _with_retries(pattern, lambda: system.glob(path)))


def open_url(url: str) -> Any:
    """A file to read from its beginning to its end, as a context manager. Raises as `read` does."""
    system, path = _system(url)
    _refuse_devices(url, system, path)
    return _with_retries(url, lambda: system.open(path, "rb", cache_type="readahead", block_size=2**23))


def stat(url: str) -> tuple[int, str]:
    """The size of a file in bytes, and a text that changes with its content. Raises as `read` does.

    Some web servers send neither a version nor a time. Then the first 64 KiB are hashed: they contain the hash in the
    header of a cache, which covers its samples and its spec.
    """
    system, path = _system(url)
    info = _with_retries(url, lambda: system.info(path))
    size, version = int(info["size"]), [str(info[name]) for name in _VERSION_FIELDS if info.get(name) is not None]
    if not version:
        version = [hashlib.sha256(read(url, 0, min(_PREFIX_BYTES, size))).hexdigest()]
    return size, " ".join([url, str(size), *version])


def is_folder(url: str) -> bool:
    """Whether there is a folder at a URL. Raises as `read` does."""
    system, path = _system(url)
    return bool(_with_retries(url, lambda: system.isdir(path)))


def byte_stream(url: str, size: int, start: int) -> ByteStream:
    """The bytes of a file of `size` bytes, from `start` on. Raises as `read` does."""
    pieces = (read(url, first, min(first + _PIECE, size)) for first in range(start, size, _PIECE))
    return ByteStream(start, size, pieces)


def cached_copy(url: str, refresh: bool = False) -> Path:
    """A local copy of a file, in the user's cache folder. It is downloaded once for each version of the file.

    Parameters
    ----------
    url : str
        The file.
    refresh : bool, default False
        Download it again, even if there is a copy.

    Returns
    -------
    Path
        The copy.

    Raises
    ------
    FileNotFoundError, PermissionError, RemoteIOError
        As `read`.
    """
    size, version = stat(url)
    name = f"{hashlib.sha256(version.encode()).hexdigest()[:16]}-{posixpath.basename(url)}"
    path = cache_folder() / "remote" / name
    if path.exists() and not refresh:
        return path
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{name}")
    with open_partial(partial) as file:
        if refresh or not path.exists():  # else another process has downloaded it meanwhile
            complete(file, functools.partial(byte_stream, url, size))
            publish(partial, path)
    return path


def upload(path: Path, url: str) -> None:
    """Copy a local file to a URL; it gets its name when it is complete. Raises as `read` does."""
    system, target_path = _system(url)
    if "file" in system.protocol:
        Path(target_path).parent.mkdir(parents=True, exist_ok=True)
        with path.open("rb") as source, atomic_write(target_path) as target:
            shutil.copyfileobj(source, target, _PIECE)
        return
    is_atomic = "s3" in str(system.protocol) or "gs" in str(system.protocol)
    draft = target_path if is_atomic else f"{target_path}.{secrets.token_hex(4)}.draft"
    if draft != target_path:
        _with_retries(url, lambda: system.makedirs(posixpath.dirname(target_path), exist_ok=True), "written")
    _with_retries(url, lambda: system.put_file(os.fspath(path), draft), "written")
    if draft != target_path:
        _with_retries(url, lambda: system.mv(draft, target_path), "written")


@functools.cache
def _file_system(start: str) -> Any:
    """The file system of a scheme and a host. fsspec's own parser of URLs would follow chains (`::`)."""
    kind = fsspec.get_filesystem_class(start.partition("://")[0])
    return kind(**kind._get_kwargs_from_urls(start))


def _system(url: str) -> tuple[Any, str]:
    """The file system of a URL and the path in it; a plain path is a local file."""
    if not is_url(url):
        return _file_system("file:///"), os.path.abspath(url)
    scheme, rest = check_url(url), url.partition("://")[2]
    host = rest.partition("/")[0]
    try:
        system = _file_system(f"{scheme}://{host}/")
    except ImportError as error:
        raise MissingExtraError(f"{url}: {first_line(error)}. For it: {install_line('remote')}") from error
    except ValueError as error:
        raise RemoteIOError(f"{url}: {first_line(error)}.") from error
    return system, system._strip_protocol(f"{scheme}://{rest}")


def _refuse_devices(url: str, system: Any, path: str) -> None:
    """Raise OSError for a pipe or a device of this machine."""
    if "file" in system.protocol and os.path.exists(path) and not os.path.isfile(path):
        raise OSError(errno.EINVAL, "not a regular file", url)


def _with_retries(url: str, call: Callable[[], Any], action: str = "read") -> Any:
    """The result of a call, repeated after transient errors. action : what it does to the file, for the message."""
    retrying = tenacity.Retrying(
        stop=tenacity.stop_after_attempt(TRIES),
        wait=tenacity.wait_random_exponential(multiplier=0.1, max=10),
        retry=tenacity.retry_if_exception(_is_transient),
        before_sleep=tenacity.before_sleep_log(_log, logging.INFO),
        reraise=True,
    )
    try:
        return retrying(call)
    except _NOT_RETRIED:
        raise
    except Exception as error:  # file systems raise errors of any type
        hint = "" if action == "written" else ": it resumes"
        raise RemoteIOError(
            f"{url} cannot be {action}: {first_line(error)}. Check the address and your access to it, then run the "
            f"same command again{hint}."
        ) from error


def _is_transient(error: BaseException) -> bool:
    """Whether another attempt may succeed."""
    status = getattr(error, "status", None)
    if isinstance(status, int):
        return status >= 500 or status in _RETRIED_STATUS
    return isinstance(error, OSError | EOFError) and not isinstance(error, _NOT_RETRIED)
