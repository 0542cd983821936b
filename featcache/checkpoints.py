"""`read_checkpoint`: the state dicts in a weights file, as trainers write them; no code of the file is executed."""

from __future__ import annotations

import re
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from featcache.errors import BackboneError, first_line

_PLAIN_KEYS = ("state_dict", "model_state_dict", "model", "teacher", "network", "net", "weights", "params")
"""Where trainers put the weights, the usual ones first."""

_AVERAGED = re.compile(r"(^|[._])(ema|swa|momentum|student|target|averaged)", re.IGNORECASE)
"""Names of copies that are taken only where there is nothing better, or by name."""

_DEPTH = 4  # of dicts in dicts

_HARMLESS = (
    "argparse.Namespace",
    *(f"numpy.{core}.multiarray.{name}" for core in ("core", "_core") for name in ("scalar", "_reconstruct")),
    "numpy.dtype",
    "numpy.ndarray",
    *(f"pathlib{place}.{kind}Path" for place in ("", "._local") for kind in ("Posix", "Windows", "PurePosix")),
)
"""Values that trainers save beside the weights. They are not needed, and not built: `_Ignored` takes their place."""


@dataclass(frozen=True)
class StateDict:
    """Names to tensors, and where in the file they are: keys joined by dots, "" for the file itself."""

    key: str
    tensors: OrderedDict[str, Tensor]


class _Ignored:
    """What stands for a value of the file that is not needed: it accepts any arguments and any state."""

    def __new__(cls, *_args: Any) -> _Ignored:
        return super().__new__(cls)

    def __init__(self, *_args: Any) -> None:
        pass

    def __setstate__(self, _state: Any) -> None:
        pass


def read_checkpoint(path: Path) -> list[StateDict]:
    """All state dicts of a .safetensors file or a torch file, the one that is usually meant first.

    Raises
    ------
    BackboneError : no such file, a file that cannot be read, that holds code, or that holds no state dict.
    """
    if not path.is_file():
        raise BackboneError(f"there is no weights file {path}")
    content = _read(path)
    found = list(_state_dicts(content)) if isinstance(content, dict) else []
    if not found:
        raise BackboneError(f"{path} does not hold a state dict (names to tensors)")
    return sorted(found, key=_rank)  # stable: equals stay in the order of the file


def with_metadata(tensors: Mapping[str, Tensor], metadata: Any) -> OrderedDict[str, Tensor]:
    """Names to tensors, with the versions of the modules that wrote them, by which modules convert old files."""
    state = OrderedDict(tensors)
    if metadata is not None:
        state._metadata = metadata  # type: ignore[attr-defined]
    return state


def is_averaged(name: str) -> bool:
    """Whether a key or a prefix is that of an averaged copy, or of a network that is trained beside the one meant."""
    return bool(_AVERAGED.search(name)) or name.rstrip(".").endswith("_k")


def _read(path: Path) -> Any:
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            return load_file(path)
        with torch.serialization.safe_globals([(_Ignored, name) for name in _HARMLESS]):
            return torch.load(path, map_location="cpu", weights_only=True)
    except PermissionError as error:
        raise BackboneError(f"{path} cannot be read: permission denied. Ask its owner, or chmod a+r.") from error
    except Exception as error:
        raise BackboneError(
            f"{path} is not a file of plain weights ({_reason(path, error)}). Save it with "
            "torch.save(model.state_dict(), PATH) or as safetensors; files that hold code are not loaded."
        ) from error


def _reason(path: Path, error: Exception) -> str:
    """What of the file is no plain weights; PyTorch's own advice is to execute it."""
    try:
        foreign = torch.serialization.get_unsafe_globals_in_checkpoint(path)
    except Exception:  # not a file of this PyTorch's format
        foreign = []
    foreign = [name for name in foreign if name not in _HARMLESS]
    if foreign:
        more = f" and {len(foreign) - 3} more" if len(foreign) > 3 else ""
        return f"it holds objects of {', '.join(sorted(foreign)[:3])}{more}"
    return first_line(error)


def _state_dicts(content: dict[Any, Any], keys: tuple[str, ...] = ()) -> Iterator[StateDict]:
    """Mappings of names to tensors, with at most a few other values among them."""
    items = list(dict.items(content))  # what a file says of its own methods does not count
    if not all(isinstance(name, str) for name, _ in items):
        return  # an optimizer numbers its parameters
    tensors = {name: value for name, value in items if isinstance(value, Tensor)}
    if 2 * len(tensors) > len(items):
        metadata = vars(content).get("_metadata") if isinstance(content, OrderedDict) else None
        yield StateDict(".".join(keys), with_metadata(tensors, metadata if _are_versions(metadata) else None))
    if len(keys) < _DEPTH:
        for name, value in items:
            if isinstance(value, dict):
                yield from _state_dicts(value, (*keys, name))


def _are_versions(metadata: Any) -> bool:
    return isinstance(metadata, dict) and all(
        isinstance(name, str) and isinstance(value, dict) for name, value in metadata.items()
    )


def _rank(state: StateDict) -> tuple[bool, int, int]:
    last = state.key.rpartition(".")[2]
    place = _PLAIN_KEYS.index(last) if last in _PLAIN_KEYS else len(_PLAIN_KEYS)
    return is_averaged(state.key), state.key.count(".") if state.key else -1, place
