"""imagenet:CLASS,...: the rows of the pretrained network's own classifier, without training."""

from __future__ import annotations

from typing import TYPE_CHECKING

from featcache.heads.registry import HeadSpec, register

if TYPE_CHECKING:
    from featcache.heads.training_data import FitOptions, Fitted, TrainingData


def fit(name: str, data: TrainingData, options: FitOptions) -> Fitted:
    """Choose the rows by the names of the classes."""
    from featcache.errors import HeadError
    from featcache.heads.imagenet import describe_choice, imagenet_head
    from featcache.heads.training_data import Fitted

    if options.parameters or options.use_views:
        raise HeadError(f"{name} does not train: it takes neither parameters nor use_views")
    if data.spec is None:
        raise HeadError(f"{name} needs features of a cache, which names their network")
    classes = data.train.samples.classes
    estimator = imagenet_head(
        name,
        classes,
        backbone=data.spec.backbone,
        weights=data.weights,
        weights_sha256=data.spec.weights_sha256,
        layer=data.layer,
        features=data.train.clean(),
        image_size=data.spec.image_view.image_size,
    )
    return Fitted(estimator, name, notes=tuple(describe_choice(name, classes)))


register(HeadSpec("imagenet", fit=fit, multilabel=False, argument="CLASS,..."))
