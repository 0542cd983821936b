"""`SampleChecks`: the words and the checks of the doctor for samples of one modality."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from featcache.analysis.doctor.findings import Check
from featcache.analysis.doctor.words import Words
from featcache.cache.feature_cache import FeatureCache
from featcache.cache.features import Features
from featcache.core.view_specs.registry import VIEW_SPECS
from featcache.core.weighted_progress import WeightedProgress


@dataclass(frozen=True)
class DataChecks:
    """What the checks of a cache with its data need.

    Parameters
    ----------
    cache : FeatureCache
    data : path
        What the cache was made from.
    layer : str
        See `doctor`.
    train : Features or None
        Those of train; None if no sample has a label.
    backbone : network or None
        The user's own network.
    weights : str or None
        Where the weights of the network are now.
    device : str
        Where it runs.
    seed : int
        Of the choice of samples.
    steps : WeightedProgress
        Told of the progress.
    """

    cache: FeatureCache
    data: Any
    layer: str
    train: Features | None
    backbone: Any
    weights: str | None
    device: str
    seed: int
    steps: WeightedProgress


class SampleChecks:
    """The words and the checks of the doctor for samples of one modality. `SAMPLE_CHECKS` has an object for each.

    This class is that of a modality without a module: it checks the features alone.

    Parameters
    ----------
    name : str
        The modality.

    Attributes
    ----------
    words : Words
        What the checks call the samples, and the remedies that fit them.
    runs_network : bool
        Whether `check_data` runs some samples through the network again, which takes seconds.
    """

    runs_network = False

    def __init__(self, name: str) -> None:
        self.words = self._words(name)

    def _words(self, name: str) -> Words:
        recipe = VIEW_SPECS.get(name).recipes.cached
        return Words(
            sample=name,
            show="by their ids",
            settings="the network and its settings (`featcache info`) and the weights",
            compare="",
            recipe=recipe,
            mild_recipe=recipe,
            copies="exact duplicates",
        )

    def check_input(self, cache: FeatureCache, backbone: Any, weights: str | None) -> Check:
        """Whether the preprocessing of the cache is that of the network's weights."""
        return Check("input", f"not checked: these are features of {self.words.samples}", ran=False)

    def check_data(self, checks: Sequence[Check], request: DataChecks) -> list[Check]:
        """The checks of the features, and those that need the data."""
        reason = f"not checked: no check of {self.words.samples} needs the data"
        return [*checks, Check("data", reason, ran=False)]
