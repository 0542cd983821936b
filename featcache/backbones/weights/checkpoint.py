"""`read_checkpoint`: the state dicts in a weights file of any trainer; it executes no code of the file."""

from __future__ import annotations

import re
import sys
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from featcache._utils.zip_checksums import damaged_part
from featcache.backbones.weights.safe_load import ARRAY, StandIn, load_plain, refused_names, unknown_name
from featcache.errors import BackboneError, first_line

_PLAIN_KEYS = ("state_dict", "model_state_dict", "model", "teacher", "network", "net", "weights", "params")
"""Keys under which trainers store the weights, the most common first."""

_AVERAGED = re.compile(r"(^|[._])(ema|swa|momentum|student|target|averaged)", re.IGNORECASE)
"""Names of averaged copies, which are used only by name or if the file has nothing else."""

_DEPTH = 4  # of nested dicts and lists
_LEAST_TENSORS = 10  # in a dict of a list: those of an optimizer have fewer

_CURE = "Save it with torch.save(model.state_dict(), PATH) or as safetensors; files that hold code are not loaded."

_KINDS = (
    (re.compile(rb"version https://git-lfs"), "a git-lfs pointer in place of the weights: run `git lfs pull`"),
    (re.compile(rb"\s*(<!doctype html|<html)", re.IGNORECASE), "a web page (HTML): download the weights again"),
    (re.compile(rb"\s*[{\[]"), "a text in JSON, such as the index of several files"),
    (re.compile(rb"\x89HDF\r\n"), "an HDF5 file, as Keras and featcache's caches are"),
    (re.compile(rb"\x1f\x8b|\xfd7zXZ|BZh"), "an archive: unpack it"),
    (re.compile(rb"PK\x03\x04.{26}[^/]*\.npy", re.DOTALL), "a NumPy archive (.npz), whose arrays are no tensors"),
    (re.compile(rb"$", re.DOTALL), "an empty file"),
)
"""First bytes of files that are not weights."""


@dataclass(frozen=True)
class StateDict:
    """Tensors by name.

    Attributes
    ----------
    key : where they are in the file: keys joined by dots, "" for the file itself.
    unread : other objects in the file, for a message; "" for none.
    """

    key: str
    tensors: OrderedDict[str, Tensor]
    unread: str = ""


def read_checkpoint(path: Path) -> list[StateDict]:
    """All state dicts of a .safetensors file or a torch file, the most likely one first.

    Values of foreign classes (settings, loggers, whole models) are not built.

    Raises
    ------
    BackboneError : the file does not exist, cannot be read, names functions of Python, or holds no state dict.
    """
    if not path.is_file():
        raise BackboneError(f"there is no weights file {path}")
    content, names = _read(path)
    unread = _list_objects(_foreign(names))
    states = list(_state_dicts(content, unread))
    if not states:
        raise BackboneError(_describe_content(path, content, unread))
    return sorted(states, key=_rank)  # stable: equals stay in the order of the file


def with_metadata(tensors: Mapping[str, Tensor], metadata: Any) -> OrderedDict[str, Tensor]:
    """Tensors by name, with the versions of the modules that wrote them; modules convert old files by these."""
    state = OrderedDict(tensors)
    if metadata is not None:
        state._metadata = metadata  # type: ignore[attr-defined]
    return state


def is_averaged(name: str) -> bool:
    """Whether a key or a prefix belongs to an averaged copy, or to a student or momentum network."""
    return bool(_AVERAGED.search(name)) or name.rstrip(".").endswith("_k")


def _read(path: Path) -> tuple[Any, list[str]]:
    """The content, and the foreign classes that it names."""
    try:
        with path.open("rb") as file:
            start = file.read(512)
        if path.suffix == ".safetensors" or _is_safetensors(start, path.stat().st_size):
            from safetensors.torch import load_file

            return load_file(path), []
        if part := damaged_part(path):
            raise BackboneError(
                f"{path} is damaged: its part {part} does not have its checksum. Copy or download the file again."
            )
        return load_plain(path)
    except BackboneError:
        raise
    except PermissionError as error:
        raise BackboneError(f"{path} cannot be read: permission denied. Ask its owner, or chmod a+r.") from error
    except Exception as error:
        raise BackboneError(
            f"{path} is not a file of plain weights ({_reason(path, start, error)}). {_CURE}"
        ) from error


def _is_safetensors(start: bytes, size: int) -> bool:
    """Whether a file begins with the length of a header and a header in JSON, whatever its name."""
    return start[8:9] == b"{" and 8 + int.from_bytes(start[:8], "little") <= size


