from __future__ import annotations

from collections import Counter
from itertools import permutations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray

from featcache.core.rng import ReusedGenerator, derived_seed, epoch_order, generator

HASHES = arrays(np.uint8, st.tuples(st.integers(0, 40), st.just(32)))
SEEDS = st.integers(-(2**63), 2**63)


def hashes(n: int, seed: int = 0) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, (n, 32), dtype=np.uint8)


def splitmix64(word: int) -> int:
    """The finaliser in plain Python integers."""
    mask = 2**64 - 1
    word = ((word ^ (word >> 30)) * 0xBF58476D1CE4E5B9) & mask
    word = ((word ^ (word >> 27)) * 0x94D049BB133111EB) & mask
    return word ^ (word >> 31)


def test_numbers_are_the_same_on_every_machine_and_in_every_version() -> None:
    assert generator(7, "view", "a.png", 3).random(3).tolist() == [
        0.7156077137912873,
        0.8708874912348118,
        0.08823034918880213,
    ]
    assert generator(7, b"x").integers(1 << 40, size=2).tolist() == [871111421241, 788686137823]
    assert derived_seed(7, "order", 1) == 1499451531966066469
    rising = np.arange(5 * 32, dtype=np.uint8).reshape(5, 32)
    assert epoch_order(rising, 0, 1).tolist() == [2, 1, 4, 0, 3]
    assert epoch_order(rising, 0, 2).tolist() == [0, 4, 1, 3, 2]
    assert epoch_order(rising, 1, 1).tolist() == [2, 0, 1, 4, 3]


def test_a_draw_has_no_history() -> None:
    first = generator(0, "a", 1)
    values = first.random(4)
    generator(0, "b", 1).random(100)
    np.testing.assert_array_equal(generator(0, "a", 1).random(4), values)
    assert not np.array_equal(first.random(4), values)


def test_a_generator_that_is_used_again_gives_the_numbers_of_a_new_one() -> None:
    reused = ReusedGenerator()
    for seed in range(3):
        for number in range(5):
            one, other = generator(seed, "view", b"x", number), reused.begin(seed, "view", b"x", number)
            for draws in range(number):  # the key leaves nothing of the one before, at any place in its buffers
                assert one.random() == other.random()
                assert one.integers(draws + 2, dtype=np.int32) == other.integers(draws + 2, dtype=np.int32)


def test_every_part_of_the_key_changes_the_draw() -> None:
    keys = [
        (0, "a", 1),
        (1, "a", 1),
        (0, "b", 1),
        (0, "a", 2),
        (0, "a"),
        (0, "a", "1"),
        (0, b"a", 1),
        (0, "a1"),
    ]
    assert len({generator(*key).random() for key in keys}) == len(keys)
    assert derived_seed(0, "ab", "c") != derived_seed(0, "a", "bc")


@settings(deadline=None)
@given(SEEDS, st.binary())
def test_derived_seeds_fit_the_generators_of_other_libraries(seed: int, part: bytes) -> None:
    assert 0 <= derived_seed(seed, part) < 2**63


@settings(deadline=None)
@given(HASHES, SEEDS, st.integers(1, 1000))
def test_epoch_order_sorts_by_the_mixed_hash(sha256: NDArray[np.uint8], seed: int, epoch: int) -> None:
    before = sha256.copy()
    key = derived_seed(seed, "order", epoch)
    words = [splitmix64(int.from_bytes(row[:8].tobytes(), "little") ^ key) for row in sha256]
    order = epoch_order(sha256, seed, epoch)
    assert order.tolist() == sorted(range(len(words)), key=words.__getitem__)
    assert sorted(order.tolist()) == list(range(len(sha256)))
    np.testing.assert_array_equal(sha256, before)


@settings(deadline=None)
@given(HASHES, SEEDS, st.integers(1, 1000), st.data())
def test_deleting_images_keeps_the_order_of_the_others(
    sha256: NDArray[np.uint8], seed: int, epoch: int, data: st.DataObject
) -> None:
    kept = np.array(data.draw(st.lists(st.booleans(), min_size=len(sha256), max_size=len(sha256))), dtype=bool)
    rows = np.flatnonzero(kept)
    whole = epoch_order(sha256, seed, epoch)
    np.testing.assert_array_equal(rows[epoch_order(sha256[rows], seed, epoch)], whole[kept[whole]])


@settings(deadline=None)
@given(SEEDS, st.integers(1, 1000))
def test_where_an_image_stands_in_the_folder_does_not_decide_when_it_is_visited(seed: int, epoch: int) -> None:
    sha256 = hashes(30)
    shuffled = np.random.default_rng(1).permutation(30)
    np.testing.assert_array_equal(
        sha256[epoch_order(sha256, seed, epoch)],
        sha256[shuffled][epoch_order(sha256[shuffled], seed, epoch)],
    )


def test_identical_images_keep_their_relative_order() -> None:
    sha256 = np.repeat(hashes(3), 4, axis=0)
    for epoch in range(1, 6):
        order = epoch_order(sha256, 0, epoch)
        for group in range(3):
            members = [int(row) for row in order if row // 4 == group]
            assert members == sorted(members)


def test_epochs_and_seeds_have_orders_of_their_own() -> None:
    sha256 = hashes(50)
    orders = {tuple(epoch_order(sha256, seed, epoch)) for seed in range(5) for epoch in range(1, 11)}
    assert len(orders) == 50


def test_every_order_is_equally_likely() -> None:
    sha256 = hashes(3)
    counts = Counter(tuple(epoch_order(sha256, 0, epoch).tolist()) for epoch in range(1, 3001))
    assert set(counts) == set(permutations(range(3)))
    chi_square = sum((count - 500) ** 2 / 500 for count in counts.values())
    assert chi_square < 20.5  # the 99.9 % quantile with 5 degrees of freedom


@pytest.mark.parametrize("number", [np.int64(3), np.int32(3), np.uint8(3)])
def test_a_numpy_integer_is_the_number_it_equals(number: np.integer) -> None:
    sha256 = hashes(20)
    np.testing.assert_array_equal(epoch_order(sha256, number, 1), epoch_order(sha256, 3, 1))
    np.testing.assert_array_equal(epoch_order(sha256, 0, number), epoch_order(sha256, 0, 3))
