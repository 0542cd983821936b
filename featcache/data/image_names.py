"""Names of image files that this installation can read."""

from __future__ import annotations

from functools import cache
from importlib.util import find_spec
from pathlib import Path

from PIL import features

from featcache.data.file_types import ALWAYS, HEIC, OPTIONAL, is_placeholder


@cache
def image_extensions() -> frozenset[str]:
    """The extensions of image files that this installation reads, in lower case, with their dot."""
    built_in = {*features.modules, *features.codecs}  # older versions of Pillow lack some of them
    optional = {suffix for name in OPTIONAL if name in built_in and features.check(name) for suffix in OPTIONAL[name]}
    return ALWAYS | optional | (HEIC if find_spec("pillow_heif") else frozenset())


def is_image_name(path: Path) -> bool:
    """Whether the extension is one of an image, and the name not that of a placeholder."""
    return path.suffix.lower() in image_extensions() and not is_placeholder(path)
