"""The images to predict that files, folders, tables, tar files, data sets and URLs name."""

from __future__ import annotations

import os
import posixpath
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, TypeAlias
from urllib.parse import urlsplit

from featcache._utils import remote
from featcache.data.file_listing import find_images, walk
from featcache.data.file_types import describe_ignored, why_no_image
from featcache.data.image_names import is_image_name
from featcache.data.input_notes import input_notes
from featcache.data.sources.base import Source
from featcache.data.sources.registry import is_collection, open_source
from featcache.errors import DataLayoutError, EmptyFolderError, IgnoredFilesWarning
from featcache.vision.memory_images import Picture, is_picture


@dataclass(frozen=True)
class ImageFile:
    """An image file whose bytes are read when they are needed.

    Attributes
    ----------
    name : str
        The path in its prediction; may be empty.
    read : Callable[[], bytes]
        Raises OSError.
    """

    name: str
    read: Callable[[], bytes] = field(repr=False)


Image: TypeAlias = str | os.PathLike[str] | Picture | ImageFile
"""One image: a path, an image in memory, or a file to be read."""


def each_image(images: Any) -> Iterator[Image]:
    """The images of one input, or of several inputs of one image each, in order.

    Parameters
    ----------
    images : one or several images
        One of: a folder, a table (CSV, Parquet), tar files, a saved data set, a URL of any of these; or one or several
        of: paths, URLs, bytes of an image file, open binary files, Pillow images, arrays. See `Classifier.stream`.

    Raises
    ------
    DataLayoutError
        An object of another type.
    EmptyFolderError
        A folder or a table without images.

    Warns
    -----
    IgnoredFilesWarning
        Some files are not images. It counts them by reason.
    """
    if isinstance(images, (str, os.PathLike)):
        ignored = Counter[str]()
        named = _images_of_name(images, ignored)
        if ignored:
            text = f"{os.fspath(images)}: {'; '.join(input_notes(ignored, [], []))}"
            warnings.warn(text, IgnoredFilesWarning, stacklevel=2)
        yield from named
    elif isinstance(images, (bytes, bytearray, memoryview, ImageFile)) or is_picture(images) or _is_file(images):
        yield _single_image(images)
    elif isinstance(images, Iterable):
        yield from map(_single_image, images)
    else:
        raise DataLayoutError(
            f"images is of type {type(images).__name__}; give paths, URLs, bytes, open files, Pillow images or arrays."
        )


def list_inputs(names: Sequence[str], missing: dict[str, str], ignored: Counter[str] | None = None) -> list[Image]:
    """The images that the arguments of a command name: inputs of `each_image`, and glob patterns.

    Parameters
    ----------
    names : sequence of str
    missing : dict of str to str
        Gets the names without an image, with the reason of each.
    ignored : Counter of str, optional
        Counts the ignored files by reason.

    Raises
    ------
    EmptyFolderError
        No name has an image.
    """
    images: list[Image] = []
    empty: dict[str, str] = {}
    for name in names:
        try:
            is_local = not (is_collection(name) or remote.is_url(name))
            images += find_images([name], ignored=ignored) if is_local else _images_of_name(name, ignored)
        except EmptyFolderError as error:
            empty[name] = str(error).removeprefix(f"{name} names no image: ").removesuffix(".")
    if not images:
        name, reason = next(iter(empty.items()))
        more = f" (and {len(empty) - 1} other names do not either)" if len(empty) > 1 else ""
        raise EmptyFolderError(f"{name} names no image: {reason}{more}.")
    missing |= empty
    return images


def images_of(source: Source, names: Iterable[str]) -> list[Image]:
    """The images of a source: the path of an image if it is a local file, else how to read it."""
    return [str(source.local_path(name) or "") or _image_of_source(source, name) for name in names]


def _image_of_source(source: Source, name: str) -> ImageFile:
    full_name = remote.join(source.name, name) if remote.is_url(source.name) and source.is_folder else name
    return ImageFile(full_name, partial(source.read, name))


def _is_file(image: Any) -> bool:
    return hasattr(image, "read")


def _single_image(image: Any) -> Image:
    """One image. A path or URL always means one image here."""
    if isinstance(image, (str, os.PathLike)) and remote.is_url(image):
        return ImageFile(os.fspath(image), partial(remote.read, os.fspath(image)))
    if isinstance(image, (bytes, bytearray, memoryview)):
        content = bytes(image)  # a copy: the caller may change it afterwards
        return ImageFile("", lambda: content)
    if _is_file(image) and not is_picture(image):
        return _image_of_open_file(image)
    memory_image: Image = image
    return memory_image


def _image_of_open_file(file: Any) -> ImageFile:
    """Read an open file at once: the caller may close it afterwards."""
    content, name = file.read(), getattr(file, "name", "")
    if not isinstance(content, bytes):
        raise DataLayoutError(f"{name or file!r} is open as text; open image files with open(PATH, 'rb').")
    return ImageFile(name if isinstance(name, str) else "", lambda: content)


def _images_of_name(path: str | os.PathLike[str], ignored: Counter[str] | None = None) -> list[Image]:
    """The images of a name: those of a folder or collection, or one."""
    name, ignored = os.fspath(path), Counter() if ignored is None else ignored
    if is_collection(name):
        source = open_source(name)
        images = images_of(source, source.sample_ids(ignored))
    elif remote.is_url(name):
        if is_image_name(Path(posixpath.basename(urlsplit(name).path))):
            return [_single_image(name)]
        images = [_single_image(remote.join(name, path)) for path in _list_url(name, ignored)]
    elif os.path.isdir(name):
        images = list[Image](sorted(walk(Path(name), ignored)))
    else:
        return [path]
    if not images:
        raise EmptyFolderError(f"{name} names no image: it holds none{describe_ignored(ignored)}.")
    return images


def _list_url(url: str, ignored: Counter[str]) -> list[str]:
    """The images below a URL, relative to it, sorted."""
    try:
        names = list(remote.names(url))
        ignored.update(why_no_image(Path(name)) for name in names if not is_image_name(Path(name)))
        return sorted(name for name in names if is_image_name(Path(name)))
    except FileNotFoundError as error:
        raise EmptyFolderError(f"{url} names no image: it does not exist.") from error
