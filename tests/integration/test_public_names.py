"""Deprecated public names work and warn."""

from __future__ import annotations

import re

import pytest

import featcache
from featcache import errors
from featcache.analysis.doctor.findings import DoctorReport, Issue

RENAMED = {
    "Diagnosis": "analysis.doctor.findings.DoctorReport",
    "Finding": "analysis.doctor.findings.Issue",
    "Recipe": "TrainConfig",
    "compare": "benchmark",
    "examine": "doctor",
    "label_curve": 'curve(over="labels")',
    "measure_rates": "plan",
    "plan_capacity": "plan",
    "view_curve": 'curve(over="views")',
}
SAME = {"Diagnosis": DoctorReport, "Finding": Issue}
PARTS = ("label_curve", "measure_rates", "plan_capacity", "view_curve")


@pytest.mark.parametrize(("old", "new"), RENAMED.items())
def test_a_deprecated_name_works_and_names_the_new_one(old: str, new: str) -> None:
    text = re.escape(f"featcache.{old} is deprecated: use featcache.{new}")
    with pytest.warns(DeprecationWarning, match=f"^{text}$") as caught:
        value = getattr(featcache, old)
    assert [warning.filename for warning in caught] == [__file__]
    if old not in PARTS:
        assert value is (SAME.get(old) or getattr(featcache, new))
    assert callable(value)
    assert old not in featcache.__all__
    if old not in SAME:
        assert new.split("(")[0] in featcache.__all__


def test_a_removed_name_says_what_replaces_it() -> None:
    assert "forecast" not in featcache.__all__
    with pytest.raises(
        AttributeError, match=r"^featcache\.forecast was removed: .*featcache\.benchmark\(data, budget_s="
    ):
        featcache.forecast  # type: ignore[attr-defined]  # noqa: B018


def test_the_former_name_of_an_error_works_and_names_the_new_one() -> None:
    text = re.escape("featcache.errors.DownloadError is deprecated: use featcache.errors.RemoteIOError")
    with pytest.warns(DeprecationWarning, match=f"^{text}$") as caught:
        assert getattr(errors, "DownloadError") is errors.RemoteIOError  # noqa: B009
    assert [warning.filename for warning in caught] == [__file__]
    with pytest.raises(AttributeError, match="has no attribute 'UploadError'"):
        getattr(errors, "UploadError")  # noqa: B009
