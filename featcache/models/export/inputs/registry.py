"""`EXPORT_INPUTS`: what exported files take, by the name of the modality."""

from __future__ import annotations

from featcache.core.model_card import ModelCard
from featcache.core.registry import Registry
from featcache.errors import ExportError
from featcache.models.export.inputs.base import ExportInput

EXPORT_INPUTS = Registry[ExportInput](
    "modality of exports", "featcache.models.export.inputs", "featcache.export_inputs", ExportError
)


def input_of(card: ModelCard) -> ExportInput:
    """What an exported file of a model takes. Raises ExportError for a modality without exports."""
    return EXPORT_INPUTS.get(card.spec.modality)
