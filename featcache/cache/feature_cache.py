"""`FeatureCache`: read a cache file."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from featcache._utils import remote
from featcache._utils.results import NotebookResult
from featcache.cache import opening
from featcache.cache.description import cache_to_dict, describe_cache
from featcache.cache.features import Features
from featcache.cache.format import layout
from featcache.cache.from_arrays import write_arrays
from featcache.cache.lazy_arrays import ConcatenatedFeatures, LazyRows, as_slice
from featcache.cache.mismatch import check_samples, check_spec
from featcache.cache.paths import partial_path
from featcache.core.data_summary import DataSummary, summarize
from featcache.core.options import manifest_keywords
from featcache.core.samples import UNLABELED, Samples
from featcache.core.specs import PENULTIMATE, ExtractSpec, is_arrays, no_network
from featcache.data.input_notes import list_inputs, write_list
from featcache.errors import CacheMismatchError, NotACacheError


class FeatureCache(NotebookResult):
    """A cache file, opened for reading.

    `FeatureCache.open` opens a file; `from_arrays` and `from_parquet` make one from your own features.

    Attributes
    ----------
    path : Path
        The file.
    layout : Layout
        Locations of the arrays in the file.
    spec : ExtractSpec
        What decided the features.
    samples : Samples
        The n samples, one for each row.
    done : ndarray, shape (n,), uint16
        Views present in each row: views 0 to done - 1. 0 for a skipped sample.
    skipped : list of (str, str)
        Id and reason of the samples that could not be read.
    complete : bool
        Whether every row is present or skipped.
    finished : bool
        Whether the file has its final name.
    problem : str
        A contradiction in the records of the rows present; empty in an intact cache.
    provenance : dict
        Device, versions, host, date and source of the weights.
    dims : dict of str to int
        Width d of each layer.

    Examples
    --------
    >>> import numpy as np
    >>> from featcache import FeatureCache
    >>> x = np.random.default_rng(0).normal(size=(10, 4))
    >>> cache = FeatureCache.from_arrays(x, ["cat", "dog"] * 5, split=["train"] * 8 + ["val"] * 2)
    >>> cache.features("val").x.shape, cache.dims
    ((2, 1, 4), {'penultimate': 4})
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.layout = layout.read(path)
        self.spec, self.samples, self.provenance = self.layout.spec, self.layout.samples, self.layout.provenance
        self.dims = self.layout.dims
        self.done: NDArray[np.uint16] = np.array(self.layout.done.view(self.layout.data))
        reasons = self.layout.skipped.view(self.layout.data)
        skipped = np.flatnonzero(reasons != b"")
        self.skipped = [(self.samples.ids[row], layout.decode(bytes(reasons[row]))) for row in skipped]
        self.complete = int(np.count_nonzero(self.done == self.layout.expected_views)) + len(skipped) == len(
            self.samples
        )
        self.finished = path.suffix != ".partial"
        self.problem = opening.find_problem(self, skipped)

    @classmethod
    def open(
        cls, path: str | os.PathLike[str] | FeatureCache, *, partial: bool = False, damaged: bool = False
    ) -> FeatureCache:
        """Open a cache for reading.

        The object keeps reading this file, even if another file gets its name later.

        Parameters
        ----------
        path : path-like, str or FeatureCache
            A file, or a URL, whose file is copied into the user's cache folder first. An open cache is returned as it
            is.
        partial : bool, default False
            Also open an unfinished cache, by its own name (NAME.h5.partial) or by that of the cache to be, even while
            it is being written.
        damaged : bool, default False
            Also open a cache whose records of the rows present contradict each other; checksums show which rows are
            intact.

        Returns
        -------
        FeatureCache

        Raises
        ------
        NotACacheError
            There is no such file, or it is another file, or its tables are damaged.
        CacheVersionError
            Another version of featcache wrote it.
        CacheIncompleteError
            It is unfinished.
        CacheBusyError
            Another process writes it.
        CacheDamagedError
            Its records of the rows present contradict each other.

        Examples
        --------
        >>> import tempfile
        >>> from featcache import FeatureCache
        >>> path = f"{tempfile.mkdtemp()}/cache.h5"
        >>> _ = FeatureCache.from_arrays([[float(i)] for i in range(16)], ["cat", "dog"] * 8, path)
        >>> FeatureCache.open(path).samples.classes
        ('cat', 'dog')
        """
        if isinstance(path, FeatureCache):
            return path
        if remote.is_url(path):
            return opening.open_remote(os.fspath(path), cls.open)
        path = Path(path)
        unfinished = partial_path(path)
        opening.check_exists(path, unfinished)
        try:
            cache = cls(path if path.exists() else unfinished)
        except (FileNotFoundError, NotACacheError):
            if unfinished.exists() or not path.exists():
                raise
            cache = cls(path)  # another process has finished it meanwhile
        if not partial:
            opening.check_usable(cache, path, damaged)
        return cache

    @classmethod
    def from_arrays(
        cls,
        x: ArrayLike,
        y: ArrayLike | Sequence[Any] | None,
        out: str | os.PathLike[str] | None = None,
        *,
        classes: Sequence[str] | None = None,
        split: Sequence[str] | None = None,
        ids: Sequence[str] | None = None,
        groups: Sequence[Any] | None = None,
        name: str = "",
        val_fraction: float = 0.2,
        seed: int = 0,
        overwrite: bool = False,
    ) -> FeatureCache:
        """Make a cache from your own features (CLIP, DINO, text, tables), for heads, comparisons, curves and `doctor`.

        Functions that need images or the network raise CacheMismatchError for such a cache.

        Parameters
        ----------
        x : array-like or torch.Tensor, shape (n, d) or (n, v, d)
            Finite numbers. The first of v views is the clean one. float16 is stored as float16, anything else as
            float32.
        y : array-like, shape (n,) or (n, c), or None
            Class names, or integers that index `classes`; -1, None, NaN and "" mean no label. Or 0 and 1 in shape
            (n, c) for samples with several labels, a row of -1 or NaN if they are not known. None: no labels at all.
        out : path-like, optional
            The cache file. None makes a temporary one, which is deleted with this object.
        classes : sequence of str, optional
            Names of the classes, for integers in y or the columns of y. None uses the numbers.
        split : sequence of str, optional
            "train", "val" or "test" for each sample. None holds out a stratified `val_fraction` as val.
        ids : sequence of str, optional
            A unique name for each sample. None numbers them.
        groups : sequence, optional
            What each sample has in common with others, such as a patient or a document; None or "" for a sample without
            a group. Splits and folds keep groups together.
        name : str, default ""
            Name of the features, for reports.
        val_fraction : float, default 0.2
            Fraction that is held out if `split` has no val.
        seed : int, default 0
            Seed of that split.
        overwrite : bool, default False
            Replace an existing file.

        Returns
        -------
        FeatureCache
            Rows of train first, then val, test, and samples without a label.

        Raises
        ------
        DataLayoutError
            Shapes, labels or splits do not fit.
        CacheError
            `out` exists.

        Examples
        --------
        >>> import numpy as np
        >>> from featcache import FeatureCache, fit_head
        >>> rng = np.random.default_rng(0)
        >>> y = np.array(["cat", "dog"] * 50)
        >>> x = rng.normal(size=(100, 8)) + 3 * (y == "dog")[:, None]
        >>> cache = FeatureCache.from_arrays(x, y, name="my encoder")
        >>> fit_head(cache).accuracy.accuracy
        1.0
        """
        settings: dict[str, Any] = {"classes": classes, "split": split, "ids": ids, "groups": groups, "name": name}
        settings |= {"val_fraction": val_fraction, "seed": seed, "overwrite": overwrite}
        return opening.open_written(out, lambda path: write_arrays(path, x, y, **settings), cls.open)

    @classmethod
    def from_parquet(
        cls,
        path: str | os.PathLike[str],
        out: str | os.PathLike[str] | None = None,
        *,
        vector_column: str | None = None,
        label_column: str | None = None,
        split_column: str | None = None,
        path_column: str | None = None,
        group_column: str | None = None,
        name: str | None = None,
        val_fraction: float = 0.2,
        seed: int = 0,
        overwrite: bool = False,
    ) -> FeatureCache:
        """Make a cache from a Parquet file, such as `export_features` writes, which is read into memory.

        It needs the extra `parquet`. Rows with the same `sha256`, if there is such a column, count as copies.

        Parameters
        ----------
        path : path-like
            The Parquet file.
        out : path-like, optional
            See `from_arrays`.
        vector_column : str, optional
            Lists of numbers of equal length; float16 is kept, anything else is stored as float32. None: `vector`.
        label_column : str, optional
            Class names, or lists of them or "a|b" for several labels; null and "" mean no label. None: `label`.
        split_column : str, optional
            "train", "val", "test" or "unlabeled". None: `split`, or without it as in `from_arrays`.
        path_column : str, optional
            A unique name for each sample. None: `path`, or without it numbers.
        group_column : str, optional
            See `from_arrays`. None: `group`, or without it no groups.
        name : str, optional
            Name of the features, for reports. None: that of the network, if the file says it.
        val_fraction : float, default 0.2
            See `from_arrays`.
        seed : int, default 0
            See `from_arrays`.
        overwrite : bool, default False
            See `from_arrays`.

        Returns
        -------
        FeatureCache

        Raises
        ------
        DataLayoutError
            A column is missing, or its cells do not fit.
        MissingExtraError
            pyarrow is not installed.
        CacheError
            `out` exists.
        """
        from featcache.cache.tables.read import read_parquet  # the sources of samples take 30 ms

        columns = {"vector": vector_column, "label": label_column, "split": split_column, "path": path_column}
        table = read_parquet(path, columns | {"group": group_column}, name)
        settings = {**vars(table), "val_fraction": val_fraction, "seed": seed, "overwrite": overwrite}
        return opening.open_written(out, lambda target: write_arrays(target, **settings), cls.open)

    def features(
        self, split: str = "train", layer: str = PENULTIMATE, *, images: slice = slice(None), check: bool = True
    ) -> Features:
        """The features of one split, without skipped samples.

        Parameters
        ----------
        split : {"train", "val", "test", "unlabeled"}, default "train"
            The split. In "unlabeled" the labels are -1, or rows of 0 for samples with several labels.
        layer : str, default "penultimate"
            One layer, several joined by commas, or a set such as "all". Several layers lie side by side.
        images : slice, default slice(None)
            Which of the m samples of the split to take.
        check : bool, default True
            Whether to compare the rows with their checksums.

        Returns
        -------
        Features
            x has shape (m, v, d), with v = 1 + K, or fewer if the split was extracted with fewer views: val and test
            have the clean view alone by default. x is a memory-mapped ndarray; it is a `LazyRows` if samples were
            skipped or for several layers.

        Raises
        ------
        CacheDamagedError
            A row does not match its checksum.
        CacheIncompleteError
            There is no such layer.
        """
        names, rows = self.layers(layer), self.readable_rows(split)
        views = int(self.done[rows].min()) if len(rows) else 1
        rows = rows[images]
        if check:
            opening.check_rows(self, rows, split)
        parts = [self.layout.layers[name].view(self.layout.data)[:, :views] for name in names]
        if len(parts) > 1:
            return Features(LazyRows(ConcatenatedFeatures(tuple(parts)), rows), self.samples.take(rows))
        x, index = parts[0], as_slice(rows)
        return Features(x[index] if isinstance(index, slice) else LazyRows(x, rows), self.samples.take(rows))

    def summary(self) -> DataSummary:
        """The data that the cache was made from, without images that could not be read."""
        seed = self.provenance.get("split_seed", 0) if self.provenance.get("val_is_held_out") else None
        readable, modality = self.done > 0, self.spec.modality
        return summarize(str(self.path), self.samples, held_out_seed=seed, readable=readable, modality=modality)

    def readable_rows(self, split: str) -> NDArray[np.int64]:
        """Row numbers of a split, without samples that could not be read; shape (m,), int64.

        Parameters
        ----------
        split : str
            "train", "val", "test" or "unlabeled".
        """
        rows = self.samples.rows(split)
        return rows[self.done[rows] > 0]

    def layers(self, requested: str) -> tuple[str, ...]:
        """The layers that a text selects, see `choose_layers`. Raises CacheIncompleteError.

        Parameters
        ----------
        requested : str
            Names with commas between them, or "all".
        """
        return opening.layers_of(self, requested)

    def require_images(self, what: str) -> None:
        """Raise CacheMismatchError if the cache was made from arrays; `what` needs images."""
        if is_arrays(self.spec.backbone):
            raise CacheMismatchError(f"{what} is not possible: {no_network(self.spec.backbone)}.")

    @property
    def split_options(self) -> dict[str, Any]:
        """How the images were split: arguments of `read_manifest`."""
        return manifest_keywords(self.provenance)

    @property
    def size_bytes(self) -> int:
        """Size of the file."""
        return self.path.stat().st_size

    def to_dict(self) -> dict[str, Any]:
        """What the cache holds, as JSON values."""
        return cache_to_dict(self)

    def __str__(self) -> str:
        """What the cache holds, for people."""
        return describe_cache(self)

    def write_list(self, path: str | os.PathLike[str]) -> None:
        """Write all skipped and unlabeled images to a CSV file: kind, image, other, reason."""
        unlabeled = self.samples.take(self.samples.rows(UNLABELED)).ids
        write_list(path, list_inputs([], self.skipped, {UNLABELED: unlabeled}))

    def check_matches(self, spec: ExtractSpec, samples: Samples, data: str = "DATA") -> None:
        """Raise CacheMismatchError unless the cache was made with this spec from these samples.

        Parameters
        ----------
        spec : ExtractSpec
            The requested settings.
        samples : Samples
            The requested samples.
        data : str
            Name of the images in the message. Default: DATA.
        """
        check_spec(self.path, self.spec, spec, data)
        check_samples(self.path, self.samples, samples, data)
