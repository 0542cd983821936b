"""`closest_names`: existing names that are close to a name that does not exist."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Sequence

_MIN_LENGTH = 4  # letters of a text that is searched for within names


def closest_names(name: str, existing: Iterable[str], most: int = 5, prefixes: Sequence[str] = ()) -> list[str]:
    """Up to `most` of the existing names, the best match first.

    First come names that are equal but for case, spaces, - and _, then those that hold the name, the shortest first,
    then those that are spelt alike.

    Parameters
    ----------
    prefixes : beginnings of existing names that do not count.

    Examples
    --------
    >>> closest_names("ResNet18", ["resnet34", "resnet18"])
    ['resnet18', 'resnet34']
    """
    plain: dict[str, list[str]] = {}
    for item in existing:
        prefix = next((prefix for prefix in prefixes if item.startswith(prefix)), "")
        plain.setdefault(_plain(item.removeprefix(prefix)), []).append(item)
    target = _plain(name)
    holding = sorted((item for item in plain if target in item), key=len) if len(target) >= _MIN_LENGTH else []
    close = (
        [item for item in (target,) if item in plain] + holding + difflib.get_close_matches(target, plain, most, 0.6)
    )
    return [item for match in dict.fromkeys(close) for item in plain[match]][:most]


def _plain(name: str) -> str:
    return re.sub(r"[\s_\-]", "", name.casefold())


def sizes_near(size: int, patch: int) -> str:
    """The image sizes next to one that patches do not fill, for an error: "--image-size 224 or 238"."""
    below = size // patch * patch
    return f"--image-size {below} or {below + patch}" if below else f"--image-size {patch} or a multiple of it"
