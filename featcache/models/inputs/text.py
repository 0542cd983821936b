"""Texts that a saved model predicts: strings, files, and tables."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from featcache._utils import remote
from featcache._utils.formatting import excerpt, split_names
from featcache._utils.regular_files import parse_json
from featcache.core.specs import ExtractSpec
from featcache.data.file_listing import split_stream
from featcache.data.modality import TEXTS
from featcache.data.sources.base import Source
from featcache.data.sources.text_rows import join_texts
from featcache.data.text_content import check_text, encode_text
from featcache.errors import DataLayoutError
from featcache.models.inputs.base import MakeViews, Prepare, Prepared, SampleFile
from featcache.models.inputs.names import NamedSample, check_modality, file_of_bytes, file_of_url, samples_of_name
from featcache.models.inputs.registry import INPUTS
from featcache.models.prediction import OptionalColumn
from featcache.text.loader import cut_remark
from featcache.text.views import make_text_views


class TextInputs:
    """Texts; see `SampleInputs`."""

    modality = TEXTS
    columns: tuple[OptionalColumn, ...] = ("text",)
    stream_has_names = False

    def __init__(self, spec: ExtractSpec, /) -> None:
        self._view = spec.text_view

    def check_source(self, source: Source, /) -> None:
        """See `SampleInputs`: the texts of several columns are for models that were trained on such texts."""
        check_modality(source, TEXTS)
        if source.joins_columns and not self._view.separator:
            raise DataLayoutError(f"{source.name} has {_refusal(source.text_columns)}")

    def each(self, samples: Any, text_column: str | None = None, /) -> Iterator[NamedSample]:
        """See `SampleInputs`.

        Parameters
        ----------
        samples : one or several texts
            One of: a path-like of a file, a folder, a table or a saved data set, or a URL of any of these; or one or
            several of: strings, each a text; path-likes of text files; bytes of a text file; open files.
        text_column : str or None
            See `read_manifest`.
        """
        if isinstance(samples, str):
            _refuse_path(samples)
            yield file_of_text(samples)
        elif isinstance(samples, os.PathLike):
            yield from samples_of_name(samples, self, text_column)
        elif text_column is not None:
            raise DataLayoutError("text_column is for texts in columns, and these are single texts. Leave it out.")
        elif isinstance(samples, (bytes, bytearray, memoryview, SampleFile)) or hasattr(samples, "read"):
            yield _single_text(samples)
        elif isinstance(samples, Iterable) and not isinstance(samples, Mapping):
            yield from map(_single_text, samples)
        else:
            raise DataLayoutError(
                f"texts is of type {type(samples).__name__}; give strings, path objects, bytes or open files."
            )

    def of_strings(self, texts: Sequence[str], /) -> list[SampleFile]:
        """See `SampleInputs`."""
        return [file_of_text(text, f"text {number}") for number, text in enumerate(texts, 1)]

    def read_stream(self, stream: Any, end: bytes = b"\n", text_column: str | None = None, /) -> Iterator[SampleFile]:
        """See `SampleInputs`: texts. An empty line is an empty text, so that no line shifts."""
        unit, previous, number = "line" if end == b"\n" else "text", None, 0
        for number, part in enumerate(split_stream(stream, end)):
            if previous is not None:
                yield self._file_of_line(previous, f"stdin, {unit} {number}", text_column)
            previous = part.removesuffix(b"\r") if end == b"\n" else part
        if previous:  # nothing follows the last end
            yield self._file_of_line(previous, f"stdin, {unit} {number + 1}", text_column)

    def prepare_for(self, encoder: Any, /) -> Prepare:
        """See `SampleInputs`: it makes views of texts and turns them into the tokens of the encoder."""
        view, tokenizer = self._view, encoder.tokenizer

        def prepare(sample: bytes, name: str = "") -> MakeViews:
            def make(numbers: Sequence[int]) -> Prepared:
                content = check_text(sample)
                text, digest = content.decode(), hashlib.sha256(content).digest()
                tokenized = tokenizer(make_text_views(text, view, digest, numbers), view.separator)
                remark = cut_remark(view) if tokenized.cut.any() else ""
                return Prepared(tokenized.tokens, remark, digest, excerpt(text))

            return make

        return prepare

    def describe(self) -> str:
        """See `SampleInputs`."""
        return f"texts of at most {self._view.max_length} tokens"

    def remark_hint(self) -> str:
        """See `SampleInputs`. No remark on a text is about a range of values."""
        return ""

    def missing_hint(self, name: str, /) -> str:
        """See `SampleInputs`: a text is not given as an argument."""
        if os.path.lexists(name):
            return ""
        return "; to predict a text itself, give it with --text, or on stdin for the argument -"

    def _file_of_line(self, line: bytes, name: str, text_column: str | None) -> SampleFile:
        return SampleFile(name, (lambda: line) if text_column is None else (lambda: self._of_json(line, text_column)))

    def _of_json(self, line: bytes, column: str) -> bytes:
        """The text of a line of JSON lines. Raises OSError with the reason."""
        try:
            fields = parse_json(line)
        except ValueError as error:
            raise OSError("not a line of JSON") from error
        columns = (column,) if isinstance(fields, dict) and column in fields else split_names(column)
        texts = [fields.get(name) for name in columns] if isinstance(fields, dict) else []
        if not any(isinstance(text, str) for text in texts) or any(not isinstance(text, str | None) for text in texts):
            raise OSError(f"not a JSON object with a text {column!r}")
        if len(columns) > 1 and not self._view.separator:
            raise OSError(_refusal(columns))
        return encode_text(join_texts(texts))


_FILES = (".txt", ".csv", ".tsv", ".jsonl", ".parquet")


def file_of_text(text: str, name: str = "") -> SampleFile:
    """A text in memory."""
    return SampleFile(name, lambda: encode_text(text))


def _refusal(columns: Sequence[str]) -> str:
    """Why texts of several columns are not for a model of one."""
    return (
        f"texts of {len(columns)} columns ({', '.join(columns)}), and the model was trained on texts of one column. "
        "Name one column, or train a model on these."
    )


def _refuse_path(text: str) -> None:
    """Raise DataLayoutError for a string that is a path: it would be predicted as a text."""
    try:
        is_path = os.path.lexists(text) or (len(text.split()) == 1 and text.lower().endswith(_FILES))
    except ValueError:  # NUL in it
        return
    if is_path:
        raise DataLayoutError(
            f"{text!r} is the name of a file or a folder, and a string is a text here. Give pathlib.Path({text!r}) for "
            f"the texts in it, or [{text!r}] to predict this string."
        )


def _single_text(text: Any) -> NamedSample:
    """One text. A path-like always means one file here."""
    if isinstance(text, str):
        return file_of_text(text)
    if isinstance(text, (SampleFile, Path)):
        return text
    if isinstance(text, os.PathLike):
        return file_of_url(text) if remote.is_url(text) else text
    if isinstance(text, (bytes, bytearray, memoryview)):
        return file_of_bytes(text)
    if hasattr(text, "read"):
        content, name = text.read(), getattr(text, "name", "")
        name = name if isinstance(name, str) else ""
        return file_of_text(content, name) if isinstance(content, str) else SampleFile(name, lambda: content)
    raise DataLayoutError(f"a text is of type {type(text).__name__}; give strings, path objects, bytes or open files.")


INPUTS.register(TEXTS.name, TextInputs)
