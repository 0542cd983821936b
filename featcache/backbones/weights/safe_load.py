"""`load_plain`: what a torch file holds, with stand-ins for objects; no code of the file is executed."""

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
"""What NumPy's arrays and scalars are named in a file."""

_ATTACKS = re.compile(
    r"(os|posix|nt|sys|subprocess|_posixsubprocess|commands|importlib|runpy|shutil|socket|_socket|pty|ctypes|_ctypes"
    r"|code|pdb|timeit|webbrowser|marshal|pickle|_pickle|cPickle|urllib|urllib2)\..*|_?io\.(open|open_code|FileIO)"
    r"|(builtins|__builtin__)\.(__import__|breakpoint|compile|delattr|eval|exec|exit|globals|input|locals|open|quit)"
    r"|(builtins|__builtin__)\.(setattr|vars)"
)
"""What of the standard library runs, writes or sends something, also by its names in Python 2, as most pickles have
them: no value beside weights needs it, and a file that names it is refused. What is missing here has a stand-in, and is
not called either.
"""

_USUAL = (
    "argparse.Namespace",
    *(f"numpy.{core}.multiarray.{name}" for core in ("core", "_core") for name in ("scalar", "_reconstruct")),
    "numpy.dtype",
    "numpy.ndarray",
    *(f"pathlib{place}.{kind}Path" for place in ("", "._local") for kind in ("Posix", "Windows", "PurePosix")),
)
"""Known beforehand, for files of before PyTorch 1.6, whose names cannot be listed."""

_UNKNOWN = re.compile(r"GLOBAL (\S+) (was not an allowed global|whose module)")
_OTHERWISE_BUILT = re.compile(r"Can only (SETITEM|append).*got <class '.*\.stand_in_(\d+)'>", re.DOTALL)
"""What PyTorch's unpickler says of a name that it does not know, and of what is filled as a mapping or a list is."""

_ALONE = threading.Lock()
"""PyTorch has one list of stand-ins for the process."""


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
    nothing that the file names is imported or called, but for what the process itself has given to PyTorch's
    `add_safe_globals`. A file that names functions that run or write something is refused.

    PyTorch takes stand-ins for the whole process (`torch.load(weights_only=True)` accepts no unpickler of one's own;
    `weights_only=False` accepts one, and TorchScript with it). Files are therefore read one at a time, and where
    another thread calls `torch.load(weights_only=True)` meanwhile, it gets stand-ins, too, for the names that this
    file has, instead of an error.

    Returns
    -------
    content : mappings of foreign classes are a Counter, lists a list. names : of the foreign classes and functions.

    Raises
    ------
    Exception : whatever PyTorch raises.
    """
    with _ALONE:
        names = [name for name in _foreign(path, _USUAL) if _has_stand_in(name)]
        kinds: dict[int, type] = {}
        trial = bool(names) and _can_be_mapped(path)  # without the data, until it is known what stands for what
        while True:
            stand_ins = [(_stand_in(number, name, kinds.get(number)), name) for number, name in enumerate(names)]
            try:
                with torch.serialization.safe_globals(list(stand_ins)):
                    content = torch.load(path, map_location="cpu", weights_only=True, mmap=trial)
                if not trial:
                    return content, names
                trial = False
            except Exception as error:  # what a name is shows while the file is read
                filled, name = _OTHERWISE_BUILT.search(str(error)), unknown_name(error)
                if filled and int(filled[2]) not in kinds:
                    kinds[int(filled[2])] = list if filled[1] == "append" else Counter
                elif name and name not in names and _has_stand_in(name):
                    names.append(name)
                elif trial:
                    trial = False
                else:
                    raise


def refused_names(path: Path) -> list[str]:
    """Classes and functions that the file names, and because of which it is refused."""
    with _ALONE:
        return [name for name in _foreign(path, ()) if not _has_stand_in(name)]


def unknown_name(error: Exception) -> str:
    """The class or function that PyTorch's unpickler does not know, which it gives without "builtins"; "" for none."""
    found = _UNKNOWN.search(str(error))
    return "" if found is None else found[1] if "." in found[1] else f"builtins.{found[1]}"


def _foreign(path: Path, otherwise: Sequence[str]) -> list[str]:
    try:
        return sorted(torch.serialization.get_unsafe_globals_in_checkpoint(path))
    except Exception:  # not a file of this PyTorch's format
        return list(otherwise)


def _has_stand_in(name: str) -> bool:
    return not _ATTACKS.fullmatch(name)


def _can_be_mapped(path: Path) -> bool:
    """Whether the parts of a zip file lie in it as they are."""
    try:
        with zipfile.ZipFile(path) as file:
            return all(part.compress_type == zipfile.ZIP_STORED for part in file.infolist())
    except (OSError, zipfile.BadZipFile):
        return False


def _stand_in(number: int, name: str, kind: type | None) -> type:
    """kind : Counter, which takes items and attributes alike and whose methods are not called; list; or None."""
    content: dict[str, Any] = {"name": name}
    if kind is not None:
        content["__new__"] = lambda _cls, *_args: kind()
    elif name == "builtins.getattr":  # of a method, which the file may call in turn
        content["__new__"] = lambda cls, *_args: cls
    return type(f"stand_in_{number}", (StandIn,), content)
