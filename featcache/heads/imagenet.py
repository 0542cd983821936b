"""Classes that ImageNet knows: their rows of a pretrained network's own classifier are a head without any training."""

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
"""What the name of such a head begins with."""

_CLASSES = 1000
_GAP_IMAGES = 1000


def is_imagenet(head: object) -> bool:
    """Whether it names a head of ImageNet's rows."""
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
    """The rows of the pretrained classifier for the user's classes.

    Classes that are not named stand together for all other m classes of ImageNet. The logit of "one of the others", the
    logarithm of the sum of their exponentials, is not linear: they get the mean row of the others, and an offset that
    makes its mean over the images right; without images log(m), the least that it can be (Jensen's inequality).

    Parameters
    ----------
    name : see `choose_classes`. classes : the user's, sorted.
    features : clean features of training images, (n, d), which need no labels.
    backbone, weights : as given to `load_backbone`. weights_sha256 : of the network without its classifier.
    image_size : that it was built for.

    Raises
    ------
    HeadError : the classes cannot be told, or the weights have no linear classifier of ImageNet's 1000.
    BackboneError : weights that cannot be had.
    """
    from featcache.backbones.sources.registry import build, linear_classifiers, pretrained_state
    from featcache.backbones.weights.load import sha256_of

    if is_arrays(backbone):
        raise HeadError(f"{name} takes rows of a network's classifier, and {no_network(backbone)}.")
    chosen = choose_classes(name, classes)
    if layer != PENULTIMATE:
        raise HeadError(f"ImageNet's classifier works on the penultimate layer, not on {layer}. Drop --layer.")
    if weights == "none":
        raise HeadError(f"{backbone} has random weights, which know nothing of ImageNet. Use pretrained ones.")
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
    found = 0 if weight is None else len(weight)
    if weight is None or found != _CLASSES:
        raise HeadError(
            f"{source} has {f'a classifier of {found} classes, not' if found else 'no classifier'} of ImageNet's "
            f"{_CLASSES}. Use weights trained on those, or fit a head."
        )
    rows = weight.double().numpy()
    offsets = np.zeros(_CLASSES) if bias is None else bias.double().numpy()
    others = np.setdiff1d(np.arange(_CLASSES), list(chosen.values()))
    share = _log_sum_gap(features, rows[others], offsets[others]) - np.log(max(1, len(classes) - len(chosen)))
    coef = np.array([rows[chosen[one]] if one in chosen else rows[others].mean(axis=0) for one in classes])
    intercept = np.array([offsets[chosen[one]] if one in chosen else offsets[others].mean() + share for one in classes])
    return LinearHead.from_weights(coef, intercept, np.arange(len(classes)))


