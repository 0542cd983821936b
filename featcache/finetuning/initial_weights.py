"""`build_initial_model`: the weights that a fine-tuning begins with, and which of them learn, as its plan says."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from featcache.backbones.backbone import Backbone
from featcache.backbones.stages import find_stages, stage_of
from featcache.core.model_card import ModelCard
from featcache.core.model_folder import locate
from featcache.core.specs import PENULTIMATE, ExtractSpec
from featcache.errors import BackboneError, RunError
from featcache.finetuning.freezing import freeze, freeze_batchnorm_statistics, parameter_groups
from featcache.finetuning.strategy import FineTuneStrategy
from featcache.heads.imagenet import imagenet_head, is_imagenet
from featcache.heads.io import load_head
from featcache.heads.linear import LinearHead
from featcache.heads.linear_layer import FIT_ONE, LinearWeights, as_linear, layer
from featcache.heads.one_vs_rest import OneVsRestHead
from featcache.metrics.predictions import read_predictions
from featcache.training.loop import TrainConfig, linear_layer
from featcache.training.network import BackboneWithHead
from featcache.vision.loader import ViewLoader

_PREPROCESSING = ("image_size", "resize_size", "interpolation", "mean", "std", "value_range")


@dataclass(frozen=True)
class InitialModel:
    """What a run begins with.

    module : a `BackboneWithHead`, or the head alone; on the device. groups : of its parameters, with rates; None is one
    rate. head : where a fitted one comes from. plan : what it was made by. config : what a resumed run has in common.
    """

    module: nn.Module
    groups: list[dict[str, Any]] | None
    head: str | None
    plan: FineTuneStrategy
    config: dict[str, Any]

    def weights(self) -> dict[str, Tensor]:
        """A copy of the weights as they are now."""
        return {name: value.detach().clone() for name, value in self.module.state_dict().items()}


def build_initial_model(
    backbone: Backbone,
    spec: ExtractSpec,
    loader: ViewLoader,
    mode: Literal["all", "head"],
    plan: FineTuneStrategy,
    recipe: TrainConfig,
) -> InitialModel:
    """Put the network together. Raises RunError, HeadError, BackboneError where it cannot be what the plan says."""
    classes, config = loader.manifest.samples.classes, plan.config()
    head = linear_layer(backbone.dim, len(classes), spec.view.seed)
    if plan.init_head is not None:
        fitted = read_layer(plan.init_head, backbone, spec, classes, loader.manifest.samples.multilabel)
        if not is_imagenet(plan.init_head):
            check_same_split(Path(plan.init_head), loader)
        with torch.no_grad():
            head.weight.copy_(torch.from_numpy(fitted.weight))
            head.bias.copy_(torch.from_numpy(fitted.bias))
        config["init_head"] = hashlib.sha256(fitted.weight.tobytes() + fitted.bias.tobytes()).hexdigest()
    if mode == "head":
        return InitialModel(head.to(backbone.device), None, plan.init_head, plan, config)
    network, groups = BackboneWithHead(backbone.trainable_module(), head), None
    stages: list[str] = []
    if plan.needs_stages:
        stages = find_stages(backbone.module, spec.view.image_size)
        if not stages:
            raise RunError(f"{backbone.name} has no stages, which {plan.needs_stages} counts: drop it")
    if plan.reuse_until is not None:
        reinitialize_after(network.body, plan.reuse_until, stages, backbone.name, spec.view.seed, spec.view.image_size)
        _refuse_frozen_noise(plan, stages)
    network.to(backbone.device)
    if plan.unfreeze:
        freeze(network, stages, plan.unfreeze)
    if plan.batchnorm == "eval":
        kept = len(stages) if plan.reuse_until is None else 1 + stages.index(plan.reuse_until)
        freeze_batchnorm_statistics(network, stages, kept)
    if plan.layer_decay != 1:
        groups = parameter_groups(network, stages, recipe.lr, plan.layer_decay)
    return InitialModel(network, groups, plan.init_head, plan, config)


def read_layer(
    head: str, backbone: Backbone, spec: ExtractSpec, classes: tuple[str, ...], several: bool = False
) -> LinearWeights:
    """A folder of `fit_head`, or ImageNet's rows, as the last layer of this network, a scaling before it folded in.

    several : whether images have several labels.

    Raises
    ------
    RunError : a head of another network, other classes, or one that is no linear layer. HeadError, BackboneError
    """
    if is_imagenet(head):
        if several:
            raise RunError(f"{head} gives one label an image, and images here have several: leave out --init-head")
        weights: dict[str, Any] = {"weights": backbone.weights, "weights_sha256": backbone.weights_sha256}
        return layer(
            imagenet_head(head, classes, backbone=backbone.name, image_size=spec.view.image_size, **weights),
            len(classes),
        )
    folder = Path(head)
    card = ModelCard.read(folder)
    if card.kind != "head":
        raise RunError(
            f"{folder} holds a network that was trained whole; --init-head takes a folder of `featcache fit-head -o`, "
            "whose network stayed as it was."
        )
    if card.multilabel != several:
        raise RunError(
            f"{folder} gives {_number(card.multilabel)} an image, and the images here have {_number(several)}. Fit a "
            "head on a cache of this data."
        )
    if card.layer != PENULTIMATE:
        raise RunError(
            f"{folder} was fitted on the layer {card.layer}; a network's own head works on the {PENULTIMATE} one. Fit "
            "it without --layer."
        )
    _refuse_others(folder, card, spec, classes)
    estimator = load_head(locate(folder, card.file))
    folded = as_linear(estimator)
    if folded is None:
        raise RunError(
            f"{folder} holds a head {card.head}, which is no linear layer with probabilities: a network cannot begin "
            f"with it. {FIT_ONE}"
        )
    kind = OneVsRestHead if several else LinearHead
    fits = isinstance(folded, kind) and folded.coef_.shape[1] == backbone.dim
    wrong = len(folded.classes_) != len(classes) if several else np.max(folded.classes_) >= len(classes)
    if not fits or wrong:
        raise RunError(
            f"{folder} is damaged: its head does not judge {backbone.dim} features to be one of {len(classes)} "
            "classes. Fit it again."
        )
    return layer(folded, len(classes))


def _number(several: bool) -> str:
    return "several labels" if several else "one label"


def _refuse_others(folder: Path, card: ModelCard, spec: ExtractSpec, classes: tuple[str, ...]) -> None:
    """A head that was fitted on what this network does not give, or for other classes."""
    there, here = ({"value_range": None, **one.flat()} for one in (card.spec, spec))
    wanted = {
        "backbone": (there["backbone"], here["backbone"]),
        "weights": (there["weights_sha256"][:12], here["weights_sha256"][:12]),
        **{name: (there[name], here[name]) for name in _PREPROCESSING},
        "classes": (", ".join(card.classes), ", ".join(classes)),
    }
    differing = [f"{name}={found}, here {asked}" for name, (found, asked) in wanted.items() if found != asked]
    if differing:
        raise RunError(
            f"{folder} was fitted with {'; '.join(differing)}. Ask for its network and data, or fit a head on a cache "
            "of this one."
        )


def check_same_split(folder: Path, loader: ViewLoader) -> None:
    """Raise RunError where the readable val images are not those that the head was evaluated on.

    It may have learnt from the others: they would say nothing of it. Those that it did not see are read, to know
    whether they can be.
    """
    samples = loader.manifest.samples
    theirs = {one.image for one in read_predictions(folder)}
    rows = [int(row) for row in samples.rows("val")]
    ours = {samples.ids[row] for row in rows}
    gone = sorted(theirs - ours)
    unknown = [row for row in rows if samples.ids[row] not in theirs]
    learnt = [samples.ids[row] for batch in loader.batches(unknown, [0], 1) for row in batch.rows]
    if gone or learnt:
        parts = (
            [f"{len(learnt)} of the val images here were not in its own (for example {learnt[0]})"] if learnt else []
        )
        parts += [f"{len(gone)} of its own are not in val here (for example {gone[0]})"] if gone else []
        raise RunError(
            f"{folder} was fitted on another split: {'; '.join(parts)}. It may have learnt from images of val, whose "
            "accuracy would then say nothing. Give the --val-fraction and --split-seed that its cache was extracted "
            "with, or fit a head on a cache of this split."
        )


def reinitialize_after(
    body: nn.Module, stage: str, stages: list[str], name: str, seed: int, image_size: int | None = None
) -> None:
    """Give what lies behind a stage the random weights that `--init scratch` draws with this seed, in place.

    name : of the network. Raises RunError where there is no such stage, BackboneError where it cannot be built anew.
    """
    from featcache.backbones.sources.registry import build

    if stage not in stages:
        raise RunError(
            f"--reuse-until {stage}: {name} has the stages {', '.join(stages)}. Name the last one to keep, or start "
            "with none of them: --init scratch."
        )
    kept, drawn = stages.index(stage), build(name, "none", seed, image_size).module.state_dict()
    number, state = stage_of(body, stages), body.state_dict()
    if {key: value.shape for key, value in drawn.items()} != {key: value.shape for key, value in state.items()}:
        raise BackboneError(f"this network is not the {name} that can be built anew: leave out --reuse-until")
    body.load_state_dict({key: drawn[key] if number[key] > kept else value for key, value in state.items()})


def _refuse_frozen_noise(plan: FineTuneStrategy, stages: list[str]) -> None:
    random = len(stages) - 1 - stages.index(str(plan.reuse_until))
    if 0 < plan.unfreeze < random:
        raise RunError(
            f"--reuse-until {plan.reuse_until} leaves {random} stages with random weights, of which --unfreeze "
            f"{plan.unfreeze} would freeze some: unfreeze {random} or more"
        )
