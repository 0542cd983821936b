"""Uninformative features and identical views are issues; good ones are not."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.testing import assert_allclose
from numpy.typing import NDArray

from featcache.analysis.doctor import feature_checks
from featcache.analysis.doctor.feature_checks import (
    Spread,
    ViewStatistics,
    check_values,
    check_views,
    compare_views,
    effective_rank,
    find_non_finite,
    measure_spread,
    non_finite_check,
)
from featcache.analysis.doctor.findings import IssueExample
from featcache.cache.lazy_arrays import LazyRows


def sound(n: int = 60, d: int = 20) -> NDArray[np.float32]:
    return np.maximum(np.random.default_rng(0).normal(1, 1, (n, d)), 0).astype(np.float32)


def kinds(check: feature_checks.Check) -> list[tuple[str, str]]:
    return [(issue.kind, issue.severity) for issue in check.findings]


def test_dimensions_are_counted_in_any_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    x = sound().astype(np.float16)
    x[:, 3], x[:, 5] = 0, 2.0
    x[:, 6] = 2.0 + 2**-9 * (np.arange(60) % 2)  # one rounding of float16
    x[:, 7] = 2.0 + 2**-6 * (np.arange(60) % 2)
    wide = x.astype(np.float64)
    expected = np.sqrt(((wide - wide.mean(0)) ** 2).sum() / 60) / np.linalg.norm(wide.mean(0))
    for size in (feature_checks.BLOCK_BYTES, 1, 8 * 20 * 7):
        monkeypatch.setattr(feature_checks, "BLOCK_BYTES", size)
        result = measure_spread([x[:13], LazyRows(x, np.arange(13, 60))])
        assert (result.n, result.d, result.dead, result.constant) == (60, 20, 1, 2)
        assert_allclose(result.spread, expected, rtol=1e-9)


def test_rows_that_are_not_finite_in_any_view_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    x = sound()
    x[4, 2], x[30, 0] = np.nan, np.inf
    views = np.stack([x, sound()], axis=1)
    views[7, 1, 3] = -np.inf
    parts = [views[:20], LazyRows(views, np.arange(20, 60))]
    for size in (feature_checks.BLOCK_BYTES, 1, 8 * 40 * 7):
        monkeypatch.setattr(feature_checks, "BLOCK_BYTES", size)
        assert find_non_finite(parts).tolist() == [4, 7, 30]
        assert find_non_finite([part[:, 1:] for part in parts]).tolist() == [7]
    assert kinds(non_finite_check((IssueExample("a.png", "train", "a"),))) == [("not finite", "error")]


def test_layers_of_any_width_and_unit_count_alike_in_the_spread() -> None:
    rng = np.random.default_rng(1)
    narrow, wide = 1 + 0.3 * rng.normal(size=(60, 4)), 1000 + 0.001 * rng.normal(size=(60, 40))
    alone = [measure_spread([part]).spread for part in (narrow, wide)]
    together = measure_spread([np.hstack([narrow, wide])], [4, 40]).spread
    assert together == pytest.approx(np.sqrt(np.mean(np.square(alone))), rel=1e-9)
    assert together > 0.19 > 0.001 > measure_spread([np.hstack([narrow, wide])]).spread


def test_the_effective_rank_of_known_directions() -> None:
    axes = np.concatenate([np.eye(6), -np.eye(6)]) * np.array([1, 2, 3, 4, 5, 6])
    single = np.zeros(len(axes), np.int64)
    assert effective_rank(axes, single) == pytest.approx(6)  # however far each reaches
    assert effective_rank(axes[[0, 1, 6, 7, 0, 6]], single[:6]) == pytest.approx(6**2 / (4**2 + 2**2))
    far = np.repeat([0, 1], 12)
    apart = np.vstack([axes - 1000, axes + 1000])
    assert effective_rank(apart, far) == pytest.approx(6)  # classes far apart are no collapse
    assert effective_rank(apart, 0 * far) == pytest.approx(1, abs=1e-3)
    with_one_far_off = np.vstack([axes, 1e6 * np.ones(6)])
    assert effective_rank(with_one_far_off, np.zeros(13, np.int64)) > 4
    assert effective_rank(np.ones((5, 3)), np.zeros(5, np.int64)) == 0
    assert effective_rank(axes[:3], np.arange(3)) == 0  # classes of one image each


def test_few_idle_dimensions_are_a_note_and_most_an_error() -> None:
    assert kinds(check_values(Spread(60, 20, 0, 0, 1.0), 9)) == []
    assert kinds(check_values(Spread(60, 20, 1, 0, 1.0), 9)) == [("dead dimensions", "note")]
    assert kinds(check_values(Spread(60, 20, 6, 5, 1.0), 9)) == [("dead dimensions", "error")]
    assert kinds(check_values(Spread(1, 20, 0, 20, 0.0), 0)) == []  # of one image every dimension is constant


def test_features_that_are_all_alike_have_collapsed() -> None:
    assert kinds(check_values(Spread(60, 20, 0, 0, 0.02), 9)) == [("collapse", "error")]
    assert kinds(check_values(Spread(60, 20, 0, 0, 1.0), 1.2)) == [("collapse", "error")]
    assert kinds(check_values(Spread(60, 3, 0, 0, 1.0), 1.2)) == []  # of three dimensions one may be the widest
    assert kinds(check_values(Spread(10, 20, 0, 0, 1.0), 1.2)) == []
    alike = 10 + 0.01 * sound()
    assert kinds(check_values(measure_spread([alike]), 9)) == [("collapse", "error")]


def views_of(kind: str) -> NDArray[np.float32]:
    rng = np.random.default_rng(5)
    clean = sound(40)
    views = np.repeat(clean[:, None], 3, axis=1)
    if kind == "different":
        views[:, 1:] += 0.3 * rng.normal(size=(40, 2, 20))
    elif kind == "rounded":
        views = views * (1 + 1e-4 * rng.normal(size=views.shape))
    elif kind == "astray":
        views[:, 1:] = np.maximum(rng.normal(1, 1, (40, 2, 20)), 0)
    elif kind == "half":
        views[:, 2] += 0.3 * rng.normal(size=(40, 20))
    views[:, 0] = clean
    return views.astype(np.float32)


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("different", []),
        ("same", [("identical views", "error")]),
        ("rounded", [("identical views", "error")]),
        ("half", [("identical views", "warning")]),
        ("astray", [("unrelated views", "warning")]),
    ],
)
def test_views_alike_and_views_astray_are_told(kind: str, expected: list[tuple[str, str]]) -> None:
    assert kinds(check_views(compare_views(views_of(kind)), 40, 2, "tutorial")) == expected


def test_views_that_were_not_to_differ_are_a_note() -> None:
    assert kinds(check_views(compare_views(views_of("same")), 40, 2, "none")) == [("identical views", "note")]


def test_how_views_lie_is_measured() -> None:
    assert compare_views(views_of("same")) == ViewStatistics(1.0, 1.0)
    assert compare_views(views_of("half")).same == 0.5
    assert compare_views(views_of("astray")).nearer_to_own == pytest.approx(0.5, abs=0.1)
    far = views_of("same") * np.array([1, 1.015, 1.015], np.float32)[:, None]
    assert (compare_views(far, "fp32").same, compare_views(far, "bf16").same) == (0, 1)
