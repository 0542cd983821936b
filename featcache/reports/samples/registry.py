"""`SAMPLE_REPORTS`: how reports show samples, by the name of the modality."""

from __future__ import annotations

from featcache.core.registry import Registry
from featcache.errors import PictureError
from featcache.reports.samples.base import SampleReport

SAMPLE_REPORTS: Registry[SampleReport] = Registry(
    "modality", "featcache.reports.samples", "featcache.sample_reports", PictureError
)


def sample_report(modality: str) -> SampleReport:
    """How reports show samples of this modality; one without a module shows none."""
    return SAMPLE_REPORTS.get(modality) if modality in SAMPLE_REPORTS else SampleReport(modality)
