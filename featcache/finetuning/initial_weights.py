"""`build_initial_model`: the initial weights of a fine-tuning run, and which of them are trained."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from featcache._utils.formatting import brief, split_names
from featcache.backbones.stages import stage_of
from featcache.backbones.trainable import TrainableNetwork
from featcache.core.model_card import ModelCard
from featcache.core.model_folder import locate
from featcache.core.specs import PENULTIMATE, ExtractSpec
from featcache.data.modality import IMAGES
from featcache.data.sample_loader import SampleLoader
from featcache.errors import BackboneError, RunError
from featcache.finetuning.freezing import freeze, freeze_batchnorm_statistics, parameter_groups
from featcache.finetuning.strategy import FineTuneStrategy
from featcache.heads.imagenet import imagenet_head, is_imagenet
from featcache.heads.io import load_head
from featcache.heads.linear import LinearHead
from featcache.heads.linear_layer import LinearWeights, as_linear, layer
from featcache.heads.one_vs_rest import OneVsRestHead
from featcache.heads.registry import fit_a_linear_head
from featcache.metrics.predictions import read_predictions
from featcache.training.loop import TrainConfig, linear_layer
from featcache.training.network import BackboneWithHead

_NO_PREPROCESSING = ("augment", "seed")
"""Fields of a spec of views that decide no clean view."""


@dataclass(frozen=True)
class InitialModel:
    """The model at the start of a run.

    Attributes
    ----------
    module : nn.Module
        A `BackboneWithHead`, or only the head; on the device.
    param_groups : list of dict, optional
        Groups of parameters with their learning rates. None means one rate for all.
    strategy : FineTuneStrategy
    config : dict
        What a resumed run must have in common, JSON values.
    """

    module: nn.Module
    param_groups: list[dict[str, Any]] | None
    strategy: FineTuneStrategy
    config: dict[str, Any]

    def copy_weights(self) -> dict[str, Tensor]:
        """A copy of the current weights."""
        return {name: value.detach().clone() for name, value in self.module.state_dict().items()}


def build_initial_model(
    backbone: TrainableNetwork,
    spec: ExtractSpec,
    loader: SampleLoader,
    mode: Literal["all", "head"],
    strategy: FineTuneStrategy,
    train_config: TrainConfig,
) -> InitialModel:
    """Build the model that a strategy describes. Raises RunError, HeadError or BackboneError if that is impossible."""
    classes, config = loader.manifest.samples.classes, strategy.config()
    head = linear_layer(backbone.dim, len(classes), spec.view.seed)
    if strategy.init_head is not None:
        fitted = read_layer(strategy.init_head, backbone, spec, classes, loader.manifest.samples.multilabel)
        if not is_imagenet(strategy.init_head):
            check_same_split(Path(strategy.init_head), loader)
        with torch.no_grad():
            head.weight.copy_(torch.from_numpy(fitted.weight))
            head.bias.copy_(torch.from_numpy(fitted.bias))
        config["init_head"] = hashlib.sha256(fitted.weight.tobytes() + fitted.bias.tobytes()).hexdigest()
    if mode == "head":
        return InitialModel(head.to(backbone.device), None, strategy, config)
    network, param_groups = BackboneWithHead(backbone.trainable_module(), head), None
    stages: list[str] = []
    if strategy.needs_stages:
        stages = backbone.stages(spec)
        if not stages:
            raise RunError(f"{backbone.name} has no stages, which {strategy.needs_stages} needs: drop it")
    if strategy.reuse_until is not None:
        reinitialize_after(
            network.body, strategy.reuse_until, stages, backbone.name, lambda: backbone.random_module(spec)
        )
        _check_random_stages_train(strategy, stages)
    network.to(backbone.device)
    if strategy.unfreeze:
        freeze(network, stages, strategy.unfreeze)
    if strategy.batchnorm == "eval":
        pretrained = len(stages) if strategy.reuse_until is None else 1 + stages.index(strategy.reuse_until)
        freeze_batchnorm_statistics(network, stages, pretrained)
    if strategy.layer_decay != 1 or train_config.head_lr is not None:
        rates = train_config.lr, strategy.layer_decay, train_config.head_lr
        param_groups = parameter_groups(network, stages, *rates)
    return InitialModel(network, param_groups, strategy, config)


def read_layer(
    head: str, backbone: TrainableNetwork, spec: ExtractSpec, classes: tuple[str, ...], multilabel: bool = False
) -> LinearWeights:
    """A folder of `fit_head`, or ImageNet's rows, as the last layer of this network. It includes scaling before it.

    Parameters
    ----------
    head : str
        A folder of `fit_head`, or "imagenet:...".
    backbone : TrainableNetwork
    spec : ExtractSpec
    classes : tuple of str
    multilabel : bool
        Whether images have several labels. Default: False.

    Raises
    ------
    RunError
        A head of another network or other classes, or one that is not a linear layer.
    HeadError, BackboneError
        The head or the pretrained classifier cannot be loaded.
    """
    if is_imagenet(head):
        if spec.modality != IMAGES.name:
            raise RunError(f"{head} is a classifier of images, and these are {spec.modality}s: drop --init-head")
        if multilabel:
            raise RunError(f"{head} gives one label an image, and the images here have several: drop --init-head")
        weights: dict[str, Any] = {"weights": backbone.weights, "weights_sha256": backbone.weights_sha256}
        return layer(
            imagenet_head(head, classes, backbone=backbone.name, image_size=spec.image_view.image_size, **weights),
            len(classes),
        )
    folder = Path(head)
    card = ModelCard.read(folder)
    if card.kind != "head":
        raise RunError(f"{folder} holds a fine-tuned network; --init-head takes a folder of `featcache fit-head -o`.")
    if card.multilabel != multilabel:
        raise RunError(
            f"{folder} gives {_label_count(card.multilabel)} a sample, and the samples here have "
            f"{_label_count(multilabel)}. Fit a head on a cache of this data."
        )
    if card.layer != PENULTIMATE:
        raise RunError(
            f"{folder} was fitted on {brief(split_names(card.layer), 3)}; the head of a network uses the layer "
            f"{PENULTIMATE} alone. Fit it with `--head linear --layer {PENULTIMATE}`."
        )
    _check_same_features(folder, card, spec, classes)
    estimator = load_head(locate(folder, card.file))
    linear = as_linear(estimator)
    if linear is None:
        raise RunError(
            f"{folder} holds a head {card.head}, which is not a linear layer with probabilities: a network cannot "
            f"begin with it. {fit_a_linear_head()}"
        )
    head_class = OneVsRestHead if multilabel else LinearHead
    fits_features = isinstance(linear, head_class) and linear.coef_.shape[1] == backbone.dim
    known_classes = len(linear.classes_) if multilabel else 1 + np.max(linear.classes_)
    fits_classes = known_classes == len(classes) if multilabel else known_classes <= len(classes)
    if not (fits_features and fits_classes):
        raise RunError(
            f"{folder} is damaged: its head does not map {backbone.dim} features to {len(classes)} classes. Fit it "
            "again."
        )
    return layer(linear, len(classes))


def _label_count(multilabel: bool) -> str:
    return "several labels" if multilabel else "one label"


def _check_same_features(folder: Path, card: ModelCard, spec: ExtractSpec, classes: tuple[str, ...]) -> None:
    """Raise RunError for a head that was fitted on other features, or for other classes."""
    fitted, current = ({**spec.view.newer, **each.flat()} for each in (card.spec, spec))
    preprocessing = [name for name in spec.view.field_names() if name not in _NO_PREPROCESSING]
    pairs = {
        "backbone": (fitted["backbone"], current["backbone"]),
        "weights": (fitted["weights_sha256"][:12], current["weights_sha256"][:12]),
        **{name: (fitted.get(name), current.get(name)) for name in preprocessing},
        "classes": (", ".join(card.classes), ", ".join(classes)),
    }
    differing = [f"{name}={old}, here {new}" for name, (old, new) in pairs.items() if old != new]
    if differing:
        raise RunError(
            f"{folder} was fitted with {'; '.join(differing)}. Use the same network and data, or fit a head on a cache "
            "of these."
        )


def check_same_split(folder: Path, loader: SampleLoader) -> None:
    """Raise RunError unless the readable val images are those that the head was evaluated on.

    The head may have been fitted on the others. Val images that it was not evaluated on are read: unreadable ones are
    allowed to be missing.
    """
    samples = loader.manifest.samples
    head_val = {prediction.image for prediction in read_predictions(folder)}
    rows = [int(row) for row in samples.rows("val")]
    missing = sorted(head_val - {samples.ids[row] for row in rows})
    other_rows = [row for row in rows if samples.ids[row] not in head_val]
    extra = [samples.ids[row] for batch in loader.batches(other_rows, [0], 1) for row in batch.rows]
    if missing or extra:
        parts = (
            [f"{len(extra)} of the val samples here are not in the head's val (for example {extra[0]})"]
            if extra
            else []
        )
        if missing:
            parts.append(f"{len(missing)} of the head's val samples are not in val here (for example {missing[0]})")
        raise RunError(
            f"{folder} was fitted on another split: {'; '.join(parts)}. If it was fitted on samples of val, its "
            "accuracy on val means nothing. Give the --val-fraction and --split-seed of its cache, or fit a head on a "
            "cache of this split."
        )


def reinitialize_after(
    body: nn.Module, stage: str, stages: list[str], name: str, draw: Callable[[], nn.Module]
) -> None:
    """Give all stages after this one the random weights that `--init scratch` draws with this seed, in place.

    name : of the network. draw : gives the network with random weights. Raises RunError if there is no such stage,
    BackboneError if the network cannot be built.
    """
    if stage not in stages:
        raise RunError(
            f"--reuse-until {stage}: {name} has the stages {', '.join(stages)}. Give the last one to keep, or "
            "--init scratch to keep none."
        )
    last_kept, random = stages.index(stage), draw().state_dict()
    stage_number, state = stage_of(body, stages), body.state_dict()
    if {key: value.shape for key, value in random.items()} != {key: value.shape for key, value in state.items()}:
        raise BackboneError(f"this network is not the {name} that featcache builds: drop --reuse-until")
    body.load_state_dict({key: random[key] if stage_number[key] > last_kept else value for key, value in state.items()})


def _check_random_stages_train(strategy: FineTuneStrategy, stages: list[str]) -> None:
    """Raise RunError if stages with random weights would be frozen."""
    random_stages = len(stages) - 1 - stages.index(str(strategy.reuse_until))
    if 0 < strategy.unfreeze < random_stages:
        raise RunError(
            f"--reuse-until {strategy.reuse_until} leaves {random_stages} stages with random weights, and "
            f"--unfreeze {strategy.unfreeze} would freeze some of them: unfreeze {random_stages} or more"
        )
