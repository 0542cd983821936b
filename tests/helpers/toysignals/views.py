"""How a signal becomes a view: its volume changes."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from featcache.core.rng import generator
from featcache.core.view_specs.base import Recipes, SampleView
from featcache.errors import SpecError


@dataclass(frozen=True)
class SignalSpec(SampleView):
    modality: ClassVar[str] = "signal"
    recipes: ClassVar[Recipes] = Recipes(("volume", "none"), "volume", "none", "none", ("volume",))

    length: int = 16
    augment: str = "none"
    seed: int = 0

    def __post_init__(self) -> None:
        if self.augment not in self.recipes.names:
            raise SpecError(f"augment is {self.augment!r}; for signals it must be one of {self.recipes.names}")

    @property
    def input_size(self) -> int:
        return self.length


def make_signal_views(
    values: NDArray[np.float32], spec: SignalSpec, sha256: bytes, numbers: Iterable[int]
) -> NDArray[np.float32]:
    """Shape (v, t). Another view than the clean one is multiplied by a draw between 0.5 and 1."""
    draws = [generator(spec.seed, "view", sha256, number).uniform(0.5, 1) if number else 1.0 for number in numbers]
    factors = draws if spec.augment == "volume" else [1.0] * len(draws)
    return np.stack([factor * values for factor in factors]).astype(np.float32)
