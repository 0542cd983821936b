"""`Prepare`: turns a sample into the input of a network. `Classifier` calls the function of the modality."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from featcache.core.specs import ExtractSpec, ViewSpec
from featcache.vision.augment import make_views
from featcache.vision.decode import decode_for
from featcache.vision.image_remarks import Decoded
from featcache.vision.memory_images import check_picture


class Prepared(NamedTuple):
    """The views of a sample, and what is odd about it.

    views : shape (v, ...); of an image (v, s, s, 3), uint8. remark : empty if nothing is odd.
    """

    views: NDArray[Any]
    remark: str


MakeViews = Callable[[Sequence[int]], Prepared]
"""Makes the views of these numbers. Raises UnreadableImageError."""


class Prepare(Protocol):
    """Prepares samples of one modality."""

    def __call__(self, sample: Any, name: str = "") -> MakeViews:
        """A function that makes the views of a sample.

        Parameters
        ----------
        sample : bytes or an object of the modality, such as an array
            The content of a file is decoded when the views are made. An object is copied at once, because its owner may
            change it afterwards.
        name : str
            Of an object, for error messages.

        Raises
        ------
        UnreadableImageError
            The object has no usable content.
        DataLayoutError
            The object has another type or shape.
        """


def prepare_for(spec: ExtractSpec) -> Prepare:
    """The function that prepares samples as the features of this spec were made."""
    return prepare_images(spec.image_view)


def prepare_images(view: ViewSpec) -> Prepare:
    """A function that decodes images and makes views of them."""

    def prepare(sample: Any, name: str = "") -> MakeViews:
        if isinstance(sample, bytes):
            return lambda numbers: views_of(decode_for(sample, view), sample, numbers)
        decoded = check_picture(sample, name, value_range=view.value_range)
        return lambda numbers: views_of(decoded, decoded.pixels.data, numbers)

    def views_of(decoded: Decoded, content: bytes | memoryview, numbers: Sequence[int]) -> Prepared:
        """content : seeds the augmented views."""
        views = make_views(decoded.pixels, view, hashlib.sha256(content).digest(), numbers)
        return Prepared(np.asarray(views), decoded.remark)

    return prepare
