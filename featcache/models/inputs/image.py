"""Images that a saved model predicts: files, pictures in memory, and collections."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, TypeAlias

import numpy as np

from featcache._utils import remote
from featcache.core.bit_depth import model_range_note
from featcache.core.specs import ExtractSpec, ViewSpec
from featcache.data.file_listing import read_names
from featcache.data.modality import IMAGES
from featcache.data.sources.base import Source
from featcache.errors import DataLayoutError
from featcache.models.inputs.base import MakeViews, Prepare, Prepared, SampleFile
from featcache.models.inputs.names import check_modality, file_of_bytes, file_of_url, samples_of_name
from featcache.models.inputs.registry import INPUTS
from featcache.models.prediction import OptionalColumn
from featcache.vision.augment import make_views
from featcache.vision.decode import decode_for
from featcache.vision.image_remarks import Decoded
from featcache.vision.memory_images import Picture, check_picture, is_picture

Image: TypeAlias = str | os.PathLike[str] | Picture | SampleFile
"""One image: a path, an image in memory, or a file to be read."""


class ImageInputs:
    """Images; see `SampleInputs`."""

    modality = IMAGES
    columns: tuple[OptionalColumn, ...] = ()
    stream_has_names = True

    def __init__(self, spec: ExtractSpec, /) -> None:
        self._view = spec.image_view

    def check_source(self, source: Source, /) -> None:
        """See `SampleInputs`."""
        check_modality(source, IMAGES)

    def each(self, samples: Any, text_column: str | None = None, /) -> Iterator[Image]:
        """See `SampleInputs`.

        Parameters
        ----------
        samples : one or several images
            One of: a folder, a table (CSV, Parquet), tar files, a saved data set, a URL of any of these; or one or
            several of: paths, URLs, bytes of an image file, open binary files, Pillow images, arrays.
        text_column : str or None
            Refused: images have none.
        """
        _refuse_texts("text_column", text_column)
        if isinstance(samples, (str, os.PathLike)):
            yield from samples_of_name(samples, self)
        elif isinstance(samples, (bytes, bytearray, memoryview, SampleFile)) or is_picture(samples):
            yield _single_image(samples)
        elif _is_file(samples):
            yield _image_of_open_file(samples)
        elif isinstance(samples, Iterable):
            yield from map(_single_image, samples)
        else:
            raise DataLayoutError(
                f"images is of type {type(samples).__name__}; give paths, URLs, bytes, open files, Pillow images or "
                "arrays."
            )

    def of_strings(self, texts: Sequence[str], /) -> list[SampleFile]:
        """See `SampleInputs`."""
        _refuse_texts("--text", texts or None)
        return []

    def read_stream(self, stream: Any, end: bytes = b"\n", text_column: str | None = None, /) -> Iterator[str]:
        """See `SampleInputs`: names of files."""
        _refuse_texts("text_column", text_column)
        return read_names(stream, end)

    def prepare_for(self, encoder: Any, /) -> Prepare:
        """See `SampleInputs`: it decodes images and makes views of them."""
        return prepare_images(self._view)

    def describe(self) -> str:
        """See `SampleInputs`."""
        return f"images of {self._view.image_size} px"

    def remark_hint(self) -> str:
        """See `SampleInputs`."""
        return model_range_note(self._view.value_range)

    def missing_hint(self, name: str, /) -> str:
        """See `SampleInputs`."""
        return ""


def prepare_images(view: ViewSpec) -> Prepare:
    """A function that decodes images and makes views of them."""

    def prepare(sample: Any, name: str = "") -> MakeViews:
        if isinstance(sample, bytes):
            return lambda numbers: views_of(decode_for(sample, view), sample, numbers)
        decoded = check_picture(sample, name, value_range=view.value_range)
        return lambda numbers: views_of(decoded, decoded.pixels.data, numbers)

    def views_of(decoded: Decoded, content: bytes | memoryview, numbers: Sequence[int]) -> Prepared:
        """content : seeds the augmented views."""
        digest = hashlib.sha256(content).digest()
        return Prepared(np.asarray(make_views(decoded.pixels, view, digest, numbers)), decoded.remark, digest)

    return prepare


def _refuse_texts(option: str, value: Any) -> None:
    """Raise DataLayoutError for an option of texts that is given."""
    if value is not None:
        raise DataLayoutError(f"{option} is for models of texts, and this model predicts images. Leave it out.")


def _is_file(image: Any) -> bool:
    return hasattr(image, "read")


def _single_image(image: Any) -> Image:
    """One image. A path or URL always means one image here."""
    if isinstance(image, (str, os.PathLike)) and remote.is_url(image):
        return file_of_url(image)
    if isinstance(image, (bytes, bytearray, memoryview)):
        return file_of_bytes(image)
    if _is_file(image) and not isinstance(image, SampleFile) and not is_picture(image):
        return _image_of_open_file(image)
    memory_image: Image = image
    return memory_image


def _image_of_open_file(file: Any) -> SampleFile:
    """Read an open file at once: the caller may close it afterwards."""
    content, name = file.read(), getattr(file, "name", "")
    if not isinstance(content, bytes):
        raise DataLayoutError(f"{name or file!r} is open as text; open image files with open(PATH, 'rb').")
    return SampleFile(name if isinstance(name, str) else "", lambda: content)


INPUTS.register(IMAGES.name, ImageInputs)
