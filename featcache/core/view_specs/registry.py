"""`VIEW_SPECS`: what decides a view, by the name of the modality."""

from __future__ import annotations

from featcache.core.registry import Registry
from featcache.core.view_specs.base import SampleView
from featcache.errors import SpecError

VIEW_SPECS: Registry[type[SampleView]] = Registry(
    "modality", "featcache.core.view_specs", "featcache.view_specs", SpecError
)
