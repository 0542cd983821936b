"""Refuse a cache that was made with other settings, or from other images, than requested."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Any

from featcache._utils.formatting import format_differences
from featcache.core.samples import Samples
from featcache.core.specs import ExtractSpec
from featcache.errors import CacheMismatchError

if TYPE_CHECKING:
    from featcache.data.sources.base import Source


def check_spec(path: Path, existing: ExtractSpec, requested: ExtractSpec, data: str = "DATA") -> None:
    """Raise CacheMismatchError that names each differing field, both values and what to do."""
    differences = [(name, short_value(a), short_value(b)) for name, a, b in existing.differences(requested)]
    if not differences:
        return
    fields = tuple(name for name, *_ in differences)
    cure = "Extract again to another file, or ask for what the cache has."
    if path.suffix == ".partial":
        cure = f"It is unfinished: continue with its settings, give another file, or remove {path.name}."
    if path.suffix != ".partial" and set(fields) <= {"views", "augment"}:
        is_named = "augment" in fields or not existing.views
        recipe = f" --augment {requested.view.augment.partition('@')[0]}" if is_named else ""
        command = f"`featcache update {shlex.quote(str(path))} {shlex.quote(data)} --views {requested.views}{recipe}`"
        cure = f"Extract these views with {command}; the clean ones are kept."
        if not recipe:
            cure = f"Extract the missing views with {command}."
        if not recipe and requested.views < existing.views:
            cure = f"The cache has these views and more: use it as it is, or drop the others with {command}."
    raise CacheMismatchError(f"{path} was made with {format_differences(differences)}. {cure}", fields)


def check_source(path: Path, existing: ExtractSpec, source: Source) -> None:
    """Raise CacheMismatchError if the cache has features of other samples than the listed data, such as texts."""
    if existing.modality != source.modality.name:
        raise CacheMismatchError(
            f"{path} holds features of {existing.modality}s, and {source.name} holds {source.modality.plural}. Give "
            "the data of the cache."
        )
    joins_columns = existing.view.joins_columns
    if source.joins_columns != joins_columns:
        kinds = {True: "texts of several columns", False: "texts of one column"}
        raise CacheMismatchError(
            f"{path} holds features of {kinds[joins_columns]}, and {source.name} is read as "
            f"{kinds[source.joins_columns]} ({', '.join(source.text_columns) or 'files'}). Name the columns of the "
            "cache with --text-column, or extract to another file."
        )


def check_samples(path: Path, existing: Samples, requested: Samples, data: str = "DATA") -> None:
    """Raise CacheMismatchError if the requested images differ from those of the cache; it names the differences."""
    changes = existing.differences(requested)
    if changes:
        raise CacheMismatchError(
            f"{path} was made from other samples: {'; '.join(changes)}. Extract again to another file, "
            + (
                f"or remove {path.name}."
                if path.suffix == ".partial"
                else f"or bring it up to date with `featcache update {shlex.quote(str(path))} {shlex.quote(data)}`."
            )
        )


def short_value(value: Any) -> str:
    """A setting as short text: lists joined by commas, hashes cut to 12 digits."""
    if isinstance(value, dict):
        return ", ".join(f"{name} {item}" for name, item in value.items())
    text = ",".join(map(str, value)) if isinstance(value, list) else str(value)
    return f"{text[:12]}..." if len(text) == 64 else text
