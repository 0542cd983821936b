"""`write_label_table`: a CSV table of all samples of a cache, in which a person fills in labels for `update`."""

from __future__ import annotations

import csv
import io
import os
from pathlib import Path
from typing import TYPE_CHECKING

from featcache._utils.files import write_file
from featcache._utils.formatting import excerpt
from featcache._utils.progress_bar import Progress
from featcache.cache.feature_cache import FeatureCache
from featcache.cache.reuse import keep_unread
from featcache.core.samples import SPLITS, UNLABELED, format_labels
from featcache.data.manifest import Manifest, read_manifest
from featcache.data.modality import TEXTS
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

    The columns are `path` (relative to the folder of the table) or `text`, `label` (empty without one), `reason`, and
    where the data has them `split` and `group`. The suggested samples come first; only they have a reason. Texts that
    cannot be read are left out. Cells are written as they are, also those that a spreadsheet would take for a formula:
    the content of a text decides which one it is.
    """
    path = Path(path)
    if path.suffix.lower() != ".csv":
        raise SpecError(f"{path} must end in .csv")
    cache, samples = suggestions.cache, suggestions.cache.samples
    numbers = {name: row for row, name in enumerate(samples.ids)}
    reasons = {numbers[sample.path]: sample.reason for sample in suggestions.samples}
    order = [*reasons, *(row for row in range(len(samples)) if row not in reasons)]
    labels = format_labels(samples.labels, samples.classes)
    is_split = not cache.provenance.get("val_is_held_out") and any(
        len(samples.rows(split)) for split in SPLITS if split not in ("train", UNLABELED)
    )
    assert suggestions.manifest is not None
    cells = _Cells(suggestions.manifest, path.parent)
    columns = [
        cells.column,
        "label",
        "reason",
        *(["split"] if is_split else []),
        *(["group"] if samples.groups else []),
    ]
    table = io.StringIO()
    writer = csv.writer(table, lineterminator="\n")
    writer.writerow(columns)
    for row in order:
        cell = cells.of(samples.ids[row])
        if cell is None:
            continue
        split = SPLITS[samples.split[row]]
        record = [cell, labels[row], reasons.get(row, "")]
        record += ["train" if split == UNLABELED else split] if is_split else []
        record += [samples.groups[row]] if samples.groups else []
        writer.writerow(record)
    write_file(path, table.getvalue().encode("utf-8", "surrogateescape"))


class _Cells:
    """The first column of a table: texts, or paths relative to its folder."""

    def __init__(self, manifest: Manifest, folder: Path) -> None:
        self._source, self._folder = manifest.source, folder
        self._holds_texts = manifest.source.has_text_column
        self.column = "text" if self._holds_texts else "path"

    def of(self, name: str) -> str | None:
        """The cell of a sample; None for a text that cannot be read. Raises DataLayoutError if it is no local file."""
        if self._holds_texts:
            try:
                return self._source.read(name).decode()
            except OSError:
                return None
        file = self._source.local_path(name)
        if file is None:
            raise DataLayoutError(
                f"{self._source.name} does not hold local files or a table of texts, so no table of labels can list "
                "them. Fill the labels in where the data is; --json names the suggested samples."
            )
        relative = Path(os.path.relpath(file, self._folder)).as_posix()
        return relative if relative[0].isalnum() or relative.startswith("..") else f"./{relative}"
