"""`rename_keys`: other names that wrappers and lists of layers give to the tensors of a network, made its own."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Size, Tensor

from featcache.backbones.weights.checkpoint import is_averaged, with_metadata

_WRAPPERS = frozenset({"_orig_mod", "_checkpoint_wrapped_module", "_fsdp_wrapped_module"})
"""Parts of names that torch.compile, activation checkpointing and FSDP put before those of the module they wrap."""


@dataclass(frozen=True)
class RenamedState:
    """A state dict by other names.

    done : how they came about. outside : names of what has none. names : the former ones, by those in `state`.
    rename : makes the latter of the former, behind a prefix.
    """

    state: OrderedDict[str, Tensor]
    done: str
    outside: list[str]
    names: Mapping[str, str]
    rename: Callable[[str], str | None]

    def origin(self, prefix: str) -> str:
        """The prefix in the file of what lies behind a prefix here."""
        new, old = next((item for item in self.names.items() if item[0].startswith(prefix)), ("", ""))
        parts = old.split(".")
        for depth in range(len(parts)):
            if self.rename(".".join(parts[depth:])) == new[len(prefix) :]:
                return "".join(f"{part}." for part in parts[:depth])
        return prefix


def rename_keys(
    state: Mapping[str, Tensor], needed: Mapping[str, Size], parts: Sequence[str], matches: int
) -> Iterator[RenamedState]:
    """Other readings of a state dict's names.

    Without the wrappers of inner modules; the numbers of `nn.Sequential(*network.children())` as the parts of the
    network that they count; or those of one of its parts alone, such as `network.features`.

    Parameters
    ----------
    needed : names and shapes of the network's tensors, without those of its classifier.
    parts : names of the network's children, in their order.
    matches : how many tensors have the network's names and shapes behind some prefix: only what leads to more is given.
    """
    wrappers = sorted({part for name in state for part in name.split(".")} & _WRAPPERS)
    if wrappers:
        yield _under(state, "", _unwrapped, f"stripped {', '.join(wrappers)} from inner names")
    numbered = _numbered(parts)
    roots = {name.split(".")[0] for name in needed}
    readings = [(numbered, "took numbers for the parts of the network in their order")]
    if len(roots) == 1:
        root = next(iter(roots))
        readings.append((lambda name: f"{root}.{name}", f"added the prefix {root}."))
    for rename, done in readings:
        counts = _counts(state, needed, rename)
        prefixes = [prefix for prefix, count in counts.items() if count > matches and 2 * count > len(needed)]
        for prefix in sorted(prefixes, key=lambda prefix: preference(prefix, counts[prefix])):
            said = f"stripped the prefix {prefix}, {done}" if prefix else done
            yield _under(state, prefix, rename, said)


def preference(prefix: str, count: int) -> tuple[int, bool, int, str]:
    """The order in which prefixes are tried. count : how many of the network's tensors lie behind it."""
    return -count, is_averaged(prefix), len(prefix), prefix


def _under(state: Mapping[str, Tensor], prefix: str, rename: Callable[[str], str | None], done: str) -> RenamedState:
    """What lies behind a prefix, by its other names, with the versions of its modules."""
    inside: OrderedDict[str, Tensor] = OrderedDict()
    names: dict[str, str] = {}
    outside = []
    for name, value in state.items():
        other = rename(name[len(prefix) :]) if name.startswith(prefix) else None
        if other is None:
            outside.append(name)
        else:
            inside[other], names[other] = value, name
    return RenamedState(with_metadata(inside, _versions(state, prefix, rename)), done, outside, names, rename)


def _versions(state: Mapping[str, Tensor], prefix: str, rename: Callable[[str], str | None]) -> Any:
    metadata = getattr(state, "_metadata", None)
    if metadata is None:
        return None
    names = {name: rename(name[len(prefix) :]) for name in metadata if name and f"{name}.".startswith(prefix)}
    found = {other: metadata[name] for name, other in names.items() if other is not None}
    return {"": metadata[""], **found} if "" in metadata else found


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
    """How many renamed tensors behind each prefix are the network's."""
    counts: dict[str, int] = {}
    for name, value in state.items():
        parts = name.split(".")
        for depth in range(len(parts)):
            other = rename(".".join(parts[depth:]))
            if other is not None and needed.get(other) == value.shape:
                prefix = "".join(f"{part}." for part in parts[:depth])
                counts[prefix] = counts.get(prefix, 0) + 1
    return counts
