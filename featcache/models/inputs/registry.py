"""`INPUTS`: what saved models predict, by the name of the modality."""

from __future__ import annotations

from featcache.core.registry import Registry
from featcache.errors import HeadError
from featcache.models.inputs.base import SampleInputs

INPUTS: Registry[SampleInputs] = Registry("modality", "featcache.models.inputs", "featcache.inputs", HeadError)
