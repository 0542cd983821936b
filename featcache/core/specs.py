"""`ExtractSpec`: everything that decides the value of a feature. `view_specs` has what decides the views of a modality.

Two caches with equal digests hold equal features, up to rounding. Device, batch size, workers, versions, host and date
cannot change a feature; they are provenance and not part of the spec.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

from featcache._utils.formatting import split_names
from featcache.core.view_specs.base import Augment as Augment
from featcache.core.view_specs.base import SampleView, check_choice
from featcache.core.view_specs.image import AUGMENTS as AUGMENTS
from featcache.core.view_specs.image import CACHED_AUGMENT as CACHED_AUGMENT
from featcache.core.view_specs.image import LIVE_AUGMENT as LIVE_AUGMENT
from featcache.core.view_specs.image import Interpolation as Interpolation
from featcache.core.view_specs.image import ViewSpec as ViewSpec
from featcache.core.view_specs.registry import VIEW_SPECS
from featcache.core.view_specs.text import TEXT_AUGMENT as TEXT_AUGMENT
from featcache.core.view_specs.text import TEXT_AUGMENTS as TEXT_AUGMENTS
from featcache.core.view_specs.text import TextPooling as TextPooling
from featcache.core.view_specs.text import TextSpec as TextSpec
from featcache.errors import SpecError

V = TypeVar("V", bound=SampleView)

Precision = Literal["fp32", "bf16", "fp16"]
StorageDtype = Literal["float16", "float32"]
EngineName = Literal["auto", "pytorch", "compiled", "openvino"]
UseViews = Literal["all", "mean", "clean", "cycle"]
Scaling = Literal["standard", "l2"]
Thresholds = Literal["f1"] | float | Mapping[str, float]

STORAGE_FIELDS = frozenset({"views", "val_views", "layers", "dtype"})
"""Fields of a spec that decide how many features are stored, and how; they change no feature."""
AUGMENTED_FIELDS = frozenset({"augment", "seed"})
"""Fields of a spec that decide augmented views alone; they change no clean view."""

PENULTIMATE = "penultimate"
EMBEDDED = "efficientnet_lite0"
EMBEDDED_TEXT = "all-minilm-l6-v2"
"""The text encoder that needs no download: the extra "text" installs its weights."""
MAX_PIXELS = 178_956_970
"""Default limit of an image's pixels: twice Pillow's warning limit, a quarter of a gigabyte of RGB on each side of the
decoder."""
ARRAYS = "arrays"
"""Backbone of caches that were made from arrays; a colon and a name may follow."""


def cached_augment(augment: Augment | None, views: int, modality: str = "image") -> Augment:
    """The recipe that the spec of a cache holds.

    Parameters
    ----------
    augment : str or None
        What the user names. None: the default of the modality. Without views the recipe decides nothing, and is the one
        that older versions wrote, so that equal caches have equal digests.
    views : int
        K, the number of augmented views.
    modality : str, default "image"
        What the samples are.
    """
    recipes = VIEW_SPECS.get(modality).recipes
    return augment or (recipes.cached if views else recipes.clean)


def live_augment(augment: Augment | None, modality: str = "image") -> Augment:
    """The recipe of the views of live training: what the user names, else the default of the modality."""
    return augment or VIEW_SPECS.get(modality).recipes.live


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


@dataclass(frozen=True)
class ExtractSpec:
    """Everything that decides the value of a feature.

    Parameters
    ----------
    backbone : str
        Name of the network.
    weights_sha256 : str
        SHA-256 of its weights, 64 hex digits.
    view : SampleView
        How samples become views, and the input of the network, such as a `ViewSpec` of images.
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
    view: SampleView
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
        check_choice("precision", self.precision, Precision)
        check_choice("dtype", self.dtype, StorageDtype)
        if not all(self.layers) or not self.layers or len(set(self.layers)) < len(self.layers):
            raise SpecError(f"layers is {list(self.layers)}; name each once, for example {PENULTIMATE}")

    @property
    def modality(self) -> str:
        """What the samples are, such as "image" or "text"."""
        return self.view.modality

    def view_of(self, kind: type[V]) -> V:
        """`view` of features of the modality of `kind`, such as `ViewSpec`. Raises SpecError for those of others.

        Parameters
        ----------
        kind : type
            A subclass of `SampleView`.
        """
        if not isinstance(self.view, kind):
            raise SpecError(f"this works on {kind.modality}s only, and these are features of {self.modality}s")
        return self.view

    @property
    def image_view(self) -> ViewSpec:
        """`view` of features of images. Raises SpecError for those of other samples."""
        return self.view_of(ViewSpec)

    @property
    def text_view(self) -> TextSpec:
        """`view` of features of texts. Raises SpecError for those of other samples."""
        return self.view_of(TextSpec)

    def flat(self) -> dict[str, Any]:
        """All fields by name, with those of the view spec, as JSON values; without newer fields at their default.

        A spec of other samples than images has the modality, too. One of images has none, as in versions without texts.
        """
        fields = json.loads(json.dumps(dataclasses.asdict(self)))
        fields = {**fields.pop("view"), **fields, "modality": self.modality}
        newer = _newer(self.view)
        return {name: value for name, value in fields.items() if name not in newer or value != newer[name]}

    def to_json(self) -> str:
        """Canonical JSON: the text whose SHA-256 is the digest."""
        return json.dumps(self.flat(), sort_keys=True, separators=(",", ":"))

    @classmethod
    def from_json(cls, text: str) -> ExtractSpec:
        """The reverse of `to_json`. Raises SpecError if the text is not a spec.

        Parameters
        ----------
        text : str
            What `to_json` returned.
        """
        try:
            fields = dict(json.loads(text))
            kind = VIEW_SPECS.get(str(fields.pop("modality", ViewSpec.modality)))
            names = [name for name in kind.field_names() if name in fields or name not in kind.newer]
            view = kind(**{name: fields.pop(name) for name in names})
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

        Parameters
        ----------
        other : ExtractSpec
            The spec to compare with.
        """
        first, second = ({**_newer(spec.view), **spec.flat()} for spec in (self, other))
        names = [name for name in {**first, **second} if name != "augment" or (self.views and other.views)]
        return [(name, first.get(name), second.get(name)) for name in names if first.get(name) != second.get(name)]


def _newer(view: SampleView) -> dict[str, Any]:
    """Fields of a spec that are left out at these values, so that older caches keep their digest."""
    return {"modality": ViewSpec.modality, "val_views": 0, **view.newer}
