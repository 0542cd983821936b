"""`activation_maps`: which places of an image a linear head decides by.

The features of a head are pooled over the places of feature maps, and each pool f is homogeneous: f(t * map) equals
t * f(map) for t > 0. By Euler's theorem f(map) is the sum over all places of map * df/dmap. So a logit is exactly the
sum of what the places contribute, plus a constant. For means this is the class activation map of Zhou et al. (2016,
"Learning deep features for discriminative localization"); maxima, standard deviations and grids of earlier layers are
included.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from featcache._utils.formatting import brief, split_names
from featcache._utils.regular_files import read_regular
from featcache.backbones.pooling import pool, prefix_tokens
from featcache.backbones.stages import channels_last, extent
from featcache.core.layer_names import parse_layer
from featcache.core.model_card import ModelCard
from featcache.core.specs import PENULTIMATE
from featcache.errors import HeadError
from featcache.heads.linear_layer import LinearWeights, as_linear, layer
from featcache.models.inputs.base import SampleFile
from featcache.models.inputs.registry import inputs_of
from featcache.models.load import SavedModel, open_model

_MOST_SQUARES = 14  # a side
_LARGEST_ERROR = 1e-3  # of the sum of all places
_RTOL, _ATOL = 1e-3, 1e-4  # by which features equal the mean of a map


@dataclass(frozen=True)
class ActivationMap:
    """What the places of an image contribute to the logit of a class.

    Attributes
    ----------
    path : str
        The file; "" for an image in memory.
    label : str
        The class.
    probability : float
        Of the class.
    pixels : ndarray, shape (s, s, 3), uint8
        What the network sees.
    maps : dict of str to ndarray, shape (h, w)
        Contributions by layer, float64. Positive places speak for the class.
    constant : float
        What no place contributes: the intercept, and features without places, such as class tokens.
    logit : float
        Of the class, minus the mean logit of all classes; with several labels the logit of the label. It is the sum of
        all maps and the constant.
    """

    path: str
    label: str
    probability: float
    pixels: NDArray[np.uint8]
    maps: Mapping[str, NDArray[np.float64]]
    constant: float
    logit: float

    @property
    def heat(self) -> NDArray[np.float64]:
        """All contributions together, shape (s, s), interpolated to the pixels.

        Fine maps are averaged over 14 x 14 squares first: a maximum is a single place, which nobody would see.
        """
        side = len(self.pixels)
        total = torch.zeros(side, side, dtype=torch.float64)
        for one in self.maps.values():
            density = torch.from_numpy(one * one.size / side**2)[None, None]
            if max(one.shape) > _MOST_SQUARES:
                density = nn.functional.adaptive_avg_pool2d(density, _MOST_SQUARES)
            total += nn.functional.interpolate(density, (side, side), mode="bilinear", align_corners=False)[0, 0]
        return total.numpy()


def activation_maps(
    model: str | os.PathLike[str],
    images: Any,
    *,
    label: str | None = None,
    weights: str | None = None,
    device: str = "auto",
    backbone: Any = None,
) -> list[ActivationMap]:
    """Which places of images a head, or the last layer of a fine-tuned network, decides by.

    Parameters
    ----------
    model : path
        A folder that `fit_head` or `finetune` wrote, with a linear head: "auto", "linear", "ridge", "lda", "centroid".
    images : one or several images
        See `Classifier.stream`. An unreadable image is an error.
    label : str, optional
        The class to explain. Default: the most probable one of each image.
    weights, device, backbone
        See `Classifier.load`.

    Returns
    -------
    list of ActivationMap

    Raises
    ------
    HeadError
        The head is not linear, is for texts, or uses no features with places; or there is no such class.
    BackboneError
        The network cannot be loaded.
    UnreadableImageError
        An image cannot be read.

    Examples
    --------
    >>> from featcache import extract, fit_head
    >>> from featcache.models.activation_maps import activation_maps
    >>> cache = extract("photos", "why.h5", backbone="timm/test_resnet", weights="none", image_size=96, views=0)
    >>> fitted = fit_head("why.h5", "why-head", head="ridge", layer="last")
    >>> found = activation_maps("why-head", "photos/ants")[0]
    >>> total = sum(one.sum() for one in found.maps.values()) + found.constant
    >>> bool(abs(total - found.logit) < 1e-4)
    True
    """
    card = ModelCard.read(Path(model))
    if card.spec.modality != "image":
        raise HeadError(f"{model} is for {card.spec.modality}s, whose features have no places in an image")
    if label is not None and label not in card.classes:
        raise HeadError(f"{model} has no class {label!r}; it has {brief(list(card.classes))}")
    saved = open_model(model, weights=weights, device=device, precision="fp32", lazy=False, backbone=backbone)
    weight, bias = _linear_layer(saved, str(model))
    inputs = inputs_of(card.spec)
    prepare = inputs.prepare_for(saved.backbone)
    found = []
    for image in inputs.each(images):
        path, content = _content(image)
        (pixels,) = np.asarray(prepare(content)((0,)).views)
        found.append(_explain(saved, weight, bias, path, pixels, label))
    return found


def _content(image: Any) -> tuple[str, Any]:
    """The path of an image, and its bytes, or the image itself if it is in memory."""
    if isinstance(image, (str, os.PathLike)):
        return os.fspath(image), read_regular(os.fspath(image))
    return (image.name, image.read()) if isinstance(image, SampleFile) else ("", image)


def _linear_layer(saved: SavedModel, name: str) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Weights (c, d) and biases (c,) of the logits; of classes that exclude each other minus the mean logit."""
    if saved.card.kind == "network":
        head = saved.model.head
        weights = LinearWeights(*(values.detach().double().cpu().numpy() for values in (head.weight, head.bias)))
    else:
        linear = as_linear(saved.model)
        if linear is None:
            raise HeadError(
                f"{name} is a {saved.card.head} head, and only the logits of linear heads are sums over places: fit "
                "auto, linear, ridge, lda or centroid"
            )
        weights = layer(linear, len(saved.card.classes))
    weight, bias = weights
    if saved.card.multilabel:
        return weight, bias
    seen = weights.depends_on_input  # train may lack classes
    return weight - weight[seen].mean(axis=0), bias - bias[seen].mean()


