"""`find_candidates`: the parts of a checkpoint that may be the weights of a network, and the names they may mean."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from torch import Size, Tensor

from featcache.backbones.weights.checkpoint import StateDict, with_metadata
from featcache.backbones.weights.key_names import preference, rename_keys
from featcache.errors import BackboneError

_MOST_PREFIXES = 6


@dataclass(frozen=True)
class Candidate:
    """A state dict behind a prefix.

    Attributes
    ----------
    key : where the state dict is in the file.
    changes : how its names were changed; "" for no change.
    prefix : the prefix after these changes. origin : the prefix in the file.
    inside : tensors behind the prefix, without it. outside : names of the other tensors.
    matches : number of tensors with names and shapes of the network.
    """

    key: str
    changes: str
    prefix: str
    origin: str
    inside: OrderedDict[str, Tensor]
    outside: list[str]
    matches: int


def select_states(states: Sequence[StateDict], key: str | None, source: object) -> Sequence[StateDict]:
    """The state dicts under a key; those that have names below it, for a key that is a prefix. None selects all.

    Raises
    ------
    BackboneError : no state dict has the key.
    """
    if key is None:
        return states
    selected = [state for state in states if state.key == key] or [
        state for state in states if any(name.startswith(f"{key}.") for name in state.tensors)
    ]
    if not selected:
        keys = {state.key for state in states if state.key}
        keys |= {name.split(".")[0] for state in states for name in state.tensors if "." in name}
        raise BackboneError(f"{source} has no weights under {key!r}; there are {', '.join(sorted(keys)[:12])}")
    return selected


def find_candidates(
    states: Sequence[StateDict], key: str | None, needed: Mapping[str, Size], parts: Sequence[str]
) -> Iterator[Candidate]:
    """State dicts without changes, and behind the prefixes that lead to most of the network's names.

    Parameters
    ----------
    states : as `select_states` returns them for this key.
    needed : shapes of the network's tensors by name, without those of the classifiers.
    parts : names of the network's children.
    """
    for state in states:
        counts = _count_matches(state.tensors, needed)
        yield from _behind_prefixes(state.key, state.tensors, counts, None if key == state.key else key)
        tensors, outside, before = state.tensors, [], ""
        if key is not None and key != state.key:  # it is a prefix
            before = f"{key}."
            tensors = _strip_prefix(state.tensors, before)
            outside = [name for name in state.tensors if not name.startswith(before)]
            counts = _count_matches(tensors, needed)
        for renamed in rename_keys(tensors, needed, parts, max(counts.values())):
            changes = f"stripped the prefix {before}, {renamed.changes}" if before else renamed.changes
            for candidate in _behind_prefixes(state.key, renamed.state, _count_matches(renamed.state, needed), None):
                left_out = [*outside, *renamed.outside, *candidate.outside]
                origin = before + renamed.origin(candidate.prefix)
                yield replace(candidate, changes=changes, outside=left_out, origin=origin)


def _behind_prefixes(
    key: str, tensors: OrderedDict[str, Tensor], counts: Mapping[str, int], requested: str | None
) -> Iterator[Candidate]:
    """The candidates of one state dict, the best match first. requested : prefix that they begin with; None for any."""
    prefixes = sorted(counts, key=lambda prefix: (prefix != "", *preference(prefix, counts[prefix])))
    if requested is not None:
        prefixes = [prefix for prefix in prefixes if f"{prefix}.".startswith(f"{requested}.")] or [f"{requested}."]
    for prefix in prefixes[:_MOST_PREFIXES]:
        outside = [name for name in tensors if not name.startswith(prefix)]
        yield Candidate(key, "", prefix, prefix, _strip_prefix(tensors, prefix), outside, counts.get(prefix, 0))


def _strip_prefix(tensors: OrderedDict[str, Tensor], prefix: str) -> OrderedDict[str, Tensor]:
    """The tensors behind a prefix, without it, with the versions of their modules."""
    inside = {name[len(prefix) :]: value for name, value in tensors.items() if name.startswith(prefix)}
    return with_metadata(inside, _strip_versions(getattr(tensors, "_metadata", None), prefix))


def _strip_versions(metadata: Any, prefix: str) -> Any:
    if metadata is None or not prefix:
        return metadata
    inner = {name[len(prefix) :]: value for name, value in metadata.items() if name.startswith(prefix)}
    outer = {"": metadata[prefix[:-1]]} if prefix[:-1] in metadata else {}
    return {**outer, **inner}


def _count_matches(tensors: Mapping[str, Tensor], needed: Mapping[str, Size]) -> dict[str, int]:
    """The number of names and shapes of the network behind each prefix.

    The empty prefix, and those that all names share, are listed without a match too.
    """
    counts = {"": 0}
    for name, value in tensors.items():
        parts = name.split(".")
        for depth in range(len(parts)):
            if needed.get(".".join(parts[depth:])) == value.shape:
                prefix = "".join(f"{part}." for part in parts[:depth])
                counts[prefix] = counts.get(prefix, 0) + 1
    shared = ""
    while len({name[len(shared) :].split(".")[0] for name in tensors}) == 1:
        part = next(iter(tensors))[len(shared) :].partition(".")
        if not part[1]:
            break
        shared += f"{part[0]}."
        counts.setdefault(shared, 0)
    return counts
