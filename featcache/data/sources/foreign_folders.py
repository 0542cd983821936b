"""Folders without data of the user: those that systems and archives create, and those that featcache wrote."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

SORTED_MARK = ".featcache-sorted"
"""A file in a folder that `featcache predict --move-to` or `--link-to` made."""

TRY_MARK = ".featcache-try"
"""A file in a folder that `featcache try` made, also after an interruption."""

_OF_SYSTEMS = frozenset(
    {
        "@eadir", "#recycle", "#snapshot", "@recycle", "@recently-snapshot", "@sharebin", "lost+found", "__macosx",
        "$recycle.bin", "system volume information", "network trash folder", "temporary items", "found.000",
        "_gsdata_", "__pycache__",
    }
)  # fmt: skip
_OUTPUTS = (
    ("model.json", "run.json"),
    ("model.json", "head.safetensors"),
    ("model.json", "head.skops"),
    ("model.json", "network.safetensors"),
    ("last.pt",),
    ("settings.json", "work"),
    ("report.json", "report.md"),
    ("run.json", "val.csv"),
    ("cache.h5", "report.html"),
    (SORTED_MARK,),
    (TRY_MARK,),
)
"""Files in folders that featcache wrote: saved heads, runs, benchmarks, evaluations, trials, sorted files."""


def is_litter(name: str) -> bool:
    """Whether a file, by its relative POSIX path, is in a hidden folder, or in one that a system or an archive made."""
    return any(part.startswith(".") or part.lower() in _OF_SYSTEMS for part in name.split("/")[:-1])


def keep_data_folders(names: list[str], holds: Callable[[str, str], bool], ignored: Counter[str]) -> list[str]:
    """The folders that may hold data, sorted; the others are counted in `ignored` by their kind.

    Parameters
    ----------
    names : of the folders in one folder.
    holds : whether the folder of the first name holds a file or a folder of the second name.
    """
    data_folders = []
    for name in sorted(names):
        if name.startswith("."):
            ignored["folders: hidden"] += 1
        elif name.lower() in _OF_SYSTEMS:
            ignored[f"folders: {name}, which the system or an archive made"] += 1
        elif any(all(holds(name, mark) for mark in marks) for marks in _OUTPUTS):
            ignored[f"folders: {name}, which featcache wrote"] += 1
        else:
            data_folders.append(name)
    return data_folders
