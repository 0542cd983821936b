"""Deprecated public names work and warn, and the examples of public functions run."""

from __future__ import annotations

import doctest
import importlib
import re
from pathlib import Path
from types import ModuleType

import pytest

import featcache

RENAMED = {
    "Diagnosis": "DoctorReport",
    "Finding": "Issue",
    "Recipe": "TrainConfig",
    "compare": "benchmark",
    "examine": "doctor",
    "label_curve": 'curve(by="labels")',
    "measure_rates": "plan",
    "plan_capacity": "plan",
    "view_curve": 'curve(by="views")',
}
PARTS = ("label_curve", "measure_rates", "plan_capacity", "view_curve")
EXAMPLES = (
    "analysis.benchmark.verdict",
    "analysis.curves",
    "analysis.doctor.doctor",
    "analysis.forecast.forecast",
    "analysis.planning.capacity",
    "analysis.planning.plan",
    "reports.figures",
    "reports.try_out",
)


@pytest.mark.parametrize(("old", "new"), RENAMED.items())
def test_a_deprecated_name_works_and_names_the_new_one(old: str, new: str) -> None:
    text = re.escape(f"featcache.{old} is deprecated: use featcache.{new}")
    with pytest.warns(DeprecationWarning, match=f"^{text}$") as caught:
        value = getattr(featcache, old)
    assert [warning.filename for warning in caught] == [__file__]
    if old not in PARTS:
        assert value is getattr(featcache, new)
    assert callable(value)
    assert old not in featcache.__all__
    assert new.split("(")[0] in featcache.__all__


@pytest.mark.parametrize("name", EXAMPLES)
def test_examples_run(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    module: ModuleType = importlib.import_module(f"featcache.{name}")
    result = doctest.testmod(module)
    assert result.attempted
    assert result.failed == 0
