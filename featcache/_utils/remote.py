"""Files by URL, of the schemes that `SCHEMES` allows (`s3://`, `gs://`, `https://`, ...), read with retries."""

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
"""What comes before `://` in a URL that is read or written. Manifests and caches of others have URLs in them, and some
of fsspec's file systems run what a URL says, so that no other is opened. A program adds one with `allow_scheme`."""

ALLOWED = "FEATCACHE_SCHEMES"
"""The environment variable in which a user allows more, separated by commas: abfs,hf."""

TRIES = 5
"""Of one request; the pauses between them grow to some seconds."""

_FINAL = (FileNotFoundError, PermissionError, IsADirectoryError, NotADirectoryError)
_PIECE = 2**25  # bytes
_BEGINNING = 2**16  # bytes
_MARKS = ("ETag", "etag", "mtime", "created", "LastModified", "generation", "Content-MD5", "Digest")
_PLAIN_IN_URLS = "/~!$&'()*+,;=:@"
_BUSY = (408, 429)  # HTTP's "timeout" and "too many requests"
_SCHEME = re.compile(r"[a-z][a-z0-9+.-]*")

_log = logging.getLogger(__name__)


def is_url(text: str | os.PathLike[str]) -> bool:
    """Whether this names a place by URL."""
    return "://" in os.fspath(text)


def display_name(data: str | os.PathLike[str]) -> str:
    """What a report, which travels, calls data: a path by its last name, a URL without what only its owner may know."""
    if not is_url(data):
        return Path(data).resolve().name
    scheme, _, rest = os.fspath(data).partition("://")
    host, slash, place = rest.partition("/")
    return f"{scheme}://{host.rpartition('@')[2]}{slash}{place.partition('?')[0]}"


def allow_scheme(name: str) -> None:
    """Let URLs of one more scheme be opened, in this process.

    Parameters
    ----------
    name : str
        What comes before `://`, in lower case, such as "abfs". fsspec must have a file system of this name.

    Raises
    ------
    ValueError
        The name is no scheme.
    """
    if not _SCHEME.fullmatch(name):
        raise ValueError(f"{name!r} is no scheme of URLs: give what comes before ://, such as 'abfs'")
    SCHEMES.add(name)


