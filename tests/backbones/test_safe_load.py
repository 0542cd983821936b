"""Torch files with values of any class beside the weights: the values are neither built nor called, and methods that a
file defines are ignored.
"""

from __future__ import annotations

import builtins
import datetime
import decimal
import fractions
import os
import random
import shutil
import statistics
import string
import subprocess
import threading
import uuid
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import numpy as np
import pytest
import torch
from torch import nn

from featcache.backbones.weights import safe_load
from featcache.backbones.weights.adapt import adapt
from featcache.backbones.weights.checkpoint import read_checkpoint
from featcache.errors import BackboneError


class Dict(dict[str, Any]):
    pass


class List(list[Any]):
    pass


class Call:
    """Calls a function if the unpickler calls functions that the file names."""

    def __init__(self, function: Callable[..., Any], *args: Any) -> None:
        self.call = (function, args)

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return self.call


def state() -> OrderedDict[str, torch.Tensor]:
    return OrderedDict((f"{number}.weight", torch.full((2,), float(number))) for number in range(4))


def saved(content: Any, folder: Path, **options: Any) -> Path:
    torch.save(content, folder / "w.pth", **options)
    return folder / "w.pth"


def assert_read(path: Path, key: str = "model") -> None:
    states = read_checkpoint(path)
    assert [state_dict.key for state_dict in states] == [key]
    assert list(states[0].tensors) == list(state())
    for name, value in state().items():
        assert torch.equal(states[0].tensors[name], value)


BESIDE: dict[str, Callable[[], Any]] = {
    "string.Template": lambda: string.Template("x"),
    "statistics": lambda: statistics.NormalDist(0, 1),
    "zoneinfo": lambda: ZoneInfo("UTC"),
    "a function of one's own": lambda: saved,
    "functions of Python": lambda: [len, os.path.join, sorted],
    "dates": lambda: [datetime.datetime(2026, 1, 2, tzinfo=datetime.UTC), datetime.timedelta(1)],
    "numbers": lambda: [fractions.Fraction(1, 2), decimal.Decimal("1.5"), 1j, range(3), slice(1, 2)],
    "NumPy": lambda: [np.float64(3), np.ones(3), np.dtype("f4"), np.random.default_rng(0), np.datetime64("2020-01-01")],
    "others": lambda: [uuid.UUID(int=1), random.Random(0), Path("x"), frozenset([1]), bytearray(b"x"), b"x"],
}


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("kind", BESIDE)
def test_values_of_the_standard_library_are_passed_over(kind: str, zipped: bool, tmp_path: Path) -> None:
    content = {"model": state(), "x": BESIDE[kind]()}
    assert_read(saved(content, tmp_path, _use_new_zipfile_serialization=zipped))


ATTACKS: dict[str, tuple[Callable[[Path], Call], str]] = {
    "os": (lambda path: Call(os.mkdir, str(path)), "posix.mkdir"),
    "subprocess": (lambda path: Call(subprocess.check_output, ["touch", str(path)]), "commands.check_output"),
    "shutil": (lambda path: Call(shutil.copy, __file__, str(path)), "shutil.copy"),
    "eval": (lambda path: Call(eval, f"open({str(path)!r}, 'w')"), "builtins.eval"),
    "exec": (lambda path: Call(exec, f"open({str(path)!r}, 'w')"), "builtins.exec"),
    "open": (lambda path: Call(builtins.open, str(path), "w"), "io.open"),
}


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("kind", ATTACKS)
def test_a_file_that_names_what_runs_or_writes_is_refused_by_that_name(kind: str, zipped: bool, tmp_path: Path) -> None:
    call, name = ATTACKS[kind]
    content = {"model": state(), "x": call(tmp_path / "sprung"), "y": np.ones(1)}
    path = saved(content, tmp_path, _use_new_zipfile_serialization=zipped)
    with pytest.raises(BackboneError) as error:
        read_checkpoint(path)
    assert f"(it holds objects of {name})" in str(error.value)
    assert not (tmp_path / "sprung").exists()


def test_functions_that_are_not_refused_are_not_called(tmp_path: Path) -> None:
    """A function that is missing from the list of refused ones has a stand-in."""
    log = tmp_path / "sprung"
    assert_read(saved({"model": state(), "x": Call(Path.touch, log), "y": Call(np.save, str(log), 1)}, tmp_path))
    assert not list(tmp_path.glob("sprung*"))


class Versions(nn.Module):
    """A network whose modules use the versions in the file."""

    def __init__(self) -> None:
        super().__init__()
        for number in range(4):
            self.add_module(str(number), nn.Module())
            self.get_submodule(str(number)).weight = nn.Parameter(torch.zeros(2))


