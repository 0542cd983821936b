"""`export_features`: the features of a cache as a table that other programs read, with the predictions of a head."""

from __future__ import annotations

import os
from collections.abc import Generator, Iterator
from contextlib import closing
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from featcache._utils.environment import check_packages
from featcache._utils.files import atomic_write
from featcache._utils.formatting import human_bytes, plural
from featcache._utils.progress_bar import ProgressOption, as_callback
from featcache._utils.results import NotebookResult, Result
from featcache.cache.feature_cache import FeatureCache
from featcache.cache.rows import ALL, iter_features, select_splits
from featcache.cache.tables.registry import TABLE_FORMATS, VECTOR, Block, ColumnKind, TableSchema
from featcache.core.layer_names import join_layers
from featcache.core.samples import UNLABELED, Samples, format_labels
from featcache.core.specs import PENULTIMATE
from featcache.errors import OutputExistsError
from featcache.models.feature_classifier import FeatureClassifier
from featcache.models.prediction import Prediction


@dataclass(frozen=True, repr=False)
class ExportedFeatures(Result, NotebookResult):
    """What `export_features` returns: a table of features.

    Attributes
    ----------
    path : Path
        The file.
    format : str
        The name of the format.
    rows : int
        Number of rows.
    rows_by_split : dict of str to int
        Number of rows of each split.
    columns : tuple of str
        Names of the columns.
    width : int
        d, the length of a vector.
    dtype : str
        "float16" or "float32".
    skipped : int
        Number of samples without a row, because extraction could not read them.
    views_left_out : int
        Number of augmented views in the cache that have no row.
    size_bytes : int
        The size of the file.
    """

    path: Path
    format: str
    rows: int
    rows_by_split: dict[str, int]
    columns: tuple[str, ...]
    width: int
    dtype: str
    skipped: int
    views_left_out: int
    size_bytes: int

    def __str__(self) -> str:
        splits = ", ".join(f"{count:,} {split}" for split, count in self.rows_by_split.items())
        lines = [
            f"{self.path}: {self.format}, {plural(self.rows, 'row')} ({splits}), {human_bytes(self.size_bytes)}",
            f"columns: {', '.join(self.columns)} ({self.width} x {self.dtype})",
        ]
        if self.views_left_out:
            lines.append(f"left out: {plural(self.views_left_out, 'augmented view')} (--augmented adds them)")
        if self.skipped:
            lines.append(
                f"left out: {plural(self.skipped, 'sample')} that could not be read (`featcache info` lists them)"
            )
        return "\n".join(lines)


def export_features(
    cache: str | os.PathLike[str] | FeatureCache,
    out: str | os.PathLike[str],
    format: str = "parquet",
    *,
    head: str | os.PathLike[str] | None = None,
    layer: str = PENULTIMATE,
    split: str = ALL,
    augmented: bool = False,
    overwrite: bool = False,
    progress: ProgressOption = None,
) -> ExportedFeatures:
    """Write the features of a cache as a table for DuckDB, pandas, NumPy and other programs.

    Columns: `path`, `label` (several labels as "a|b"; empty without one: null in Parquet, "" in npz), `split`, `sha256`
    (of the bytes of the sample), `group` if samples have groups, and `vector`. The table is written some thousand rows
    at a time. `FeatureCache.from_parquet` reads it.

    Parameters
    ----------
    cache : path or FeatureCache
        A finished cache, or its URL.
    out : path
        The file to write.
    format : str, default "parquet"
        "parquet" (the extra `parquet`), "npz", or a format that another package adds with an entry point in the group
        `featcache.feature_exports`.
    head : path, optional
        A saved head, see `FeatureClassifier`. It adds the columns `predicted`, the label of the sample, and
        `probability`, that of its most probable class.
    layer : str, default "penultimate"
        See `FeatureCache.features`. Several layers lie side by side in the vector.
    split : str, default "all"
        "all", or one split.
    augmented : bool, default False
        Write a row for each augmented view as well; the column `view` numbers them, 0 is the clean view.
    overwrite : bool, default False
        Replace `out` if it exists.
    progress : bool or Callable[[str, int, int], None], optional
        True shows a bar; a callable is called as progress(what, done, total).

    Returns
    -------
    ExportedFeatures

    Raises
    ------
    ExportError
        There is no such format, or it cannot hold a value.
    OutputExistsError
        `out` exists.
    MissingExtraError
        A package of the format is not installed.
    CacheError, HeadError
        The cache or the head cannot be opened, or they do not fit, see `FeatureClassifier.stream`.

    Examples
    --------
    >>> import numpy as np
    >>> from featcache import FeatureCache, export_features
    >>> cache = FeatureCache.from_arrays(np.arange(24.0).reshape(12, 2), ["cat", "dog"] * 6)
    >>> export_features(cache, "features.npz", "npz").rows
    12
    >>> np.load("features.npz")["vector"].shape
    (12, 2)
    """
    out, table_format = Path(out), TABLE_FORMATS.get(format)
    check_packages(f"the format {format}", table_format.packages, table_format.extra)
    if os.path.lexists(out) and not overwrite:
        raise OutputExistsError(f"{out} exists. Give another name, or overwrite it.")
    table = _Table(FeatureCache.open(cache), layer, split, augmented, head)
    schema, report, done = table.schema(), as_callback(progress), 0

    def blocks() -> Generator[Block, None, None]:
        nonlocal done
        for block in table.blocks():
            yield block
            done += len(block[VECTOR])
            if report:
                report(f"write {format}", done, schema.rows)

    with atomic_write(out) as file, closing(blocks()) as rows:
        table_format.write(file, schema, rows)
    counts = {name: table.views[name] * len(table.cache.readable_rows(name)) for name in table.views}
    return ExportedFeatures(
        out, format, schema.rows, counts, (*schema.columns, VECTOR), schema.width, schema.dtype.name,
        table.skipped, table.views_left_out, out.stat().st_size,
    )  # fmt: skip


