"""Registries that a test changes, and that are as before at its end."""

from __future__ import annotations

from typing import Any

import pytest

from featcache.backbones.sources.registry import SOURCES as BACKBONES
from featcache.core.registry import Registry
from featcache.core.view_specs.registry import VIEW_SPECS
from featcache.data.sources.registry import SOURCES
from featcache.extraction.pipelines.registry import PIPELINES
from featcache.heads.registry import HEADS
from featcache.models.export.registry import EXPORT_FORMATS
from featcache.models.inputs.registry import INPUTS

REGISTRIES: tuple[Registry[Any], ...] = (BACKBONES, SOURCES, HEADS, EXPORT_FORMATS, VIEW_SPECS, PIPELINES, INPUTS)


def restore(monkeypatch: pytest.MonkeyPatch, *registries: Registry[Any]) -> None:
    """Forget what is registered from now on at the end of a test."""
    for registry in registries:
        registry.registered()  # imports the modules of featcache
        monkeypatch.setattr(registry, "_entries", {**registry._entries})
        monkeypatch.setattr(registry, "_own", {*registry._own})
