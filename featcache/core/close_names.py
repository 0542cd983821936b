"""`closest_names`: the names that are close to one that does not exist."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Sequence

_LEAST = 4  # letters of a text that is searched for within names


def closest_names(name: str, known: Iterable[str], most: int = 5, prefixes: Sequence[str] = ()) -> list[str]:
    """Up to `most` of the known names, the best match first.

    First come names that are equal but for case, spaces, - and _, then those that hold the name, the shortest first,
    then those that are spelt alike.

    Parameters
    ----------
    prefixes : beginnings of known names that do not count.

    Examples
    --------
    >>> closest_names("ResNet18", ["resnet34", "resnet18"])
    ['resnet18', 'resnet34']
    """
    plain: dict[str, list[str]] = {}
    for one in known:
        prefix = next((prefix for prefix in prefixes if one.startswith(prefix)), "")
        plain.setdefault(_plain(one.removeprefix(prefix)), []).append(one)
    wanted = _plain(name)
    holding = sorted((one for one in plain if wanted in one), key=len) if len(wanted) >= _LEAST else []
    close = [one for one in (wanted,) if one in plain] + holding + difflib.get_close_matches(wanted, plain, most, 0.6)
    return [one for match in dict.fromkeys(close) for one in plain[match]][:most]


def _plain(name: str) -> str:
    return re.sub(r"[\s_\-]", "", name.casefold())


def sizes_near(size: int, patch: int) -> str:
    """The image sizes next to one that patches do not fill, for an error: "--image-size 224 or 238"."""
    below = size // patch * patch
    return f"--image-size {below} or {below + patch}" if below else f"--image-size {patch} or a multiple of it"
