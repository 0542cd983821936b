"""`TextTableSource`: texts in the rows of a table: CSV, TSV, JSON lines or Parquet."""

from __future__ import annotations

import csv
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

from featcache._utils import remote
from featcache._utils.progress_bar import Progress
from featcache._utils.regular_files import open_regular, parse_json
from featcache.data.hidden_labels import hide_unknown
from featcache.data.modality import TEXTS, Modality
from featcache.data.sources.base import SampleListing, Source, SourceOptions, missing_error
from featcache.data.sources.registry import SOURCES
from featcache.data.sources.table import is_table
from featcache.data.sources.table_columns import NO_LABEL
from featcache.data.sources.table_formats import delimiter_of
from featcache.data.sources.text_columns import holds_texts
from featcache.data.sources.text_ids import without_counter
from featcache.data.sources.text_rows import TextRows, read_text_rows
from featcache.data.text_content import check_text, is_utf8
from featcache.errors import DataLayoutError

_HEAD_BYTES = (2**16, 2**24)  # of a table: the second if the first line is longer
_MOST_UNDECODABLE = 0.05  # of the texts of a table: more are another encoding, not damage


class TextTableSource(Source):
    """Texts in the rows of a table; see `Source`. Ids come from the content, see `text_ids`.

    The table has a column `text`, and none of paths; or the user names the columns of the texts. All texts are held in
    memory. Texts that are empty or not UTF-8 are listed, and cannot be read; many that are not UTF-8 are an error.

    Parameters
    ----------
    name : str
        The table, or its URL.
    options : SourceOptions
        How the table is read.
    contents : mapping of str to bytes, optional
        The texts, for machines that have no such table; see `TextRows`.
    """

    order = 29
    has_columns = True
    has_text_column = True

    def __init__(self, name: str, options: SourceOptions, contents: Mapping[str, bytes] | None = None) -> None:
        self.name, self._options, self._contents = name, options, contents
        self._places: dict[str, str] = {}

    @classmethod
    def matches(cls, path: str, options: SourceOptions) -> bool:
        """See `Source`: by the names of the columns. Those of a remote Parquet file are not read, so it needs
        `text_column`."""
        if not is_table(path) or (not remote.is_url(path) and not os.path.isfile(path)):
            return False
        return options.text_column is not None or holds_texts(header_of(path))

    @classmethod
    def open(cls, path: str, options: SourceOptions) -> Source:
        """See `Source`. Raises EmptyFolderError for a table that does not exist."""
        if not remote.is_url(path) and not Path(path).is_file():
            raise missing_error(path)
        return TextTableSource(path, options)

    @property
    def modality(self) -> Modality:
        """See `Source`."""
        return TEXTS

    def entries(self, ignored: Counter[str], progress: Progress | None = None) -> SampleListing:
        """See `Source`. Raises DataLayoutError if many texts are not UTF-8: the table is in another encoding."""
        rows = self._read_rows(self._options.label_column)
        _refuse_other_encoding(self.name, rows)
        return hide_unknown(rows.listing, TEXTS)

    def sample_ids(self, ignored: Counter[str]) -> list[str]:
        """See `Source`. The table needs no labels."""
        return [entry.id for entry in self._read_rows(NO_LABEL).listing.entries]

    def read(self, name: str) -> bytes:
        """See `Source`: the text in UTF-8."""
        if self._contents is None:
            self._read_rows(NO_LABEL)
        assert self._contents is not None
        content = self._contents.get(without_counter(name))
        if content is None:
            raise FileNotFoundError(2, f"{self.name} has no such text", name)
        return check_text(content)

    def subset(self, names: Sequence[str]) -> Source:
        """See `Source`: with the texts themselves."""
        if self._contents is None:
            self._read_rows(NO_LABEL)
        contents = self._contents or {}
        first = {without_counter(name) for name in names}
        return TextTableSource(self.name, self._options, {name: contents[name] for name in first if name in contents})

    def place(self, name: str) -> str:
        """See `Source`: the line of the table, after the samples were listed."""
        return f"{self.name}, {self._places[name]}" if name in self._places else super().place(name)

    def _read_rows(self, label_column: str | None) -> TextRows:
        content = remote.read(self.name) if remote.is_url(self.name) else Path(self.name).read_bytes()
        rows = read_text_rows(self.name, content, label_column=label_column, text_column=self._options.text_column)
        self._contents, self._places, self.text_columns = rows.contents, rows.places, rows.columns
        return rows


def _refuse_other_encoding(name: str, rows: TextRows) -> None:
    undecodable = {sample_id for sample_id, content in rows.contents.items() if not is_utf8(content)}
    entries = rows.listing.entries
    places = [rows.places[entry.id] for entry in entries if without_counter(entry.id) in undecodable]
    if len(places) >= max(2, _MOST_UNDECODABLE * len(entries)):
        form = "" if name.lower().endswith(".jsonl") else "as CSV "
        raise DataLayoutError(
            f"{name}: {len(places)} of {len(entries)} texts are not UTF-8, the first in {places[0]}. The table is in "
            f"another encoding: save it {form}in UTF-8."
        )


def header_of(path: str) -> list[str]:
    """The names of the columns of a table; none if they cannot be read: the error is raised later."""
    if path.lower().endswith(".parquet"):
        return _parquet_header(path)
    try:
        head = _head(path)
        first, _, _ = head.decode("utf-8-sig", "replace").lstrip().partition("\n")
        if path.lower().endswith(".jsonl"):
            return list({**parse_json(first)})
        return next(csv.reader([first], delimiter=delimiter_of(first)), [])
    except (OSError, ValueError, TypeError, csv.Error):
        return []


def _head(path: str) -> bytes:
    """The first bytes of a table."""
    head = b""
    for size in _HEAD_BYTES:
        if remote.is_url(path):
            head = remote.read(path, 0, size)
        else:
            with open_regular(path) as file:
                head = file.read(size)
        if b"\n" in head or len(head) < size:
            break
    return head


def _parquet_header(path: str) -> list[str]:
    try:
        from pyarrow import ArrowException, parquet
    except ImportError:
        return []  # the error when the file is read names the package to install
    if remote.is_url(path):
        return []
    try:
        return list(parquet.read_schema(path).names)
    except (ArrowException, OSError, UnicodeDecodeError):
        return []


SOURCES.register("texts", TextTableSource)
