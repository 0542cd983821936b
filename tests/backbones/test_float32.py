"""`fp32` is IEEE float32 in a program that uses TF32, and the settings of the program are the same afterwards."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import Any

import numpy as np
import pytest
import torch

from commands import PATHS
from toys import TOY_SIZE, toy_backbone

START = """
import numpy as np, torch
from torch import backends
from toys import toy_backbone, TOY_SIZE

def values():
    settings = [backends, backends.cudnn, backends.cudnn.conv, backends.cudnn.rnn, backends.cuda.matmul,
                backends.mkldnn, backends.mkldnn.conv, backends.mkldnn.matmul, backends.mkldnn.rnn]
    return [setting.fp32_precision for setting in settings]

def legacy_values():
    found = []
    for read in (torch.get_float32_matmul_precision, lambda: backends.cudnn.allow_tf32,
                 lambda: backends.cuda.matmul.allow_tf32):
        try:
            found.append(read())
        except RuntimeError:
            found.append("mixed")
    return found

"""

CHECK = """
toy = toy_backbone(precision=PRECISION)
inside = []
toy.module.register_forward_hook(lambda *_: inside.append((values(), torch.get_float32_matmul_precision())))
before = values(), legacy_values()
toy.embed(np.zeros((2, TOY_SIZE, TOY_SIZE, 3), np.uint8))
assert (values(), legacy_values()) == before
"""

SETTINGS = [
    "",
    "backends.fp32_precision = 'tf32'",
    "backends.fp32_precision = 'ieee'",
    "backends.cuda.matmul.fp32_precision = 'tf32'",
    "backends.cuda.matmul.fp32_precision = 'ieee'",
    "backends.cudnn.conv.fp32_precision = 'tf32'",
    "backends.cudnn.conv.fp32_precision = 'ieee'",
    "backends.cudnn.fp32_precision = 'tf32'; backends.cudnn.rnn.fp32_precision = 'ieee'",
    "backends.mkldnn.fp32_precision = 'bf16'",
    "backends.mkldnn.matmul.fp32_precision = 'bf16'; backends.mkldnn.conv.fp32_precision = 'tf32'",
    "torch.set_float32_matmul_precision('high')",
    "torch.set_float32_matmul_precision('medium')",
    "backends.cuda.matmul.allow_tf32 = True",
    "backends.cudnn.allow_tf32 = False",
]


def run(program: str) -> None:
    """In a process of its own: no assignment gives PyTorch's initial values back."""
    environment = {**os.environ, "PYTHONPATH": PATHS}
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def in_one_process(programs: list[str]) -> None:
    """Each program in a fork of a process that has imported PyTorch."""
    lines = [START, "import os, sys, traceback", "failed = []"]
    for program in programs:
        lines += [
            "child = os.fork()",
            "if not child:",
            "    try:",
            f"        exec({program!r}, globals())",
            "    except BaseException:",
            f"        print({program!r}, traceback.format_exc(), file=sys.stderr, flush=True)",
            "        os._exit(1)",
            "    os._exit(0)",
            "failed += [child] if os.waitpid(child, 0)[1] else []",
        ]
    run("\n".join([*lines, "sys.exit(len(failed))"]))


def test_fp32_is_ieee_and_every_setting_is_restored() -> None:
    inside = "assert all(found == (['ieee'] * 9, 'highest') for found in inside) and inside, inside"
    check = CHECK.replace("PRECISION", "'fp32'")
    in_one_process(["\n".join([setting, check, inside]) for setting in SETTINGS])


def test_bf16_leaves_the_settings_alone() -> None:
    check = CHECK.replace("PRECISION", "'bf16'").replace("torch.get_float32_matmul_precision()", "None")
    inside = "assert all(found == (before[0], None) for found in inside) and inside, inside"
    in_one_process(["\n".join([setting, check, inside]) for setting in SETTINGS])


def test_settings_that_followed_another_one_follow_it_afterwards() -> None:
    embed = CHECK.replace("PRECISION", "'fp32'")
    follow = [
        "for value in ('ieee', 'tf32'):",
        "    backends.fp32_precision = value",
        "    assert values() == [value] * 9, values()",
    ]
    in_one_process(["\n".join([embed, *follow])])


def test_a_setting_that_the_network_changes_does_not_last() -> None:
    """torch.compile assigns `cuda.matmul.fp32_precision` the value that it finds."""
    change = "toy = toy_backbone(precision='fp32')\nwith toy.feature_extractor.exact():\n"
    change += "    backends.cuda.matmul.fp32_precision = 'ieee'\n"
    in_one_process([change + "backends.fp32_precision = 'tf32'\nassert values() == ['tf32'] * 9, values()"])


def test_threads_that_overlap_compute_in_ieee_until_the_last_has_finished() -> None:
    check = """
from featcache.backbones.float32 import ieee_float32
before = values(), legacy_values()
first, second = ieee_float32(), ieee_float32()
first.__enter__()
second.__enter__()
first.__exit__(None, None, None)
assert values() == ['ieee'] * 9, values()
second.__exit__(None, None, None)
assert (values(), legacy_values()) == before
"""
    in_one_process(["\n".join([setting, check]) for setting in SETTINGS])


def test_settings_are_restored_after_an_error() -> None:
    before = torch.backends.cuda.matmul.fp32_precision
    with pytest.raises(ZeroDivisionError), toy_backbone(precision="fp32").feature_extractor.exact():
        raise ZeroDivisionError
    assert torch.backends.cuda.matmul.fp32_precision == before


def test_fp32_features_of_a_bf16_network_are_ieee() -> None:
    extractor = toy_backbone(precision="bf16").feature_extractor
    inside: list[Any] = []
    hook = extractor.network.register_forward_hook(
        lambda *_: inside.append(torch.backends.cuda.matmul.fp32_precision)  # type: ignore[func-returns-value]
    )
    try:
        extractor.embed(np.zeros((1, TOY_SIZE, TOY_SIZE, 3), np.uint8), "fp32")
    finally:
        hook.remove()
    assert inside == ["ieee"]
