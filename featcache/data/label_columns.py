"""`choose_label`: which column of a table holds the labels."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from featcache._utils.formatting import brief
from featcache.errors import DataLayoutError

LABEL_NAMES = ("label", "labels", "class", "target")


class AmbiguousLabelError(DataLayoutError):
    """Several columns may be the label."""


def find_column(columns: Sequence[str], names: Sequence[str]) -> str | None:
    """The first of the names that a column has, as the table spells it; else the first one in any case."""
    spelled = {column.strip().casefold(): column for column in reversed(columns)}
    spelled |= {column: column for column in columns}
    return next((spelled[name] for name in names if name in spelled), None)


def choose_label(
    source: str, columns: Sequence[str], requested: str | None = None, candidates: Sequence[str] = ()
) -> str | None:
    """The column of the labels.

    Parameters
    ----------
    source : str
        What messages call the table.
    columns : sequence of str
        The names of all columns.
    requested : str or None
        The column that the user names; None takes "label", else the only one of `LABEL_NAMES`, else the only candidate.
    candidates : sequence of str
        Columns that are labels by their type.

    Returns
    -------
    str or None
        A name of `columns`; None if there is no column of labels.

    Raises
    ------
    DataLayoutError
        There is no such column, or several columns may be the label.
    """
    if requested is not None:
        if requested not in columns:
            raise DataLayoutError(f"{source} has no column {requested!r}; it has {brief(columns)}.")
        return requested
    if column := find_column(columns, LABEL_NAMES[:1]):
        return column
    possible = [column for column in columns if column.strip().casefold() in LABEL_NAMES] or list(candidates)
    if len(possible) > 1:
        raise AmbiguousLabelError(
            f"{source} has {len(possible)} columns that may be the label: {brief(possible)}. Name one: --label-column "
            f"{possible[0]}"
        )
    return possible[0] if possible else None


def label_note(column: str, columns: Collection[str], candidates: Collection[str] = ()) -> str:
    """A line with the chosen column, and the others that may be the label."""
    others = [
        name for name in columns if name != column and (name.strip().casefold() in LABEL_NAMES or name in candidates)
    ]
    return f"label column: {column}" + (f" (not {', '.join(others[:8])}; --label-column chooses)" if others else "")
