"""`imagenet_head`: rows of the classifier of a pretrained network as a head, for classes of ImageNet."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import logsumexp

from featcache._utils.telemetry import decline_usage_data
from featcache.core.specs import PENULTIMATE, is_arrays, no_network
from featcache.errors import HeadError
from featcache.heads.linear import LinearHead

PREFIX = "imagenet:"
"""The start of the name of such a head."""

_CLASSES = 1000
_GAP_IMAGES = 1000
"""Most images for the mean in `_log_sum_gap`."""


def is_imagenet(head: object) -> bool:
    """Whether a head is named imagenet:CLASS,..."""
    return isinstance(head, str) and head.startswith(PREFIX)


def imagenet_head(
    name: str,
    classes: tuple[str, ...],
    *,
    backbone: str,
    weights: str,
    weights_sha256: str,
    layer: str = PENULTIMATE,
    features: NDArray[Any] | None = None,
    image_size: int | None = None,
) -> LinearHead:
    """A linear head of the rows of the pretrained classifier for the classes of the data.

    Classes that are not named stand together for all m other classes of ImageNet. The logit of "one of the others",
    the logarithm of the sum of their exponentials, is not linear. They get the mean row of the others, and an offset
    with which the mean of the logit over the images is exact; without images it is log(m), its least value (Jensen's
    inequality).

    Parameters
    ----------
    name : str
        See `choose_classes`.
    classes : tuple of str
        The classes of the data, sorted.
    backbone, weights : str
        See `load_backbone`.
    weights_sha256 : str
        Digest of the weights that the features come from, without the classifier.
    layer : str
        The layer of the features; it must be "penultimate".
    features : ndarray, shape (n, d), optional
        Clean features of training images; they need no labels.
    image_size : int, optional
        The image size of the network.

    Returns
    -------
    LinearHead

    Raises
    ------
    HeadError
        The name does not fit the classes, or the weights have no linear classifier for the 1000 classes of ImageNet.
    BackboneError
        The weights cannot be loaded.
    """
    from featcache.backbones.sources.registry import build, linear_classifiers, pretrained_state
    from featcache.backbones.weights.load import sha256_of

    if is_arrays(backbone):
        raise HeadError(f"{name} takes rows of a network's classifier, and {no_network(backbone)}.")
    indices = choose_classes(name, classes)
    if layer != PENULTIMATE:
        raise HeadError(f"ImageNet's classifier works on the penultimate layer, not on {layer}. Drop --layer.")
    if weights == "none":
        raise HeadError(f"{backbone} has random weights, which were not trained on ImageNet. Use pretrained ones.")
    network = build(backbone, weights, 0, image_size).module
    source = f"{backbone} with {weights} weights" if weights == "pretrained" else weights
    if sha256_of(network.state_dict()) != weights_sha256:
        raise HeadError(f"{source} are not the weights that the features come from. Extract again from these.")
    layers = linear_classifiers(backbone)
    if len(layers) != 1:
        raise HeadError(
            f"{backbone} has {'two classifiers' if layers else 'no linear classifier'}: its rows cannot be taken. "
            "Choose another network, or fit a head."
        )
    state = pretrained_state(backbone, weights)
    weight, bias = (state.get(f"{layers[0]}.{kind}") for kind in ("weight", "bias"))
    n_rows = 0 if weight is None else len(weight)
    if weight is None or n_rows != _CLASSES:
        raise HeadError(
            f"{source} has {f'a classifier of {n_rows} classes, not' if n_rows else 'no classifier'} of ImageNet's "
            f"{_CLASSES}. Use weights trained on those, or fit a head."
        )
    rows = weight.double().numpy()
    offsets = np.zeros(_CLASSES) if bias is None else bias.double().numpy()
    others = np.setdiff1d(np.arange(_CLASSES), list(indices.values()))
    gap = _log_sum_gap(features, rows[others], offsets[others]) - np.log(max(1, len(classes) - len(indices)))
    other_row, other_offset = rows[others].mean(axis=0), offsets[others].mean() + gap
    coef = np.array([rows[indices[name]] if name in indices else other_row for name in classes])
    intercept = np.array([offsets[indices[name]] if name in indices else other_offset for name in classes])
    return LinearHead.from_weights(coef, intercept, np.arange(len(classes)))


def _log_sum_gap(features: NDArray[Any] | None, rows: NDArray[np.float64], offsets: NDArray[np.float64]) -> float:
    """The logarithm of the sum of the exponentials of m logits minus their mean, averaged over images."""
    if features is None or not len(features):
        return float(np.log(len(rows)))
    sample = np.asarray(features[:: -(-len(features) // _GAP_IMAGES)], np.float64)
    logits = sample @ rows.T + offsets
    return float(np.mean(logsumexp(logits, axis=1) - logits.mean(axis=1)))


def choose_classes(name: str, classes: Sequence[str]) -> dict[str, int]:
    """Indices of classes of ImageNet, 0 to 999, for classes of the data.

    Parameters
    ----------
    name : str
        "imagenet:ant,bee" has one class of ImageNet for each class of the data, in their sorted order.
        "imagenet:ants=ant,bees=bee" names the classes of the data, and need not name all. A class of ImageNet is a name
        (see `find_class`) or an index. "imagenet:hotdog" stands for the class of this name if ImageNet has none of the
        others ("hotdog", "not hotdog").
    classes : sequence of str
        The classes of the data, sorted.

    Returns
    -------
    dict of str to int

    Raises
    ------
    HeadError
        The name does not fit the classes, or ImageNet has no such class.
    """
    parts = [part.strip() for part in name.removeprefix(PREFIX).split(",") if part.strip()]
    pairs = [(left.strip(), right.strip()) for left, sign, right in (part.rpartition("=") for part in parts) if sign]
    if not pairs:
        if 0 < len(parts) < len(classes) and (matched := _match_names(parts, classes)):
            return matched
        if len(parts) != len(classes):
            numbers = [f"{part} is ImageNet's {class_name(find_class(part))}" for part in parts if part.isdigit()]
            raise HeadError(
                f"{name} names {len(parts)} classes, the data has {len(classes)}: {', '.join(classes)}. "
                f"{'; '.join(numbers)}{'. ' if numbers else ''}Name one of "
                f"ImageNet's for each, in this order, or those that it has as {PREFIX}{classes[0]}=NAME."
            )
        pairs = list(zip(classes, parts, strict=True))
    elif len(pairs) != len(parts):
        raise HeadError(f"{name} mixes NAME and CLASS=NAME: write all in one way")
    indices: dict[str, int] = {}
    for class_, imagenet_class in pairs:
        if class_ not in classes or class_ in indices:
            problem = "twice" if class_ in indices else "which the data does not have"
            raise HeadError(f"{name} names {class_!r} {problem}; its classes are {', '.join(classes)}")
        index = find_class(imagenet_class)
        if index in indices.values():
            raise HeadError(f"{name} gives two classes ImageNet's {index} ({class_name(index)}): they would be equal")
        indices[class_] = index
    return indices


def describe_choice(name: str, classes: Sequence[str]) -> list[str]:
    """A line that names the class of ImageNet for each class of the data, and a warning for each that looks wrong."""
    indices = choose_classes(name, classes)
    rest = [class_ for class_ in classes if class_ not in indices]
    parts = [f"{class_} is {index} ({class_name(index)})" for class_, index in indices.items()]
    if rest:
        parts.append(f"{', '.join(rest)} {'is' if len(rest) == 1 else 'are'} all {_CLASSES - len(indices)} others")
    lines = [f"ImageNet's classes: {'; '.join(parts)}"]
    for class_, index in indices.items():
        by_name = _index_of(class_)
        if by_name not in (None, index):
            lines.append(
                f"careful: {class_} is {index} ({class_name(index)}), but ImageNet's {class_name(by_name or 0)} is "
                f"{by_name} in torchvision. Indices differ between libraries; write {PREFIX}{class_}={by_name}."
            )
    return lines


def _match_names(names: Sequence[str], classes: Sequence[str]) -> dict[str, int]:
    """The classes with these names, if each name has one, and ImageNet none of the other classes; else nothing."""
    indices = {class_: index for class_ in classes if (index := _index_of(class_)) is not None}
    requested = [find_class(name) for name in names]
    return indices if sorted(requested) == sorted(indices.values()) else {}


def _index_of(name: str) -> int | None:
    """The index of the class of ImageNet with this name; None if there is none, or several."""
    try:
        return None if name.isdigit() else find_class(name)
    except HeadError:
        return None


def find_class(name: str) -> int:
    """The index of a class by one of its names in ImageNet or WordNet ("hotdog", "hot dog"), or by the index itself.

    Case, spaces, hyphens and underscores are ignored. If no class has the name, its singular and plural are tried.

    Raises
    ------
    HeadError
        No class has the name, or several have it.
    """
    if name.isascii() and name.isdigit():
        if int(name) < _CLASSES:
            return int(name)
        raise HeadError(f"ImageNet's classes are 0 to {_CLASSES - 1}, not {name}")
    table, key = _table(), _key(name)
    indices = table.get(key) or frozenset().union(*(table.get(other, frozenset()) for other in _other_numbers(key)))
    if len(indices) == 1:
        return next(iter(indices))
    if indices:
        options = ", ".join(f"{index} ({class_name(index)}: {'; '.join(_names()[index])})" for index in sorted(indices))
        raise HeadError(f"ImageNet has several classes {name!r}: give the index of one, {options}")
    by_key = {_key(name): name for names in _names() for name in names}
    close = [by_key[match] for match in difflib.get_close_matches(key, by_key, 5, 0.6)]
    hint = f"Close are {', '.join(close)}." if close else "Give another name, or an index."
    raise HeadError(f"ImageNet has no class {name!r}. {hint}")


def class_name(index: int) -> str:
    """The name of a class in torchvision."""
    return _names()[index][0]


@cache
def _names() -> tuple[tuple[str, ...], ...]:
    """The names of each class: that of torchvision, then the synonyms of WordNet."""
    decline_usage_data()
    from timm.data import ImageNetInfo
    from torchvision.models import ResNet18_Weights

    info = ImageNetInfo()
    return tuple(
        tuple(dict.fromkeys([name, *info.index_to_description(index, detailed=False).split(", ")]))
        for index, name in enumerate(ResNet18_Weights.DEFAULT.meta["categories"])
    )


@cache
def _table() -> dict[str, frozenset[int]]:
    indices: dict[str, frozenset[int]] = {}
    for index, names in enumerate(_names()):
        for name in names:
            indices[_key(name)] = indices.get(_key(name), frozenset()) | {index}
    return indices


def _key(name: str) -> str:
    return "".join(letter for letter in name.casefold() if letter.isalnum())


def _other_numbers(key: str) -> list[str]:
    """Plurals of a name, and singulars."""
    singular_endings = (("s", ""), ("es", ""), ("ies", "y"))
    singulars = [key[: -len(plural)] + singular for plural, singular in singular_endings if key.endswith(plural)]
    return [f"{key}s", f"{key}es", *singulars]
