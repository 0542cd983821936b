"""`index_tar`: name, place and hash of each file in a tar file; links are followed to files of the same tar."""

from __future__ import annotations

import hashlib
import posixpath
import tarfile
from collections import Counter
from collections.abc import Callable, Container, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from featcache._utils import remote
from featcache._utils.regular_files import open_regular
from featcache.errors import DataLayoutError, EmptyFolderError, first_line

_CHUNK = 1 << 20
_MAX_HEADER = 1 << 20  # bytes of a long name or of pax fields: tarfile reads them at once
_HEADERS = (
    tarfile.XHDTYPE,
    tarfile.XGLTYPE,
    tarfile.SOLARIS_XHDTYPE,
    tarfile.GNUTYPE_LONGNAME,
    tarfile.GNUTYPE_LONGLINK,
)
MAX_CONTENT = 1 << 24
"""Bytes at most of a file whose content is kept: a label is far shorter."""
_TO_FOLDERS = "folders: symbolic links to folders of the tar, which are not followed: pack it with --dereference"
_LINK_DEPTH = 40
"""Links that lead to links are followed this far, as Linux does."""


class TarMember(NamedTuple):
    """Where the bytes of a file lie in its tar."""

    shard: str
    offset: int
    size: int
    sha256: bytes


@dataclass
class TarIndex:
    """What one tar file holds.

    members : pairs of a name and its place, in the order of the tar; links stand under their own names.
    contents : the bytes of the files that were asked for, by their place (offset) in the tar.
    ignored : how many members were passed over, by reason.
    """

    members: list[tuple[str, TarMember]] = field(default_factory=list)
    contents: dict[int, bytes] = field(default_factory=dict)
    ignored: Counter[str] = field(default_factory=Counter)


class _Info(tarfile.TarInfo):
    """A header of a bounded size: a file of a few kilobytes on the disk may claim gigabytes."""

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> _Info:
        """See `TarInfo`."""
        info = super().frombuf(buf, encoding, errors)
        if info.type in _HEADERS and info.size > _MAX_HEADER:
            raise tarfile.ReadError(f"a header of {info.size:,} bytes")
        return info


def index_tar(shard: str, content_of: tuple[str, ...] = (), stopped: Callable[[], bool] = lambda: False) -> TarIndex:
    """Read a tar file once, from its beginning to its end.

    Parameters
    ----------
    shard : path or URL.
    content_of : endings of the names whose bytes are kept.
    stopped : whether nobody waits for the answer any more; asked every few megabytes. Then it is InterruptedError.

    Raises
    ------
    EmptyFolderError : there is no such file. DataLayoutError : it is no whole tar file, or a file whose bytes are to
    be kept is larger than `MAX_CONTENT`. RemoteIOError : a connection is lost.
    """
    try:
        with (
            remote.open_url(shard) if remote.is_url(shard) else open_regular(shard) as file,
            tarfile.open(fileobj=file, mode="r|", tarinfo=_Info) as tar,
        ):
            return _index(shard, tar, content_of, stopped)
    except FileNotFoundError as error:
        raise EmptyFolderError(f"{shard} does not exist.") from error
    except tarfile.TarError as error:
        raise DataLayoutError(f"{shard} is not a whole tar file: {first_line(error)}.") from error


def _index(shard: str, tar: tarfile.TarFile, content_of: tuple[str, ...], stopped: Callable[[], bool]) -> TarIndex:
    index, links = TarIndex(), []
    folders: set[str] = {"."}
    for member in tar:
        name = member.name.removeprefix("./")
        folders |= _folders_of(name if member.isdir() else posixpath.dirname(name), folders)
        if member.isdir():
            continue
        if posixpath.basename(name).startswith("."):
            index.ignored["hidden"] += 1
        elif member.islnk() or member.issym():
            folder = posixpath.dirname(name) if member.issym() else ""
            links.append((name, posixpath.normpath(posixpath.join(folder, member.linkname))))
        elif not member.isreg():
            index.ignored["not a regular file"] += 1
        elif member.sparse is not None:
            index.ignored["sparse files, which lie in pieces; pack them without --sparse"] += 1
        else:
            sha256, kept = hashlib.sha256(), name.endswith(content_of)
            if kept and member.size > MAX_CONTENT:
                raise DataLayoutError(
                    f"{shard}: {name} has {member.size:,} bytes; a file of a label has {MAX_CONTENT:,} at most. Name "
                    "it otherwise if it is none."
                )
            content: list[bytes] = []
            for block in _blocks(tar, member):
                if stopped():
                    raise InterruptedError
                sha256.update(block)
                content += [block] if kept else []
            index.members.append((name, TarMember(shard, member.offset_data, member.size, sha256.digest())))
            if kept:
                index.contents[member.offset_data] = b"".join(content)
    _follow(links, index, folders)
    return index


def _folders_of(place: str, known: Container[str]) -> set[str]:
    """A folder and those above it that are not known yet."""
    found: set[str] = set()
    place = posixpath.normpath(place)
    while place not in known and place not in found and place != "/":
        found.add(place)
        place = posixpath.dirname(place) or "."
    return found


def _blocks(tar: tarfile.TarFile, member: tarfile.TarInfo) -> Iterator[bytes]:
    stream: Any = tar.extractfile(member)
    while block := stream.read(_CHUNK):
        yield block


def _follow(links: Sequence[tuple[str, str]], index: TarIndex, folders: Container[str]) -> None:
    """Add the links, pairs of a name and a target, that lead to files of the index; the others are counted."""
    members = {posixpath.normpath(name): member for name, member in index.members}
    for _ in range(_LINK_DEPTH):
        unresolved = []
        for name, target in links:
            if target not in members:
                unresolved.append((name, target))
                continue
            index.members.append((name, members[target]))
            members[posixpath.normpath(name)] = members[target]
        if not unresolved or len(unresolved) == len(links):
            break
        links = unresolved
    for _, target in links:
        if target not in members:
            index.ignored[_TO_FOLDERS if target in folders else "links whose target is no file of the same tar"] += 1
