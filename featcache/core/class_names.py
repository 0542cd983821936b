"""Class names that are nearly equal: one class written in two ways is told, in two Unicode forms it is one class."""

from __future__ import annotations

import re
import unicodedata
from collections import defaultdict
from collections.abc import Iterable, Mapping

from featcache._utils.formatting import brief

_NUMBER = re.compile(r"[+-]?\d+(\.\d+)?")
_MISSING = ("nan", "null", "n/a", "na", "#n/a")
_MOST_NOTES = 5


def composed(names: Iterable[str]) -> dict[str, str]:
    """The names that stand for another spelling of theirs: those written in several Unicode forms, to form NFC.

    File systems and programs write ä as one letter (NFC) or as a and a mark (NFD); a reader sees no difference.
    """
    forms: defaultdict[str, set[str]] = defaultdict(set)
    for name in names:
        forms[unicodedata.normalize("NFC", name)].add(name)
    return {name: form for form, spellings in forms.items() if len(spellings) > 1 for name in spellings if name != form}


def name_notes(names: Iterable[str], merged: Mapping[str, str]) -> list[str]:
    """What is odd about class names, a line each, the first few.

    Parameters
    ----------
    names : the class names as they are used.
    merged : see `composed`.
    """
    names = sorted(names)
    notes = [f"class {form!r} is written in several Unicode forms (NFC, NFD): one class" for form in
             sorted(set(merged.values()))]  # fmt: skip
    alike: defaultdict[str, list[str]] = defaultdict(list)
    for name in names:
        alike[_key(name)].append(name)
    groups = [group for group in alike.values() if len(group) > 1]
    notes += [f"classes {_quoted(group)} differ only in {_difference(group)}: if they are one class, write them alike"
              for group in groups]  # fmt: skip
    notes += [f"class {name!r} looks like a missing value, and is trained as a class" for name in names
              if name.strip().casefold() in _MISSING]  # fmt: skip
    more = len(notes) - _MOST_NOTES
    return notes[:_MOST_NOTES] + ([f"{more} more notes on class names"] if more > 0 else [])


def nearest_note(name: str, names: Iterable[str]) -> str:
    """A sentence for a class that is missing among names where one of them is nearly equal; else nothing."""
    near = [other for other in sorted(names) if other != name and _key(other) == _key(name)]
    if not near:
        return ""
    return f" Train has {_quoted(near)}, which differs from {_quote(name)} only in {_difference([name, *near])}."


def _key(name: str) -> str:
    """What nearly equal names have in common."""
    plain = "".join(letter for letter in unicodedata.normalize("NFKC", name) if unicodedata.category(letter) != "Cf")
    plain = plain.strip().casefold()
    if _NUMBER.fullmatch(plain) and len(plain) < 16:
        return repr(float(plain))
    return " ".join(re.sub(r"[\s_-]+", " ", plain).split()) or plain


def _difference(names: list[str]) -> str:
    """In what nearly equal names differ."""
    if all(_NUMBER.fullmatch(name.strip()) for name in names):
        return "how a number is written"
    if len({name.casefold() for name in names}) == 1:
        return "upper and lower case"
    if len({re.sub(r"[\s_-]", "", name) for name in names}) == 1:
        return "spaces, _ and -"
    return "letters that look alike, or cannot be seen"


def _quoted(names: list[str]) -> str:
    return " and ".join(map(_quote, names)) if len(names) < 4 else brief([_quote(name) for name in names], 3)


def _quote(name: str) -> str:
    """The name in quotes, with what does not show, or looks like something else, as its code."""
    odd = any(unicodedata.normalize("NFKC", letter) != letter or unicodedata.combining(letter) for letter in name)
    return ascii(name) if odd else repr(name)