def check_url(url: str) -> str:
    """The scheme of a URL that may be opened.

    Parameters
    ----------
    url : str
        The URL.

    Returns
    -------
    str
        In lower case.

    Raises
    ------
    RemoteIOError
        Its scheme is none of `SCHEMES`; or it is a chain of file systems, with `::`.
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
    """The URL of a file that is named from a root; one that is a URL already stays as it is.

    Names are plain text; in URLs of HTTP they are percent-encoded. A name never leads to another host or bucket.
    """
    if is_url(name):
        return name
    scheme, _, place = root.partition("://")
    host, _, folder = place.partition("/")
    if _is_http(root):
        name = quote(name, safe=_PLAIN_IN_URLS, errors="surrogateescape")
    return f"{scheme}://{host}{posixpath.normpath(posixpath.join('/', folder, name))}"


def relative(url: str, root: str) -> str:
    """The reverse of `join`: what lies elsewhere keeps its whole URL."""
    name = url.removeprefix(f"{root.rstrip('/')}/")
    if name == url or not _is_http(root):
        return name
    plain = _unquoted(name)
    return url if plain is None else plain


def _is_http(url: str) -> bool:
    return url.lower().startswith(("http://", "https://"))


def _unquoted(link: str) -> str | None:
    """A link without percent-encoding; None for one that names no file: with a query, or with a slash in a name."""
    plain = unquote(link, errors="surrogateescape")
    return None if "?" in link or "#" in link or plain.count("/") != link.count("/") else plain


def read(url: str, start: int | None = None, stop: int | None = None) -> bytes:
    """The bytes of a file, or those from start to stop.

    Raises
    ------
    FileNotFoundError, PermissionError : as on a disk. RemoteIOError : what else went wrong, when `TRIES` have failed;
    or the scheme is not allowed. OSError : a `file://` that is no regular file.
    """
    system, path = _system(url)
    _refuse_devices(url, system, path)
    if "file" in system.protocol and start is stop is None:
        return read_regular(path)
    content: bytes = _patiently(url, lambda: system.cat_file(path, start=start, end=stop))
    return content


def names(url: str) -> list[str]:
    """The files below a URL, as relative POSIX paths. Raises as `read` does."""
    system, path = _system(url)
    found = _patiently(url, lambda: system.find(path))
    top = f"{path.rstrip('/')}/"
    if not _is_http(url):
        return [name.removeprefix(top) for name in found if name.startswith(top)]
    top = unquote(top, errors="surrogateescape")
    links = (_unquoted(html.unescape(link)) for link in found)
    return [name.removeprefix(top) for name in links if name and name.startswith(top)]


def matches(pattern: str) -> list[str]:
    """The URLs of the files that a pattern with `*`, `?` or `[...]` names, sorted. Raises as `read` does."""
    system, path = _system(pattern)
    return sorted(system.unstrip_protocol(name) for name in _patiently(pattern, lambda: system.glob(path)))


def open_url(url: str) -> Any:
    """A file to read from its beginning to its end, as a context manager. Raises as `read` does."""
    system, path = _system(url)
    _refuse_devices(url, system, path)
    return _patiently(url, lambda: system.open(path, "rb", cache_type="readahead", block_size=2**23))


def stat(url: str) -> tuple[int, str]:
    """The bytes of a file, and what changes when its content does. Raises as `read` does.

    Some web servers tell neither a version nor a time. Then the first 64 KiB count: in them a cache has the seal of its
    header, which covers its samples and its spec.
    """
    system, path = _system(url)
    found = _patiently(url, lambda: system.info(path))
    size, marks = int(found["size"]), [str(found[name]) for name in _MARKS if found.get(name) is not None]
    if not marks:
        marks = [hashlib.sha256(read(url, 0, min(_BEGINNING, size))).hexdigest()]
    return size, " ".join([url, str(size), *marks])


def is_folder(url: str) -> bool:
    """Whether there is a folder at a URL. Raises as `read` does."""
    system, path = _system(url)
    return bool(_patiently(url, lambda: system.isdir(path)))


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
    """Copy a file of the disk, which stands under its name when it is whole, or not at all. Raises as `read` does."""
    system, place = _system(url)
    if "file" in system.protocol:
        Path(place).parent.mkdir(parents=True, exist_ok=True)
        with path.open("rb") as source, atomic_write(place) as target:
            shutil.copyfileobj(source, target, _PIECE)
        return
    whole = "s3" in str(system.protocol) or "gs" in str(system.protocol)
    draft = place if whole else f"{place}.{secrets.token_hex(4)}.draft"
    if draft != place:
        _patiently(url, lambda: system.makedirs(posixpath.dirname(place), exist_ok=True), "written")
    _patiently(url, lambda: system.put_file(os.fspath(path), draft), "written")
    if draft != place:
        _patiently(url, lambda: system.mv(draft, place), "written")


@functools.cache
def _file_system(start: str) -> Any:
    """The file system of URLs that begin so. fsspec's own look at a URL would follow chains (`::`)."""
    kind = fsspec.get_filesystem_class(start.partition("://")[0])
    return kind(**kind._get_kwargs_from_urls(start))


def _system(url: str) -> tuple[Any, str]:
    """The file system of a URL and the file's path in it; a plain path is one of this machine."""
    if not is_url(url):
        return _file_system("file:///"), os.path.abspath(url)
    scheme, place = check_url(url), url.partition("://")[2]
    host = place.partition("/")[0]
    try:
        system = _file_system(f"{scheme}://{host}/")
    except ImportError as error:
        raise MissingExtraError(f"{url}: {first_line(error)}. For it: {install_line('remote')}") from error
    except ValueError as error:
        raise RemoteIOError(f"{url}: {first_line(error)}.") from error
    return system, system._strip_protocol(f"{scheme}://{place}")


def _refuse_devices(url: str, system: Any, path: str) -> None:
    """Raise OSError for a pipe or a device of this machine."""
    if "file" in system.protocol and os.path.exists(path) and not os.path.isfile(path):
        raise OSError(errno.EINVAL, "not a regular file", url)


def _patiently(url: str, call: Callable[[], Any], doing: str = "read") -> Any:
    """What a call gives, tried again where trying again can help. doing : what it does to the file."""
    retrying = tenacity.Retrying(
        stop=tenacity.stop_after_attempt(TRIES),
        wait=tenacity.wait_random_exponential(multiplier=0.1, max=10),
        retry=tenacity.retry_if_exception(_may_pass),
        before_sleep=tenacity.before_sleep_log(_log, logging.INFO),
        reraise=True,
    )
    try:
        return retrying(call)
    except _FINAL:
        raise
    except Exception as error:  # each file system raises what it likes
        again = "" if doing == "written" else ": it goes on where it stopped"
        raise RemoteIOError(
            f"{url} cannot be {doing}: {first_line(error)}. Check the address and your access to it, then run the same "
            f"command again{again}."
        ) from error


def _may_pass(error: BaseException) -> bool:
    """Whether trying again can help."""
    status = getattr(error, "status", None)
    if isinstance(status, int):
        return status >= 500 or status in _BUSY
    return isinstance(error, OSError | EOFError) and not isinstance(error, _FINAL)