def _explain(
    saved: SavedModel,
    weight: NDArray[np.float64],
    bias: NDArray[np.float64],
    path: str,
    pixels: NDArray[np.uint8],
    label: str | None,
) -> ActivationMap:
    card = saved.card
    features, outputs = _record(saved, pixels)
    logits = weight @ np.concatenate([*features.values()]).astype(np.float64) + bias
    index = int(logits.argmax()) if label is None else card.classes.index(label)
    odds = 1 / (1 + np.exp(-logits)) if card.multilabel else np.exp(logits - logits.max())
    probability = odds[index] if card.multilabel else odds[index] / odds.sum()
    maps, constant, start = {}, float(bias[index]), 0
    for name, values in features.items():
        part, start = weight[index, start : start + len(values)], start + len(values)
        kind = "" if name == PENULTIMATE else parse_layer(name)[1]
        if name in outputs and kind != "cls":
            maps[name], rest = _locate(outputs[name], kind, part)
            constant += rest
        else:
            constant += float(part @ values)
    if not maps:
        raise HeadError(
            f"this head uses features without places ({', '.join(features)}), so that no place can be named: fit it on "
            "layers with maps (`extract --layers stages`)"
        )
    total = constant + sum(float(one.sum()) for one in maps.values())
    if abs(total - logits[index]) > _LARGEST_ERROR * (1 + np.abs(logits).max()):
        raise HeadError(
            f"the features of {card.spec.backbone} are no pooled maps of its modules: the places add up to "
            f"{total:.4g}, and the logit is {logits[index]:.4g}"
        )
    return ActivationMap(path, card.classes[index], float(probability), pixels, maps, constant, float(logits[index]))


def _locate(output: Tensor, kind: str, weight: NDArray[np.float64]) -> tuple[NDArray[np.float64], float]:
    """What each place (h, w) of the output of a module contributes, and its class tokens together."""
    values = output.detach().double().requires_grad_()
    with torch.enable_grad():
        pooled = pool(values, kind)[0]
        (gradient,) = torch.autograd.grad(pooled @ torch.from_numpy(weight).to(pooled), values)
    product = (values.detach() * gradient.nan_to_num())[0]  # the deviation of a constant channel has no gradient
    if output.ndim == 3:
        tokens = product.sum(dim=1).cpu().numpy()
        patches = tokens[prefix_tokens(output) :]
        side = int(len(patches) ** 0.5)
        return patches.reshape(side, side), float(tokens.sum() - patches.sum())
    return product.sum(dim=2 if channels_last(output) else 0).cpu().numpy(), 0.0


def _record(saved: SavedModel, pixels: NDArray[np.uint8]) -> tuple[dict[str, NDArray[np.float32]], dict[str, Tensor]]:
    """The features (d,) of each layer of the head, and the outputs that they are pooled from, where there are some."""
    extractor = saved.backbone.feature_extractor
    network: nn.Module = saved.model.body if saved.card.kind == "network" else extractor.network
    names = split_names(saved.card.layer)
    modules = [name for name, _ in network.named_modules() if name]
    outputs: dict[str, Tensor] = {}
    with torch.inference_mode(), extractor.exact("fp32"), _recording(network, modules, outputs):
        penultimate = network(extractor.normalise(pixels[None]))
    features: dict[str, Tensor] = {}
    sources: dict[str, Tensor] = {}
    for name in names:
        if name == PENULTIMATE:
            features[name] = penultimate
            source = next((one for one in reversed(outputs.values()) if _has_mean(one, penultimate)), None)
        else:
            module, kind = parse_layer(name)
            features[name] = pool(outputs[module], kind)
            source = outputs[module] if outputs[module].ndim > 2 else None
        if source is not None:
            sources[name] = source
    return {name: values[0].float().cpu().numpy() for name, values in features.items()}, sources


def _has_mean(output: Tensor, features: Tensor) -> bool:
    """Whether features are the mean of the places of an output, of which there are several."""
    if output.ndim not in (3, 4) or extent(output)[1] == (1, 1):
        return False
    mean = pool(output, "")
    return mean.shape == features.shape and torch.allclose(mean, features, _RTOL, _ATOL)


@contextmanager
def _recording(network: nn.Module, names: Sequence[str], outputs: dict[str, Tensor]) -> Iterator[None]:
    """Keep the outputs of modules, in the order in which they finish."""

    def make_hook(name: str) -> Callable[[nn.Module, Any, Any], None]:
        def hook(_module: nn.Module, _inputs: Any, output: Any) -> None:
            if isinstance(output, Tensor):
                outputs.pop(name, None)
                outputs[name] = output.clone()  # later layers may change it in place

        return hook

    handles = [network.get_submodule(name).register_forward_hook(make_hook(name)) for name in names]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
