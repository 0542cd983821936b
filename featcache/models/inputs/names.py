"""The samples that names of files, folders, tables, tar files, data sets and URLs stand for, for any modality."""

from __future__ import annotations

import os
import posixpath
import warnings
from collections import Counter
from collections.abc import Iterable, Sequence
from functools import partial
from pathlib import Path
from urllib.parse import urlsplit

from featcache._utils import remote
from featcache.cache.paths import names_cache
from featcache.data.file_listing import find_samples, walk
from featcache.data.file_types import describe_ignored
from featcache.data.input_notes import input_notes
from featcache.data.modality import Modality
from featcache.data.sources.base import Source
from featcache.data.sources.registry import is_collection, open_source
from featcache.errors import DataLayoutError, EmptyFolderError, IgnoredFilesWarning
from featcache.models.inputs.base import SampleFile, SampleInputs

NamedSample = str | os.PathLike[str] | SampleFile
"""A path, or how to read the bytes."""


def samples_of_name(
    path: str | os.PathLike[str],
    inputs: SampleInputs,
    text_column: str | None = None,
    ignored: Counter[str] | None = None,
) -> list[NamedSample]:
    """The samples of a name: those of a folder or a collection, or one.

    Parameters
    ----------
    path : path or URL
    inputs : SampleInputs
        Of the model.
    text_column : str or None
        See `read_manifest`.
    ignored : Counter of str, optional
        Counts the files that are passed over, by reason. None warns about them.

    Raises
    ------
    DataLayoutError
        The model does not predict the samples of the collection, such as those of another modality.
    EmptyFolderError
        It holds no samples.

    Warns
    -----
    IgnoredFilesWarning
        Some files are not samples, and `ignored` is None.
    """
    name, counted, modality = os.fspath(path), Counter[str]() if ignored is None else ignored, inputs.modality
    samples: list[NamedSample]
    if is_collection(name, text_column):
        source = open_source(name, text_column=text_column)
        names = source.sample_ids(counted) if source.modality is modality else []
        inputs.check_source(source)
        samples = samples_of(source, names)
    elif remote.is_url(name):
        if modality.accepts(Path(posixpath.basename(urlsplit(name).path))):
            return [file_of_url(name)]
        samples = [file_of_url(remote.join(name, path)) for path in _list_url(name, modality, counted)]
    elif os.path.isdir(name):
        samples = list[NamedSample](sorted(walk(Path(name), counted, modality)))
    else:
        return [path]
    if not samples:
        raise EmptyFolderError(f"{name} names no {modality.name}: it holds none{describe_ignored(counted)}.")
    if ignored is None and counted:
        notes = "; ".join(input_notes(counted, [], [], modality.name))
        warnings.warn(f"{name}: {notes}", IgnoredFilesWarning, stacklevel=3)
    return samples


def list_inputs(
    names: Sequence[str],
    inputs: SampleInputs,
    missing: dict[str, str],
    ignored: Counter[str] | None = None,
    text_column: str | None = None,
) -> list[NamedSample]:
    """The samples that the arguments of a command name: inputs of `SampleInputs.each`, and glob patterns.

    Parameters
    ----------
    names : sequence of str
    inputs : SampleInputs
        Of the model.
    missing : dict of str to str
        Gets the names without a sample, with the reason of each.
    ignored : Counter of str, optional
        Counts the ignored files by reason.
    text_column : str or None
        See `read_manifest`.

    Raises
    ------
    DataLayoutError
        The model does not predict the samples of a name.
    EmptyFolderError
        No name has a sample.
    """
    modality, ignored = inputs.modality, Counter[str]() if ignored is None else ignored
    samples: list[NamedSample] = []
    empty: dict[str, str] = {}
    for name in names:
        if names_cache(name):
            empty[name] = "a cache or another HDF5 file; a cache is predicted without other samples beside it"
            continue
        try:
            if is_collection(name, text_column) or remote.is_url(name):
                samples += samples_of_name(name, inputs, text_column, ignored)
            else:
                samples += find_samples([name], ignored=ignored, modality=modality)
        except EmptyFolderError as error:
            reason = str(error).removeprefix(f"{name} names no {modality.name}: ").removesuffix(".")
            empty[name] = reason + inputs.missing_hint(name)
    if not samples:
        name, reason = next(iter(empty.items()))
        more = f" (and {len(empty) - 1} other names do not either)" if len(empty) > 1 else ""
        raise EmptyFolderError(f"{name} names no {modality.name}: {reason}{more}.")
    missing |= empty
    return samples


def samples_of(source: Source, names: Iterable[str]) -> list[NamedSample]:
    """The samples of a source: the path of a sample if it is a local file, else how to read it."""
    return [str(source.local_path(name) or "") or _file_of_source(source, name) for name in names]


def check_modality(source: Source, modality: Modality) -> None:
    """Raise DataLayoutError if the samples of a source are not of the modality of a model."""
    if source.modality is not modality:
        raise DataLayoutError(
            f"{source.name} holds {source.modality.plural}, and this model predicts {modality.plural}.{modality.hint}"
        )


def file_of_url(url: str | os.PathLike[str]) -> SampleFile:
    """A file at a URL."""
    return SampleFile(os.fspath(url), partial(remote.read, os.fspath(url)))


def file_of_bytes(content: bytes | bytearray | memoryview) -> SampleFile:
    """The content of a file. It is copied: the caller may change it afterwards."""
    copy = bytes(content)
    return SampleFile("", lambda: copy)


def _file_of_source(source: Source, name: str) -> SampleFile:
    full_name = name
    if source.has_text_column:
        full_name = source.place(name)
    elif remote.is_url(source.name) and source.is_folder:
        full_name = remote.join(source.name, name)
    return SampleFile(full_name, partial(source.read, name))


def _list_url(url: str, modality: Modality, ignored: Counter[str]) -> list[str]:
    """The samples below a URL, relative to it, sorted."""
    try:
        names = list(remote.names(url))
    except FileNotFoundError as error:
        raise EmptyFolderError(f"{url} names no {modality.name}: it does not exist.") from error
    ignored.update(modality.why_not(Path(name)) for name in names if not modality.accepts(Path(name)))
    return sorted(name for name in names if modality.accepts(Path(name)))
