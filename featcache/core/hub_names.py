"""Names of repositories of the Hugging Face Hub, in the provenance of caches and in model cards."""

from __future__ import annotations

import re

HUB_MODEL = "hub_model"
"""Name in the provenance of a cache of the repository of the backbone's weights."""

HUB_DATASET = "hub_dataset"
"""Name in the provenance of a cache of the repository of its data."""

_URL = re.compile(r"^hf://datasets/([\w.-]+/[\w.-]+?)(?:@[^/]*)?(?:/|$)")
_SNAPSHOT = re.compile(r"(?:^|[/\\])datasets--([\w.-]+?)--([\w.-]+)[/\\]snapshots(?:[/\\]|$)")


def hub_dataset(place: str) -> str:
    """The repository that data came from, as far as its place tells: a URL of the Hub, or the Hub's cache on a disk.

    Parameters
    ----------
    place : str
        A path or URL of data.

    Returns
    -------
    str
        Such as "user/name"; "" if the place is another one.

    Examples
    --------
    >>> hub_dataset("hf://datasets/user/birds/data/train.parquet")
    'user/birds'
    >>> hub_dataset("photos")
    ''
    """
    if match := _URL.match(place):
        return match[1]
    match = _SNAPSHOT.search(place)
    return f"{match[1]}/{match[2]}" if match else ""
