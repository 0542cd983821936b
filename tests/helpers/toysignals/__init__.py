"""A third modality: short signals in .npy files. All that featcache needs of it is in this folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from featcache.core.registry import Registry
from featcache.core.view_specs.registry import VIEW_SPECS
from featcache.data.sources.registry import SOURCES
from featcache.extraction.pipelines.registry import PIPELINES
from featcache.models.inputs.registry import INPUTS
from registries import restore
from toysignals.data import SIGNALS, SignalFolder
from toysignals.inputs import SignalInputs
from toysignals.pipeline import SIGNAL_PIPELINE
from toysignals.views import SignalSpec

ENTRIES: list[tuple[Registry[Any], Any, str]] = [
    (VIEW_SPECS, SignalSpec, "toysignals.views:SignalSpec"),
    (SOURCES, SignalFolder, "toysignals.data:SignalFolder"),
    (PIPELINES, SIGNAL_PIPELINE, "toysignals.pipeline:SIGNAL_PIPELINE"),
    (INPUTS, SignalInputs, "toysignals.inputs:SignalInputs"),
]
"""The four registrations: the entry, and its name in an entry point."""


def register(monkeypatch: pytest.MonkeyPatch) -> None:
    """Register the modality as a module of featcache does, until the end of a test."""
    restore(monkeypatch, *(registry for registry, *_ in ENTRIES))
    for registry, entry, _ in ENTRIES:
        registry.register(SIGNALS.name, entry)


def install(monkeypatch: pytest.MonkeyPatch, site: Path) -> None:
    """Register the modality as another package does, by the entry points of a package in the folder `site`."""
    info = site / "toysignals-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: toysignals\nVersion: 1.0\n")
    groups = [f"[{registry.group}]\n{SIGNALS.name} = {value}\n" for registry, _, value in ENTRIES]
    (info / "entry_points.txt").write_text("\n".join(groups))
    monkeypatch.syspath_prepend(site)
    restore(monkeypatch, *(registry for registry, *_ in ENTRIES))