NAMES = (
    "items",
    "keys",
    "values",
    "get",
    "copy",
    "update",
    "is_floating_point",
    "clone",
    "detach",
    "dim",
    "to",
    "numel",
)
SHADOWS = dict.fromkeys(NAMES, "no method")


class Shadowed:
    """Read as an OrderedDict whose attributes shadow its methods; it cannot be pickled that way."""

    def __init__(self, content: dict[str, Any], **attributes: Any) -> None:
        self.parts = (OrderedDict, (), {**SHADOWS, **attributes}, None, iter(list(content.items())))

    def __reduce__(self) -> tuple[Any, ...]:
        return self.parts


class ShadowedTensor:
    """Read as a tensor whose attributes shadow its methods."""

    def __init__(self, value: torch.Tensor) -> None:
        self.value = value

    def __reduce__(self) -> tuple[Any, ...]:
        rebuild, args = self.value.__reduce_ex__(2)
        return torch._tensor._rebuild_from_type_v2, (rebuild, torch.Tensor, args, SHADOWS)


@pytest.mark.parametrize("prefix", ["", "module."])
def test_what_a_file_says_of_the_methods_of_its_objects_does_not_count(prefix: str, tmp_path: Path) -> None:
    versions = Shadowed({"": Shadowed({"version": 1}), "module": Shadowed({"version": 1})})
    tensors = {prefix + name: ShadowedTensor(value) for name, value in state().items()}
    states = read_checkpoint(saved(Shadowed(tensors, _metadata=versions), tmp_path))
    adapted = adapt(Versions(), states, [], "w.pth")
    assert list(adapted.state) == list(state())
    assert torch.equal(adapted.state["3.weight"], torch.full((2,), 3.0))
    assert type(adapted.state._metadata) is dict  # type: ignore[attr-defined]
    assert adapted.state._metadata[""]["version"] == 1  # type: ignore[attr-defined]


def test_files_are_read_by_several_threads_and_leave_nothing_behind(tmp_path: Path) -> None:
    contents: dict[str, Any] = {"a": [np.float64(1), np.ones(3)], "b": Dict(a=Dict(b=1)), "c": List([1])}
    for name, beside in contents.items():
        torch.save({"model": state(), "x": beside}, tmp_path / f"{name}.pth")
    before, errors = set(torch.serialization.get_safe_globals()), []

    def read(name: str) -> None:
        for _ in range(20):
            try:
                assert_read(tmp_path / f"{name}.pth")
            except Exception as error:  # shown below
                errors.append(error)

    threads = [threading.Thread(target=read, args=(name,)) for name in (*contents, *contents)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    assert set(torch.serialization.get_safe_globals()) == before


def test_data_are_not_read_again_for_each_foreign_class(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kinds = [type(f"Kind{number}", (base,), {}) for number, base in enumerate((dict, list, dict))]
    for kind in kinds:
        monkeypatch.setitem(globals(), kind.__name__, kind)
        kind.__module__ = __name__
    content = {"model": state(), "x": [kinds[0](a=1), kinds[1]([1]), kinds[2](b=1)]}
    path = saved(content, tmp_path)
    load, mapped = torch.load, []

    def recorded(*args: Any, **options: Any) -> Any:
        mapped.append(options.get("mmap"))
        return load(*args, **options)

    monkeypatch.setattr(torch, "load", recorded)
    assert_read(path)
    assert mapped == [True] * 4 + [False]  # the data are read once


def test_weights_stay_what_they_were_where_the_file_is_written_again(tmp_path: Path) -> None:
    path = saved({"model": state()}, tmp_path)
    tensors = read_checkpoint(path)[0].tensors
    content = bytearray(path.read_bytes())
    path.write_bytes(bytes(len(content)))  # in place
    assert torch.equal(tensors["3.weight"], torch.full((2,), 3.0))


def test_a_file_that_was_packed_again_is_read(tmp_path: Path) -> None:
    """Compressed data cannot be mapped."""
    path = saved({"model": state(), "x": Dict(a=1)}, tmp_path)
    with zipfile.ZipFile(path) as file:
        parts = {name: file.read(name) for name in file.namelist()}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        for name, part in parts.items():
            file.writestr(name, part)
    assert_read(path)


class Plain:
    pass


def test_what_the_process_allows_already_stays_allowed(tmp_path: Path) -> None:
    path = saved({"model": state(), "x": Plain()}, tmp_path)
    with torch.serialization.safe_globals([Plain]):
        content, names = safe_load.load_plain(path)
        assert Plain in torch.serialization.get_safe_globals()
    assert names == []
    assert type(content["x"]) is Plain
