"""`LabelTable`: a CSV table of all samples of a cache, in which a person fills in labels for `update`."""

from __future__ import annotations

import codecs
import csv
import io
import os
from collections import defaultdict, deque
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from featcache._utils.files import write_file
from featcache._utils.formatting import UNIT_SEPARATOR, brief, excerpt, join_words
from featcache._utils.progress_bar import Progress
from featcache.cache.feature_cache import FeatureCache
from featcache.cache.reuse import keep_unread
from featcache.core.samples import SPLITS, UNLABELED, format_labels
from featcache.data.manifest import Manifest, read_manifest
from featcache.data.modality import TEXTS
from featcache.data.sources.base import Source
from featcache.data.sources.text_rows import long_cells
from featcache.errors import DataLayoutError, SpecError

if TYPE_CHECKING:
    from featcache.analysis.suggestions.suggest import Suggestions


def read_data(cache: FeatureCache, data: str | os.PathLike[str], progress: Progress | None) -> Manifest:
    """The data that a cache was made from. Raises CacheMismatchError if it is not that, or no longer."""
    manifest = read_manifest(data, **cache.split_options, progress=progress)
    manifest, _ = keep_unread(cache, manifest)
    cache.check_matches(cache.spec, manifest.samples, os.fspath(data))
    return manifest


def text_of(manifest: Manifest, name: str) -> str | None:
    """How a text begins; None for other samples."""
    return excerpt(manifest.source.read(name).decode()) if manifest.modality is TEXTS else None


def write_label_table(path: str | os.PathLike[str], suggestions: Suggestions) -> None:
    """Write a table with a row for each sample; see `Suggestions.write_table`.

    The suggested samples come first; only they have a reason. Texts that cannot be read are left out.
    """
    path = Path(path)
    if path.suffix.lower() != ".csv":
        raise SpecError(f"{path} must end in .csv")
    samples = suggestions.cache.samples
    numbers = {name: row for row, name in enumerate(samples.ids)}
    reasons = {numbers[sample.path]: sample.reason for sample in suggestions.samples}
    assert suggestions.manifest is not None
    table = LabelTable(path, suggestions.cache, suggestions.manifest.source)
    table.write(format_labels(samples.labels, samples.classes), reasons)


class LabelTable:
    """A CSV table of all samples of a cache with their labels, which `update` reads.

    The columns are `path` (relative to the folder of the table) or those of the texts, `label` (empty without one; the
    column has the name that the cache was made with), `reason`, and where the data has them `split` and `group`. Cells
    are written as they are, also those that a spreadsheet would take for a formula: the content of a text decides which
    one it is.

    Parameters
    ----------
    path : Path
        The file, which need not exist.
    cache : FeatureCache
    source : Source
        What the cache was made from.

    Attributes
    ----------
    cells : list of (tuple of str or None)
        The path or the text of each row of the cache; None for a text that cannot be read.

    Raises
    ------
    DataLayoutError
        The samples are neither local files nor texts of a table.
    """

    def __init__(self, path: Path, cache: FeatureCache, source: Source) -> None:
        samples = cache.samples
        self.path, self._samples = path, samples
        self._has_splits = not cache.provenance.get("val_is_held_out") and any(
            len(samples.rows(split)) for split in SPLITS if split not in ("train", UNLABELED)
        )
        cells = _Cells(source, path.parent)
        self._columns, self._label_column = cells.columns, cache.split_options.get("label_column") or "label"
        self.cells = [cells.of(name) for name in samples.ids]

    def write(self, labels: Sequence[str], reasons: Mapping[int, str]) -> None:
        """Write the table, atomically.

        Parameters
        ----------
        labels : sequence of str
            The label of each row of the cache, "" for none.
        reasons : mapping of int to str
            The third column, by row of the cache. These rows come first, in this order.
        """
        samples = self._samples
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        columns = [*self._columns, self._label_column, "reason", *(["split"] if self._has_splits else [])]
        writer.writerow([*columns, *(["group"] if samples.groups else [])])
        for row in [*reasons, *(row for row in range(len(samples)) if row not in reasons)]:
            cells = self.cells[row]
            if cells is None:
                continue
            record = [*cells, labels[row], reasons.get(row, "")]
            if self._has_splits:
                split = SPLITS[samples.split[row]]
                record.append("train" if split == UNLABELED else split)
            record += [samples.groups[row]] if samples.groups else []
            writer.writerow(record)
        write_file(self.path, text.getvalue().encode("utf-8", "surrogateescape"))

    def read(self) -> list[TableRow]:
        """The rows of the table as it is now, in its order; none if it does not exist.

        Raises
        ------
        DataLayoutError
            It is no such table, or lists samples that the cache does not have.
        """
        try:
            content = self.path.read_bytes()
        except FileNotFoundError:
            return []
        text = content.decode("utf-8-sig" if content.startswith(codecs.BOM_UTF8) else "utf-8", "surrogateescape")
        rows_of: dict[tuple[str, ...], deque[int]] = defaultdict(deque)
        for row, cells in enumerate(self.cells):
            if cells is not None:
                rows_of[cells].append(row)
        with long_cells():
            records = csv.DictReader(io.StringIO(text, newline=""))
            expected, columns = [*self._columns, self._label_column], records.fieldnames or ["none"]
            if not {*expected} <= {*columns}:
                raise DataLayoutError(
                    f"{self.path} is not a table of labels: its columns are {brief(columns)}, expected "
                    f"{join_words(expected)}. Move it away, and start again."
                )
            return [self._read_row(number, record, rows_of) for number, record in enumerate(records, 2)]

    def _read_row(
        self, number: int, record: Mapping[str, str | None], rows_of: Mapping[tuple[str, ...], deque[int]]
    ) -> TableRow:
        cells = tuple(record[column] or "" for column in self._columns)
        rows = rows_of.get(cells)
        if not rows:
            raise DataLayoutError(
                f"{self.path}, row {number}: {excerpt(' '.join(cells))} is not in the cache, or listed twice. If the "
                "cache was updated from other data since, move the table away, and start again."
            )
        return TableRow(rows.popleft(), (record[self._label_column] or "").strip(), record.get("reason") or "")


class TableRow(NamedTuple):
    """A row of a `LabelTable`. row : that of the cache. label : "" for none."""

    row: int
    label: str
    reason: str


class _Cells:
    """The first columns of a table: texts, or paths relative to its folder."""

    def __init__(self, source: Source, folder: Path) -> None:
        self._source, self._folder = source, folder
        self._holds_texts = source.has_text_column
        self.columns = source.text_columns if self._holds_texts else ("path",)

    def of(self, name: str) -> tuple[str, ...] | None:
        """The cells of a sample; None for a text that cannot be read. Raises DataLayoutError if it is no local file."""
        if self._holds_texts:
            try:
                text = self._source.read(name).decode()
            except OSError:
                return None
            parts = text.split(UNIT_SEPARATOR) if self._source.joins_columns else [text]
            return *parts, *[""] * (len(self.columns) - len(parts))
        file = self._source.local_path(name)
        if file is None:
            raise DataLayoutError(
                f"{self._source.name} does not hold local files or a table of texts, so no table of labels can list "
                "them. Fill the labels in where the data is; `featcache suggest --json` names the samples."
            )
        relative = Path(os.path.relpath(file, self._folder)).as_posix()
        return (relative if relative[0].isalnum() or relative.startswith("..") else f"./{relative}",)
