"""`index_tar`: name, place and hash of each file in a tar file. Links are followed to files of the same tar."""

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
"""Bytes at most of a file whose content is kept; a label is far shorter."""
_TO_FOLDERS = "folders: symbolic links to folders of the tar, which are not followed: pack it with --dereference"
_LINK_DEPTH = 40
"""How many links that point to links are followed; the same number as in Linux."""


class TarMember(NamedTuple):
    """A file in a tar file: where its bytes are, and their hash."""

    shard: str
    offset: int
    size: int
    sha256: bytes


@dataclass
class TarIndex:
    """The content of one tar file.

    members : pairs of a name and a member, in the order of the tar, then the links, under their own names.
    contents : the bytes of the files with the requested endings, by their offset in the tar.
    ignored : how many members were passed over, by reason.
    """

    members: list[tuple[str, TarMember]] = field(default_factory=list)
    contents: dict[int, bytes] = field(default_factory=dict)
    ignored: Counter[str] = field(default_factory=Counter)


class _Info(tarfile.TarInfo):
    """A header of limited size: a small file may claim a header of gigabytes."""

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
    shard : str
        Path or URL.
    content_of : tuple of str
        Endings of the names of the files whose bytes are kept.
    stopped : callable
        Called every few megabytes; True ends the reading with InterruptedError.

    Raises
    ------
    EmptyFolderError
        The file does not exist.
    DataLayoutError
        It is not a complete tar file, or a file whose bytes are to be kept is larger than `MAX_CONTENT`.
    RemoteIOError
        A connection is lost.
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
            sha256, keeps_content = hashlib.sha256(), name.endswith(content_of)
            if keeps_content and member.size > MAX_CONTENT:
                raise DataLayoutError(
                    f"{shard}: {name} has {member.size:,} bytes; a file of a label has {MAX_CONTENT:,} at most. Name "
                    "it otherwise if it is none."
                )
            content: list[bytes] = []
            for block in _blocks(tar, member):
                if stopped():
                    raise InterruptedError
                sha256.update(block)
                content += [block] if keeps_content else []
            index.members.append((name, TarMember(shard, member.offset_data, member.size, sha256.digest())))
            if keeps_content:
                index.contents[member.offset_data] = b"".join(content)
    _resolve_links(links, index, folders)
    return index


def _folders_of(folder: str, existing: Container[str]) -> set[str]:
    """A folder and those above it, as far as they are not among the existing ones."""
    folders: set[str] = set()
    folder = posixpath.normpath(folder)
    while folder not in existing and folder not in folders and folder != "/":
        folders.add(folder)
        folder = posixpath.dirname(folder) or "."
    return folders


def _blocks(tar: tarfile.TarFile, member: tarfile.TarInfo) -> Iterator[bytes]:
    stream: Any = tar.extractfile(member)
    while block := stream.read(_CHUNK):
        yield block


def _resolve_links(links: Sequence[tuple[str, str]], index: TarIndex, folders: Container[str]) -> None:
    """Add the links, pairs of a name and a target, whose target is a file of the index; count the others."""
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
            index.ignored[_TO_FOLDERS if target in folders else "links whose target is not a file of the same tar"] += 1
