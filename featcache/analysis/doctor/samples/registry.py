"""`SAMPLE_CHECKS`: the words and the checks of the doctor, by the name of the modality."""

from __future__ import annotations

from featcache.analysis.doctor.samples.base import SampleChecks
from featcache.core.registry import Registry
from featcache.errors import CacheError

SAMPLE_CHECKS: Registry[SampleChecks] = Registry(
    "modality", "featcache.analysis.doctor.samples", "featcache.sample_checks", CacheError
)


def sample_checks(modality: str) -> SampleChecks:
    """The words and the checks of a modality; those of one without a module are of the features alone."""
    return SAMPLE_CHECKS.get(modality) if modality in SAMPLE_CHECKS else SampleChecks(modality)
