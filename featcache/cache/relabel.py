"""`relabel`: an open cache with other labels than those of its file."""

from __future__ import annotations

import copy
from collections.abc import Mapping

from featcache.cache.feature_cache import FeatureCache
from featcache.core.samples import SPLITS
from featcache.errors import CacheMismatchError


def relabel(cache: FeatureCache, names: Mapping[int, str], *, join_val: bool = False) -> FeatureCache:
    """The cache as if samples had other labels. Nothing is written; both read the same file.

    Parameters
    ----------
    cache : FeatureCache
    names : mapping of int to str
        New labels by row, see `Samples.relabeled`.
    join_val : bool, default False
        Whether samples of a val split that was drawn, which `update` draws again, come back into train.

    Raises
    ------
    CacheMismatchError
        Samples have several labels.
    """
    if cache.samples.multilabel:
        raise CacheMismatchError(f"{cache.path} has {cache.spec.modality}s with several labels: they need one each")
    relabeled = copy.copy(cache)
    relabeled.samples = cache.samples.relabeled(names)
    if join_val and cache.provenance.get("val_is_held_out"):
        split = relabeled.samples.split
        split[split == SPLITS.index("val")] = SPLITS.index("train")  # its own copy
    return relabeled
