"""Classes that ImageNet knows: their rows of a pretrained network's own classifier are a head without any training."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from functools import cache

import numpy as np

from featcache.errors import HeadError
from featcache.linear import LinearHead
from featcache.spec import PENULTIMATE, is_arrays, no_network

PREFIX = "imagenet:"
"""What the name of such a head begins with."""

_CLASSES = 1000


def is_imagenet(head: object) -> bool:
    """Whether it names a head of ImageNet's rows."""
    return isinstance(head, str) and head.startswith(PREFIX)


def imagenet_head(
    name: str, classes: tuple[str, ...], *, backbone: str, weights: str, weights_sha256: str, layer: str = PENULTIMATE
) -> LinearHead:
    """The rows of the pretrained classifier for the user's classes; for those not named the mean of all its rows.

    Parameters
    ----------
    name : see `choose_classes`. classes : the user's, sorted.
    backbone, weights : as given to `load_backbone`. weights_sha256 : of the network without its classifier.

    Raises
    ------
    HeadError : the classes cannot be told, or the weights have no linear classifier of ImageNet's 1000.
    BackboneError : weights that cannot be had.
    """
    from featcache.architectures import build, linear_classifiers, pretrained_state
    from featcache.weights import sha256_of

    if is_arrays(backbone):
        raise HeadError(f"{name} takes rows of a network's classifier, and {no_network(backbone)}.")
    chosen = choose_classes(name, classes)
    if layer != PENULTIMATE:
        raise HeadError(f"ImageNet's classifier works on the penultimate layer, not on {layer}. Drop --layer.")
    if weights == "none":
        raise HeadError(f"{backbone} has random weights, which know nothing of ImageNet. Use pretrained ones.")
    network, _ = build(backbone, weights, 0)
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
    coef = np.array([rows[chosen[one]] if one in chosen else rows.mean(axis=0) for one in classes])
    intercept = np.array([offsets[chosen[one]] if one in chosen else offsets.mean() for one in classes])
    return LinearHead.from_weights(coef, intercept, np.arange(len(classes)))


def choose_classes(name: str, classes: Sequence[str]) -> dict[str, int]:
    """The index in ImageNet's 1000 of the user's classes.

    Parameters
    ----------
    name : "imagenet:ant,bee", one for each class in their sorted order; or "imagenet:ants=ant,bees=bee", where classes
        may be left out. ImageNet's stand there by name (see `find_class`) or by index, from 0.

    Raises
    ------
    HeadError
    """
    parts = [part.strip() for part in name.removeprefix(PREFIX).split(",") if part.strip()]
    pairs = [(own.strip(), known.strip()) for own, equals, known in (one.rpartition("=") for one in parts) if equals]
    if not pairs:
        if len(parts) != len(classes):
            raise HeadError(
                f"{name} names {len(parts)} classes, the data has {len(classes)}: {', '.join(classes)}. Name one of "
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
