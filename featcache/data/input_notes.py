"""`input_notes`: which samples and files are not used: the first few of each kind, the number, and a list of all."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from featcache._utils.files import text_output
from featcache._utils.formatting import csv_row, printable
from featcache.data.file_types import count_ignored

SHOWN = 5
"""How many of a kind are named in text; `--list` names all."""

Pairs = Sequence[tuple[str, str]]

ListedImage = tuple[str, str, str, str]
"""Kind, image, other image or "", reason or ""."""

_COLUMNS = ("kind", "image", "other", "reason")
_REMARKS = {
    "first of several pages": ("has several pages; the first is used", "have several pages; the first is used"),
    "first of several frames": ("has several frames; the first is used", "have several frames; the first is used"),
    "dark, as it uses few of its bits": (
        "is dark, as it uses few of its bits",
        "are dark, as they use few of their bits",
    ),
}
"""Remark -> the phrases for one image and for several, if they are not "is" or "are" and the remark."""


_OF_THE_RANGE = ("nearly black", "clipped by the value range", "dark, as it uses few of its bits")


def input_notes(ignored: Mapping[str, int], conflicts: Pairs, skipped: Pairs, modality: str = "image") -> list[str]:
    """Lines on files and samples that were passed over, conflict or could not be read; a few of each kind.

    Parameters
    ----------
    ignored : number of files or folders that were passed over, by reason; a reason of folders begins with "folders: ".
    conflicts : pairs of samples with equal content and different labels.
    skipped : pairs (sample, reason) of those that could not be read.
    modality : what the samples are, "image" or "text".
    """
    lines = [f"ignored {count_ignored(reason, count)}" for reason, count in ignored.items()]
    lines += first_few(
        [f"conflict: {printable(a)} and {printable(b)} are one {modality} with two labels" for a, b in conflicts],
        "conflicts of this kind",
    )
    named = [f"skipped {printable(name)}: {reason}" for name, reason in skipped]
    if len(skipped) > SHOWN:
        reasons = Counter(reason for _, reason in skipped).most_common()
        summary = "; ".join(f"{count} {reason}" for reason, count in reasons[:3])
        others = sum(count for _, count in reasons[3:])
        lines.append(
            f"skipped {len(skipped)} {modality}s: {summary}{f'; {others} for other reasons' if others else ''}"
        )
    return lines + first_few(named, f"skipped {modality}s")


def first_few(lines: Sequence[str], what: str, shown: int = SHOWN) -> list[str]:
    """The first lines, and how many more there are. what : of what, in the plural."""
    more = len(lines) - shown
    return [*lines[:shown], *([f"and {more} more {what}: --list FILE.csv names them all"] if more > 0 else [])]


def name_changes(changes: Mapping[str, Sequence[str]], modality: str = "image") -> list[str]:
    """Changes of samples by kind, see `Samples.changes`: the first few of each."""
    lines = []
    for kind, names in changes.items():
        lines += first_few([f"{kind}: {printable(name)}" for name in names], f"{modality}s {kind}")
    return lines


def list_inputs(
    conflicts: Pairs, skipped: Pairs, changes: Mapping[str, Sequence[str]], remarks: Pairs = ()
) -> list[ListedImage]:
    """All images that `input_notes` and `name_changes` count, for `write_list`."""
    rows = [("conflict", a, b, "equal content, different labels") for a, b in conflicts]
    rows += [("skipped", name, "", reason) for name, reason in skipped]
    rows += [("remark", name, "", remark) for name, remark in remarks]
    return rows + [(kind, name, "", "") for kind, names in changes.items() for name in names]


def write_list(path: str | os.PathLike[str], rows: Iterable[ListedImage]) -> None:
    """Write a CSV file with the columns kind, image, other, reason; whole or not at all."""
    with text_output(Path(path)) as file:
        file.write(csv_row(_COLUMNS))
        for row in rows:
            file.write(csv_row(row))


def is_list(path: str | os.PathLike[str]) -> bool:
    """Whether a file is a list that `write_list` wrote, or empty."""
    header = csv_row(_COLUMNS).encode()
    try:
        with open(path, "rb") as file:
            return file.read(len(header)) in (header, b"")
    except OSError:
        return False


def split_remark(remark: str) -> list[str]:
    """The single remarks on an image, see `remarks.Decoded`."""
    return remark.split("; ") if remark else []


def remark_notes(remarks: Pairs, hint: str = "see --value-range", modality: str = "image") -> list[str]:
    """Lines on samples with remarks, one for each kind, with the count and the first name.

    Parameters
    ----------
    remarks : pairs of str
        Id and remark, see `remarks.Decoded`.
    hint : str
        What to do if the range of values is wrong.
    modality : str
        What the samples are, "image" or "text".
    """
    names: dict[str, list[str]] = {}
    for name, remark in remarks:
        for part in split_remark(remark):
            names.setdefault(part, []).append(name)
    lines = []
    for remark, samples in names.items():
        of_one, of_several = _REMARKS.get(remark, (f"is {remark}", f"are {remark}"))
        count = f"1 {modality} {of_one}" if len(samples) == 1 else f"{len(samples)} {modality}s {of_several}"
        example = f" (for example {printable(samples[0])})" if samples[0] else ""
        lines.append(f"{count}{example}{f': {hint}' if remark in _OF_THE_RANGE else ''}")
    return lines