def _log_sum_gap(features: NDArray[Any] | None, rows: NDArray[np.float64], offsets: NDArray[np.float64]) -> float:
    """How far the logarithm of the summed exponentials of m logits lies above their mean, on the mean over images."""
    if features is None or not len(features):
        return float(np.log(len(rows)))
    some = np.asarray(features[:: -(-len(features) // _GAP_IMAGES)], np.float64)
    logits = some @ rows.T + offsets
    return float(np.mean(logsumexp(logits, axis=1) - logits.mean(axis=1)))


def choose_classes(name: str, classes: Sequence[str]) -> dict[str, int]:
    """The index in ImageNet's 1000 of the user's classes.

    Parameters
    ----------
    name : "imagenet:ant,bee", one for each class in their sorted order; or "imagenet:ants=ant,bees=bee", where classes
        may be left out. ImageNet's stand there by name (see `find_class`) or by index, from 0. "imagenet:hotdog" alone
        is taken for the class that has this name, where ImageNet has none of the others ("hotdog", "not hotdog").

    Raises
    ------
    HeadError
    """
    parts = [part.strip() for part in name.removeprefix(PREFIX).split(",") if part.strip()]
    pairs = [(own.strip(), known.strip()) for own, equals, known in (one.rpartition("=") for one in parts) if equals]
    if not pairs:
        if 0 < len(parts) < len(classes) and (matched := _match_names(parts, classes)):
            return matched
        if len(parts) != len(classes):
            numbers = [f"{part} is ImageNet's {class_name(find_class(part))}" for part in parts if part.isdigit()]
            raise HeadError(
                f"{name} names {len(parts)} classes, the data has {len(classes)}: {', '.join(classes)}. "
                f"{'; '.join(numbers)}{'. ' if numbers else ''}Name one of "
                f"ImageNet's for each, in this order, or those that it knows as {PREFIX}{classes[0]}=NAME."
            )
        pairs = list(zip(classes, parts, strict=True))
    elif len(pairs) != len(parts):
        raise HeadError(f"{name} mixes NAME and CLASS=NAME: write all in one way")
    chosen: dict[str, int] = {}
    for own, known in pairs:
        if own not in classes or own in chosen:
            what = "twice" if own in chosen else "which the data does not have"
            raise HeadError(f"{name} names {own!r} {what}; its classes are {', '.join(classes)}")
        index = find_class(known)
        if index in chosen.values():
            raise HeadError(f"{name} gives two classes ImageNet's {index} ({class_name(index)}): they would be equal")
        chosen[own] = index
    return chosen


def describe_choice(name: str, classes: Sequence[str]) -> list[str]:
    """Which class of ImageNet each of the user's got, a line for people, and a warning for each that looks wrong."""
    chosen = choose_classes(name, classes)
    rest = [one for one in classes if one not in chosen]
    parts = [f"{own} is {index} ({class_name(index)})" for own, index in chosen.items()]
    if rest:
        parts.append(f"{', '.join(rest)} {'is' if len(rest) == 1 else 'are'} all {_CLASSES - len(chosen)} others")
    lines = [f"ImageNet's classes: {'; '.join(parts)}"]
    for own, index in chosen.items():
        known = _index_of(own)
        if known not in (None, index):
            lines.append(
                f"careful: {own} got {index} ({class_name(index)}), but ImageNet's {class_name(known or 0)} is {known} "
                f"here. Numbers differ between libraries; write {PREFIX}{own}={known}."
            )
    return lines


def _match_names(names: Sequence[str], classes: Sequence[str]) -> dict[str, int]:
    """The classes that bear these names, where each has one and ImageNet knows none of the others; else nothing."""
    index_of = {own: index for own in classes if (index := _index_of(own)) is not None}
    wanted = [find_class(name) for name in names]
    if sorted(wanted) != sorted(index_of.values()):
        return {}
    return index_of


def _index_of(name: str) -> int | None:
    """The index of a class that has the user's name, None where there is none, or several."""
    try:
        return None if name.isdigit() else find_class(name)
    except HeadError:
        return None


def find_class(name: str) -> int:
    """The index of a class by one of its names in ImageNet or WordNet ("hotdog", "hot dog"), or by the index itself.

    Case, spaces, hyphens and underscores do not count, nor whether it is one or many where no class has the very name.

    Raises
    ------
    HeadError : no class has the name, or several have.
    """
    if name.isascii() and name.isdigit():
        if int(name) < _CLASSES:
            return int(name)
        raise HeadError(f"ImageNet's classes are 0 to {_CLASSES - 1}, not {name}")
    table, key = _table(), _key(name)
    found = table.get(key) or frozenset().union(*(table.get(other, frozenset()) for other in _other_numbers(key)))
    if len(found) == 1:
        return next(iter(found))
    if found:
        options = ", ".join(f"{index} ({class_name(index)}: {'; '.join(_names()[index])})" for index in sorted(found))
        raise HeadError(f"ImageNet has several classes {name!r}: give the index of one, {options}")
    spelt = {_key(one): one for names in _names() for one in names}
    close = [spelt[one] for one in difflib.get_close_matches(key, spelt, 5, 0.6)]
    hint = f"Close are {', '.join(close)}." if close else "Give another name, or an index."
    raise HeadError(f"ImageNet has no class {name!r}. {hint}")


def class_name(index: int) -> str:
    """What torchvision calls a class."""
    return _names()[index][0]


@cache
def _names() -> tuple[tuple[str, ...], ...]:
    """Of each class torchvision's name and WordNet's synonyms, in the order of the 1000 WordNet ids."""
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
    found: dict[str, frozenset[int]] = {}
    for index, names in enumerate(_names()):
        for name in names:
            found[_key(name)] = found.get(_key(name), frozenset()) | {index}
    return found


def _key(name: str) -> str:
    return "".join(letter for letter in name.casefold() if letter.isalnum())


def _other_numbers(key: str) -> list[str]:
    """One for many, many for one."""
    found = [f"{key}s", f"{key}es"]
    found += [
        key[: -len(ending)] + one for ending, one in (("s", ""), ("es", ""), ("ies", "y")) if key.endswith(ending)
    ]
    return found