def _reason(path: Path, start: bytes, error: Exception) -> str:
    """Why a file is not plain weights. PyTorch's message would advise to execute it."""
    refused = refused_names(path)
    if refused:
        return f"it holds {_list_objects(refused)}"
    for pattern, kind in _KINDS:
        if pattern.match(start):
            return f"it is {kind}"
    if "TorchScript" in str(error):
        return "it is a TorchScript program, which is code"
    if path.suffix == ".onnx":
        return "it is an ONNX program"
    if unknown_name(error):  # a file from before PyTorch 1.6
        return f"it holds objects of {unknown_name(error)}"
    if "weights_only" in str(error):
        pickled = "a pickle file, not one of torch.save" if start.startswith(b"\x80") else "no file of torch.save"
        return f"it is damaged, or {pickled}"
    return first_line(error)


def _foreign(names: list[str]) -> list[str]:
    """Names outside of Python and NumPy, whose values are common beside weights and not needed."""
    return [name for name in names if name.split(".")[0] not in {"numpy", *sys.stdlib_module_names}]


def _list_objects(names: list[str]) -> str:
    """Names of classes and functions for a message."""
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return f"objects of {', '.join(sorted(names)[:3])}{more}" if names else ""


def _describe_content(path: Path, content: Any, objects: str) -> str:
    """Why a file that can be read has no state dict."""
    parts = dict(_parts(content))
    arrays = [key for key, value in parts.items() if isinstance(value, StandIn) and ARRAY.fullmatch(value.name)]
    lists = [key for key, value in parts.items() if isinstance(value, (list, tuple)) and _are_tensors(value)]
    if lists:
        return (
            f"{path} holds its tensors in a list, without names ({lists[0]}, as torch_ema writes them). Copy them into "
            "the network (`ema.copy_to(model.parameters())`), and save model.state_dict()."
        )
    if len(arrays) > 1:
        return (
            f"{path} holds {len(arrays)} NumPy arrays (for example {arrays[0]}) and no tensors. Convert them: "
            "torch.save({name: torch.from_numpy(array) for name, array in arrays.items()}, PATH)."
        )
    if objects:
        return f"{path} is not a file of plain weights (it holds {objects}). {_CURE}"
    return f"{path} does not hold a state dict (names to tensors)"


def _parts(content: Any, keys: tuple[str, ...] = ()) -> Iterator[tuple[str, Any]]:
    """All values of nested dicts, with their keys."""
    for name, value in dict.items(content) if isinstance(content, dict) else ():
        yield ".".join((*keys, str(name))), value
        if len(keys) < _DEPTH:
            yield from _parts(value, (*keys, str(name)))


def _are_tensors(values: list[Any] | tuple[Any, ...]) -> bool:
    return len(values) > 1 and all(isinstance(value, Tensor) for value in values)


def _state_dicts(content: Any, unread: str, keys: tuple[str, ...] = ()) -> Iterator[StateDict]:
    """Mappings of names to values, more than half of which are tensors."""
    if isinstance(content, (list, tuple)):
        for number, value in enumerate(content):
            if isinstance(value, dict) and len(keys) < _DEPTH:
                states = _state_dicts(value, unread, (*keys, str(number)))
                yield from (state for state in states if len(state.tensors) >= _LEAST_TENSORS)
        return
    if not isinstance(content, dict):
        return
    items = list(dict.items(content))  # a subclass from the file may override `items`
    if not all(isinstance(name, str) for name, _ in items):
        return  # an optimizer numbers its parameters
    tensors = {name: Tensor.detach(value) for name, value in items if isinstance(value, Tensor)}  # without gradients
    if 2 * len(tensors) > len(items):
        state = with_metadata(tensors, _versions(content))
        yield StateDict(".".join(keys), state, unread)
    if len(keys) < _DEPTH:
        for name, value in items:
            yield from _state_dicts(value, unread, (*keys, name))


def _versions(content: dict[str, Any]) -> dict[str, dict[str, Any]] | None:
    """The versions of the modules that wrote a state dict, in plain dicts; None if it has none."""
    metadata = vars(content).get("_metadata") if isinstance(content, OrderedDict) else None
    if not isinstance(metadata, dict):
        return None
    items = list(dict.items(metadata))
    if not all(isinstance(name, str) and isinstance(value, dict) for name, value in items):
        return None
    return {name: dict(dict.items(value)) for name, value in items}


def _rank(state: StateDict) -> tuple[bool, int, int]:
    last = state.key.rpartition(".")[2]
    rank = _PLAIN_KEYS.index(last) if last in _PLAIN_KEYS else len(_PLAIN_KEYS)
    return is_averaged(state.key), state.key.count(".") if state.key else -1, rank
