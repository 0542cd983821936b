"""`SampleInputs`: from what a user gives to inputs of the network, for one modality. `Classifier` uses it."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

from featcache.core.specs import ExtractSpec
from featcache.data.modality import Modality
from featcache.data.sample_loader import Inputs
from featcache.data.sources.base import Source
from featcache.models.prediction import OptionalColumn


@dataclass(frozen=True)
class SampleFile:
    """A file, a row of a table or another sample whose bytes are read when they are needed.

    Attributes
    ----------
    name : str
        The path in its prediction; may be empty.
    read : Callable[[], bytes]
        Raises OSError.
    """

    name: str
    read: Callable[[], bytes] = field(repr=False)


class Prepared(NamedTuple):
    """The views of a sample, and what is odd about it.

    views : inputs of the network, shape (v, ...); of an image (v, s, s, 3), uint8. remark : empty if nothing is odd.
    sha256 : hash of the bytes of its file, as caches have it; of a sample in memory that of its pixels. text : the
    beginning of a text, as one line; None for other samples.
    """

    views: Inputs
    remark: str
    sha256: bytes
    text: str | None = None


MakeViews = Callable[[Sequence[int]], Prepared]
"""Makes the views of these numbers. Raises OSError with the reason for a sample that cannot be read."""


class Prepare(Protocol):
    """Prepares samples of one modality. It may run in several threads."""

    def __call__(self, sample: Any, name: str = "") -> MakeViews:
        """A function that makes the views of a sample.

        Parameters
        ----------
        sample : bytes or an object of the modality, such as an array
            The content of a file is decoded when the views are made. An object is copied at once, because its owner may
            change it afterwards.
        name : str
            Of an object, for error messages.

        Raises
        ------
        UnreadableImageError
            The object has no usable content.
        DataLayoutError
            The object has another type or shape.
        """


class SampleInputs(Protocol):
    """What a saved model predicts: samples of one modality. The constructor takes the spec of the model's features.

    Attributes
    ----------
    modality : Modality
        What the samples are.
    columns : tuple of {"text"}
        Columns of a table of predictions that only this modality has.
    stream_has_names : bool
        Whether `read_stream` gives paths of files.
    """

    modality: Modality
    columns: tuple[OptionalColumn, ...]
    stream_has_names: bool

    def __init__(self, spec: ExtractSpec, /) -> None: ...

    def check_source(self, source: Source, /) -> None:
        """Raise DataLayoutError for listed data whose samples the model does not predict."""

    def each(self, samples: Any, text_column: str | None = None, /) -> Iterator[str | os.PathLike[str] | Any]:
        """The samples of one input, or of several inputs of one sample each, in order.

        Parameters
        ----------
        samples : one or several samples
            See `Classifier.stream`.
        text_column : str or None
            See `read_manifest`.

        Yields
        ------
        str, path-like, SampleFile or an object of the modality
            A str or a path-like is the path of a file.

        Raises
        ------
        DataLayoutError
            An object of another type, or samples of another modality.
        EmptyFolderError
            A folder or a table without samples.

        Warns
        -----
        IgnoredFilesWarning
            Some files are not samples. It counts them by reason.
        """

    def of_strings(self, texts: Sequence[str], /) -> list[SampleFile]:
        """Texts of a command line. Raises DataLayoutError if there are some, and samples are not texts."""

    def read_stream(
        self, stream: Any, end: bytes = b"\n", text_column: str | None = None, /
    ) -> Iterator[str | SampleFile]:
        """Samples from a stream, as soon as they arrive: names of files, or the samples themselves.

        Parameters
        ----------
        stream : binary file
            Buffered, as sys.stdin.buffer is.
        end : bytes
            What ends a name or a sample: a newline, or NUL.
        text_column : str or None
            The name of the text in lines that are JSON objects; None: each line is a text itself.

        Raises
        ------
        DataLayoutError
            A name has NUL in it, or samples are not texts and there is a `text_column`.
        """

    def prepare_for(self, encoder: Any, /) -> Prepare:
        """A function that prepares samples as the features of the spec were made, for this network."""

    def describe(self) -> str:
        """The samples that the model takes, such as "images of 224 px"."""

    def remark_hint(self) -> str:
        """What to do if many samples have remarks on their range of values; empty if samples have none."""

    def missing_hint(self, name: str, /) -> str:
        """What to do about an argument of a command that names nothing; empty if there is nothing to say."""
