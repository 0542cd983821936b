"""Paired differences: by hand, against enumeration and McNemar's test, and how often noise is called a difference."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray
from scipy.stats import t as student

from featcache.metrics.significance import holm, paired_difference, paired_test, sign_flip_p

Right = NDArray[np.bool_]


def _runs(most: int = 3) -> st.SearchStrategy[tuple[Right, Right]]:
    """The answers of two ways to train, on as many images."""
    shapes = st.tuples(st.integers(1, most), st.integers(1, most), st.integers(1, 40))
    return shapes.flatmap(lambda s: st.tuples(arrays(np.bool_, (s[0], s[2])), arrays(np.bool_, (s[1], s[2]))))


def _pair(both: int, only_first: int, only_second: int, neither: int) -> tuple[Right, Right]:
    first = np.repeat([True, True, False, False], [both, only_first, only_second, neither])
    second = np.repeat([True, False, True, False], [both, only_first, only_second, neither])
    return first[None], second[None]


def test_ten_against_two() -> None:
    found = paired_difference(*_pair(80, 2, 10, 8))
    assert (found.n, found.difference) == (100, pytest.approx(0.08))
    assert found.p == pytest.approx(2 * (1 + 12 + 66) / 2**12, abs=1e-12)  # of 12 tosses at most two heads
    assert found.p == pytest.approx(0.0386, abs=5e-5)
    # Bonett and Price: 11 and 3 of 102; 8/102 -+ 1.96 sqrt((14/102 - (8/102)^2) / 102)
    assert (found.low, found.high) == (pytest.approx(0.00819, abs=1e-4), pytest.approx(0.14867, abs=1e-4))


def test_agreement_on_every_image_leaves_room() -> None:
    found = paired_difference(*_pair(90, 0, 0, 10))
    assert (found.difference, found.p) == (0.0, 1.0)
    assert -found.low == found.high == pytest.approx(1.959964 * (2 / 102 / 102) ** 0.5)


def test_a_thousand_against_none_is_as_sure_as_it_can_be() -> None:
    found = paired_difference(*_pair(0, 0, 1000, 0))
    assert found.difference == 1.0
    assert found.p == pytest.approx(2.0**-999)
    assert found.high == 1.0


@settings(deadline=None)  # scipy is imported within
@given(st.integers(0, 60), st.integers(0, 60))
def test_of_single_runs_it_is_mcnemars_test(only_first: int, only_second: int) -> None:
    first, second = _pair(5, only_first, only_second, 3)
    assert paired_difference(first, second).p == pytest.approx(paired_test(first[0], second[0]).p, abs=1e-12)


@given(arrays(np.int64, st.integers(1, 11), elements=st.integers(-9, 9)))
def test_it_is_the_share_of_all_tosses(steps: NDArray[np.int64]) -> None:
    sums = np.array([np.dot(signs, steps) for signs in product((-1, 1), repeat=len(steps))])
    assert sign_flip_p(steps) == pytest.approx(float(np.mean(np.abs(sums) >= abs(steps.sum()))), abs=1e-12)


@given(_runs())
def test_swapped_it_is_mirrored(runs: tuple[Right, Right]) -> None:
    there, back = paired_difference(*runs), paired_difference(runs[1], runs[0])
    assert there.difference == pytest.approx(-back.difference, abs=1e-12)
    assert (there.low, there.high) == (pytest.approx(-back.high), pytest.approx(-back.low))
    assert there.p == pytest.approx(back.p, abs=1e-12)


@given(_runs(), st.randoms(use_true_random=False))
def test_the_order_of_images_and_of_repeats_does_not_matter(runs: tuple[Right, Right], random: object) -> None:
    first, second = runs
    order = list(range(first.shape[1]))
    random.shuffle(order)  # type: ignore[attr-defined]
    plain = paired_difference(first, second)
    moved = paired_difference(first[::-1, order], second[::-1, order])
    assert moved.difference == pytest.approx(plain.difference)
    assert (moved.low, moved.high) == (pytest.approx(plain.low), pytest.approx(plain.high))
    assert moved.p == pytest.approx(plain.p, abs=1e-12)


@given(_runs())
def test_the_interval_holds_the_difference_and_p_is_a_chance(runs: tuple[Right, Right]) -> None:
    found = paired_difference(*runs)
    assert -1 <= found.low <= found.high <= 1
    assert 0 < found.p <= 1
    assert found.difference == pytest.approx(runs[1].mean() - runs[0].mean())


@pytest.mark.parametrize(("n", "repeats", "rate"), [(153, 1, 0.95), (153, 1, 0.6), (60, 3, 0.8), (400, 2, 0.9)])
def test_noise_is_rarely_called_a_difference_and_the_interval_rarely_misses(n: int, repeats: int, rate: float) -> None:
    """Of 2000 draws of two equally good ways at most 5 % and what chance adds; and nearly all intervals hold 0."""
    draw = np.random.default_rng(7)
    found = [paired_difference(*(draw.random((2, repeats, n)) < rate)) for _ in range(2000)]
    slack = 2.6 * (0.05 * 0.95 / 2000) ** 0.5
    assert np.mean([one.p < 0.05 for one in found]) <= 0.05 + slack
    assert np.mean([not one.low <= 0 <= one.high for one in found]) <= 0.05 + slack


def test_the_interval_holds_a_true_difference_as_often_as_it_says() -> None:
    draw = np.random.default_rng(8)
    found = [paired_difference(draw.random((1, 300)) < 0.80, draw.random((1, 300)) < 0.88) for _ in range(2000)]
    assert 0.94 <= np.mean([one.low <= 0.08 <= one.high for one in found]) <= 0.965


def test_one_image_is_no_more_evidence_for_ten_seeds_that_share_it() -> None:
    """Four images, ten seeds each: of four tosses all heads or all tails, not of forty."""
    first, second = np.zeros((10, 4), bool), np.ones((10, 4), bool)
    assert paired_difference(first, second).p == pytest.approx(2 / 16)


def test_seeds_that_lie_apart_by_hand() -> None:
    """Fifty images, three runs each; the second way gets ten more right in two of its runs, and none in the third."""
    first, second = np.ones((3, 50), bool), np.ones((3, 50), bool)
    first[:, :10] = second[2, :10] = False
    found = paired_difference(first, second)
    # over seeds: accuracies 1, 1, 0.8 and thrice 0.8; squares 2 / 75 over 4 degrees, times 2 / 3
    # over images: 2/3 ten times, 0 forty times, 1 and -1: mean 20/3/52, mean square (40/9 + 2)/52
    seeds, images = 2 / 75 / 4 * 2 / 3, ((40 / 9 + 2) / 52 - (20 / 3 / 52) ** 2) / 52
    freedom = 4 * ((seeds + images) / seeds) ** 2
    half = student.ppf(0.975, freedom) * (seeds + images) ** 0.5
    assert found.difference == pytest.approx(2 / 15)
    assert (found.low, found.high) == (pytest.approx(20 / 3 / 52 - half), pytest.approx(20 / 3 / 52 + half))
    tossed = 40 / 9 / 50**2
    assert found.p == pytest.approx(2 * student.sf(2 / 15 / (tossed + seeds) ** 0.5, freedom))
    assert found.p > 0.1  # of the images alone it would be 0.002


@pytest.mark.parametrize(("n", "apart"), [(150, 0.006), (2000, 0.006), (5000, 0.006), (5000, 0.02)])
def test_seeds_that_differ_are_rarely_called_a_difference(n: int, apart: float) -> None:
    """Two equally good ways whose runs, three each, have accuracies that lie apart: the images alone would be sure."""
    draw = np.random.default_rng(9)

    def runs() -> Right:
        return draw.random((3, n)) < (0.95 + apart * draw.normal(size=(3, 1))).clip(0, 1)

    found = [paired_difference(runs(), runs()) for _ in range(1000)]
    slack = 2.6 * (0.05 * 0.95 / 1000) ** 0.5
    assert np.mean([one.p < 0.05 for one in found]) <= 0.05 + slack
    assert np.mean([not one.low <= 0 <= one.high for one in found]) <= 0.05 + slack


def test_holm_by_hand() -> None:
    # sorted 0.01, 0.02, 0.03, 0.4: times 4, 3, 2, 1; never below one before it
    assert holm([0.03, 0.01, 0.4, 0.02]) == pytest.approx([0.06, 0.04, 0.4, 0.06])
    assert holm([0.6, 0.9]) == [1.0, 1.0]
    assert holm([0.04]) == [0.04]
    assert holm([]) == []


@settings(max_examples=50)
@given(st.lists(st.floats(0, 1), min_size=1, max_size=6))
def test_holm_lies_between_the_p_and_bonferronis(ps: list[float]) -> None:
    for p, adjusted in zip(ps, holm(ps), strict=True):
        assert p <= adjusted <= min(1.0, len(ps) * p) + 1e-12
    assert min(holm(ps)) == pytest.approx(min(1.0, len(ps) * min(ps)))
