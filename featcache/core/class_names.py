"""Similar class names: a note names classes that may be equal; Unicode forms of one name are one class."""

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
    """Map names that occur in several Unicode forms to their NFC form; names in NFC are left out.

    File systems and programs write ä as one character (NFC) or as a and a combining mark (NFD); both look equal.
    """
    forms: defaultdict[str, set[str]] = defaultdict(set)
    for name in names:
        forms[unicodedata.normalize("NFC", name)].add(name)
    return {name: form for form, spellings in forms.items() if len(spellings) > 1 for name in spellings if name != form}


def name_notes(names: Iterable[str], merged: Mapping[str, str]) -> list[str]:
    """Notes on unusual class names, one line each, at most `_MOST_NOTES` and a line with the number of others.

    Parameters
    ----------
    names : the class names in use.
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
    """A sentence with the existing names that are similar to a missing class; "" if there is none."""
    near = [other for other in sorted(names) if other != name and _key(other) == _key(name)]
    if not near:
        return ""
    return f" Train has {_quoted(near)}, which differs from {_quote(name)} only in {_difference([name, *near])}."


def _key(name: str) -> str:
    """A key that is equal for similar names."""
    plain = "".join(letter for letter in unicodedata.normalize("NFKC", name) if unicodedata.category(letter) != "Cf")
    plain = plain.strip().casefold()
    if _NUMBER.fullmatch(plain) and len(plain) < 16:
        return repr(float(plain))
    return " ".join(re.sub(r"[\s_-]+", " ", plain).split()) or plain


def _difference(names: list[str]) -> str:
    """How similar names differ."""
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
    """The name in quotes; invisible and ambiguous characters are escaped."""
    odd = any(unicodedata.normalize("NFKC", letter) != letter or unicodedata.combining(letter) for letter in name)
    return ascii(name) if odd else repr(name)
