"""`rename_keys`: undo the names that wrappers and lists of layers give to the tensors of a network."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Size, Tensor

from featcache.backbones.weights.checkpoint import is_averaged, with_metadata

_WRAPPERS = frozenset({"_orig_mod", "_checkpoint_wrapped_module", "_fsdp_wrapped_module"})
"""Parts of names that torch.compile, activation checkpointing and FSDP insert for the module that they wrap."""


@dataclass(frozen=True)
class RenamedState:
    """A state dict by other names.

    Attributes
    ----------
    changes : how the names were changed.
    outside : names of the tensors that have no new name.
    names : former names by new ones.
    rename : the new name of a former one behind a prefix; None if it has none.
    """

    state: OrderedDict[str, Tensor]
    changes: str
    outside: list[str]
    names: Mapping[str, str]
    rename: Callable[[str], str | None]

    def origin(self, prefix: str) -> str:
        """The prefix in the file of the tensors that are behind a prefix now."""
        new, old = next((item for item in self.names.items() if item[0].startswith(prefix)), ("", ""))
        parts = old.split(".")
        for depth in range(len(parts)):
            if self.rename(".".join(parts[depth:])) == new[len(prefix) :]:
                return "".join(f"{part}." for part in parts[:depth])
        return prefix


def rename_keys(
    state: Mapping[str, Tensor], needed: Mapping[str, Size], parts: Sequence[str], matches: int
) -> Iterator[RenamedState]:
    """Other interpretations of a state dict's names.

    They drop the wrappers of inner modules; take the numbers of `nn.Sequential(*network.children())` for the network's
    parts in their order; or take the names as those of the network's only part, such as `network.features`.

    Parameters
    ----------
    needed : shapes of the network's tensors by name, without those of its classifier.
    parts : names of the network's children, in their order.
    matches : number of tensors with names and shapes of the network behind some prefix; an interpretation must exceed
        it.
    """
    wrappers = sorted({part for name in state for part in name.split(".")} & _WRAPPERS)
    if wrappers:
        yield _behind(state, "", _unwrapped, f"stripped {', '.join(wrappers)} from inner names")
    numbered = _numbered(parts)
    roots = {name.split(".")[0] for name in needed}
    interpretations = [(numbered, "took numbers for the parts of the network in their order")]
    if len(roots) == 1:
        root = next(iter(roots))
        interpretations.append((lambda name: f"{root}.{name}", f"added the prefix {root}."))
    for rename, changes in interpretations:
        counts = _counts(state, needed, rename)
        prefixes = [prefix for prefix, count in counts.items() if count > matches and 2 * count > len(needed)]
        for prefix in sorted(prefixes, key=lambda prefix: preference(prefix, counts[prefix])):
            before = f"stripped the prefix {prefix}, " if prefix else ""
            yield _behind(state, prefix, rename, f"{before}{changes}")


def preference(prefix: str, count: int) -> tuple[int, bool, int, str]:
    """Sort key of prefixes, the best first. count : number of the network's tensors behind it."""
    return -count, is_averaged(prefix), len(prefix), prefix


def _behind(
    state: Mapping[str, Tensor], prefix: str, rename: Callable[[str], str | None], changes: str
) -> RenamedState:
    """The tensors behind a prefix, by their new names, with the versions of their modules."""
    inside: OrderedDict[str, Tensor] = OrderedDict()
    names: dict[str, str] = {}
    outside = []
    for name, value in state.items():
        new = rename(name[len(prefix) :]) if name.startswith(prefix) else None
        if new is None:
            outside.append(name)
        else:
            inside[new], names[new] = value, name
    return RenamedState(with_metadata(inside, _versions(state, prefix, rename)), changes, outside, names, rename)


def _versions(state: Mapping[str, Tensor], prefix: str, rename: Callable[[str], str | None]) -> Any:
    metadata = getattr(state, "_metadata", None)
    if metadata is None:
        return None
    names = {name: rename(name[len(prefix) :]) for name in metadata if name and f"{name}.".startswith(prefix)}
    versions = {new: metadata[name] for name, new in names.items() if new is not None}
    return {"": metadata[""], **versions} if "" in metadata else versions


def _unwrapped(name: str) -> str:
    return ".".join(part for part in name.split(".") if part not in _WRAPPERS)


def _numbered(parts: Sequence[str]) -> Callable[[str], str | None]:
    def rename(name: str) -> str | None:
        number, _, rest = name.partition(".")
        if not number.isdecimal() or int(number) >= len(parts):
            return None
        return ".".join(filter(None, [parts[int(number)], rest]))

    return rename


def _counts(
    state: Mapping[str, Tensor], needed: Mapping[str, Size], rename: Callable[[str], str | None]
) -> dict[str, int]:
    """The number of renamed tensors behind each prefix with names and shapes of the network."""
    counts: dict[str, int] = {}
    for name, value in state.items():
        parts = name.split(".")
        for depth in range(len(parts)):
            new = rename(".".join(parts[depth:]))
            if new is not None and needed.get(new) == value.shape:
                prefix = "".join(f"{part}." for part in parts[:depth])
                counts[prefix] = counts.get(prefix, 0) + 1
    return counts
