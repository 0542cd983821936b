"""`load_plain`: the content of a torch file, with stand-ins for objects; it executes no code of the file."""

from __future__ import annotations

import re
import threading
import zipfile
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

ARRAY = re.compile(r"numpy\.(core|_core)\.multiarray\.(_reconstruct|scalar)")
"""Names of NumPy's arrays and scalars in a file."""

_ATTACKS = re.compile(
    r"(os|posix|nt|sys|subprocess|_posixsubprocess|commands|importlib|runpy|shutil|socket|_socket|pty|ctypes|_ctypes"
    r"|code|pdb|timeit|webbrowser|marshal|pickle|_pickle|cPickle|urllib|urllib2)\..*|_?io\.(open|open_code|FileIO)"
    r"|(builtins|__builtin__)\.(__import__|breakpoint|compile|delattr|eval|exec|exit|globals|input|locals|open|quit)"
    r"|(builtins|__builtin__)\.(setattr|vars)"
)
"""Functions of the standard library that run, write or send something, also by their names in Python 2, which most
pickles have. No value beside weights needs them, and a file that names one is refused. Other functions get a stand-in,
and are not called either.
"""

_COMMON = (
    "argparse.Namespace",
    *(f"numpy.{core}.multiarray.{name}" for core in ("core", "_core") for name in ("scalar", "_reconstruct")),
    "numpy.dtype",
    "numpy.ndarray",
    *(f"pathlib{module}.{kind}Path" for module in ("", "._local") for kind in ("Posix", "Windows", "PurePosix")),
)
"""Names that get a stand-in in files from before PyTorch 1.6, whose names cannot be listed."""

_UNKNOWN = re.compile(r"GLOBAL (\S+) (was not an allowed global|whose module)")
_WRONG_CONTAINER = re.compile(r"Can only (SETITEM|append).*got <class '.*\.stand_in_(\d+)'>", re.DOTALL)
"""Messages of PyTorch's unpickler: an unknown name; a stand-in that the file fills as a mapping or a list."""

_LOADING = threading.Lock()
"""PyTorch has one list of stand-ins per process."""


class StandIn:
    """Replaces a value of the file that is not built. It accepts any arguments and any state."""

    name = ""

    def __new__(cls, *_args: Any) -> Any:
        return super().__new__(cls)

    def __init__(self, *_args: Any) -> None:
        pass

    def __setstate__(self, _state: Any) -> None:
        pass


def load_plain(path: Path) -> tuple[Any, list[str]]:
    """The content of a file of `torch.save`, with a `StandIn` for objects of foreign classes.

    PyTorch's restricted unpickler reads it, with a stand-in for each unknown name. Nothing that the file
    names is imported or called, except what the process itself has passed to PyTorch's `add_safe_globals`. A file that
    names functions that run or write something is refused.

    PyTorch's list of stand-ins is global (`torch.load(weights_only=True)` accepts no custom unpickler;
    `weights_only=False` accepts one, but also TorchScript). Files are therefore read one at a time. If another thread
    calls `torch.load(weights_only=True)` meanwhile, it gets stand-ins for the names in this file instead of an error.

    Returns
    -------
    content : mappings of foreign classes are a Counter, lists a list.
    names : of the foreign classes and functions.

    Raises
    ------
    Exception : any exception of PyTorch.
    """
    with _LOADING:
        names = [name for name in _foreign(path, _COMMON) if _has_stand_in(name)]
        kinds: dict[int, type] = {}
        trial = bool(names) and _can_be_mapped(path)  # without the data, until every name has the right stand-in
        while True:
            stand_ins = [(_stand_in(number, name, kinds.get(number)), name) for number, name in enumerate(names)]
            try:
                with torch.serialization.safe_globals(list(stand_ins)):
                    content = torch.load(path, map_location="cpu", weights_only=True, mmap=trial)
                if not trial:
                    return content, names
                trial = False
            except Exception as error:  # a read reveals the object behind a name
                filled, name = _WRONG_CONTAINER.search(str(error)), unknown_name(error)
                if filled and int(filled[2]) not in kinds:
                    kinds[int(filled[2])] = list if filled[1] == "append" else Counter
                elif name and name not in names and _has_stand_in(name):
                    names.append(name)
                elif trial:
                    trial = False
                else:
                    raise


def refused_names(path: Path) -> list[str]:
    """Classes and functions in the file for which it is refused."""
    with _LOADING:
        return [name for name in _foreign(path, ()) if not _has_stand_in(name)]


def unknown_name(error: Exception) -> str:
    """The class or function that PyTorch's unpickler rejects; "" for none. PyTorch leaves out "builtins."."""
    match = _UNKNOWN.search(str(error))
    return "" if match is None else match[1] if "." in match[1] else f"builtins.{match[1]}"


def _foreign(path: Path, default: Sequence[str]) -> list[str]:
    try:
        return sorted(torch.serialization.get_unsafe_globals_in_checkpoint(path))
    except Exception:  # another format
        return list(default)


def _has_stand_in(name: str) -> bool:
    return not _ATTACKS.fullmatch(name)


def _can_be_mapped(path: Path) -> bool:
    """Whether the parts of a zip file are not compressed."""
    try:
        with zipfile.ZipFile(path) as file:
            return all(part.compress_type == zipfile.ZIP_STORED for part in file.infolist())
    except (OSError, zipfile.BadZipFile):
        return False


def _stand_in(number: int, name: str, kind: type | None) -> type:
    """kind : Counter for a mapping (it accepts attributes, and its methods are not called), list, or None."""
    content: dict[str, Any] = {"name": name}
    if kind is not None:
        content["__new__"] = lambda _cls, *_args: kind()
    elif name == "builtins.getattr":  # of a method, which the file may call
        content["__new__"] = lambda cls, *_args: cls
    return type(f"stand_in_{number}", (StandIn,), content)
