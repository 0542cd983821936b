"""When a training counts as long enough: known curves, published recipes, and the routes of a real comparison."""

from __future__ import annotations

import math

import numpy as np
import pytest

from featcache.finetuning.convergence import TrainingRun, has_levelled_off, published_epochs
from featcache.finetuning.strategy import LP_FT_DEFAULTS

GUESS = math.log(10)


def decay(epochs: int, of: float, floor: float = 0.1) -> list[float]:
    """An exponential fall to the floor, by e in so many epochs."""
    return [floor + 2.0 * math.exp(-epoch / of) for epoch in range(1, epochs + 1)]


CURVES = {
    "flat": ([0.25] * 10, True),
    "flat, and nothing learnt": ([2.3] * 10, False),
    "fell, then flat": ([2.0, 0.8, 0.4, 0.3, 0.25, 0.25, 0.25, 0.25], True),
    "still falling, evenly": ([2.0 - 0.18 * epoch for epoch in range(10)], False),
    "still falling, slower and slower": (decay(10, of=4), False),
    "the same, at its end": (decay(30, of=4), True),
    "noise about a level": ([1.5, 0.7, 0.3, 0.26, 0.33, 0.29, 0.27, 0.34, 0.28, 0.31], True),
    "falls by more than its noise": ([2.0, 1.8, 1.65, 1.4, 1.3, 1.1, 0.95, 0.85, 0.65, 0.5], False),
    "rises": ([0.2, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7], True),
    "one epoch": ([0.3], False),
    "two epochs, alike": ([0.3, 0.3], False),
    "five epochs, alike": ([0.3] * 5, False),
    "no epoch": ([], False),
    "diverged": ([1.0, 0.5, 0.4, math.nan, math.nan, math.nan, math.nan], False),
}


@pytest.mark.parametrize("name", CURVES)
def test_a_known_curve(name: str) -> None:
    losses, expected = CURVES[name]
    assert has_levelled_off(losses, GUESS) is expected


def test_noise_hides_no_fall_that_is_larger_than_it() -> None:
    """A fall of a third of the way in the last epochs, with noise a fifth of that, in 200 draws: once in fifty."""
    rng = np.random.default_rng(3)
    falling = np.linspace(2.0, 0.5, 10)
    noise = (falling[-4] - falling[-1]) / 5
    draws = [has_levelled_off(falling + noise * rng.normal(size=10), GUESS) for _ in range(200)]
    assert np.mean(draws) <= 0.02


@pytest.mark.parametrize(
    ("config", "mode", "expected"),
    [
        ({"epochs": 3, "batch_size": 32, "lr": 0.01}, "all", 10),
        ({**LP_FT_DEFAULTS, "epochs": 1}, "all", 10),
        ({"epochs": 1, "batch_size": 4, "lr": 1e-3}, "all", 25),  # of PyTorch's tutorial
        ({"epochs": 1, "batch_size": 24, "lr": 0.1, "schedule": "constant"}, "head", 20),  # of MindSpore's
        ({"epochs": 10, "lr": 1e-6}, "all", None),
        ({"epochs": 10, "batch_size": 8}, "all", None),
    ],
)
def test_a_published_recipe_is_known_by_all_but_its_epochs(
    config: dict[str, object], mode: str, expected: int | None
) -> None:
    assert published_epochs(config, mode) == expected


@pytest.mark.parametrize(
    ("epochs", "images", "config", "unfinished"),
    [
        (10, 244, {}, False),  # 80 steps of the published config
        (10, 40, {}, True),  # 20 steps of it
        (9, 244, {}, True),
        (10, 244, {"lr": 0.02}, True),
    ],
)
def test_a_falling_loss_is_enough_where_the_published_recipe_ran(
    epochs: int, images: int, config: dict[str, float], unfinished: bool
) -> None:
    losses = [2.0 - 0.15 * epoch for epoch in range(epochs)]
    run = TrainingRun.from_history(losses, {"epochs": epochs, "batch_size": 32, **config}, images, classes=10)
    assert run.steps == epochs * math.ceil(images / 32)
    assert run.unfinished == ("and the training loss was still falling" if unfinished else "")


def test_why_a_training_is_unfinished() -> None:
    reasons = {name: TrainingRun.from_history(CURVES[name][0], {"lr": 0.3}, 100, 10).unfinished for name in CURVES}
    assert reasons["flat"] == ""
    assert reasons["one epoch"] == "too few to tell whether the training loss has levelled off"
    assert reasons["flat, and nothing learnt"] == "and the training loss is still near that of a guess"
    assert reasons["diverged"] == "with a training loss that is not finite"
    assert str(TrainingRun.from_history([1.0], {}, 32, 2)) == "1 epoch (1 step)"
