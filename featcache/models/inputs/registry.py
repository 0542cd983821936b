"""`INPUTS`: the classes of what saved models predict, by the name of the modality."""

from __future__ import annotations

from featcache.core.registry import Registry
from featcache.core.specs import ExtractSpec
from featcache.errors import HeadError
from featcache.models.inputs.base import SampleInputs

INPUTS: Registry[type[SampleInputs]] = Registry("modality", "featcache.models.inputs", "featcache.inputs", HeadError)


def inputs_of(spec: ExtractSpec) -> SampleInputs:
    """What a model on features of this spec predicts. Raises HeadError for a modality without predictions."""
    return INPUTS.get(spec.modality)(spec)
