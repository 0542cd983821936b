"""A few damaged files of each kind that is read back: benchmarks/fuzz.py in small, always the same cases."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).resolve().parents[2] / "benchmarks"))

import fuzz
from fuzz_kinds import KINDS

CASES = 40


@pytest.mark.parametrize("kind", KINDS)
def test_damage_is_named_or_harmless(kind: str) -> None:
    found = fuzz.run(kind, CASES, seed=1)
    slow = "more than a second of processor time"  # depends on the machine
    assert {what: fault for what, fault in found.faults.items() if not what.startswith(slow)} == {}
    assert found.cases == CASES
    assert sum(found.outcomes.values()) == CASES
    assert found.outcomes["the same"] < CASES
