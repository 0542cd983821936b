"""`PANELS`: the classes of panels by the name of the modality."""

from __future__ import annotations

from featcache.core.registry import Registry
from featcache.errors import HeadError
from featcache.models.serving.panels.base import Panel

PANELS = Registry[type[Panel]](
    "modality of served pages", "featcache.models.serving.panels", "featcache.panels", HeadError
)
