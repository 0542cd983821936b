"""Names of text files that are samples."""

from __future__ import annotations

from pathlib import PurePath

from featcache.data.file_types import name_suffix

_ABOUT_THE_DATA = frozenset({"readme", "license", "licence", "copying", "changelog", "citation", "requirements"})


def is_text_name(path: PurePath) -> bool:
    """Whether a file is named like a text that is a sample: *.txt, but not README.txt and the like."""
    return path.suffix.lower() == ".txt" and path.stem.lower() not in _ABOUT_THE_DATA


def why_no_text(path: PurePath) -> str:
    """Why a file with this name is passed over, with its extension: "not a text (.pdf)"."""
    suffix = path.suffix.lower()
    if suffix == ".txt":
        return "about the data, not a text of it"
    return f"not a text ({suffix})" if name_suffix(path) else "not a text"
