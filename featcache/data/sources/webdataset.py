"""`pair_labels`: which label file belongs to which sample of a WebDataset: KEY.jpg beside KEY.cls or KEY.json."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from featcache._utils.regular_files import parse_json
from featcache.core.samples import SEPARATOR
from featcache.data.sources.base import SampleRecord
from featcache.errors import DataLayoutError, first_line

LABEL_ENDINGS = (".cls", ".json")


@dataclass(frozen=True)
class LabelFile:
    """The content of a .cls or .json file.

    classes : class names; empty if the file has none.
    several : whether the file may name several classes: "a|b", or a list in JSON.
    group : of a .json file, see `SampleRecord`.
    """

    classes: tuple[str, ...]
    several: bool
    group: str = ""


def read_label(where: str, content: bytes) -> LabelFile:
    """Read a .cls file (a class's name or number) or a .json file ("label", else "cls"; perhaps "group").

    Parameters
    ----------
    where : str
        What messages call the file; it ends in the file's name.
    content : bytes
        Of the file.

    Raises
    ------
    DataLayoutError
    """
    what, group = "label", ""
    try:
        text = content.decode("utf-8").strip()
        value: Any = text
        if where.endswith(".json"):
            record = parse_json(text)
            if isinstance(record, dict) and (value := record.get("group")) is not None:
                what = "group"
                if isinstance(value, (dict, list)):
                    raise ValueError(f"it is {json.dumps(value)[:80]}; it must be a text or a number")
                what, group = "label", str(value).strip()
            value = next((record[field] for field in ("label", "cls") if field in record), None)
        names = value if isinstance(value, list) else str(value).split(SEPARATOR) if value not in (None, "") else []
        if any(name is None or isinstance(name, (dict, list)) for name in names) or isinstance(value, dict):
            raise ValueError(f"it is {json.dumps(value)[:80]}; it must be a text, a number, or a list of such")
        classes = tuple(str(name).strip() for name in names)
        return LabelFile(classes, isinstance(value, list) or len(classes) > 1, group)
    except (ValueError, TypeError) as error:
        raise DataLayoutError(f"{where} has no {what} that can be read: {first_line(error)}") from error


def label_by_key(labels: Mapping[str, LabelFile], ignored: Counter[str]) -> dict[str, LabelFile]:
    """The label of each key: of KEY.cls, else of KEY.json. A KEY.json that differs from KEY.cls is counted.

    labels : label files by name.
    """
    by_key = {_without_ending(name): label for name, label in labels.items() if name.endswith(".cls")}
    for name, label in labels.items():
        if not name.endswith(".json"):
            continue
        key = _without_ending(name)
        chosen = by_key.setdefault(key, label)
        if label.classes and label.classes != chosen.classes:
            ignored["labels in .json that differ from the .cls beside them, which count"] += 1
        if label.group:
            by_key[key] = replace(chosen, group=label.group)
    return by_key


def group_by_folder(
    entries: Iterable[SampleRecord], labels: Mapping[str, LabelFile], ignored: Counter[str]
) -> Iterator[SampleRecord]:
    """The samples of class folders, with the groups in the files beside them, which hold no labels.

    labels : label files by name; those without a group, and those of no sample, are counted.
    """
    groups = {_without_ending(name): label.group for name, label in labels.items() if label.group}
    if without := len(labels) - len(groups):
        ignored["label files without a label"] += without
    used = set()
    for entry in entries:
        key = next((key for key in _keys(entry.id) if key in groups), None)
        used.add(key)
        yield replace(entry, group=groups[key]) if key else entry
    if unused := len(groups.keys() - used):
        ignored["groups without a picture"] += unused


def pair_labels(
    source: str, names: Iterable[str], labels: Mapping[str, LabelFile], ignored: Counter[str]
) -> dict[str, str | None]:
    """The key of the label of each sample.

    A sample belongs to the label with the longest key that its name begins with, up to a dot: `cam1.0.png` to
    `cam1.0.cls`, else to `cam1.cls`. If several samples belong to one label, the one named KEY.EXT is taken and the
    others are counted in `ignored`: masks, depth maps and the like.

    Parameters
    ----------
    source : str
        What messages call the data.
    names : iterable of str
        Of the samples.
    labels : mapping
        Label files by key.
    ignored : Counter
        Counts the files that are passed over, by reason.

    Returns
    -------
    dict
        Key by name; None for a sample that belongs to no label.

    Raises
    ------
    DataLayoutError
        Several samples belong to one label, and no one of them is named KEY.EXT.
    """
    key_of: dict[str, str | None] = {}
    names_of: defaultdict[str, list[str]] = defaultdict(list)
    for name in names:
        key_of[name] = next((key for key in _keys(name) if key in labels), None)
        if key := key_of[name]:
            names_of[key].append(name)
    for key, candidates in names_of.items():
        exact = [name for name in candidates if _without_ending(name) == key]
        if len(candidates) == 1:
            continue
        if len(exact) != 1:
            raise DataLayoutError(
                f"{source}: the label of {key} belongs to {len(candidates)} pictures: {', '.join(candidates[:4])}. "
                f"Give each picture a label file of its own name, or name the one that counts {key}.jpg, .png, ...: "
                "then the others are left out."
            )
        for name in candidates:
            if name != exact[0]:
                ignored["pictures named KEY.x.EXT beside the picture KEY.EXT of their label, as masks are"] += 1
                del key_of[name]
    if unused := len(labels.keys() - names_of.keys()):
        ignored["labels without a picture"] += unused
    return key_of


def _without_ending(name: str) -> str:
    """The name up to the last dot."""
    return name[: name.rindex(".")]


def _keys(name: str) -> Iterator[str]:
    """The keys that a label of this sample may have: the name up to each dot of its last part, the longest first."""
    start = name.rfind("/") + 1
    while (end := name.rfind(".", start)) > start:
        name = name[:end]
        yield name
