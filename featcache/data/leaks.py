"""`refuse_leaks`: samples of val or test whose copies, or whose group, are in train."""

from __future__ import annotations

import hashlib

from featcache.core.samples import SPLITS, UNLABELED, Samples
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
        and samples.split[b] not in (train, SPLITS.index(UNLABELED))
        and samples.sha256[a].tobytes() != EMPTY_SHA256
    ]
    if leaks:
        pairs = "; ".join(_pair(data, samples, a, b) for a, b in leaks[:5])
        raise DataLayoutError(
            f"{source}: {len(leaks)} {modality.plural} of val or test are in train, too: {pairs}. The accuracy on them "
            f"is too high. Remove the copies, or continue with --allow-leak."
        )
    if shared := samples.shared_groups():
        where = (f"{samples.ids[a]} in train, {samples.ids[b]} in {SPLITS[samples.split[b]]}" for _, a, b in shared[:5])
        pairs = "; ".join(f"{name} ({ids})" for (name, _, _), ids in zip(shared, where, strict=False))
        raise DataLayoutError(
            f"{source}: {len(shared)} group{'s are' if len(shared) > 1 else ' is'} in train and in val or test, too: "
            f"{pairs}. {modality.plural.capitalize()} of a group are alike, so the accuracy on them is too high. Keep "
            f"each group in one split, or continue with --allow-leak."
        )


def _pair(data: Source, samples: Samples, a: int, b: int) -> str:
    """A row of train and its copy in words; ids of texts in columns are hashes, which nobody can find."""
    first, second = (data.place(samples.ids[row]) if data.has_text_column else samples.ids[row] for row in (a, b))
    is_equal = samples.sha256[a].tobytes() == samples.sha256[b].tobytes()
    return f"{second} is {first}{'' if is_equal else ' but for case, white space or Unicode form'}"
