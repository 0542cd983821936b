"""Checks of a network by one image: the width of its layers, and whether it takes an image size."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from featcache.errors import BackboneError, first_line

if TYPE_CHECKING:
    from featcache.backbones.backbone import Backbone


def measure_dims(backbone: Backbone) -> dict[str, int]:
    """Width of each layer, from a black image.

    Raises
    ------
    BackboneError : the features are not (1, d), or not finite for any image.
    """
    shape = (1, backbone.image_size, backbone.image_size, 3)
    features = backbone.embed_layers(np.zeros(shape, dtype=np.uint8))
    for layer, values in features.items():
        if values.ndim != 2:
            raise BackboneError(
                f"{backbone.name} returns {values.shape} for one image, expected features (1, d): end it with "
                "nn.AdaptiveAvgPool2d(1) and nn.Flatten()."
            )
        if not np.isfinite(values).all():
            noise = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
            if not np.isfinite(backbone.embed_layers(noise)[layer]).all():
                raise BackboneError(
                    f"{backbone.name} returns features that are not finite for any image: its weights hold NaN "
                    f"or inf, or its values are too large for {backbone.precision}."
                )
    return {layer: values.shape[1] for layer, values in features.items()}


def check_image_size(backbone: Backbone, image_size: int) -> None:
    """Raise BackboneError if the network does not take images of this size."""
    try:
        backbone.embed_layers(np.zeros((1, image_size, image_size, 3), dtype=np.uint8))
    except (AssertionError, RuntimeError, ValueError) as error:
        raise BackboneError(
            f"{backbone.name} takes images of {backbone.image_size} pixels, not of {image_size} ({first_line(error)}). "
            "Drop --image-size, or choose another network."
        ) from error
