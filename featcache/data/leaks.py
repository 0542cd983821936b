"""`refuse_leaks`: samples of val or test whose copies, or whose group, are in train."""

from __future__ import annotations

import hashlib

from featcache.core.samples import SPLITS, UNLABELLED, Samples
from featcache.data.modality import TEXTS
from featcache.data.sources.base import Source
from featcache.errors import DataLayoutError

EMPTY_SHA256 = hashlib.sha256().digest()
"""Hash of empty files, which are not images."""


def refuse_leaks(data: Source, samples: Samples) -> None:
    """Raise DataLayoutError for copies and groups in two splits. Train rows come first, and so do their copies."""
    source, modality, train = data.name, data.modality, SPLITS.index("train")
    leaks = [
        (a, b)
        for a, b in samples.copies()
        if samples.split[a] == train
        and samples.split[b] not in (train, SPLITS.index(UNLABELLED))
        and samples.sha256[a].tobytes() != EMPTY_SHA256
    ]
    if leaks:
        names = samples.ids if modality is not TEXTS else [data.place(name) for name in samples.ids]
        pairs = "; ".join(f"{names[b]} is {names[a]}" for a, b in leaks[:5])
        near = "" if samples.content_keys is None else " (but for case, white space or Unicode form)"
        raise DataLayoutError(
            f"{source}: {len(leaks)} {modality.plural} of val or test are in train, too{near}: {pairs}. The "
            f"accuracy on them is too high. Remove the copies, or continue with --allow-leak."
        )
    if shared := samples.shared_groups():
        where = (f"{samples.ids[a]} in train, {samples.ids[b]} in {SPLITS[samples.split[b]]}" for _, a, b in shared[:5])
        pairs = "; ".join(f"{name} ({ids})" for (name, _, _), ids in zip(shared, where, strict=False))
        raise DataLayoutError(
            f"{source}: {len(shared)} group{'s are' if len(shared) > 1 else ' is'} in train and in val or test, too: "
            f"{pairs}. {modality.plural.capitalize()} of a group are alike, so the accuracy on them is too high. Keep "
            f"each group in one split, or continue with --allow-leak."
        )