class _Table:
    """The rows of a cache as a table.

    views : split -> how many views of a sample have a row.
    """

    def __init__(
        self,
        cache: FeatureCache,
        layer: str,
        split: str,
        augmented: bool,
        head: str | os.PathLike[str] | None,
    ) -> None:
        self.cache, self.layers, self.split, self.augmented = cache, cache.layers(layer), split, augmented
        self.classifier = None if head is None else FeatureClassifier.load(head)
        present = {name: _views(cache, name) for name in select_splits(cache, split)}
        self.views = present if augmented else dict.fromkeys(present, 1)
        counts = {name: len(cache.readable_rows(name)) for name in present}
        self.rows = sum(count * self.views[name] for name, count in counts.items())
        self.skipped = sum(len(cache.samples.rows(name)) - count for name, count in counts.items())
        self.views_left_out = sum(int(cache.done[cache.readable_rows(name)].sum()) for name in present) - self.rows

    def schema(self) -> TableSchema:
        """The columns, and what the features are."""
        cache, spec = self.cache, self.cache.spec
        columns: dict[str, ColumnKind] = {"path": "text", "label": "text", "split": "text", "sha256": "text"}
        columns |= {"group": "text"} if cache.samples.groups else {}
        columns |= {"view": "integer"} if self.augmented else {}
        columns |= {"predicted": "text", "probability": "number"} if self.classifier else {}
        source = {
            "backbone": spec.backbone,
            "weights_sha256": spec.weights_sha256,
            "layer": join_layers(self.layers),
            "digest": spec.digest(),
            "classes": list(cache.samples.classes),
            "multilabel": cache.samples.multilabel,
        }
        width = sum(cache.dims[name] for name in self.layers)
        return TableSchema(columns, self.rows, width, np.dtype(spec.dtype), source)

    def blocks(self) -> Iterator[Block]:
        """The rows, some thousand at a time: split by split, sample by sample, the clean view first."""
        cache, layer = self.cache, join_layers(self.layers)
        predictions: Iterator[Prediction] = iter(())
        if self.classifier:
            predictions = self.classifier.stream(cache, split=self.split, top=1)
        for split, views in self.views.items():
            for rows, features in iter_features(cache, split, layer, views):
                columns = self._columns(split, features.samples)
                if self.classifier:
                    labels = [one for one in islice(predictions, len(rows)) if one.error is None]
                    columns |= {
                        "predicted": [one.label for one in labels],
                        "probability": [one.probability for one in labels],
                    }
                block = {name: _repeat(column, views) for name, column in columns.items()}
                if self.augmented:
                    block["view"] = [*range(views)] * len(features.samples)
                x = features.with_views(views - 1).x[:]
                if len(x):
                    yield {**block, VECTOR: np.asarray(x).reshape(-1, x.shape[2])}

    def _columns(self, split: str, samples: Samples) -> dict[str, list[Any]]:
        """The columns of samples of one split, which a cache always has."""
        labels = format_labels(samples.labels, samples.classes)
        columns: dict[str, list[Any]] = {
            "path": list(samples.ids),
            "label": [None] * len(samples) if split == UNLABELED else labels,
            "split": [split] * len(samples),
            "sha256": [row.tobytes().hex() for row in samples.sha256],
        }
        return columns | ({"group": list(samples.groups)} if samples.groups else {})


def _views(cache: FeatureCache, split: str) -> int:
    """How many views each readable sample of a split has."""
    rows = cache.readable_rows(split)
    return int(cache.done[rows].min()) if len(rows) else 1


def _repeat(values: list[Any], times: int) -> list[Any]:
    return [value for value in values for _ in range(times)] if times > 1 else values
