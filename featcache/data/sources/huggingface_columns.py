"""The columns of a Hugging Face data set: which one holds images, and the classes and groups of its rows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from featcache._utils.formatting import brief
from featcache.data.label_columns import choose_label, find_column, label_note
from featcache.errors import DataLayoutError

_IMAGE_NAMES = ("image", "img")

NO_LABELS_HINT = ". If there are no labels yet: add_column('label', [None] * len(dataset))"
"""For data sets without a column of labels."""


def choose_columns(name: str, table: Any, label_column: str | None, notes: dict[str, None]) -> tuple[str, str]:
    """The column of images and the column of labels. What was chosen is added to the notes.

    Parameters
    ----------
    name : str
        What messages call the data set.
    table : datasets.Dataset
        Of one split.
    label_column : str or None
        The column of the labels; None chooses one, see `choose_label`.
    notes : dict
        Lines for people, as keys.
    """
    kinds = {column: _kind(feature) for column, feature in table.features.items()}
    images = [column for column, kind in kinds.items() if kind == "Image"]
    named = [column for column in images if column in _IMAGE_NAMES] or images
    others = [column for column in kinds if column not in images]
    candidates = [column for column in others if kinds[column] == "ClassLabel"]
    if not named and label_column is None and not candidates:
        label = None
    else:
        label = choose_label(name, others, label_column, candidates)
    if not named or label is None:
        raise DataLayoutError(
            f"{name} needs a column of images and one of labels (ClassLabel, or named label); it has "
            + brief([f"{column} ({kind})" for column, kind in kinds.items()])
            + (NO_LABELS_HINT if named else "")
        )
    if len(named) > 1:
        raise DataLayoutError(
            f"{name} has {len(named)} columns of images: {brief(named)}. Name the one to take 'image': "
            f"rename_column({named[0]!r}, 'image')"
        )
    notes[label_note(label, others, candidates)] = None
    if len(images) > 1:
        notes[f"image column: {named[0]} (not {brief([column for column in images if column != named[0]])})"] = None
    return named[0], label


def _kind(feature: Any) -> str:
    """The type of a column; for a list the type of its items. Bytes, and {bytes, path}, are images."""
    import pyarrow

    if isinstance(feature, dict):
        return "Image" if "bytes" in feature else "dict"
    if isinstance(feature, list):
        return _kind(feature[0])
    if (inner := getattr(feature, "feature", None)) is not None:
        return _kind(inner)
    if getattr(feature, "pa_type", None) in (pyarrow.binary(), pyarrow.large_binary()):
        return "Image"
    return type(feature).__name__


def is_list(feature: Any) -> bool:
    """Whether the cells of a column are lists."""
    return isinstance(feature, list) or getattr(feature, "feature", None) is not None


def read_classes(values: Any, feature: Any) -> list[tuple[str, ...] | None]:
    """The class names of each row; None if the label is not known: null, NaN, an empty text, or -1 of a ClassLabel.

    Parameters
    ----------
    values : sequence
        The cells of the column.
    feature : datasets feature
        The type of the column.

    Raises
    ------
    TypeError
        A label has fields; the text is that label.
    IndexError
        A label is a number without a name.
    """
    names = class_names(feature)
    rows: list[tuple[str, ...] | None] = []
    for value in values:
        labels = value if isinstance(value, list) else [value]
        if with_fields := [label for label in labels if isinstance(label, (dict, list))]:
            raise TypeError(str(with_fields[0])[:80])
        if value is None or any(_is_unknown(label) or (names and label == -1) for label in labels):
            rows.append(None)
        else:
            rows.append(tuple(str(names[label] if names and isinstance(label, int) else label) for label in labels))
    return rows


def _is_unknown(label: Any) -> bool:
    """Whether a label is null, NaN or an empty text."""
    return label is None or label != label or (isinstance(label, str) and not label.strip())


def read_groups(name: str, table: Any) -> list[str]:
    """The column "group" of each row; "" for an empty cell, or if there is no such column.

    Parameters
    ----------
    name : str
        What messages call the data set.
    table : datasets.Dataset
        Of one split.

    Raises
    ------
    DataLayoutError
        The column holds lists or fields.
    """
    column = find_column(list(table.features), ("group",))
    if column is None:
        return [""] * len(table)
    feature = table.features[column]
    if is_list(feature) or _kind(feature) not in ("Value", "ClassLabel"):
        raise DataLayoutError(
            f"{name}: the column {column!r} names the group of an image, a text or a number; it is {feature}. Make it "
            f"one of these, or rename it if it is not a group: rename_column({column!r}, ...)"
        )
    return ["" if group is None or group != group else str(group).strip() for group in table[column]]


def class_names(feature: Any) -> Sequence[str] | None:
    """The class names of a ClassLabel, or of a list of such."""
    inner = feature[0] if isinstance(feature, list) else getattr(feature, "feature", feature)
    return getattr(inner, "names", None)
