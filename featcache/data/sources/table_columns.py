"""`Columns`: which columns of a table are read. `Table`: its rows, whatever the file format."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

from featcache.data.label_columns import choose_label, find_column, label_note
from featcache.errors import DataLayoutError

PATH_NAMES = ("path", "file_name", "filename", "filepath", "image_path", "image")
EXPECTED_COLUMNS = "the columns path,label[,split][,sha256]"

NO_LABELS_HINT = ". Name the column of the labels: --label-column NAME. If there are no labels yet, add an empty one"
"""For tables without a column of labels."""

TEXTS_HINT = ". A table of texts has the columns text,label; another column of texts: --text-column NAME"
"""For tables without a column of paths."""

NO_LABEL = ""
"""The label column of tables that are read for their paths only."""

Choose = Callable[[str, str, Sequence[str]], "Columns"]
"""From how a message on missing columns begins, what other messages call the table, and its header."""

Row = tuple[int, dict[str, str | None]]
"""Number of a row, and its cells by column."""


@dataclass(frozen=True)
class TableKind:
    """What the rows of a table are: paths of samples, or texts.

    expected : the columns that it needs, for messages.
    decode_errors : how bytes that are not UTF-8 are decoded, see `bytes.decode`.
    is_texts : whether the rows are texts.
    """

    expected: str
    decode_errors: str = "strict"
    is_texts: bool = False

    def lines(self, text: str) -> list[str]:
        """The lines of a file of JSON lines. A text may hold other characters that `str.splitlines` splits at."""
        return text.split("\n") if self.is_texts else text.splitlines()


PATHS = TableKind(EXPECTED_COLUMNS)


class MissingColumnsError(DataLayoutError):
    """A table has no column of paths, or no column of labels and the user names none."""


def not_a_text(what: str) -> DataLayoutError:
    """The error for a value or a column of another type where texts are read, in tables whose values have types.

    what : where it is, and what it is.
    """
    return DataLayoutError(
        f"{what}; a text must be a string or null. Name the column of the texts with --text-column, or write the "
        "values as strings if they are texts."
    )


@dataclass(frozen=True)
class Columns:
    """The columns of a table that are read; `notes` name them, a line each.

    path : of the paths; "" in a table of texts.
    texts : of the texts; empty in a table of paths.
    """

    path: str
    label: str
    split: str | None
    sha256: str | None
    group: str | None
    notes: list[str] = field(default_factory=list)
    texts: tuple[str, ...] = ()

    @property
    def samples(self) -> tuple[str, ...]:
        """The names of the columns of the samples: of their paths, or of the texts."""
        return self.texts or (self.path,)

    @property
    def used(self) -> list[str]:
        """The names of all columns that are read."""
        names = (*self.samples, self.label, self.split, self.sha256, self.group)
        return list(dict.fromkeys(name for name in names if name))


@dataclass(frozen=True)
class Table:
    """The rows of a table, read one after the other.

    unit : what the number of a row counts, in messages.
    several : whether the column of labels holds lists.
    """

    columns: Columns
    rows: Iterator[Row]
    unit: str = "line"
    several: bool = False


def choose_columns(where: str, name: str, header: Sequence[str], label_column: str | None) -> Columns:
    """The columns of a table that are read, by the names in its header.

    Parameters
    ----------
    where : str
        How the message on missing columns begins.
    name : str
        What other messages call the table.
    header : sequence of str
        The names of all columns.
    label_column : str or None
        The column of the labels; None chooses one, see `choose_label`; `NO_LABEL` needs none.

    Raises
    ------
    MissingColumnsError
        There is no column of paths, or none of labels.
    DataLayoutError
        Two columns that are read have the same name, or `label_column` is not a column.
    """
    path = find_column(header, PATH_NAMES)
    needs_label = path is not None and label_column != NO_LABEL
    label = choose_label(name, header, label_column) if needs_label else path
    if path is None or label is None:
        names = f"{','.join(header[:8])}{',...' if len(header) > 8 else ''}"
        hint = TEXTS_HINT if path is None else NO_LABELS_HINT
        raise MissingColumnsError(f"{where} {EXPECTED_COLUMNS}; found {names}{hint}")
    notes = [label_note(label, header)]
    notes += [f"path column: {path}"] if path != "path" else []
    split, sha256, group = (find_column(header, (name,)) for name in ("split", "sha256", "group"))
    columns = Columns(path, label, split, sha256, group, notes)
    refuse_repeated_columns(name, header, columns)
    return columns


def refuse_repeated_columns(name: str, header: Sequence[str], columns: Columns) -> None:
    """Raise DataLayoutError if two columns have the name of one that is read. name : of the table."""
    for column in columns.used:
        if (count := list(header).count(column)) > 1:
            raise DataLayoutError(f"{name} has {count} columns named {column!r}. Rename those that do not count.")
