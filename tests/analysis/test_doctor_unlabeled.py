"""`doctor` with samples that have no label yet: they are in the checks of features, and in none of labels."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from caches import clouds
from diagnoses import find, kinds
from featcache.analysis.doctor import doctor as doctor_module
from featcache.analysis.doctor.doctor import doctor
from featcache.analysis.doctor.findings import DoctorReport
from featcache.cache.feature_cache import FeatureCache

N, LABELED = 260, 200


def features() -> tuple[NDArray[np.float32], list[str | None]]:
    """Four clouds; the last rows have no label."""
    x, y = clouds(N, 4, views=1, d=30, seed=1)
    return x[:, 0].astype(np.float32), [*(f"class {label}" for label in y[:LABELED]), *[None] * (N - LABELED)]


def images_of(report: DoctorReport, kind: str) -> set[tuple[str, str]]:
    issue = find(report, kind)
    assert issue is not None, kinds(report)
    return {(example.image, example.other) for example in issue.images}


def test_copies_of_labeled_images_are_a_note_of_their_own() -> None:
    x, y = features()
    x[250], x[251], x[252] = x[3], x[240], x[3] * 1.0001
    report = doctor(FeatureCache.from_arrays(x, y))
    assert report.images == N
    assert report.status == 0
    assert images_of(report, "copies without a label") == {("250", "003")}
    assert images_of(report, "copies") == {("251", "240")}
    assert ("252", "003") in images_of(report, "near duplicates without a label")
    issue = find(report, "copies without a label")
    assert issue is not None
    assert issue.severity == "note"
    assert issue.what == "1 pair of exact duplicates, one of which has no label"


def test_unlabeled_images_are_in_no_check_of_labels() -> None:
    x, y = features()
    y[5] = "class 1" if y[5] == "class 0" else "class 0"
    alone = doctor(FeatureCache.from_arrays(x[:LABELED], y[:LABELED], ids=[f"{row:03d}" for row in range(LABELED)]))
    beside = doctor(FeatureCache.from_arrays(x, y))
    for name in ("classes", "labels", "overlap"):
        one, other = (next(check for check in report.checks if check.name == name) for report in (alone, beside))
        assert one == other
    assert {example.image for example in find(beside, "wrong labels").images} == {"005"}
    assert "60 unlabeled, 4 classes" in next(check.summary for check in beside.checks if check.name == "images")


def test_an_outlier_without_a_label_is_found() -> None:
    x, y = features()
    x[255] = -20 * x[255]
    assert "255" in {name for name, _ in images_of(doctor(FeatureCache.from_arrays(x, y)), "outliers")}


def test_a_cache_without_labels_is_checked_for_what_needs_none() -> None:
    x, _ = features()
    x[7] = x[8]
    report = doctor(FeatureCache.from_arrays(x, None))
    assert images_of(report, "copies") == {("008", "007")}
    skipped = {check.name: check.summary for check in report.checks if not check.ran}
    assert skipped.keys() == {"input", "views", "classes", "labels", "overlap"}
    assert skipped["labels"] == "not checked: no train image has a label"


def test_of_many_images_those_with_a_label_are_compared(monkeypatch: pytest.MonkeyPatch) -> None:
    x, y = features()
    x[250] = x[3]
    x[150] = x[4] * 1.0001
    monkeypatch.setattr(doctor_module, "_most_images", lambda _: LABELED + 10)
    report = doctor(FeatureCache.from_arrays(x, y))
    near = [issue for issue in report.findings if issue.kind.startswith("near duplicates")]
    assert {example.image for issue in near for example in issue.images} == {"150"}
