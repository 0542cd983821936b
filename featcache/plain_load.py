"""`load_plain`: what a torch file holds, with stand-ins for objects; no code of the file is executed."""

from __future__ import annotations

import re
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

ARRAY = re.compile(r"numpy\.(core|_core)\.multiarray\.(_reconstruct|scalar)")
"""What NumPy's arrays and scalars are named in a file."""

_OF_PYTHON = re.compile(
    r"argparse\.Namespace|array\.array|collections\.(defaultdict|deque)|copyreg\._reconstructor|datetime\.\w+"
    r"|decimal\.Decimal|enum\.\w+|fractions\.Fraction|functools\.partial|logging\.(getLogger|Logger|RootLogger)"
    r"|pathlib\.(_local\.)?\w+|random\.Random|re\._compile|types\.SimpleNamespace|uuid\.\w+"
    r"|builtins\.(bool|bytearray|bytes|complex|dict|float|frozenset|getattr|int|list|object|range|set|slice|str|tuple"
    r"|type)"
)
"""Values of the standard library that trainers save beside the weights; what else of it a file names is an attack."""

_USUAL = (
    "argparse.Namespace",
    *(f"numpy.{core}.multiarray.{name}" for core in ("core", "_core") for name in ("scalar", "_reconstruct")),
    "numpy.dtype",
    "numpy.ndarray",
    *(f"pathlib{place}.{kind}Path" for place in ("", "._local") for kind in ("Posix", "Windows", "PurePosix")),
)
"""Known beforehand, for files of before PyTorch 1.6, whose names cannot be listed."""

_UNKNOWN = re.compile(r"Unsupported global: GLOBAL (\S+) was not an allowed global")
_OTHERWISE_BUILT = re.compile(r"Can only (SETITEM|append).*got <class '.*\.stand_in_(\d+)'>", re.DOTALL)
"""What PyTorch's unpickler says of a name that it does not know, and of what is filled as a mapping or a list is."""


class StandIn:
    """What stands for a value of the file that is not built: it accepts any arguments and any state."""

    name = ""

    def __new__(cls, *_args: Any) -> Any:
        return super().__new__(cls)

    def __init__(self, *_args: Any) -> None:
        pass

    def __setstate__(self, _state: Any) -> None:
        pass


def load_plain(path: Path) -> tuple[Any, list[str]]:
    """The content of a file of `torch.save`, with a `StandIn` for objects of foreign classes.

    PyTorch's own restricted unpickler reads it, and gets a stand-in for each name that it does not know, so that
    nothing that the file names is imported or called. Functions of the standard library have no stand-in: a file that
    names them is refused.

    Returns
    -------
    content : mappings of foreign classes are a Counter, lists a list. names : of the foreign classes and functions.

    Raises
    ------
    Exception : whatever PyTorch raises.
    """
    names = [name for name in _foreign(path, _USUAL) if _has_stand_in(name)]
    kinds: dict[int, type] = {}
    while True:
        stand_ins = [(_stand_in(number, name, kinds.get(number)), name) for number, name in enumerate(names)]
        try:
            with torch.serialization.safe_globals(list(stand_ins)):
                return torch.load(path, map_location="cpu", weights_only=True), names
        except Exception as error:  # what a name is shows while the file is read
            filled, unknown = _OTHERWISE_BUILT.search(str(error)), _UNKNOWN.search(str(error))
            name = unknown[1] if unknown and "." in unknown[1] else f"builtins.{unknown[1]}" if unknown else ""
            if filled and int(filled[2]) not in kinds:
                kinds[int(filled[2])] = list if filled[1] == "append" else Counter
            elif name and name not in names and _has_stand_in(name):
                names.append(name)
            else:
                raise


def refused_names(path: Path) -> list[str]:
    """Classes and functions that the file names, and because of which it is refused."""
    return [name for name in _foreign(path, ()) if not _has_stand_in(name)]


def _foreign(path: Path, otherwise: Sequence[str]) -> list[str]:
    try:
        return sorted(torch.serialization.get_unsafe_globals_in_checkpoint(path))
    except Exception:  # not a file of this PyTorch's format
        return list(otherwise)


def _has_stand_in(name: str) -> bool:
    return name.split(".")[0] not in sys.stdlib_module_names or bool(_OF_PYTHON.fullmatch(name))


def _stand_in(number: int, name: str, kind: type | None) -> type:
    """kind : Counter, which takes items and attributes alike and whose methods are not called; list; or None."""
    content: dict[str, Any] = {"name": name}
    if kind is not None:
        content["__new__"] = lambda _cls, *_args: kind()
    return type(f"stand_in_{number}", (StandIn,), content)
