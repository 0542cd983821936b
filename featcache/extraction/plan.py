"""`ExtractionPlan`: a loaded network, and how to run it over samples. `pipelines` has the plan of each modality."""

from __future__ import annotations

import platform
import time
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from featcache._utils.environment import package_versions
from featcache._utils.timing import PhaseTimer
from featcache.backbones.encoder import Encoder
from featcache.backbones.hub_model import hub_model
from featcache.core.hub_names import HUB_MODEL
from featcache.core.options import RuntimeOptions
from featcache.core.specs import ExtractSpec
from featcache.data.manifest import Manifest
from featcache.data.sample_loader import SampleLoader
from featcache.extraction.input_costs import InputCosts, measure_loader


@dataclass(frozen=True)
class ExtractorInfo:
    """What an extractor computes, and where.

    Parameters
    ----------
    spec : ExtractSpec
        All that decides a feature.
    dims : dict
        Width d of each layer.
    provenance : dict
        Host, date, device, engine and versions; stored, not compared.
    device_name, precision, note : str
        See `Backbone`.
    tf32 : bool
        See `Backbone.allows_tf32`.
    counts_device_views : bool
        Whether a device may make views, so that the cache counts them.
    """

    spec: ExtractSpec
    dims: dict[str, int]
    provenance: dict[str, Any]
    device_name: str
    precision: str
    note: str
    tf32: bool
    counts_device_views: bool


@dataclass(frozen=True)
class ExtractionPlan(ABC):
    """A loaded network, and how to run it over samples. Each modality has its own subclass.

    Parameters
    ----------
    backbone : Encoder
        The frozen network; its weights may be loaded on first use.
    spec : ExtractSpec
        All that decides a feature.
    runtime : RuntimeOptions
        Complete; what decides only the time.
    match_engine : str
        The engine that made the features that the new ones go with, see `Backbone.select_engine`. Empty: none.
    engine_selected : bool
        Whether `Backbone.select_engine` was called.
    """

    backbone: Encoder
    spec: ExtractSpec
    runtime: RuntimeOptions
    match_engine: str = ""
    engine_selected: bool = False

    @property
    def batch_size(self) -> int:
        """Views in a forward pass."""
        return self.runtime["batch_size"] or self.backbone.batch_size

    @property
    def note(self) -> str:
        """Notes for the user, a line each."""
        return self.backbone.note

    @property
    def input_size(self) -> int:
        """Size of the network's input, which its engine is prepared for."""
        return self.spec.view.input_size

    @property
    def makes_views_on_device(self) -> bool:
        """Whether a device may make views, so that the cache counts them, and `prepare` has something to do."""
        return False

    def prepare(self) -> None:  # noqa: B027  a plan without views on a device has nothing to prepare
        """Compile what makes inputs on the devices, in advance."""

    @abstractmethod
    def open_loader(self, manifest: Manifest, timer: PhaseTimer | None = None) -> SampleLoader:
        """Threads that make the views of these samples. Close it in the end."""

    @abstractmethod
    def run_once(self) -> None:
        """Run the network on one small sample: imports and allocates in advance."""

    def measure_inputs(self, manifest: Manifest, rows: Sequence[int], numbers: Sequence[int]) -> InputCosts:
        """Measure what it takes to make these views of samples; see `measure_loader`."""
        return measure_loader(self, manifest, rows, numbers)

    def select_engine(self, views: int) -> ExtractionPlan:
        """The plan on the engine that suits this number of views; a network of the user keeps its engine."""
        if not self.engine_selected:
            self.backbone.select_engine(self.input_size, self.runtime["engine"], views, self.match_engine)
        return replace(self, engine_selected=True)

    def provenance(self) -> dict[str, Any]:
        """Host, date, device, engine and versions. Complete once the engine is selected."""
        backbone = self.backbone
        repository = hub_model(backbone.name, backbone.weights)
        return {
            "weights": backbone.weights,
            **({HUB_MODEL: repository} if repository else {}),
            "device": backbone.device_name,
            "engine": backbone.engine,
            "versions": package_versions(),
            "host": platform.node(),
            "date": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
            **({"deterministic": True} if self.runtime.get("deterministic") else {}),
        }

    def info(self) -> ExtractorInfo:
        """What it computes, and where. Complete once the engine is selected."""
        backbone = self.backbone
        return ExtractorInfo(
            self.spec,
            dict(backbone.dims),
            self.provenance(),
            backbone.device_name,
            backbone.precision,
            self.note,
            backbone.allows_tf32,
            self.makes_views_on_device,
        )
