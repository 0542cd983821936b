"""Report: the figures of a run as JSON."""

from __future__ import annotations

import json

import numpy as np

from featcache._utils.environment import machine_info, package_versions
from featcache.metrics.classification import evaluate
from featcache.metrics.run_report import Report

VAL = evaluate(np.array([0, 1, 1, 1]), np.array([0, 1, 1, 0]), ("ants", "bees"))
TEST = evaluate(np.array([0, 1]), np.array([1, 1]), ("ants", "bees"))


def test_a_report_is_json_with_the_val_accuracy_at_the_top() -> None:
    report = Report("linear", {"fit": 1.5, "wall": 2.0}, 6, VAL, TEST, size_bytes=10, spec_digest="ab", seed=3)
    fields = report.to_dict()
    assert json.loads(json.dumps(fields, allow_nan=False)) == fields
    assert next(iter(fields)) == "method"
    assert fields == {
        "method": "linear",
        **VAL.to_dict(),
        "seconds": {"fit": 1.5, "wall": 2.0},
        "images": 6,
        "test": TEST.to_dict(),
        "size_bytes": 10,
        "spec_digest": "ab",
        "seed": 3,
        "device": None,
        "precision": None,
        "tf32": None,
        "compiled": None,
        "peak_gpu_memory_bytes": None,
        "peak_memory_bytes": report.peak_memory_bytes,
        "machine": machine_info(),
        "versions": package_versions(),
    }
    assert fields["accuracy"] == 0.75


def test_a_report_without_accuracy_claims_none() -> None:
    fields = Report("extract", {"wall": 1.0}, 6).to_dict()
    assert json.loads(json.dumps(fields, allow_nan=False)) == fields
    assert not set(VAL.to_dict()) & set(fields)
    assert fields["test"] is fields["seed"] is fields["size_bytes"] is fields["spec_digest"] is None
