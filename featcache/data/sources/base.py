"""`Source`: the base class of the kinds of data that samples are read from, and the records that a source gives.

A new kind of data is one module of this package, with a subclass of `Source` and a call of `SOURCES.register`, or a
subclass in another package with an entry point of the group `featcache.sources`; see `registry`.
"""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, NamedTuple

import numpy as np
from numpy.typing import NDArray

from featcache._utils.progress_bar import Progress
from featcache.core.split_names import SPLIT_WORDS
from featcache.data.content_hashes import hash_all
from featcache.data.modality import IMAGES, Modality
from featcache.errors import EmptyFolderError

SPLIT_NAMES = SPLIT_WORDS


def missing_error(path: str) -> EmptyFolderError:
    """The error of a path that nothing has."""
    return EmptyFolderError(f"{Path(path)} does not exist. Give a folder of class folders, or a CSV manifest.")


@dataclass(frozen=True, slots=True)
class SampleRecord:
    """One sample that was not opened yet.

    Parameters
    ----------
    id : str
        Relative POSIX path, or a whole URL. Unique in its source.
    classes : tuple of str
        Names of its classes; empty if it has no label.
    split : str or None
        "train", "val" or "test"; "unlabeled" if the label is not known; None if the data has no splits.
    sha256 : bytes or None
        Hash of its bytes, if it is known before they are read.
    group : str
        What the sample shares with others, such as a patient, a burst or an object; "" for nothing. Splits and folds
        keep a group together.
    """

    id: str
    classes: tuple[str, ...]
    split: str | None
    sha256: bytes | None = None
    group: str = ""


class SampleListing(NamedTuple):
    """The samples of a source.

    Parameters
    ----------
    entries : list of SampleRecord
        The samples.
    several : bool
        Whether a sample can have several labels.
    notes : tuple of str
        How the data was read, a line each: which column is the label, ...
    label_column : str or None
        The column of the labels; None for data without columns.
    """

    entries: list[SampleRecord]
    several: bool
    notes: tuple[str, ...] = ()
    label_column: str | None = None


@dataclass(frozen=True)
class SourceOptions:
    """How a source is to be read.

    Parameters
    ----------
    label_column : str or None
        The column of the labels; None chooses one, see `choose_label`. Only for sources with `has_columns`.
    skip_missing : bool
        List samples whose files are missing, too; they are skipped later, with a reason. Only for sources with
        `has_columns`.
    modality : Modality or None
        What the samples are. None: the source finds out.
    text_column : str or None
        The column of the texts, or several with commas between them. None takes `text`.
    """

    label_column: str | None = None
    skip_missing: bool = False
    modality: Modality | None = None
    text_column: str | None = None


class Source(ABC):
    """Samples of one kind of data, such as class folders or tar files.

    A subclass defines `matches`, `open`, `entries` and `read`; the other methods have defaults. A source is pickled to
    send it to other machines.

    Attributes
    ----------
    name : str
        What messages call the data: as the user wrote it.
    order : int
        Sources are tried in ascending `order`, and those with the same number by name; the first that matches is used.
        featcache's own: tar 10, huggingface-texts 19, huggingface 20, texts 29, table 30, metadata 40, folder 50. The
        default, 0, is tried before them.
    has_columns : bool
        Whether the labels come from a column, so that `label_column` and `skip_missing` mean something.
    has_text_column : bool
        Whether the samples are texts in columns, so that `text_column` means something.
    is_folder : bool
        Whether the samples are the files in a folder, which can be listed without the source.
    text_columns : tuple of str
        Of a source with `has_text_column`: the columns of the texts, after the samples were listed.
    """

    order: ClassVar[int] = 0
    has_columns: ClassVar[bool] = False
    has_text_column: ClassVar[bool] = False
    is_folder: ClassVar[bool] = False
    name: str
    text_columns: tuple[str, ...] = ()

    @property
    def modality(self) -> Modality:
        """What the samples are: images, unless a subclass says otherwise."""
        return IMAGES

    @property
    def joins_columns(self) -> bool:
        """Whether a text is that of several columns, with U+001F between them; after the samples were listed."""
        return len(self.text_columns) > 1

    @classmethod
    @abstractmethod
    def matches(cls, path: str, options: SourceOptions) -> bool:
        """Whether `path` names data of this kind. It reads as little as possible: names, marks in a folder, a schema.

        Parameters
        ----------
        path : str
            What the user wrote: a file, a folder, a pattern or a URL; it may not exist.
        options : SourceOptions
            How the data is to be read.
        """

    @classmethod
    @abstractmethod
    def open(cls, path: str, options: SourceOptions) -> Source:
        """The source of data that `matches`; the samples are not listed yet."""

    @abstractmethod
    def entries(self, ignored: Counter[str], progress: Progress | None = None) -> SampleListing:
        """List the samples, with their labels.

        Parameters
        ----------
        ignored : Counter
            Counts the files that are passed over, by reason; a reason of folders begins with "folders: ".
        progress : callable, optional
            Called with a phase, and with how much of it is done, of how much.

        Raises
        ------
        EmptyFolderError, DataLayoutError, RemoteIOError, MissingExtraError
        """

    def sample_ids(self, ignored: Counter[str]) -> list[str]:
        """The ids of all samples, with and without a label. Parameters and errors as of `entries`."""
        return [entry.id for entry in self.entries(ignored).entries]

    @abstractmethod
    def read(self, name: str) -> bytes:
        """The bytes of the sample with this id. Threads call it at the same time.

        Raises
        ------
        OSError
            The sample cannot be read; the text is the reason. The sample is skipped.
        RemoteIOError
            A connection is lost. The command stops.
        """

    def hash(self, names: list[str], progress: Progress | None = None) -> NDArray[np.uint8]:
        """SHA-256 of the bytes of samples, shape (n, 32), uint8. A sample that cannot be read hashes as its id."""
        return hash_all(lambda name: hashlib.sha256(self.read(name)).digest(), names, progress)

    def subset(self, names: Sequence[str]) -> Source:
        """The source that another machine needs to read these samples, with absolute paths."""
        return self

    def local_path(self, name: str) -> Path | None:
        """Path of a sample on this machine's disks; None for a sample that is not a local file."""
        return None

    def place(self, name: str) -> str:
        """Where a sample is, for a message: its path, or its id and the name of the data."""
        return str(self.local_path(name) or f"{name} of {self.name}")
