"""`SimilarSamples`: the result of `similar`, as text, JSON and CSV."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from featcache._utils.files import text_output
from featcache._utils.formatting import brief, csv_row, plural, printable, text_table
from featcache._utils.results import NotebookResult, Result

_COLUMNS = ("query", "rank", "path", "label", "split", "similarity", "text", "error")


@dataclass(frozen=True)
class Neighbor(Result):
    """A sample of the cache that is similar to a query.

    Attributes
    ----------
    path : str
        Its id in the cache.
    label : str
        Its class, or its classes as "a|b"; "" for none.
    split : str
    similarity : float
        Cosine of its features and those of the query, -1 to 1; of several layers the mean of their cosines.
    text : str, optional
        The beginning of a text, if `similar` got the data. None otherwise.
    """

    path: str
    label: str
    split: str
    similarity: float
    text: str | None = None

    def _json_fields(self) -> dict[str, Any]:
        fields = super()._json_fields()
        return {name: value for name, value in fields.items() if name != "text" or value is not None}


@dataclass(frozen=True)
class Query(Result):
    """A sample whose neighbors were searched.

    Attributes
    ----------
    path : str
        The file, the place of a text in a table; "" for a sample in memory.
    neighbors : tuple of Neighbor
        The most similar one first.
    left_out : tuple of str
        Ids of the samples in the cache with the same content: they are not among the neighbors.
    error : str, optional
        Why the sample could not be read.
    text : str, optional
        The beginning of a text. None for images.
    picture : ndarray, shape (s, s, 3), uint8, optional
        The clean view of an image, for a figure; only of the first 24 queries.
    """

    path: str
    neighbors: tuple[Neighbor, ...] = ()
    left_out: tuple[str, ...] = ()
    error: str | None = None
    text: str | None = None
    picture: NDArray[np.uint8] | None = field(default=None, repr=False, compare=False)

    @property
    def name(self) -> str:
        """The path, and the beginning of a text."""
        return "  ".join(printable(part) for part in (self.path, self.text) if part) or "sample in memory"

    def __str__(self) -> str:
        if self.error:
            return f"{printable(self.path)}  unreadable: {printable(self.error)}"
        lines = [self.name]
        if self.left_out:
            lines.append(f"  left out, as it is the same: {brief([printable(name) for name in self.left_out], 3)}")
        table = [
            [f"{one.similarity:.4f}", *map(printable, (one.label or "none", one.split, one.path, one.text or ""))]
            for one in self.neighbors
        ]
        return "\n".join([*lines, *(f"  {line}" for line in (text_table(table) if table else ["no other samples"]))])

    def _json_fields(self) -> dict[str, Any]:
        fields = super()._json_fields()
        return {name: value for name, value in fields.items() if name != "picture" and (name != "text" or value)}


@dataclass(frozen=True, repr=False)
class SimilarSamples(Result, NotebookResult):
    """The most similar samples of a cache for each query.

    Attributes
    ----------
    cache : Path
    split : str
        Whose samples were compared.
    layer : str
        Whose features were compared.
    compared : int
        How many samples of the cache each query was compared with.
    queries : tuple of Query
    modality : str
        What the samples are: "image" or "text".
    changed : dict of str to str
        Ids of neighbors whose texts are not those of the cache any more, with the reason.
    seconds : float
    """

    cache: Path
    split: str
    layer: str
    compared: int
    queries: tuple[Query, ...]
    modality: str
    changed: dict[str, str]
    seconds: float

    @property
    def unreadable(self) -> int:
        """How many queries could not be read."""
        return sum(query.error is not None for query in self.queries)

    @property
    def notes(self) -> list[str]:
        """What is to be said about the search, a line each."""
        inside, lines = sum(bool(query.left_out) for query in self.queries), []
        if inside:
            are, their = ("is", "its") if inside == 1 else ("are", "their")
            lines.append(
                f"{inside} of {plural(len(self.queries), 'query', 'queries')} {are} in the cache by {their} content, "
                f"and left out of {their} own neighbors"
            )
        if self.unreadable:
            lines.append(f"{self.unreadable} of {len(self.queries)} {self.modality}s could not be read")
        if self.changed:
            name, reason = next(iter(self.changed.items()))
            lines.append(f"the words of {plural(len(self.changed), 'text')} are not shown; {printable(name)}: {reason}")
        return lines

    def __str__(self) -> str:
        """The neighbors of each query, and the notes."""
        return "\n".join([*map(str, self.queries), *self.notes])

    def _json_fields(self) -> dict[str, Any]:
        fields = super()._json_fields()
        del fields["modality"]
        return {**fields, "unreadable": self.unreadable}

    def write_list(self, path: str | os.PathLike[str]) -> None:
        """Write all neighbors to a CSV file, one a row; an unreadable query has one row with its error."""
        with text_output(Path(path)) as file:
            file.write(csv_row(_COLUMNS))
            for query in self.queries:
                if query.error:
                    file.write(csv_row([query.path, "", "", "", "", "", "", query.error]))
                for rank, one in enumerate(query.neighbors, 1):
                    similarity = f"{one.similarity:.6f}"
                    row = [query.path, str(rank), one.path, one.label, one.split, similarity, one.text or "", ""]
                    file.write(csv_row(row))
