"""Exported files of images: pixels, and a program that reads photos."""

from __future__ import annotations

from pathlib import Path
from textwrap import indent
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from featcache.core.bit_depth import format_range
from featcache.core.model_card import ModelCard
from featcache.models.export.inputs.base import Check
from featcache.models.export.inputs.registry import EXPORT_INPUTS
from featcache.models.export.program import label_code
from featcache.vision.augment import make_views
from featcache.vision.image_files import write_png

if TYPE_CHECKING:
    from torch import Tensor, nn

    from featcache.models.export.registry import ExampleCode
    from featcache.models.load import SavedModel

_PROGRAM = '''"""Print the classes of photos. Give the paths of the photos as arguments.

{mark}. It needs the exported file in the same folder, and no featcache.
"""

import sys
from pathlib import Path

import numpy as np
{imports}

CLASSES = {classes}
{thresholds}BATCH = {batch}  # photos at once
MODEL = Path(__file__).with_name({file!r})


def load(photo):
    """The middle of a photo, upright, prepared as for training: RGB, uint8, shape ({size}, {size}, 3)."""
    formats = ("BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP")  # no EPS: Pillow would run it as a program
    image = ImageOps.exif_transpose(Image.open(photo, formats=formats))
{deep}    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    image = image.convert("RGB")
    short = min(image.size)
    width, height = ({resize} * side // short for side in image.size)
    image = image.resize((width, height), Image.Resampling.{interpolation})
    left, top = round((width - {size}) / 2), round((height - {size}) / 2)
    return np.asarray(image.crop((left, top, left + {size}, top + {size})))


paths = sys.argv[1:] or sys.exit(__doc__)
{start}for first in range(0, len(paths), BATCH):
    photos = paths[first : first + BATCH]
    pixels = np.stack([load(photo) for photo in photos])
{run}    for photo, row in zip(photos, {rows}):
{show}
'''
_DEEP = """    if image.mode.startswith(("I", "F")):  # more than 8 bits: {low:.15g} becomes black, {high:.15g} white
        values = (np.asarray(image, np.float64) - {low!r}) * 255 / {width!r}
        image = Image.fromarray(np.rint(values.clip(0, 255)).astype(np.uint8))
"""


class ImageInput:
    """Exported files of images; see `ExportInput`. Mean and deviation of the pixels are part of the graph."""

    names: tuple[str, ...] = ("pixels",)
    dynamic_axes: tuple[dict[int, str], ...] = ({0: "batch"},)
    imports = "from PIL import Image, ImageOps"
    sample = "photo.jpg"

    def features(self, saved: SavedModel, /) -> tuple[nn.Module, tuple[Tensor, ...]]:
        """See `ExportInput`. The example is two black images."""
        import torch

        size = saved.card.spec.image_view.image_size
        return saved.backbone.feature_extractor, (torch.zeros(2, size, size, 3, dtype=torch.uint8),)

    def layers(self, saved: SavedModel, /) -> tuple[str, ...]:
        """See `ExportInput`."""
        return saved.backbone.feature_extractor.layers

    def metadata(self, card: ModelCard, /) -> dict[str, str]:
        """See `ExportInput`."""
        view = card.spec.image_view
        return {
            "pixels": (
                f"RGB, uint8, (b, {view.image_size}, {view.image_size}, 3); mean and deviation are part of the graph, "
                f"the middle of each picture, its short side resized to {view.resize_size} ({view.interpolation}, "
                "antialiased)"
            ),
            "resize_size": str(view.resize_size),
            "image_size": str(view.image_size),
            "interpolation": view.interpolation,
        }

    def companions(self, path: Path, /) -> list[Path]:
        """See `ExportInput`: none."""
        return []

    def write_companions(self, saved: SavedModel, path: Path, /) -> None:
        """See `ExportInput`."""

    def check(self, saved: SavedModel, folder: Path, /) -> Check:
        """See `ExportInput`: four images of noise."""
        view = saved.card.spec.image_view
        images = noise_images(view.resize_size)  # resizing does not change them, whichever library does it
        views = np.concatenate([make_views(image, view, b"", [0]) for image in images])
        paths = [folder / f"{number}.png" for number in range(len(images))]
        for path, image in zip(paths, images, strict=True):
            write_png(image, path)
        features = np.concatenate([*saved.backbone.embed_layers(views).values()], axis=1)
        return Check([f"{folder.name}/{path.name}" for path in paths], features.astype(np.float64))

    def program(self, saved: SavedModel, file_name: str, code: ExampleCode, /) -> str:
        """See `ExportInput`. It prepares photos as featcache does."""
        view = saved.card.spec.image_view
        low, high = view.value_range or (0.0, 0.0)
        return _PROGRAM.format(
            imports=code.imports,
            file=file_name,
            deep=_DEEP.format(low=low, high=high, width=high - low) if view.value_range else "",
            resize=view.resize_size,
            size=view.image_size,
            interpolation=view.interpolation.upper(),
            start=code.load,
            run=indent(code.predict, 4 * " "),
            rows=code.probabilities,
            **label_code(saved.card, "photo"),
        )

    def notes(self, card: ModelCard, /) -> list[str]:
        """See `ExportInput`."""
        view, notes = card.spec.image_view, []
        if view.value_range:
            notes.append(
                "the program scales grey images of more than 8 bits by the range "
                f"{format_range(view.value_range)}, as featcache does; of 16-bit colours it takes the upper byte"
            )
        if view.decode_side:
            notes.append(
                "the program decodes photos in full, featcache at a part of their size (decode_side "
                f"{view.decode_side})"
            )
        return notes


def noise_images(side: int) -> NDArray[np.uint8]:
    """Four images of noise, shape (4, side, side, 3), as smooth as photos."""
    cells = 14
    grid = np.random.default_rng(0).integers(0, 256, (4, cells, cells, 3), dtype=np.uint8)
    cell_of_pixel = np.arange(side) * cells // side
    return grid[:, cell_of_pixel[:, None], cell_of_pixel]


EXPORT_INPUTS.register("image", ImageInput())
