"""`UpdatePlan`: the cache that `update` or `repair` writes, and where its features come from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from featcache.backbones.encoder import Encoder
from featcache.cache.feature_cache import FeatureCache
from featcache.cache.format.layout import expected_views
from featcache.cache.reuse import RowMatches
from featcache.core.options import RuntimeOptions
from featcache.core.samples import Samples
from featcache.core.specs import ExtractSpec
from featcache.data.manifest import Manifest
from featcache.extraction.plan import ExtractionPlan
from featcache.extraction.request import plan_like

if TYPE_CHECKING:
    from torch import nn

VIEW_TRIAL = "view_trial"
"""Name in the provenance of the outcome of a trial, which chose the views of the cache."""


@dataclass(frozen=True)
class UpdatePlan:
    """The cache to write, and where its features come from.

    Parameters
    ----------
    old : FeatureCache
    spec : ExtractSpec
        Of the new cache.
    samples : Samples
        Of the new cache.
    manifest : Manifest
        Where the files of these samples are now, in the same order.
    matches : RowMatches
        Rows of the old cache that the new one takes over.
    record : mapping
        Additions to the provenance.
    """

    old: FeatureCache
    spec: ExtractSpec
    samples: Samples
    manifest: Manifest
    matches: RowMatches
    record: Mapping[str, Any] = field(default_factory=dict)

    @property
    def missing(self) -> NDArray[np.integer[Any]]:
        """Number of views of each row to extract."""
        return expected_views(self.spec, self.samples) - self.matches.views

    @property
    def changes_views(self) -> bool:
        """Whether the new cache has other augmented views than the old one."""
        old, new = self.old.spec, self.spec
        return old.views != new.views or (new.views > 0 and old.view.augment != new.view.augment)

    def load(
        self, weights: str | None, backbone: Encoder | nn.Module | None, runtime: RuntimeOptions
    ) -> ExtractionPlan | None:
        """The network of the cache on its engine; None where nothing is to be extracted."""
        views = int(self.missing.sum())
        if not views:
            return None
        return plan_like(self.old, self.spec, runtime, views, weights=weights, backbone=backbone)

    def counts_device_views(self, extraction: ExtractionPlan | None) -> bool:
        """Whether the new cache counts the views that a device made."""
        return self.old.layout.on_device is not None or bool(extraction and extraction.info().counts_device_views)

    def provenance(self, extraction: ExtractionPlan | None) -> dict[str, Any]:
        """That of the new cache."""
        provenance = {**self.old.provenance, **(extraction.info().provenance if extraction else {})}
        if self.changes_views:
            provenance.pop(VIEW_TRIAL, None)
        if self.samples is self.manifest.samples:  # a repair leaves the split unchanged
            provenance.pop("val_is_held_out", None)
            provenance |= {} if self.manifest.held_out_seed is None else {"val_is_held_out": True}
        return {**provenance, **self.record}
